// A first-in first-out queue of a few words, in lookup tables. A word that is put in is seen at the output in the next
// cycle.
module small_fifo #(
    parameter int WIDTH = 8,
    parameter int DEPTH_LOG2 = 2
) (
    input  logic             clk,
    input  logic             rst,
    input  logic             in_valid,
    output logic             in_ready,
    input  logic [WIDTH-1:0] in_data,
    output logic             out_valid,
    input  logic             out_ready,
    output logic [WIDTH-1:0] out_data
);
  logic [WIDTH-1:0] words[0:(1 << DEPTH_LOG2) - 1];
  // One bit more than a place needs: full and empty differ in it.
  logic [DEPTH_LOG2:0] put;
  logic [DEPTH_LOG2:0] take;

  assign in_ready  = put != {~take[DEPTH_LOG2], take[DEPTH_LOG2-1:0]};
  assign out_valid = put != take;
  assign out_data  = words[take[DEPTH_LOG2-1:0]];

  always_ff @(posedge clk) begin
    if (rst) begin
      put  <= '0;
      take <= '0;
    end else begin
      if (in_valid && in_ready) put <= put + 1'b1;
      if (out_valid && out_ready) take <= take + 1'b1;
    end
  end

  always_ff @(posedge clk) begin
    if (in_valid && in_ready) words[put[DEPTH_LOG2-1:0]] <= in_data;
  end
endmodule

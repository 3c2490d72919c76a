// A queue with valid and ready on both sides; what is first is seen at `out_data` at once. DEPTH is a power of two.
module stream_fifo #(
  parameter int WIDTH = 32,
  parameter int DEPTH = 8
) (
  input logic clk,
  input logic rst,
  input logic in_valid,
  output logic in_ready,
  input logic [WIDTH-1:0] in_data,
  output logic out_valid,
  input logic out_ready,
  output logic [WIDTH-1:0] out_data
);
  localparam int BITS = $clog2(DEPTH);
  logic [WIDTH-1:0] slots[DEPTH];
  logic [BITS:0] written, taken;

  assign in_ready = written - taken != (BITS + 1)'(DEPTH);
  assign out_valid = written != taken;
  assign out_data = slots[taken[BITS-1:0]];

  always_ff @(posedge clk) begin
    if (in_valid && in_ready) slots[written[BITS-1:0]] <= in_data;
    if (rst) begin
      written <= '0;
      taken <= '0;
    end else begin
      if (in_valid && in_ready) written <= written + 1'b1;
      if (out_valid && out_ready) taken <= taken + 1'b1;
    end
  end
endmodule

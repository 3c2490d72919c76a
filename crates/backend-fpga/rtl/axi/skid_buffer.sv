// A stage of registers in a stream with valid and ready: no path goes through it without a clock edge, in either
// direction. Takes and gives a word a cycle; latency 1.
module skid_buffer #(
    parameter int WIDTH = 8
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
  // What came in the cycle in which the reader stopped.
  logic [WIDTH-1:0] spare;
  logic             spare_valid;

  assign in_ready = !spare_valid;

  always_ff @(posedge clk) begin
    if (rst) begin
      out_valid   <= 1'b0;
      spare_valid <= 1'b0;
    end else if (out_ready || !out_valid) begin
      out_valid   <= spare_valid || in_valid;
      spare_valid <= 1'b0;
    end else if (in_valid) begin
      spare_valid <= 1'b1;
    end
  end

  always_ff @(posedge clk) begin
    if (out_ready || !out_valid) begin
      if (spare_valid) out_data <= spare;
      else if (in_valid) out_data <= in_data;
    end else if (in_valid && !spare_valid) begin
      spare <= in_data;
    end
  end
endmodule

// Op::Copy: beats as they are. Latency 1.
module copy_unit (
  input logic clk,
  input logic rst,
  input logic in_valid,
  input logic [511:0] in_data,
  output logic out_valid,
  output logic [511:0] out_data
);
  always_ff @(posedge clk) begin
    out_valid <= in_valid && !rst;
    if (in_valid) out_data <= in_data;
  end
endmodule

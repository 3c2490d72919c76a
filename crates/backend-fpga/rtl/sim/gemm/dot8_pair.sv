// Both twins of dot8.sv side by side, behind skew.sv, for gemm_test.cpp's sake.
module dot8_pair (
    input logic clk,
    input logic [63:0] activations,
    input logic [63:0] weights1,
    input logic [63:0] weights0,
    output logic signed [17:0] structural1,
    output logic signed [17:0] structural0,
    output logic signed [17:0] plain1,
    output logic signed [17:0] plain0
);
  logic [63:0] a, w1, w0;
  skew skew_a (.clk, .word(activations), .skewed(a));
  skew skew_w1 (.clk, .word(weights1), .skewed(w1));
  skew skew_w0 (.clk, .word(weights0), .skewed(w0));
  dot8 #(.STRUCTURAL(1'b1)) structural (.clk, .activations(a), .weights1(w1), .weights0(w0), .sum1(structural1), .sum0(structural0));
  dot8 #(.STRUCTURAL(1'b0)) plain (.clk, .activations(a), .weights1(w1), .weights0(w0), .sum1(plain1), .sum0(plain0));
endmodule

// Two dot products of 8 int8 digits in a cascade of 8 DSPs: sums of `activations` times each of two columns' weights.
//
// Operands come skewed: byte k of each word k cycles after byte 0 (skew.sv). Latency: 12 cycles from byte 0 to the sums.
// Weights are in ±127, activations may be -128: 8 * 127 * 128 < 2^17, so the low sum stays in its 18 bits, and what it
// borrowed from the high one when negative is put back.
module dot8 #(
    parameter bit STRUCTURAL = 1'b1
) (
    input logic clk,
    input logic [63:0] activations,
    input logic [63:0] weights1,
    input logic [63:0] weights0,
    output logic signed [17:0] sum1,
    output logic signed [17:0] sum0
);
  /* verilator lint_off UNUSEDSIGNAL */ // The top bits of the sums are signs; only the last p leaves the cascade.
  logic [7:0][47:0] pcout, p;
  /* verilator lint_on UNUSEDSIGNAL */

  for (genvar k = 0; k < 8; k++) begin : g_mac
    dsp_mac #(
        .STRUCTURAL(STRUCTURAL), .FIRST(k == 0)
    ) mac (
        .clk, .w1(weights1[8*k+:8]), .w0(weights0[8*k+:8]), .a(activations[8*k+:8]),
        .pcin(k == 0 ? 48'd0 : pcout[k == 0 ? 0 : k-1]), .pcout(pcout[k]), .p(p[k])
    );
  end

  always_ff @(posedge clk) begin
    sum0 <= p[7][17:0];
    sum1 <= p[7][35:18] + 18'(p[7][17]);
  end
endmodule

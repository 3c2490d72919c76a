// arith::add, a sum a cycle. Latency 4; `v` are the valid bits of the stages, as in fp_mul_lane.
module fp_add_lane (
  input logic clk,
  input logic [3:0] v,
  input logic [31:0] a,
  input logic [31:0] b,
  output logic [31:0] y
);
  fp_pkg::aligned_t aligned1;
  logic [27:0] sum2;
  fp_pkg::normal_sum_t normal3;
  logic negative2, negative3;
  logic [7:0] exponent2, exponent3;

  always_ff @(posedge clk) begin
    if (v[0]) aligned1 <= fp_pkg::fp_align(a, b);
    if (v[1]) begin
      sum2 <= fp_pkg::fp_sum(aligned1.subtract, aligned1.larger, aligned1.smaller);
      negative2 <= aligned1.negative;
      exponent2 <= aligned1.exponent;
    end
    if (v[2]) begin
      normal3 <= fp_pkg::fp_normalise_sum(sum2);
      negative3 <= negative2;
      exponent3 <= exponent2;
    end
    if (v[3]) y <= fp_pkg::fp_round_sum(negative3, exponent3, normal3);
  end
endmodule

// arith::encode, a word a cycle. Latency 3; `v` are the valid bits of the stages, as in fp_mul_lane.
module fp_encode_lane (
  input logic clk,
  input logic [2:0] v,
  input logic signed [63:0] value,
  input logic signed [15:0] exponent,
  output logic [31:0] y
);
  logic [63:0] magnitude1;
  logic signed [15:0] exponent1, exponent2;
  logic negative1, negative2;
  fp_pkg::normal_t normal2;

  always_ff @(posedge clk) begin
    if (v[0]) begin
      magnitude1 <= value < 0 ? -value : value;
      negative1 <= value < 0;
      exponent1 <= exponent;
    end
    if (v[1]) begin
      normal2 <= fp_pkg::fp_normalise(magnitude1);
      negative2 <= negative1;
      exponent2 <= exponent1;
    end
    if (v[2]) y <= fp_pkg::fp_round_normal(negative2, exponent2, normal2);
  end
endmodule

// A lane of arith::quantise: a word to its digits, a word a cycle. Latency 5; `v` are the valid bits of the stages.
// The row's exponent is used in the first stage, its reciprocal in the second.
module quantise_lane (
  input logic clk,
  input logic [4:0] v,
  input logic two,
  input logic [31:0] x,
  input logic present,
  input logic [7:0] exponent,
  input logic [25:0] reciprocal,
  output logic [7:0] high,
  output logic [7:0] low
);
  logic signed [24:0] fixed;
  logic [23:0] magnitude1;
  logic negative1, negative2, negative3;
  logic [49:0] product2, product3;
  logic [50:0] rounded;
  logic signed [15:0] q4;
  logic [14:0] target;
  assign fixed = fp_pkg::fp_fixed(x, exponent);
  assign target = two ? digit_pkg::TWO_DIGITS : digit_pkg::ONE_DIGIT;
  assign rounded = ({1'b0, product3} + (51'd1 << 33)) >> 34;

  always_ff @(posedge clk) begin
    if (v[0]) begin
      magnitude1 <= !present ? 24'd0 : 24'(fixed < 0 ? -fixed : fixed);
      negative1 <= fixed < 0;
    end
    if (v[1]) begin
      product2 <= {26'd0, magnitude1} * {24'd0, reciprocal};
      negative2 <= negative1;
    end
    if (v[2]) begin
      product3 <= product2;
      negative3 <= negative2;
    end
    if (v[3]) begin
      if (rounded > {36'd0, target}) q4 <= negative3 ? -$signed({1'b0, target}) : $signed({1'b0, target});
      else q4 <= negative3 ? -$signed({1'b0, rounded[14:0]}) : $signed({1'b0, rounded[14:0]});
    end
    if (v[4]) {high, low} <= digit_pkg::digits(q4, two);
  end
endmodule

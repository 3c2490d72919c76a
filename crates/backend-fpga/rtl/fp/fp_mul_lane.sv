// arith::multiply, a product a cycle. Latency 3: `y` at a rising edge is of what came in three before.
// `v` are the valid bits of the three stages: a stage without one keeps what it has.
module fp_mul_lane (
  input logic clk,
  input logic [2:0] v,
  input logic [31:0] a,
  input logic [31:0] b,
  output logic [31:0] y
);
  fp_pkg::fields_t x1, y1;
  logic [47:0] product2;
  logic [8:0] exponents2;
  logic negative2;

  always_ff @(posedge clk) begin
    if (v[0]) begin
      x1 <= fp_pkg::fp_decode(a);
      y1 <= fp_pkg::fp_decode(b);
    end
    if (v[1]) begin
      product2 <= {24'd0, x1.mantissa} * {24'd0, y1.mantissa};
      exponents2 <= {1'b0, x1.exponent} + {1'b0, y1.exponent};
      negative2 <= x1.negative != y1.negative;
    end
    if (v[2]) y <= fp_pkg::fp_round_product(negative2, exponents2, product2);
  end
endmodule

// Op::Rope over 16 lanes by arith::rotate: a beat of results in two cycles, of a beat of the first half and then one
// of the second. Latency 7 after the second. In a pair of beats for the results' first half the first is multiplied
// by the cosine and the second by minus the sine; for the second half, by the sine and the cosine.
module rope_unit (
  input logic clk,
  input logic rst,
  input logic in_valid,
  input logic in_second,
  input logic in_negate,
  input logic in_use_sine,
  input logic [511:0] in_x,
  input logic [511:0] in_cosine,
  input logic [511:0] in_sine,
  output logic out_valid,
  output logic [511:0] out_data
);
  logic [2:0] products, seconds, negated;
  logic [3:0] sums;
  logic sum_now;
  assign sum_now = products[2] && seconds[2];
  assign out_valid = sums[3];
  always_ff @(posedge clk) begin
    seconds <= {seconds[1:0], in_second};
    negated <= {negated[1:0], in_negate};
    if (rst) begin
      products <= '0;
      sums <= '0;
    end else begin
      products <= {products[1:0], in_valid};
      sums <= {sums[2:0], sum_now};
    end
  end

  for (genvar i = 0; i < 16; i++) begin : gen_lane
    logic [31:0] product, first;
    fp_mul_lane multiply (
      .clk, .v({products[1:0], in_valid}), .a(in_x[32*i +: 32]), .b(in_use_sine ? in_sine[32*i +: 32] : in_cosine[32*i +: 32]),
      .y(product));
    always_ff @(posedge clk) if (products[2]) first <= product;
    fp_add_lane sum (
      .clk, .v({sums[2:0], sum_now}), .a(first), .b({product[31] ^ negated[2], product[30:0]}), .y(out_data[32*i +: 32]));
  end
endmodule

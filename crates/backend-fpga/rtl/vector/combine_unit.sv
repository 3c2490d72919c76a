// Op::Combine over 16 lanes, a beat a cycle: `factor · x` (latency 3) or `y + factor · x` (latency 7), by
// arith::multiply and arith::add. `y` comes three cycles after its `x`. FLAG_PLAIN is a factor of one, as a sum takes
// words below the normal range as zeros anyway.
module combine_unit (
  input logic clk,
  input logic rst,
  input logic add,
  input logic [31:0] factor,
  input logic in_valid,
  input logic [511:0] in_x,
  input logic [511:0] in_y,
  output logic out_valid,
  output logic [511:0] out_data
);
  logic [2:0] products;
  logic [3:0] sums;
  always_ff @(posedge clk) begin
    if (rst) begin
      products <= '0;
      sums <= '0;
    end else begin
      products <= {products[1:0], in_valid};
      sums <= {sums[2:0], products[2] && add};
    end
  end
  assign out_valid = add ? sums[3] : products[2];

  logic [511:0] product, sum;
  for (genvar i = 0; i < 16; i++) begin : gen_lane
    fp_mul_lane multiply (
      .clk, .v({products[1:0], in_valid}), .a(factor), .b(in_x[32*i +: 32]), .y(product[32*i +: 32]));
    fp_add_lane sum_lane (
      .clk, .v({sums[2:0], products[2] && add}), .a(in_y[32*i +: 32]), .b(product[32*i +: 32]), .y(sum[32*i +: 32]));
  end
  assign out_data = add ? sum : product;
endmodule

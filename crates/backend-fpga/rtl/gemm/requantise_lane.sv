// arith.rs's `requantise`, a word a cycle: sum (rounded to a 256th where `wide`) times the factors of row and column, encoded,
// plus a bias word, which is 0 where there is none (the sum with +0 is the word itself).
//
// Latency: 11 cycles. `v` are the valid bits of the stages' operands: a stage without one keeps what it has.
module requantise_lane (
    input logic clk,
    input logic [10:0] v,
    input logic wide,
    input logic signed [47:0] sum,
    input logic [31:0] row,
    input logic [31:0] column,
    input logic [31:0] bias,
    output logic [31:0] word
);
  logic signed [47:0] sum_1;
  logic [31:0] factor_1, bias_1, bias_2, bias_3, bias_4, bias_5, bias_6, bias_7;
  logic signed [15:0] exponent_1, exponent_2, exponent_3, exponent_4;
  // The low 64 bits of 48 times 32 bits, of four products as DSPs have them.
  logic [63:0] ll_2, lh_2, low_3;
  logic signed [63:0] hl_2, hh_2, high_3, product_4;
  logic [31:0] encoded_7;

  always_ff @(posedge clk) begin
    if (v[0]) begin
      sum_1 <= wide ? (sum + 48'sd128) >>> 8 : sum;
      factor_1 <= 32'(row[15:0]) * 32'(column[15:0]);
      exponent_1 <= row[31:16] + column[31:16] + (wide ? 16'd8 : 16'd0);
      bias_1 <= bias;
    end
    if (v[1]) begin
      ll_2 <= 64'(sum_1[25:0]) * 64'(factor_1[16:0]);
      lh_2 <= 64'(sum_1[25:0]) * 64'(factor_1[31:17]);
      hl_2 <= 64'($signed(sum_1[47:26])) * $signed({47'd0, factor_1[16:0]});
      hh_2 <= 64'($signed(sum_1[47:26])) * $signed({49'd0, factor_1[31:17]});
      exponent_2 <= exponent_1;
      bias_2 <= bias_1;
    end
    if (v[2]) begin
      low_3 <= ll_2 + (lh_2 << 17);
      high_3 <= hl_2 + (hh_2 <<< 17);
      exponent_3 <= exponent_2;
      bias_3 <= bias_2;
    end
    if (v[3]) begin
      product_4 <= $signed(low_3) + (high_3 <<< 26);
      exponent_4 <= exponent_3;
      bias_4 <= bias_3;
    end
    if (v[4]) bias_5 <= bias_4;
    if (v[5]) bias_6 <= bias_5;
    if (v[6]) bias_7 <= bias_6;
  end

  fp_encode_lane encode (.clk, .v(v[6:4]), .value(product_4), .exponent(exponent_4), .y(encoded_7));
  fp_add_lane add (.clk, .v(v[10:7]), .a(encoded_7), .b(bias_7), .y(word));
endmodule

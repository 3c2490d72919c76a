// A lane of arith::norm, a word a cycle: `fixed1` has latency 1, `bits3` 3, and `y` 11 without and 15 with bias. `v`
// are the valid bits of the stages. The gain comes 8 cycles after its word, the bias 11.
module norm_lane (
  input logic clk,
  input logic [2:0] v,
  input logic [4:0] v_out,
  input logic [2:0] v_gain,
  input logic [3:0] v_bias,
  input logic [31:0] x,
  input logic [31:0] gain,
  input logic [31:0] bias,
  input logic has_bias,
  input logic [7:0] exponent,
  // Of 8 fractional bits.
  input logic signed [33:0] mean,
  // To 17 or 24 bits: right by so many places, or left.
  input logic [4:0] right,
  input logic [4:0] left,
  input logic signed [26:0] factor,
  input logic signed [15:0] places,
  output logic signed [24:0] fixed1,
  output logic signed [25:0] bits3,
  output logic [31:0] y
);
  logic signed [33:0] centred2, half;
  logic signed [25:0] moved;
  logic signed [51:0] product4, product5;
  logic [31:0] encoded, scaled, sum;
  // Half a unit of what remains, where anything is cut off.
  assign half = (34'sd1 <<< right) >>> 1;
  assign moved = right != 0 ? 26'((centred2 + half) >>> right) : 26'(centred2 <<< left);

  always_ff @(posedge clk) begin
    if (v[0]) fixed1 <= fp_pkg::fp_fixed(x, exponent);
    if (v[1]) centred2 <= $signed({fixed1[24], fixed1, 8'd0}) - mean;
    if (v[2]) bits3 <= moved;
    if (v_out[0]) product4 <= 52'(bits3) * 52'(factor);
    if (v_out[1]) product5 <= product4;
  end
  fp_encode_lane encode (.clk, .v(v_out[4:2]), .value(64'(product5)), .exponent(places), .y(encoded));
  fp_mul_lane multiply (.clk, .v(v_gain), .a(encoded), .b(gain), .y(scaled));
  fp_add_lane add (.clk, .v(v_bias), .a(scaled), .b(bias), .y(sum));
  assign y = has_bias ? sum : scaled;
endmodule

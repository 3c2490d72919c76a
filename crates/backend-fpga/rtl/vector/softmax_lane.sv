// A lane of arith::softmax: a score to its integer probability (`q`, latency 9) and its digits (latency 10), a score
// a cycle. `v` are the valid bits of the stages. Row constants are used in the stages in whose number they end.
module softmax_lane (
  input logic clk,
  input logic [9:0] v,
  input logic two,
  input logic [31:0] x,
  input logic off,
  input logic [7:0] exponent1,
  input logic signed [24:0] largest2,
  // No score of the row is allowed: all are the largest.
  input logic empty2,
  input logic [23:0] factor,
  // arith::below's shift, and whether it is past 50 or negative.
  input logic [5:0] shift5,
  input logic past5,
  input logic negative5,
  output logic [14:0] q,
  output logic [7:0] high,
  output logic [7:0] low
);
  localparam logic [21:0] MOST = 22'h3fffff;
  logic signed [24:0] fixed1;
  logic signed [25:0] minus2;
  logic [25:0] difference2;
  logic [49:0] product3, product4, moved;
  logic [21:0] t5;
  logic [24:0] entry6;
  logic [5:0] whole6, whole7;
  logic [7:0] rest6;
  logic [16:0] value7, fall, rounded, p8;
  logic [17:0] half;
  logic [14:0] q9;
  logic [14:0] target;
  logic off1, off2, off3, off4;

  assign minus2 = 26'(largest2) - 26'(fixed1);
  assign moved = product4 >> shift5;
  assign fall = (17'(entry6[7:0]) * 17'(rest6) + 17'd128) >> 8;
  assign half = (18'd1 << whole7[4:0]) >> 1;
  assign rounded = 17'((18'(value7) + half) >> whole7[4:0]);
  assign target = two ? digit_pkg::TWO_DIGITS : digit_pkg::ONE_DIGIT;
  assign q9 = 15'((32'(p8) * 32'(target) + 32'd32768) >> 16);

  exp2_rom powers (.clk, .enable(v[5]), .place(t5[15:8]), .entry(entry6));

  always_ff @(posedge clk) begin
    if (v[0]) begin
      fixed1 <= fp_pkg::fp_fixed(x, exponent1);
      off1 <= off;
    end
    if (v[1]) begin
      difference2 <= empty2 ? 26'd0 : minus2;
      off2 <= off1;
    end
    if (v[2]) begin
      product3 <= 50'(difference2) * 50'(factor);
      off3 <= off2;
    end
    if (v[3]) begin
      product4 <= product3;
      off4 <= off3;
    end
    if (v[4]) begin
      // Far enough below, the power is 0.
      if (off4) t5 <= MOST;
      else if (past5) t5 <= 22'd0;
      else if (negative5) t5 <= product4 != 0 ? MOST : 22'd0;
      else t5 <= moved[49:22] != 0 ? MOST : moved[21:0];
    end
    if (v[5]) begin
      whole6 <= t5[21:16];
      rest6 <= t5[7:0];
    end
    if (v[6]) begin
      value7 <= entry6[24:8] - fall;
      whole7 <= whole6;
    end
    if (v[7]) p8 <= whole7 >= 6'd18 ? 17'd0 : rounded;
    if (v[8]) q <= q9;
    if (v[9]) {high, low} <= digit_pkg::digits($signed({1'b0, q}), two);
  end
endmodule

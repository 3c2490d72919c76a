// arith::softmax over 16 lanes, a beat a cycle, of latency 10. The row's scale is known 21 cycles after its last
// digits, while the next row may be worked on.
module softmax_unit (
  input logic clk,
  input logic rst,
  input logic two,
  input logic [31:0] factor,
  input logic [15:0] weights,
  // A row's statistics, taken over with `take`.
  input logic take,
  input logic [7:0] exponent,
  input logic [31:0] largest,
  input logic any,
  // `in_before` one cycle before the row's first beat.
  input logic in_before,
  input logic in_valid,
  input logic in_last,
  input logic [511:0] in_data,
  input logic [15:0] in_present,
  input logic [15:0] in_allowed,
  output logic out_valid,
  output logic [127:0] out_high,
  output logic [127:0] out_low,
  output logic scale_valid,
  output logic [31:0] scale
);
  logic [9:0] v;
  logic [8:0] later;
  logic [9:0] ends;
  logic [3:0] begins;
  assign v = {later, in_valid};
  always_ff @(posedge clk) begin
    begins <= {begins[2:0], in_before};
    if (rst) begin
      later <= '0;
      out_valid <= 1'b0;
      ends <= '0;
    end else begin
      {out_valid, later} <= v;
      ends <= {ends[8:0], in_valid && in_last};
    end
  end

  // Row constants follow the row's first beat.
  logic [7:0] exponent0, exponent1;
  logic any0, any1, empty2;
  logic [31:0] largest0;
  logic signed [24:0] largest1, largest2;
  logic signed [9:0] shift, shift1, shift2, shift3, shift4;
  logic [5:0] shift5;
  logic past5, negative5;
  // Its sign is not looked at.
  /* verilator lint_off UNUSEDSIGNAL */
  fp_pkg::fields_t parts;
  /* verilator lint_on UNUSEDSIGNAL */
  assign parts = fp_pkg::fp_decode(factor);
  assign shift = 10'sd284 - $signed({2'd0, exponent0}) - $signed({2'd0, parts.exponent});
  always_ff @(posedge clk) begin
    if (take) begin
      exponent0 <= exponent;
      largest0 <= largest;
      any0 <= any;
    end
    if (in_before) begin
      exponent1 <= exponent0;
      largest1 <= fp_pkg::fp_fixed(largest0, exponent0);
      any1 <= any0;
      shift1 <= shift;
    end
    if (begins[0]) begin
      largest2 <= largest1;
      empty2 <= !any1;
      shift2 <= shift1;
    end
    if (begins[1]) shift3 <= shift2;
    if (begins[2]) shift4 <= shift3;
    if (begins[3]) begin
      shift5 <= shift4[5:0];
      past5 <= shift4 > 10'sd50;
      negative5 <= shift4 < 0;
    end
  end

  logic [14:0] q[16];
  for (genvar i = 0; i < 16; i++) begin : gen_lane
    softmax_lane lane (
      .clk, .v, .two, .x(in_data[32*i +: 32]), .off(!in_present[i] || !in_allowed[i] && any1), .exponent1, .largest2, .empty2,
      .factor(parts.mantissa), .shift5, .past5, .negative5, .q(q[i]), .high(out_high[8*i +: 8]), .low(out_low[8*i +: 8]));
  end

  // The row's sum: fours in the tenth stage, all in the eleventh.
  logic [16:0] fours[4];
  for (genvar i = 0; i < 4; i++) begin : gen_four
    always_ff @(posedge clk) if (v[9])
      fours[i] <= 17'(q[4*i]) + 17'(q[4*i+1]) + 17'(q[4*i+2]) + 17'(q[4*i+3]);
  end
  logic [28:0] sum, all;
  assign all = sum + 29'(fours[0]) + 29'(fours[1]) + 29'(fours[2]) + 29'(fours[3]);
  logic row_summed;
  always_ff @(posedge clk) begin
    if (rst) sum <= '0;
    else if (out_valid) sum <= ends[9] ? 29'd0 : all;
  end
  assign row_summed = out_valid && ends[9];

  // Its scale: 1 / (sum · weights). As many rows wait for it as digit_writer has places.
  typedef enum logic [2:0] {IDLE, PRODUCT, LENGTH, START, DIVIDE} state_t;
  state_t state;
  logic waiting;
  /* verilator lint_off UNUSEDSIGNAL */
  logic unused_ready;
  /* verilator lint_on UNUSEDSIGNAL */
  logic [28:0] row_sum;
  // What digit_writer holds is not more than what this takes.
  stream_fifo #(.WIDTH(29), .DEPTH(4)) sums (
    .clk, .rst, .in_valid(row_summed), .in_ready(unused_ready), .in_data(all), .out_valid(waiting), .out_ready(state == PRODUCT),
    .out_data(row_sum));
  logic [44:0] divisor;
  logic [6:0] length;
  logic [59:0] numerator;
  logic done;
  logic [14:0] quotient;
  assign numerator = (60'd1 << (length + 7'd13)) + {16'd0, divisor[44:1]};
  function automatic logic [6:0] length_of(input logic [44:0] x);
    length_of = 7'd0;
    for (int i = 0; i < 45; i++) if (x[i]) length_of = 7'(i + 1);
  endfunction
  divider #(.WIDTH(45), .BITS(15)) divide (
    .clk, .rst, .start(state == START), .upper(numerator[59:15]), .lower(numerator[14:0]), .divisor(divisor), .done, .quotient);

  always_ff @(posedge clk) begin
    if (state == PRODUCT) divisor <= 45'(row_sum) * 45'(weights);
    if (state == LENGTH) length <= length_of(divisor);
    if (done) scale <= {-16'sd13 - $signed({9'd0, length}), 1'b0, quotient};
    scale_valid <= done;
    if (rst) begin
      state <= IDLE;
    end else begin
      unique case (state)
        IDLE: if (waiting) state <= PRODUCT;
        PRODUCT: state <= LENGTH;
        LENGTH: state <= START;
        START: state <= DIVIDE;
        default: if (done) state <= IDLE;
      endcase
    end
  end
endmodule

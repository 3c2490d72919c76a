// arith::quantise over 16 lanes: rows of 16 words a beat, or with FLAG_TRANSPOSE 16 rows of a word a beat.
//
// A row's (or 16 rows') factors take 27 cycles after `known`, while the row before may still be worked on. Then a
// beat a cycle, of latency 5.
module quantise_unit (
  input logic clk,
  input logic rst,
  input logic transposed,
  input logic two,
  input logic known,
  input logic [495:0] magnitudes,
  // The factors are there; they are taken over with `take`.
  output logic ready,
  input logic take,
  output logic [511:0] scales,
  // `in_before` one cycle before the row's first beat.
  input logic in_before,
  input logic in_valid,
  input logic [511:0] in_data,
  input logic [15:0] in_present,
  output logic out_valid,
  output logic [127:0] out_high,
  output logic [127:0] out_low
);
  logic [4:0] v;
  logic [3:0] later;
  logic second;
  assign v = {later, in_valid};
  always_ff @(posedge clk) begin
    second <= in_before;
    if (rst) begin
      later <= '0;
      out_valid <= 1'b0;
      ready <= 1'b0;
    end else begin
      {out_valid, later} <= v;
      ready <= done[0] || (ready && !take);
    end
  end

  logic [15:0] done;
  logic [14:0] target;
  assign target = two ? digit_pkg::TWO_DIGITS : digit_pkg::ONE_DIGIT;

  for (genvar i = 0; i < 16; i++) begin : gen_lane
    logic [30:0] magnitude;
    logic [14:0] mantissa;
    logic [25:0] quotient;
    logic [7:0] exponent0, exponent1;
    logic [25:0] reciprocal0, reciprocal1, reciprocal2;
    assign magnitude = magnitudes[31*i +: 31];
    // 24 bits to 14 or 15, up.
    assign mantissa = 15'(({1'b0, magnitude[30:23] != 0, magnitude[22:0]} + 25'd1023) >> 10);
    // target · 2^24 / mantissa.
    divider #(.WIDTH(15), .BITS(26)) divide (
      .clk, .rst, .start(known && (i == 0 || transposed)), .upper({2'd0, target[14:2]}), .lower({target[1:0], 24'd0}),
      .divisor(mantissa), .done(done[i]), .quotient(quotient));

    always_ff @(posedge clk) begin
      if (take) begin
        exponent0 <= transposed ? magnitude[30:23] : magnitudes[30:23];
        scales[32*i +: 32] <= magnitude[30:23] == 0 ? 32'd0 : {{8'd0, magnitude[30:23]} - 16'd140, 1'b0, mantissa};
      end
      if (in_before) begin
        exponent1 <= exponent0;
        reciprocal1 <= reciprocal0;
      end
      if (second) reciprocal2 <= reciprocal1;
    end
    if (i == 0) begin : gen_first
      always_ff @(posedge clk) if (take) reciprocal0 <= quotient;
    end else begin : gen_other
      always_ff @(posedge clk) if (take) reciprocal0 <= transposed ? quotient : gen_lane[0].quotient;
    end

    quantise_lane lane (
      .clk, .v, .two, .x(in_data[32*i +: 32]), .present(in_present[i]), .exponent(exponent1), .reciprocal(reciprocal2),
      .high(out_high[8*i +: 8]), .low(out_low[8*i +: 8]));
  end
  // Lanes end together.
  /* verilator lint_off UNUSEDSIGNAL */
  logic unused;
  /* verilator lint_on UNUSEDSIGNAL */
  assign unused = &done[15:1];
endmodule

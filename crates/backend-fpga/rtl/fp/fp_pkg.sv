// Binary32 words as src/arith.rs computes with them: no infinity, no NaN, no subnormals (they are +0), to nearest
// even, held at the largest number. `decode`, `encode`, `multiply`, `add`, `fixed` there are the source of truth.
//
// Functions are combinational; those that are too long for a cycle come in parts, which the lane modules in this
// folder put registers between.
package fp_pkg;

  // A word taken apart: the value is ±mantissa · 2^(exponent − 150); zero and subnormal words are all zeros.
  typedef struct packed {
    logic negative;
    logic [7:0] exponent;
    logic [23:0] mantissa;
  } fields_t;

  function automatic fields_t fp_decode(input logic [31:0] x);
    fp_decode = x[30:23] == 0 ? 33'd0 : {x[31], x[30:23], 1'b1, x[22:0]};
  endfunction

  // A magnitude whose leading one was moved to the top, and by how many places.
  typedef struct packed {
    logic [63:0] value;
    logic [5:0] places;
  } normal_t;

  function automatic normal_t fp_normalise(input logic [63:0] magnitude);
    logic [63:0] v;
    logic [5:0] n;
    v = magnitude;
    n = 6'd0;
    if (v[63:32] == 0) begin v = v << 32; n[5] = 1'b1; end
    if (v[63:48] == 0) begin v = v << 16; n[4] = 1'b1; end
    if (v[63:56] == 0) begin v = v << 8; n[3] = 1'b1; end
    if (v[63:60] == 0) begin v = v << 4; n[2] = 1'b1; end
    if (v[63:62] == 0) begin v = v << 2; n[1] = 1'b1; end
    if (!v[63]) begin v = v << 1; n[0] = 1'b1; end
    fp_normalise = {v, n};
  endfunction

  // The word of a mantissa with its leading one at bit 23, of the biased exponent of that bit; `half` and `rest` are
  // what lies below bit 0.
  function automatic logic [31:0] fp_round(
    input logic negative, input logic signed [17:0] biased, input logic [23:0] mantissa, input logic half, input logic rest
  );
    logic [31:0] word;
    // A carry out of the mantissa goes into the exponent.
    word = {biased[8:0], mantissa[22:0]} + {31'd0, half && (rest || mantissa[0])};
    if (!mantissa[23] || biased < 18'sd1)
      fp_round = 32'd0;
    else if (biased > 18'sd254 || word[31:23] == 9'd255)
      fp_round = {negative, 31'h7f7fffff};
    else
      fp_round = {negative, word[30:0]};
  endfunction

  function automatic logic [31:0] fp_round_normal(input logic negative, input logic signed [15:0] exponent, input normal_t n);
    fp_round_normal = fp_round(negative, 18'(exponent) + 18'sd190 - $signed({12'd0, n.places}), n.value[63:40], n.value[39],
                               n.value[38:0] != 0);
  endfunction

  // arith::encode
  function automatic logic [31:0] fp_encode(input logic signed [63:0] value, input logic signed [15:0] exponent);
    fp_encode = fp_round_normal(value < 0, exponent, fp_normalise(value < 0 ? -value : value));
  endfunction

  // The word of a product of two mantissas, of the sum of their biased exponents.
  function automatic logic [31:0] fp_round_product(input logic negative, input logic [8:0] exponents,
                                                   input logic [47:0] product);
    logic signed [17:0] biased;
    biased = $signed({9'd0, exponents}) - 18'sd127;
    if (product[47])
      fp_round_product = fp_round(negative, biased + 18'sd1, product[47:24], product[23], product[22:0] != 0);
    else
      fp_round_product = fp_round(negative, biased, product[46:23], product[22], product[21:0] != 0);
  endfunction

  // arith::multiply
  function automatic logic [31:0] fp_multiply(input logic [31:0] a, input logic [31:0] b);
    fields_t x, y;
    x = fp_decode(a);
    y = fp_decode(b);
    fp_multiply = fp_round_product(x.negative != y.negative, {1'b0, x.exponent} + {1'b0, y.exponent},
                                   {24'd0, x.mantissa} * {24'd0, y.mantissa});
  endfunction

  // The first half of a sum: the larger magnitude, and the smaller brought to its exponent; three bits below, the
  // last of which is set where anything was cut off.
  typedef struct packed {
    logic negative;
    logic subtract;
    logic [7:0] exponent;
    logic [26:0] larger;
    logic [26:0] smaller;
  } aligned_t;

  function automatic aligned_t fp_align(input logic [31:0] a, input logic [31:0] b);
    fields_t x, y;
    logic swap;
    logic [7:0] difference;
    logic [53:0] moved;
    swap = b[30:0] > a[30:0];
    x = fp_decode(swap ? b : a);
    y = fp_decode(swap ? a : b);
    difference = x.exponent - y.exponent;
    moved = {y.mantissa, 30'd0} >> (difference > 8'd27 ? 5'd27 : difference[4:0]);
    fp_align = {x.negative, x.negative != y.negative, x.exponent, x.mantissa, 3'd0, moved[53:28], moved[27:0] != 0};
  endfunction

  // The second part: the sum's magnitude.
  function automatic logic [27:0] fp_sum(input logic subtract, input logic [26:0] larger, input logic [26:0] smaller);
    fp_sum = subtract ? {1'b0, larger} - {1'b0, smaller} : {1'b0, larger} + {1'b0, smaller};
  endfunction

  // The third part: the magnitude with its leading one moved to the top, and by how many places.
  typedef struct packed {
    logic [27:0] value;
    logic [4:0] places;
  } normal_sum_t;

  function automatic normal_sum_t fp_normalise_sum(input logic [27:0] sum);
    logic [27:0] v;
    logic [4:0] n;
    v = sum;
    n = 5'd0;
    if (v[27:12] == 0) begin v = v << 16; n[4] = 1'b1; end
    if (v[27:20] == 0) begin v = v << 8; n[3] = 1'b1; end
    if (v[27:24] == 0) begin v = v << 4; n[2] = 1'b1; end
    if (v[27:26] == 0) begin v = v << 2; n[1] = 1'b1; end
    if (!v[27]) begin v = v << 1; n[0] = 1'b1; end
    fp_normalise_sum = {v, n};
  endfunction

  // The last part.
  function automatic logic [31:0] fp_round_sum(input logic negative, input logic [7:0] exponent, input normal_sum_t n);
    fp_round_sum = fp_round(negative, $signed({10'd0, exponent}) + 18'sd1 - $signed({13'd0, n.places}), n.value[27:4],
                            n.value[3], n.value[2:0] != 0);
  endfunction

  // arith::add
  function automatic logic [31:0] fp_add(input logic [31:0] a, input logic [31:0] b);
    aligned_t s;
    s = fp_align(a, b);
    fp_add = fp_round_sum(s.negative, s.exponent, fp_normalise_sum(fp_sum(s.subtract, s.larger, s.smaller)));
  endfunction

  // arith::fixed: half away from zero, in units of 2^(exponent − 150), where `exponent` is not below the word's own.
  function automatic logic signed [24:0] fp_fixed(input logic [31:0] x, input logic [7:0] exponent);
    fields_t f;
    logic [7:0] difference;
    logic [24:0] moved;
    logic [23:0] magnitude;
    f = fp_decode(x);
    difference = exponent - f.exponent;
    // One bit below the unit, for rounding.
    moved = difference > 8'd24 ? 25'd0 : {f.mantissa, 1'b0} >> difference[4:0];
    magnitude = moved[24:1] + {23'd0, moved[0]};
    fp_fixed = f.negative ? -$signed({1'b0, magnitude}) : $signed({1'b0, magnitude});
  endfunction

endpackage

// arith::norm over 16 lanes. It asks for passes over the row, a beat a cycle: LayerNorm for the sum, the squares and
// the results, RMSNorm for the last two.
//
// Between passes it works on the row's numbers bit by bit. From `take` to the cycle after `done`, with n beats a row,
// RMSNorm takes 2n + 113 cycles and LayerNorm 3n + 142; the first row's first pass does not begin before the
// operation's 38th cycle.
module norm_unit (
  input logic clk,
  input logic rst,
  // The operation begins, with rows of so many words.
  input logic start,
  input logic [14:0] words,
  input logic has_bias,
  input logic [31:0] epsilon,
  // A row's statistics, taken over with `take`.
  input logic take,
  input logic [7:0] exponent,
  input logic [31:0] largest,
  input logic [31:0] smallest,
  // A pass is to begin (one cycle); it is the last.
  output logic pass,
  output logic pass_last,
  // The pass's beats.
  input logic in_valid,
  input logic in_last,
  input logic [511:0] in_data,
  // Eight and eleven cycles after a beat.
  input logic [511:0] in_gain,
  input logic [511:0] in_bias,
  output logic out_valid,
  output logic [511:0] out_data,
  // The row's last results are given out.
  output logic done
);
  typedef enum logic [3:0] {
    IDLE, FIXED, INVERSE, SUM, MEAN, CENTRED, LARGEST, LENGTH, SQUARES, MEAN_SQUARE, VARIANCE, SHIFT, ROOT, FACTOR, OUT
  } state_t;
  state_t state;

  // 2^32 / words, once an operation.
  logic inverse_done, inverse_ready, divide_done;
  logic [32:0] inverse;
  divider #(.WIDTH(15), .BITS(33)) invert (
    .clk, .rst, .start, .upper(15'd0), .lower({1'b1, 18'd0, words[14:1]}), .divisor(words), .done(inverse_done), .quotient(inverse));

  // Passes: the valid bits of the stages, and which beat is the last.
  logic [2:0] v;
  logic [4:0] v_out;
  logic [2:0] v_gain;
  logic [3:0] v_bias;
  logic [14:0] ends;
  logic is_sum, is_squares, is_out;
  logic [14:0] later;
  assign is_sum = state == SUM;
  assign is_squares = state == SQUARES;
  assign is_out = state == OUT;
  assign v = {later[1] && !is_sum, later[0] && !is_sum, in_valid};
  assign v_out = later[6:2] & {5{is_out}};
  assign v_gain = later[9:7] & {3{is_out}};
  assign v_bias = later[13:10] & {4{is_out && has_bias}};
  always_ff @(posedge clk) begin
    if (rst) begin
      later <= '0;
      ends <= '0;
    end else begin
      later <= {later[13:0], in_valid};
      ends <= {ends[13:0], in_valid && in_last};
    end
  end
  assign out_valid = is_out && (has_bias ? later[14] : later[10]);
  assign done = out_valid && (has_bias ? ends[14] : ends[10]);

  logic signed [33:0] mean;
  logic [4:0] right, left;
  logic signed [26:0] factor;
  logic signed [15:0] places;
  logic [7:0] exponent0;
  logic signed [24:0] fixed[16];
  logic signed [25:0] bits[16];
  for (genvar i = 0; i < 16; i++) begin : gen_lane
    norm_lane lane (
      .clk, .v, .v_out, .v_gain, .v_bias, .x(in_data[32*i +: 32]), .gain(in_gain[32*i +: 32]), .bias(in_bias[32*i +: 32]), .has_bias,
      .exponent(exponent0), .mean, .right, .left, .factor, .places, .fixed1(fixed[i]), .bits3(bits[i]),
      .y(out_data[32*i +: 32]));
  end

  // The sum of 16 words a beat: fours in the second stage, all in the third.
  logic signed [26:0] fours[4];
  logic signed [38:0] sum;
  // The sum of squares: squares in the fourth stage, fours in the fifth, all in the sixth. Lanes without a word must
  // not be summed: their difference to the mean is not zero.
  logic [34:0] squares[16];
  logic [36:0] square_fours[4];
  logic [48:0] square_sum;
  // Of the last beat, which lanes have a word.
  logic [15:0] present;
  assign present = words[3:0] == 0 ? 16'hffff : ~(16'hffff << words[3:0]);
  for (genvar i = 0; i < 16; i++) begin : gen_square
    always_ff @(posedge clk) if (is_squares && later[2]) squares[i] <= ends[2] && !present[i] ? 35'd0 : 35'(bits[i] * bits[i]);
  end
  for (genvar i = 0; i < 4; i++) begin : gen_four
    always_ff @(posedge clk) begin
      if (is_sum && later[0]) fours[i] <= 27'(fixed[4*i]) + 27'(fixed[4*i+1]) + 27'(fixed[4*i+2]) + 27'(fixed[4*i+3]);
      if (is_squares && later[3])
        square_fours[i] <= 37'(squares[4*i]) + 37'(squares[4*i+1]) + 37'(squares[4*i+2]) + 37'(squares[4*i+3]);
    end
  end
  always_ff @(posedge clk) begin
    if (take) begin
      sum <= '0;
      square_sum <= '0;
    end else begin
      if (is_sum && later[1]) sum <= sum + 39'(fours[0]) + 39'(fours[1]) + 39'(fours[2]) + 39'(fours[3]);
      if (is_squares && later[4])
        square_sum <= square_sum + 49'(square_fours[0]) + 49'(square_fours[1]) + 49'(square_fours[2]) + 49'(square_fours[3]);
    end
  end

  // Sums times the inverse.
  logic multiply, multiplied;
  /* verilator lint_off UNUSEDSIGNAL */
  logic [82:0] product;
  /* verilator lint_on UNUSEDSIGNAL */
  logic [48:0] sum_magnitude;
  assign sum_magnitude = state == SUM ? {10'd0, sum < 0 ? -sum : sum} : square_sum;
  multiplier #(.WIDTH(49), .BITS(34)) times_inverse (
    .clk, .rst, .start(multiply), .a(sum_magnitude), .b({1'b0, inverse}), .done(multiplied), .product);
  assign multiply = (is_sum && ends[2]) || (is_squares && ends[5]);
  // Its whole part, down.
  logic [32:0] mean_down;
  assign mean_down = product[56:24] + {32'd0, sum < 0 && product[23:0] != 0};

  // The largest difference to the mean, of which the extremes are candidates.
  logic signed [24:0] fixed_high, fixed_low;
  logic signed [34:0] centred_high, centred_low;
  logic [33:0] most;
  logic [5:0] length;
  function automatic logic [5:0] length_of(input logic [33:0] x);
    length_of = 6'd0;
    for (int i = 0; i < 34; i++) if (x[i]) length_of = 6'(i + 1);
  endfunction

  // arith::epsilon_in_units.
  /* verilator lint_off UNUSEDSIGNAL */
  fp_pkg::fields_t parts;
  /* verilator lint_on UNUSEDSIGNAL */
  logic signed [12:0] epsilon_places;
  logic [63:0] epsilon_units;
  assign parts = fp_pkg::fp_decode(epsilon);
  // (own − 150) − 2 · (length − 17 + exponent − 158) + 16
  assign epsilon_places = 13'sd216 + $signed({5'd0, parts.exponent}) - $signed({6'd0, length, 1'b0}) - $signed({4'd0, exponent0, 1'b0});
  logic [5:0] epsilon_left;
  logic [4:0] epsilon_right;
  // Where epsilon is so much the larger that it would not fit, both are smaller by an even number of places.
  /* verilator lint_off UNUSEDSIGNAL */
  logic signed [12:0] epsilon_over;
  /* verilator lint_on UNUSEDSIGNAL */
  logic [11:0] epsilon_excess, excess;
  assign epsilon_over = epsilon_places - 13'sd37;
  assign epsilon_excess = parts.mantissa == 0 || epsilon_over < 0 ? 12'd0 : {epsilon_over[11:1], 1'b0};
  assign epsilon_left = 6'(epsilon_places - $signed({1'b0, epsilon_excess}));
  assign epsilon_right = 5'(-epsilon_places);
  always_ff @(posedge clk) begin
    if (state == LENGTH || state == SQUARES) begin
      excess <= epsilon_excess;
      if (parts.mantissa == 0 || epsilon_places < -13'sd23) epsilon_units <= '0;
      else if (epsilon_places >= 0) epsilon_units <= {40'd0, parts.mantissa} << epsilon_left;
      else epsilon_units <= {40'd0, parts.mantissa} >> epsilon_right;
    end
  end

  logic [63:0] variance, variance_sum;
  assign variance_sum = (excess >= 12'd64 ? 64'd0 : {13'd0, product[66:16]} >> excess[5:0]) + epsilon_units;
  fp_pkg::normal_t normal;
  assign normal = fp_pkg::fp_normalise(variance);
  logic [63:0] radicand;
  logic [4:0] shift_half;
  logic root_start, root_done, factor_start;
  logic [31:0] root;
  square_root square_rooter (.clk, .rst, .start(root_start), .radicand, .done(root_done), .root);
  logic [25:0] quotient;
  divider #(.WIDTH(32), .BITS(26)) divide (
    .clk, .rst, .start(factor_start), .upper(32'd1 << 30), .lower(26'd0), .divisor(root), .done(divide_done), .quotient);

  always_ff @(posedge clk) begin
    if (take) begin
      exponent0 <= exponent;
      mean <= '0;
    end
    if (state == FIXED) begin
      fixed_high <= fp_pkg::fp_fixed(largest_word, exponent0);
      fixed_low <= fp_pkg::fp_fixed(smallest_word, exponent0);
    end
    if (state == MEAN && multiplied) mean <= sum < 0 ? -$signed({1'b0, mean_down}) : $signed({1'b0, mean_down});
    if (state == CENTRED) begin
      centred_high <= $signed({{2{fixed_high[24]}}, fixed_high, 8'd0}) - 35'(mean);
      centred_low <= $signed({{2{fixed_low[24]}}, fixed_low, 8'd0}) - 35'(mean);
    end
    if (state == LARGEST) most <= larger(centred_high, centred_low);
    if (state == LENGTH) length <= length_of(most);
    if (pass) begin
      right <= length > bits_wanted ? 5'(length - bits_wanted) : 5'd0;
      left <= length > bits_wanted ? 5'd0 : 5'(bits_wanted - length);
    end
    if (state == VARIANCE) variance <= variance_sum > (64'd1 << 62) ? 64'd1 << 62 : variance_sum;
    if (state == SHIFT) begin
      // By an even number of places.
      radicand <= normal.places[0] ? normal.value >> 1 : normal.value;
      shift_half <= normal.places[5:1];
    end
    if (divide_done) begin
      // A row without differences takes as long, and is zeros.
      factor <= most == 0 ? 27'sd0 : $signed({1'b0, quotient});
      places <= $signed({11'd0, shift_half}) - $signed({5'd0, excess[11:1]}) - 16'sd55;
    end
  end
  function automatic logic [33:0] larger(input logic signed [34:0] a, input logic signed [34:0] b);
    logic [34:0] c, d;
    c = a < 0 ? -a : a;
    d = b < 0 ? -b : b;
    larger = c > d ? c[33:0] : d[33:0];
  endfunction

  logic [31:0] largest_word, smallest_word;
  logic [5:0] bits_wanted;
  assign bits_wanted = pass_last ? 6'd24 : 6'd17;
  always_ff @(posedge clk) begin
    if (take) begin
      largest_word <= largest;
      smallest_word <= smallest;
    end
    root_start <= state == SHIFT;
    factor_start <= root_done;
    if (rst) begin
      state <= IDLE;
      inverse_ready <= 1'b0;
      pass <= 1'b0;
    end else begin
      inverse_ready <= inverse_done || (inverse_ready && !start);
      pass <= 1'b0;
      unique case (state)
        IDLE: if (take) state <= FIXED;
        FIXED: state <= INVERSE;
        INVERSE: if (inverse_ready) begin
          state <= has_bias ? SUM : CENTRED;
          pass <= has_bias;
          pass_last <= 1'b0;
        end
        SUM: if (multiply) state <= MEAN;
        MEAN: if (multiplied) state <= CENTRED;
        CENTRED: state <= LARGEST;
        LARGEST: state <= LENGTH;
        LENGTH: begin
          state <= SQUARES;
          pass <= 1'b1;
        end
        SQUARES: if (multiply) state <= MEAN_SQUARE;
        MEAN_SQUARE: if (multiplied) state <= VARIANCE;
        VARIANCE: state <= SHIFT;
        SHIFT: state <= ROOT;
        ROOT: if (root_done) state <= FACTOR;
        FACTOR: if (divide_done) begin
          state <= OUT;
          pass <= 1'b1;
          pass_last <= 1'b1;
        end
        default: if (done) state <= IDLE;
      endcase
    end
  end
endmodule

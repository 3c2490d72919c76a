// The vector engine: every operation but products. See src/descriptor.rs for what they do and src/arith.rs for how
// they round.
//
// row_walker asks for rows, row_reader aligns them, row_loader puts them into the row's buffer (four rows),
// row_statistics looks at what was loaded, this module lets them pass through an operation's unit, and row_writer
// writes results. Stages work on rows that follow each other.
//
// In an ideal memory (a read's first beat `latency` cycles after its request, then a beat a cycle; nothing else stalls)
// cycles are these, counted from `start`. For each unit u in turn (see row_walker; `slots` 4, `asked` 8):
//
//   for each of its requests, of n beats given out by row_reader and `extra` 1 or 0 for one that is not in one beat:
//     request = previous request + 1, at least the last of the 64th request before, and for its row (with
//       FLAG_TRANSPOSE the first of its rows) at least release[u − asked] + 1
//     first   = max(request + latency + 1 + extra, previous last + 1 + extra, ready)
//     last    = first + n − 1
//   loaded  = max(last + 2, looked)
//   ready   = loaded + 1, and at least release[u + 1 − slots] + 13
//   known   = loaded + 1; 5 for softmax and norm; 33 for quantise, 30 with FLAG_TRANSPOSE
//   take    = max(known, free)
//   looked  = take + 1
//
// and then, with b = beats of the row's words, d = ceil(words / 64), p planes:
//
//   copy, combine, activate, rope: release = take + 1 + b (rope: 2b); free = release + 1; end = release + latency of the
//     unit (1; 3 or 7; 10 or 13; 7) + 4 (+ 1 where row_writer spills over)
//   norm: done = max(take + 2, 35) + 2n + 110 (LayerNorm: 3n + 139); release = done − 13 (− 17); free = done + 1; end = done + 2
//   quantise, softmax: begin = max(take + 1, written[u − 4] + 1); release = begin + 4d; free = release + 1;
//     known scale = begin + 1 (softmax: max(release + 13, scaled) + 21, and scaled = known scale − 1);
//     written = max(release + 8 (softmax: 13), known scale, written[u − 1] + 1) + p · (d + 1) + 2; end = written + 4
//   quantise with FLAG_TRANSPOSE, of v rows: release = take + 1 + 64 + (d − 1)(72 + v · p);
//     free = take + 3 + d(72 + v · p); end = free (+ 1 where the scales spill over)
//
// `done` is given as many cycles after the last `end` as the memory takes to acknowledge, and one more.
module vector_engine (
  input logic clk,
  input logic rst,
  input logic start,
  input smolvla_pkg::descriptor_t desc,
  output logic done,
  output logic rd_req_valid,
  input logic rd_req_ready,
  output logic [63:0] rd_req_addr,
  output logic [31:0] rd_req_beats,
  input logic rd_valid,
  output logic rd_ready,
  input logic [511:0] rd_data,
  output logic wr_req_valid,
  input logic wr_req_ready,
  output logic [63:0] wr_req_addr,
  output logic [31:0] wr_req_beats,
  output logic wr_valid,
  input logic wr_ready,
  output logic [511:0] wr_data,
  output logic [63:0] wr_strb,
  input logic wr_idle
);
  logic two, transposed, is_quantise, is_norm, is_softmax, is_activate, is_rope, is_combine, is_copy, digit_rows;
  assign is_quantise = desc.op == smolvla_pkg::OP_QUANTISE;
  assign is_norm = desc.op == smolvla_pkg::OP_NORM;
  assign is_softmax = desc.op == smolvla_pkg::OP_SOFTMAX;
  assign is_activate = desc.op == smolvla_pkg::OP_ACTIVATE;
  assign is_rope = desc.op == smolvla_pkg::OP_ROPE;
  assign is_combine = desc.op == smolvla_pkg::OP_COMBINE;
  assign is_copy = desc.op == smolvla_pkg::OP_COPY;
  assign two = desc.flags[smolvla_pkg::FLAG_TWO_DIGITS];
  assign transposed = is_quantise && desc.flags[smolvla_pkg::FLAG_TRANSPOSE];
  assign digit_rows = (is_quantise || is_softmax) && !transposed;

  // Rows into the buffers.
  logic walked, cmd_valid, cmd_ready, unit_in_valid, unit_in_ready;
  logic [63:0] cmd_address, unit_in_destination, unit_in_scales;
  logic [14:0] cmd_words, cmd_segment, unit_in_words;
  logic [4:0] unit_in_lanes;
  logic [5:0] cmd_tag;
  row_walker walker (
    .clk, .rst, .start, .desc, .finished(walked), .cmd_valid, .cmd_ready, .cmd_address, .cmd_words, .cmd_segment, .cmd_tag,
    .unit_valid(unit_in_valid), .unit_ready(unit_in_ready), .unit_destination(unit_in_destination), .unit_scales(unit_in_scales),
    .unit_words(unit_in_words), .unit_lanes(unit_in_lanes));

  logic row_valid, row_ready, row_last;
  logic [511:0] row_data;
  logic [4:0] row_count;
  logic [5:0] row_tag;
  row_reader #(.TAG(6)) reader (
    .clk, .rst, .cmd_valid, .cmd_ready, .cmd_address, .cmd_words, .cmd_segment, .cmd_tag, .rd_req_valid, .rd_req_ready, .rd_req_addr,
    .rd_req_beats, .rd_valid, .rd_ready, .rd_data, .out_valid(row_valid), .out_ready(row_ready), .out_data(row_data), .out_count(row_count),
    .out_last(row_last), .out_tag(row_tag));

  logic [2:0] put;
  logic [11:0] put_address;
  logic [527:0] put_data;
  logic [15:0] put_lanes;
  logic put_first, release_unit, loaded_valid, loaded_ready;
  row_loader loader (
    .clk, .rst, .masked(is_softmax && desc.flags[smolvla_pkg::FLAG_MASK]), .in_valid(row_valid), .in_ready(row_ready), .in_data(row_data),
    .in_count(row_count), .in_last(row_last), .in_tag(row_tag), .write(put), .write_address(put_address), .write_data(put_data),
    .write_lanes(put_lanes), .write_first(put_first), .release_unit(left[11]), .loaded_valid, .loaded_ready);

  logic issue;
  logic [11:0] issue_address, second_address, third_address;
  logic second_read, third_read;
  logic [527:0] stored;
  logic [511:0] second, third;
  row_buffer #(.WIDTH(528), .DEPTH(4096)) rows (
    .clk, .write(put[0]), .write_address(put_address), .write_data(put_data), .read(issue), .read_address(issue_address),
    .read_data(stored));
  row_buffer #(.WIDTH(512), .DEPTH(4096)) seconds (
    .clk, .write(put[1]), .write_address(put_address), .write_data(put_data[511:0]), .read(second_read), .read_address(second_address),
    .read_data(second));
  row_buffer #(.WIDTH(512), .DEPTH(4096)) thirds (
    .clk, .write(put[2]), .write_address(put_address), .write_data(put_data[511:0]), .read(third_read), .read_address(third_address),
    .read_data(third));

  logic known, looked_valid, looked_taken, any;
  logic [495:0] magnitudes;
  logic [31:0] largest, smallest;
  row_statistics statistics (
    .clk, .rst, .collect(is_quantise || is_softmax || is_norm), .fold(!transposed), .beat_valid(put[0]), .beat_first(put_first),
    .beat_lanes(put_lanes), .beat_data(put_data[511:0]), .loaded_valid, .loaded_ready, .known, .out_valid(looked_valid),
    .out_ready(looked_taken), .magnitudes, .largest, .smallest, .any);

  // What is known of the units that are on their way.
  logic unit_valid;
  logic [63:0] unit_destination, unit_scales;
  logic [14:0] unit_words;
  logic [4:0] unit_lanes;
  stream_fifo #(.WIDTH(148), .DEPTH(8)) units (
    .clk, .rst, .in_valid(unit_in_valid), .in_ready(unit_in_ready),
    .in_data({unit_in_destination, unit_in_scales, unit_in_words, unit_in_lanes}),
    .out_valid(unit_valid), .out_ready(release_unit), .out_data({unit_destination, unit_scales, unit_words, unit_lanes}));

  // A unit's way through its operation.
  typedef enum logic [2:0] {WAIT, BEGIN, PASS, HOLD} state_t;
  state_t state;
  logic [1:0] slot;
  logic factors_ready, room, reserve, pass, passes, pass_last, drained, norm_done;
  logic begin_ready, digits_row_ready, word_cmd_ready, take;
  assign looked_taken = state == WAIT && looked_valid && unit_valid && (!is_quantise || factors_ready);
  assign take = looked_taken;
  // The result's place is made known.
  assign begin_ready = transposed ? 1'b1 : digit_rows ? digits_row_ready : word_cmd_ready;

  // Beats of the pass: of words, or of digits, whose rows are filled up to 64.
  logic [10:0] beats, beat;
  logic [9:0] whole_beats;
  logic [15:0] present;
  logic [9:0] rope_base, rope_half;
  logic rope_second, rope_results;
  logic issue_first, issue_last, final_pass;
  assign whole_beats = 10'(unit_words >> 4);
  assign beats = transposed ? 11'({unit_words + 15'd63} >> 6) << 6 :
                 digit_rows ? 11'((unit_words + 15'd63) >> 6) << 2 : 11'((unit_words + 15'd15) >> 4);
  // With FLAG_TRANSPOSE a beat is a word of each row.
  assign present = transposed ? (15'(beat) < unit_words ? 16'hffff : 16'd0) :
                   beat[9:0] < whole_beats || whole_beats == 0 && unit_words[14] ? 16'hffff :
                   beat == {1'b0, whole_beats} ? ~(16'hffff << unit_words[3:0]) : 16'd0;
  assign rope_half = 10'((desc.cols[14:0] + 15'd15) >> 4);

  logic rope_ends;
  logic [9:0] rope_left;
  assign issue = state == PASS && (digit_rows || transposed || room);
  assign issue_first = issue && beat == 0;
  assign rope_ends = rope_second && beat[9:0] + 10'd1 == rope_half && rope_results && rope_left == 10'd1;
  assign issue_last = issue && (is_rope ? rope_ends : beat + 11'd1 == beats);
  assign issue_address = {slot, is_rope ? rope_base + beat[9:0] + (rope_second ? rope_half : 10'd0) : beat[9:0]};
  assign final_pass = !is_norm || pass_last;
  assign release_unit = issue_last && final_pass;
  assign reserve = issue && (is_copy || is_combine || is_activate || is_rope && rope_second || is_norm && pass_last) ||
                   digits_reserve || transposer_reserve;

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= WAIT;
      slot <= 2'd0;
      passes <= 1'b0;
    end else begin
      unique case (state)
        WAIT: if (take) state <= BEGIN;
        BEGIN: if (begin_ready) state <= is_norm ? HOLD : PASS;
        PASS: begin
          if (transposed && issue && beat[5:0] == 6'd63) state <= HOLD;
          else if (issue_last) state <= is_norm ? HOLD : WAIT;
        end
        default: begin
          // A norm's next pass, or the next 64 digits of FLAG_TRANSPOSE.
          if (is_norm ? norm_done : drained && beat == 0) state <= WAIT;
          else if (is_norm ? passes : drained) state <= PASS;
        end
      endcase
      // Asked for, maybe before the result's place is made known.
      passes <= pass || (passes && state != HOLD);
      if (start) slot <= 2'd0;
      else if (release_unit) slot <= slot + 2'd1;
    end
    if (state == BEGIN) begin
      beat <= 11'd0;
      rope_base <= 10'd0;
      rope_second <= 1'b0;
      rope_results <= 1'b0;
      rope_left <= desc.depth[9:0];
    end else if (issue && !is_rope) begin
      beat <= issue_last ? 11'd0 : beat + 11'd1;
    end else if (issue) begin
      // First half and second half of a beat, for the results of the first half and then for those of the second,
      // head after head.
      rope_second <= !rope_second;
      if (rope_second) begin
        beat <= beat[9:0] + 10'd1 == rope_half ? 11'd0 : beat + 11'd1;
        if (beat[9:0] + 10'd1 == rope_half) begin
          rope_results <= !rope_results;
          if (rope_results) begin
            rope_base <= rope_base + {rope_half[8:0], 1'b0};
            rope_left <= rope_left - 10'd1;
          end
        end
      end
    end
  end

  // Two cycles later the beat is there.
  logic beat_before;
  logic [1:0] valid_later, last_later, second_later, sine_later, negate_later;
  logic [15:0] present1, present2;
  logic beat_valid, beat_last;
  assign beat_valid = valid_later[1];
  assign beat_last = last_later[1];
  always_ff @(posedge clk) begin
    present1 <= present;
    present2 <= present1;
    second_later <= {second_later[0], rope_second};
    // cos, sin for the first results; sin, cos for the second.
    sine_later <= {sine_later[0], rope_second != rope_results};
    negate_later <= {negate_later[0], rope_second && !rope_results};
    if (rst) {valid_later, beat_before, last_later} <= '0;
    else begin
      valid_later <= {valid_later[0], issue};
      beat_before <= issue_first;
      last_later <= {last_later[0], issue_last};
    end
  end

  // The unit's place is free when the slowest unit has read its other operands.
  logic [11:0] left;
  always_ff @(posedge clk) left <= rst ? '0 : {left[10:0], release_unit};

  // The other operands' beats are read so many cycles later as their unit wants them.
  logic [11:0] asked;
  logic [11:0][11:0] address_later;
  logic [3:0] second_delay;
  logic has_second;
  assign has_second = is_combine && desc.flags[smolvla_pkg::FLAG_ADD] || is_activate && desc.flags[smolvla_pkg::FLAG_MULTIPLY] || is_norm;
  assign second_delay = is_combine ? 4'd3 : is_activate ? 4'd10 : 4'd8;
  always_ff @(posedge clk) begin
    if (rst) asked <= '0;
    else asked <= {asked[10:0], issue && final_pass && has_second};
    address_later <= {address_later[10:0], is_norm ? {2'd0, beat[9:0]} : {slot, beat[9:0]}};
  end
  assign second_read = is_rope ? issue : asked[second_delay - 4'd1];
  assign third_read = is_rope ? issue : asked[10];
  assign second_address = is_rope ? {slot, beat[9:0]} : address_later[second_delay - 4'd1];
  assign third_address = is_rope ? {slot, beat[9:0]} : address_later[10];

  logic quantise_valid, softmax_valid, norm_valid, activate_valid, rope_valid, combine_valid, copy_valid;
  logic [127:0] quantise_high, quantise_low, softmax_high, softmax_low;
  logic [511:0] norm_data, activate_data, rope_data, combine_data, copy_data, scales;
  logic scale_valid;
  logic [31:0] scale;

  quantise_unit quantise (
    .clk, .rst, .transposed, .two, .known(known && is_quantise), .magnitudes, .ready(factors_ready), .take(take && is_quantise),
    .scales, .in_before(beat_before && is_quantise), .in_valid(beat_valid && is_quantise), .in_data(stored[511:0]),
    .in_present(present2), .out_valid(quantise_valid), .out_high(quantise_high), .out_low(quantise_low));
  softmax_unit softmax (
    .clk, .rst, .two, .factor(desc.immediate[0]), .weights(desc.immediate[1][15:0]), .take(take && is_softmax),
    .exponent(magnitudes[30:23]), .largest, .any, .in_before(beat_before && is_softmax), .in_valid(beat_valid && is_softmax),
    .in_last(beat_last), .in_data(stored[511:0]), .in_present(present2), .in_allowed(stored[527:512]),
    .out_valid(softmax_valid), .out_high(softmax_high), .out_low(softmax_low), .scale_valid, .scale);
  norm_unit norm (
    .clk, .rst, .start(start && is_norm), .words(desc.cols[14:0]), .has_bias(desc.flags[smolvla_pkg::FLAG_BIAS]),
    .epsilon(desc.immediate[0]), .take(take && is_norm), .exponent(magnitudes[30:23]), .largest, .smallest, .pass, .pass_last,
    .in_valid(beat_valid && is_norm), .in_last(beat_last), .in_data(stored[511:0]), .in_gain(second), .in_bias(third), .out_valid(norm_valid), .out_data(norm_data),
    .done(norm_done));
  activate_unit activate (
    .clk, .rst, .gelu(desc.flags[smolvla_pkg::FLAG_GELU]), .multiply(desc.flags[smolvla_pkg::FLAG_MULTIPLY]),
    .in_valid(beat_valid && is_activate), .in_x(stored[511:0]), .in_y(second), .out_valid(activate_valid), .out_data(activate_data));
  rope_unit rope (
    .clk, .rst, .in_valid(beat_valid && is_rope), .in_second(second_later[1]), .in_negate(negate_later[1]),
    .in_use_sine(sine_later[1]), .in_x(stored[511:0]), .in_cosine(second), .in_sine(third), .out_valid(rope_valid),
    .out_data(rope_data));
  combine_unit combine (
    .clk, .rst, .add(desc.flags[smolvla_pkg::FLAG_ADD]), .factor(desc.flags[smolvla_pkg::FLAG_PLAIN] ? 32'h3f800000 : desc.immediate[0]),
    .in_valid(beat_valid && is_combine), .in_x(stored[511:0]), .in_y(second), .out_valid(combine_valid), .out_data(combine_data));
  copy_unit copy (
    .clk, .rst, .in_valid(beat_valid && is_copy), .in_data(stored[511:0]), .out_valid(copy_valid), .out_data(copy_data));

  // Digits.
  logic digits_cmd_valid, digits_cmd_ready, digits_reserve, digits_push, digits_idle;
  logic [63:0] digits_address;
  logic [14:0] digits_words;
  logic [511:0] digits_data;
  logic [31:0] quantise_scale;
  logic quantise_scale_valid;
  // `scales` is there the cycle after it was taken.
  assign quantise_scale = scales[31:0];
  assign quantise_scale_valid = state == BEGIN && begin_ready && is_quantise && digit_rows;
  digit_writer digits (
    .clk, .rst, .two, .plane(desc.plane[0]), .row_valid(state == BEGIN && digit_rows), .row_ready(digits_row_ready),
    .row_destination(unit_destination), .row_scale(unit_scales), .row_beats(9'((unit_words + 15'd63) >> 6)),
    .in_valid(quantise_valid && !transposed || softmax_valid), .in_high(is_softmax ? softmax_high : quantise_high),
    .in_low(is_softmax ? softmax_low : quantise_low), .scale_valid(quantise_scale_valid || scale_valid),
    .scale(is_softmax ? scale : quantise_scale), .cmd_valid(digits_cmd_valid), .cmd_ready(digits_cmd_ready), .cmd_address(digits_address),
    .cmd_words(digits_words), .room, .reserve(digits_reserve), .push(digits_push), .push_data(digits_data), .idle(digits_idle));

  logic transposer_cmd_valid, transposer_cmd_ready, transposer_reserve, transposer_push;
  logic [63:0] transposer_address;
  logic [14:0] transposer_words;
  logic [511:0] transposer_data;
  // The unit is released with its last digits, while its digits are still to be written.
  logic [63:0] group_destination, group_scales;
  logic [4:0] group_rows;
  logic [4:0] ends;
  always_ff @(posedge clk) begin
    if (state == BEGIN) begin
      group_destination <= unit_destination;
      group_scales <= unit_scales;
      group_rows <= unit_lanes;
    end
    ends <= {ends[3:0], beat_last};
  end
  logic group_valid;
  always_ff @(posedge clk) group_valid <= state == BEGIN && transposed;
  digit_transposer transposer (
    .clk, .rst, .two, .pitch(desc.pitch[2]), .plane(desc.plane[0]), .group_valid, .group_destination, .group_scales, .group_rows,
    .in_valid(quantise_valid && transposed), .in_last(ends[4]), .in_high(quantise_high), .in_low(quantise_low), .scales,
    .cmd_valid(transposer_cmd_valid), .cmd_ready(transposer_cmd_ready), .cmd_address(transposer_address), .cmd_words(transposer_words),
    .room, .reserve(transposer_reserve), .push(transposer_push), .push_data(transposer_data), .drained);

  // Results.
  logic words_cmd_valid, writer_cmd_valid, writer_cmd_ready, writer_idle;
  logic [63:0] writer_address;
  logic [14:0] writer_words, writer_segment;
  assign words_cmd_valid = state == BEGIN && !digit_rows && !transposed;
  assign word_cmd_ready = writer_cmd_ready;
  assign digits_cmd_ready = writer_cmd_ready;
  assign transposer_cmd_ready = writer_cmd_ready;
  assign writer_cmd_valid = digit_rows ? digits_cmd_valid : transposed ? transposer_cmd_valid : words_cmd_valid;
  assign writer_address = digit_rows ? digits_address : transposed ? transposer_address : unit_destination;
  assign writer_words = digit_rows ? digits_words : transposed ? transposer_words : unit_words;
  assign writer_segment = is_rope ? desc.cols[14:0] : writer_words;

  /* verilator lint_off UNUSEDSIGNAL */
  logic queue_ready;
  /* verilator lint_on UNUSEDSIGNAL */
  logic result_valid, result_ready;
  logic [511:0] result, pushed;
  logic push;
  always_comb begin
    unique case (1'b1)
      digit_rows: pushed = digits_data;
      transposed: pushed = transposer_data;
      is_norm: pushed = norm_data;
      is_activate: pushed = activate_data;
      is_rope: pushed = rope_data;
      is_combine: pushed = combine_data;
      default: pushed = copy_data;
    endcase
  end
  assign push = digits_push || transposer_push || norm_valid || activate_valid || rope_valid || combine_valid || copy_valid;
  // Room is reserved when a beat starts on its way, so that units never wait.
  stream_fifo #(.WIDTH(512), .DEPTH(64)) results (
    .clk, .rst, .in_valid(push), .in_ready(queue_ready), .in_data(pushed), .out_valid(result_valid), .out_ready(result_ready),
    .out_data(result));
  logic [6:0] reserved;
  assign room = reserved < 7'd64;
  always_ff @(posedge clk) begin
    if (rst) reserved <= '0;
    else reserved <= reserved + {6'd0, reserve} - {6'd0, result_valid && result_ready};
  end

  row_writer writer (
    .clk, .rst, .cmd_valid(writer_cmd_valid), .cmd_ready(writer_cmd_ready), .cmd_address(writer_address), .cmd_words(writer_words),
    .cmd_segment(writer_segment), .in_valid(result_valid), .in_ready(result_ready), .in_data(result), .wr_req_valid, .wr_req_ready,
    .wr_req_addr, .wr_req_beats, .wr_valid, .wr_ready, .wr_data, .wr_strb, .idle(writer_idle));

  // The end: nothing is on its way.
  logic running, quiet;
  assign quiet = running && walked && !unit_valid && state == WAIT && digits_idle && reserved == 0 && writer_idle && wr_idle;
  always_ff @(posedge clk) begin
    if (rst) begin
      running <= 1'b0;
      done <= 1'b0;
    end else begin
      running <= start || (running && !quiet);
      done <= quiet;
    end
  end
endmodule

// The GEMM of descriptor.rs (`Op::Gemm`), results by arith.rs's `requantise`. The digits of all rows are loaded first; then
// panels of 16 columns are computed one after the other, the next one's weights being loaded meanwhile.
//
//   gemm_requests -> memory -> gemm_loader -> activation_buffer, weight_buffer, row_scales, column_constants
//   gemm_sequencer -> buffers -> gemm_array -> requantiser -> gemm_writer -> memory
//
// Nothing between the buffers and gemm_writer.sv ever waits: a tile's end is held back until there is room for its rows.
// Memory keeps a beat of a read as it is until it is taken. A product without rows, columns or depth is done at once.
//
// Cycles from `start` to `done` with a memory that takes every request at once, answers a read after L cycles and then
// with a beat a cycle, and has done a write (`wr_idle`) W cycles after its beat:
//
//   B = ceil(depth / 64), beats of a row of digits; a, w = planes of activations and weights
//   words(address, n) = ceil((address % 64 / 4 + n) / 16), beats of n words
//   load(p) = words(source[3], n) + (with a bias) words(destination[1], n) + (ROWS ? n : 16) * B * w,
//             n = min(16, cols - 16 p)
//   compute = ceil(rows / 10) * max(20, 8 * B * a * w + (a - 1) + (w - 1))
//   P = ceil(cols / 16)
//   cycles = L + 2 * rows * B * a + words(source[1], rows) + load(0)
//          + (P > 1: (P - 2) * max(load(0), compute) + max(load(P - 1), compute))
//          + compute + 2 * (rows of the last tile) + W + 35
module gemm_engine #(
`ifdef PLAIN_ARRAY
    // For fast simulation: the same sums at the same times.
    parameter bit STRUCTURAL = 1'b0
`else
    parameter bit STRUCTURAL = 1'b1
`endif
) (
    input logic clk,
    input logic rst,
    input logic start,
    /* verilator lint_off UNUSEDSIGNAL */ // Fields of other operations.
    input smolvla_pkg::descriptor_t desc,
    /* verilator lint_on UNUSEDSIGNAL */
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
  localparam int TILE_ROWS = smolvla_pkg::TILE_ROWS;
  localparam int TILE_COLS = smolvla_pkg::TILE_COLS;

  logic two_digits, two_digit_weights, has_bias, weight_rows;
  assign two_digits = desc.flags[smolvla_pkg::FLAG_TWO_DIGITS];
  assign two_digit_weights = desc.flags[smolvla_pkg::FLAG_TWO_DIGIT_WEIGHTS];
  assign has_bias = desc.flags[smolvla_pkg::FLAG_BIAS];
  assign weight_rows = desc.flags[smolvla_pkg::FLAG_ROWS];

  // What is worked out before the rest starts.
  logic [15:0] row_beats;
  logic [31:0] plane_beats;
  logic start_1, go, empty;
  assign empty = desc.rows == 0 || desc.cols == 0 || desc.depth == 0;
  always_ff @(posedge clk) begin
    start_1 <= start && !rst;
    go <= start_1 && !rst && !empty;
    if (start) row_beats <= 16'((desc.depth + 32'd63) >> 6);
    if (start_1) plane_beats <= 32'(desc.rows[15:0]) * 32'(row_beats);
  end

  logic [1:0] loaded, computed;
  logic [6:0] room;
  logic reserve;
  logic [3:0] reserve_rows;

  gemm_requests requests (
      .clk, .rst, .start(go), .two_digits, .two_digit_weights, .has_bias, .weight_rows, .rows(desc.rows),
      .cols(desc.cols), .row_beats, .plane_beats, .activations(desc.source[0]), .row_scales(desc.source[1]),
      .weights(desc.source[2]), .col_scales(desc.source[3]), .biases(desc.destination[1]),
      .activation_pitch(desc.pitch[0]), .weight_pitch(desc.pitch[1]), .activation_plane(desc.plane[0]),
      .weight_plane(desc.plane[1]), .valid(rd_req_valid), .ready(rd_req_ready), .address(rd_req_addr),
      .beats(rd_req_beats)
  );

  logic activation_write, row_scale_write, constant_write, constant_is_bias, weight_write;
  logic [3:0] activation_bank, weight_column;
  logic [11:0] activation_address, weight_address;
  logic [255:0] activation_data;
  logic [10:0] row_scale_address;
  logic [1:0] constant_panel;
  logic [511:0] constants;

  gemm_loader loader (
      .clk, .rst, .start(go), .two_digits, .two_digit_weights, .has_bias, .weight_rows, .rows(desc.rows),
      .cols(desc.cols), .row_beats, .row_scale_place(desc.source[1][5:2]), .col_scale_place(desc.source[3][5:2]),
      .bias_place(desc.destination[1][5:2]), .computed, .loaded, .valid(rd_valid), .ready(rd_ready), .data(rd_data),
      .activation_write, .activation_bank, .activation_address, .activation_data, .row_scale_write,
      .row_scale_address, .constant_write, .constant_is_bias, .constant_panel, .constants, .weight_write,
      .weight_column, .weight_address
  );

  // Compute: 0 the addresses, 1 the memories' outputs, 2 the operands.
  logic valid_0, first_0, scale_0, last_0, valid_1, first_1, scale_1, last_1, valid_2, first_2, scale_2, last_2;
  logic [13:0] read_activation_0;
  logic [11:0] read_weight_0;
  logic [1:0] activation_place_1;
  logic [2:0] weight_place_1;
  logic [TILE_ROWS-1:0][63:0] activation_words;
  logic [TILE_COLS-1:0][63:0] weight_words;

  gemm_sequencer sequencer (
      .clk, .rst, .start(go), .two_digits, .two_digit_weights, .rows(desc.rows), .cols(desc.cols),
      .row_beats(row_beats[8:0]), .loaded, .computed, .room, .reserve, .reserve_rows, .valid(valid_0), .first(first_0), .scale(scale_0), .last(last_0),
      .activation_address(read_activation_0), .weight_address(read_weight_0)
  );

  always_ff @(posedge clk) begin
    {valid_1, valid_2} <= rst ? 2'b00 : {valid_0, valid_1};
    {first_1, scale_1, last_1} <= {first_0, scale_0, last_0};
    {first_2, scale_2, last_2} <= {first_1, scale_1, last_1};
    activation_place_1 <= read_activation_0[1:0];
    weight_place_1 <= read_weight_0[2:0];
  end

  activation_buffer activation_buffer (
      .clk, .write(activation_write), .write_bank(activation_bank), .write_address(activation_address),
      .write_data(activation_data), .read(valid_0 && !scale_0 && read_activation_0[1:0] == 2'd0),
      .read_address(read_activation_0[13:2]), .select(valid_1 && !scale_1), .place(activation_place_1),
      .words(activation_words)
  );

  weight_buffer weight_buffer (
      .clk, .write(weight_write), .write_row(weight_rows), .write_column(weight_column),
      .write_address(weight_address), .write_data(rd_data),
      .read(valid_0 && !scale_0 && read_weight_0[2:0] == 3'd0), .read_address(read_weight_0[11:3]),
      .select(valid_1 && !scale_1), .place(weight_place_1), .words(weight_words)
  );

  // Drain: 0 the half row's number, 1 its sums and its columns' constants, 2 with its row's scale.
  logic captured, draining_0, draining_1, draining_2, half_0;
  logic [3:0] row_0, tile_rows;
  logic [31:0] rows_left;
  logic [1:0] drained_panel;
  logic [7:0][47:0] sums_1, sums_2;
  logic [7:0][31:0] scales_1, biases_1, scales_2, biases_2;
  logic [31:0] row_scale_2;

  gemm_array #(
      .STRUCTURAL(STRUCTURAL)
  ) array (
      .clk, .rst, .valid(valid_2), .first(first_2), .scale(scale_2), .last(last_2), .activations(activation_words),
      .weights(weight_words), .captured, .read(draining_0), .read_row(row_0), .read_half(half_0), .sums(sums_1)
  );

  assign tile_rows = rows_left <= 32'(TILE_ROWS) ? rows_left[3:0] : 4'(TILE_ROWS);
  always_ff @(posedge clk) begin
    {draining_1, draining_2} <= rst ? 2'b00 : {draining_0, draining_1};
    if (draining_0) begin
      half_0 <= !half_0;
      if (half_0) begin
        row_0 <= row_0 + 4'd1;
        if (row_0 == tile_rows - 4'd1) begin
          draining_0 <= 1'b0;
          rows_left <= rows_left <= 32'(TILE_ROWS) ? desc.rows : rows_left - 32'(TILE_ROWS);
          if (rows_left <= 32'(TILE_ROWS)) drained_panel <= drained_panel + 2'd1;
        end
      end
    end
    if (captured) begin
      draining_0 <= 1'b1;
      half_0 <= 1'b0;
      row_0 <= '0;
    end
    if (rst) draining_0 <= 1'b0;
    if (go) begin
      rows_left <= desc.rows;
      drained_panel <= '0;
    end
    if (draining_1) {sums_2, scales_2, biases_2} <= {sums_1, scales_1, has_bias ? biases_1 : 256'd0};
  end

  row_scales row_scales (
      .clk, .start(go), .place(desc.source[1][5:2]), .rows(desc.rows), .write(row_scale_write),
      .write_address(row_scale_address), .write_data(rd_data), .next(draining_0 && !half_0), .scale(row_scale_2)
  );

  column_constants column_constants (
      .clk, .write(constant_write), .write_is_bias(constant_is_bias), .write_panel(constant_panel),
      .write_data(constants), .read(draining_0), .read_panel(drained_panel), .read_half(half_0), .scales(scales_1),
      .biases(biases_1)
  );

  logic words_valid, words_half;
  logic [7:0][31:0] words, lower_words;

  requantiser requantiser (
      .clk, .rst, .wide(two_digit_weights), .valid(draining_2), .sums(sums_2), .row(row_scale_2), .columns(scales_2),
      .biases(biases_2), .words_valid, .words
  );

  always_ff @(posedge clk) begin
    if (rst || go) words_half <= 1'b0;
    else if (words_valid) words_half <= !words_half;
    if (words_valid && !words_half) lower_words <= words;
  end

  logic finished, running;

  gemm_writer writer (
      .clk, .rst, .start(go), .rows(desc.rows), .cols(desc.cols), .destination(desc.destination[0]),
      .pitch(desc.pitch[2]), .room, .reserve, .reserve_rows, .push(words_valid && words_half),
      .push_data({words, lower_words}), .finished, .request_valid(wr_req_valid), .request_ready(wr_req_ready),
      .request_address(wr_req_addr), .valid(wr_valid), .ready(wr_ready), .data(wr_data)
  );
  assign wr_req_beats = 32'd1;
  assign wr_strb = '1;

  // `wr_idle` of the cycle after the last beat knows of that beat.
  always_ff @(posedge clk) begin
    done <= (running && finished && wr_idle) || (start_1 && empty && !rst);
    if (rst || start || (running && finished && wr_idle)) running <= 1'b0;
    if (go && !rst) running <= 1'b1;
  end
endmodule

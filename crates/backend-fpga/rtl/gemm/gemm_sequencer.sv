// Reads words of digits from the buffers in the order in which the tile wants them: for each panel, once it is `loaded`, for
// each tile of rows, for each pair of planes that the digits have, all words of a row.
//
// With two digits on both ports the passes are high·high, (×255) high·low, low·high, (×255) low·low; on one port high,
// (×255) low; `scale` stands for the step between them and takes a cycle. A tile takes as many cycles as it has words and
// steps, at least TILE_CYCLES, in which the one before is drained. A tile's last word also waits for `room` for its rows.
module gemm_sequencer (
    input logic clk,
    input logic rst,
    input logic start,
    input logic two_digits,
    input logic two_digit_weights,
    input logic [31:0] rows,
    input logic [31:0] cols,
    input logic [8:0] row_beats,
    input logic [1:0] loaded,
    output logic [1:0] computed,
    input logic [6:0] room,
    // The last word of a tile of so many rows is being read.
    output logic reserve,
    output logic [3:0] reserve_rows,
    // Registered: addresses of words in the banks, and what to do with them.
    output logic valid,
    output logic first,
    output logic scale,
    output logic last,
    output logic [13:0] activation_address,
    output logic [11:0] weight_address
);
  localparam int TILE_ROWS = smolvla_pkg::TILE_ROWS;
  localparam int TILE_COLS = smolvla_pkg::TILE_COLS;

  localparam int TILE_CYCLES = 2 * TILE_ROWS;

  logic active, step, first_word, last_word, last_pass, last_tile, last_panel, half, issue;
  logic [1:0] pass, pass_planes;
  logic [11:0] word, words;
  logic [13:0] tile_base;
  logic [31:0] rows_left, cols_left;
  logic [4:0] cycles;

  assign words = {row_beats, 3'd0};
  // Planes of the pass: activations', weights'.
  assign pass_planes = two_digits && two_digit_weights ? pass : {two_digits && pass[0], two_digit_weights && pass[0]};
  assign last_pass = pass == {two_digits && two_digit_weights, two_digits || two_digit_weights};
  assign first_word = pass == 2'd0 && word == 12'd0;
  assign last_word = word == words - 12'd1;
  assign last_tile = rows_left <= 32'(TILE_ROWS);
  assign last_panel = cols_left <= 32'(TILE_COLS);
  assign reserve_rows = last_tile ? rows_left[3:0] : 4'(TILE_ROWS);
  assign reserve = active && !step && last_word && last_pass && cycles >= 5'(TILE_CYCLES - 1) && room >= {3'd0, reserve_rows};
  assign issue = active && !step
      && (last_word && last_pass ? reserve : !first_word || loaded != computed);

  always_ff @(posedge clk) begin
    valid <= !rst && (issue || (active && step));
    if (rst) begin
      active <= 1'b0;
    end else if (active) begin
      first <= first_word;
      scale <= step;
      last <= reserve;
      activation_address <= tile_base + (pass_planes[1] ? {2'd0, words} : 14'd0) + {2'd0, word};
      weight_address <= {half, (pass_planes[0] ? words[10:0] : 11'd0) + word[10:0]};
      if (!first_word || issue) cycles <= cycles == 5'd31 ? cycles : cycles + 5'd1;
      if (step) step <= 1'b0;
      if (issue) begin
        word <= last_word ? 12'd0 : word + 12'd1;
        if (last_word && !last_pass) begin
          pass <= pass + 2'd1;
          step <= pass != 2'd1;
        end
        if (reserve) begin
          pass <= 2'd0;
          cycles <= 5'd0;
          tile_base <= last_tile ? 14'd0 : tile_base + ({2'd0, words} << two_digits);
          rows_left <= last_tile ? rows : rows_left - 32'(TILE_ROWS);
          if (last_tile) begin
            half <= !half;
            computed <= computed + 2'd1;
            cols_left <= cols_left - 32'(TILE_COLS);
            active <= !last_panel;
          end
        end
      end
    end
    if (start) begin
      active <= 1'b1;
      {step, half} <= '0;
      pass <= '0;
      word <= '0;
      cycles <= '0;
      tile_base <= '0;
      rows_left <= rows;
      cols_left <= cols;
      computed <= '0;
    end
  end
endmodule

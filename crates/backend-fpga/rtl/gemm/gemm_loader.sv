// Takes what gemm_requests.sv asked for and puts it into the buffers. A beat of activations takes two cycles, any other
// one. A panel is taken once its half of the weight buffer is free: when less than two of those `loaded` are not `computed`.
module gemm_loader (
    input logic clk,
    input logic rst,
    input logic start,
    input logic two_digits,
    input logic two_digit_weights,
    input logic has_bias,
    input logic weight_rows,
    input logic [31:0] rows,
    input logic [31:0] cols,
    input logic [15:0] row_beats,
    input logic [3:0] row_scale_place,
    input logic [3:0] col_scale_place,
    input logic [3:0] bias_place,
    // Panels, modulo 4.
    input logic [1:0] computed,
    output logic [1:0] loaded,

    input logic valid,
    output logic ready,
    input logic [511:0] data,

    output logic activation_write,
    output logic [3:0] activation_bank,
    output logic [11:0] activation_address,
    output logic [255:0] activation_data,

    output logic row_scale_write,
    output logic [10:0] row_scale_address,

    // Words of the columns, in the place of the panel's number modulo 4.
    output logic constant_write,
    output logic constant_is_bias,
    output logic [1:0] constant_panel,
    output logic [511:0] constants,

    output logic weight_write,
    output logic [3:0] weight_column,
    output logic [11:0] weight_address
);
  localparam int TILE_ROWS = smolvla_pkg::TILE_ROWS;

  typedef enum logic [2:0] {IDLE, ACTIVATIONS, ROW_SCALES, COL_SCALES, BIASES, WEIGHTS} state_t;
  state_t state;

  logic plane, odd, beat_of_two, take;
  logic [15:0] beat;
  logic [31:0] row, cols_left;
  logic [3:0] bank;
  // In words of a bank.
  logic [13:0] row_base;
  logic [11:0] scale_beat;
  logic [1:0] panel;
  logic free;
  logic [4:0] panel_cols;
  logic [511:0] held;
  logic last_panel, last_beat, last_row, last_plane, last_col, last_constant;
  logic [5:0] last_word;
  logic [3:0] place;

  assign loaded = panel;
  assign free = panel - computed != 2'd2;
  assign last_panel = cols_left <= 32'd16;
  assign panel_cols = last_panel ? cols_left[4:0] : 5'd16;
  assign last_beat = beat == row_beats - 16'd1;
  assign last_row = row == rows - 32'd1;
  assign last_col = row[4:0] == panel_cols - 5'd1;
  assign last_plane = plane || !(state == ACTIVATIONS ? two_digits : two_digit_weights);
  assign place = state == BIASES ? bias_place : col_scale_place;
  assign last_word = {2'd0, place} + {1'd0, panel_cols} - 6'd1;
  assign last_constant = beat_of_two || last_word < 6'd16;

  assign ready = state == ACTIVATIONS ? odd : state == COL_SCALES ? free : state != IDLE;
  assign take = valid && ready;

  assign activation_write = state == ACTIVATIONS && valid;
  assign activation_bank = bank;
  assign activation_address = row_base[13:2] + {beat[10:0], odd};
  assign activation_data = odd ? data[511:256] : data[255:0];
  assign row_scale_write = state == ROW_SCALES && valid;
  assign row_scale_address = scale_beat[10:0];
  assign weight_write = state == WEIGHTS && valid;
  assign weight_column = weight_rows ? row[3:0] : {beat[0], 3'd0};
  // Panels: `row_base` counts words; rows: it is where the plane begins. Two beats are a word, or a beat eight words.
  assign weight_address = {panel[0], weight_rows ? row_base[10:0] + {beat[7:0], 3'd0} : row_base[10:0]};

  always_ff @(posedge clk) begin
    constant_write <= 1'b0;
    if (rst) begin
      state <= IDLE;
    end else begin
      case (state)
        ACTIVATIONS:
        if (valid) begin
          odd <= !odd;
          if (odd) begin
            beat <= last_beat ? 16'd0 : beat + 16'd1;
            if (last_beat) begin
              row <= last_row ? 32'd0 : row + 32'd1;
              bank <= last_row || bank == 4'(TILE_ROWS - 1) ? 4'd0 : bank + 4'd1;
              if (last_row) begin
                plane <= plane ^ two_digits;
                row_base <= last_plane ? 14'd0 : 14'({row_beats, 3'd0});
                if (last_plane) state <= ROW_SCALES;
              end else if (bank == 4'(TILE_ROWS - 1)) begin
                row_base <= row_base + (14'({row_beats, 3'd0}) << two_digits);
              end
            end
          end
        end
        ROW_SCALES:
        if (valid) begin
          scale_beat <= scale_beat + 12'd1;
          if ({16'd0, scale_beat, 4'd15} >= {28'd0, row_scale_place} + rows - 32'd1) state <= COL_SCALES;
        end
        COL_SCALES, BIASES:
        if (take) begin
          held <= data;
          beat_of_two <= !last_constant;
          if (last_constant) begin
            constants <= 512'({data, beat_of_two ? held : data} >> {place, 5'd0});
            constant_write <= 1'b1;
            constant_is_bias <= state == BIASES;
            constant_panel <= panel;
            state <= state == COL_SCALES && has_bias ? BIASES : WEIGHTS;
          end
        end
        WEIGHTS:
        if (valid) begin
          if (weight_rows) begin
            beat <= last_beat ? 16'd0 : beat + 16'd1;
            if (last_beat) begin
              row <= last_col ? 32'd0 : row + 32'd1;
              if (last_col) begin
                plane <= plane ^ two_digit_weights;
                row_base <= last_plane ? 14'd0 : 14'({row_beats, 3'd0});
              end
            end
          end else begin
            beat <= {15'd0, !beat[0]};
            if (beat[0]) row_base <= row_base + 14'd1;
          end
          if (weight_rows ? last_beat && last_col && last_plane
              : beat[0] && row_base + 14'd1 == 14'({row_beats, 3'd0}) << two_digit_weights) begin
            row_base <= 14'd0;
            panel <= panel + 2'd1;
            cols_left <= cols_left - 32'd16;
            state <= last_panel ? IDLE : COL_SCALES;
          end
        end
        default: ;
      endcase
    end
    if (start) begin
      state <= ACTIVATIONS;
      {plane, odd, beat_of_two} <= '0;
      beat <= '0;
      row <= '0;
      bank <= '0;
      row_base <= '0;
      scale_beat <= '0;
      panel <= '0;
      cols_left <= cols;
    end
  end
endmodule

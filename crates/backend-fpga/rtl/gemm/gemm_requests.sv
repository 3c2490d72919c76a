// Asks for everything that a GEMM reads, in the order in which gemm_loader.sv takes it: digits of the activations (plane
// by plane, row by row), their scales, and for each panel its columns' scales, bias and weights. Rows that lie one after the
// other in memory are one request. It does not wait for what it asked for: a request a cycle, as long as they are taken.
module gemm_requests (
    input logic clk,
    input logic rst,
    input logic start,
    input logic two_digits,
    input logic two_digit_weights,
    input logic has_bias,
    input logic weight_rows,
    input logic [31:0] rows,
    input logic [31:0] cols,
    // Beats of a row of digits, and of all rows of a plane of the activations.
    input logic [15:0] row_beats,
    input logic [31:0] plane_beats,
    input logic [63:0] activations,
    /* verilator lint_off UNUSEDSIGNAL */ // Words lie at multiples of 4 bytes.
    input logic [63:0] row_scales,
    /* verilator lint_on UNUSEDSIGNAL */
    input logic [63:0] weights,
    input logic [63:0] col_scales,
    input logic [63:0] biases,
    input logic [31:0] activation_pitch,
    input logic [31:0] weight_pitch,
    input logic [31:0] activation_plane,
    input logic [31:0] weight_plane,
    output logic valid,
    input logic ready,
    output logic [63:0] address,
    output logic [31:0] beats
);
  typedef enum logic [2:0] {IDLE, ACTIVATIONS, ROW_SCALES, COL_SCALES, BIASES, WEIGHTS} state_t;
  state_t state;

  logic plane, joined_activations, joined_weights;
  logic [31:0] row, cols_left;
  logic [63:0] row_address, scale_address, bias_address, panel_address;
  logic [4:0] panel_cols;
  logic last_row, last_col, last_plane, last_panel;

  // Beats that `count` words touch, the first of which is word `place` of its beat.
  function automatic logic [31:0] words_beats(input logic [3:0] place, input logic [31:0] count);
    words_beats = (({28'd0, place} + count - 32'd1) >> 4) + 32'd1;
  endfunction

  assign joined_activations = activation_pitch == {10'd0, row_beats, 6'd0};
  assign joined_weights = weight_pitch == {10'd0, row_beats, 6'd0};
  assign last_panel = cols_left <= 32'd16;
  assign panel_cols = last_panel ? cols_left[4:0] : 5'd16;
  assign last_row = joined_activations || row == rows - 32'd1;
  assign last_col = joined_weights || row[4:0] == panel_cols - 5'd1;
  assign last_plane = plane || !(state == ACTIVATIONS ? two_digits : two_digit_weights);

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= IDLE;
      valid <= 1'b0;
    end else if (!valid || ready) begin
      valid <= state != IDLE;
      case (state)
        ACTIVATIONS: begin
          address <= row_address;
          beats <= joined_activations ? plane_beats : {16'd0, row_beats};
          row <= last_row ? 32'd0 : row + 32'd1;
          if (!last_row) row_address <= row_address + {32'd0, activation_pitch};
          else if (!last_plane) row_address <= activations + {32'd0, activation_plane};
          plane <= plane ^ (last_row && two_digits);
          if (last_row && last_plane) state <= ROW_SCALES;
        end
        ROW_SCALES: begin
          address <= {row_scales[63:6], 6'd0};
          beats <= words_beats(row_scales[5:2], rows);
          state <= COL_SCALES;
        end
        COL_SCALES: begin
          address <= {scale_address[63:6], 6'd0};
          beats <= words_beats(scale_address[5:2], {27'd0, panel_cols});
          scale_address <= scale_address + 64'd64;
          row_address <= panel_address;
          state <= has_bias ? BIASES : WEIGHTS;
        end
        BIASES: begin
          address <= {bias_address[63:6], 6'd0};
          beats <= words_beats(bias_address[5:2], {27'd0, panel_cols});
          bias_address <= bias_address + 64'd64;
          state <= WEIGHTS;
        end
        WEIGHTS: begin
          address <= row_address;
          if (weight_rows) begin
            beats <= joined_weights ? 32'(row_beats) * 32'(panel_cols) : {16'd0, row_beats};
            row <= last_col ? 32'd0 : row + 32'd1;
            if (!last_col) row_address <= row_address + {32'd0, weight_pitch};
            else if (!last_plane) row_address <= panel_address + {32'd0, weight_plane};
            plane <= plane ^ (last_col && two_digit_weights);
          end else begin
            beats <= {16'd0, row_beats} << (two_digit_weights ? 5 : 4);
          end
          if (!weight_rows || (last_col && last_plane)) begin
            panel_address <= panel_address + (weight_rows ? {28'd0, weight_pitch, 4'd0}
                                              : {38'd0, row_beats, 10'd0} << two_digit_weights);
            cols_left <= cols_left - 32'd16;
            state <= last_panel ? IDLE : COL_SCALES;
          end
        end
        default: ;
      endcase
    end
    if (start) begin
      state <= ACTIVATIONS;
      plane <= 1'b0;
      row <= 32'd0;
      row_address <= activations;
      scale_address <= col_scales;
      bias_address <= biases;
      panel_address <= weights;
      cols_left <= cols;
    end
  end
endmodule

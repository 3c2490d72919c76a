// gemm_array.sv in plain expressions, written to be simulated fast; same ports, same cycles, same results.
//
// Two columns' sums lie in 64 bits, 32 apart, like the two in a DSP; they are taken apart only at the end of a place of
// digits. A place has at most 4096 words: 4096 * 8 * 127 * 128 < 2^31. The sums are ready 11 cycles before the
// structural twin's and wait until then. The arrays are this block's own, so blocking assignments race with nothing;
// what is read comes before what is written.
module gemm_array_plain (
    input logic clk,
    input logic rst,
    input logic valid,
    input logic first,
    input logic scale,
    input logic last,
    input logic [smolvla_pkg::TILE_ROWS-1:0][63:0] activations,
    input logic [smolvla_pkg::TILE_COLS-1:0][63:0] weights,
    output logic captured,
    input logic read,
    input logic [3:0] read_row,
    input logic read_half,
    output logic [7:0][47:0] sums
);
  localparam int TILE_ROWS = smolvla_pkg::TILE_ROWS;
  localparam int TILE_COLS = smolvla_pkg::TILE_COLS;

  localparam int PAIRS = TILE_COLS / 2;

  // Not signed: the low 64 bits of a product are the same, and the simulator does less.
  logic [63:0] digit[TILE_ROWS*8], pair[PAIRS*8], place[TILE_ROWS*PAIRS];
  logic signed [47:0] total[TILE_ROWS*TILE_COLS], result[TILE_ROWS*TILE_COLS], shadow[TILE_ROWS*TILE_COLS];
  logic valid_1, first_1, scale_1, last_1;
  logic [12:0] lasts;

  /* verilator lint_off UNUSEDSIGNAL */ // Each takes one half.
  function automatic logic signed [47:0] low(logic [63:0] sum);
    low = 48'(signed'(sum[31:0]));
  endfunction

  function automatic logic signed [47:0] high(logic [63:0] sum);
    high = 48'(signed'(sum[63:32])) + 48'(sum[31]);
  endfunction
  /* verilator lint_on UNUSEDSIGNAL */

  /* verilator lint_off BLKSEQ */
  always_ff @(posedge clk) begin
    if (read) begin
      for (int i = 0; i < 8; i++) sums[i] <= shadow[8'(read_row)*16+(read_half?8'd8:8'd0)+8'(i)];
    end
    if (valid_1) begin
      if (scale_1) begin
        for (int i = 0; i < TILE_ROWS * PAIRS; i++) begin
          total[2*i] = (total[2*i] + low(place[i])) * 48'sd255;
          total[2*i+1] = (total[2*i+1] + high(place[i])) * 48'sd255;
          place[i] = 64'd0;
        end
      end else begin
        if (first_1) begin
          for (int i = 0; i < TILE_ROWS * PAIRS; i++) place[i] = 64'd0;
          for (int i = 0; i < TILE_ROWS * TILE_COLS; i++) total[i] = 48'sd0;
        end
        for (int r = 0; r < TILE_ROWS; r++) begin
          for (int c = 0; c < PAIRS; c++) begin
            place[r*PAIRS+c] = place[r*PAIRS+c]
                + digit[r*8] * pair[c*8] + digit[r*8+1] * pair[c*8+1]
                + digit[r*8+2] * pair[c*8+2] + digit[r*8+3] * pair[c*8+3]
                + digit[r*8+4] * pair[c*8+4] + digit[r*8+5] * pair[c*8+5]
                + digit[r*8+6] * pair[c*8+6] + digit[r*8+7] * pair[c*8+7];
          end
        end
      end
    end
    if (lasts[12]) for (int i = 0; i < TILE_ROWS * TILE_COLS; i++) shadow[i] = result[i];
    if (valid_1 && last_1) begin
      for (int i = 0; i < TILE_ROWS * PAIRS; i++) begin
        result[2*i] = total[2*i] + low(place[i]);
        result[2*i+1] = total[2*i+1] + high(place[i]);
      end
    end
    if (valid && !scale) begin
      for (int r = 0; r < TILE_ROWS; r++) begin
        for (int k = 0; k < 8; k++) digit[r*8+k] = 64'(signed'(activations[r][8*k+:8]));
      end
      for (int c = 0; c < PAIRS; c++) begin
        for (int k = 0; k < 8; k++) begin
          pair[c*8+k] = (64'(signed'(weights[2*c+1][8*k+:8])) <<< 32) + 64'(signed'(weights[2*c][8*k+:8]));
        end
      end
    end
    valid_1 = valid && !rst;
    first_1 = first;
    scale_1 = scale;
    last_1 = last;
    captured <= lasts[11] && !rst;
    lasts = rst ? '0 : {lasts[11:0], valid && last};
  end
  /* verilator lint_on BLKSEQ */
endmodule

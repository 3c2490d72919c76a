// The tile: 10 rows by 16 columns of output-stationary accumulators of 48 bits, each taking a dot product of 8 digits a
// cycle. `first` begins a tile's sums anew; `scale` (without operands) multiplies them by 255, which is the Horner step
// from one place of digits to the next in arith.rs's `requantise`; `last` ends a tile, whose sums are then copied to
// shadow registers to be read while the next tile is computed.
//
// Two twins of equal latency: STRUCTURAL is made of DSP48E2 cascades, gemm_array_plain.sv is for fast simulation.
// Latency: `last` to `captured` (the shadow is this tile's from the next cycle on) 13 cycles; `read` to `sums` 1 cycle. Tiles
// are at least 20 cycles apart.
module gemm_array #(
    parameter bit STRUCTURAL = 1'b1
) (
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
  if (STRUCTURAL) begin : g_dsp
    gemm_array_dsp array (.*);
  end else begin : g_plain
    gemm_array_plain array (.*);
  end
endmodule

// gemm_array.sv of 80 cascades of 8 DSPs (dot8.sv), whose operands are skewed once for all of a row or column. Same ports,
// same cycles, same results as gemm_array_plain.sv.
module gemm_array_dsp (
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
  localparam int DOT_LATENCY = 12;

  logic [TILE_ROWS-1:0][63:0] skewed_activations;
  logic [TILE_COLS-1:0][63:0] skewed_weights;
  // Of the cycles in which the sums come.
  logic [DOT_LATENCY-1:0] valids, firsts, scales, lasts;

  for (genvar r = 0; r < TILE_ROWS; r++) begin : g_activations
    skew skew_activations (.clk, .word(activations[r]), .skewed(skewed_activations[r]));
  end
  for (genvar c = 0; c < TILE_COLS; c++) begin : g_weights
    skew skew_weights (.clk, .word(weights[c]), .skewed(skewed_weights[c]));
  end

  always_ff @(posedge clk) begin
    valids <= rst ? '0 : {valids[DOT_LATENCY-2:0], valid};
    firsts <= {firsts[DOT_LATENCY-2:0], first};
    scales <= {scales[DOT_LATENCY-2:0], scale};
    lasts <= {lasts[DOT_LATENCY-2:0], last};
    captured <= !rst && valids[DOT_LATENCY-1] && lasts[DOT_LATENCY-1];
  end

  logic [TILE_ROWS-1:0][48*TILE_COLS-1:0] shadow;
  for (genvar r = 0; r < TILE_ROWS; r++) begin : g_row
    for (genvar c = 0; c < TILE_COLS; c += 2) begin : g_pair
      logic [35:0] pair_sums;
      dot8 #(
          .STRUCTURAL(1'b1)
      ) dot (
          .clk, .activations(skewed_activations[r]), .weights1(skewed_weights[c+1]), .weights0(skewed_weights[c]),
          .sum1(pair_sums[35:18]), .sum0(pair_sums[17:0])
      );
      for (genvar i = 0; i < 2; i++) begin : g_sum
        logic signed [17:0] sum;
        logic signed [47:0] accumulator, kept, added;
        assign sum = pair_sums[18*i+:18];
        // One adder: 256 acc - acc, or acc + sum, or 0 + sum.
        assign kept = firsts[DOT_LATENCY-1] ? 48'd0 : scales[DOT_LATENCY-1] ? accumulator <<< 8 : accumulator;
        assign added = scales[DOT_LATENCY-1] ? ~accumulator : 48'(sum);
        always_ff @(posedge clk) begin
          if (valids[DOT_LATENCY-1]) accumulator <= kept + added + 48'(scales[DOT_LATENCY-1]);
          if (captured) shadow[r][48*(c+i)+:48] <= accumulator;
        end
      end
    end
  end

  logic [383:0] half_row;
  always_comb begin
    half_row = '0;
    for (int r = 0; r < TILE_ROWS; r++) begin
      if (read_row == 4'(r)) half_row = read_half ? shadow[r][767:384] : shadow[r][383:0];
    end
  end
  always_ff @(posedge clk) if (read) sums <= half_row;
endmodule

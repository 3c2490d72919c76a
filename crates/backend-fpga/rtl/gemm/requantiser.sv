// Eight lanes of requantise_lane.sv: half a row of a tile a cycle. Latency: 11 cycles from `valid` to `words_valid`.
module requantiser (
    input logic clk,
    input logic rst,
    input logic wide,
    input logic valid,
    input logic [7:0][47:0] sums,
    input logic [31:0] row,
    input logic [7:0][31:0] columns,
    input logic [7:0][31:0] biases,
    output logic words_valid,
    output logic [7:0][31:0] words
);
  logic [11:1] v;

  always_ff @(posedge clk) v <= rst ? '0 : {v[10:1], valid};
  assign words_valid = v[11];

  for (genvar i = 0; i < 8; i++) begin : g_lane
    requantise_lane lane (
        .clk, .v({v[10:1], valid}), .wide, .sum(sums[i]), .row, .column(columns[i]), .bias(biases[i]), .word(words[i])
    );
  end
endmodule

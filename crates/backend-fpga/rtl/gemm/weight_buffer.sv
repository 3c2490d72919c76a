// The digits of two panels of weights, one computed with while the other is loaded: a bank for each of the 16 columns, of twice
// WEIGHT_WORDS words of 8 digits.
//
// A bank is eight memories of every eighth word, so that a beat is written a cycle in both layouts: `write_row` is 64
// digits of one column, eight words of its bank; otherwise it is one word each of the lower or the upper eight columns.
// Latency: a read is asked for once every eight words (`read`, the address without its three low bits); a cycle later
// `place` selects the word, which is out the cycle after that. What is written can be read two cycles later.
module weight_buffer (
    input logic clk,
    input logic write,
    input logic write_row,
    // The column, or eight times the half.
    input logic [3:0] write_column,
    input logic [11:0] write_address,
    input logic [7:0][63:0] write_data,
    input logic read,
    input logic [8:0] read_address,
    input logic select,
    input logic [2:0] place,
    output logic [smolvla_pkg::TILE_COLS-1:0][63:0] words
);
  localparam int TILE_COLS = smolvla_pkg::TILE_COLS;
  localparam int WEIGHT_WORDS = smolvla_pkg::WEIGHT_WORDS;

  localparam int MEMORY_WORDS = 2 * WEIGHT_WORDS / 8;

  logic [TILE_COLS-1:0] columns_1;
  logic [7:0] places_1;
  logic row_1;
  logic [8:0] write_address_1;
  logic [7:0][63:0] write_data_1;

  always_ff @(posedge clk) begin
    columns_1 <= !write ? '0 : write_row ? TILE_COLS'(1) << write_column : write_column[3] ? 16'hff00 : 16'h00ff;
    if (write) begin
      places_1 <= write_row ? 8'hff : 8'd1 << write_address[2:0];
      row_1 <= write_row;
      write_address_1 <= write_address[11:3];
      write_data_1 <= write_data;
    end
  end

  for (genvar c = 0; c < TILE_COLS; c++) begin : g_bank
    logic [511:0] read_data;
    for (genvar j = 0; j < 8; j++) begin : g_memory
      buffer_memory #(
          .WORDS(MEMORY_WORDS)
      ) memory (
          .clk, .write(columns_1[c] && places_1[j]), .write_address(write_address_1),
          .write_data(row_1 ? write_data_1[j] : write_data_1[c%8]), .read, .read_address, .read_data(read_data[64*j+:64])
      );
    end
    // A case, not an index: it simulates several times as fast.
    always_ff @(posedge clk) begin
      if (select) begin
        case (place)
          3'd0: words[c] <= read_data[63:0];
          3'd1: words[c] <= read_data[127:64];
          3'd2: words[c] <= read_data[191:128];
          3'd3: words[c] <= read_data[255:192];
          3'd4: words[c] <= read_data[319:256];
          3'd5: words[c] <= read_data[383:320];
          3'd6: words[c] <= read_data[447:384];
          default: words[c] <= read_data[511:448];
        endcase
      end
    end
  end
endmodule

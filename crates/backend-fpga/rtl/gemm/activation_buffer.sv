// The digits of all rows of a GEMM: a bank of ACTIVATION_WORDS words of 8 digits for each row of a tile (UltraRAM).
// Row r lies in bank r % 10; bank words are tiles, in them planes, in them the row.
//
// A bank is four memories of every fourth word, so that half a beat is written a cycle, into one bank, and that a read of all
// four memories lasts four cycles. Latency: a read is asked for once every four words (`read`, the address without
// its two low bits); a cycle later `place` selects the word, which is out the cycle after that. What is written can be
// read two cycles later.
module activation_buffer (
    input logic clk,
    input logic write,
    input logic [3:0] write_bank,
    input logic [11:0] write_address,
    input logic [3:0][63:0] write_data,
    input logic read,
    input logic [11:0] read_address,
    input logic select,
    input logic [1:0] place,
    output logic [smolvla_pkg::TILE_ROWS-1:0][63:0] words
);
  localparam int TILE_ROWS = smolvla_pkg::TILE_ROWS;
  localparam int ACTIVATION_WORDS = smolvla_pkg::ACTIVATION_WORDS;

  logic [TILE_ROWS-1:0] write_1;
  logic [11:0] write_address_1;
  logic [3:0][63:0] write_data_1;

  always_ff @(posedge clk) begin
    write_1 <= write ? TILE_ROWS'(1) << write_bank : '0;
    if (write) begin
      write_address_1 <= write_address;
      write_data_1 <= write_data;
    end
  end

  for (genvar r = 0; r < TILE_ROWS; r++) begin : g_bank
    logic [255:0] read_data;
    for (genvar j = 0; j < 4; j++) begin : g_memory
      buffer_memory #(
          .WORDS(ACTIVATION_WORDS / 4), .ULTRA(1'b1)
      ) memory (
          .clk, .write(write_1[r]), .write_address(write_address_1), .write_data(write_data_1[j]), .read, .read_address,
          .read_data(read_data[64*j+:64])
      );
    end
    // A case, not an index: it simulates several times as fast.
    always_ff @(posedge clk) begin
      if (select) begin
        case (place)
          2'd0: words[r] <= read_data[63:0];
          2'd1: words[r] <= read_data[127:64];
          2'd2: words[r] <= read_data[191:128];
          default: words[r] <= read_data[255:192];
        endcase
      end
    end
  end
endmodule

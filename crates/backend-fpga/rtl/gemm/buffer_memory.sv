// A memory of words of 64 bits with a port to write and one to read, UltraRAM or block RAM. Latency of a read: 1 cycle.
// Nothing is read in the cycle in which it is written.
module buffer_memory #(
    parameter int WORDS = 512,
    parameter bit ULTRA = 1'b0,
    localparam int BITS = $clog2(WORDS)
) (
    input logic clk,
    input logic write,
    input logic [BITS-1:0] write_address,
    input logic [63:0] write_data,
    input logic read,
    input logic [BITS-1:0] read_address,
    output logic [63:0] read_data
);
  if (ULTRA) begin : g_ultra
    (* ram_style = "ultra" *) logic [63:0] words[WORDS];
    always_ff @(posedge clk) if (write) words[write_address] <= write_data;
    always_ff @(posedge clk) if (read) read_data <= words[read_address];
  end else begin : g_block
    (* ram_style = "block" *) logic [63:0] words[WORDS];
    always_ff @(posedge clk) if (write) words[write_address] <= write_data;
    always_ff @(posedge clk) if (read) read_data <= words[read_address];
  end
endmodule

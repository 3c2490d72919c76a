// Rows of a beat's width: one write and one read a cycle. Latency of a read 2: the memory's and its output register's
// (UltraRAM).
module row_buffer #(
  parameter int WIDTH = 512,
  parameter int DEPTH = 4096
) (
  input logic clk,
  input logic write,
  input logic [$clog2(DEPTH)-1:0] write_address,
  input logic [WIDTH-1:0] write_data,
  input logic read,
  input logic [$clog2(DEPTH)-1:0] read_address,
  output logic [WIDTH-1:0] read_data
);
  (* ram_style = "ultra" *) logic [WIDTH-1:0] memory[DEPTH];
  logic [WIDTH-1:0] first;
  logic read1;

  always_ff @(posedge clk) begin
    if (write) memory[write_address] <= write_data;
    if (read) first <= memory[read_address];
    read1 <= read;
    if (read1) read_data <= first;
  end
endmodule

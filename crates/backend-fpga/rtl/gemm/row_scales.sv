// The scales of all rows of a GEMM, beats as they came from memory (UltraRAM, eight side by side). Rows are read one after
// the other, from word `place` of the first beat on.
//
// Latency: `next` to `scale` 2 cycles. 20,480 rows and a place are at most 1,281 beats.
module row_scales (
    input logic clk,
    input logic start,
    input logic [3:0] place,
    input logic [31:0] rows,
    input logic write,
    input logic [10:0] write_address,
    input logic [511:0] write_data,
    // Goes on to the next row, after the last one to the first.
    input logic next,
    output logic [31:0] scale
);
  (* ram_style = "ultra" *) logic [511:0] memory[2048];
  logic [15:0][31:0] beat_1;
  logic [14:0] word;
  logic [31:0] row;
  logic [3:0] word_1;
  logic next_1;

  always_ff @(posedge clk) if (write) memory[write_address] <= write_data;
  always_ff @(posedge clk) if (next) beat_1 <= memory[word[14:4]];

  always_ff @(posedge clk) begin
    next_1 <= next;
    if (next) begin
      word_1 <= word[3:0];
      row <= row == rows - 32'd1 ? 32'd0 : row + 32'd1;
      word <= row == rows - 32'd1 ? {11'd0, place} : word + 15'd1;
    end
    if (next_1) scale <= beat_1[word_1];
    if (start) begin
      word <= {11'd0, place};
      row <= 32'd0;
    end
  end
endmodule

// Scales and biases of the columns of four panels: one is being loaded, one computed with, one drained. Latency of a read:
// 1 cycle. What is written can be read in the next cycle.
module column_constants (
    input logic clk,
    input logic write,
    input logic write_is_bias,
    input logic [1:0] write_panel,
    input logic [511:0] write_data,
    input logic read,
    input logic [1:0] read_panel,
    input logic read_half,
    output logic [7:0][31:0] scales,
    output logic [7:0][31:0] biases
);
  (* ram_style = "distributed" *) logic [511:0] scale_memory[4];
  (* ram_style = "distributed" *) logic [511:0] bias_memory[4];
  logic [511:0] scale_row, bias_row;

  always_ff @(posedge clk) begin
    if (write && !write_is_bias) scale_memory[write_panel] <= write_data;
    if (write && write_is_bias) bias_memory[write_panel] <= write_data;
  end

  assign scale_row = scale_memory[read_panel];
  assign bias_row = bias_memory[read_panel];

  always_ff @(posedge clk) begin
    if (read) begin
      scales <= read_half ? scale_row[511:256] : scale_row[255:0];
      biases <= read_half ? bias_row[511:256] : bias_row[255:0];
    end
  end
endmodule

// Op::Activate over 16 lanes, a beat a cycle, by arith::activate: latency 10, or with `multiply` 13, times a word
// that comes ten cycles after its `x`.
module activate_unit (
  input logic clk,
  input logic rst,
  input logic gelu,
  input logic multiply,
  input logic in_valid,
  input logic [511:0] in_x,
  input logic [511:0] in_y,
  output logic out_valid,
  output logic [511:0] out_data
);
  logic [12:0] later;
  always_ff @(posedge clk) begin
    if (rst) later <= '0;
    else later <= {later[11:10], later[9] && multiply, later[8:0], in_valid};
  end
  assign out_valid = multiply ? later[12] : later[9];

  logic [511:0] activated, product;
  for (genvar i = 0; i < 16; i++) begin : gen_lane
    activate_lane lane (.clk, .v({later[8:0], in_valid}), .gelu, .x(in_x[32*i +: 32]), .y(activated[32*i +: 32]));
    fp_mul_lane multiply_lane (
      .clk, .v({later[11:10], later[9] && multiply}), .a(activated[32*i +: 32]), .b(in_y[32*i +: 32]), .y(product[32*i +: 32]));
  end
  assign out_data = multiply ? product : activated;
endmodule

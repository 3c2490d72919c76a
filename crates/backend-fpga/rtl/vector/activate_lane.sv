// arith::activate, a word a cycle. Latency 10; `v` are the valid bits of the stages.
module activate_lane (
  input logic clk,
  input logic [9:0] v,
  input logic gelu,
  input logic [31:0] x,
  output logic [31:0] y
);
  // The word itself, until its gate is known.
  logic [6:0][31:0] words;
  logic [19:0] position1;
  logic past1, past2, past3;
  logic [11:0] rest2;
  logic [43:0] entry2;
  logic [24:0] base3, at3, at4;
  logic [30:0] rise3;
  logic [31:0] gate;
  logic [7:0] exponent;
  logic [4:0] shift;
  logic [23:0] moved;

  // In 4096ths of a table's step; 2^20 is past the table.
  assign exponent = x[30:23];
  assign shift = 5'(8'd134 - exponent);
  assign moved = {1'b1, x[22:0]} >> shift;
  assign at3 = base3 + 25'((32'(rise3) + 32'd2048) >> 12);

  gate_rom gates (.clk, .enable(v[1]), .gelu, .place(position1[19:12]), .entry(entry2));

  always_ff @(posedge clk) begin
    if (v[0]) begin
      past1 <= exponent >= 8'd134 || exponent > 8'd110 && moved[23:20] != 0;
      position1 <= exponent > 8'd110 ? moved[19:0] : 20'd0;
      words[0] <= x;
    end
    if (v[1]) begin
      past2 <= past1;
      rest2 <= position1[11:0];
      words[1] <= words[0];
    end
    if (v[2]) begin
      past3 <= past2;
      base3 <= entry2[43:19];
      rise3 <= 31'(entry2[18:0]) * 31'(rest2);
      words[2] <= words[1];
    end
    if (v[3]) begin
      if (past3) at4 <= words[2][31] ? 25'd0 : 25'h1000000;
      else at4 <= words[2][31] ? 25'h1000000 - at3 : at3;
      words[3] <= words[2];
    end
    if (v[4]) words[4] <= words[3];
    if (v[5]) words[5] <= words[4];
    if (v[6]) words[6] <= words[5];
  end

  fp_encode_lane encode (.clk, .v(v[6:4]), .value({39'd0, at4}), .exponent(-16'sd24), .y(gate));
  fp_mul_lane multiply (.clk, .v(v[9:7]), .a(words[6]), .b(gate), .y);
endmodule

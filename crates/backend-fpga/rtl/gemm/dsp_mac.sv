// Two int8 products in one DSP48E2: (w1 * 2^18 + w0) * a + pcin. FIRST of a cascade has no pcin.
//
// Two twins: STRUCTURAL is the primitive (synthesis does not find this packing by itself), the other says what it does.
// Latency: w1, w0 and a to p 4 cycles, pcin to p 1 cycle, in both.
module dsp_mac #(
    parameter bit STRUCTURAL = 1'b1,
    parameter bit FIRST = 1'b0
) (
    input logic clk,
    input logic signed [7:0] w1,
    input logic signed [7:0] w0,
    input logic signed [7:0] a,
    input logic [47:0] pcin,
    output logic [47:0] pcout,
    output logic [47:0] p
);
  if (STRUCTURAL) begin : g_primitive
    DSP48E2 #(
        .AMULTSEL("AD"), .BMULTSEL("B"), .PREADDINSEL("A"), .USE_MULT("MULTIPLY"), .A_INPUT("DIRECT"),
        .B_INPUT("DIRECT"), .ACASCREG(1), .ADREG(1), .ALUMODEREG(0), .AREG(1), .BCASCREG(2), .BREG(2), .CARRYINREG(0),
        .CARRYINSELREG(0), .CREG(0), .DREG(1), .INMODEREG(0), .MREG(1), .OPMODEREG(0), .PREG(1)
    ) dsp (
        .CLK(clk), .A({{4{w1[7]}}, w1, 18'd0}), .B({{10{a[7]}}, a}), .C(48'd0), .D({{19{w0[7]}}, w0}), .CARRYIN(1'b0),
        .CARRYINSEL(3'd0), .PCIN(pcin), .ALUMODE(4'd0), .INMODE(5'b00100),
        .OPMODE(FIRST ? 9'b00_000_0101 : 9'b00_001_0101),
        .CEA1(1'b0), .CEA2(1'b1), .CEAD(1'b1), .CEALUMODE(1'b0), .CEB1(1'b1), .CEB2(1'b1), .CEC(1'b0),
        .CECARRYIN(1'b0), .CECTRL(1'b0), .CED(1'b1), .CEINMODE(1'b0), .CEM(1'b1), .CEP(1'b1),
        .RSTA(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTCTRL(1'b0), .RSTD(1'b0),
        .RSTINMODE(1'b0), .RSTM(1'b0), .RSTP(1'b0), .P(p), .PCOUT(pcout)
    );
  end else begin : g_plain
    logic signed [7:0] w1_1, w0_1, a_1, a_2;
    logic signed [26:0] packed_2;
    logic signed [47:0] product_3, sum_4;

    always_ff @(posedge clk) begin
      {w1_1, w0_1, a_1, a_2} <= {w1, w0, a, a_1};
      packed_2 <= (27'(w1_1) <<< 18) + 27'(w0_1);
      product_3 <= 48'(packed_2) * 48'(a_2);
      sum_4 <= product_3 + (FIRST ? 48'd0 : pcin);
    end
    assign p = sum_4;
    assign pcout = sum_4;
  end
endmodule

// What simulation uses for the primitive DSP48E2: P = (D + A) * B + PCIN in the one configuration that dsp_mac.sv asks for.
// Anything else is refused at the start of the simulation. Synthesis has the real one.
//
// Latency: A, D to P 4 cycles (A/D, AD, M, P registers), B the same (two B registers), PCIN to P 1 cycle.
/* verilator lint_off UNUSEDSIGNAL */ // Pins of the real primitive that this configuration has no use for.
module DSP48E2 #(
    parameter string AMULTSEL = "A",
    parameter string BMULTSEL = "B",
    parameter string PREADDINSEL = "A",
    parameter string USE_MULT = "MULTIPLY",
    parameter string A_INPUT = "DIRECT",
    parameter string B_INPUT = "DIRECT",
    parameter int ACASCREG = 1,
    parameter int ADREG = 1,
    parameter int ALUMODEREG = 1,
    parameter int AREG = 1,
    parameter int BCASCREG = 1,
    parameter int BREG = 1,
    parameter int CARRYINREG = 1,
    parameter int CARRYINSELREG = 1,
    parameter int CREG = 1,
    parameter int DREG = 1,
    parameter int INMODEREG = 1,
    parameter int MREG = 1,
    parameter int OPMODEREG = 1,
    parameter int PREG = 1
) (
    input logic CLK,
    input logic [29:0] A,
    input logic [17:0] B,
    input logic [47:0] C,
    input logic [26:0] D,
    input logic CARRYIN,
    input logic [2:0] CARRYINSEL,
    input logic [47:0] PCIN,
    input logic [3:0] ALUMODE,
    input logic [4:0] INMODE,
    input logic [8:0] OPMODE,
    input logic CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEM, CEP,
    input logic RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP,
    output logic [47:0] P,
    output logic [47:0] PCOUT
);
  logic signed [26:0] a2, d, ad;
  logic signed [17:0] b1, b2;
  logic signed [44:0] m;

  always_ff @(posedge CLK) begin
    a2 <= A[26:0];
    d <= D;
    b1 <= B;
    ad <= d + a2;
    b2 <= b1;
    m <= 45'(ad) * 45'(b2);
    P <= 48'(m) + (OPMODE[6:4] == 3'b001 ? PCIN : 48'd0);
  end
  assign PCOUT = P;

  initial begin
    if (AMULTSEL != "AD" || BMULTSEL != "B" || PREADDINSEL != "A" || USE_MULT != "MULTIPLY" || A_INPUT != "DIRECT"
        || B_INPUT != "DIRECT" || ACASCREG != 1 || ADREG != 1 || AREG != 1 || BCASCREG != 2 || BREG != 2 || DREG != 1
        || MREG != 1 || PREG != 1 || ALUMODEREG != 0 || INMODEREG != 0 || OPMODEREG != 0 || CARRYINREG != 0
        || CARRYINSELREG != 0 || CREG != 0)
      $fatal(1, "DSP48E2: only dsp_mac.sv's configuration is modelled");
    if (INMODE != 5'b00100 || ALUMODE != 4'b0000 || {OPMODE[8:7], OPMODE[3:0]} != 6'b000101 || OPMODE[6:5] != 2'b00
        || CARRYIN || CARRYINSEL != 0 || !(&{CEA2, CEAD, CEB1, CEB2, CED, CEM, CEP})
        || |{RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP})
      $fatal(1, "DSP48E2: only dsp_mac.sv's pins are modelled");
  end
endmodule
/* verilator lint_on UNUSEDSIGNAL */

// Delays byte k of a word by k cycles, as the cascade in dot8.sv wants its operands.
module skew (
    input logic clk,
    input logic [63:0] word,
    output logic [63:0] skewed
);
  assign skewed[7:0] = word[7:0];
  for (genvar k = 1; k < 8; k++) begin : g_byte
    logic [8*k-1:0] line;
    if (k == 1) begin : g_one
      always_ff @(posedge clk) line <= word[15:8];
    end else begin : g_more
      always_ff @(posedge clk) line <= {line[8*k-9:0], word[8*k+:8]};
    end
    assign skewed[8*k+:8] = line[8*k-1-:8];
  end
endmodule

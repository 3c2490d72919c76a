// The whole part of a square root, a bit a cycle: `done` 32 cycles after `start`.
module square_root (
  input logic clk,
  input logic rst,
  input logic start,
  input logic [63:0] radicand,
  output logic done,
  output logic [31:0] root
);
  logic [5:0] left;
  logic [63:0] rest;
  // What of the radicand the root so far leaves, less than 2 · root + 1.
  logic [33:0] remainder;
  logic [35:0] next, trial;
  logic [33:0] less;
  assign next = {remainder, rest[63:62]};
  assign trial = {2'd0, root, 2'b01};
  assign less = next[33:0] - trial[33:0];

  always_ff @(posedge clk) begin
    if (start) begin
      rest <= radicand;
      remainder <= '0;
      root <= '0;
    end else if (left != 0) begin
      rest <= rest << 2;
      remainder <= next >= trial ? less : next[33:0];
      root <= {root[30:0], next >= trial};
    end
    if (rst) begin
      left <= '0;
      done <= 1'b0;
    end else begin
      left <= start ? 6'd32 : left == 0 ? left : left - 6'd1;
      done <= left == 1;
    end
  end
endmodule

// A product of unsigned numbers, two bits of `b` a cycle: `done` BITS / 2 + 1 cycles after `start`.
module multiplier #(
  parameter int WIDTH = 48,
  parameter int BITS = 34
) (
  input logic clk,
  input logic rst,
  input logic start,
  input logic [WIDTH-1:0] a,
  input logic [BITS-1:0] b,
  output logic done,
  output logic [WIDTH+BITS-1:0] product
);
  localparam int COUNT = $clog2(BITS / 2 + 1);
  logic [COUNT-1:0] left;
  logic [WIDTH-1:0] once;
  logic [WIDTH+1:0] upper, thrice, sum;
  logic [BITS-1:0] lower;
  assign product = {upper[WIDTH-1:0], lower};
  always_comb begin
    unique case (lower[1:0])
      2'd0: sum = upper;
      2'd1: sum = upper + {2'd0, once};
      2'd2: sum = upper + {1'b0, once, 1'b0};
      default: sum = upper + thrice;
    endcase
  end

  always_ff @(posedge clk) begin
    if (start) begin
      once <= a;
      thrice <= {2'd0, a} + {1'b0, a, 1'b0};
      upper <= '0;
      lower <= b;
    end else if (left != 0) begin
      upper <= sum >> 2;
      lower <= {sum[1:0], lower[BITS-1:2]};
    end
    if (rst) begin
      left <= '0;
      done <= 1'b0;
    end else begin
      left <= start ? COUNT'(BITS / 2) : left == 0 ? left : left - 1'b1;
      done <= left == 1;
    end
  end
endmodule

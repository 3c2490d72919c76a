// A quotient, a bit a cycle: BITS cycles from `start` to `done`. `upper` and `lower` are the numerator's bits above
// and below the lowest BITS; the quotient must have no more than BITS bits, which is that `upper` is less than the
// divisor.
module divider #(
  parameter int WIDTH = 16,
  parameter int BITS = 26
) (
  input logic clk,
  input logic rst,
  input logic start,
  input logic [WIDTH-1:0] upper,
  input logic [BITS-1:0] lower,
  input logic [WIDTH-1:0] divisor,
  output logic done,
  output logic [BITS-1:0] quotient
);
  localparam int COUNT = $clog2(BITS + 1);
  logic [COUNT-1:0] left;
  logic [WIDTH-1:0] remainder, by;
  logic [WIDTH:0] next, less;
  assign next = {remainder, quotient[BITS-1]};
  assign less = next - {1'b0, by};

  always_ff @(posedge clk) begin
    if (start) begin
      remainder <= upper;
      quotient <= lower;
      by <= divisor;
    end else if (left != 0) begin
      // Quotient bits come in where the numerator's go out.
      remainder <= less[WIDTH] ? next[WIDTH-1:0] : less[WIDTH-1:0];
      quotient <= {quotient[BITS-2:0], !less[WIDTH]};
    end
    if (rst) begin
      left <= '0;
      done <= 1'b0;
    end else begin
      left <= start ? COUNT'(BITS) : left == 0 ? left : left - 1'b1;
      done <= left == 1;
    end
  end
endmodule

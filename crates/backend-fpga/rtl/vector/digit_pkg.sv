// arith::digits and the constants of digits.
package digit_pkg;
  localparam logic [14:0] ONE_DIGIT = 15'd127;
  localparam logic [14:0] TWO_DIGITS = 15'd32512;

  typedef struct packed {
    logic [7:0] high;
    logic [7:0] low;
  } digits_t;

  // `q` in ±32512 as two digits, or with one digit in ±127 as the high one.
  function automatic digits_t digits(input logic signed [15:0] q, input logic two);
    logic [15:0] n;
    logic [7:0] h;
    n = 16'(q + 16'sd32512);
    // n / 255, exact below 65,535.
    h = two ? 8'(({1'b0, n} + 17'd1 + {9'd0, n[15:8]}) >> 8) - 8'd127 : q[7:0];
    // q − 255 · high, of which only the low byte is needed.
    digits = {h, two ? q[7:0] + h : 8'd0};
  endfunction
endpackage

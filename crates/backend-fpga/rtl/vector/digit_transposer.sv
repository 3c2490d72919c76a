// Collects a digit of each of 16 rows a cycle, and after 64 writes 64 bytes of each row (of each plane); after the
// last, the rows' scales.
//
// Writing takes a cycle a row and plane and one a plane, if nothing is waited for, in which no digits may come; and
// two for the scales.
module digit_transposer (
  input logic clk,
  input logic rst,
  input logic two,
  input logic [31:0] pitch,
  input logic [31:0] plane,
  // A group of rows begins.
  input logic group_valid,
  input logic [63:0] group_destination,
  input logic [63:0] group_scales,
  input logic [4:0] group_rows,
  input logic in_valid,
  // With the last digits of a group.
  input logic in_last,
  input logic [127:0] in_high,
  input logic [127:0] in_low,
  input logic [511:0] scales,
  output logic cmd_valid,
  input logic cmd_ready,
  output logic [63:0] cmd_address,
  output logic [14:0] cmd_words,
  input logic room,
  output logic reserve,
  output logic push,
  output logic [511:0] push_data,
  // What came was written.
  output logic drained
);
  typedef enum logic [1:0] {COLLECT, HIGH, LOW, SCALES} state_t;
  state_t state;
  logic [5:0] digits_in;
  logic last;
  logic [4:0] row;
  logic [63:0] block, address;
  logic step, shift, shifts_high, shifts_low;

  // A write's request and its beat go at once.
  assign cmd_valid = state != COLLECT && room;
  assign step = cmd_valid && cmd_ready;
  assign reserve = step;
  assign push = step;
  assign cmd_address = state == SCALES ? group_scales : address;
  assign cmd_words = state == SCALES ? {10'd0, group_rows} : 15'd16;
  assign shift = row + 5'd1 == group_rows;
  assign shifts_high = step && state == HIGH;
  assign shifts_low = step && state == LOW;

  for (genvar i = 0; i < 16; i++) begin : gen_row
    logic [511:0] high, low;
    if (i < 15) begin : gen_next
      always_ff @(posedge clk) begin
        if (in_valid) begin
          high <= {in_high[8*i +: 8], high[511:8]};
          low <= {in_low[8*i +: 8], low[511:8]};
        end else begin
          if (shifts_high) high <= gen_row[i+1].high;
          if (shifts_low) low <= gen_row[i+1].low;
        end
      end
    end else begin : gen_last
      always_ff @(posedge clk) begin
        if (in_valid) begin
          high <= {in_high[8*i +: 8], high[511:8]};
          low <= {in_low[8*i +: 8], low[511:8]};
        end
      end
    end
  end
  assign push_data = state == SCALES ? scales : state == LOW ? gen_row[0].low : gen_row[0].high;

  always_ff @(posedge clk) begin
    if (in_valid) last <= in_last;
    if (group_valid) block <= group_destination;
    else if (state == COLLECT && in_valid && digits_in == 6'd63) block <= block + 64'd64;
    if (state == COLLECT) begin
      address <= block;
      row <= 5'd0;
    end else if (step) begin
      row <= shift ? 5'd0 : row + 5'd1;
      address <= shift ? block - 64'd64 + {32'd0, plane} : address + {32'd0, pitch};
    end
    drained <= 1'b0;
    if (rst) begin
      state <= COLLECT;
      digits_in <= '0;
    end else begin
      if (in_valid) digits_in <= digits_in + 6'd1;
      unique case (state)
        COLLECT: if (in_valid && digits_in == 6'd63) state <= HIGH;
        HIGH: if (step && shift) state <= two ? LOW : last ? SCALES : COLLECT;
        LOW: if (step && shift) state <= last ? SCALES : COLLECT;
        default: if (step) state <= COLLECT;
      endcase
      drained <= step && (state == SCALES || !last && shift && (state == LOW || !two));
    end
  end
endmodule

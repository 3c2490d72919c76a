// Collects rows of digits, 16 a beat, and writes a row's planes and its scale when the row is whole; meanwhile the
// next row is collected. It has four places for rows of up to 16,384 digits.
//
// A row of n beats of 64 digits takes n + 5 cycles (2n + 8 of two digits) if nothing is waited for.
module digit_writer (
  input logic clk,
  input logic rst,
  input logic two,
  input logic [31:0] plane,
  // A row begins: where it goes, where its scale goes, its beats of 64 digits.
  input logic row_valid,
  output logic row_ready,
  input logic [63:0] row_destination,
  input logic [63:0] row_scale,
  input logic [8:0] row_beats,
  input logic in_valid,
  input logic [127:0] in_high,
  input logic [127:0] in_low,
  input logic scale_valid,
  input logic [31:0] scale,
  // To row_writer, by the engine's queue: `push` is taken always, `room` says that it may be asked for (`reserve`)
  // two cycles before.
  output logic cmd_valid,
  input logic cmd_ready,
  output logic [63:0] cmd_address,
  output logic [14:0] cmd_words,
  input logic room,
  output logic reserve,
  output logic push,
  output logic [511:0] push_data,
  output logic idle
);
  typedef enum logic [2:0] {WAIT, HIGH, HIGH_DATA, LOW, LOW_DATA, SCALE, SCALE_DATA} state_t;
  state_t state;

  logic head_valid, head_taken;
  logic [63:0] head_destination, head_scale;
  logic [8:0] head_beats;
  stream_fifo #(.WIDTH(137), .DEPTH(4)) rows (
    .clk, .rst, .in_valid(row_valid), .in_ready(row_ready), .in_data({row_destination, row_scale, row_beats}),
    .out_valid(head_valid), .out_ready(head_taken), .out_data({head_destination, head_scale, head_beats}));

  // No more scales than rows are under way.
  /* verilator lint_off UNUSEDSIGNAL */
  logic scale_ready;
  /* verilator lint_on UNUSEDSIGNAL */
  logic word_valid;
  logic [31:0] word;
  stream_fifo #(.WIDTH(32), .DEPTH(4)) scale_queue (
    .clk, .rst, .in_valid(scale_valid), .in_ready(scale_ready), .in_data(scale), .out_valid(word_valid), .out_ready(head_taken),
    .out_data(word));

  // In: four beats of digits are one.
  logic [383:0] high, low;
  logic [9:0] digits_in;
  logic put;
  logic [1:0] put_slot;
  logic [2:0] complete;
  logic row_in;
  // Of each place.
  logic [7:0] beats_of[4];
  logic [1:0] begun_slot;
  assign put = in_valid && digits_in[1:0] == 2'd3;
  assign row_in = put && digits_in[9:2] + 8'd1 == beats_of[put_slot];

  logic [9:0] read_beat;
  logic [1:0] read_slot;
  logic read, read1, read2, low_plane, low1, low2, scale1, scale2;
  logic [1023:0] stored;
  row_buffer #(.WIDTH(1024), .DEPTH(1024)) store (
    .clk, .write(put), .write_address({put_slot, digits_in[9:2]}), .write_data({in_low, low, in_high, high}),
    .read, .read_address({read_slot, read_beat[7:0]}), .read_data(stored));

  assign low_plane = state == LOW_DATA;
  assign read = (state == HIGH_DATA || low_plane) && room;
  assign reserve = read || state == SCALE_DATA && room;
  assign head_taken = state == SCALE_DATA && room;
  assign cmd_valid = state == HIGH || state == LOW || state == SCALE;
  assign cmd_address = state == HIGH ? head_destination : state == LOW ? head_destination + {32'd0, plane} : head_scale;
  assign cmd_words = state == SCALE ? 15'd1 : {2'd0, head_beats, 4'd0};
  assign push = read2 || scale2;
  logic [31:0] word1, word2;
  assign push_data = scale2 ? {480'd0, word2} : low2 ? stored[1023:512] : stored[511:0];
  assign idle = !head_valid && !read1 && !scale1 && !push;

  logic last_read;
  assign last_read = read && read_beat[8:0] + 9'd1 == head_beats;

  always_ff @(posedge clk) begin
    if (in_valid) begin
      high <= {in_high, high[383:128]};
      low <= {in_low, low[383:128]};
    end
    if (row_valid && row_ready) beats_of[begun_slot] <= row_beats[7:0];
    word1 <= word;
    word2 <= word1;
    if (rst) begin
      state <= WAIT;
      begun_slot <= 2'd0;
      put_slot <= 2'd0;
      read_slot <= 2'd0;
      digits_in <= '0;
      complete <= '0;
      read_beat <= '0;
      {read1, read2, low1, low2, scale1, scale2} <= '0;
    end else begin
      if (row_valid && row_ready) begun_slot <= begun_slot + 2'd1;
      if (in_valid) digits_in <= row_in ? 10'd0 : digits_in + 10'd1;
      if (row_in) put_slot <= put_slot + 2'd1;
      if (head_taken) read_slot <= read_slot + 2'd1;
      complete <= complete + {2'd0, row_in} - {2'd0, head_taken};
      if (read) read_beat <= last_read ? 10'd0 : read_beat + 10'd1;
      {read2, read1} <= {read1, read};
      {low2, low1} <= {low1, low_plane};
      {scale2, scale1} <= {scale1, head_taken};
      unique case (state)
        WAIT: if (complete != 0 && word_valid) state <= HIGH;
        HIGH: if (cmd_ready) state <= HIGH_DATA;
        HIGH_DATA: if (last_read) state <= two ? LOW : SCALE;
        LOW: if (cmd_ready) state <= LOW_DATA;
        LOW_DATA: if (last_read) state <= SCALE;
        SCALE: if (cmd_ready) state <= SCALE_DATA;
        default: if (head_taken) state <= WAIT;
      endcase
    end
  end
endmodule

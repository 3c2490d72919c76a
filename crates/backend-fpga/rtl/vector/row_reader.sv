// Reads rows of words that begin at any multiple of 4 bytes. A row is given out in beats of 16 words that begin with
// it, and begin anew with each `segment` words of it; lanes that have no word are zeros.
//
// A row takes a cycle a beat that is given out, and one more where its first does not lie in one beat of the memory
// (`address / 4 % 16 + min(16, segment, words) > 16`). Up to QUEUE rows are asked for ahead.
module row_reader #(
  parameter int TAG = 4,
  parameter int QUEUE = 64
) (
  input logic clk,
  input logic rst,
  input logic cmd_valid,
  output logic cmd_ready,
  // A multiple of 4.
  /* verilator lint_off UNUSEDSIGNAL */
  input logic [63:0] cmd_address,
  /* verilator lint_on UNUSEDSIGNAL */
  input logic [14:0] cmd_words,
  input logic [14:0] cmd_segment,
  input logic [TAG-1:0] cmd_tag,
  output logic rd_req_valid,
  input logic rd_req_ready,
  output logic [63:0] rd_req_addr,
  output logic [31:0] rd_req_beats,
  input logic rd_valid,
  output logic rd_ready,
  input logic [511:0] rd_data,
  output logic out_valid,
  input logic out_ready,
  output logic [511:0] out_data,
  output logic [4:0] out_count,
  output logic out_last,
  output logic [TAG-1:0] out_tag
);
  logic queue_ready;
  logic head_valid, head_taken;
  logic [3:0] head_offset;
  logic [14:0] head_words, head_segment;
  logic [TAG-1:0] head_tag;

  assign cmd_ready = rd_req_ready && queue_ready;
  assign rd_req_valid = cmd_valid && queue_ready;
  assign rd_req_addr = {cmd_address[63:6], 6'd0};
  assign rd_req_beats = {20'd0, 12'((16'(cmd_words) + {12'd0, cmd_address[5:2]} + 16'd15) >> 4)};

  stream_fifo #(.WIDTH(34 + TAG), .DEPTH(QUEUE)) queue (
    .clk, .rst, .in_valid(cmd_valid && rd_req_ready), .in_ready(queue_ready),
    .in_data({cmd_address[5:2], cmd_words, cmd_segment, cmd_tag}),
    .out_valid(head_valid), .out_ready(head_taken), .out_data({head_offset, head_words, head_segment, head_tag}));

  // Of the row at the queue's head: whether any of it was taken, words of the last beat that were not, words to come.
  logic started;
  logic [3:0] held;
  logic [14:0] words_left, segment_left;
  logic [511:0] previous;

  logic [14:0] words_now, segment_now, shorter;
  logic [4:0] count, places;
  logic [3:0] rest;
  logic need, whole, step;

  assign words_now = started ? words_left : head_words;
  assign segment_now = started ? segment_left : head_segment;
  assign shorter = words_now < segment_now ? words_now : segment_now;
  assign count = shorter > 15'd16 ? 5'd16 : shorter[4:0];
  assign need = !started || {1'b0, held} < count;
  assign whole = started || {1'b0, head_offset} + count <= 5'd16;
  assign places = started ? 5'd16 - {1'b0, held} : {1'b0, head_offset};
  // Words that are left of the newest beat.
  assign rest = !started ? 4'd0 - head_offset - (whole ? count[3:0] : 4'd0) : held - count[3:0];
  assign step = head_valid && (!need || rd_valid) && (!out_valid || out_ready);
  assign rd_ready = head_valid && need && (!out_valid || out_ready);
  assign head_taken = step && whole && words_now == {10'd0, count};

  // `words` words from the word `skip` on of two beats.
  function automatic logic [511:0] cut(input logic [511:0] low, input logic [511:0] high, input logic [4:0] skip,
                                       input logic [4:0] words);
    if (skip == 5'd16) cut = high;
    else if (skip == 0) cut = low;
    else cut = (low >> {skip[3:0], 5'd0}) | (high << (9'd0 - {skip[3:0], 5'd0}));
    if (words != 5'd16) cut = cut & ~({512{1'b1}} << {words[3:0], 5'd0});
  endfunction

  always_ff @(posedge clk) begin
    if (step) begin
      if (need) previous <= rd_data;
      if (whole) begin
        out_data <= cut(started ? previous : rd_data, rd_data, places, count);
        out_count <= count;
        out_last <= words_now == {10'd0, count};
        out_tag <= head_tag;
      end
      words_left <= whole ? words_now - {10'd0, count} : words_now;
      segment_left <= !whole ? segment_now : segment_now == {10'd0, count} ? head_segment : segment_now - {10'd0, count};
      held <= rest;
    end
    if (rst) begin
      started <= 1'b0;
      out_valid <= 1'b0;
    end else begin
      if (step) started <= !head_taken;
      if (step) out_valid <= whole;
      else if (out_ready) out_valid <= 1'b0;
    end
  end
endmodule

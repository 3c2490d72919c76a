// Writes rows of words to any multiple of 4 bytes: the reverse of row_reader, with beats that hold up to 16 words and
// begin anew with each `segment` words. Bytes around a row are left as they are, by strobes.
//
// A row takes a cycle a beat that comes in, and one more where it ends in a beat of the memory that its last beat
// only spills into.
module row_writer (
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
  input logic in_valid,
  output logic in_ready,
  input logic [511:0] in_data,
  output logic wr_req_valid,
  input logic wr_req_ready,
  output logic [63:0] wr_req_addr,
  output logic [31:0] wr_req_beats,
  output logic wr_valid,
  input logic wr_ready,
  output logic [511:0] wr_data,
  output logic [63:0] wr_strb,
  output logic idle
);
  logic queue_ready, head_valid, head_taken;
  logic [3:0] head_offset;
  logic [14:0] head_words, head_segment;

  assign cmd_ready = wr_req_ready && queue_ready;
  assign wr_req_valid = cmd_valid && queue_ready;
  assign wr_req_addr = {cmd_address[63:6], 6'd0};
  assign wr_req_beats = {20'd0, 12'((16'(cmd_words) + {12'd0, cmd_address[5:2]} + 16'd15) >> 4)};

  stream_fifo #(.WIDTH(34), .DEPTH(8)) queue (
    .clk, .rst, .in_valid(cmd_valid && wr_req_ready), .in_ready(queue_ready),
    .in_data({cmd_address[5:2], cmd_words, cmd_segment}),
    .out_valid(head_valid), .out_ready(head_taken), .out_data({head_offset, head_words, head_segment}));

  // Of the row at the queue's head: whether it was begun, where its next word goes, from where on the beat that is
  // being filled is the row's, what was put there, and whether only that is left to be written.
  logic started, flush;
  logic [3:0] fill, begins;
  logic [14:0] words_left, segment_left;
  logic [511:0] filled;

  logic [14:0] words_now, segment_now, shorter;
  logic [3:0] fill_now, begins_now;
  logic [4:0] count;
  logic [5:0] ends;
  logic last, step, emit, free;

  assign words_now = started ? words_left : head_words;
  assign segment_now = started ? segment_left : head_segment;
  assign fill_now = started ? fill : head_offset;
  assign begins_now = started ? begins : head_offset;
  assign shorter = words_now < segment_now ? words_now : segment_now;
  assign count = shorter > 15'd16 ? 5'd16 : shorter[4:0];
  assign ends = {2'd0, fill_now} + {1'b0, count};
  assign last = words_now == {10'd0, count};
  assign free = !wr_valid || wr_ready;
  assign in_ready = head_valid && !flush && free;
  assign step = in_valid && in_ready;
  assign emit = flush ? free : step && (last || ends >= 6'd16);
  assign head_taken = flush ? free : step && last && ends <= 6'd16;
  assign idle = !head_valid && !wr_valid;

  // A beat moved up by `words` words, onto what is below.
  function automatic logic [511:0] onto(input logic [511:0] below, input logic [511:0] beat, input logic [3:0] words);
    if (words == 0) onto = beat;
    else onto = (beat << {words, 5'd0}) | (below & ~({512{1'b1}} << {words, 5'd0}));
  endfunction

  logic [15:0] words_kept;
  logic [5:0] ends_now;
  assign ends_now = flush ? {2'd0, fill} : ends;

  always_ff @(posedge clk) begin
    if (step) begin
      // What spills over becomes the next beat's beginning.
      if (ends < 6'd16) filled <= onto(filled, in_data, fill_now);
      else if (fill_now != 0) filled <= in_data >> (9'd0 - {fill_now, 5'd0});
      words_left <= words_now - {10'd0, count};
      segment_left <= segment_now == {10'd0, count} ? head_segment : segment_now - {10'd0, count};
      fill <= ends[3:0];
      begins <= ends >= 6'd16 ? 4'd0 : begins_now;
    end
    if (emit) begin
      wr_data <= flush ? filled : onto(filled, in_data, fill_now);
      words_kept <= (16'hffff << begins_now) & (ends_now >= 6'd16 ? 16'hffff : ~(16'hffff << ends_now[3:0]));
    end
    if (rst) begin
      started <= 1'b0;
      flush <= 1'b0;
      wr_valid <= 1'b0;
    end else begin
      if (head_taken) started <= 1'b0;
      else if (step) started <= 1'b1;
      if (flush) flush <= !free;
      else flush <= step && last && ends > 6'd16;
      if (free) wr_valid <= emit;
    end
  end

  for (genvar i = 0; i < 16; i++) begin : gen_strobe
    assign wr_strb[4*i +: 4] = {4{words_kept[i]}};
  end
endmodule

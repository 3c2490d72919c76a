// Walks over a descriptor's rows and asks for what each needs: `cmd_*` goes to row_reader, `unit_*` to the stages
// that follow.
//
// What is worked on at a time is a unit: a row, 16,384 words of a longer one (elementwise operations only), or with
// FLAG_TRANSPOSE 16 columns. A unit's smaller operands are asked for before its row, and the parameters of a norm
// before all. A request takes a cycle where it is taken at once.
module row_walker (
  input logic clk,
  input logic rst,
  input logic start,
  /* verilator lint_off UNUSEDSIGNAL */
  input smolvla_pkg::descriptor_t desc,
  /* verilator lint_on UNUSEDSIGNAL */
  // Nothing more will be asked for.
  output logic finished,
  output logic cmd_valid,
  input logic cmd_ready,
  output logic [63:0] cmd_address,
  output logic [14:0] cmd_words,
  output logic [14:0] cmd_segment,
  // Where it goes (0 row, 1 and 2 second and third operand, 3 mask), the unit's place in the buffers, and whether it
  // begins and ends the unit's row.
  output logic [5:0] cmd_tag,
  // A unit whose row is asked for: where results and scales go, its words, and how many lanes it has with
  // FLAG_TRANSPOSE.
  output logic unit_valid,
  input logic unit_ready,
  output logic [63:0] unit_destination,
  output logic [63:0] unit_scales,
  output logic [14:0] unit_words,
  output logic [4:0] unit_lanes
);
  typedef enum logic [2:0] {IDLE, GAIN, BIAS, SECOND, THIRD, MASK, ROW} state_t;
  state_t state, unit_first;

  localparam logic [31:0] MOST = 32'(smolvla_pkg::ROW_WORDS);

  logic transposed, has_mask;
  assign transposed = desc.op == smolvla_pkg::OP_QUANTISE && desc.flags[smolvla_pkg::FLAG_TRANSPOSE];
  assign has_mask = desc.op == smolvla_pkg::OP_SOFTMAX && desc.flags[smolvla_pkg::FLAG_MASK];
  always_comb begin
    unit_first = ROW;
    if (has_mask) unit_first = MASK;
    if (desc.op == smolvla_pkg::OP_ROPE || desc.op == smolvla_pkg::OP_COMBINE && desc.flags[smolvla_pkg::FLAG_ADD] ||
        desc.op == smolvla_pkg::OP_ACTIVATE && desc.flags[smolvla_pkg::FLAG_MULTIPLY])
      unit_first = SECOND;
  end

  logic [31:0] row_words;
  // A row of OP_ROPE is bounded by the row buffer.
  assign row_words = desc.op == smolvla_pkg::OP_ROPE ? {desc.depth[14:0], 1'b0} * desc.cols[15:0] : desc.cols;

  logic [31:0] rows_left, words_left, repeat_left, blocks_left, keys_left;
  logic [63:0] block_source, row_source, at_source, row_second, at_second, row_third;
  logic [63:0] block_destination, row_destination, at_destination, scales;
  logic [1:0] slot;

  logic [14:0] words;
  logic taken, row_ends, last_row, last_block, wraps;
  assign words = words_left > MOST ? MOST[14:0] : words_left[14:0];
  assign taken = cmd_valid && cmd_ready;
  assign row_ends = words_left <= MOST;
  assign last_row = transposed ? rows_left <= 32'd16 : rows_left == 32'd1;
  assign last_block = desc.op != smolvla_pkg::OP_COPY || blocks_left == 32'd1;
  assign wraps = desc.op != smolvla_pkg::OP_ACTIVATE && repeat_left == 32'd1;

  logic [31:0] pitch_second;
  assign pitch_second = desc.op == smolvla_pkg::OP_ACTIVATE ? desc.pitch[0] : desc.pitch[1];

  logic is_row, first_key, last_key;
  assign is_row = state == ROW;
  assign first_key = !transposed || keys_left == desc.cols;
  assign last_key = !transposed || keys_left == 32'd1;
  // A unit is made known with its first request of a row.
  assign unit_valid = is_row && first_key && cmd_ready;
  assign cmd_valid = state != IDLE && (!(is_row && first_key) || unit_ready);
  assign unit_destination = at_destination;
  assign unit_scales = scales;
  assign unit_words = words;
  assign unit_lanes = rows_left > 32'd16 ? 5'd16 : rows_left[4:0];
  assign finished = state == IDLE;

  always_comb begin
    cmd_address = at_source;
    cmd_words = transposed ? {10'd0, unit_lanes} : words;
    cmd_segment = desc.op == smolvla_pkg::OP_ROPE ? desc.cols[14:0] : cmd_words;
    cmd_tag = {is_row && last_key, is_row && first_key, slot, 2'd0};
    unique case (state)
      GAIN: begin
        cmd_address = desc.source[1];
        cmd_tag = {2'd0, 2'd0, 2'd1};
      end
      BIAS: begin
        cmd_address = desc.source[2];
        cmd_tag = {2'd0, 2'd0, 2'd2};
      end
      SECOND: begin
        cmd_address = at_second;
        cmd_tag[1:0] = 2'd1;
      end
      THIRD: begin
        cmd_address = row_third;
        cmd_tag[1:0] = 2'd2;
      end
      MASK: begin
        cmd_address = at_second;
        cmd_words = (words + 15'd3) >> 2;
        cmd_segment = cmd_words;
        cmd_tag[1:0] = 2'd3;
      end
      default: ;
    endcase
    if (desc.op == smolvla_pkg::OP_ROPE && (state == SECOND || state == THIRD)) cmd_words = desc.cols[14:0];
  end

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= IDLE;
    end else if (start) begin
      if (desc.rows != 0 && desc.cols != 0 && (desc.op != smolvla_pkg::OP_COPY && desc.op != smolvla_pkg::OP_ROPE || desc.depth != 0))
        state <= desc.op == smolvla_pkg::OP_NORM ? GAIN : unit_first;
    end else if (taken) begin
      unique case (state)
        GAIN: state <= desc.flags[smolvla_pkg::FLAG_BIAS] ? BIAS : ROW;
        BIAS, MASK, THIRD: state <= ROW;
        SECOND: state <= desc.op == smolvla_pkg::OP_ROPE ? THIRD : ROW;
        default: if (last_key) state <= row_ends && last_row && last_block ? IDLE : unit_first;
      endcase
    end
    if (start) begin
      slot <= 2'd0;
      rows_left <= desc.rows;
      words_left <= row_words;
      repeat_left <= desc.repeat_rows;
      blocks_left <= desc.depth;
      keys_left <= desc.cols;
      block_source <= desc.source[0];
      row_source <= desc.source[0];
      at_source <= desc.source[0];
      row_second <= desc.source[1];
      at_second <= desc.source[1];
      row_third <= desc.source[2];
      block_destination <= desc.destination[0];
      row_destination <= desc.destination[0];
      at_destination <= desc.destination[0];
      scales <= desc.destination[1];
    end else if (taken && is_row) begin
      if (!last_key) begin
        keys_left <= keys_left - 32'd1;
        at_source <= at_source + {32'd0, desc.pitch[0]};
      end else begin
        slot <= slot + 2'd1;
        keys_left <= desc.cols;
        if (transposed) begin
          rows_left <= rows_left - 32'd16;
          row_source <= row_source + 64'd64;
          at_source <= row_source + 64'd64;
          at_destination <= at_destination + {28'd0, desc.pitch[2], 4'd0};
          scales <= scales + 64'd64;
        end else if (!row_ends) begin
          words_left <= words_left - MOST;
          at_source <= at_source + {30'd0, MOST, 2'd0};
          at_second <= at_second + {30'd0, MOST, 2'd0};
          at_destination <= at_destination + {30'd0, MOST, 2'd0};
        end else begin
          words_left <= row_words;
          scales <= scales + 64'd4;
          repeat_left <= wraps ? desc.repeat_rows : repeat_left - 32'd1;
          row_second <= wraps ? desc.source[1] : row_second + {32'd0, pitch_second};
          at_second <= wraps ? desc.source[1] : row_second + {32'd0, pitch_second};
          row_third <= wraps ? desc.source[2] : row_third + {32'd0, desc.pitch[1]};
          if (last_row) begin
            rows_left <= desc.rows;
            blocks_left <= blocks_left - 32'd1;
            block_source <= block_source + {32'd0, desc.plane[0]};
            row_source <= block_source + {32'd0, desc.plane[0]};
            at_source <= block_source + {32'd0, desc.plane[0]};
            block_destination <= block_destination + {32'd0, desc.plane[1]};
            row_destination <= block_destination + {32'd0, desc.plane[1]};
            at_destination <= block_destination + {32'd0, desc.plane[1]};
          end else begin
            rows_left <= rows_left - 32'd1;
            row_source <= row_source + {32'd0, desc.pitch[0]};
            at_source <= row_source + {32'd0, desc.pitch[0]};
            row_destination <= row_destination + {32'd0, desc.pitch[2]};
            at_destination <= row_destination + {32'd0, desc.pitch[2]};
          end
        end
      end
    end
  end

endmodule

// What the units must know of a row before they go over it: its largest magnitude, its largest and smallest word. As
// all of arith::fixed keeps the order of words, these give row_exponent and the extremes of the fixed-point row.
//
// Collects while a row is loaded, a lane for each of 16; then folds them into lane 0 in 4 cycles, but for
// FLAG_TRANSPOSE, whose rows are the lanes. The next row can be collected while one is held.
module row_statistics (
  input logic clk,
  input logic rst,
  input logic collect,
  input logic fold,
  input logic beat_valid,
  input logic beat_first,
  input logic [15:0] beat_lanes,
  input logic [511:0] beat_data,
  input logic loaded_valid,
  output logic loaded_ready,
  // One cycle after the lanes are folded.
  output logic known,
  output logic out_valid,
  input logic out_ready,
  // Of each lane: the largest word without its sign.
  output logic [495:0] magnitudes,
  // Of lane 0: the largest and the smallest word, whose order is that of `ordered`; whether there was any.
  output logic [31:0] largest,
  output logic [31:0] smallest,
  output logic any
);
  // Words as unsigned numbers of their order, and back.
  function automatic logic [31:0] ordered(input logic [31:0] x);
    ordered = x[31] ? ~x : {1'b1, x[30:0]};
  endfunction
  function automatic logic [31:0] word(input logic [31:0] k);
    word = k[31] ? {1'b0, k[30:0]} : ~k;
  endfunction

  typedef enum logic [1:0] {IDLE, FOLD, HOLD} state_t;
  state_t state;
  logic [1:0] level;
  logic take;
  logic [31:0] high[16], low[16];
  logic [30:0] magnitude[16];
  logic seen;

  assign loaded_ready = state == IDLE;
  assign take = loaded_valid && loaded_ready;
  assign out_valid = state == HOLD;

  for (genvar i = 0; i < 16; i++) begin : gen_lane
    logic [31:0] x, key, lane_high, lane_low;
    logic [30:0] lane_magnitude;
    assign x = beat_data[32*i +: 32];
    assign key = ordered(x);
    assign magnitudes[31*i +: 31] = magnitude[i];
    always_ff @(posedge clk) begin
      if (beat_valid && collect) begin
        if (beat_lanes[i]) begin
          lane_high <= beat_first || key > lane_high ? key : lane_high;
          lane_low <= beat_first || key < lane_low ? key : lane_low;
          lane_magnitude <= beat_first || x[30:0] > lane_magnitude ? x[30:0] : lane_magnitude;
        end else if (beat_first) begin
          lane_high <= 32'd0;
          lane_low <= 32'hffffffff;
          lane_magnitude <= 31'd0;
        end
      end
    end
    // Half of the lanes is compared with the other half: 8, then 4, 2, 1 apart.
    if (i < 8) begin : gen_fold
      logic folds;
      logic [3:0] other;
      assign other = 4'(i) + (4'd8 >> level);
      assign folds = state == FOLD && fold && 4'(i) < (4'd8 >> level);
      always_ff @(posedge clk) begin
        if (take && collect) begin
          high[i] <= lane_high;
          low[i] <= lane_low;
          magnitude[i] <= lane_magnitude;
        end else if (folds) begin
          if (high[other] > high[i]) high[i] <= high[other];
          if (low[other] < low[i]) low[i] <= low[other];
          if (magnitude[other] > magnitude[i]) magnitude[i] <= magnitude[other];
        end
      end
    end else begin : gen_keep
      always_ff @(posedge clk) begin
        if (take && collect) begin
          high[i] <= lane_high;
          low[i] <= lane_low;
          magnitude[i] <= lane_magnitude;
        end
      end
    end
  end

  assign largest = word(high[0]);
  assign smallest = word(low[0]);

  always_ff @(posedge clk) begin
    if (beat_valid && collect) seen <= (!beat_first && seen) || beat_lanes != 0;
    if (take) begin
      any <= seen;
      level <= 2'd0;
    end else if (state == FOLD) begin
      level <= level + 2'd1;
    end
    known <= state == FOLD && (level == 2'd3 || !fold);
    if (rst) state <= IDLE;
    else begin
      unique case (state)
        IDLE: if (take) state <= collect ? FOLD : HOLD;
        FOLD: if (level == 2'd3 || !fold) state <= HOLD;
        default: if (out_ready) state <= IDLE;
      endcase
    end
  end
endmodule

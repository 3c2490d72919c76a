// Reads descriptors and has the engines do one after the other: an operation begins when the memory has acknowledged
// every write of the one before. Stops at OP_END, at an operation that there is none of, at an error of the bus, and
// after `limit` descriptors.
//
// Descriptors are read up to sixteen at once, to the next multiple of 2 KiB: what follows OP_END there is read and
// thrown away.
module sequencer (
    input  logic         clk,
    input  logic         rst,
    input  logic         start,
    input  logic [ 63:0] stream,
    input  logic [ 31:0] limit,
    // High for a cycle, with `error`: 0 ended well, 1 unknown operation, 2 limit, 3 bus.
    output logic         done,
    output logic [  7:0] error,
    // The operation in work; 0 while descriptors are read.
    output logic [  3:0] op,
    // High for a cycle: a descriptor is done.
    output logic         step,
    output smolvla_pkg::descriptor_t descriptor,
    // Whose turn it is to read.
    output logic         reads,
    output logic         gemm_start,
    input  logic         gemm_done,
    output logic         vector_start,
    input  logic         vector_done,
    output logic         rd_req_valid,
    input  logic         rd_req_ready,
    output logic [ 63:0] rd_req_addr,
    output logic [ 31:0] rd_req_beats,
    input  logic         rd_valid,
    input  logic [511:0] rd_data,
    input  logic         rd_idle,
    input  logic         wr_idle,
    input  logic         bus_error
);
  typedef enum logic [3:0] {
    IDLE,
    REQUEST,
    RECEIVE,
    LOAD_LOW,
    LOAD_HIGH,
    LATCH,
    DISPATCH,
    RUN,
    DRAIN
  } state_t;
  state_t state;

  // Descriptors that were read: halves of one lie side by side.
  logic [511:0] halves[0:31];
  logic [511:0] half;
  // Halves that come, have come, and were used.
  logic [5:0] expected;
  logic [5:0] received;
  logic [4:0] place;
  logic [31:0] count;
  logic [56:0] next;
  logic had_bus_error;

  assign rd_req_valid = state == REQUEST;
  assign rd_req_addr = {next, 7'd0};
  // To the next multiple of 2 KiB.
  wire [5:0] batch = 6'd32 - {1'b0, next[3:0], 1'b0};
  assign rd_req_beats = {26'd0, batch};
  assign reads = state == REQUEST || state == RECEIVE;

  wire is_known = descriptor.op <= smolvla_pkg::OP_COPY;
  wire is_end = descriptor.op == smolvla_pkg::OP_END;
  wire is_gemm = descriptor.op == smolvla_pkg::OP_GEMM;
  wire over = limit != '0 && count == limit;
  assign op = (state == RUN || state == DRAIN) ? descriptor.op[3:0] : 4'd0;

  always_ff @(posedge clk) begin
    if (state == RECEIVE && rd_valid) halves[received[4:0]] <= rd_data;
    half <= halves[place];
  end

  always_ff @(posedge clk) begin
    done <= 1'b0;
    step <= 1'b0;
    gemm_start <= 1'b0;
    vector_start <= 1'b0;
    if (rst) begin
      state <= IDLE;
      had_bus_error <= 1'b0;
      error <= '0;
    end else begin
      if (bus_error) had_bus_error <= 1'b1;
      case (state)
        IDLE: begin
          next  <= stream[63:7];
          count <= '0;
          error <= '0;
          had_bus_error <= 1'b0;
          if (start) state <= REQUEST;
        end
        REQUEST: begin
          expected <= batch;
          received <= '0;
          place <= '0;
          if (rd_req_ready) state <= RECEIVE;
        end
        RECEIVE: begin
          if (rd_valid) received <= received + 1'b1;
          // The last beat's error, if any, is known once the master is idle.
          if (received == expected && rd_idle) state <= LOAD_LOW;
        end
        // The buffer answers a cycle after its address.
        LOAD_LOW: begin
          place <= place + 1'b1;
          state <= LOAD_HIGH;
        end
        LOAD_HIGH: begin
          descriptor[511:0] <= half;
          place <= place + 1'b1;
          state <= LATCH;
        end
        LATCH: begin
          descriptor[1023:512] <= half;
          state <= DISPATCH;
        end
        DISPATCH: begin
          next  <= next + 1'b1;
          count <= count + 1'b1;
          if (had_bus_error || over || !is_known || is_end) begin
            error <= had_bus_error ? 8'd3 : over ? 8'd2 : !is_known ? 8'd1 : 8'd0;
            done  <= 1'b1;
            state <= IDLE;
          end else begin
            gemm_start <= is_gemm;
            vector_start <= !is_gemm;
            state <= RUN;
          end
        end
        RUN: if (is_gemm ? gemm_done : vector_done) state <= DRAIN;
        default: begin
          if (rd_idle && wr_idle) begin
            step <= 1'b1;
            // 32 halves are used when their place is 0 again.
            state <= {1'b0, place} == expected || place == '0 ? REQUEST : LOAD_LOW;
          end
        end
      endcase
    end
  end

  // Streams begin at multiples of 128.
  wire unused = &{stream[6:0]};
endmodule

// Registers of a compute unit, over AXI4-Lite: the map of Vitis kernels with `ap_ctrl_hs`, and counters.
//
//   0x00        bit 0 ap_start (set by writing, cleared at the end), 1 ap_done (cleared by reading), 2 ap_idle,
//               3 ap_ready (cleared by reading)
//   0x04        bit 0 interrupts on
//   0x08        bit 0 interrupt at ap_done, 1 at ap_ready
//   0x0c        the same bits: which has happened; writing a one changes a bit
//   0x10, 0x14  address of the stream of descriptors, a multiple of 128
//   0x1c        most descriptors to do, OP_END among them; 0 for no limit
//   0x40, 0x44  read only, from here on, and of the last run: cycles from start to end
//   0x48        descriptors done, without OP_END
//   0x4c        bits 0-7: 0 ended well, 1 unknown operation, 2 no OP_END within the limit, 3 the bus answered with an
//               error; bits 8-15: the operation it ended at
//   0x50, 0x54  beats of 64 bytes read
//   0x58, 0x5c  beats written
//   0x60 + 8·i  and the next word: cycles in operation i (smolvla_pkg::op_t); operation 0 is waiting for descriptors
module control #(
    parameter int ADDR_WIDTH = 12
) (
    input  logic                  clk,
    input  logic                  rst,
    input  logic                  s_axi_awvalid,
    output logic                  s_axi_awready,
    input  logic [ADDR_WIDTH-1:0] s_axi_awaddr,
    input  logic                  s_axi_wvalid,
    output logic                  s_axi_wready,
    input  logic [          31:0] s_axi_wdata,
    input  logic [           3:0] s_axi_wstrb,
    output logic                  s_axi_bvalid,
    input  logic                  s_axi_bready,
    output logic [           1:0] s_axi_bresp,
    input  logic                  s_axi_arvalid,
    output logic                  s_axi_arready,
    input  logic [ADDR_WIDTH-1:0] s_axi_araddr,
    output logic                  s_axi_rvalid,
    input  logic                  s_axi_rready,
    output logic [          31:0] s_axi_rdata,
    output logic [           1:0] s_axi_rresp,
    output logic                  interrupt,
    // High for a cycle.
    output logic                  start,
    output logic [          63:0] stream,
    output logic [          31:0] limit,
    // High for a cycle, at the end of a run.
    input  logic                  done,
    input  logic [           7:0] error,
    // What is being done, while it runs; a legal operation or 0.
    input  logic [           3:0] op,
    // The operation byte of the descriptor, legal or not.
    input  logic [           7:0] op_byte,
    // High for a cycle: a descriptor is done.
    input  logic                  step,
    input  logic                  beat_read,
    input  logic                  beat_written
);
  localparam int OPS = 9;
  // Words of the register map.
  localparam logic [5:0] CONTROL = 6'h00, GLOBAL = 6'h01, ENABLE = 6'h02, STATUS = 6'h03, STREAM_LOW = 6'h04,
      STREAM_HIGH = 6'h05, LIMIT = 6'h07, CYCLES_LOW = 6'h10, CYCLES_HIGH = 6'h11, DESCRIPTORS = 6'h12, ERROR = 6'h13,
      READ_LOW = 6'h14, READ_HIGH = 6'h15, WRITTEN_LOW = 6'h16, WRITTEN_HIGH = 6'h17;

  // Writing: an address, then its word, then the answer.
  typedef enum logic [1:0] {
    WRITE_ADDRESS,
    WRITE_WORD,
    WRITE_ANSWER
  } write_state_t;
  write_state_t write_state;
  logic [5:0] write_place;
  logic write_known;
  wire write = s_axi_wvalid && s_axi_wready;

  assign s_axi_awready = write_state == WRITE_ADDRESS;
  assign s_axi_wready = write_state == WRITE_WORD;
  assign s_axi_bvalid = write_state == WRITE_ANSWER;
  assign s_axi_bresp = 2'b00;

  always_ff @(posedge clk) begin
    if (rst) write_state <= WRITE_ADDRESS;
    else begin
      case (write_state)
        WRITE_ADDRESS: if (s_axi_awvalid) write_state <= WRITE_WORD;
        WRITE_WORD: if (s_axi_wvalid) write_state <= WRITE_ANSWER;
        default: if (s_axi_bready) write_state <= WRITE_ADDRESS;
      endcase
    end
    if (s_axi_awvalid && s_axi_awready) begin
      write_place <= s_axi_awaddr[7:2];
      write_known <= s_axi_awaddr[ADDR_WIDTH-1:8] == '0;
    end
  end

  wire [31:0] mask = {{8{s_axi_wstrb[3]}}, {8{s_axi_wstrb[2]}}, {8{s_axi_wstrb[1]}}, {8{s_axi_wstrb[0]}}};
  wire write_low = write && write_known && s_axi_wstrb[0];

  // Reading: a word is answered in the cycle after its address.
  wire [5:0] read_place = s_axi_araddr[7:2];
  wire read_known = s_axi_araddr[ADDR_WIDTH-1:8] == '0;
  wire read = s_axi_arvalid && s_axi_arready;
  wire read_control = read && read_known && read_place == CONTROL;

  logic ap_start, ap_done, ap_ready, running;
  logic interrupts_on;
  logic [1:0] interrupt_enable, interrupt_status;
  logic [63:0] cycles, beats_read, beats_written;
  logic [31:0] descriptors;
  logic [7:0] last_error, last_op;

  assign start = ap_start && !running;
  assign interrupt = interrupts_on && interrupt_status != '0;

  always_ff @(posedge clk) begin
    if (rst) begin
      ap_start <= 1'b0;
      ap_done <= 1'b0;
      ap_ready <= 1'b0;
      running <= 1'b0;
      interrupts_on <= 1'b0;
      interrupt_enable <= '0;
      interrupt_status <= '0;
      stream <= '0;
      limit <= '0;
    end else begin
      if (write_low && write_place == CONTROL && s_axi_wdata[0]) ap_start <= 1'b1;
      else if (done) ap_start <= 1'b0;
      if (done) running <= 1'b0;
      else if (ap_start) running <= 1'b1;
      if (done) ap_done <= 1'b1;
      else if (read_control) ap_done <= 1'b0;
      if (done) ap_ready <= 1'b1;
      else if (read_control) ap_ready <= 1'b0;

      if (write_low && write_place == GLOBAL) interrupts_on <= s_axi_wdata[0];
      if (write_low && write_place == ENABLE) interrupt_enable <= s_axi_wdata[1:0];
      interrupt_status <= (interrupt_status ^ (write_low && write_place == STATUS ? s_axi_wdata[1:0] : 2'b00))
          | (done ? interrupt_enable : 2'b00);

      if (write && write_known && write_place == STREAM_LOW) stream[31:0] <= (stream[31:0] & ~mask) | (s_axi_wdata & mask);
      if (write && write_known && write_place == STREAM_HIGH) stream[63:32] <= (stream[63:32] & ~mask) | (s_axi_wdata & mask);
      if (write && write_known && write_place == LIMIT) limit <= (limit & ~mask) | (s_axi_wdata & mask);
    end
  end

  always_ff @(posedge clk) begin
    if (rst || start) begin
      cycles <= '0;
      descriptors <= '0;
      beats_read <= '0;
      beats_written <= '0;
      last_error <= '0;
      last_op <= '0;
    end else if (running) begin
      cycles <= cycles + 1'b1;
      if (step) descriptors <= descriptors + 1'b1;
      if (beat_read) beats_read <= beats_read + 1'b1;
      if (beat_written) beats_written <= beats_written + 1'b1;
      if (done) begin
        last_error <= error;
        last_op <= op_byte;
      end
    end
  end

  logic [OPS-1:0][63:0] busy;
  for (genvar i = 0; i < OPS; i++) begin : operation
    always_ff @(posedge clk) begin
      if (rst || start) busy[i] <= '0;
      else if (running && op == i) busy[i] <= busy[i] + 1'b1;
    end
  end

  // Places 0x18 + 2·i and the next are of operation i.
  logic [31:0] busy_word;
  always_comb begin
    busy_word = '0;
    for (int i = 0; i < OPS; i++) begin
      if (read_place == 6'(24 + 2 * i)) busy_word = busy[i][31:0];
      if (read_place == 6'(25 + 2 * i)) busy_word = busy[i][63:32];
    end
  end

  assign s_axi_rresp = 2'b00;
  assign s_axi_arready = !s_axi_rvalid;

  always_ff @(posedge clk) begin
    if (rst) s_axi_rvalid <= 1'b0;
    else if (read) s_axi_rvalid <= 1'b1;
    else if (s_axi_rready) s_axi_rvalid <= 1'b0;
    if (read) begin
      s_axi_rdata <= '0;
      if (read_known) begin
        case (read_place)
          CONTROL: s_axi_rdata[3:0] <= {ap_ready, !(ap_start || running), ap_done, ap_start};
          GLOBAL: s_axi_rdata[0] <= interrupts_on;
          ENABLE: s_axi_rdata[1:0] <= interrupt_enable;
          STATUS: s_axi_rdata[1:0] <= interrupt_status;
          STREAM_LOW: s_axi_rdata <= stream[31:0];
          STREAM_HIGH: s_axi_rdata <= stream[63:32];
          LIMIT: s_axi_rdata <= limit;
          CYCLES_LOW: s_axi_rdata <= cycles[31:0];
          CYCLES_HIGH: s_axi_rdata <= cycles[63:32];
          DESCRIPTORS: s_axi_rdata <= descriptors;
          ERROR: s_axi_rdata[15:0] <= {last_op, last_error};
          READ_LOW: s_axi_rdata <= beats_read[31:0];
          READ_HIGH: s_axi_rdata <= beats_read[63:32];
          WRITTEN_LOW: s_axi_rdata <= beats_written[31:0];
          WRITTEN_HIGH: s_axi_rdata <= beats_written[63:32];
          default: s_axi_rdata <= busy_word;
        endcase
      end
    end
  end

  // Registers are whole words.
  wire unused = &{s_axi_awaddr[1:0], s_axi_araddr[1:0]};
endmodule

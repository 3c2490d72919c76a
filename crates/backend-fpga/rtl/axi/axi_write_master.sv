// Writes memory over AXI4 for one writer at a time: requests of whole beats, and their beats in the same order with a
// strobe a byte. `idle` is high once the memory has acknowledged every burst.
module axi_write_master #(
    parameter int OUTSTANDING_LOG2 = 6
) (
    input  logic         clk,
    input  logic         rst,
    input  logic         req_valid,
    output logic         req_ready,
    input  logic [ 63:0] req_addr,
    input  logic [ 31:0] req_beats,
    input  logic         data_valid,
    output logic         data_ready,
    input  logic [511:0] data,
    input  logic [ 63:0] strb,
    // No write is outstanding.
    output logic         idle,
    // High for a cycle: the bus answered with an error.
    output logic         bus_error,
    output logic         m_axi_awvalid,
    input  logic         m_axi_awready,
    output logic [ 63:0] m_axi_awaddr,
    output logic [  7:0] m_axi_awlen,
    output logic         m_axi_wvalid,
    input  logic         m_axi_wready,
    output logic [511:0] m_axi_wdata,
    output logic [ 63:0] m_axi_wstrb,
    output logic         m_axi_wlast,
    input  logic         m_axi_bvalid,
    output logic         m_axi_bready,
    input  logic [  1:0] m_axi_bresp
);
  logic        burst_valid;
  logic        burst_ready;
  logic [63:0] burst_addr;
  logic [ 6:0] burst_beats;
  logic        splitter_idle;

  burst_splitter splitter (
      .clk,
      .rst,
      .req_valid,
      .req_ready,
      .req_addr,
      .req_beats,
      .burst_valid,
      .burst_ready,
      .burst_addr,
      .burst_beats,
      .idle(splitter_idle)
  );

  // Bursts that are not acknowledged.
  logic [OUTSTANDING_LOG2:0] outstanding;
  wire begins = burst_valid && burst_ready;
  wire ends = m_axi_bvalid && m_axi_bready;

  // Lengths less one of the bursts whose beats are still to be sent.
  logic       lengths_ready;
  logic       length_valid;
  logic [5:0] length;
  logic [5:0] sent;
  logic       stage_ready;
  wire        beat = data_valid && data_ready;
  wire        is_last = sent == length;

  assign burst_ready = (!m_axi_awvalid || m_axi_awready) && !outstanding[OUTSTANDING_LOG2] && lengths_ready;
  assign idle = splitter_idle && outstanding == '0;
  assign data_ready = length_valid && stage_ready;
  assign m_axi_bready = 1'b1;

  wire [6:0] burst_length = burst_beats - 7'd1;

  small_fifo #(
      .WIDTH(6),
      .DEPTH_LOG2(4)
  ) lengths (
      .clk,
      .rst,
      .in_valid(begins),
      .in_ready(lengths_ready),
      .in_data(burst_length[5:0]),
      .out_valid(length_valid),
      .out_ready(beat && is_last),
      .out_data(length)
  );

  always_ff @(posedge clk) begin
    if (rst) begin
      outstanding <= '0;
      sent <= '0;
      m_axi_awvalid <= 1'b0;
      bus_error <= 1'b0;
    end else begin
      if (begins && !ends) outstanding <= outstanding + 1'b1;
      if (!begins && ends) outstanding <= outstanding - 1'b1;
      if (begins) m_axi_awvalid <= 1'b1;
      else if (m_axi_awready) m_axi_awvalid <= 1'b0;
      if (beat) sent <= is_last ? '0 : sent + 1'b1;
      bus_error <= ends && m_axi_bresp != 2'b00;
    end
    if (begins) begin
      m_axi_awaddr <= burst_addr;
      m_axi_awlen  <= {1'b0, burst_beats} - 8'd1;
    end
  end

  skid_buffer #(
      .WIDTH(577)
  ) stage (
      .clk,
      .rst,
      .in_valid(data_valid && length_valid),
      .in_ready(stage_ready),
      .in_data({is_last, strb, data}),
      .out_valid(m_axi_wvalid),
      .out_ready(m_axi_wready),
      .out_data({m_axi_wlast, m_axi_wstrb, m_axi_wdata})
  );

  // A length is at most 63, so its top bit says nothing.
  wire unused = burst_length[6];
endmodule

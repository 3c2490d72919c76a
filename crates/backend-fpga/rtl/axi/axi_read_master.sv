// Reads memory over AXI4 for one reader at a time: requests of whole beats in, their data out in the same order. Bursts
// are sent ahead of the data, as many as OUTSTANDING, so that a memory with latency gives a beat a cycle.
module axi_read_master #(
    parameter int OUTSTANDING_LOG2 = 6
) (
    input  logic         clk,
    input  logic         rst,
    input  logic         req_valid,
    output logic         req_ready,
    input  logic [ 63:0] req_addr,
    input  logic [ 31:0] req_beats,
    output logic         data_valid,
    input  logic         data_ready,
    output logic [511:0] data,
    // Every request has been answered and every answer taken.
    output logic         idle,
    // High for a cycle: the bus answered with an error.
    output logic         bus_error,
    output logic         m_axi_arvalid,
    input  logic         m_axi_arready,
    output logic [ 63:0] m_axi_araddr,
    output logic [  7:0] m_axi_arlen,
    input  logic         m_axi_rvalid,
    output logic         m_axi_rready,
    input  logic [511:0] m_axi_rdata,
    input  logic [  1:0] m_axi_rresp,
    input  logic         m_axi_rlast
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

  // Bursts whose last beat has not come.
  logic [OUTSTANDING_LOG2:0] outstanding;
  wire begins = burst_valid && burst_ready;
  wire ends = m_axi_rvalid && m_axi_rready && m_axi_rlast;

  assign burst_ready = (!m_axi_arvalid || m_axi_arready) && !outstanding[OUTSTANDING_LOG2];
  assign idle = splitter_idle && outstanding == '0 && !data_valid;

  always_ff @(posedge clk) begin
    if (rst) begin
      outstanding <= '0;
      m_axi_arvalid <= 1'b0;
      bus_error <= 1'b0;
    end else begin
      if (begins && !ends) outstanding <= outstanding + 1'b1;
      if (!begins && ends) outstanding <= outstanding - 1'b1;
      if (begins) m_axi_arvalid <= 1'b1;
      else if (m_axi_arready) m_axi_arvalid <= 1'b0;
      bus_error <= m_axi_rvalid && m_axi_rready && m_axi_rresp != 2'b00;
    end
    if (begins) begin
      m_axi_araddr <= burst_addr;
      m_axi_arlen  <= {1'b0, burst_beats} - 8'd1;
    end
  end

  skid_buffer #(
      .WIDTH(512)
  ) answers (
      .clk,
      .rst,
      .in_valid(m_axi_rvalid),
      .in_ready(m_axi_rready),
      .in_data(m_axi_rdata),
      .out_valid(data_valid),
      .out_ready(data_ready),
      .out_data(data)
  );
endmodule

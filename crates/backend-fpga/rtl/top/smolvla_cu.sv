// A compute unit: the top of a Vitis RTL kernel. Registers (control.sv), a sequencer that reads descriptors, a GEMM and
// a vector engine of which one works at a time, and one AXI4 master of 512 bits that they share.
module smolvla_cu #(
    parameter int C_S_AXI_CONTROL_ADDR_WIDTH = 12
) (
    input  logic         ap_clk,
    input  logic         ap_rst_n,
    /* verilator lint_off SYMRSVDWORD */ // Vitis gives the name; Verilator puts __SYM__ before it.
    output logic         interrupt,
    /* verilator lint_on SYMRSVDWORD */
    input  logic         s_axi_control_awvalid,
    output logic         s_axi_control_awready,
    input  logic [C_S_AXI_CONTROL_ADDR_WIDTH-1:0] s_axi_control_awaddr,
    input  logic         s_axi_control_wvalid,
    output logic         s_axi_control_wready,
    input  logic [ 31:0] s_axi_control_wdata,
    input  logic [  3:0] s_axi_control_wstrb,
    output logic         s_axi_control_bvalid,
    input  logic         s_axi_control_bready,
    output logic [  1:0] s_axi_control_bresp,
    input  logic         s_axi_control_arvalid,
    output logic         s_axi_control_arready,
    input  logic [C_S_AXI_CONTROL_ADDR_WIDTH-1:0] s_axi_control_araddr,
    output logic         s_axi_control_rvalid,
    input  logic         s_axi_control_rready,
    output logic [ 31:0] s_axi_control_rdata,
    output logic [  1:0] s_axi_control_rresp,
    output logic         m_axi_gmem_awvalid,
    input  logic         m_axi_gmem_awready,
    output logic [ 63:0] m_axi_gmem_awaddr,
    output logic [  7:0] m_axi_gmem_awlen,
    output logic [  2:0] m_axi_gmem_awsize,
    output logic [  1:0] m_axi_gmem_awburst,
    output logic         m_axi_gmem_wvalid,
    input  logic         m_axi_gmem_wready,
    output logic [511:0] m_axi_gmem_wdata,
    output logic [ 63:0] m_axi_gmem_wstrb,
    output logic         m_axi_gmem_wlast,
    input  logic         m_axi_gmem_bvalid,
    output logic         m_axi_gmem_bready,
    input  logic [  1:0] m_axi_gmem_bresp,
    output logic         m_axi_gmem_arvalid,
    input  logic         m_axi_gmem_arready,
    output logic [ 63:0] m_axi_gmem_araddr,
    output logic [  7:0] m_axi_gmem_arlen,
    output logic [  2:0] m_axi_gmem_arsize,
    output logic [  1:0] m_axi_gmem_arburst,
    input  logic         m_axi_gmem_rvalid,
    output logic         m_axi_gmem_rready,
    input  logic [511:0] m_axi_gmem_rdata,
    input  logic [  1:0] m_axi_gmem_rresp,
    input  logic         m_axi_gmem_rlast
);
  logic rst;
  always_ff @(posedge ap_clk) rst <= !ap_rst_n;

  // Beats of 64 bytes at rising addresses.
  assign m_axi_gmem_arsize = 3'd6;
  assign m_axi_gmem_awsize = 3'd6;
  assign m_axi_gmem_arburst = 2'b01;
  assign m_axi_gmem_awburst = 2'b01;

  logic start, done, step;
  logic [63:0] stream;
  logic [31:0] limit;
  logic [7:0] error;
  logic [3:0] op;
  smolvla_pkg::descriptor_t descriptor;

  control #(
      .ADDR_WIDTH(C_S_AXI_CONTROL_ADDR_WIDTH)
  ) registers (
      .clk(ap_clk),
      .rst,
      .s_axi_awvalid(s_axi_control_awvalid),
      .s_axi_awready(s_axi_control_awready),
      .s_axi_awaddr(s_axi_control_awaddr),
      .s_axi_wvalid(s_axi_control_wvalid),
      .s_axi_wready(s_axi_control_wready),
      .s_axi_wdata(s_axi_control_wdata),
      .s_axi_wstrb(s_axi_control_wstrb),
      .s_axi_bvalid(s_axi_control_bvalid),
      .s_axi_bready(s_axi_control_bready),
      .s_axi_bresp(s_axi_control_bresp),
      .s_axi_arvalid(s_axi_control_arvalid),
      .s_axi_arready(s_axi_control_arready),
      .s_axi_araddr(s_axi_control_araddr),
      .s_axi_rvalid(s_axi_control_rvalid),
      .s_axi_rready(s_axi_control_rready),
      .s_axi_rdata(s_axi_control_rdata),
      .s_axi_rresp(s_axi_control_rresp),
      .interrupt,
      .start,
      .stream,
      .limit,
      .done,
      .error,
      .op,
      .op_byte(descriptor.op),
      .step,
      .beat_read(m_axi_gmem_rvalid && m_axi_gmem_rready),
      .beat_written(m_axi_gmem_wvalid && m_axi_gmem_wready)
  );

  // Requests and beats of the three that read and the two that write.
  logic         seq_reads;
  logic         gemm_start, gemm_done, vector_start, vector_done;
  logic         seq_rd_req_valid, gemm_rd_req_valid, vector_rd_req_valid;
  logic [ 63:0] seq_rd_req_addr, gemm_rd_req_addr, vector_rd_req_addr;
  logic [ 31:0] seq_rd_req_beats, gemm_rd_req_beats, vector_rd_req_beats;
  logic         gemm_rd_ready, vector_rd_ready;
  logic         gemm_wr_req_valid, vector_wr_req_valid;
  logic [ 63:0] gemm_wr_req_addr, vector_wr_req_addr;
  logic [ 31:0] gemm_wr_req_beats, vector_wr_req_beats;
  logic         gemm_wr_valid, vector_wr_valid;
  logic [511:0] gemm_wr_data, vector_wr_data;
  logic [ 63:0] gemm_wr_strb, vector_wr_strb;
  logic         rd_req_ready, rd_valid, rd_idle, rd_error, wr_req_ready, wr_ready, wr_idle, wr_error;
  logic [511:0] rd_data;

  wire uses_gemm = !seq_reads && descriptor.op == smolvla_pkg::OP_GEMM;
  wire uses_vector = !seq_reads && descriptor.op != smolvla_pkg::OP_GEMM;

  sequencer seq (
      .clk(ap_clk),
      .rst,
      .start,
      .stream,
      .limit,
      .done,
      .error,
      .op,
      .step,
      .descriptor,
      .reads(seq_reads),
      .gemm_start,
      .gemm_done,
      .vector_start,
      .vector_done,
      .rd_req_valid(seq_rd_req_valid),
      .rd_req_ready,
      .rd_req_addr(seq_rd_req_addr),
      .rd_req_beats(seq_rd_req_beats),
      .rd_valid,
      .rd_data,
      .rd_idle,
      .wr_idle,
      .bus_error(rd_error || wr_error)
  );

  gemm_engine gemm (
      .clk(ap_clk),
      .rst,
      .start(gemm_start),
      .desc(descriptor),
      .done(gemm_done),
      .rd_req_valid(gemm_rd_req_valid),
      .rd_req_ready(rd_req_ready && uses_gemm),
      .rd_req_addr(gemm_rd_req_addr),
      .rd_req_beats(gemm_rd_req_beats),
      .rd_valid(rd_valid && uses_gemm),
      .rd_ready(gemm_rd_ready),
      .rd_data,
      .wr_req_valid(gemm_wr_req_valid),
      .wr_req_ready(wr_req_ready && uses_gemm),
      .wr_req_addr(gemm_wr_req_addr),
      .wr_req_beats(gemm_wr_req_beats),
      .wr_valid(gemm_wr_valid),
      .wr_ready(wr_ready && uses_gemm),
      .wr_data(gemm_wr_data),
      .wr_strb(gemm_wr_strb),
      .wr_idle
  );

  vector_engine vector (
      .clk(ap_clk),
      .rst,
      .start(vector_start),
      .desc(descriptor),
      .done(vector_done),
      .rd_req_valid(vector_rd_req_valid),
      .rd_req_ready(rd_req_ready && uses_vector),
      .rd_req_addr(vector_rd_req_addr),
      .rd_req_beats(vector_rd_req_beats),
      .rd_valid(rd_valid && uses_vector),
      .rd_ready(vector_rd_ready),
      .rd_data,
      .wr_req_valid(vector_wr_req_valid),
      .wr_req_ready(wr_req_ready && uses_vector),
      .wr_req_addr(vector_wr_req_addr),
      .wr_req_beats(vector_wr_req_beats),
      .wr_valid(vector_wr_valid),
      .wr_ready(wr_ready && uses_vector),
      .wr_data(vector_wr_data),
      .wr_strb(vector_wr_strb),
      .wr_idle
  );

  axi_read_master reader (
      .clk(ap_clk),
      .rst,
      .req_valid(seq_reads ? seq_rd_req_valid : uses_gemm ? gemm_rd_req_valid : vector_rd_req_valid),
      .req_ready(rd_req_ready),
      .req_addr(seq_reads ? seq_rd_req_addr : uses_gemm ? gemm_rd_req_addr : vector_rd_req_addr),
      .req_beats(seq_reads ? seq_rd_req_beats : uses_gemm ? gemm_rd_req_beats : vector_rd_req_beats),
      .data_valid(rd_valid),
      .data_ready(seq_reads || (uses_gemm ? gemm_rd_ready : vector_rd_ready)),
      .data(rd_data),
      .idle(rd_idle),
      .bus_error(rd_error),
      .m_axi_arvalid(m_axi_gmem_arvalid),
      .m_axi_arready(m_axi_gmem_arready),
      .m_axi_araddr(m_axi_gmem_araddr),
      .m_axi_arlen(m_axi_gmem_arlen),
      .m_axi_rvalid(m_axi_gmem_rvalid),
      .m_axi_rready(m_axi_gmem_rready),
      .m_axi_rdata(m_axi_gmem_rdata),
      .m_axi_rresp(m_axi_gmem_rresp),
      .m_axi_rlast(m_axi_gmem_rlast)
  );

  axi_write_master writer (
      .clk(ap_clk),
      .rst,
      .req_valid(uses_gemm ? gemm_wr_req_valid : vector_wr_req_valid),
      .req_ready(wr_req_ready),
      .req_addr(uses_gemm ? gemm_wr_req_addr : vector_wr_req_addr),
      .req_beats(uses_gemm ? gemm_wr_req_beats : vector_wr_req_beats),
      .data_valid(uses_gemm ? gemm_wr_valid : vector_wr_valid),
      .data_ready(wr_ready),
      .data(uses_gemm ? gemm_wr_data : vector_wr_data),
      .strb(uses_gemm ? gemm_wr_strb : vector_wr_strb),
      .idle(wr_idle),
      .bus_error(wr_error),
      .m_axi_awvalid(m_axi_gmem_awvalid),
      .m_axi_awready(m_axi_gmem_awready),
      .m_axi_awaddr(m_axi_gmem_awaddr),
      .m_axi_awlen(m_axi_gmem_awlen),
      .m_axi_wvalid(m_axi_gmem_wvalid),
      .m_axi_wready(m_axi_gmem_wready),
      .m_axi_wdata(m_axi_gmem_wdata),
      .m_axi_wstrb(m_axi_gmem_wstrb),
      .m_axi_wlast(m_axi_gmem_wlast),
      .m_axi_bvalid(m_axi_gmem_bvalid),
      .m_axi_bready(m_axi_gmem_bready),
      .m_axi_bresp(m_axi_gmem_bresp)
  );
endmodule

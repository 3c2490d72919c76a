// Cuts requests of any number of 64-byte beats into bursts that AXI allows here: at most 64 beats, none across a
// multiple of 4 KiB. A burst a cycle, also where each request is one; a request waits in a queue of four.
module burst_splitter (
    input  logic        clk,
    input  logic        rst,
    input  logic        req_valid,
    output logic        req_ready,
    input  logic [63:0] req_addr,
    input  logic [31:0] req_beats,
    output logic        burst_valid,
    input  logic        burst_ready,
    output logic [63:0] burst_addr,
    output logic [ 6:0] burst_beats,
    // No request is here.
    output logic        idle
);
  logic        next_valid;
  logic        next_ready;
  logic [63:0] next_addr;
  logic [31:0] next_beats;

  small_fifo #(
      .WIDTH(96),
      .DEPTH_LOG2(2)
  ) requests (
      .clk,
      .rst,
      .in_valid(req_valid),
      .in_ready(req_ready),
      .in_data({req_addr, req_beats}),
      .out_valid(next_valid),
      .out_ready(next_ready),
      .out_data({next_addr, next_beats})
  );

  // What is left of the request in work.
  logic        active;
  logic [63:0] addr;
  logic [31:0] left;

  // Beats up to the next multiple of 4 KiB: 1 to 64.
  wire [6:0] room = 7'd64 - {1'b0, addr[11:6]};
  wire is_last = left <= {25'd0, room};

  assign burst_valid = active;
  assign burst_addr = addr;
  assign burst_beats = is_last ? left[6:0] : room;
  assign next_ready = !active || (burst_ready && is_last);
  assign idle = !active && !next_valid;

  always_ff @(posedge clk) begin
    if (rst) begin
      active <= 1'b0;
    end else if (next_ready) begin
      active <= next_valid;
    end
    if (next_ready && next_valid) begin
      addr <= next_addr;
      left <= next_beats;
    end else if (active && burst_ready) begin
      addr <= addr + {51'd0, room, 6'd0};
      left <= left - {25'd0, room};
    end
  end
endmodule

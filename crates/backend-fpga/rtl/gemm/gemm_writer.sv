// Keeps rows of 16 words until they are written, and writes them in the order of panels and, in them, rows.
// `room` rows can be reserved before they are there, so that nothing before it ever has to wait.
module gemm_writer (
    input logic clk,
    input logic rst,
    input logic start,
    input logic [31:0] rows,
    input logic [31:0] cols,
    input logic [63:0] destination,
    input logic [31:0] pitch,
    output logic [6:0] room,
    input logic reserve,
    input logic [3:0] reserve_rows,
    input logic push,
    input logic [511:0] push_data,
    // All rows have been handed to memory.
    output logic finished,

    output logic request_valid,
    input logic request_ready,
    output logic [63:0] request_address,
    output logic valid,
    input logic ready,
    output logic [511:0] data
);
  localparam int DEPTH = 64;

  (* ram_style = "distributed" *) logic [511:0] memory[DEPTH];
  // Rows pushed, asked for and written, modulo twice the depth.
  logic [6:0] pushed, requested, written;
  logic [31:0] row, cols_left;
  logic [63:0] panel_address;
  logic requests_done, pop;

  always_ff @(posedge clk) if (push) memory[pushed[5:0]] <= push_data;
  assign data = memory[written[5:0]];
  assign request_valid = pushed != requested;
  assign valid = requested != written;
  assign pop = valid && ready;
  assign finished = requests_done && !valid;

  always_ff @(posedge clk) begin
    if (rst || start) begin
      {pushed, requested, written} <= '0;
      room <= 7'(DEPTH);
      row <= '0;
      cols_left <= cols;
      request_address <= destination;
      panel_address <= destination + 64'd64;
      requests_done <= 1'b0;
    end else begin
      room <= room - (reserve ? {3'd0, reserve_rows} : 7'd0) + {6'd0, pop};
      pushed <= pushed + {6'd0, push};
      written <= written + {6'd0, pop};
      if (request_valid && request_ready) begin
        requested <= requested + 7'd1;
        row <= row + 32'd1;
        request_address <= request_address + {32'd0, pitch};
        if (row == rows - 32'd1) begin
          row <= '0;
          request_address <= panel_address;
          panel_address <= panel_address + 64'd64;
          cols_left <= cols_left - 32'd16;
          requests_done <= cols_left <= 32'd16;
        end
      end
    end
  end
endmodule

// Puts what row_reader gives into the buffers. The row's buffer has, above the 16 words of a beat, a bit for each
// that says whether a mask allows it (set where there is no mask).
//
// A beat a cycle; two cycles more after a unit's row until the next beat is taken, if the unit is taken at once.
module row_loader (
  input logic clk,
  input logic rst,
  input logic masked,
  input logic in_valid,
  output logic in_ready,
  input logic [511:0] in_data,
  input logic [4:0] in_count,
  input logic in_last,
  // As row_walker's cmd_tag.
  input logic [5:0] in_tag,
  // Writes: the row's buffer with the bits, those of the second and third operand.
  output logic [2:0] write,
  output logic [11:0] write_address,
  output logic [527:0] write_data,
  // The beat being written is of a row; which lanes have a word that is allowed; whether it is the unit's first.
  output logic [15:0] write_lanes,
  output logic write_first,
  // A unit's place in the buffers is free again.
  input logic release_unit,
  // A unit was put in the buffers, and what is known of its row is complete.
  output logic loaded_valid,
  input logic loaded_ready
);
  logic [1:0] target, slot;
  logic last_of_unit, first_of_unit, accept;
  assign {last_of_unit, first_of_unit, slot, target} = in_tag;

  // Beats of the current request or unit, units that are in the buffers.
  logic [9:0] beat;
  logic [2:0] units;
  logic pending;
  assign in_ready = !pending && units != 3'd4;
  assign accept = in_valid && in_ready;

  logic [63:0] mask_bits, mask_now;
  logic [63:0] masks[1024];
  for (genvar i = 0; i < 64; i++) begin : gen_mask
    assign mask_bits[i] = in_data[8*i +: 8] != 0;
  end

  logic [1:0] quarter;
  logic [511:0] data;
  logic [15:0] present, allowed;
  assign allowed = masked ? mask_now[16*quarter +: 16] : 16'hffff;
  assign write_lanes = present & allowed;
  assign write_data = {allowed, data};

  always_ff @(posedge clk) begin
    if (accept) begin
      if (target == 2'd3) masks[{slot, beat[7:0]}] <= mask_bits;
      else if (masked) mask_now <= masks[{slot, beat[9:2]}];
      quarter <= beat[1:0];
      data <= in_data;
      present <= in_count == 5'd16 ? 16'hffff : ~(16'hffff << in_count[3:0]);
      write_address <= {slot, beat};
      write_first <= first_of_unit && beat == 0;
    end
    if (rst) begin
      beat <= 10'd0;
      units <= 3'd0;
      pending <= 1'b0;
      write <= 3'd0;
    end else begin
      // The rows of a unit with FLAG_TRANSPOSE follow each other.
      if (accept) beat <= in_last && (target != 2'd0 || last_of_unit) ? 10'd0 : beat + 10'd1;
      write <= {accept && target == 2'd2, accept && target == 2'd1, accept && target == 2'd0};
      if (accept && in_last && last_of_unit) pending <= 1'b1;
      else if (loaded_valid && loaded_ready) pending <= 1'b0;
      units <= units + {2'd0, loaded_valid && loaded_ready} - {2'd0, release_unit};
    end
  end
  assign loaded_valid = pending && !write[0];
endmodule

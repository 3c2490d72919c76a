// What all modules share: the descriptor, and the ports through which engines read and write memory.
package smolvla_pkg;

  /* verilator lint_off UNUSEDPARAM */ // Every module uses some of them, none all.

  localparam int TILE_ROWS = 10;
  localparam int TILE_COLS = 16;
  localparam int TILE_DEPTH = 8;
  localparam int ACTIVATION_WORDS = 16384;
  localparam int WEIGHT_WORDS = 2048;
  localparam int ROW_WORDS = 16384;
  // Words of 32 bits in a beat of 64 bytes.
  localparam int LANES = 16;

  typedef enum logic [7:0] {
    OP_END = 0, OP_GEMM = 1, OP_QUANTISE = 2, OP_NORM = 3, OP_SOFTMAX = 4, OP_ACTIVATE = 5, OP_ROPE = 6,
    OP_COMBINE = 7, OP_COPY = 8
  } op_t;

  // 128 bytes, byte 0 in the lowest bits; src/descriptor.rs says what the fields mean. Packed structs begin at the top.
  typedef struct packed {
    logic [255:0] reserved;
    logic [1:0][31:0] immediate;
    logic [1:0][31:0] plane;
    logic [31:0] repeat_rows;
    logic [2:0][31:0] pitch;
    logic [1:0][63:0] destination;
    logic [3:0][63:0] source;
    logic [31:0] depth;
    logic [31:0] cols;
    logic [31:0] rows;
    logic [23:0] flags;
    logic [7:0] op;
  } descriptor_t;

  localparam int FLAG_TWO_DIGITS = 0;
  localparam int FLAG_TWO_DIGIT_WEIGHTS = 1;
  localparam int FLAG_BIAS = 2;
  localparam int FLAG_ROWS = 3;
  localparam int FLAG_TRANSPOSE = 4;
  localparam int FLAG_MASK = 5;
  localparam int FLAG_GELU = 6;
  localparam int FLAG_MULTIPLY = 7;
  localparam int FLAG_ADD = 8;
  localparam int FLAG_PLAIN = 9;

endpackage

//! The matrix engine: products as a Tensix core computes them, bit for bit.
//!
//! # What one step does
//! An instruction (`MVMUL`) adds to 8 × 16 accumulators in `Dst` the product of 8 × 16 values in `SrcB` (in0, the
//! activations) and 16 × 16 values in `SrcA` (in1, the weights). For one accumulator that is 16 products:
//!
//! 1. **Operands** have 8 bits of exponent and 10 of mantissa. 32-bit floats lose their low 13 bits on the way in;
//!    denormals count as zero; exponent 255 is an exponent like any other (no infinities, no NaN).
//! 2. **A phase** multiplies part of the one mantissa by part of the other, 5 bits by 7 at most: `SrcA` gives its
//!    hidden bit and top 4 in phases 0 and 2, the next 5 (worth 2⁻⁵ as much) in 1 and 3; `SrcB` its hidden bit and top
//!    6 in phases 0 and 1, the last 4 (worth 2⁻⁷) in 2 and 3. The lowest mantissa bit of `SrcA` is never read.
//! 3. **Two groups** of 8 products each are formed, of the lower and of the upper 8 depths. A product's exponent is the
//!    sum of its operands' exponents, the bits left out by the phase notwithstanding; a zero has none. In a group,
//!    products are shifted to the largest exponent there and rounded to 10 fractional bits below it, half away from
//!    zero, then summed exactly.
//! 4. **Adding to `Dst`**: both sums and the accumulator are shifted to the largest of their three exponents. With a
//!    32-bit `Dst` 23 fractional bits stay, with a 16-bit one 10. What falls off the sums rounds half up (towards
//!    +∞), what falls off the accumulator half away from zero.
//! 5. **The result** is normalised and rounded, half away from zero, to 24 significant bits (8 with a 16-bit `Dst`).
//!    Below the smallest normal number it becomes +0, above the largest ±∞, which the next step reads as 2¹²⁸.
//!
//! # Order
//! Depth goes by tiles of 32; in a tile phases are the outer loop and the two faces of 16 the inner one. Between tiles
//! there are two ways, see [`Blocking`]. tt-metal's simple kernel (`bmm.cpp`) holds an output tile in `Dst` over all
//! depths. The recorded outputs, up to 2048 deep, show just that: reloading every 1, 2, 3, 4 or 8 tiles would change
//! nearly all outputs of a 32-bit `Dst`, adding up such blocks in `f32` up to 10 of 2048. The kernel for larger blocks
//! (`bmm_large_block_zm_fused_bias_activation.cpp`), which ttnn picks where a product is spread over a grid of cores,
//! walks the depth in blocks of `in0_block_w` tiles and keeps partial sums in L1 between them.
//!
//! # Sources
//! Tenstorrent's ISA documentation (`MVMUL`, `SrcA`/`SrcB`, unpackers, floating-point bit patterns) for points 1, 2 and
//! the overflow; points 3 to 5 and the order were inferred from outputs of ttnn 0.81.1 kernels on a simulated
//! Blackhole, all of which are reproduced (see the tests). Those outputs do not reach the ends of the exponent range.

use std::num::NonZeroUsize;

use rayon::prelude::*;

use super::{Dest, Fidelity, matrix_lanes as lanes};

/// Columns of one panel of an [`Operand`]: the lanes of a kernel.
pub(super) const LANES: usize = 16;
/// Depth of one face: what one step of the engine consumes.
pub(super) const FACE: usize = 16;
/// Depth of one tile.
pub(super) const TILE: usize = 32;

/// Settings of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Math {
    /// How many phases the engine runs.
    pub fidelity: Fidelity,
    /// How wide the accumulators are.
    pub dest: Dest,
}

/// How the depth of a product is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Blocking {
    /// Not at all: accumulators stay in `Dst` from the first depth to the last, as in all recorded outputs.
    #[default]
    Whole,
    /// Every `tiles` tiles (ttnn's `in0_block_w`) the accumulators go to L1 and come back.
    ///
    /// A 16-bit `Dst` loses nothing, provided that the output is not a block float. A 32-bit one is stored in full, but
    /// comes back through `SrcA`, as TF32: the low 13 bits of the mantissa are dropped. Read from tt-metal's
    /// sources, not checked against kernels; accumulation in the packer (`packer_l1_acc`) is not modelled.
    Reload {
        /// Depth of a block in tiles of 32.
        tiles: NonZeroUsize,
    },
}

/// in1 of a product (`SrcA`), laid out for the engine once.
///
/// Values lie on the grid of their storage format. `f32` loses its low 13 mantissa bits here, as in the unpacker, and
/// denormals become zero. It takes 2 bytes a weight where all values are bf16 (as block floats are), 4 otherwise, and
/// columns are filled up to a multiple of 16.
#[derive(Clone, Debug)]
pub struct Operand {
    inputs: usize,
    outputs: usize,
    bits: Bits,
}

/// Bit patterns in panels of [`LANES`] columns: `[panel, depth, lane]`, zeros beyond the edges.
#[derive(Clone, Debug)]
enum Bits {
    /// The upper half of each `f32`.
    Bf16(Vec<u16>),
    /// `f32` with 10 bits of mantissa.
    Tf32(Vec<u32>),
}

/// One panel of an [`Operand`]: `[depth, lane]`.
#[derive(Clone, Copy)]
pub(super) enum Panel<'a> {
    /// The upper half of each `f32`.
    Bf16(&'a [[u16; LANES]]),
    /// `f32` with 10 bits of mantissa.
    Tf32(&'a [[u32; LANES]]),
}

impl Operand {
    /// Lays out `values`, `[outputs, inputs]` row-major: a linear layer's weight as PyTorch stores it.
    ///
    /// # Panics
    /// If `values` does not hold `outputs * inputs` values.
    pub fn from_outputs_by_inputs(values: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(values.len(), outputs * inputs, "{} values for {outputs} x {inputs}", values.len());
        Self::new(values, inputs, outputs, |input, output| output * inputs + input)
    }

    /// Lays out `values`, `[inputs, outputs]` row-major.
    ///
    /// # Panics
    /// If `values` does not hold `inputs * outputs` values.
    pub fn from_inputs_by_outputs(values: &[f32], inputs: usize, outputs: usize) -> Self {
        assert_eq!(values.len(), inputs * outputs, "{} values for {inputs} x {outputs}", values.len());
        Self::new(values, inputs, outputs, |input, output| input * outputs + output)
    }

    fn new(values: &[f32], inputs: usize, outputs: usize, at: impl Fn(usize, usize) -> usize + Sync) -> Self {
        let depth = padded_depth(inputs);
        let len = outputs.div_ceil(LANES) * depth * LANES;
        let bits = if values.par_iter().all(|&value| unpacked(value) & 0xFFFF == 0) {
            let mut bits = vec![0_u16; len];
            fill(&mut bits, depth, inputs, outputs, |input, output| {
                (unpacked(values[at(input, output)]) >> 16) as u16
            });
            Bits::Bf16(bits)
        } else {
            let mut bits = vec![0_u32; len];
            fill(&mut bits, depth, inputs, outputs, |input, output| unpacked(values[at(input, output)]));
            Bits::Tf32(bits)
        };
        Self { inputs, outputs, bits }
    }

    /// Depth of the product: the length of a row of in0.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns of the product.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The value at depth `input` of column `output`, as the engine reads it.
    pub(super) fn value(&self, input: usize, output: usize) -> f32 {
        let at = (output / LANES * padded_depth(self.inputs) + input) * LANES + output % LANES;
        f32::from_bits(match &self.bits {
            Bits::Bf16(bits) => u32::from(bits[at]) << 16,
            Bits::Tf32(bits) => bits[at],
        })
    }

    fn panel(&self, panel: usize) -> Panel<'_> {
        let depth = padded_depth(self.inputs);
        let range = panel * depth..(panel + 1) * depth;
        match &self.bits {
            Bits::Bf16(bits) => Panel::Bf16(&bits.as_chunks().0[range]),
            Bits::Tf32(bits) => Panel::Tf32(&bits.as_chunks().0[range]),
        }
    }
}

/// `depth` filled up to whole faces. A tile's second face, where it holds only padding, changes no accumulator: its
/// sums are zero, and a normalised accumulator alone keeps its value.
fn padded_depth(depth: usize) -> usize {
    depth.next_multiple_of(FACE)
}

/// Writes `[panel, depth, lane]` from the bits at (input, output).
fn fill<T: Copy + Send>(
    bits: &mut [T],
    depth: usize,
    inputs: usize,
    outputs: usize,
    at: impl Fn(usize, usize) -> T + Sync,
) {
    bits.par_chunks_mut((depth * LANES).max(1)).enumerate().for_each(|(panel, bits)| {
        let columns = panel * LANES..outputs.min((panel + 1) * LANES);
        for (input, bits) in bits.chunks_mut(LANES).take(inputs).enumerate() {
            for (bits, column) in bits.iter_mut().zip(columns.clone()) {
                *bits = at(input, column);
            }
        }
    });
}

/// A value's bits behind the unpacker: TF32, by cutting off (`SrcASrcB.md`), and no denormals.
pub(super) fn unpacked(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits & 0x7F80_0000 == 0 { 0 } else { bits & !0x1FFF }
}

/// One product, as the kernels take it.
pub(super) struct Product<'a> {
    pub(super) math: Math,
    pub(super) blocking: Blocking,
    pub(super) rows: &'a lanes::Rows,
}

/// `x`, `[rows, inputs]` row-major (in0, `SrcB`), times `operand`, with [`Blocking::Whole`].
///
/// Values of `x` go through the unpacker like those of an [`Operand`]: `f32` becomes TF32, denormals zero.
/// Returns `[rows, outputs]`: what stands in `Dst` after the last step, before the packer rounds it.
/// Runs on rayon's current thread pool; the result does not depend on it, nor on the processor.
///
/// # Panics
/// If `x` does not hold `rows` rows of [`Operand::inputs`].
pub fn matmul(x: &[f32], rows: usize, operand: &Operand, math: Math) -> Vec<f32> {
    matmul_blocked(x, rows, operand, math, Blocking::Whole)
}

/// [`matmul`] with the depth cut as `blocking` says.
///
/// # Panics
/// If `x` does not hold `rows` rows of [`Operand::inputs`].
pub fn matmul_blocked(x: &[f32], rows: usize, operand: &Operand, math: Math, blocking: Blocking) -> Vec<f32> {
    matmul_on(lanes::Isa::detect(), x, rows, operand, math, blocking)
}

/// [`matmul_blocked`] with given instructions.
pub(super) fn matmul_on(
    isa: lanes::Isa,
    x: &[f32],
    rows: usize,
    operand: &Operand,
    math: Math,
    blocking: Blocking,
) -> Vec<f32> {
    check_rows(x, rows, operand);
    let (inputs, outputs) = (operand.inputs, operand.outputs);
    let mut out = vec![0.0; rows * outputs];
    if out.is_empty() || inputs == 0 {
        return out;
    }
    let x = lanes::Rows::new(x, rows, inputs, padded_depth(inputs));
    let product = Product { math, blocking, rows: &x };
    // A part is some rows of one panel. Few panels are cut finer, for every thread to have some.
    let panels = outputs.div_ceil(LANES);
    let parts = (8 * rayon::current_num_threads()).div_ceil(panels);
    let part = rows.div_ceil(parts).max(1);
    let mut columns = vec![[0.0_f32; LANES]; panels * rows];
    columns.par_chunks_mut(rows).enumerate().for_each(|(panel, columns)| {
        let panel = operand.panel(panel);
        columns.par_chunks_mut(part).enumerate().for_each(|(index, columns)| {
            lanes::run(isa, &product, panel, index * part, columns);
        });
    });
    out.par_chunks_mut(outputs).enumerate().for_each(|(row, out)| {
        for (panel, out) in out.chunks_mut(LANES).enumerate() {
            out.copy_from_slice(&columns[panel * rows + row][..out.len()]);
        }
    });
    out
}

pub(super) fn check_rows(x: &[f32], rows: usize, operand: &Operand) {
    assert_eq!(x.len(), rows * operand.inputs, "{} values for {rows} x {}", x.len(), operand.inputs);
}

/// A `Dst` value as the packer writes it in bf16: half away from zero, NaN to infinity, denormals and -0 to +0.
///
/// Source: packer format conversion in the ISA documentation, and the outputs in the tests.
pub fn pack_bf16(v: f32) -> f32 {
    let bits = v.to_bits();
    f32::from_bits(match bits & 0x7F80_0000 {
        0 => 0,
        0x7F80_0000 => bits & 0xFF80_0000,
        _ => (bits + 0x8000) & 0xFFFF_0000,
    })
}

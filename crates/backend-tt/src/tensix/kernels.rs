//! Kernels over the rows of a matrix: softmax, layer norm, RMS norm; and element-wise sums and products.
//!
//! Each is modelled step by step after the compute kernel that ships with ttnn 0.81: sums over a row go
//! through the matrix engine tile by tile, differences and products through its element-wise instructions,
//! exponentials and roots through the vector unit, and what the kernel writes to a buffer between two steps
//! is packed to that buffer's format here too. With the configurations in [`KernelConfig`] the results equal
//! those of the real kernels on a simulated Blackhole bit for bit (see the tests); other configurations
//! change destination width, fidelity or formats in the same steps, and are modelled, not measured.
//!
//! Matrices are row-major `[rows, cols]` on the grid of a format. Columns are padded with zeros to tiles of
//! 32 (with -inf in softmax) as ttnn pads them, which changes no sum. Values that a buffer holds as 32-bit
//! floats reach the matrix engine cut to TF32, or to bfloat16 for a 16-bit destination.

#[path = "kernels_fpu.rs"]
mod fpu;

use self::fpu::Multiplier;
use super::format::{tf32, truncate_bf16};
use super::unary::{self, Unary};
use super::{Dest, Fidelity, Format};

/// How a kernel is configured, as ttnn's compute kernel config and program factories do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelConfig {
    /// Width of the destination registers (`fp32_dest_acc_en`).
    pub dest: Dest,
    /// Phases of products and sums (`math_fidelity`).
    pub fidelity: Fidelity,
    /// Whether the vector unit takes its faster functions (`math_approx_mode`).
    pub approximate: bool,
    /// Format of buffers that hold whole rows between two steps.
    pub intermediate: Format,
    /// Format of buffers that hold one number per row.
    pub statistics: Format,
    /// Format of the result.
    pub output: Format,
}

impl KernelConfig {
    /// What the measured `ttnn.softmax` of a bfloat16 tensor used: 32-bit destination, the fast exponential,
    /// exponentials kept in bfloat16, reciprocals of sums in 32-bit floats.
    pub const SOFTMAX: Self = Self {
        dest: Dest::Bits32,
        fidelity: Fidelity::HiFi4,
        approximate: true,
        intermediate: Format::Bf16,
        statistics: Format::F32,
        output: Format::Bf16,
    };

    /// What the measured `ttnn.layer_norm` of a bfloat16 tensor used: 32 bits throughout.
    pub const LAYER_NORM: Self =
        Self { approximate: false, intermediate: Format::F32, statistics: Format::F32, ..Self::SOFTMAX };

    /// What the measured `ttnn.rms_norm` of a bfloat16 tensor used: 16 bits throughout, and the root to 10.
    pub const RMS_NORM: Self = Self {
        dest: Dest::Bits16,
        fidelity: Fidelity::HiFi4,
        approximate: true,
        intermediate: Format::Bf16,
        statistics: Format::Bf16,
        output: Format::Bf16,
    };

    /// Writes a row from the destination to a buffer of the intermediate format, and reads it back.
    fn through_buffer(self, row: &mut [f32]) {
        self.intermediate.pack(row, self.dest);
        for x in row {
            *x = source(*x, self.dest);
        }
    }

    /// The same for one number of a row.
    fn through_statistics(self, x: f32) -> f32 {
        let mut one = [x];
        self.statistics.pack(&mut one, self.dest);
        source(one[0], self.dest)
    }

    /// The mean of a row as the kernels take it: the sum by the matrix engine, times `1/n` by the vector unit.
    fn mean(self, row: &[f32], inverse: f32) -> f32 {
        let sum = fpu::row_sum(row, self.dest, self.fidelity);
        self.through_statistics(unary::multiply(sum, inverse, self.dest))
    }
}

/// What the matrix engine reads of a buffer's value.
#[inline]
fn source(x: f32, dest: Dest) -> f32 {
    match dest {
        Dest::Bits16 => truncate_bf16(x),
        Dest::Bits32 => tf32(x),
    }
}

/// The rows of a matrix.
///
/// # Panics
/// If `cols` is zero while there are values, or does not divide their number.
fn rows(values: &mut [f32], cols: usize) -> impl Iterator<Item = &mut [f32]> {
    assert!(
        values.is_empty() || (cols > 0 && values.len().is_multiple_of(cols)),
        "{} values in rows of {cols}",
        values.len()
    );
    values.chunks_exact_mut(cols.max(1))
}

/// Numerically stable softmax over each row of `values`, in place.
///
/// Masks are added before: -inf or any large negative number. A row of equal values, -inf included, gets
/// equal weights. Source: `softmax.cpp` of ttnn's attention-optimised softmax with `NUMERIC_STABLE`.
///
/// # Panics
/// If `cols` is zero while there are values, or does not divide their number.
pub fn softmax(values: &mut [f32], cols: usize, config: KernelConfig) {
    let KernelConfig { dest, fidelity, approximate, output, .. } = config;
    let multiplier = Multiplier::new(dest, fidelity);
    let exponential = if approximate { Unary::ExpFast } else { Unary::Exp };
    // Into a 32-bit destination the kernel asks for the precise reciprocal whatever the mode.
    let fast = approximate && dest == Dest::Bits16;
    let reciprocal = if fast { Unary::ReciprocalFast } else { Unary::Reciprocal };
    for row in rows(values, cols) {
        let mut largest = f32::NEG_INFINITY;
        for x in &mut *row {
            *x = source(*x, dest);
            largest = if *x > largest { *x } else { largest };
        }
        let largest = config.through_statistics(largest);
        fpu::add_to_row(row, -largest, dest);
        if dest == Dest::Bits16 && config.intermediate == Format::Bf16 {
            exponential.apply(row, dest, Format::Bf16, Format::Bf16);
        } else {
            for x in &mut *row {
                *x = exponential.eval(*x, dest);
            }
            config.through_buffer(row);
        }
        let sum = fpu::row_sum(row, dest, fidelity);
        let factor = config.through_statistics(reciprocal.eval(sum, dest));
        for x in &mut *row {
            *x = multiplier.product(*x, factor);
        }
        output.pack(row, dest);
    }
}

/// Layer norm over each row of `values`, in place: `(x - mean) / √(variance + eps) * gain + bias`.
///
/// `gain` and `bias` have `cols` values on the grid of their own format. `eps` is cut to bfloat16, as the
/// kernel's reader does. Source: `layernorm.cpp` of ttnn, without Welford's method.
///
/// # Panics
/// If `cols` is zero while there are values, or does not divide their number, or `gain` or `bias` have not
/// `cols` values.
pub fn layer_norm(
    values: &mut [f32],
    cols: usize,
    eps: f32,
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
    config: KernelConfig,
) {
    normalise(values, cols, eps, true, [gain, bias], config);
}

/// RMS norm over each row of `values`, in place: `x / √(mean(x²) + eps) * gain + bias`.
///
/// As [`layer_norm`], whose kernel it shares, without the mean.
///
/// # Panics
/// As [`layer_norm`].
pub fn rms_norm(
    values: &mut [f32],
    cols: usize,
    eps: f32,
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
    config: KernelConfig,
) {
    normalise(values, cols, eps, false, [gain, bias], config);
}

fn normalise(
    values: &mut [f32],
    cols: usize,
    eps: f32,
    centred: bool,
    [gain, bias]: [Option<&[f32]>; 2],
    config: KernelConfig,
) {
    let KernelConfig { dest, fidelity, output, .. } = config;
    let multiplier = Multiplier::new(dest, fidelity);
    let root = if config.approximate { Unary::RsqrtFast } else { Unary::Rsqrt };
    let inverse = 1.0 / cols as f32;
    let eps = truncate_bf16(eps);
    let operand = |values: Option<&[f32]>| {
        values.map(|values| {
            assert_eq!(values.len(), cols, "gain and bias have one value per column");
            values.iter().map(|&x| source(x, dest)).collect::<Vec<_>>()
        })
    };
    let (gain, bias) = (operand(gain), operand(bias));
    let mut squares = vec![0.0; cols];
    for row in rows(values, cols) {
        for x in &mut *row {
            *x = source(*x, dest);
        }
        if centred {
            let mean = config.mean(row, inverse);
            fpu::add_to_row(row, -mean, dest);
            config.through_buffer(row);
        }
        for (square, &x) in squares.iter_mut().zip(&*row) {
            *square = multiplier.product(x, x);
        }
        config.through_buffer(&mut squares);
        let variance = config.mean(&squares, inverse);
        let factor = config.through_statistics(root.eval(fpu::add(variance, eps, dest), dest));
        for x in &mut *row {
            *x = multiplier.product(*x, factor);
        }
        if let Some(gain) = &gain {
            config.through_buffer(row);
            for (x, &g) in row.iter_mut().zip(gain) {
                *x = multiplier.product(*x, g);
            }
        }
        if let Some(bias) = &bias {
            config.through_buffer(row);
            fpu::add_row(row, bias, dest);
        }
        output.pack(row, dest);
    }
}

/// Adds `other` to `values` element by element (`ELWADD`), both on a grid of at most TF32's precision.
///
/// The smaller operand is first rounded to the larger one's 11 bits. For block formats as output, `values`
/// is one row. Measured: `x + x` in bfloat16.
///
/// # Panics
/// If the lengths differ.
pub fn add(values: &mut [f32], other: &[f32], dest: Dest, output: Format) {
    assert_eq!(values.len(), other.len(), "an element-wise operation on matrices of different sizes");
    let mut operand = [0.0; 1024];
    for (a, b) in values.chunks_mut(operand.len()).zip(other.chunks(operand.len())) {
        let operand = &mut operand[..b.len()];
        for ((a, operand), &b) in a.iter_mut().zip(&mut *operand).zip(b) {
            *a = source(*a, dest);
            *operand = source(b, dest);
        }
        fpu::add_row(a, operand, dest);
    }
    output.pack(values, dest);
}

/// Multiplies `values` by `other` element by element (`ELWMUL`), `values` in `SrcA` and `other` in `SrcB`.
///
/// For block formats as output, `values` is one row.
///
/// # Panics
/// If the lengths differ.
pub fn mul(values: &mut [f32], other: &[f32], dest: Dest, fidelity: Fidelity, output: Format) {
    assert_eq!(values.len(), other.len(), "an element-wise operation on matrices of different sizes");
    let multiplier = Multiplier::new(dest, fidelity);
    for (a, &b) in values.iter_mut().zip(other) {
        *a = multiplier.product(source(*a, dest), source(b, dest));
    }
    output.pack(values, dest);
}

/// Adds `other` to `values` on the vector unit, in full 32-bit precision: what ttnn's binary kernels do when
/// both tensors hold 32-bit floats. Modelled, not measured.
///
/// # Panics
/// If the lengths differ.
pub fn add_f32(values: &mut [f32], other: &[f32]) {
    assert_eq!(values.len(), other.len(), "an element-wise operation on matrices of different sizes");
    for (a, &b) in values.iter_mut().zip(other) {
        *a = unary::sum(*a, b, Dest::Bits32);
    }
}

/// Multiplies `values` by a number on the vector unit (`mul_unary_tile`), which takes it as a 32-bit float.
///
/// A 16-bit destination cuts the products instead of rounding them. For block formats as output, `values`
/// is one row. Measured as a step of the norms.
pub fn scale(values: &mut [f32], factor: f32, dest: Dest, output: Format) {
    for x in &mut *values {
        let operand = if dest == Dest::Bits16 { truncate_bf16(*x) } else { *x };
        *x = unary::multiply(operand, factor, dest);
    }
    output.pack(values, dest);
}

#[cfg(test)]
#[path = "kernels_tests.rs"]
mod tests;

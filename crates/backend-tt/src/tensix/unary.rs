//! The vector unit's functions: `exp`, `gelu`, `silu`, `sigmoid`, roots, reciprocals and `tanh`.
//!
//! Every function is the algorithm of the kernel that ships with ttnn 0.81, in the vector unit's own
//! arithmetic (partly fused multiply-adds, no denormals); nothing here is a table of measured outputs. For a
//! 16-bit destination, nine of them equal the vendor's kernels on a simulated Blackhole on all 65,536
//! bfloat16 inputs, which the tests show; infinities and NaN were not measured and follow the algorithms.
//! For a 32-bit destination they follow the kernels' fp32 branches. Of those, and of the three fast
//! functions without a measurement of their own, some are measured as steps of the kernels in
//! [`super::kernels`]: [`Unary::ExpFast`] and [`Unary::Reciprocal`] in softmax, [`Unary::Rsqrt`] in layer norm
//! (all 32 bits), [`Unary::RsqrtFast`] in RMS norm (16 bits). The rest is modelled, not measured.

#[path = "unary_alu.rs"]
mod alu;
#[path = "unary_fn.rs"]
mod functions;

use std::sync::OnceLock;

use self::alu::{round_bf16, store_bf16, store_f32};
use super::format::{pack_value, truncate_bf16};
use super::{Dest, Format};

/// A function that the vector unit applies to every element of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// `e^x` (`ttnn.exp`): `exp_21f` for a 16-bit destination.
    Exp,
    /// `e^x` after Schraudolph: up to 4 % off; what softmax uses by default.
    ExpFast,
    /// `x Φ(x)` (`ttnn.gelu`).
    Gelu,
    /// `x Φ(x)` from six straight lines (`ttnn.gelu(fast_and_approximate_mode=True)`).
    GeluFast,
    /// `x / (1 + e^-x)` (`ttnn.silu`).
    Silu,
    /// `1 / (1 + e^-x)` (`ttnn.sigmoid`).
    Sigmoid,
    /// `1 / √x` (`ttnn.rsqrt`): +inf for NaN results in bfloat16, so also below zero.
    Rsqrt,
    /// `1 / √x` to about 10 bits: what `ttnn.rms_norm` uses by default.
    RsqrtFast,
    /// `1 / x` (`ttnn.reciprocal`).
    Reciprocal,
    /// `1 / x` to 7 bits: one instruction; what softmax uses by default.
    ReciprocalFast,
    /// `√x` (`ttnn.sqrt`): +inf for NaN results in bfloat16, so also below zero.
    Sqrt,
    /// `tanh x` (`ttnn.tanh`).
    Tanh,
}

impl Unary {
    /// Every function, in the order of the declaration.
    pub const ALL: [Self; 12] = [
        Self::Exp,
        Self::ExpFast,
        Self::Gelu,
        Self::GeluFast,
        Self::Silu,
        Self::Sigmoid,
        Self::Rsqrt,
        Self::RsqrtFast,
        Self::Reciprocal,
        Self::ReciprocalFast,
        Self::Sqrt,
        Self::Tanh,
    ];

    /// What the function leaves in the destination for the input `x`.
    ///
    /// With [`Dest::Bits16`], `x` is cut to bfloat16 first and the result lies on bfloat16's grid. Denormal
    /// inputs count as zeros wherever arithmetic sees them, denormal results become zeros.
    #[must_use]
    pub fn eval(self, x: f32, dest: Dest) -> f32 {
        let result = match dest {
            Dest::Bits16 => self.steps16(truncate_bf16(x)),
            Dest::Bits32 => self.steps32(x),
        };
        store(result, dest)
    }

    fn steps16(self, x: f32) -> f32 {
        match self {
            Self::Exp => functions::exp16(x),
            Self::ExpFast => functions::exp_fast(x),
            Self::Gelu => round_bf16(functions::gelu16(x)),
            Self::GeluFast => functions::gelu_fast(x),
            Self::Silu => round_bf16(alu::mul(x, functions::sigmoid16(x))),
            Self::Sigmoid => round_bf16(functions::sigmoid16(x)),
            Self::Rsqrt => round_bf16(functions::rsqrt(x)),
            Self::RsqrtFast => round_bf16(functions::rsqrt_fast(x)),
            Self::Reciprocal => functions::reciprocal16(x),
            Self::ReciprocalFast => alu::approximate_reciprocal(x),
            Self::Sqrt => round_bf16(functions::sqrt(x)),
            Self::Tanh => round_bf16(functions::tanh16(x)),
        }
    }

    fn steps32(self, x: f32) -> f32 {
        match self {
            Self::Exp => functions::exp32(x),
            Self::ExpFast => functions::exp_fast(x),
            Self::Gelu => functions::gelu32(x),
            Self::GeluFast => functions::gelu_fast(x),
            Self::Silu => alu::mul(x, functions::sigmoid32(x)),
            Self::Sigmoid => functions::sigmoid32(x),
            Self::Rsqrt => functions::rsqrt(x),
            Self::RsqrtFast => functions::rsqrt_fast(x),
            Self::Reciprocal => functions::reciprocal32(x),
            Self::ReciprocalFast => alu::approximate_reciprocal(x),
            Self::Sqrt => functions::sqrt(x),
            Self::Tanh => functions::tanh32(x),
        }
    }

    /// The results for all 65,536 bfloat16 patterns, packed to bfloat16: entry `i` is that of
    /// `f32::from_bits(i << 16)`. Computed on first use (some 10 ms) and kept.
    #[must_use]
    pub fn table(self, dest: Dest) -> &'static [u16] {
        static TABLES: [[OnceLock<Box<[u16]>>; 12]; 2] = [const { [const { OnceLock::new() }; 12] }; 2];
        let width = match dest {
            Dest::Bits16 => 0,
            Dest::Bits32 => 1,
        };
        TABLES[width][self as usize].get_or_init(|| self.compute_table(dest))
    }

    fn compute_table(self, dest: Dest) -> Box<[u16]> {
        (0..=u16::MAX)
            .map(|bits| {
                let value = self.eval(f32::from_bits(u32::from(bits) << 16), dest);
                (pack_value(value, dest, Format::Bf16).to_bits() >> 16) as u16
            })
            .collect()
    }

    /// Applies the function to `row` in place, whose values lie on the grid of `input`, and packs the results
    /// to `output`.
    ///
    /// For block formats `row` must start at a block (16 values) and may end inside one. From and to
    /// bfloat16 this is a table look-up.
    pub fn apply(self, row: &mut [f32], dest: Dest, input: Format, output: Format) {
        if input != Format::F32 && output == Format::Bf16 {
            // Block floats have at most 7 bits, so they lie on bfloat16's grid.
            let table = self.table(dest);
            for value in row {
                *value = f32::from_bits(u32::from(table[(value.to_bits() >> 16) as usize]) << 16);
            }
            return;
        }
        for value in &mut *row {
            *value = self.eval(*value, dest);
        }
        output.pack(row, dest);
    }
}

/// `x * y` on the vector unit, as it is stored: to 16 bits by cutting.
pub(super) fn multiply(x: f32, y: f32, dest: Dest) -> f32 {
    store(alu::mul(x, y), dest)
}

/// `x + y` on the vector unit, as it is stored.
pub(super) fn sum(x: f32, y: f32, dest: Dest) -> f32 {
    store(alu::add(x, y), dest)
}

fn store(x: f32, dest: Dest) -> f32 {
    match dest {
        Dest::Bits16 => store_bf16(x),
        Dest::Bits32 => store_f32(x),
    }
}

#[cfg(test)]
#[path = "unary_tests.rs"]
mod tests;

//! The arithmetic of a Tensix core, in software: number formats, matrix engine, packer and vector functions.
//!
//! Everything here takes and returns `f32` that lie on the grid of the format they are named after. Kernels of the
//! vendor's library ([`kernels`]), its functions ([`unary`]), the matrix engine ([`matmul`]) and conversions
//! ([`mod@format`]) equal recorded outputs bit for bit where there are any; what is only modelled says so.

pub mod format;
pub mod kernels;
mod matrix;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "loads and stores of whole registers")]
mod matrix_avx512;
mod matrix_lanes;
mod matrix_plain;
#[cfg(test)]
mod matrix_tests;
pub mod unary;

pub use matrix::{Blocking, Math, Operand, matmul, matmul_blocked, pack_bf16};
pub use matrix_plain::matmul_plain;

use serde::{Deserialize, Serialize};

/// How many passes the matrix engine makes over the bits of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fidelity {
    /// One phase: 5 bits of SrcA times 7 bits of SrcB.
    LoFi,
    /// Two phases: the rest of SrcA too.
    HiFi2,
    /// Three phases: and the rest of SrcB against the top of SrcA.
    HiFi3,
    /// Four phases: every bit.
    HiFi4,
}

/// How wide the accumulators (the register file `Dst`) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub enum Dest {
    /// bfloat16.
    #[serde(rename = "16")]
    Bits16,
    /// 32-bit floats.
    #[serde(rename = "32")]
    Bits32,
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// `bfp8_b`: 16 values of a row share an exponent; sign and 7 bits each.
    Bfp8,
    /// `bfp4_b`: the same with sign and 3 bits each.
    Bfp4,
}

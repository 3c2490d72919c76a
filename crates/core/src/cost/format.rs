//! Number formats, and which of them each kind of value is kept in.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// How a number is stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Format {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// 8-bit float.
    Fp8,
    /// 8-bit block float: sixteen numbers share an exponent of 8 bits.
    Bfp8,
    /// 4-bit block float: sixteen numbers share an exponent of 8 bits.
    Bfp4,
    /// 32-bit integer, for sums.
    Int32,
    /// 8-bit integer.
    Int8,
    /// 4-bit integer.
    Int4,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Fp8,
        Self::Bfp8,
        Self::Bfp4,
        Self::Int32,
        Self::Int8,
        Self::Int4,
    ];

    /// The name used on the command line and in device files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Fp8 => "fp8",
            Self::Bfp8 => "bfp8",
            Self::Bfp4 => "bfp4",
            Self::Int32 => "int32",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// The format of this [`Format::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bits that a number takes in memory, shared exponents included (8 for 16 numbers).
    pub fn bits(self) -> f64 {
        match self {
            Self::F32 | Self::Int32 => 32.0,
            Self::Bf16 | Self::F16 => 16.0,
            Self::Bfp8 => 8.5,
            Self::Fp8 | Self::Int8 => 8.0,
            Self::Bfp4 => 4.5,
            Self::Int4 => 4.0,
        }
    }

    /// Bytes that a number takes in memory.
    pub fn bytes(self) -> f64 {
        self.bits() / 8.0
    }

    /// Whether weights in it come with scales of their own.
    pub fn is_scaled(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its [`Format::name`].
impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The format of each kind of value.
///
/// ```
/// use smolvla_core::cost::{Format, Widths};
///
/// let widths = Widths::named("int4")?;
/// assert_eq!((widths.weights, widths.products), (Format::Int4, Format::Int8));
/// // 4 bits and, for every 128 weights, a scale of 16.
/// assert_eq!(widths.weight_bytes(720 * 2560, 2560), 720.0 * 2560.0 / 2.0 + 6.0 * 2560.0 * 2.0);
/// # Ok::<(), smolvla_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Widths {
    /// What they are called together.
    pub name: String,
    /// Weights of linear layers, and embedding tables.
    pub weights: Format,
    /// What passes between operations.
    pub activations: Format,
    /// Keys and values of the prefix.
    pub kv: Format,
    /// Sums of products before they are rounded to an activation.
    pub accumulators: Format,
    /// Scales of quantised weights; `None`: they take no room.
    pub scales: Option<Format>,
    /// Gains, biases and position embeddings.
    pub parameters: Format,
    /// What products are multiplied in: the device's peak for it bounds them.
    pub products: Format,
    /// Weights that share a scale within one output; `None`: all of an output.
    pub group: Option<NonZeroU32>,
}

impl Widths {
    /// Names that [`Widths::named`] takes.
    pub const NAMES: [&str; 10] =
        ["f32", "bf16", "f16", "fp8", "bfp8", "bfp4", "int8", "int8w", "int4", "int4w"];

    /// A usual combination.
    ///
    /// | name | weights | activations, K/V | sums | multiplied in |
    /// |---|---|---|---|---|
    /// | `f32`, `bf16`, `f16` | the same | the same | f32 | the same |
    /// | `fp8` | fp8 | fp8 | f32 | fp8 |
    /// | `bfp8`, `bfp4` | the same | bf16 | f32 | the same |
    /// | `int8` | int8, a scale an output | int8 | int32 | int8 |
    /// | `int8w` | int8, a scale an output | bf16 | f32 | bf16 |
    /// | `int4` | int4, a scale for 128 | int8 | int32 | int8 |
    /// | `int4w` | int4, a scale for 128 | bf16 | f32 | bf16 |
    ///
    /// # Errors
    /// [`Error::Input`] naming those there are.
    pub fn named(name: &str) -> Result<Self> {
        let of = |weights, activations, products| Self {
            name: name.to_ascii_lowercase(),
            weights,
            activations,
            kv: activations,
            accumulators: if products == Format::Int8 { Format::Int32 } else { Format::F32 },
            scales: match weights {
                Format::Int4 => Some(Format::F16),
                Format::Int8 => Some(Format::F32),
                _ => None,
            },
            parameters: if weights == Format::F32 { Format::F32 } else { Format::Bf16 },
            products,
            group: if weights == Format::Int4 { NonZeroU32::new(128) } else { None },
        };
        Ok(match name.to_ascii_lowercase().as_str() {
            "f32" => of(Format::F32, Format::F32, Format::F32),
            "bf16" => of(Format::Bf16, Format::Bf16, Format::Bf16),
            "f16" => of(Format::F16, Format::F16, Format::F16),
            "fp8" => of(Format::Fp8, Format::Fp8, Format::Fp8),
            "bfp8" => of(Format::Bfp8, Format::Bf16, Format::Bfp8),
            "bfp4" => of(Format::Bfp4, Format::Bf16, Format::Bfp4),
            "int8" => of(Format::Int8, Format::Int8, Format::Int8),
            "int8w" => of(Format::Int8, Format::Bf16, Format::Bf16),
            "int4" => of(Format::Int4, Format::Int8, Format::Int8),
            "int4w" => of(Format::Int4, Format::Bf16, Format::Bf16),
            _ => {
                return Err(Error::input(
                    "precision",
                    format!("there is no `{name}`; expected one of {}", Self::NAMES.join(", ")),
                ));
            }
        })
    }

    /// Every value in one format, scales in none: what estimates on paper assume.
    pub fn uniform(format: Format) -> Self {
        Self {
            name: format!("all {format}"),
            weights: format,
            activations: format,
            kv: format,
            accumulators: format,
            scales: None,
            parameters: format,
            products: format,
            group: None,
        }
    }

    /// Bytes of `elements` weights that make `outputs` outputs, their scales included.
    pub fn weight_bytes(&self, elements: u64, outputs: u64) -> f64 {
        self.number_bytes(elements) + self.scale_bytes(elements, outputs)
    }

    /// Bytes of the weights alone.
    pub fn number_bytes(&self, elements: u64) -> f64 {
        elements as f64 * self.weights.bytes()
    }

    /// Bytes of their scales: one an output, or one for each group within it.
    pub fn scale_bytes(&self, elements: u64, outputs: u64) -> f64 {
        let Some(scales) = self.scales.filter(|_| self.weights.is_scaled() && outputs > 0) else {
            return 0.0;
        };
        let groups = match self.group {
            Some(group) => (elements / outputs).div_ceil(u64::from(group.get())),
            None => 1,
        };
        (outputs * groups) as f64 * scales.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_there_and_others_are_refused() {
        for name in Widths::NAMES {
            assert_eq!(Widths::named(name).unwrap().name, name);
        }
        let message = Widths::named("int3").unwrap_err().to_string();
        assert!(message.contains("precision: there is no `int3`; expected one of f32, bf16"), "{message}");
    }

    #[test]
    fn block_floats_carry_their_shared_exponent() {
        // A Blackhole tile of 32 × 32 in bfp8 takes 1,088 bytes, in bfp4 576.
        assert_eq!(1024.0 * Format::Bfp8.bytes(), 1088.0);
        assert_eq!(1024.0 * Format::Bfp4.bytes(), 576.0);
    }

    #[test]
    fn scales_are_one_an_output_or_one_a_group() {
        let int8 = Widths::named("int8").unwrap();
        assert_eq!(int8.scale_bytes(960 * 320, 320), 320.0 * 4.0);
        let int4 = Widths::named("int4").unwrap();
        // 960 inputs are seven groups and a half: eight scales an output.
        assert_eq!(int4.scale_bytes(960 * 320, 320), 320.0 * 8.0 * 2.0);
        assert_eq!(Widths::named("bf16").unwrap().scale_bytes(960 * 320, 320), 0.0);
    }
}

//! How far a result may be from what it should be, and why: one table for every backend.
//!
//! A limit is looked up by what is compared ([`Class`]), how weights are stored and how sums are accumulated. Backends
//! have no limits of their own. `docs/numerics.md` is written from [`TABLE`] and checked against it by a test.
//! Limits only ever get tighter.

use std::fmt::{self, Write as _};

use serde::Serialize;
use smolvla_core::Precision;

use crate::metrics::Metrics;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// Operations that only move numbers: `embed_rows`, `concat_tokens`, `slice_rows`, `split_cols`,
    /// `pixel_shuffle`, `upload` and `download`.
    Movement,
    /// Operations that round each element once or twice, as the trait prescribes: `scale`, `axpy`.
    Rounding,
    /// Elementwise functions: `activate`, `silu_mul`, `rope`.
    Elementwise,
    /// `layer_norm`, `rms_norm`.
    Norm,
    /// `linear`.
    Product,
    /// `attention`.
    Attention,
    /// A whole layer or denoising step.
    Layer,
    /// One stage of the model, computed from LeRobot's own inputs of that stage.
    StageForced,
    /// A stage of the model running by itself.
    StageFree,
    /// The same of the model in its real size.
    StageFreeBase,
    /// Normalised actions of the small model.
    Actions,
    /// Normalised actions of the model in its real size.
    ActionsBase,
    /// One joint's actions in physical units, over all observations and noises.
    Joint,
}

impl Class {
    /// Every class, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::Movement,
        Self::Rounding,
        Self::Elementwise,
        Self::Norm,
        Self::Product,
        Self::Attention,
        Self::Layer,
        Self::StageForced,
        Self::StageFree,
        Self::StageFreeBase,
        Self::Actions,
        Self::ActionsBase,
        Self::Joint,
    ];

    /// The name reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Movement => "movement",
            Self::Rounding => "rounding",
            Self::Elementwise => "elementwise",
            Self::Norm => "norm",
            Self::Product => "product",
            Self::Attention => "attention",
            Self::Layer => "layer",
            Self::StageForced => "stage, forced",
            Self::StageFree => "stage, free",
            Self::StageFreeBase => "stage, free, base",
            Self::Actions => "actions",
            Self::ActionsBase => "actions, base",
            Self::Joint => "joint",
        }
    }
}

/// In what numbers sums are accumulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Accumulation {
    /// 32-bit floats, or wider, integers among them.
    F32,
    /// 32-bit integers.
    Int32,
    /// bfloat16.
    Bf16,
}

impl Accumulation {
    /// What [`Precision`] promises.
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::Int8 | Precision::Int8Full => Self::Int32,
            Precision::Bfp8LoFi => Self::Bf16,
            _ => Self::F32,
        }
    }

    /// The name reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int32 => "int32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Limits on [`Metrics`]. What is not finite fails whatever they say; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Gates {
    /// Largest normalised mean squared error.
    pub nmse: Option<f64>,
    /// Largest absolute difference, in the unit of what is compared.
    pub max_abs: Option<f64>,
    /// Largest difference over the root mean square of its row.
    pub row_error: Option<f64>,
    /// Most elements whose bits may differ.
    pub different_bits: Option<usize>,
    /// Largest distance in units in the last place.
    pub ulp: Option<u32>,
    /// Smallest correlation.
    pub pcc: Option<f64>,
    /// Largest deviation of the affine fit's slope from 1.
    pub slope: Option<f64>,
    /// Largest mean difference, in standard deviations of what is expected.
    pub bias: Option<f64>,
    /// Smallest share of first differences that point the same way; see [`crate::actions`].
    pub direction: Option<f64>,
}

impl Gates {
    /// No limits.
    pub const NONE: Self = Self {
        nmse: None,
        max_abs: None,
        row_error: None,
        different_bits: None,
        ulp: None,
        pcc: None,
        slope: None,
        bias: None,
        direction: None,
    };

    /// Equal bit for bit.
    pub const EXACT: Self = Self { different_bits: Some(0), ..Self::NONE };

    /// Equal but for the sign of zero and for subnormals, which a device may flush.
    pub const ROUNDED_ALIKE: Self = Self { ulp: Some(0), ..Self::NONE };

    /// Every limit that `metrics` breaks.
    pub fn violations(&self, metrics: &Metrics) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut check = |metric, value: f64, limit: Option<f64>, is_minimum: bool| {
            let Some(limit) = limit else { return };
            // NaN breaks every limit.
            let holds = if is_minimum { value >= limit } else { value <= limit };
            if !holds {
                violations.push(Violation { metric, value, limit, is_minimum });
            }
        };
        check("non-finite elements", metrics.non_finite as f64, Some(0.0), false);
        check("NMSE", metrics.nmse, self.nmse, false);
        check("max abs", metrics.max_abs, self.max_abs, false);
        check("row error", metrics.row_error, self.row_error, false);
        check("different bits", metrics.different_bits as f64, self.different_bits.map(|n| n as f64), false);
        check("ULP", f64::from(metrics.ulp), self.ulp.map(f64::from), false);
        check("PCC", metrics.pcc, self.pcc, true);
        check("bias", metrics.bias.abs(), self.bias, false);
        check("slope − 1", (metrics.slope - 1.0).abs(), self.slope, false);
        violations
    }
}

/// A limit that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Violation {
    /// The metric.
    pub metric: &'static str,
    /// What was measured.
    #[serde(serialize_with = "crate::metrics::number")]
    pub value: f64,
    /// What is allowed.
    pub limit: f64,
    /// Whether `limit` is a smallest value, not a largest.
    pub is_minimum: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, value, limit, is_minimum } = self;
        let bound = if *is_minimum { "at least" } else { "at most" };
        write!(f, "{metric} {} ({bound} {})", short(*value), self::limit(*limit))
    }
}

/// A measured number with few digits: `0.25`, `3.2e-7`, `12`; as many as tell it from 1 just below that.
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    let trimmed = |text: String| text.trim_end_matches('0').trim_end_matches('.').to_owned();
    if value == 0.0 || (value.fract() == 0.0 && magnitude < 1e6) {
        format!("{value}")
    } else if (0.99..1.0).contains(&magnitude) {
        trimmed(format!("{value:.10}"))
    } else if (1e-3..1e4).contains(&magnitude) {
        trimmed(format!("{value:.5}"))
    } else {
        format!("{value:.1e}")
    }
}

/// A limit as it was written: `1e-12`, `0.05`, `0.99999999`.
pub fn limit(value: f64) -> String {
    if value == 0.0 || value.abs() >= 1e-3 { format!("{value}") } else { format!("{value:e}") }
}

/// One row of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tolerance {
    /// What is compared.
    pub class: Class,
    /// How weights are stored, by [`Precision::name`].
    #[serde(serialize_with = "precision_name")]
    pub storage: Precision,
    /// How sums are accumulated.
    pub accumulation: Accumulation,
    /// The limits.
    pub gates: Gates,
    /// Why they are where they are.
    pub reason: &'static str,
}

fn precision_name<S: serde::Serializer>(precision: &Precision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(precision.name())
}

/// The row for what a backend computes in `precision`; `None` where the table has none, and nothing can be judged.
pub fn tolerance(class: Class, precision: Precision) -> Option<&'static Tolerance> {
    let accumulation = Accumulation::of(precision);
    TABLE
        .iter()
        .find(|row| row.class == class && row.storage == precision && row.accumulation == accumulation)
}

const fn f32_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::F32, accumulation: Accumulation::F32, gates, reason }
}

const fn half_row(storage: Precision, class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage, accumulation: Accumulation::F32, gates, reason }
}

const fn int8_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::Int8, accumulation: Accumulation::Int32, gates, reason }
}

const fn int8_weights_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::Int8Weights, accumulation: Accumulation::F32, gates, reason }
}

const fn int8_full_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::Int8Full, accumulation: Accumulation::Int32, gates, reason }
}

const fn int16_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::Int16, accumulation: Accumulation::F32, gates, reason }
}

const fn bfp8_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::Bfp8, accumulation: Accumulation::F32, gates, reason }
}

const fn lofi_row(class: Class, gates: Gates, reason: &'static str) -> Tolerance {
    Tolerance { class, storage: Precision::Bfp8LoFi, accumulation: Accumulation::Bf16, gates, reason }
}

const fn error(nmse: f64, row_error: f64) -> Gates {
    Gates { nmse: Some(nmse), row_error: Some(row_error), ..Gates::NONE }
}

const MOVED: &str =
    "Numbers are moved, not computed with; inputs are numbers that the storage type holds exactly.";

const ELSEWHERE: &str = "Not quantised: what linear layers and attention are not is int8's.";

/// Every limit of the suite.
pub const TABLE: &[Tolerance] = &[
    f32_row(Class::Movement, Gates::EXACT, MOVED),
    f32_row(
        Class::Rounding,
        Gates::ROUNDED_ALIKE,
        "The trait prescribes each rounding: one product, then one sum. A fused multiply-add shows here.",
    ),
    f32_row(
        Class::Elementwise,
        error(1e-13, 5e-6),
        "A handful of roundings and one exponential or tangent: 8e-15, and 1.1e-6 of the row, measured on inputs with outliers.",
    ),
    f32_row(
        Class::Norm,
        error(5e-13, 2e-5),
        "Sums over up to 768 columns in another order, and a square root: 6e-14, and 9e-6 of the row, where f32 sums run in order, measured.",
    ),
    f32_row(
        Class::Product,
        error(1e-12, 2e-5),
        "Sums of up to 12,288 products, in parts: one running f32 sum over so many would be off by 5e-12. Twenty times the relative error for the worst element, whose terms may cancel.",
    ),
    f32_row(
        Class::Attention,
        error(1e-12, 2e-5),
        "Two products and a softmax, whose weights carry the scores' absolute error as a relative one: 9.4e-13 and 5e-6 where f32 sums run in order, measured.",
    ),
    f32_row(
        Class::Layer,
        error(2e-12, 2e-5),
        "About ten operations one after the other: 5e-14 and 1.3e-6, measured.",
    ),
    f32_row(
        Class::StageForced,
        error(1e-11, 5e-5),
        "One layer, or a denoising step, from LeRobot's own input; torch sums in another order too, so both sides are off: 2.5e-12 and 1e-5, measured.",
    ),
    f32_row(
        Class::StageFree,
        Gates { nmse: Some(1e-10), ..Gates::NONE },
        "A relative error of 1e-5: sums in another order over ten steps of a small, sensitive model. 2.9e-11 at most, measured; a wrong formula is off by far more.",
    ),
    f32_row(
        Class::StageFreeBase,
        Gates { nmse: Some(3e-11), ..Gates::NONE },
        "44 layers and ten steps: 4.2e-12 at most, measured.",
    ),
    f32_row(
        Class::Actions,
        Gates { nmse: Some(2e-11), max_abs: Some(5e-5), slope: Some(5e-6), ..Gates::NONE },
        "Six times what is measured; far below what a joint's encoder resolves.",
    ),
    f32_row(
        Class::ActionsBase,
        Gates { nmse: Some(1e-11), max_abs: Some(3e-5), slope: Some(2e-6), ..Gates::NONE },
        "Six times what is measured, a six-hundredth of what bfloat16 costs LeRobot itself at this size.",
    ),
    f32_row(
        Class::Joint,
        Gates {
            row_error: Some(3e-5),
            pcc: Some(0.999_999_99),
            slope: Some(1e-6),
            bias: Some(1e-5),
            direction: Some(0.9999),
            ..Gates::NONE
        },
        "Six times what the plain loops are off by, measured over 200 chunks; first differences below a thousandth of the joint's spread are not looked at.",
    ),
    half_row(Precision::Bf16, Class::Movement, Gates::EXACT, MOVED),
    half_row(
        Precision::Bf16,
        Class::Rounding,
        error(1e-5, 4e-2),
        "Results may be stored in bfloat16, up to 2^-8 of an element off: 1.3e-2 of a row with outliers, measured by emulation.",
    ),
    half_row(
        Precision::Bf16,
        Class::Elementwise,
        error(1e-5, 1e-1),
        "One rounding of the result to bfloat16: 4.6e-2 of a row with outliers, measured by emulation.",
    ),
    half_row(
        Precision::Bf16,
        Class::Norm,
        error(1e-5, 1.2e-1),
        "One rounding of the result to bfloat16: 4.9e-2 of a row with outliers, measured by emulation.",
    ),
    half_row(
        Precision::Bf16,
        Class::Product,
        error(1e-5, 4e-2),
        "Products of bfloat16 are exact in f32; inputs lie on its grid, and the result is rounded once.",
    ),
    half_row(
        Precision::Bf16,
        Class::Attention,
        error(2e-5, 6e-2),
        "Attention weights, and the result, rounded to bfloat16.",
    ),
    half_row(Precision::Bf16, Class::Layer, error(1e-4, 1e-1), "About ten operations in bfloat16."),
    half_row(
        Precision::Bf16,
        Class::StageForced,
        error(5e-4, 2e-1),
        "One layer, or a whole denoising step where the golden does not hold its layers: 2e-4 at most, measured with products in bfloat16 and exact sums.",
    ),
    half_row(
        Precision::Bf16,
        Class::StageFree,
        Gates { nmse: Some(2.5e-3), ..Gates::NONE },
        "Errors of all layers add up; a velocity of LeRobot's own bfloat16 is within 1.2e-3 of its f32 on these checkpoints, measured.",
    ),
    half_row(
        Precision::Bf16,
        Class::StageFreeBase,
        Gates { nmse: Some(2.5e-3), ..Gates::NONE },
        "As at the small size; to be tightened when a backend offers it.",
    ),
    half_row(
        Precision::Bf16,
        Class::Actions,
        Gates {
            nmse: Some(4e-4),
            max_abs: Some(6e-2),
            pcc: Some(0.9998),
            slope: Some(6e-3),
            bias: Some(1e-2),
            ..Gates::NONE
        },
        "Up to three times what bfloat16 costs LeRobot itself on these cases: 1.3e-4, 0.054, 1 − 7e-5, 2.3e-3, 3.5e-3, measured.",
    ),
    half_row(
        Precision::Bf16,
        Class::ActionsBase,
        Gates {
            nmse: Some(1.5e-4),
            max_abs: Some(5e-2),
            pcc: Some(0.9999),
            slope: Some(4e-3),
            bias: Some(5e-3),
            ..Gates::NONE
        },
        "Up to four times what bfloat16 costs LeRobot itself at this size: 4.5e-5, 0.024, 1 − 2.1e-5, 1.1e-3, 1.5e-3, measured.",
    ),
    half_row(
        Precision::Bf16,
        Class::Joint,
        Gates {
            row_error: Some(0.12),
            pcc: Some(0.9998),
            slope: Some(2e-3),
            bias: Some(5e-3),
            direction: Some(0.99),
            ..Gates::NONE
        },
        "Two to three times what bfloat16 costs LeRobot itself in its worst joint: 0.061, 1 − 7.4e-5, 9.7e-4, 1.9e-3, 0.996, measured.",
    ),
    half_row(Precision::F16, Class::Movement, Gates::EXACT, MOVED),
    half_row(
        Precision::F16,
        Class::Rounding,
        error(2e-7, 4e-3),
        "Results may be stored in half precision, up to 2^-11 of an element off: 1.5e-3 of a row with outliers, measured by emulation.",
    ),
    half_row(
        Precision::F16,
        Class::Elementwise,
        error(2e-7, 1.2e-2),
        "One rounding of the result to half precision: 5.4e-3 of a row with outliers, measured by emulation.",
    ),
    half_row(
        Precision::F16,
        Class::Norm,
        error(2e-7, 1.5e-2),
        "One rounding of the result to half precision: 6.8e-3 of a row with outliers, measured by emulation.",
    ),
    half_row(
        Precision::F16,
        Class::Product,
        error(2e-7, 4e-3),
        "Products of half precision are exact in f32; inputs lie on its grid, and the result is rounded once.",
    ),
    half_row(
        Precision::F16,
        Class::Attention,
        error(5e-7, 8e-3),
        "Attention weights, and the result, rounded to half precision.",
    ),
    half_row(Precision::F16, Class::Layer, error(2e-6, 1e-2), "About ten operations in half precision."),
    half_row(
        Precision::F16,
        Class::StageForced,
        error(2e-6, 1e-2),
        "One layer, or a whole denoising step where the golden does not hold its layers: 1.2e-6 at most, measured on the GPU backend.",
    ),
    half_row(
        Precision::F16,
        Class::StageFree,
        Gates { nmse: Some(4e-5), ..Gates::NONE },
        "Eight times finer than bfloat16, so a sixty-fourth of its squared error.",
    ),
    half_row(
        Precision::F16,
        Class::StageFreeBase,
        Gates { nmse: Some(4e-5), ..Gates::NONE },
        "As at the small size; to be tightened when a backend offers it.",
    ),
    half_row(
        Precision::F16,
        Class::Actions,
        Gates {
            nmse: Some(1e-5),
            max_abs: Some(1e-2),
            pcc: Some(0.99999),
            slope: Some(1e-3),
            bias: Some(2e-3),
            ..Gates::NONE
        },
        "A sixth of bfloat16's, squared where the limit is of squares.",
    ),
    half_row(
        Precision::F16,
        Class::ActionsBase,
        Gates {
            nmse: Some(4e-6),
            max_abs: Some(8e-3),
            pcc: Some(0.99999),
            slope: Some(7e-4),
            bias: Some(1e-3),
            ..Gates::NONE
        },
        "A sixth of bfloat16's, squared where the limit is of squares.",
    ),
    half_row(
        Precision::F16,
        Class::Joint,
        Gates {
            row_error: Some(0.02),
            pcc: Some(0.99999),
            slope: Some(4e-4),
            bias: Some(1e-3),
            direction: Some(0.998),
            ..Gates::NONE
        },
        "A sixth of bfloat16's.",
    ),
    int8_row(Class::Movement, Gates::EXACT, MOVED),
    int8_row(
        Class::Rounding,
        error(1e-5, 4e-2),
        "Not quantised: results may be stored in bfloat16, and are held to its limits.",
    ),
    int8_row(
        Class::Elementwise,
        error(1e-5, 1e-1),
        "Not quantised; may be bfloat16, and is held to its limits.",
    ),
    int8_row(Class::Norm, error(1e-5, 1.2e-1), "Not quantised; may be bfloat16, and is held to its limits."),
    int8_row(
        Class::Product,
        error(1e-2, 0.4),
        "Weights in 255 levels a row and activations in 255 levels a token: 4.5e-3 and 0.2 on inputs with outliers, measured by emulation.",
    ),
    int8_row(
        Class::Attention,
        error(2e-5, 6e-2),
        "Not quantised; may be bfloat16, and is held to its limits.",
    ),
    int8_row(Class::Layer, error(1e-2, 0.5), "Four quantised products one after the other."),
    int8_row(Class::StageForced, error(1e-2, 0.5), "One layer; the CPU engine's worst is a quarter of it."),
    int8_row(
        Class::StageFree,
        Gates { nmse: Some(2e-2), ..Gates::NONE },
        "What PCC 0.99 allows; the CPU engine's worst is 0.72 of it, with the language model in bfloat16.",
    ),
    int8_row(Class::StageFreeBase, Gates { nmse: Some(2e-2), ..Gates::NONE }, "As at the small size."),
    int8_row(
        Class::Actions,
        Gates { nmse: Some(2e-2), pcc: Some(0.99), slope: Some(5e-2), ..Gates::NONE },
        "PCC 0.99 leaves 14 % of the signal, so NMSE is held too; the CPU engine's worst correlation is 0.9994.",
    ),
    int8_row(
        Class::ActionsBase,
        Gates { nmse: Some(2e-2), pcc: Some(0.99), slope: Some(5e-2), ..Gates::NONE },
        "As at the small size.",
    ),
    int8_row(
        Class::Joint,
        Gates {
            row_error: Some(1.0),
            pcc: Some(0.99),
            slope: Some(5e-2),
            bias: Some(5e-2),
            direction: Some(0.8),
            ..Gates::NONE
        },
        "Joint by joint: no chunk further off than the joint's own spread.",
    ),
    int8_weights_row(Class::Movement, Gates::EXACT, MOVED),
    int8_weights_row(
        Class::Rounding,
        error(1e-5, 4e-2),
        "Not quantised; may be bfloat16, and is held to its limits.",
    ),
    int8_weights_row(
        Class::Elementwise,
        error(1e-5, 1e-1),
        "Not quantised; may be bfloat16, and is held to its limits.",
    ),
    int8_weights_row(
        Class::Norm,
        error(1e-5, 1.2e-1),
        "Not quantised; may be bfloat16, and is held to its limits.",
    ),
    int8_weights_row(
        Class::Product,
        error(5e-4, 0.12),
        "Weights are rounded to a 254th of their channel's largest, activations to bfloat16; the CPU engine's worst is a fifth of it.",
    ),
    int8_weights_row(
        Class::Attention,
        error(2e-5, 6e-2),
        "Not quantised; may be bfloat16, and is held to its limits.",
    ),
    int8_weights_row(
        Class::Layer,
        error(2e-3, 0.2),
        "A few products after another; the CPU engine's worst is a fifth of it.",
    ),
    int8_weights_row(
        Class::StageForced,
        error(4e-3, 0.4),
        "One layer; the CPU engine's worst is a third of it.",
    ),
    int8_weights_row(
        Class::StageFree,
        Gates { nmse: Some(1e-2), ..Gates::NONE },
        "Layers add up; the CPU engine's worst is a third of it.",
    ),
    int8_weights_row(
        Class::StageFreeBase,
        Gates { nmse: Some(1e-2), ..Gates::NONE },
        "Layers add up; the CPU engine's worst is a third of it.",
    ),
    int8_weights_row(
        Class::Actions,
        Gates { nmse: Some(1e-2), pcc: Some(0.999), slope: Some(2e-2), ..Gates::NONE },
        "Between bfloat16 and int8; the CPU engine's worst correlation is 0.9998.",
    ),
    int8_weights_row(
        Class::ActionsBase,
        Gates { nmse: Some(1e-2), pcc: Some(0.999), slope: Some(2e-2), ..Gates::NONE },
        "Between bfloat16 and int8; the CPU engine's worst correlation is 0.9998.",
    ),
    int8_weights_row(
        Class::Joint,
        Gates {
            row_error: Some(1.0),
            pcc: Some(0.99),
            slope: Some(5e-2),
            bias: Some(5e-2),
            direction: Some(0.8),
            ..Gates::NONE
        },
        "As where products are int8 too: single joints of miniatures are few numbers.",
    ),
    int8_full_row(Class::Movement, Gates::EXACT, MOVED),
    int8_full_row(Class::Rounding, error(1e-5, 4e-2), ELSEWHERE),
    int8_full_row(Class::Elementwise, error(1e-5, 1e-1), ELSEWHERE),
    int8_full_row(Class::Norm, error(1e-5, 1.2e-1), ELSEWHERE),
    int8_full_row(Class::Product, error(1e-2, 0.4), "Linear layers are int8's."),
    int8_full_row(
        Class::Attention,
        error(4e-2, 6.0),
        "Queries, keys, values and softmax in 255 levels a row: 1.5e-2 and 2.5 where scores are large, measured on the U280's functional device.",
    ),
    int8_full_row(
        Class::Layer,
        error(1e-2, 0.5),
        "As int8's: attention in 8 bits adds little to four quantised products.",
    ),
    int8_full_row(
        Class::StageForced,
        error(1e-2, 0.5),
        "As int8's: 3.4e-3 and 0.42 at most, measured on the U280's functional device.",
    ),
    int8_full_row(
        Class::StageFree,
        Gates { nmse: Some(6e-2), ..Gates::NONE },
        "A single velocity of a miniature is few numbers: 2.6e-2, measured on the U280's functional device, where its actions are off by 2.5e-3.",
    ),
    int8_full_row(
        Class::StageFreeBase,
        Gates { nmse: Some(6e-2), ..Gates::NONE },
        "As at the small size; not measured.",
    ),
    int8_full_row(
        Class::Actions,
        Gates { nmse: Some(0.02), pcc: Some(0.99), slope: Some(5e-2), ..Gates::NONE },
        "As int8's: what attention in 8 bits adds is within it.",
    ),
    int8_full_row(
        Class::ActionsBase,
        Gates { nmse: Some(0.02), pcc: Some(0.99), slope: Some(5e-2), ..Gates::NONE },
        "As int8's: 0.0173 and 0.9914 after one step, the worst, measured on the U280's functional device.",
    ),
    int8_full_row(
        Class::Joint,
        Gates {
            row_error: Some(1.0),
            pcc: Some(0.99),
            slope: Some(5e-2),
            bias: Some(5e-2),
            direction: Some(0.8),
            ..Gates::NONE
        },
        "As int8's: joint by joint, no chunk further off than the joint's own spread.",
    ),
    int16_row(Class::Movement, Gates::EXACT, MOVED),
    int16_row(
        Class::Rounding,
        Gates::ROUNDED_ALIKE,
        "The U280's words are binary32, and its sums and products IEEE's but for subnormals.",
    ),
    int16_row(
        Class::Elementwise,
        error(3e-8, 4e-3),
        "A table of 256 steps with lines between them: 9.9e-9 and 1.2e-3, measured on the U280's functional device.",
    ),
    int16_row(
        Class::Norm,
        error(5e-13, 3e-5),
        "Integer sums of 25 bits a number: 1.4e-13 and 9.7e-6, measured on the U280's functional device.",
    ),
    int16_row(
        Class::Product,
        error(1e-7, 3e-3),
        "Numbers in 65,025 levels a row: 3.3e-8 and 8.3e-4 on inputs with outliers, measured on the U280's functional device.",
    ),
    int16_row(
        Class::Attention,
        error(2e-5, 6e-2),
        "Where scores are large, a level of theirs shows: 4.8e-6 and 0.0597, measured on the U280's functional device, which gives the same bits everywhere.",
    ),
    int16_row(
        Class::Layer,
        error(1e-7, 3e-3),
        "A few products one after the other: 3.4e-9 and 3.2e-4, measured on the U280's functional device.",
    ),
    int16_row(
        Class::StageForced,
        error(1e-6, 2e-2),
        "One layer, or a whole denoising step where the golden does not hold its layers: 1.5e-7 and 4.5e-3, measured on the U280's functional device.",
    ),
    int16_row(
        Class::StageFree,
        Gates { nmse: Some(5e-6), ..Gates::NONE },
        "Layers add up: 1.3e-6, measured on the U280's functional device.",
    ),
    int16_row(
        Class::StageFreeBase,
        Gates { nmse: Some(5e-6), ..Gates::NONE },
        "As at the small size; the real one's actions are off by 1.3e-7.",
    ),
    int16_row(
        Class::Actions,
        Gates {
            nmse: Some(5e-6),
            max_abs: Some(6e-2),
            pcc: Some(0.99999),
            slope: Some(1e-3),
            bias: Some(2e-3),
            ..Gates::NONE
        },
        "Four times what the U280's functional device is off by in its worst case: 1.3e-6, measured.",
    ),
    int16_row(
        Class::ActionsBase,
        Gates {
            nmse: Some(2e-6),
            max_abs: Some(5e-2),
            pcc: Some(0.99999),
            slope: Some(1e-3),
            bias: Some(2e-3),
            ..Gates::NONE
        },
        "1.3e-7 and 1 − 6.9e-8 after ten steps, measured on the U280's functional device; room for other cases.",
    ),
    int16_row(
        Class::Joint,
        Gates {
            row_error: Some(2e-2),
            pcc: Some(0.99999),
            slope: Some(4e-4),
            bias: Some(1e-3),
            direction: Some(0.99),
            ..Gates::NONE
        },
        "1.4e-3 and 1 − 2e-8 in the worst joint, measured on the U280's functional device; held to half precision's limits.",
    ),
    bfp8_row(Class::Movement, Gates::EXACT, MOVED),
    bfp8_row(Class::Rounding, error(1e-5, 4e-2), "No weights: bfloat16, and held to its limits."),
    bfp8_row(Class::Elementwise, error(1e-5, 1e-1), "No weights: bfloat16, and held to its limits."),
    bfp8_row(Class::Norm, error(1e-5, 1.2e-1), "No weights: bfloat16, and held to its limits."),
    bfp8_row(
        Class::Product,
        error(3e-4, 0.15),
        "Weights in 127 levels of the largest of 16, activations cut to 7 bits: 1.1e-4 and 0.072, measured on the Tensix emulator.",
    ),
    bfp8_row(
        Class::Attention,
        error(6e-5, 8e-2),
        "No weights, but the matrix engine cuts scores and what lies between the softmax's steps to 11 bits: 3e-5, measured on the Tensix emulator.",
    ),
    bfp8_row(
        Class::Layer,
        error(5e-4, 0.2),
        "A few products one after the other: 1.7e-4 and 0.062, measured on the Tensix emulator.",
    ),
    bfp8_row(
        Class::StageForced,
        error(8e-3, 1.0),
        "One layer, or a whole denoising step where the golden does not hold its layers: 3.3e-3 and 0.42, measured on the Tensix emulator.",
    ),
    bfp8_row(
        Class::StageFree,
        Gates { nmse: Some(7e-2), ..Gates::NONE },
        "Layers add up, and a single velocity of a miniature is few numbers: 3.6e-2, measured on the Tensix emulator, where its actions are off by 3.4e-3.",
    ),
    bfp8_row(
        Class::StageFreeBase,
        Gates { nmse: Some(7e-2), ..Gates::NONE },
        "As at the small size; to be tightened when a device runs it in the suite.",
    ),
    bfp8_row(
        Class::Actions,
        Gates { nmse: Some(8e-3), pcc: Some(0.996), slope: Some(4e-2), ..Gates::NONE },
        "Two to three times what the Tensix emulator is off by: 3.4e-3, 1 − 1.6e-3, 0.018, measured.",
    ),
    bfp8_row(
        Class::ActionsBase,
        Gates { nmse: Some(5e-3), pcc: Some(0.997), slope: Some(4e-2), ..Gates::NONE },
        "Two to three times what the Tensix emulator is off by in its worst case: 2.2e-3 and 1 − 1.1e-3, measured.",
    ),
    bfp8_row(
        Class::Joint,
        Gates {
            row_error: Some(1.0),
            pcc: Some(0.997),
            slope: Some(2e-2),
            bias: Some(4e-2),
            direction: Some(0.8),
            ..Gates::NONE
        },
        "Three times what the Tensix emulator is off by in its worst joint: 0.31, 1 − 1.1e-3, 5.8e-3, 0.012, measured.",
    ),
    lofi_row(Class::Movement, Gates::EXACT, MOVED),
    lofi_row(
        Class::Rounding,
        error(5e-4, 0.4),
        "Results in 127 levels of the largest of 16, after a 16-bit accumulator.",
    ),
    lofi_row(
        Class::Elementwise,
        error(5e-4, 0.4),
        "Results in 127 levels of the largest of 16, after a 16-bit accumulator.",
    ),
    lofi_row(
        Class::Norm,
        error(5e-4, 0.4),
        "Results in 127 levels of the largest of 16, and the vector unit's faster root.",
    ),
    lofi_row(
        Class::Product,
        error(6e-2, 1.0),
        "Weights cut to 5 bits, activations to 7, and sums of thousands of products in a 16-bit accumulator: 3.1e-2 and 0.46, measured on the Tensix emulator.",
    ),
    lofi_row(
        Class::Attention,
        error(0.12, 2.8),
        "Scores of 8 bits with a shared exponent, and exponentials up to 4 % off: 5.6e-2 and 1.4, measured on the Tensix emulator.",
    ),
    lofi_row(
        Class::Layer,
        error(2e-2, 0.6),
        "A few products one after the other; the Tensix emulator's worst is within half of it.",
    ),
    lofi_row(
        Class::StageForced,
        error(8e-2, 2.4),
        "One layer, or a whole denoising step where the golden does not hold its layers: 3.5e-2 and 1.2, measured on the Tensix emulator.",
    ),
    lofi_row(
        Class::StageFree,
        Gates { nmse: Some(0.3), ..Gates::NONE },
        "A single velocity of a miniature may point elsewhere: 0.13, measured on the Tensix emulator, where its actions are off by 2.2e-2.",
    ),
    lofi_row(
        Class::StageFreeBase,
        Gates { nmse: Some(0.3), ..Gates::NONE },
        "As at the small size; to be tightened when a device runs it in the suite.",
    ),
    lofi_row(
        Class::Actions,
        Gates { nmse: Some(5e-2), pcc: Some(0.97), slope: Some(0.15), ..Gates::NONE },
        "Two to three times what the Tensix emulator is off by: 2.2e-2, 1 − 1.2e-2, 0.07, measured.",
    ),
    lofi_row(
        Class::ActionsBase,
        Gates { nmse: Some(8e-2), pcc: Some(0.96), slope: Some(0.15), ..Gates::NONE },
        "Two to three times what the Tensix emulator is off by: 3.7e-2, 1 − 1.5e-2, measured.",
    ),
    lofi_row(
        Class::Joint,
        Gates {
            row_error: Some(1.5),
            pcc: Some(0.985),
            slope: Some(5e-2),
            bias: Some(6e-2),
            direction: Some(0.6),
            ..Gates::NONE
        },
        "Three times what the Tensix emulator is off by in its worst joint: 0.48, 1 − 5.5e-3, 0.013, 0.022, measured.",
    ),
];

/// `docs/numerics.md`.
pub fn numerics_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for class in Class::ALL {
        // Writing to a string cannot fail.
        let _ = write!(page, "\n## {}\n\n{HEADER}", class.name());
        for row in TABLE.iter().filter(|row| row.class == class) {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} |",
                row.storage,
                row.accumulation.name(),
                describe(&row.gates),
                row.reason
            );
        }
    }
    page
}

fn describe(gates: &Gates) -> String {
    let bound =
        |name: &str, sign: &str, value: Option<f64>| value.map(|v| format!("{name} {sign} {}", limit(v)));
    let parts: Vec<String> = [
        gates.different_bits.map(|count| {
            if count == 0 { "equal bits".to_owned() } else { format!("different bits ≤ {count}") }
        }),
        gates.ulp.map(|ulp| format!("ULP ≤ {ulp}")),
        bound("NMSE", "≤", gates.nmse),
        bound("max abs", "≤", gates.max_abs),
        bound("row error", "≤", gates.row_error),
        bound("PCC", "≥", gates.pcc),
        bound("abs(slope − 1)", "≤", gates.slope),
        bound("abs(bias)", "≤", gates.bias),
        bound("same direction", "≥", gates.direction),
    ]
    .into_iter()
    .flatten()
    .collect();
    parts.join(", ")
}

const HEADER: &str = "| storage | accumulation | limits | why |\n|---|---|---|---|\n";

const INTRODUCTION: &str = "\
# How exact a backend must be

<!-- Written from tests/src/tolerance.rs by `cargo xtask conform --numerics`; a test compares. Edit there. -->

Every comparison of the conformance suite is judged by one row of these tables, whatever the backend: by what is compared, how
weights are stored and how sums are accumulated. What is not finite always fails. All metrics are shown for every comparison;
only those named here are limits. Limits only ever get tighter.

- **NMSE**: `Σ(got − expected)² / Σ expected²`; its square root is the relative error.
- **max abs**: largest absolute difference, in the unit of what is compared.
- **row error**: largest difference over the root mean square of its row (for a joint: over the standard deviation of its actions).
- **equal bits**: of every element. **ULP**: units in the last place of f32; subnormals, which a device may flush, count as zero.
- **PCC**: Pearson's correlation. It sees neither scale nor offset, so it never stands alone.
- **slope**: of the least-squares line through computed over expected values.
- **bias**: mean difference, in standard deviations of what is expected.
- **same direction**: share of the steps from one action to the next that go the same way.

Operations are judged by plain loops with f64 sums; stages and actions by what LeRobot itself computed. Two limits stand
beside the tables: the rows of the first port (`pcc_…`) are held to PCC ≥ 0.99 too, and f32 actions to 0.06 of those of LeRobot
in bfloat16, which shows that both references are of one policy.

Limits of operations let every result be stored in the named type. The model's do not: they are what LeRobot's own bfloat16 costs,
which keeps the expert's residual stream and the actions in f32. A backend that rounds those too loses more (0.095 of a
normalised unit, measured) and fails; keep them in f32.

Limits of types that no backend offers yet are starting points, from emulation.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_one_row_for_each_precision() {
        for class in Class::ALL {
            for precision in Precision::ALL.iter().copied() {
                let rows = TABLE.iter().filter(|row| row.class == class && row.storage == precision).count();
                assert_eq!(rows, 1, "{class:?} {precision}");
                let row = tolerance(class, precision).expect("a row");
                assert_ne!(row.gates, Gates::NONE, "{class:?} {precision} has no limit");
                assert!(row.reason.len() > 10, "{class:?} {precision} has no reason");
            }
        }
    }

    #[test]
    fn coarser_storage_is_never_held_to_tighter_limits() {
        // Each limit as a distance: a minimum is turned into what it leaves.
        let limits = |class, precision| -> Vec<Option<f64>> {
            let Gates { nmse, max_abs, row_error, different_bits, ulp, pcc, slope, bias, direction } =
                tolerance(class, precision).expect("a row").gates;
            let left = |minimum: Option<f64>| minimum.map(|minimum| 1.0 - minimum);
            let (bits, ulp) = (different_bits.map(|n| n as f64), ulp.map(f64::from));
            vec![nmse, max_abs, row_error, bits, ulp, left(pcc), slope, bias, left(direction)]
        };
        for class in Class::ALL {
            use Precision::{Bf16, Bfp8, Bfp8LoFi, F16, F32, Int8, Int8Full, Int8Weights, Int16};
            let integers = [F32, F16, Bf16, Int8Weights, Int8, Int8Full];
            let digits = [F32, Int16, Int8Weights];
            let block_floats = [Bf16, Bfp8, Bfp8LoFi];
            for pair in integers.windows(2).chain(digits.windows(2)).chain(block_floats.windows(2)) {
                for (finer, coarser) in limits(class, pair[0]).into_iter().zip(limits(class, pair[1])) {
                    if let (Some(finer), Some(coarser)) = (finer, coarser) {
                        assert!(
                            finer <= coarser,
                            "{class:?}, {} and {}: {finer} {coarser}",
                            pair[0],
                            pair[1]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn violations_name_each_broken_limit() {
        let gates = Gates { nmse: Some(1e-6), pcc: Some(0.99), ..Gates::NONE };
        let wrong = Metrics::measure(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0], 3);
        let broken: Vec<_> = gates.violations(&wrong).iter().map(|v| v.metric).collect();
        assert_eq!(broken, ["NMSE", "PCC"]);
        assert!(gates.violations(&Metrics::measure(&[1.0, 2.0], &[1.0, 2.0], 2)).is_empty());
    }

    #[test]
    fn what_is_not_finite_breaks_even_no_limit() {
        let metrics = Metrics::measure(&[1.0], &[f32::NAN], 1);
        assert_eq!(Gates::NONE.violations(&metrics)[0].to_string(), "non-finite elements 1 (at most 0)");
    }

    #[test]
    fn short_numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (0.25, "0.25"),
            (0.99999998, "0.99999998"),
            (3.21e-7, "3.2e-7"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(short(value), text);
        }
        for (value, text) in [(0.0, "0"), (1e-12, "1e-12"), (0.05, "0.05"), (0.999_999_99, "0.99999999")] {
            assert_eq!(limit(value), text);
        }
    }
}

//! Arguments that are resolved on a device, and anew on each device of a sweep.

use std::num::NonZeroU32;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use smolvla::cost::{CrossKv, Device, Execution, Format, Fusion, TimeMlp, Widths};

use crate::failure::Failure;

/// Number formats.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Number formats")]
pub(super) struct WidthArgs {
    /// A usual combination, the same for every layer: f32, bf16, f16, fp8, bfp8, bfp4, int8, int8w, int4 or int4w; auto:
    /// bf16 where the device multiplies it, else int8. (In `run` these are plans, which keep some layers wider.)
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(super) precision: String,
    /// Weights in this format instead.
    #[arg(long, value_name = "FORMAT", value_parser = stored())]
    pub(super) weights: Option<Format>,
    /// Activations in this format instead.
    #[arg(long, value_name = "FORMAT", value_parser = stored())]
    pub(super) activations: Option<Format>,
    /// Keys and values of the prefix in this format instead.
    #[arg(long, value_name = "FORMAT", value_parser = stored())]
    pub(super) kv: Option<Format>,
    /// Sums of products in this format instead.
    #[arg(long, value_name = "FORMAT", value_parser = sums())]
    pub(super) accumulators: Option<Format>,
    /// Scales of integer weights in this format instead.
    #[arg(long, value_name = "FORMAT", value_parser = scales())]
    pub(super) scales: Option<Format>,
    /// Weights that share a scale within an output, up to 16384.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = group)]
    pub(super) group: Option<NonZeroU32>,
    /// Multiply in this format instead.
    #[arg(long, value_name = "FORMAT", value_parser = stored())]
    pub(super) products: Option<Format>,
}

/// How the device goes through the graph.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Execution")]
pub(super) struct ExecutionArgs {
    /// What is one kernel, reading from memory and writing to it.
    #[arg(long, default_value = "operations", value_parser = named(Fusion::ALL, Fusion::name))]
    pub(super) fusion: Fusion,
    /// Attention scores go through memory. Only with --fusion operations.
    #[arg(long)]
    pub(super) unfused_attention: bool,
    /// Whether cross-attention's keys and values are projected once a chunk or, as in LeRobot, in every step.
    #[arg(long, default_value = "static", value_parser = named(CrossKv::ALL, CrossKv::name))]
    pub(super) cross_kv: CrossKv,
    /// The time MLP's first layer: its time half kept from an earlier chunk, made in this first one, or whole over
    /// every action and step as in LeRobot.
    #[arg(long, default_value = "kept", value_parser = named(TimeMlp::ALL, TimeMlp::name))]
    pub(super) time_mlp: TimeMlp,
    /// Megabytes on chip in which weights of the expert stay between steps; auto: all that the device has.
    #[arg(long, value_name = "MB|auto", default_value = "0", allow_negative_numbers = true)]
    pub(super) resident: Resident,
}

/// How much stays on chip.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resident {
    Auto,
    Megabytes(f64),
}

impl std::str::FromStr for Resident {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number: Option<f64> = text.parse().ok();
        number
            .filter(|number| (0.0..=1e6).contains(number))
            .map(Self::Megabytes)
            .ok_or_else(|| "expected megabytes, 0 to 1000000, or auto".to_owned())
    }
}

/// Formats that values are kept in, and multiplied.
fn stored() -> impl TypedValueParser<Value = Format> {
    use Format::{Bf16, Bfp4, Bfp8, F16, F32, Fp8, Int4, Int8};
    named([F32, Bf16, F16, Fp8, Bfp8, Bfp4, Int8, Int4], Format::name)
}

/// Formats that products are summed in.
fn sums() -> impl TypedValueParser<Value = Format> {
    named([Format::F32, Format::Bf16, Format::F16, Format::Int32], Format::name)
}

/// Formats of scales.
fn scales() -> impl TypedValueParser<Value = Format> {
    named([Format::F32, Format::Bf16, Format::F16, Format::Fp8], Format::name)
}

fn group(text: &str) -> Result<NonZeroU32, String> {
    let number: Option<NonZeroU32> = text.parse().ok();
    number.filter(|number| number.get() <= 16384).ok_or_else(|| "expected 1 to 16384".to_owned())
}

/// Takes one of some values by its name; for clap.
fn named<T, const N: usize>(all: [T; N], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.map(name))
        .try_map(move |text| all.into_iter().find(|value| name(*value) == text).ok_or("is none of them"))
}

impl WidthArgs {
    pub(super) fn resolve(&self, device: &Device) -> Result<Widths, Failure> {
        let name = match self.precision.as_str() {
            "auto" if device.peak(Format::Bf16).is_ok() => "bf16",
            "auto" if device.peak(Format::Int8).is_ok() => "int8",
            "auto" => {
                let first = device.peaks.keys().next();
                first.map_or("f32", String::as_str)
            }
            name => name,
        };
        let mut widths = Widths::named(name)?;
        let mut changes = Vec::new();
        let mut change = |field: &mut Format, value: Option<Format>, what: &str| {
            if let Some(value) = value {
                *field = value;
                changes.push(format!("{what} {value}"));
            }
        };
        change(&mut widths.weights, self.weights, "weights");
        change(&mut widths.activations, self.activations, "activations");
        change(&mut widths.kv, self.kv, "K/V");
        change(&mut widths.accumulators, self.accumulators, "sums");
        change(&mut widths.products, self.products, "products");
        if !widths.weights.is_scaled() {
            (widths.scales, widths.group) = (None, None);
        } else if widths.scales.is_none() {
            widths.scales = Some(Format::F32);
        }
        widths.scales = self.scales.or(widths.scales);
        widths.group = self.group.or(widths.group);
        if (self.scales.is_some() || self.group.is_some()) && !widths.weights.is_scaled() {
            return Err(Failure::input(format!(
                "--{}: weights in {} have no scales; choose --weights int8 or int4",
                if self.scales.is_some() { "scales" } else { "group" },
                widths.weights
            )));
        }
        if !changes.is_empty() {
            widths.name = format!("{name} with {}", changes.join(", "));
        }
        Ok(widths)
    }
}

impl ExecutionArgs {
    pub(super) fn resolve(&self, device: &Device) -> Result<Execution, Failure> {
        if self.unfused_attention && self.fusion != Fusion::Operations {
            return Err(Failure::input(
                "--unfused-attention: a fused block keeps its scores on chip; leave it out or use --fusion operations",
            ));
        }
        let resident_bytes = match (self.resident, &device.on_chip) {
            (Resident::Megabytes(megabytes), Some(on_chip)) if megabytes > on_chip.mb => {
                return Err(Failure::input(format!(
                    "--resident {megabytes}: device `{}` has {} MB on chip",
                    device.name, on_chip.mb
                )));
            }
            (Resident::Megabytes(megabytes), _) => megabytes * 1e6,
            (Resident::Auto, Some(on_chip)) => on_chip.mb * 1e6,
            (Resident::Auto, None) => {
                return Err(Failure::input(format!(
                    "--resident auto: device `{}` states no [on_chip] memory; give megabytes",
                    device.name
                )));
            }
        };
        Ok(Execution {
            fusion: self.fusion,
            unfused_attention: self.unfused_attention,
            cross_kv: self.cross_kv,
            time_mlp: self.time_mlp,
            resident_bytes,
        })
    }
}

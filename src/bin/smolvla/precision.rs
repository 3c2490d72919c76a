//! The argument that says in which precision a policy is to run.

use smolvla::{Device, Precision, PrecisionPlan};

use crate::failure::Failure;

const HINT: &str = "--precision takes a name or a plan's JSON file; `smolvla doctor` lists the names that each backend offers";

/// In which precision to run.
#[derive(clap::Args)]
pub(crate) struct PrecisionArgs {
    /// Arithmetic of the linear layers: f32, bf16, f16, int8, int8w, bfp8 or bfp8lofi, as far as the backend offers
    /// them; auto, the fastest plan that it recommends on this device; another of its plans by name (balanced, accurate or
    /// fast on tt); or the JSON file of a plan [default: f32, or the recommended plan where the backend has no f32]
    #[arg(long, value_name = "NAME|FILE", hide_default_value = true)]
    precision: Option<String>,
}

impl PrecisionArgs {
    /// The plan that is asked for, on `device`.
    pub(crate) fn resolve(&self, device: &Device) -> Result<PrecisionPlan, Failure> {
        let capabilities = device.capabilities();
        let usual = match capabilities.precisions.contains(&Precision::F32) {
            true => Precision::F32.name(),
            false => capabilities.plans.first().and_then(PrecisionPlan::name).unwrap_or(PrecisionPlan::AUTO),
        };
        PrecisionPlan::resolve(self.precision.as_deref().unwrap_or(usual), &capabilities)
            .map_err(|error| Failure::from(error).hint(HINT))
    }
}

//! The argument that says in which precision a policy is to run.

use smolvla::{Device, PrecisionPlan};

use crate::failure::Failure;

const HINT: &str = "--precision takes a name or a plan's JSON file; `smolvla doctor` lists the names that each backend offers";

/// In which precision to run.
#[derive(clap::Args)]
pub(crate) struct PrecisionArgs {
    /// Arithmetic of the linear layers: f32, bf16, f16, int8 or int8w, as far as the backend offers them; auto, the
    /// fastest plan that it recommends on this device; another of its plans by name; or the JSON file of a plan.
    #[arg(long, value_name = "NAME|FILE", default_value = "f32")]
    precision: String,
}

impl PrecisionArgs {
    /// The plan that is asked for, on `device`.
    pub(crate) fn resolve(&self, device: &Device) -> Result<PrecisionPlan, Failure> {
        PrecisionPlan::resolve(&self.precision, &device.capabilities())
            .map_err(|error| Failure::from(error).hint(HINT))
    }
}

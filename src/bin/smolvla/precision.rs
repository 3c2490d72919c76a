//! The argument that says in which precision a policy is to run.

use std::path::Path;

use smolvla::quantise::PLAN_FILE;
use smolvla::{Device, PrecisionPlan};

use crate::console::Console;
use crate::failure::Failure;

const HINT: &str = "--precision takes a name or a plan's JSON file; `smolvla doctor` lists the names that each backend offers";

/// In which precision to run.
#[derive(clap::Args)]
pub(crate) struct PrecisionArgs {
    /// Arithmetic of the linear layers: f32, bf16, f16, int8, int8w, int8full, int16, bfp8 or bfp8lofi, as far as the backend offers
    /// them; auto, the fastest plan that it recommends on this device; another of its plans by name (balanced, accurate or
    /// fast on tt); or the JSON file of a plan [default: f32, or the recommended plan where the backend has no f32]
    #[arg(long, value_name = "NAME|FILE", hide_default_value = true)]
    precision: Option<String>,
}

impl PrecisionArgs {
    /// Says that a quantised checkpoint has a plan of its own, where none was asked for.
    pub(crate) fn mention_plan(&self, console: Console, folder: &Path) {
        let plan = folder.join(PLAN_FILE);
        if self.precision.is_none() && plan.is_file() {
            let plan = plan.display();
            console.note(&format!("this checkpoint has a precision plan of its own: --precision {plan}"));
        }
    }

    /// The plan that is asked for, on `device`.
    pub(crate) fn resolve(&self, device: &Device) -> Result<PrecisionPlan, Failure> {
        let plan = match &self.precision {
            Some(argument) => PrecisionPlan::resolve(argument, &device.capabilities()),
            None => device.default_plan(),
        };
        plan.map_err(|error| Failure::from(error).hint(HINT))
    }
}

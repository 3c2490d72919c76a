//! SmolVLA on Tenstorrent Blackhole.
//!
//! The policy's operations become programs ([`program`]), and programs run on devices behind one trait
//! ([`device::TtDevice`]):
//!
//! | `--backend` | device | numbers |
//! |---|---|---|
//! | `tt`, `tt:emulator` | [`Emulator`]: a Tensix's arithmetic in software ([`tensix`]) | a Blackhole's, bit for bit where the rule is known |
//! | `tt:pjrt`, `tt:pjrt:FILE` | [`pjrt::PjrtDevice`]: whatever a plugin drives, a card with Tenstorrent's | the device's own |
//!
//! Two devices compute nothing: [`pjrt::MockDevice`] compiles for a card that is not there, and a [`Collector`] keeps the
//! programs of a policy.
//!
//! In what numbers each operation is stored and computed is data, a [`Plan`].
#![deny(unsafe_code)]

mod backend;
pub mod device;
mod emulator;
mod error;
pub mod latency;
mod open;
#[allow(unsafe_code, reason = "plugins are libraries in C, loaded at run time")]
pub mod pjrt;
mod plan;
pub mod probe;
pub mod program;
mod record;
pub mod stablehlo;
pub mod tensix;
mod trace;

use smolvla_core::{Capabilities, PrecisionPlan};

pub use self::backend::{TtBackend, TtLinear, TtMask, TtTable, TtTensor};
pub use self::emulator::{Emulator, EmulatorBuffer, EmulatorMatrix};
pub use self::error::DeviceError;
pub use self::open::{Opened, open, open_plugin};
pub use self::pjrt::PLUGIN_VARIABLE;
pub use self::plan::{Kernel, LinearMath, LinearRule, Plan, Product};
pub use self::trace::{Blank, Collected, Collector, Place, stage};

/// The backend's name, as `--backend` takes it.
pub const NAME: &str = "tt";

/// A device's capabilities with these built-in plans, the one it recommends first.
fn capabilities(device: impl Into<String>, plans: &[&str]) -> Capabilities {
    let precision =
        |name: &str| Plan::built_in().find(|(own, _)| *own == name).map(|(_, precision)| precision);
    let plans: Vec<_> = plans.iter().filter_map(|name| Some((*name, precision(name)?))).collect();
    let mut capabilities = Capabilities::new(NAME, device, plans.iter().map(|(_, precision)| *precision));
    let recommended = plans.first().map(|(_, precision)| (PrecisionPlan::AUTO, *precision));
    capabilities.plans = plans
        .iter()
        .copied()
        .chain(recommended)
        .map(|(name, precision)| PrecisionPlan::new(name, precision))
        .collect();
    capabilities
}

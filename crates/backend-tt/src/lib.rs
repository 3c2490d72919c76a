//! SmolVLA on Tenstorrent Blackhole.
//!
//! Planned, not written yet: this crate holds the backend's name and place, and [`open`] refuses. It will
//! open a Blackhole card through its PJRT library, loaded at run time, or a bit-exact emulator of its number
//! formats where there is no card.
#![deny(unsafe_code)]

mod backend;
pub mod device;
mod emulator;
mod error;
pub mod latency;
#[allow(unsafe_code, reason = "plugins are libraries in C, loaded at run time")]
pub mod pjrt;
mod plan;
pub mod probe;
pub mod program;
mod record;
pub mod stablehlo;
pub mod tensix;

use std::convert::Infallible;

use smolvla_core::backend::BackendErrorKind;
use smolvla_core::{BackendError, Capabilities, PrecisionPlan};

pub use self::backend::{TtBackend, TtLinear, TtMask, TtTable, TtTensor};
pub use self::emulator::{Emulator, EmulatorBuffer, EmulatorMatrix};
pub use self::error::DeviceError;
pub use self::pjrt::PLUGIN_VARIABLE;
pub use self::plan::{Kernel, LinearMath, LinearRule, Plan, Product};

/// The backend's name, as `--backend` takes it.
pub const NAME: &str = "tt";

/// Refuses to open a Blackhole card: there is no code for one yet.
///
/// `selector` is what follows the colon in `--backend tt:0`; the message repeats it.
///
/// # Errors
/// Always, with [`BackendErrorKind::Unavailable`].
///
/// ```
/// let refused = smolvla_backend_tt::open(None).unwrap_err();
/// assert!(refused.to_string().contains("--backend cpu"));
/// ```
pub fn open(selector: Option<&str>) -> Result<Infallible, BackendError> {
    let device = selector.map_or_else(|| NAME.to_owned(), |selector| format!("{NAME}:{selector}"));
    Err(BackendError::new(
        NAME,
        "open",
        BackendErrorKind::Unavailable,
        format!(
            "the Tenstorrent backend is planned, not written yet, so there is no device `{device}`; use --backend cpu"
        ),
    ))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_refuses_and_names_the_alternative() {
        let error = open(Some("0")).unwrap_err();
        assert_eq!((error.backend, error.kind), ("tt", BackendErrorKind::Unavailable));
        assert_eq!(
            error.to_string(),
            "tt: open: the Tenstorrent backend is planned, not written yet, so there is no device `tt:0`; use --backend cpu",
        );
    }

    #[test]
    fn open_without_a_selector_names_the_backend() {
        let message = open(None).unwrap_err().message;
        assert!(message.contains("no device `tt`;"), "{message}");
    }
}

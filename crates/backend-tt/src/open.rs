//! Devices by name.

use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::backend::TtBackend;
use crate::emulator::Emulator;

/// A backend on one of the devices that [`open`] knows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Opened {
    /// On the emulator.
    Emulator(TtBackend<Emulator>),
}

/// Opens a device by what follows the colon in `--backend tt:…`: nothing or `emulator`.
///
/// # Errors
/// [`BackendErrorKind::Unavailable`] for a name that does not exist.
///
/// ```
/// use smolvla_backend_tt::{Opened, open};
///
/// assert!(matches!(open(None)?, Opened::Emulator(_)));
/// assert!(open(Some("abacus")).unwrap_err().to_string().contains("`tt:abacus`"));
/// # Ok::<(), smolvla_core::BackendError>(())
/// ```
pub fn open(selector: Option<&str>) -> Result<Opened, BackendError> {
    match selector {
        None | Some("emulator") => Ok(Opened::Emulator(TtBackend::new(Emulator))),
        Some(other) => Err(BackendError::new(
            crate::NAME,
            "open",
            BackendErrorKind::Unavailable,
            format!("there is no device `tt:{other}`; expected tt or tt:emulator"),
        )),
    }
}

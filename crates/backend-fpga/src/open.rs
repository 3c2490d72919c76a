//! Devices by name.

use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::backend::FpgaBackend;
use crate::device::FpgaDevice;
use crate::functional::Functional;

/// What can be opened, for messages.
const KNOWN: &str = "expected fpga or fpga:functional (software), fpga:rtl (the design, simulated), fpga:xrt, fpga:xrt:N \
                     or fpga:xrt:FILE (a card; FILE is its xclbin)";

/// Names the design's file for `fpga:xrt` and `fpga:xrt:N`.
pub const XCLBIN_VARIABLE: &str = "SMOLVLA_FPGA_XCLBIN";

/// A backend on one of the devices that [`open`] knows.
pub type Opened = FpgaBackend<Box<dyn FpgaDevice>>;

/// Opens a device by what follows the colon in `--backend fpga:…`:
///
/// | selector | device |
/// |---|---|
/// | nothing, `functional` | an integer-exact model in software |
/// | `rtl` | the design itself, simulated by Verilator (feature `rtl-sim`): minutes a denoising step |
/// | `xrt`, `xrt:N` | the first card of XRT, or another one (feature `xrt`), with the design in the file that [`XCLBIN_VARIABLE`] names |
/// | `xrt:FILE` | the first card, with the design in `FILE` |
///
/// # Errors
/// [`BackendErrorKind::Unavailable`] for a name that does not exist, and for what this build has no code for; what is
/// missing where a device does not open.
///
/// ```
/// use smolvla_backend_fpga::open;
///
/// assert!(open(None).is_ok());
/// assert!(open(Some("abacus")).unwrap_err().to_string().contains("`fpga:abacus`"));
/// ```
pub fn open(selector: Option<&str>) -> Result<Opened, BackendError> {
    let device: Box<dyn FpgaDevice> = match selector {
        None | Some("functional") => Box::new(Functional::new()),
        Some("rtl") => simulated()?,
        Some(selector) => {
            let rest = selector.strip_prefix("xrt").filter(|rest| rest.is_empty() || rest.starts_with(':'));
            match rest.map(|rest| rest.strip_prefix(':')) {
                Some(None) => card("0")?,
                Some(Some(which)) if !which.is_empty() => card(which)?,
                _ => return Err(unavailable(format!("there is no device `fpga:{selector}`; {KNOWN}"))),
            }
        }
    };
    Ok(FpgaBackend::new(device))
}

#[cfg(feature = "rtl-sim")]
fn simulated() -> Result<Box<dyn FpgaDevice>, BackendError> {
    let device = crate::rtl::RtlDevice::new().map_err(|error| error.during("open"))?;
    Ok(Box::new(device))
}

#[cfg(not(feature = "rtl-sim"))]
fn simulated() -> Result<Box<dyn FpgaDevice>, BackendError> {
    Err(absent("rtl", "the simulated design", "fpga-rtl"))
}

/// A card by its number, or the first one with a file of one's own.
#[cfg(feature = "xrt")]
fn card(which: &str) -> Result<Box<dyn FpgaDevice>, BackendError> {
    let (index, file) = match which.parse() {
        Ok(index) => (index, std::env::var_os(XCLBIN_VARIABLE).filter(|file| !file.is_empty())),
        Err(_) => (0, Some(which.into())),
    };
    let Some(file) = file else {
        return Err(unavailable(format!(
            "which design is to be loaded onto the card? Name its xclbin file in {XCLBIN_VARIABLE}, or as \
             fpga:xrt:FILE; or use fpga:functional"
        )));
    };
    let device = crate::xrt::XrtDevice::open(index, std::path::Path::new(&file))
        .map_err(|error| error.during("open"))?;
    Ok(Box::new(device))
}

#[cfg(not(feature = "xrt"))]
fn card(which: &str) -> Result<Box<dyn FpgaDevice>, BackendError> {
    Err(absent(&format!("xrt:{which}"), "cards", "fpga-xrt"))
}

#[cfg(not(all(feature = "rtl-sim", feature = "xrt")))]
fn absent(selector: &str, what: &str, feature: &str) -> BackendError {
    unavailable(format!(
        "`fpga:{selector}`: this build has no code for {what}; build again with `--features {feature}`, or use \
         fpga:functional"
    ))
}

fn unavailable(message: String) -> BackendError {
    BackendError::new(crate::NAME, "open", BackendErrorKind::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(any(feature = "rtl-sim", feature = "xrt")))]
    fn devices_that_this_build_lacks_name_their_feature() {
        for (selector, feature) in [("rtl", "fpga-rtl"), ("xrt", "fpga-xrt"), ("xrt:3", "fpga-xrt")] {
            let error = open(Some(selector)).unwrap_err();
            assert_eq!(error.kind, BackendErrorKind::Unavailable);
            assert!(error.message.contains(&format!("`--features {feature}`")), "{error}");
        }
    }

    #[test]
    fn unknown_devices_are_refused_with_those_that_exist() {
        for selector in ["", "0", "xrt:", "xrtx", "FUNCTIONAL", "é"] {
            let message = open(Some(selector)).unwrap_err().to_string();
            for known in ["fpga:functional", "fpga:rtl", "fpga:xrt"] {
                assert!(message.contains(known), "{message}");
            }
        }
    }
}

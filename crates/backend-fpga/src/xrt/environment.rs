//! What must be so before XRT is loaded, and whether a card or emulation is meant.
//!
//! Where something here is wrong, XRT does not return an error: a C++ exception crosses its C interface and the process
//! aborts, or XRT ends the process itself. So all of it is asked first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use smolvla_core::backend::BackendErrorKind;

use crate::device::DeviceError;

const ROOT_VARIABLE: &str = "XILINX_XRT";
const MODE_VARIABLE: &str = "XCL_EMULATION_MODE";
const SOFTWARE_EMULATION: &str = "sw_emu";
const VITIS_VARIABLE: &str = "XILINX_VITIS";
const USER_VARIABLE: &str = "USER";

/// The library with the native interface.
const LIBRARY: &str = "libxrt_coreutil.so.2";
/// What it loads for a card, and for software emulation.
const CARD_LIBRARY: &str = "libxrt_core.so.2";
const EMULATION_LIBRARY: &str = "libxrt_swemu.so.2";

/// The program under `XILINX_VITIS` that software emulation starts.
pub const DEVICE_PROCESS: &str = "data/emulation/unified/cpu_em/generic_pcie/model/genericpciemodel";

/// XRT, as the environment names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Environment {
    /// The library with the native interface.
    pub(super) library: PathBuf,
    /// The program that stands for a card, in software emulation.
    pub(super) device_process: Option<PathBuf>,
}

impl Environment {
    /// Of this process.
    pub(super) fn read() -> Result<Self, DeviceError> {
        Self::of(|name| std::env::var_os(name))
    }

    /// With other variables.
    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, DeviceError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let root = set(ROOT_VARIABLE).ok_or_else(|| {
            unavailable(format!(
                "{ROOT_VARIABLE} is not set: `source /opt/xilinx/xrt/setup.sh`, or set it to the folder whose `lib` has {LIBRARY}"
            ))
        })?;
        let lib = PathBuf::from(root).join("lib");
        let emulated = match set(MODE_VARIABLE) {
            None => false,
            Some(mode) if mode == SOFTWARE_EMULATION => true,
            Some(mode) => {
                // `noop` gives wrong results in silence, and other modes end the process.
                return Err(unavailable(format!(
                    "{MODE_VARIABLE} is `{}`, which computes nothing; unset it for a card, or set it to {SOFTWARE_EMULATION}",
                    mode.to_string_lossy()
                )));
            }
        };
        let library = lib.join(LIBRARY);
        for needed in [&library, &lib.join(if emulated { EMULATION_LIBRARY } else { CARD_LIBRARY })] {
            require(needed, ROOT_VARIABLE, "the folder whose `lib` has XRT's libraries")?;
        }
        if !emulated {
            return Ok(Self { library, device_process: None });
        }
        let vitis = set(VITIS_VARIABLE);
        let (Some(vitis), Some(_)) = (vitis, set(USER_VARIABLE)) else {
            return Err(unavailable(format!(
                "{SOFTWARE_EMULATION} needs {VITIS_VARIABLE} (the folder with {DEVICE_PROCESS}) and {USER_VARIABLE} set"
            )));
        };
        let process = PathBuf::from(vitis).join(DEVICE_PROCESS);
        require(&process, VITIS_VARIABLE, "the folder with the program that stands for a card")?;
        Ok(Self { library, device_process: Some(process) })
    }

    /// XRT's version, from the name of the file that the library is a link to.
    pub(super) fn version(&self) -> Option<String> {
        let file = self.library.canonicalize().ok()?;
        let name = file.file_name()?.to_str()?;
        name.split_once(".so.").map(|(_, version)| version.to_owned())
    }
}

fn require(file: &Path, variable: &str, meaning: &str) -> Result<(), DeviceError> {
    if file.is_file() {
        return Ok(());
    }
    Err(unavailable(format!("there is no {}; set {variable} to {meaning}", file.display())))
}

fn unavailable(message: String) -> DeviceError {
    DeviceError { kind: BackendErrorKind::Unavailable, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error that variables lead to.
    fn error(variables: &[(&str, &str)]) -> String {
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        Environment::of(value).unwrap_err().message
    }

    #[test]
    fn each_missing_thing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        assert!(error(&[]).contains("XILINX_XRT is not set"));
        assert!(error(&[("XILINX_XRT", "")]).contains("XILINX_XRT is not set"));
        assert!(error(&[("XILINX_XRT", root)]).contains("lib/libxrt_coreutil.so.2"));
        let lib = folder.path().join("lib");
        std::fs::create_dir(&lib).unwrap();
        std::fs::write(lib.join(LIBRARY), "").unwrap();
        assert!(error(&[("XILINX_XRT", root)]).contains("libxrt_core.so.2"));
        for mode in ["noop", "hw_emu", "typo"] {
            assert!(error(&[("XILINX_XRT", root), ("XCL_EMULATION_MODE", mode)]).contains(mode));
        }
        let emulated = [("XILINX_XRT", root), ("XCL_EMULATION_MODE", "sw_emu")];
        assert!(error(&emulated).contains("libxrt_swemu.so.2"));
        std::fs::write(lib.join(EMULATION_LIBRARY), "").unwrap();
        assert!(error(&emulated).contains("XILINX_VITIS"));
        let [first, second] = emulated;
        assert!(error(&[first, second, ("XILINX_VITIS", root)]).contains("USER"));
        let all = [first, second, ("XILINX_VITIS", root), ("USER", "me")];
        assert!(error(&all).contains("genericpciemodel"));
        std::fs::write(lib.join(CARD_LIBRARY), "").unwrap();
        let found = Environment::of(|name| (name == "XILINX_XRT").then(|| root.into())).unwrap();
        assert_eq!((found.device_process, found.library), (None, lib.join(LIBRARY)));
    }

    #[cfg(unix)]
    #[test]
    fn version_is_the_librarys_own() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("libxrt_coreutil.so.2.13.0");
        std::fs::write(&real, "").unwrap();
        let library = folder.path().join(LIBRARY);
        std::os::unix::fs::symlink(&real, &library).unwrap();
        let environment = Environment { library, device_process: None };
        assert_eq!(environment.version().as_deref(), Some("2.13.0"));
    }
}

//! Devices by name.

use std::path::{Path, PathBuf};

use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::backend::TtBackend;
use crate::emulator::Emulator;
use crate::pjrt::{PLUGIN_VARIABLE, PjrtDevice, PjrtError, plugin_of_environment};
use crate::probe::probe;

/// What can be opened, for messages.
const KNOWN: &str = "expected tt or tt:emulator (software), tt:pjrt (the PJRT plugin that SMOLVLA_PJRT_PLUGIN names) or tt:pjrt:FILE";

/// A backend on one of the devices that [`open`] knows.
#[derive(Clone, Debug)]
pub enum Opened {
    /// On the emulator.
    Emulator(TtBackend<Emulator>),
    /// On what a plugin drives.
    Pjrt(TtBackend<PjrtDevice>),
}

/// Opens a device by what follows the colon in `--backend tt:…`:
///
/// | selector | device |
/// |---|---|
/// | nothing, `emulator` | the emulator |
/// | `pjrt` | that of the plugin which [`PLUGIN_VARIABLE`] names |
/// | `pjrt:FILE`, or a path | that of the plugin in this file |
///
/// A plugin is trusted as this program's own code is.
///
/// # Errors
/// [`BackendErrorKind::Unavailable`] for a name that does not exist, a file that is not there or no plugin, and a plugin
/// without a device; [`BackendErrorKind::Unsupported`] for a plugin of another version of the interface.
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
        Some(selector) => {
            let plugin = plugin_of_selector(selector, plugin_of_environment())?;
            open_plugin(Some(&plugin)).map(Opened::Pjrt)
        }
    }
}

/// Opens the first device of the plugin in this file, or else of the one that [`PLUGIN_VARIABLE`] names.
///
/// # Errors
/// As [`open`].
pub fn open_plugin(plugin: Option<&Path>) -> Result<TtBackend<PjrtDevice>, BackendError> {
    let plugin = match plugin {
        Some(plugin) => plugin.to_owned(),
        None => plugin_of_selector("pjrt", plugin_of_environment())?,
    };
    // The loader would say so too, in words of its own.
    if !plugin.exists() {
        return Err(unavailable(format!("there is no PJRT plugin {}", plugin.display())));
    }
    // Loading Tenstorrent's plugin takes seconds, and without a card ends in an error.
    let is_tenstorrents = plugin.file_name().is_some_and(|name| name == "libtt.so");
    if is_tenstorrents && !crate::pjrt::mock_is_asked_for() && probe().usable().next().is_none() {
        let text = format!("{} drives Tenstorrent cards", plugin.display());
        return Err(refused(PjrtError::NoDevice(text)));
    }
    PjrtDevice::open(&plugin).map(TtBackend::new).map_err(refused)
}

/// The plugin that a selector asks for, where `named` is the environment's.
fn plugin_of_selector(selector: &str, named: Option<PathBuf>) -> Result<PathBuf, BackendError> {
    let library = |path: &str| {
        Path::new(path)
            .extension()
            .is_some_and(|extension| ["so", "dylib", "dll"].iter().any(|e| extension == *e))
    };
    match selector.strip_prefix("pjrt") {
        Some("") => named.ok_or_else(|| {
            unavailable(format!(
                "tt:pjrt needs a PJRT plugin: name its file in {PLUGIN_VARIABLE}, or as tt:pjrt:FILE; a card needs \
                 Tenstorrent's, libtt.so of the Python package jax-tt-plugin"
            ))
        }),
        Some(":") => Err(unavailable(format!("`tt:pjrt:` names no file; {KNOWN}"))),
        Some(rest) if rest.starts_with(':') => Ok(PathBuf::from(&rest[1..])),
        _ if selector.contains(['/', '\\']) || library(selector) => Ok(PathBuf::from(selector)),
        _ if !selector.is_empty() && selector.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(unavailable(format!(
                "`tt:{selector}`: a card is not opened by a number, but through Tenstorrent's PJRT plugin, which takes \
                 the first that it may see (TT_VISIBLE_DEVICES={selector} shows it this one alone); {KNOWN}"
            )))
        }
        _ => Err(unavailable(format!("there is no device `tt:{selector}`; {KNOWN}"))),
    }
}

fn unavailable(message: String) -> BackendError {
    BackendError::new(crate::NAME, "open", BackendErrorKind::Unavailable, message)
}

/// The plugin's error, with what to do about it.
fn refused(error: PjrtError) -> BackendError {
    let advice = match &error {
        PjrtError::CannotLoad { .. } | PjrtError::NotAPlugin { .. } => {
            "name the library of a PJRT plugin, such as Tenstorrent's libtt.so".to_owned()
        }
        PjrtError::Version { .. } | PjrtError::MissingFunction { .. } => {
            "take another version of the plugin".to_owned()
        }
        PjrtError::NoDevice(_) => probe().problems().join("; "),
        _ => String::new(),
    };
    let mut refused = error.in_backend("open");
    if !advice.is_empty() {
        refused.message = format!("{}; {advice}", refused.message);
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(selector: &str) -> Result<PathBuf, String> {
        plugin_of_selector(selector, None).map_err(|error| error.to_string())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_was_cut_off_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plugin.so");
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        std::fs::write(&file, &own[..own.len() / 2]).unwrap();
        let message = open_plugin(Some(&file)).unwrap_err().to_string();
        assert!(message.contains("it is cut off"), "{message}");
        let message = open_plugin(Some(folder.path())).unwrap_err().to_string();
        assert!(message.contains("it is a folder"), "{message}");
    }

    #[test]
    fn plugins_are_named_by_path_or_by_the_environment() {
        for selector in ["pjrt:/a/b", "/a/b"] {
            assert_eq!(plugin(selector).unwrap(), Path::new("/a/b"));
        }
        assert_eq!(plugin("plugin.so").unwrap(), Path::new("plugin.so"));
        assert_eq!(plugin("pjrt:plugin").unwrap(), Path::new("plugin"));
        assert_eq!(plugin_of_selector("pjrt", Some("/a".into())).unwrap(), Path::new("/a"));
        let message = plugin("pjrt").unwrap_err();
        assert!(message.contains(PLUGIN_VARIABLE) && message.contains("tt:pjrt:FILE"), "{message}");
    }

    #[test]
    fn unknown_devices_are_refused_with_those_that_exist() {
        for selector in ["", "0", "17", "abacus", "pjrt:", "pjrtx", "EMULATOR", "é"] {
            let message = plugin(selector).unwrap_err();
            for known in ["tt:emulator", "tt:pjrt", PLUGIN_VARIABLE] {
                assert!(message.contains(known), "{message}");
            }
        }
        let message = plugin("1").unwrap_err();
        assert!(message.contains("through Tenstorrent's PJRT plugin"), "{message}");
    }

    #[test]
    fn files_that_are_no_plugin_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.so");
        let open = || {
            let error = open(path.to_str()).unwrap_err();
            assert_eq!(error.kind, BackendErrorKind::Unavailable);
            error.to_string()
        };
        assert!(open().contains("there is no PJRT plugin"), "{}", open());
        std::fs::write(&path, "no library").unwrap();
        assert!(open().contains("libtt.so"), "{}", open());
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_library_that_is_no_plugin_is_an_error() {
        // One that every process has.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut files = maps.lines().filter_map(|line| line.split_whitespace().last());
        let library = files.find(|file| file.contains("/libc.so")).unwrap();
        let error = open(Some(&format!("pjrt:{library}"))).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unavailable);
        assert!(error.message.contains("GetPjrtApi") && error.message.contains("libtt.so"), "{error}");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let path = || PathBuf::from("/p.so");
        let version = PjrtError::Version { path: path(), found: (0, 1), needed: "0.100".to_owned() };
        let refusal = refused(version);
        assert_eq!(refusal.kind, BackendErrorKind::Unsupported);
        assert!(refusal.message.contains("another version of the plugin"), "{refusal}");
        let refusal = refused(PjrtError::NotAPlugin { path: path() });
        assert!(refusal.message.contains("GetPjrtApi") && refusal.message.contains("libtt.so"), "{refusal}");
        let refusal = refused(PjrtError::NoDevice("none in /dev/tenstorrent".to_owned()));
        for problem in probe().problems() {
            assert!(refusal.message.contains(&problem), "{refusal}");
        }
        assert!(refusal.source.is_some());
    }
}

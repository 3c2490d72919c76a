//! Files that are no plugin.

use libtest_mimic::{Failed, Trial};
use smolvla_backend_tt::pjrt::{PjrtError, Plugin};

use super::trial;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_file_that_is_no_library_is_refused", text),
        trial("a_file_that_is_not_there_is_refused", absent),
        #[cfg(target_os = "linux")]
        trial("a_library_that_is_no_plugin_is_refused", library),
    ]
}

fn text() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("plugin.so");
    std::fs::write(
        &path,
        "this is a text file, not a library, and longer than the header of one would have to be",
    )?;
    let error = Plugin::load(&path).unwrap_err();
    assert!(matches!(error, PjrtError::CannotLoad { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("cannot load the PJRT plugin ") && text.contains("plugin.so"), "{text}");
    Ok(())
}

fn absent() -> Result<(), Failed> {
    let error = Plugin::load("/nowhere/plugin.so").unwrap_err();
    assert!(matches!(error, PjrtError::CannotLoad { .. }), "{error:?}");
    Ok(())
}

#[cfg(target_os = "linux")]
fn library() -> Result<(), Failed> {
    let error = Plugin::load("libm.so.6").unwrap_err();
    assert!(matches!(error, PjrtError::NotAPlugin { .. }), "{error:?}");
    Ok(())
}

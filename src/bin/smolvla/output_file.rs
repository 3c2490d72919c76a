//! Files that are either complete or not there.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The folder a file is in.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Refuses a path that [`write`] could not write to, before time is spent on what goes into it.
pub(crate) fn check(path: &Path, extension: &str) -> Result<(), Failure> {
    if path.extension().and_then(OsStr::to_str).is_none_or(|found| !found.eq_ignore_ascii_case(extension)) {
        return Err(Failure::input(format!(
            "{}: expected a file name that ends in .{extension}",
            path.display()
        )));
    }
    if path.is_dir() {
        return Err(Failure::input(format!("{} is a folder; expected a file name", path.display())));
    }
    let folder = folder(path);
    if !folder.is_dir() {
        return Err(Failure::input(format!(
            "{}: there is no folder {}; make it first, or name another",
            path.display(),
            folder.display()
        )));
    }
    Ok(())
}

/// Writes a file aside and gives it its name when it is complete.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failure = |error: &std::io::Error| Failure::write(path, error);
    let mut file = builder().tempfile_in(folder(path)).map_err(|error| failure(&error))?;
    file.write_all(bytes).map_err(|error| failure(&error))?;
    file.persist(path).map_err(|error| failure(&error.error))?;
    Ok(())
}

#[cfg(unix)]
fn builder() -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;

    let mut builder = tempfile::Builder::new();
    // As any new file, not readable by its owner only; the umask still applies.
    builder.permissions(std::fs::Permissions::from_mode(0o666));
    builder
}

#[cfg(not(unix))]
fn builder() -> tempfile::Builder<'static, 'static> {
    tempfile::Builder::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replaces_a_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.png");
        for text in ["first", "second"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn check_refuses_what_could_not_be_written() {
        let folder = tempfile::tempdir().unwrap();
        for (name, expected) in
            [("plot.jpg", "ends in .png"), ("absent/plot.png", "no folder"), ("plot", "ends in")]
        {
            let message = check(&folder.path().join(name), "png").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(check(Path::new("plot.PNG"), "png").is_ok());
    }
}

//! Files and folders that are complete or not there.

use std::io;
use std::path::Path;

use tempfile::{NamedTempFile, TempDir};

/// Writes a file aside and gives it its name when it is complete.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file: NamedTempFile = builder(0o666).tempfile_in(folder)?;
    io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

/// A folder to fill before it is renamed.
pub(crate) fn folder_in(parent: &Path) -> io::Result<TempDir> {
    builder(0o777).tempdir_in(parent)
}

/// What is made can be read by whom the umask lets, as any new file or folder.
#[cfg(unix)]
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;

    let mut builder = tempfile::Builder::new();
    builder.permissions(std::fs::Permissions::from_mode(mode));
    builder
}

#[cfg(not(unix))]
fn builder(_mode: u32) -> tempfile::Builder<'static, 'static> {
    tempfile::Builder::new()
}

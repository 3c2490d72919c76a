//! Where the command keeps what it made.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, fs};

use etcetera::BaseStrategy;

use crate::failure::Failure;

/// The variable that moves the cache.
pub(crate) const VARIABLE: &str = "SMOLVLA_CACHE";
/// A file nobody has written to for this long is not being written.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The cache folder: `SMOLVLA_CACHE`, or `smolvla` in the user's own cache folder. It may not exist yet.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    if let Some(folder) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(folder.into());
    }
    let strategy = etcetera::choose_base_strategy().map_err(|error| {
        Failure::input(format!("cannot tell where to keep files: {error}"))
            .hint(format!("set {VARIABLE} to a folder"))
    })?;
    Ok(strategy.cache_dir().join("smolvla"))
}

/// Removes what interrupted runs left in `folder`: hidden folders of [`smolvla::synth`] that nobody has
/// written to for an hour. A younger one may belong to another process.
pub(crate) fn tidy(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_leftover = entry.file_name().to_string_lossy().starts_with(".smolvla-synth-");
        if is_leftover && is_old(&entry.path()) {
            tracing::info!("removing {}, left by an interrupted run", entry.path().display());
            // It is only in the way of free space; what cannot be removed stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether nothing in a folder, nor the folder, has changed for a while.
fn is_old(folder: &Path) -> bool {
    let is_recent = |path: &Path| {
        let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
        changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < ABANDONED) || time > SystemTime::now())
    };
    let inner = folder.join("checkpoint");
    let mut paths = vec![folder.to_owned(), inner.clone()];
    paths.extend(fs::read_dir(inner).into_iter().flatten().flatten().map(|entry| entry.path()));
    !paths.iter().any(|path| is_recent(path))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    #[test]
    fn tidy_removes_old_leftovers_only() {
        let cache = tempfile::tempdir().unwrap();
        let folder = |name: &str, age: Duration| {
            let inner = cache.path().join(name).join("checkpoint");
            fs::create_dir_all(&inner).unwrap();
            let weights = inner.join("model.safetensors");
            fs::write(&weights, b"half").unwrap();
            let times = FileTimes::new().set_modified(SystemTime::now() - age);
            for path in [weights, inner, cache.path().join(name)] {
                File::open(path).unwrap().set_times(times).unwrap();
            }
        };
        let day = Duration::from_secs(86_400);
        folder(".smolvla-synth-old", day);
        folder(".smolvla-synth-new", Duration::ZERO);
        folder("synth-base-seed0", day);
        tidy(cache.path());
        let mut left: Vec<_> =
            fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".smolvla-synth-new", "synth-base-seed0"]);
    }
}

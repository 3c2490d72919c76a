//! Which checkpoint it was.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::fixtures::{hex, sha256};

/// Files beside the policy that say how it came to be.
const NOT_OF_THE_POLICY: [&str; 3] = ["README.md", "training.csv", "loss.png"];

/// Folders within folders of a checkpoint, at most.
const DEPTH: usize = 8;

/// SHA-256 of everything that makes a checkpoint's policy: its weights, but also its configuration, statistics and
/// tokenizer.
///
/// That is of lines `HASH  PATH`, a file each, by path; without hidden files, README.md, training.csv and loss.png.
///
/// # Errors
/// When the folder holds no weights, or a file of it cannot be read; the message names it.
pub fn checkpoint_sha256(folder: &Path) -> Result<String, String> {
    let weights = folder.join("model.safetensors");
    if !weights.is_file() {
        return Err(format!("{}: there is no such file; expected a checkpoint's folder", weights.display()));
    }
    let mut files = Vec::new();
    list(folder, "", DEPTH, &mut files)?;
    files.retain(|(name, _)| !NOT_OF_THE_POLICY.contains(&name.as_str()));
    files.sort();
    let mut hash = Sha256::new();
    for (name, path) in files {
        let file = sha256(&path).map_err(|stop| stop.to_string())?;
        hash.update(format!("{file}  {name}\n"));
    }
    Ok(hex(&hash.finalize()))
}

/// Adds the files of `folder`, each with its path from the checkpoint on, which has `/` on every system.
fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<(String, PathBuf)>) -> Result<(), String> {
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.display());
    if depth == 0 {
        return Err(fail(&"lies too deep in a checkpoint"));
    }
    for entry in fs::read_dir(folder).map_err(|error| fail(&error))? {
        let path = entry.map_err(|error| fail(&error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        match path.is_dir() {
            true => list(&path, &format!("{name}/"), depth - 1, files)?,
            false => files.push((name, path)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_sha256_is_of_all_that_makes_the_policy() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let hash = || checkpoint_sha256(folder.path()).unwrap();
        assert!(checkpoint_sha256(folder.path()).unwrap_err().contains("model.safetensors"));
        fs::create_dir(folder.path().join("vlm")).unwrap();
        for name in ["model.safetensors", "config.json", "vlm/tokenizer.json"] {
            write(name, name);
        }
        let first = hash();
        for name in ["README.md", "training.csv", "loss.png", ".hidden"] {
            write(name, "about it");
            assert_eq!(hash(), first, "{name}");
        }
        for name in ["model.safetensors", "config.json", "vlm/tokenizer.json", "vlm/README.md", "more.json"] {
            let before = hash();
            write(name, "another");
            assert_ne!(hash(), before, "{name}");
        }
    }
}

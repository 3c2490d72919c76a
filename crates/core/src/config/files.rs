//! Reading of files whose size nobody has checked.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{Error, Result};

/// Most bytes of a JSON file; the largest published configuration has some ten thousand.
pub(crate) const LARGEST_JSON: u64 = 64 << 20;

/// Most bytes of a `tokenizer.json`; published ones have a few million.
pub(crate) const LARGEST_TOKENIZER: u64 = 256 << 20;

/// Most bytes of an image file.
pub(crate) const LARGEST_IMAGE: u64 = 256 << 20;

/// Reads a file of at most `limit` bytes; devices and pipes, which have no size, are cut off there too.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read or is larger.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let reason = format!("is larger than {limit} bytes, the most that is read of such a file");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        Ok(bytes)
    };
    read().map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_beyond_the_limit_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        let message = read_limited(&path, 4).unwrap_err().to_string();
        assert!(message.contains("config.json: is larger than 4 bytes"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn endless_file_is_refused() {
        let message = read_limited(Path::new("/dev/zero"), 1000).unwrap_err().to_string();
        assert!(message.contains("/dev/zero: is larger than 1000 bytes"), "{message}");
    }
}

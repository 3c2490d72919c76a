//! The one error type of the library.

use std::io;
use std::path::{Path, PathBuf};

use crate::backend::BackendError;

/// `Result` with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a checkpoint, an observation and a chunk of actions.
///
/// Each message names the file, tensor, key or input at fault and says what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: "read", "write", "map", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A configuration file is missing a key, holds a wrong value or asks for something unsupported.
    #[error("{}: {key}: {reason}", file.display())]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// The key at fault, as a dotted path.
        key: String,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A weights or statistics file cannot be understood at all.
    #[error("{}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors of a weights file are missing, unknown, mis-shaped or not finite.
    #[error("{}: {tensor}: {reason}", file.display())]
    Tensor {
        /// The weights file.
        file: PathBuf,
        /// The tensor at fault (the first of several; `reason` lists the others).
        tensor: String,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// Normalisation statistics are missing or ambiguous.
    #[error("{}: {reason}", file.display())]
    Statistics {
        /// The file the statistics were looked for in.
        file: PathBuf,
        /// What is missing, what the file does have, and how to choose.
        reason: String,
    },
    /// The tokenizer is absent or unusable.
    #[error("tokenizer {}: {reason}", file.display())]
    Tokenizer {
        /// The tokenizer file that was looked for.
        file: PathBuf,
        /// What is wrong and how to supply one.
        reason: String,
    },
    /// An image could not be decoded or has an unusable size.
    #[error("image {name}: {reason}")]
    Image {
        /// The file, or the camera where the image came from memory.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// An observation or an option is not acceptable.
    #[error("{field}: {reason}")]
    Input {
        /// The input at fault: `state`, `task`, `images`, `noise`, `num_steps`, …
        field: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The Hub could not supply a file.
    #[error("{repo}: {reason}")]
    Hub {
        /// The repository, with its revision where one was asked for.
        repo: String,
        /// What failed and what to do.
        reason: String,
    },
    /// A device failed or refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Error {
    /// An [`Error::Input`].
    pub fn input(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Input { field: field.into(), reason: reason.into() }
    }

    /// Makes an [`Error::Io`] of the operating system's reason; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

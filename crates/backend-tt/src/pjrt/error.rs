//! What can go wrong between this program and a plugin.

use std::fmt;
use std::path::PathBuf;

use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

/// A plugin could not be used, or refused a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PjrtError {
    /// The dynamic loader refused the library.
    #[error("cannot load the PJRT plugin {}: {reason}", path.display())]
    CannotLoad {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library is no PJRT plugin.
    #[error("{} is no PJRT plugin: it does not export GetPjrtApi", path.display())]
    NotAPlugin {
        /// The library.
        path: PathBuf,
    },
    /// The plugin speaks a version of the interface that this program does not.
    #[error("the PJRT plugin {} speaks version {}.{} of the interface; needed is {needed}", path.display(), found.0, found.1)]
    Version {
        /// The library.
        path: PathBuf,
        /// Its major and minor version.
        found: (i32, i32),
        /// The versions that would do.
        needed: String,
    },
    /// The plugin's table of functions is shorter than its version has it, or has a hole.
    #[error("the PJRT plugin {} has no function {call}", path.display())]
    MissingFunction {
        /// The library.
        path: PathBuf,
        /// The function, as the interface names it.
        call: &'static str,
    },
    /// The plugin reported an error.
    #[error("{call} failed ({code}): {message}")]
    Call {
        /// The function, as the interface names it.
        call: &'static str,
        /// The kind of error.
        code: ErrorCode,
        /// The plugin's words.
        message: String,
    },
    /// The plugin said that all is well and handed over nothing.
    #[error("{call} succeeded without a result: the plugin is broken")]
    NoResult {
        /// The function, as the interface names it.
        call: &'static str,
    },
    /// The plugin has an element type for which there is no [`super::ElementType`].
    #[error("element type {0} of the PJRT interface is not supported here")]
    ElementType(i32),
    /// The caller's own mistake.
    #[error("{0}")]
    InvalidArgument(String),
    /// The plugin drives devices, and this machine has none of them.
    #[error("{0}")]
    NoDevice(String),
    /// Numbers were asked of a device whose outputs are none, or the other way round.
    #[error("{0}")]
    WrongMode(String),
}

impl PjrtError {
    /// The kind that a backend reports it as.
    pub fn kind(&self) -> BackendErrorKind {
        match self {
            Self::Call { code, .. } => match code {
                ErrorCode::InvalidArgument | ErrorCode::OutOfRange => BackendErrorKind::InvalidArgument,
                ErrorCode::DeadlineExceeded => BackendErrorKind::Timeout,
                ErrorCode::ResourceExhausted => BackendErrorKind::OutOfMemory,
                ErrorCode::Unimplemented => BackendErrorKind::Unsupported,
                ErrorCode::NotFound | ErrorCode::PermissionDenied | ErrorCode::Unavailable => {
                    BackendErrorKind::Unavailable
                }
                ErrorCode::DataLoss => BackendErrorKind::DeviceLost,
                _ => BackendErrorKind::Other,
            },
            Self::CannotLoad { .. } | Self::NotAPlugin { .. } | Self::NoDevice(_) | Self::WrongMode(_) => {
                BackendErrorKind::Unavailable
            }
            Self::Version { .. } | Self::MissingFunction { .. } | Self::ElementType(_) => {
                BackendErrorKind::Unsupported
            }
            Self::InvalidArgument(_) => BackendErrorKind::InvalidArgument,
            Self::NoResult { .. } => BackendErrorKind::Other,
        }
    }

    /// As the failure of operation `op` of the backend in this crate.
    pub fn in_backend(self, op: &'static str) -> BackendError {
        let mut error = BackendError::new(crate::NAME, op, self.kind(), self.to_string());
        error.source = Some(Box::new(self));
        error
    }
}

/// The kinds of error that the interface has: those of <https://abseil.io/docs/cpp/guides/status-codes>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The operation was cancelled.
    Cancelled,
    /// The plugin's arguments were wrong.
    InvalidArgument,
    /// Time ran out.
    DeadlineExceeded,
    /// Something is not there.
    NotFound,
    /// Something is there already.
    AlreadyExists,
    /// This process may not do that.
    PermissionDenied,
    /// Out of memory, or of another resource.
    ResourceExhausted,
    /// The system is not in a state for this.
    FailedPrecondition,
    /// The operation was aborted.
    Aborted,
    /// Past the end of something.
    OutOfRange,
    /// The plugin does not have this.
    Unimplemented,
    /// A bug in the plugin.
    Internal,
    /// The service is not there now.
    Unavailable,
    /// Data are lost for good.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
    /// Unknown, or a number that the interface did not have when this was written.
    Unknown(i32),
}

impl From<i32> for ErrorCode {
    fn from(code: i32) -> Self {
        match code {
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            code => Self::Unknown(code),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(code) => write!(f, "unknown, {code}"),
            known => fmt::Debug::fmt(known, f),
        }
    }
}

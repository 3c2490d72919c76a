//! What devices fail with.

use std::error::Error;

use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

/// A failure of a device.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DeviceError {
    /// What kind of failure.
    pub kind: BackendErrorKind,
    /// What happened and what to do.
    pub message: String,
    /// The library's own error.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl DeviceError {
    /// An error without a source.
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same as the failure of a backend's operation.
    pub fn during(self, op: &'static str) -> BackendError {
        BackendError { backend: crate::NAME, op, kind: self.kind, message: self.message, source: self.source }
    }
}

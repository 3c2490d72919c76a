//! What runs descriptors: a model in software, a simulation of the RTL, or a card.

use std::fmt;

use smolvla_core::BackendError;
use smolvla_core::backend::{BackendErrorKind, Execution};

use crate::descriptor::{BANK_BITS, Descriptor};

/// Bytes of a bank of memory.
pub const BANK_BYTES: u64 = 1 << BANK_BITS;

/// Bytes at the end of the last bank that belong to the device: streams lie there. No buffer does.
pub const STREAM_BYTES: u64 = 1 << 24;

/// Most descriptors of a stream, with its [`crate::descriptor::Op::End`].
pub const STREAM_DESCRIPTORS: usize = STREAM_BYTES as usize / Descriptor::BYTES;

/// A place that has memory and runs descriptors on it.
///
/// Memory is [`BANKS`](crate::descriptor::BANKS) banks of [`BANK_BYTES`]; byte `offset` of bank `b` has the address `b << 28 | offset`. No buffer
/// lies in two banks. What was not written is not defined. All devices give the same bytes for the same stream.
pub trait FpgaDevice: Send + Sync + 'static {
    /// What it is, for people and reports.
    fn info(&self) -> DeviceInfo;

    /// Copies to the card.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the card.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Runs a stream and waits for its end; [`crate::descriptor::Op::End`] is added by the device.
    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError>;
}

/// One of several kinds of devices.
impl FpgaDevice for Box<dyn FpgaDevice> {
    fn info(&self) -> DeviceInfo {
        (**self).info()
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        (**self).write(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read(address, bytes)
    }

    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError> {
        (**self).run(stream)
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Shown as the backend's device.
    pub name: String,
    /// The software between this code and the device, if any.
    pub driver: Option<String>,
    /// Whether a card computes, or what stands for one.
    pub execution: Execution,
}

/// What a run cost, where the device counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Cycles of one compute unit's clock, from start to end. Zero: not counted.
    pub cycles: u64,
}

/// Why a device did not do what it was asked.
#[derive(Debug)]
pub struct DeviceError {
    /// What kind of failure.
    pub kind: BackendErrorKind,
    /// What happened and what to do.
    pub message: String,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeviceError {}

impl DeviceError {
    /// The same as the failure of a backend's operation.
    pub fn during(self, op: &'static str) -> BackendError {
        BackendError::new(crate::NAME, op, self.kind, self.message)
    }
}

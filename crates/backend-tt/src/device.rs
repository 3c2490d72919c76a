//! The seam below this backend: what runs programs.

use crate::error::DeviceError;
use crate::program::Program;
use crate::tensix::Format;

/// When recorded operations become a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Each operation is one, and runs at once.
    Operation,
    /// Operations are gathered until somebody needs a result: the prefix is one program, a denoising step another.
    Stage,
}

/// Something that takes a Blackhole's programs: a card, an emulator, or only the vendor's compiler.
///
/// Nothing here gives numbers back; [`Readable`] does, and a device whose results mean nothing does not have it.
pub trait TtDevice: Send + Sync + 'static {
    /// A matrix, weight or mask in the device's memory.
    type Buffer: Send + Sync;
    /// A program, ready to run.
    type Executable: Send + Sync;

    /// When operations become programs.
    fn granularity(&self) -> Granularity;

    /// Copies a matrix to the device, rounded to `format` where it is coarser than f32.
    /// `values.len() == rows × cols`.
    ///
    /// # Errors
    /// When the device refuses or has no memory for it.
    fn upload(
        &self,
        values: &[f32],
        rows: usize,
        cols: usize,
        format: Format,
    ) -> Result<Self::Buffer, DeviceError>;

    /// Copies a linear layer's weight `[outputs, inputs]` to the device, rounded to `format` as the host's tools do.
    ///
    /// # Errors
    /// As [`TtDevice::upload`].
    fn upload_weight(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        format: Format,
    ) -> Result<Self::Buffer, DeviceError>;

    /// Copies a mask `[batch, queries, keys]` to the device.
    ///
    /// # Errors
    /// As [`TtDevice::upload`].
    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Buffer, DeviceError>;

    /// Makes a program ready to run.
    ///
    /// # Errors
    /// When the device's compiler refuses it.
    fn compile(&self, program: &Program) -> Result<Self::Executable, DeviceError>;

    /// Runs a program on `arguments`, one for each of [`Program::arguments`], those of [`Program::donated`] given away;
    /// one buffer for each of its results. May return before they are computed.
    ///
    /// # Errors
    /// When the device fails.
    fn execute(
        &self,
        executable: &Self::Executable,
        arguments: Vec<Given<'_, Self::Buffer>>,
    ) -> Result<Vec<Self::Buffer>, DeviceError>;
}

/// An argument of a run.
#[derive(Debug)]
pub enum Given<'a, B> {
    /// Read, and there afterwards.
    Lent(&'a B),
    /// Not needed afterwards: the device may write a result over it.
    Donated(B),
}

impl<B> Given<'_, B> {
    /// The buffer.
    pub fn buffer(&self) -> &B {
        match self {
            Self::Lent(buffer) => buffer,
            Self::Donated(buffer) => buffer,
        }
    }
}

/// A device whose results are numbers.
pub trait Readable: TtDevice {
    /// Waits for a matrix and copies it to the host, row-major.
    ///
    /// # Errors
    /// When the device fails.
    fn download(&self, buffer: &Self::Buffer) -> Result<Vec<f32>, DeviceError>;

    /// What it is and can do.
    fn capabilities(&self) -> smolvla_core::Capabilities;
}

//! A device with its memory, and the operations that wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::allocator::{Allocator, Block};
use crate::descriptor::Descriptor;
use crate::device::{Counters, DeviceError, FpgaDevice, STREAM_DESCRIPTORS};

/// A device, who owns which of its memory, and what it is still to do.
pub(crate) struct Card<D> {
    device: D,
    allocator: Arc<Allocator>,
    queue: Mutex<Queue>,
}

/// What is to be done, in order.
#[derive(Debug, Default)]
struct Queue {
    work: Vec<Work>,
    counters: Counters,
    /// What an earlier stream failed with: nothing that came of it can be trusted.
    failed: Option<String>,
}

#[derive(Debug)]
enum Work {
    Run(Vec<Descriptor>),
    /// Bytes for memory that earlier operations may still be using.
    Write(u64, Vec<u8>),
}

impl Queue {
    /// Refuses to go on after a failure.
    fn check(&self) -> Result<(), DeviceError> {
        let Some(failure) = &self.failed else { return Ok(()) };
        let message = format!("an earlier stream failed: {failure}; open the device again");
        Err(DeviceError { kind: BackendErrorKind::DeviceLost, message })
    }
}

impl<D: FpgaDevice> Card<D> {
    pub(crate) fn new(device: D) -> Self {
        Self { device, allocator: Allocator::new(), queue: Mutex::default() }
    }

    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Of everything that has run.
    pub(crate) fn counters(&self) -> Counters {
        self.queue().counters
    }

    /// A buffer for `what`.
    pub(crate) fn allocate(&self, op: &'static str, what: &str, bytes: usize) -> Result<Block, BackendError> {
        self.allocator.allocate(bytes).map_err(|none| {
            let message = format!(
                "no place for {what} of {} bytes: {} bytes are free, {} of them in one piece, of 32 banks of 256 MiB; \
                 a buffer lies in one bank",
                none.asked, none.free, none.largest
            );
            BackendError::new(crate::NAME, op, BackendErrorKind::OutOfMemory, message)
        })
    }

    /// Copies to a buffer, after what has been asked for before.
    pub(crate) fn write(&self, op: &'static str, block: &Block, bytes: Vec<u8>) -> Result<(), BackendError> {
        let mut queue = self.queue();
        queue.check().map_err(|error| error.during(op))?;
        if queue.work.is_empty() {
            return self.device.write(block.address(), &bytes).map_err(|error| error.during(op));
        }
        queue.work.push(Work::Write(block.address(), bytes));
        Ok(())
    }

    /// Copies many bytes to a buffer: none are kept until later.
    pub(crate) fn write_now(
        &self,
        op: &'static str,
        block: &Block,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let mut queue = self.queue();
        self.run(&mut queue).map_err(|error| error.during(op))?;
        self.device.write(block.address(), bytes).map_err(|error| error.during(op))
    }

    /// Copies from memory, when all that has been asked for is done.
    pub(crate) fn read(&self, op: &'static str, address: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        let mut queue = self.queue();
        self.run(&mut queue).map_err(|error| error.during(op))?;
        self.device.read(address, bytes).map_err(|error| error.during(op))
    }

    /// Puts operations at the end of the stream, no other thread's between them.
    pub(crate) fn push(&self, descriptors: impl IntoIterator<Item = Descriptor>) {
        let mut queue = self.queue();
        // Whoever reads will hear of the failure.
        if queue.failed.is_some() {
            return;
        }
        match queue.work.last_mut() {
            Some(Work::Run(stream)) => stream.extend(descriptors),
            _ => queue.work.push(Work::Run(descriptors.into_iter().collect())),
        }
    }

    /// Waits for all that has been asked for.
    pub(crate) fn synchronize(&self, op: &'static str) -> Result<(), BackendError> {
        self.run(&mut self.queue()).map_err(|error| error.during(op))
    }

    fn run(&self, queue: &mut Queue) -> Result<(), DeviceError> {
        queue.check()?;
        for work in std::mem::take(&mut queue.work) {
            let done = match work {
                Work::Write(address, bytes) => self.device.write(address, &bytes),
                // One place is the end's.
                Work::Run(stream) => stream.chunks(STREAM_DESCRIPTORS - 1).try_for_each(|stream| {
                    queue.counters.cycles += self.device.run(stream)?.cycles;
                    Ok(())
                }),
            };
            if let Err(error) = done {
                queue.failed = Some(error.message.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A device that panicked has not said what it did.
        self.queue.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut queue = poisoned.into_inner();
            queue.failed.get_or_insert_with(|| "the device panicked".to_owned());
            queue
        })
    }
}

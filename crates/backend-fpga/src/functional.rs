//! The accelerator in software: the results of [`crate::plain`], at the speed of the processor's vector instructions.

mod gemm;
mod isa;
mod rows;

use std::sync::{Mutex, MutexGuard, PoisonError};

use smolvla_core::backend::Execution;

use self::isa::Isa;
use crate::descriptor::{Descriptor, Op};
use crate::device::{Counters, DeviceError, DeviceInfo, FpgaDevice};
use crate::memory::Memory;

/// Runs descriptors on this computer's processor.
#[derive(Debug)]
pub struct Functional {
    isa: Isa,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    memory: Memory,
    scratch: Scratch,
}

/// What an operation computes before it is written, kept for the next one.
#[derive(Debug, Default)]
struct Scratch {
    bytes: Vec<u8>,
    gemm: gemm::Buffers,
}

impl Functional {
    /// With nothing in its memory.
    pub fn new() -> Self {
        Self::with(Isa::best())
    }

    fn with(isa: Isa) -> Self {
        let state = State { memory: Memory::new(), scratch: Scratch::default() };
        Self { isa, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Functional {
    fn default() -> Self {
        Self::new()
    }
}

impl FpgaDevice for Functional {
    fn info(&self) -> DeviceInfo {
        let execution = Execution::Emulated(format!(
            "a model of its arithmetic in software, equal bit for bit, on {}",
            self.isa.name()
        ));
        DeviceInfo { name: "AMD Alveo U280".to_owned(), driver: None, execution }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.state().memory.write(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.state().memory.read(address, bytes)
    }

    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError> {
        let mut state = self.state();
        let State { memory, scratch } = &mut *state;
        for descriptor in stream {
            memory.prepare(descriptor)?;
            match descriptor.op {
                Op::End => break,
                Op::Gemm => gemm::run(self.isa, memory, descriptor, &mut scratch.gemm),
                Op::Copy => rows::copy(memory, descriptor),
                _ => rows::run(self.isa, memory, descriptor, &mut scratch.bytes),
            }
        }
        Ok(Counters::default())
    }
}

#[cfg(test)]
mod tests;

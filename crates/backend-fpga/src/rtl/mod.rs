//! The design itself, simulated by Verilator in this process: one compute unit, its memory, and a host's side of its
//! registers.
//!
//! Every cycle of the unit is computed, so it is slow (about a million cycles a second), and its counters are those of
//! the design. The memory is an ideal one: fixed latency, then a beat of 64 bytes a cycle in each direction, and no
//! two channels disturb each other.

mod ffi;

use std::ffi::CString;
use std::ops::AddAssign;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smolvla_core::backend::{BackendErrorKind, Execution};

use crate::descriptor::{BANKS, Descriptor, Op};
use crate::device::{self, Counters, DeviceError, DeviceInfo, FpgaDevice, STREAM_BYTES};

/// Where streams lie.
const STREAM: u64 = BANKS as u64 * device::BANK_BYTES - STREAM_BYTES;

/// Bytes of a bank, in this process.
const BANK_BYTES: usize = device::BANK_BYTES as usize;

/// How a unit is simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Cycles from a read's address to its first beat, and from a write's last beat to its acknowledgement.
    pub latency: u64,
    /// Stalls every channel of the memory at random, from this seed; 0 for none.
    pub stalls: u64,
    /// Cycles without a transfer after which a run is given up as stuck.
    pub patience: u64,
    /// A stream begins so many descriptors after a multiple of 2 KiB: descriptors are read up to such a multiple at once.
    pub skip: u64,
    /// Writes a waveform (VCD) there; only where the simulation was built with `SMOLVLA_RTL_TRACE` set.
    pub trace: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { latency: 64, stalls: 0, patience: 1 << 20, skip: 0, trace: None }
    }
}

/// What runs took, by the unit's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Cycles from start to end.
    pub cycles: u64,
    /// Of these, cycles in each [`Op`] by its number; under [`Op::End`] what reading descriptors took.
    pub ops: [u64; ffi::OPS],
    /// Descriptors done.
    pub descriptors: u64,
    /// Beats of 64 bytes read.
    pub beats_read: u64,
    /// Beats written, also those with few of their bytes.
    pub beats_written: u64,
}

impl Usage {
    /// Cycles in an operation.
    pub fn of(&self, op: Op) -> u64 {
        self.ops[op as usize]
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.cycles += other.cycles;
        for (own, other) in self.ops.iter_mut().zip(other.ops) {
            *own += other;
        }
        self.descriptors += other.descriptors;
        self.beats_read += other.beats_read;
        self.beats_written += other.beats_written;
    }
}

/// A simulated compute unit with a card's memory.
#[derive(Debug)]
pub struct RtlDevice {
    options: Options,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    unit: ffi::Unit,
    /// Made when they are first used: pages that nobody touches cost nothing.
    banks: [Option<Box<[u8]>>; BANKS],
    usage: Usage,
}

impl RtlDevice {
    /// A unit with an ideal memory.
    ///
    /// # Errors
    /// As [`RtlDevice::with`].
    pub fn new() -> Result<Self, DeviceError> {
        Self::with(Options::default())
    }

    /// A unit simulated as `options` say.
    ///
    /// # Errors
    /// A waveform is asked of a simulation that was built without, or there is no memory for the model.
    pub fn with(options: Options) -> Result<Self, DeviceError> {
        let trace = match &options.trace {
            Some(_) if !cfg!(rtl_trace) => {
                let message =
                    "this simulation was built without waveforms: set SMOLVLA_RTL_TRACE=1 and build again";
                return Err(error(BackendErrorKind::Unavailable, message.to_owned()));
            }
            Some(path) => Some(CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| {
                error(BackendErrorKind::InvalidArgument, format!("no file can be named {}", path.display()))
            })?),
            None => None,
        };
        let unit = ffi::Unit::new(trace.as_deref())
            .ok_or_else(|| error(BackendErrorKind::OutOfMemory, "no memory for the simulation".to_owned()))?;
        let state = State { unit, banks: [const { None }; BANKS], usage: Usage::default() };
        Ok(Self { options, state: Mutex::new(state) })
    }

    /// What all runs so far took, those that ended with an error not counted.
    pub fn usage(&self) -> Usage {
        self.state().usage
    }

    /// Runs descriptors as they lie in memory, checked by nobody but the unit, up to [`Op::End`] or the last of them.
    ///
    /// # Errors
    /// What the unit refuses: an operation that there is none of, a stream without an end, addresses outside of memory.
    pub fn run_bytes(&self, stream: &[u8]) -> Result<Usage, DeviceError> {
        let mut state = self.state();
        let skipped = self.options.skip.saturating_mul(Descriptor::BYTES as u64);
        if skipped.saturating_add(stream.len() as u64) > STREAM_BYTES {
            let message = format!("a stream of {} bytes; at most {STREAM_BYTES}", stream.len());
            return Err(error(BackendErrorKind::InvalidArgument, message));
        }
        state.copy_in(STREAM + skipped, stream)?;
        state.run_at(STREAM + skipped, (stream.len() / Descriptor::BYTES) as u64, &self.options)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves memory, whose bytes are then as undefined as after an error, and a unit that is reset.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FpgaDevice for RtlDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "AMD Alveo U280 (one compute unit)".to_owned(),
            driver: Some("Verilator".to_owned()),
            execution: Execution::Emulated("a simulation by Verilator of this repository's RTL".to_owned()),
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.state().copy_in(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.state();
        let place = place(address, bytes.len())?;
        bytes.copy_from_slice(&state.bank(place.0)[place.1..place.1 + bytes.len()]);
        Ok(())
    }

    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError> {
        let mut bytes = Vec::with_capacity((stream.len() + 1) * Descriptor::BYTES);
        for descriptor in stream {
            descriptor.check()?;
            bytes.extend(descriptor.to_bytes());
        }
        bytes.extend(Descriptor::new(Op::End).to_bytes());
        {
            let mut state = self.state();
            for descriptor in stream {
                let operands = descriptor.operands();
                for region in operands.reads.iter().chain(&operands.writes) {
                    state.bank(place(region.start, 0)?.0);
                }
            }
        }
        Ok(Counters { cycles: self.run_bytes(&bytes)?.cycles })
    }
}

impl State {
    fn bank(&mut self, bank: usize) -> &mut [u8] {
        self.banks[bank].get_or_insert_with(|| vec![0; BANK_BYTES].into_boxed_slice())
    }

    fn copy_in(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let (bank, offset) = place(address, bytes.len())?;
        self.bank(bank)[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn run_at(&mut self, stream: u64, limit: u64, options: &Options) -> Result<Usage, DeviceError> {
        let &Options { latency, stalls: seed, patience, .. } = options;
        let run = ffi::Run { stream, limit, latency, seed, patience };
        let outcome = self.unit.run(&mut self.banks, BANK_BYTES, run);
        let kind = match (outcome.state, outcome.error) {
            (0, 1) => BackendErrorKind::Unsupported,
            (0, 3) => BackendErrorKind::InvalidArgument,
            (1, _) => BackendErrorKind::Timeout,
            _ => BackendErrorKind::Other,
        };
        let message = match (outcome.state, outcome.error) {
            (0, 0) => {
                let ffi::Outcome { cycles, descriptors, beats_read, beats_written, busy: ops, .. } = outcome;
                let usage = Usage { cycles, ops, descriptors, beats_read, beats_written };
                self.usage += usage;
                return Ok(usage);
            }
            (0, 1) => format!("the compute unit knows no operation {}", outcome.op),
            (0, 2) => format!("the stream has no end within {limit} descriptors"),
            (0, 3) => "the compute unit read or wrote an address that is not in memory".to_owned(),
            (0, error) => format!("the compute unit ended with error {error}, which has no meaning"),
            (1, _) => format!("the compute unit is stuck: nothing moved for {patience} cycles"),
            _ => "the compute unit broke the rules of its memory port".to_owned(),
        };
        let message = format!("{message} (after {} descriptors)", outcome.descriptors);
        Err(error(kind, message))
    }
}

/// Bank and offset of bytes that lie in one bank.
fn place(address: u64, length: usize) -> Result<(usize, usize), DeviceError> {
    let (bank, offset) = (address / BANK_BYTES as u64, address as usize % BANK_BYTES);
    if bank >= BANKS as u64 || length > BANK_BYTES - offset {
        let message = format!("{length} bytes at {address:#x} are not in one bank of the card's memory");
        return Err(error(BackendErrorKind::InvalidArgument, message));
    }
    Ok((bank as usize, offset))
}

fn error(kind: BackendErrorKind, message: String) -> DeviceError {
    DeviceError { kind, message }
}

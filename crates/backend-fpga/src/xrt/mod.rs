//! Cards, through XRT: the path that a card takes, and XRT's software emulation of one.
//!
//! Nothing of XRT is needed to build. Its library is loaded from `$XILINX_XRT/lib` when a device is opened; what it would
//! answer with an abort of the process is checked before, and is an error here.
//!
//! Each bank of our memory is one XRT buffer in the bank of the card's HBM with the same number, allocated when it is first
//! touched. Where XRT puts it is XRT's matter, so a stream is copied with the card's addresses for ours, and then run.
//!
//! What this does not know: how an xclbin is built. None was, and nothing here has run on a card.

mod cards;
pub mod emulation;
mod environment;
#[allow(unsafe_code, reason = "XRT is a library in C, loaded at run time")]
mod ffi;
pub mod kernel;
mod relocate;
mod xclbin;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smolvla_core::backend::{BackendErrorKind, Execution};

pub use self::cards::{FoundCard, Probe, probe};
pub use self::environment::DEVICE_PROCESS;
pub use self::xclbin::{Memory, Unit, Xclbin};

use self::environment::Environment;
use self::ffi::{Buffer, Card, Kernel, OpenError, Outcome};
use self::kernel::{CYCLES, ERROR, KERNEL, UNIT};
use crate::descriptor::{BANK_BITS, BANKS, Descriptor, Op};
use crate::device::{Counters, DeviceError, DeviceInfo, FpgaDevice};

const BANK_BYTES: u64 = 1 << BANK_BITS;

/// The bank at whose end streams lie.
const STREAM_BANK: usize = BANKS - 1;
/// Room for 32,768 descriptors; longer streams are run in pieces.
const STREAM_BYTES: u64 = 1 << 22;

/// The size of a bank in emulation, where each costs its size in memory of the host, twice.
const EMULATED_BANK_BYTES: u64 = 1 << 24;

/// How long a stream may take, on a card and in emulation.
const TIMEOUT: Duration = Duration::from_secs(60);
const EMULATED_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How a device is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XrtOptions {
    /// The part of each bank that there is, from its beginning. `None`: on a card all of it, in emulation 16 MiB.
    pub bank_bytes: Option<u64>,
    /// How long 32,767 descriptors may take. `None`: a minute on a card, a day in emulation, where the RTL may be behind
    /// it.
    pub timeout: Option<Duration>,
}

/// A U280 with our design, or XRT's emulation of one.
pub struct XrtDevice {
    /// `None` once a run did not end: nothing of it can be touched again.
    state: Mutex<Option<State>>,
    info: DeviceInfo,
    timeout: Duration,
}

impl XrtDevice {
    /// Opens XRT's device `index` and loads the design in the file `xclbin` onto it.
    ///
    /// # Errors
    /// If XRT, the card or the file is not there, or the file is not our design; says what is missing.
    pub fn open(index: u32, xclbin: &Path) -> Result<Self, DeviceError> {
        Self::open_with(index, xclbin, XrtOptions::default())
    }

    /// As [`Self::open`], with other options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(index: u32, xclbin: &Path, options: XrtOptions) -> Result<Self, DeviceError> {
        let environment = Environment::read()?;
        let emulated = environment.device_process.is_some();
        let design = read_design(xclbin, emulated)?;
        let library = &environment.library;
        let card = Card::open(library, index).map_err(|error| match error {
            OpenError::Library(reason) => {
                failed(BackendErrorKind::Unavailable, &format!("load {}", library.display()), &reason)
            }
            OpenError::Device(reason) => DeviceError {
                kind: BackendErrorKind::Unavailable,
                message: format!(
                    "XRT has no device {index} ({reason}); `xbutil examine` lists those that it has"
                ),
            },
        })?;
        let uuid = card.load(xclbin).map_err(|reason| {
            failed(BackendErrorKind::Other, &format!("load {}", xclbin.display()), &reason)
        })?;
        let name = format!("{KERNEL}:{{{UNIT}}}");
        let kernel = card.kernel(&uuid, &name).map_err(|reason| {
            failed(BackendErrorKind::Unavailable, &format!("open {name} alone"), &reason)
        })?;
        let whole = if emulated { EMULATED_BANK_BYTES } else { BANK_BYTES };
        let bank_bytes = options.bank_bytes.unwrap_or(whole).min(BANK_BYTES);
        let stream = allocate(&card, &design, STREAM_BANK, STREAM_BYTES)?;
        let banks = std::iter::repeat_with(|| None).take(BANKS).collect();
        let state = State { banks, stream, kernel, card, design, bank_bytes };
        let execution = if emulated {
            Execution::Emulated("XRT's software emulation, with a process of ours for the card".to_owned())
        } else {
            Execution::Native
        };
        let version = environment.version();
        let info = DeviceInfo {
            name: format!("AMD Alveo U280 (XRT device {index}, {UNIT})"),
            driver: Some(version.map_or_else(|| "XRT".to_owned(), |version| format!("XRT {version}"))),
            execution,
        };
        let usual = if emulated { EMULATED_TIMEOUT } else { TIMEOUT };
        let timeout = options.timeout.unwrap_or(usual);
        Ok(Self { state: Mutex::new(Some(state)), info, timeout })
    }

    fn with<T>(
        &self,
        use_state: impl FnOnce(&mut State) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let mut guard = self.lock();
        let state = guard.as_mut().ok_or_else(|| DeviceError {
            kind: BackendErrorKind::DeviceLost,
            message: "an earlier run on this card did not end; end this process and reset the card with `xbutil reset`"
                .to_owned(),
        })?;
        let result = use_state(state);
        if matches!(&result, Err(error) if error.kind == BackendErrorKind::Timeout) {
            // The unit may still write to its buffers, and XRT may wait for it when they are freed.
            std::mem::forget(guard.take());
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FpgaDevice for XrtDevice {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.with(|state| {
            let (bank, offset) = state.locate(address, bytes.len() as u64)?;
            let written = state.bank(bank)?.write(offset, bytes);
            written.map_err(|reason| failed(BackendErrorKind::DeviceLost, "write to the card", &reason))
        })
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.with(|state| {
            let (bank, offset) = state.locate(address, bytes.len() as u64)?;
            let read = state.bank(bank)?.read(offset, bytes);
            read.map_err(|reason| failed(BackendErrorKind::DeviceLost, "read from the card", &reason))
        })
    }

    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError> {
        let end = stream.iter().position(|descriptor| descriptor.op == Op::End);
        let stream = &stream[..end.unwrap_or(stream.len())];
        // One place is the end's.
        let most = STREAM_BYTES as usize / Descriptor::BYTES - 1;
        self.with(|state| {
            let mut counters = Counters::default();
            for piece in stream.chunks(most) {
                counters.cycles += state.run(piece, self.timeout)?.cycles;
            }
            Ok(counters)
        })
    }
}

/// What is on the card. Buffers and kernel are dropped before the card, which each holds.
struct State {
    banks: Vec<Option<Buffer>>,
    stream: Buffer,
    kernel: Kernel,
    card: std::sync::Arc<Card>,
    design: Xclbin,
    bank_bytes: u64,
}

impl State {
    /// The bank of an address and the place in it, if so many bytes from there are ours.
    fn locate(&self, address: u64, len: u64) -> Result<(usize, usize), DeviceError> {
        let bank = usize::try_from(address >> BANK_BITS).unwrap_or(usize::MAX);
        let offset = address % BANK_BYTES;
        let room = self.room(bank);
        if bank < BANKS && offset.saturating_add(len) <= room {
            return Ok((bank, offset as usize));
        }
        Err(DeviceError {
            kind: BackendErrorKind::InvalidArgument,
            message: format!("{len} bytes at {address:#x} are not in the first {room} bytes of a bank"),
        })
    }

    /// Bytes of a bank that are ours.
    fn room(&self, bank: usize) -> u64 {
        self.bank_bytes.min(if bank == STREAM_BANK { BANK_BYTES - STREAM_BYTES } else { BANK_BYTES })
    }

    fn bank(&mut self, bank: usize) -> Result<&mut Buffer, DeviceError> {
        let room = self.room(bank);
        let buffer = match self.banks[bank].take() {
            Some(buffer) => buffer,
            None => allocate(&self.card, &self.design, bank, room)?,
        };
        Ok(self.banks[bank].insert(buffer))
    }

    /// Runs what fits the stream's buffer.
    fn run(&mut self, piece: &[Descriptor], timeout: Duration) -> Result<Counters, DeviceError> {
        let mut bytes = Vec::with_capacity((piece.len() + 1) * Descriptor::BYTES);
        for descriptor in piece {
            descriptor.check()?;
            let operands = descriptor.operands();
            for region in operands.reads.iter().chain(&operands.writes) {
                self.locate(region.start, region.extent())?;
            }
            let moved = relocate::relocate(descriptor, |address| {
                let (bank, offset) = self.locate(address, 0)?;
                Ok(self.bank(bank)?.address() + offset as u64)
            })?;
            bytes.extend(moved.to_bytes());
        }
        bytes.extend(Descriptor::new(Op::End).to_bytes());
        let problem = |what: &str, reason: String| failed(BackendErrorKind::DeviceLost, what, &reason);
        self.stream.write(0, &bytes).map_err(|reason| problem("write descriptors", reason))?;
        let count = piece.len() as u32 + 1;
        let run = self.kernel.run(self.stream.address(), count);
        let run = run.map_err(|reason| problem("prepare a run", reason))?;
        run.start().map_err(|reason| problem("start a run", reason))?;
        match run.wait(timeout) {
            Outcome::Completed => {}
            Outcome::Failed(state) => {
                return Err(problem("run descriptors", format!("the run ended in XRT's state {state}")));
            }
            Outcome::Unfinished => {
                std::mem::forget(run);
                return Err(DeviceError {
                    kind: BackendErrorKind::Timeout,
                    message: format!(
                        "{count} descriptors did not end within {timeout:?}; the card is no longer used"
                    ),
                });
            }
        }
        let register = |at| self.kernel.register(at).map_err(|reason| problem("read a register", reason));
        if let Some(reason) = kernel::failure(register(ERROR)?) {
            return Err(failed(BackendErrorKind::Other, "run descriptors", &reason));
        }
        Ok(Counters { cycles: u64::from(register(CYCLES + 4)?) << 32 | u64::from(register(CYCLES)?) })
    }
}

/// Reads an xclbin and refuses what is not our design for this device.
fn read_design(xclbin: &Path, emulated: bool) -> Result<Xclbin, DeviceError> {
    let refuse = |reason: String| DeviceError {
        kind: BackendErrorKind::Unavailable,
        message: format!("{} is not a design to load: {reason}", xclbin.display()),
    };
    let bytes = std::fs::read(xclbin).map_err(|error| refuse(error.to_string()))?;
    let design = Xclbin::parse(&bytes).map_err(refuse)?;
    let wanted = format!("{KERNEL}:{UNIT}");
    if !design.units.iter().any(|unit| unit.name == wanted) {
        let names: Vec<_> = design.units.iter().map(|unit| unit.name.as_str()).collect();
        return Err(refuse(format!("it has no compute unit {wanted}, but [{}]", names.join(", "))));
    }
    match (design.emulation, emulated) {
        (true, false) => Err(refuse("it is for XCL_EMULATION_MODE=sw_emu, which is not set".to_owned())),
        (false, true) => Err(refuse("it is for a card, and XCL_EMULATION_MODE is sw_emu".to_owned())),
        _ => Ok(design),
    }
}

/// A buffer in a bank of the card's memory.
fn allocate(
    card: &std::sync::Arc<Card>,
    design: &Xclbin,
    bank: usize,
    bytes: u64,
) -> Result<Buffer, DeviceError> {
    let tag = format!("HBM[{bank}]");
    let memory = design.memories.iter().position(|memory| memory.used && memory.tag == tag);
    let memory = memory.and_then(|index| u32::try_from(index).ok()).ok_or_else(|| DeviceError {
        kind: BackendErrorKind::OutOfMemory,
        message: format!("the design on the card does not use {tag}; link it with its master on HBM[0:31]"),
    })?;
    let what = format!("allocate {} KiB of {tag}", bytes >> 10);
    let buffer = || {
        card.buffer(bytes as usize, memory)
            .map_err(|reason| failed(BackendErrorKind::OutOfMemory, &what, &reason))
    };
    let mut found = buffer()?;
    if crosses_banks(&found, bytes) {
        // The emulated card has one long memory, and what follows this buffer begins in the next bank. The assignment
        // frees this one only after that.
        found = buffer()?;
    }
    if crosses_banks(&found, bytes) {
        // What stands for a card takes addresses bank by bank.
        let reason = format!("XRT put it across banks, at {:#x}", found.address());
        return Err(failed(BackendErrorKind::OutOfMemory, &what, &reason));
    }
    Ok(found)
}

fn crosses_banks(buffer: &Buffer, bytes: u64) -> bool {
    let first = buffer.address();
    first >> BANK_BITS != (first + bytes - 1) >> BANK_BITS
}

fn failed(kind: BackendErrorKind, what: &str, reason: &str) -> DeviceError {
    DeviceError { kind, message: format!("XRT could not {what}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_our_design_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("design.xclbin");
        let message = |emulated| read_design(&path, emulated).unwrap_err().to_string();
        assert!(
            message(true).contains("design.xclbin is not a design to load: No such file"),
            "{}",
            message(true)
        );
        std::fs::write(&path, "not an xclbin").unwrap();
        assert!(message(true).contains("does not begin with `xclbin2`"));
        let design = Xclbin::emulation(BANKS as u64, BANK_BYTES);
        std::fs::write(&path, design.to_bytes()).unwrap();
        assert_eq!(read_design(&path, true).unwrap(), design);
        assert!(message(false).contains("sw_emu, which is not set"));
        let mut other = design;
        other.units[0].name = "vadd:vadd_1".to_owned();
        std::fs::write(&path, other.to_bytes()).unwrap();
        assert!(message(true).contains("no compute unit smolvla_cu:smolvla_cu_1, but [vadd:vadd_1]"));
    }
}

//! The only place that talks to the compiled simulation, `rtl/sim/smolvla_cu.cpp`.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{NonNull, null, null_mut};

use crate::descriptor::BANKS;

/// Operations that have a counter each, by their number.
pub(super) const OPS: usize = 9;

/// As `SmolvlaRequest` lies there.
#[repr(C)]
struct Request {
    banks: [*mut u8; BANKS],
    bank_bytes: u64,
    stream: u64,
    limit: u64,
    latency: u64,
    seed: u64,
    patience: u64,
}

/// As `SmolvlaOutcome` lies there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// 0 ended, 1 nothing moved, 2 against AXI's rules.
    pub(super) state: u64,
    /// What the unit says of its end: `rtl/top/control.sv`.
    pub(super) error: u64,
    pub(super) op: u64,
    pub(super) cycles: u64,
    pub(super) descriptors: u64,
    pub(super) beats_read: u64,
    pub(super) beats_written: u64,
    pub(super) busy: [u64; OPS],
}

unsafe extern "C" {
    fn smolvla_cu_new(trace: *const c_char) -> *mut c_void;
    fn smolvla_cu_delete(unit: *mut c_void);
    fn smolvla_cu_run(unit: *mut c_void, request: *const Request, outcome: *mut Outcome);
}

/// What a run needs besides memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) stream: u64,
    pub(super) limit: u64,
    pub(super) latency: u64,
    pub(super) seed: u64,
    pub(super) patience: u64,
}

/// A simulated compute unit.
#[derive(Debug)]
pub(super) struct Unit(NonNull<c_void>);

// SAFETY: the model and its context belong to this value alone and hold nothing of a thread; every call needs `&mut`.
unsafe impl Send for Unit {}

impl Unit {
    /// In its reset state; `None` where there is no memory for it.
    pub(super) fn new(trace: Option<&CStr>) -> Option<Self> {
        // SAFETY: the name is null or ends with a zero, and is not kept.
        let unit = unsafe { smolvla_cu_new(trace.map_or(null(), CStr::as_ptr)) };
        NonNull::new(unit).map(Self)
    }

    /// Runs a stream over these banks, each of `bank_bytes` or absent.
    ///
    /// # Panics
    /// Where a bank has another length, or `bank_bytes` is not a multiple of a beat.
    pub(super) fn run(
        &mut self,
        banks: &mut [Option<Box<[u8]>>; BANKS],
        bank_bytes: usize,
        run: Run,
    ) -> Outcome {
        assert!(bank_bytes > 0 && bank_bytes.is_multiple_of(64), "banks of {bank_bytes} bytes");
        let banks = banks.each_mut().map(|bank| match bank {
            Some(bank) => {
                assert_eq!(bank.len(), bank_bytes, "a bank's length");
                bank.as_mut_ptr()
            }
            None => null_mut(),
        });
        let Run { stream, limit, latency, seed, patience } = run;
        let bank_bytes = bank_bytes as u64;
        let request = Request { banks, bank_bytes, stream, limit, latency, seed, patience };
        let mut outcome = Outcome::default();
        // SAFETY: the unit lives. Each pointer is null or begins `bank_bytes` bytes that are borrowed for this call; the
        // simulation touches only whole beats inside them, as they are a multiple of a beat, and keeps no pointer that it
        // uses later. Both structs are laid out as there.
        unsafe { smolvla_cu_run(self.0.as_ptr(), &raw const request, &raw mut outcome) };
        outcome
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: it was made by `smolvla_cu_new` and is not used any more.
        unsafe { smolvla_cu_delete(self.0.as_ptr()) };
    }
}

//! What every operation of the engine needs.

use super::isa::Isa;
use super::kernels::Kernels;
use super::memory::Arena;
use super::pool::Pool;

/// Threads, kernels and memory.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) isa: Isa,
    pub(crate) kernels: Kernels,
    pub(crate) pool: Pool,
    pub(crate) arena: Arena,
}

impl Engine {
    pub(crate) fn new(isa: Isa, threads: usize, pin: bool) -> std::io::Result<Self> {
        let pool = Pool::new(threads, pin, isa)?;
        Ok(Self { isa, kernels: Kernels::of(isa), pool, arena: Arena::default() })
    }
}

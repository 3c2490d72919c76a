//! Micro-kernels: products of packed blocks, one set for each instruction set.
//!
//! All precisions share one geometry. A *step* is 64 bytes of one row of the left operand: 16 f32, 32 bf16 or
//! 64 8-bit integers. Within a step, four bytes make a *group*: one f32, two bf16 or four integers, which is what one
//! 32-bit lane of a dot-product instruction consumes.
//!
//! - A *block* of the left operand holds `rows` rows (at most [`Kernels::block_rows`]): `[steps][rows][64 bytes]`.
//! - A *panel* of the right operand holds [`PANEL`] = 32 columns:
//!   `[steps][2 halves][16 groups][16 columns][4 bytes]`, so that a half is one AMX tile, and a group of a half one
//!   512-bit register. Columns and groups beyond the matrix are zero.
//! - The result is `[rows][32]`, f32 or i32, aligned to 64 bytes. Kernels overwrite it.
//!
//! For integers the left operand is unsigned, `q + 128` with `q` in `-127..=127`, because that is what AVX512-VNNI
//! multiplies; the right one is signed. The result is that of `q`. Each integer panel is followed by 32 i32, one a
//! column: `-128 · Σ` of the column's weights, from which a kernel may start its sums.
//!
//! f32 sums are taken in parts of at most [`F32_PART_STEPS`] steps, each summed from zero and then added, so that a long
//! row does not lose digits.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod emulator;
mod portable;
#[cfg(test)]
mod tests;

use std::fmt;

use super::isa::Isa;

/// Bytes of one row in one step.
pub(crate) const STEP_BYTES: usize = 64;
/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Bytes of one step of a panel.
pub(crate) const PANEL_STEP_BYTES: usize = PANEL * STEP_BYTES;
/// Steps (of 16 products) in one part of an f32 sum.
pub(crate) const F32_PART_STEPS: usize = 32;
/// The most rows any kernel takes at once.
pub(crate) const MAX_BLOCK_ROWS: usize = 32;

/// What will be read next, for a kernel to fetch into the second-level cache while it multiplies: weights that come from
/// memory would otherwise be waited for.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "the portable kernels fetch nothing ahead")
)]
pub(crate) struct Ahead {
    start: *const u8,
    /// Lines of 64 bytes to fetch in each step.
    lines: usize,
}

impl Ahead {
    /// Nothing.
    pub(crate) const NONE: Self = Self { start: std::ptr::null(), lines: 0 };

    /// The `part`-th of `parts` parts of `bytes` bytes from `start` on, in a product of `steps` steps. Fetching never
    /// faults, wherever it points.
    pub(crate) fn part(start: *const u8, bytes: usize, part: usize, parts: usize, steps: usize) -> Self {
        let lines = bytes.div_ceil(64 * (parts * steps).max(1));
        let first = part * steps * lines * 64;
        if first < bytes { Self { start: start.wrapping_add(first), lines } } else { Self::NONE }
    }

    /// Fetches what belongs to a step.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn fetch(self, step: usize) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        for line in 0..self.lines {
            let at = self.start.wrapping_add((step * self.lines + line) * 64);
            // SAFETY: a hint; it accesses nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
        }
    }
}

/// Multiplies a block by a panel: `(a, b, rows, steps, c, ahead)`; see the [module documentation](self) for the layouts.
///
/// # Safety
/// `a` is readable for `steps · rows · 64` bytes, `b` for `steps · 2048` (integers: and 128 more); `c` is writable for
/// `rows · 32` elements; all are aligned to 64 bytes; `1 ≤ rows ≤ block_rows` of the instruction set (AMX: 16 or 32);
/// the processor has the instruction set, and for AMX [`Tiles::enter`] was called on this thread.
pub(crate) type Product<C> =
    unsafe fn(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut C, ahead: Ahead);

/// The products of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// f32 × f32.
    pub(crate) f32: Product<f32>,
    /// bf16 × bf16, summed in f32.
    pub(crate) bf16: Product<f32>,
    /// (8-bit unsigned − 128) × 8-bit signed, summed in i32.
    pub(crate) int8: Product<i32>,
}

/// Whether processor and operating system allow AMX tiles; asks Linux for the permission once a process.
#[cfg(target_arch = "x86_64")]
pub(crate) fn amx_available() -> bool {
    amx::available()
}

/// Configures this thread's tiles while it lives, where the instruction set has tiles.
#[must_use]
pub(crate) struct Tiles {
    #[cfg(target_arch = "x86_64")]
    configured: bool,
}

impl Tiles {
    /// Prepares this thread for the products of `isa`.
    pub(crate) fn enter(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let configured = isa == Isa::Amx;
            if configured {
                // SAFETY: an `Isa` is only run where it is available.
                unsafe { amx::enter() };
            }
            Self { configured }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = isa;
            Self {}
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.configured {
            // SAFETY: as in `enter`.
            unsafe { amx::leave() };
        }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").finish_non_exhaustive()
    }
}

impl Kernels {
    /// The most rows a block may have for `f32` products, and for the others. AMX takes 16 or 32 and nothing else.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only AMX tells them apart"))]
    pub(crate) fn block_rows(isa: Isa, float32: bool) -> usize {
        match isa {
            Isa::Portable => 4,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 6,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if !float32 => MAX_BLOCK_ROWS,
            #[cfg(target_arch = "x86_64")]
            _ => avx512::BLOCK_ROWS,
        }
    }

    /// The fastest kernels within `isa`.
    pub(crate) fn of(isa: Isa) -> Self {
        match isa {
            Isa::Portable => Self { f32: portable::f32, bf16: portable::bf16, int8: portable::int8 },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Self { f32: avx2::f32, bf16: avx2::bf16, int8: avx2::int8 },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Self { f32: avx512::f32, bf16: avx512::bf16_widened, int8: avx2::int8 },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Self { f32: avx512::f32, bf16: avx512::bf16_widened, int8: avx512::int8 },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Self { f32: avx512::f32, bf16: avx512::bf16, int8: avx512::int8 },
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Self { f32: avx512::f32, bf16: amx::bf16, int8: amx::int8 },
        }
    }
}

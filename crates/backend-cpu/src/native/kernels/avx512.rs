//! Products with 512-bit registers: f32 by fused multiply-add, bf16 and 8-bit integers by dot products.
//!
//! A block of up to 12 rows by a panel of two registers keeps 24 sums in registers; with two registers for the panel
//! and one for the left operand that is 27 of 32. Twelve rows hide the latency of the sums (4 to 6 cycles) several
//! times over, and one load of the panel serves twelve rows.

use std::arch::x86_64::*;

use super::{Ahead, F32_PART_STEPS, PANEL, PANEL_STEP_BYTES, STEP_BYTES};

/// The most rows a block may have.
pub(crate) const BLOCK_ROWS: usize = 12;

/// Bytes of one half of a panel's step.
const HALF_BYTES: usize = PANEL_STEP_BYTES / 2;
/// Groups of four bytes in a step.
const GROUPS: usize = STEP_BYTES / 4;

/// How far ahead of its use a panel is fetched, in bytes: four steps, some 0.4 µs, which is more than memory takes.
/// Processors fetch ahead by themselves, but not across pages, and a panel is read once from far and a few times from near.
const AHEAD_BYTES: usize = 4 * PANEL_STEP_BYTES;

/// Fetches both halves of the group that is `AHEAD_BYTES` further on. The address may be beyond the panel: fetching never
/// faults.
#[target_feature(enable = "avx512f")]
fn fetch_ahead(b: *const u8, group: usize) {
    let at = b.wrapping_add(AHEAD_BYTES + group * 64);
    _mm_prefetch::<_MM_HINT_T0>(at.cast());
    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(HALF_BYTES).cast());
}

/// Calls `$kernel::<ROWS>` for the number of rows at hand.
macro_rules! by_rows {
    ($rows:expr, $kernel:ident($($argument:expr),*)) => {
        match $rows {
            1 => $kernel::<1>($($argument),*),
            2 => $kernel::<2>($($argument),*),
            3 => $kernel::<3>($($argument),*),
            4 => $kernel::<4>($($argument),*),
            5 => $kernel::<5>($($argument),*),
            6 => $kernel::<6>($($argument),*),
            7 => $kernel::<7>($($argument),*),
            8 => $kernel::<8>($($argument),*),
            9 => $kernel::<9>($($argument),*),
            10 => $kernel::<10>($($argument),*),
            11 => $kernel::<11>($($argument),*),
            12 => $kernel::<12>($($argument),*),
            rows => unreachable!("a block of {rows} rows"),
        }
    };
}

/// f32 products. See [`super::Product`].
///
/// # Safety
/// As [`super::Product`], with AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn f32(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, ahead: Ahead) {
    // SAFETY: the caller's contract is the kernel's.
    unsafe { by_rows!(rows, f32_rows(a, b, steps, c, ahead)) }
}

/// bf16 products by `vdpbf16ps`. See [`super::Product`].
///
/// # Safety
/// As [`super::Product`], with AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn bf16(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, ahead: Ahead) {
    // SAFETY: the caller's contract is the kernel's.
    unsafe { by_rows!(rows, bf16_rows(a, b, steps, c, ahead)) }
}

/// bf16 products on processors without the dot product: both halves of each pair are widened and multiplied as f32.
/// See [`super::Product`].
///
/// # Safety
/// As [`super::Product`], with AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn bf16_widened(
    a: *const u8,
    b: *const u8,
    rows: usize,
    steps: usize,
    c: *mut f32,
    ahead: Ahead,
) {
    // SAFETY: the caller's contract is the kernel's.
    unsafe { by_rows!(rows, bf16_widened_rows(a, b, steps, c, ahead)) }
}

/// 8-bit products by `vpdpbusd`. See [`super::Product`].
///
/// # Safety
/// As [`super::Product`], with AVX-512 F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn int8(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut i32, ahead: Ahead) {
    // SAFETY: the caller's contract is the kernel's.
    unsafe { by_rows!(rows, int8_rows(a, b, steps, c, ahead)) }
}

#[target_feature(enable = "avx512f")]
unsafe fn f32_rows<const ROWS: usize>(
    mut a: *const u8,
    mut b: *const u8,
    steps: usize,
    c: *mut f32,
    ahead: Ahead,
) {
    // SAFETY: every address is within the block, panel or result that the caller's contract grants.
    unsafe {
        let mut done = 0;
        let mut first = true;
        while done < steps || first {
            let part = (steps - done).min(F32_PART_STEPS);
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for step in 0..part {
                ahead.fetch(done + step);
                for group in 0..GROUPS {
                    fetch_ahead(b, group);
                    let b0 = _mm512_load_ps(b.add(group * 64).cast());
                    let b1 = _mm512_load_ps(b.add(HALF_BYTES + group * 64).cast());
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_ps(*a.add(row * STEP_BYTES + group * 4).cast::<f32>());
                        sums[0] = _mm512_fmadd_ps(x, b0, sums[0]);
                        sums[1] = _mm512_fmadd_ps(x, b1, sums[1]);
                    }
                }
                a = a.add(ROWS * STEP_BYTES);
                b = b.add(PANEL_STEP_BYTES);
            }
            for (row, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    let c = c.add(row * PANEL + half * 16);
                    let sum = if first { sum } else { _mm512_add_ps(_mm512_load_ps(c), sum) };
                    _mm512_store_ps(c, sum);
                }
            }
            done += part;
            first = false;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_rows<const ROWS: usize>(
    mut a: *const u8,
    mut b: *const u8,
    steps: usize,
    c: *mut f32,
    ahead: Ahead,
) {
    // SAFETY: as in `f32_rows`. `__m512bh` is 32 bf16 in the order in which they lie in memory.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for step in 0..steps {
            ahead.fetch(step);
            for group in 0..GROUPS {
                fetch_ahead(b, group);
                let b0 = pairs(_mm512_load_si512(b.add(group * 64).cast()));
                let b1 = pairs(_mm512_load_si512(b.add(HALF_BYTES + group * 64).cast()));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = pairs(_mm512_set1_epi32(*a.add(row * STEP_BYTES + group * 4).cast::<i32>()));
                    sums[0] = _mm512_dpbf16_ps(sums[0], x, b0);
                    sums[1] = _mm512_dpbf16_ps(sums[1], x, b1);
                }
            }
            a = a.add(ROWS * STEP_BYTES);
            b = b.add(PANEL_STEP_BYTES);
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_store_ps(c.add(row * PANEL), sums[0]);
            _mm512_store_ps(c.add(row * PANEL + 16), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn bf16_widened_rows<const ROWS: usize>(
    mut a: *const u8,
    mut b: *const u8,
    steps: usize,
    c: *mut f32,
    ahead: Ahead,
) {
    // SAFETY: as in `f32_rows`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for step in 0..steps {
            ahead.fetch(step);
            for group in 0..GROUPS {
                fetch_ahead(b, group);
                let b0 = _mm512_load_si512(b.add(group * 64).cast());
                let b1 = _mm512_load_si512(b.add(HALF_BYTES + group * 64).cast());
                let (even0, odd0) = (widen_even(b0), widen_odd(b0));
                let (even1, odd1) = (widen_even(b1), widen_odd(b1));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = *a.add(row * STEP_BYTES + group * 4).cast::<u32>();
                    let even = _mm512_set1_ps(f32::from_bits(x << 16));
                    let odd = _mm512_set1_ps(f32::from_bits(x & 0xffff_0000));
                    sums[0] = _mm512_fmadd_ps(odd, odd0, _mm512_fmadd_ps(even, even0, sums[0]));
                    sums[1] = _mm512_fmadd_ps(odd, odd1, _mm512_fmadd_ps(even, even1, sums[1]));
                }
            }
            a = a.add(ROWS * STEP_BYTES);
            b = b.add(PANEL_STEP_BYTES);
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_store_ps(c.add(row * PANEL), sums[0]);
            _mm512_store_ps(c.add(row * PANEL + 16), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_rows<const ROWS: usize>(
    mut a: *const u8,
    mut b: *const u8,
    steps: usize,
    c: *mut i32,
    ahead: Ahead,
) {
    // SAFETY: as in `f32_rows`; the panel is followed by 32 i32.
    unsafe {
        let corrections = b.add(steps * PANEL_STEP_BYTES);
        let correction0 = _mm512_load_si512(corrections.cast());
        let correction1 = _mm512_load_si512(corrections.add(64).cast());
        let mut sums = [[correction0, correction1]; ROWS];
        for step in 0..steps {
            ahead.fetch(step);
            for group in 0..GROUPS {
                fetch_ahead(b, group);
                let b0 = _mm512_load_si512(b.add(group * 64).cast());
                let b1 = _mm512_load_si512(b.add(HALF_BYTES + group * 64).cast());
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*a.add(row * STEP_BYTES + group * 4).cast::<i32>());
                    sums[0] = _mm512_dpbusd_epi32(sums[0], x, b0);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], x, b1);
                }
            }
            a = a.add(ROWS * STEP_BYTES);
            b = b.add(PANEL_STEP_BYTES);
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_store_si512(c.add(row * PANEL).cast(), sums[0]);
            _mm512_store_si512(c.add(row * PANEL + 16).cast(), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 plain bytes; std has no cast between them.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}

#[target_feature(enable = "avx512f")]
fn widen_even(x: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
}

#[target_feature(enable = "avx512f")]
fn widen_odd(x: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
}

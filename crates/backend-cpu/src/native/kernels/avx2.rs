//! AVX2 with fused multiply-add.
//!
//! A tile of up to [`ROWS`] rows by two registers of columns is summed in registers. Blocks of more rows are cut into
//! such tiles, so that these kernels also serve instruction sets with larger blocks. bf16 and integers have no
//! multiplication of their own: some steps of the left operand are widened first, the right one on the way.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_load_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_broadcast_ss, _mm256_castsi256_ps, _mm256_cvtepi8_epi16, _mm256_cvtepu8_epi16,
    _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_hadd_epi32, _mm256_load_ps, _mm256_load_si256,
    _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_slli_epi32, _mm256_store_ps, _mm256_store_si256,
};
use std::mem::MaybeUninit;

use super::{Ahead, F32_PART_STEPS, PANEL, PANEL_STEP_BYTES, STEP_BYTES};

/// Rows of a tile: their twelve sums leave four of the sixteen registers for the operands.
const ROWS: usize = 6;
/// Groups of four bytes in one step of a row.
const GROUPS: usize = STEP_BYTES / 4;
/// Bytes of one group of half a panel: two registers.
const GROUP_BYTES: usize = PANEL / 2 * 4;
/// Bytes of one step of half a panel.
const HALF_BYTES: usize = GROUPS * GROUP_BYTES;
/// Steps of the left operand widened at a time: few enough that they and the steps of half a panel they are multiplied
/// by stay in the L1 cache.
const WIDE_STEPS: usize = 8;

/// Some steps of a tile's left operand, its numbers widened to twice their bits.
type Wide<const R: usize> = [[WideRow; R]; WIDE_STEPS];
/// One step of one row: 32 f32 or 64 i16.
type WideRow = [__m256i; 4];

/// Some rows of a [`Product`](super::Product): `(a, b, rows, steps, c)`, where `rows` are those of the whole block.
type Tile<C> = unsafe fn(*const u8, *const u8, usize, usize, *mut C);

/// [`Kernels::f32`](super::Kernels::f32), for any number of rows.
///
/// # Safety
/// As [`Product`](super::Product) says.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn f32(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, _: Ahead) {
    const TILES: [Tile<f32>; ROWS] =
        [f32_tile::<1>, f32_tile::<2>, f32_tile::<3>, f32_tile::<4>, f32_tile::<5>, f32_tile::<6>];
    // SAFETY: the caller's.
    unsafe { each_tile(&TILES, a, b, rows, steps, c) }
}

/// [`Kernels::bf16`](super::Kernels::bf16), for any number of rows.
///
/// # Safety
/// As [`Product`](super::Product) says.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn bf16(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, _: Ahead) {
    const TILES: [Tile<f32>; ROWS] =
        [bf16_tile::<1>, bf16_tile::<2>, bf16_tile::<3>, bf16_tile::<4>, bf16_tile::<5>, bf16_tile::<6>];
    // SAFETY: the caller's.
    unsafe { each_tile(&TILES, a, b, rows, steps, c) }
}

/// [`Kernels::int8`](super::Kernels::int8), for any number of rows.
///
/// # Safety
/// As [`Product`](super::Product) says.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn int8(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut i32, _: Ahead) {
    const TILES: [Tile<i32>; ROWS] =
        [int8_tile::<1>, int8_tile::<2>, int8_tile::<3>, int8_tile::<4>, int8_tile::<5>, int8_tile::<6>];
    // SAFETY: the caller's.
    unsafe { each_tile(&TILES, a, b, rows, steps, c) }
}

/// Cuts a block into tiles of nearly equal height and calls the one of `tiles` for each height.
///
/// # Safety
/// As [`Product`](super::Product) says.
#[target_feature(enable = "avx2,fma")]
unsafe fn each_tile<C>(
    tiles: &[Tile<C>; ROWS],
    a: *const u8,
    b: *const u8,
    rows: usize,
    steps: usize,
    c: *mut C,
) {
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        let height = left.div_ceil(left.div_ceil(ROWS));
        // SAFETY: rows `row..row + height` are within the block and the result.
        unsafe { tiles[height - 1](a.add(row * STEP_BYTES), b, rows, steps, c.add(row * PANEL)) };
        row += height;
    }
}

/// `R` rows of [`f32()`].
///
/// # Safety
/// As [`f32()`], but `a` and `c` are at the first of `R` rows within a block of `rows`.
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_tile<const R: usize>(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32) {
    for half in 0..2 {
        // SAFETY: half of the panel and of the tile's rows of the result.
        let (b, c) = unsafe { (b.add(half * HALF_BYTES), c.add(half * PANEL / 2)) };
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for part in (0..steps).step_by(F32_PART_STEPS) {
            let mut part_sums = [[_mm256_setzero_ps(); 2]; R];
            for step in part..steps.min(part + F32_PART_STEPS) {
                // SAFETY: a step of the block and of half the panel.
                let (a, b) = unsafe { (a.add(step * rows * STEP_BYTES), b.add(step * PANEL_STEP_BYTES)) };
                for group in 0..GROUPS {
                    // SAFETY: a group's columns, aligned to 64 bytes, and the same group of `R` rows.
                    unsafe {
                        let b = b.add(group * GROUP_BYTES).cast::<f32>();
                        let b = [_mm256_load_ps(b), _mm256_load_ps(b.add(8))];
                        add_products(&mut part_sums, a.add(group * 4).cast(), GROUPS, b);
                    }
                }
            }
            for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part_sums.as_flattened()) {
                *sum = _mm256_add_ps(*sum, *part);
            }
        }
        // SAFETY: half of the tile's rows of the result.
        unsafe { store(c, &sums) };
    }
}

/// `R` rows of [`bf16()`]. Products of two bf16 are exact in f32.
///
/// # Safety
/// As [`bf16()`], but `a` and `c` are at the first of `R` rows within a block of `rows`.
#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_tile<const R: usize>(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32) {
    let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    for half in 0..2 {
        // SAFETY: half of the tile's rows of the result.
        unsafe { store(c.add(half * PANEL / 2), &[[_mm256_setzero_ps(); 2]; R]) };
    }
    let mut wide = MaybeUninit::<Wide<R>>::uninit();
    for part in (0..steps).step_by(WIDE_STEPS) {
        let count = WIDE_STEPS.min(steps - part);
        let to_f32 = |numbers| _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(numbers));
        // SAFETY: `count` steps of the block.
        let a = unsafe { widen(&mut wide, a.add(part * rows * STEP_BYTES), rows, count, to_f32) };
        for half in 0..2 {
            // SAFETY: half of the panel and of the tile's rows of the result.
            let (b, c) =
                unsafe { (b.add(part * PANEL_STEP_BYTES + half * HALF_BYTES), c.add(half * PANEL / 2)) };
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            for (step, a) in a.iter().enumerate() {
                for group in 0..GROUPS {
                    // SAFETY: a group's columns, aligned to 64 bytes, and both values of the same group of `R` rows.
                    unsafe {
                        let b = b.add(step * PANEL_STEP_BYTES + group * GROUP_BYTES).cast();
                        let b = [_mm256_load_si256(b), _mm256_load_si256(b.add(1))];
                        let lower = b.map(|b| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)));
                        let upper = b.map(|b| _mm256_castsi256_ps(_mm256_and_si256(b, upper)));
                        let a = a.as_ptr().cast::<f32>().add(group * 2);
                        add_products(&mut sums, a, 2 * GROUPS, lower);
                        add_products(&mut sums, a.add(1), 2 * GROUPS, upper);
                    }
                }
            }
            // SAFETY: half of the tile's rows of the result, written before.
            unsafe { add(c, &sums) };
        }
    }
}

/// `R` rows of [`int8()`]. Products and their sums of two fit 32 bits, whatever the operands: nothing saturates.
///
/// # Safety
/// As [`int8()`], but `a` and `c` are at the first of `R` rows within a block of `rows`.
#[target_feature(enable = "avx2,fma")]
unsafe fn int8_tile<const R: usize>(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut i32) {
    let c = c.cast::<__m256i>();
    for octet in 0..4 {
        // SAFETY: the trailer follows the panel; the octet's columns of the result.
        unsafe {
            let start = _mm256_load_si256(b.add(steps * PANEL_STEP_BYTES).cast::<__m256i>().add(octet));
            for row in 0..R {
                _mm256_store_si256(c.add(row * 4 + octet), start);
            }
        }
    }
    let mut wide = MaybeUninit::<Wide<R>>::uninit();
    for part in (0..steps).step_by(WIDE_STEPS) {
        let count = WIDE_STEPS.min(steps - part);
        let to_i16 = |numbers| _mm256_cvtepu8_epi16(numbers);
        // SAFETY: `count` steps of the block.
        let a = unsafe { widen(&mut wide, a.add(part * rows * STEP_BYTES), rows, count, to_i16) };
        // Eight columns at a time: the sums of their even and odd pairs of products are kept apart until the end.
        for octet in 0..4 {
            // SAFETY: the octet's columns of half of the panel.
            let b = unsafe {
                b.add(part * PANEL_STEP_BYTES + octet / 2 * HALF_BYTES + octet % 2 * GROUP_BYTES / 2)
            };
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for (step, a) in a.iter().enumerate() {
                for group in 0..GROUPS {
                    // SAFETY: the octet's columns of a group, aligned to 32 bytes.
                    let b = unsafe {
                        let b = b.add(step * PANEL_STEP_BYTES + group * GROUP_BYTES).cast::<__m128i>();
                        [_mm_load_si128(b), _mm_load_si128(b.add(1))].map(|b| _mm256_cvtepi8_epi16(b))
                    };
                    for (sums, a) in sums.iter_mut().zip(a) {
                        // SAFETY: the four values of the group, 8 bytes wide.
                        let a = _mm256_set1_epi64x(unsafe { *a.as_ptr().cast::<i64>().add(group) });
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                // `hadd` adds within 128 bits: quarters 0, 1 of both operands, then 2, 3.
                let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[0], sums[1]));
                // SAFETY: the octet's columns of a row of the result, written before.
                unsafe {
                    let c = c.add(row * 4 + octet);
                    _mm256_store_si256(c, _mm256_add_epi32(_mm256_load_si256(c), sum));
                }
            }
        }
    }
}

/// Adds to each row's sums its value, found at `a` and then every `stride` values, times 16 columns' values.
///
/// # Safety
/// `a` is readable at those `R` places.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const R: usize>(
    sums: &mut [[__m256; 2]; R],
    a: *const f32,
    stride: usize,
    b: [__m256; 2],
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's.
        let a = _mm256_broadcast_ss(unsafe { &*a.add(row * stride) });
        *sums = [_mm256_fmadd_ps(a, b[0], sums[0]), _mm256_fmadd_ps(a, b[1], sums[1])];
    }
}

/// Widens `count` steps of `R` rows, within a block of `rows`, by `to_wide`.
///
/// # Safety
/// `a` is readable for those rows and steps, and aligned to 64 bytes; `count` is at most [`WIDE_STEPS`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn widen<const R: usize>(
    wide: &mut MaybeUninit<Wide<R>>,
    a: *const u8,
    rows: usize,
    count: usize,
    to_wide: impl Fn(__m128i) -> __m256i,
) -> &[[WideRow; R]] {
    let out = wide.as_mut_ptr().cast::<__m256i>();
    for step in 0..count {
        for i in 0..R * 4 {
            // SAFETY: 16 bytes of a step of `R` rows, which lie one after the other, and their place in `wide`.
            unsafe {
                let numbers = _mm_load_si128(a.add(step * rows * STEP_BYTES).cast::<__m128i>().add(i));
                out.add(step * R * 4 + i).write(to_wide(numbers));
            }
        }
    }
    // SAFETY: the first `count` steps were written.
    unsafe { std::slice::from_raw_parts(out.cast(), count) }
}

/// Writes half of `R` rows of the result.
///
/// # Safety
/// `c` is at the half's place in the first row; all are writable and aligned to 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store<const R: usize>(c: *mut f32, sums: &[[__m256; 2]; R]) {
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            _mm256_store_ps(c.add(row * PANEL), sums[0]);
            _mm256_store_ps(c.add(row * PANEL + 8), sums[1]);
        }
    }
}

/// Adds to half of `R` rows of the result.
///
/// # Safety
/// As [`store`]; the rows are initialised.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const R: usize>(c: *mut f32, sums: &[[__m256; 2]; R]) {
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let c = c.add(row * PANEL);
            _mm256_store_ps(c, _mm256_add_ps(_mm256_load_ps(c), sums[0]));
            _mm256_store_ps(c.add(8), _mm256_add_ps(_mm256_load_ps(c.add(8)), sums[1]));
        }
    }
}

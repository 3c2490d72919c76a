//! Plain Rust, for any processor: loops over arrays of fixed size, which the compiler turns into what vectors there
//! are.

use std::array;
use std::mem::MaybeUninit;
use std::ops::AddAssign;
use std::slice;

use super::{Ahead, F32_PART_STEPS, PANEL, PANEL_STEP_BYTES, STEP_BYTES};

/// Columns of half a panel.
const COLUMNS: usize = PANEL / 2;
/// Groups of four bytes in one step of a row.
const GROUPS: usize = STEP_BYTES / 4;
/// Rows summed at once: as many as leave their sums, [`COLUMNS`] a row, in registers.
const ROWS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

/// One step of one row of a block.
type Row<G> = [G; GROUPS];
/// One step of a panel.
type PanelStep<G> = [[[G; COLUMNS]; GROUPS]; 2];
/// One value for each column of a panel, in halves.
type Halves<S> = [[S; COLUMNS]; 2];

/// [`Kernels::f32`](super::Kernels::f32).
///
/// # Safety
/// As [`Product`](super::Product) says.
pub(super) unsafe fn f32(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, _: Ahead) {
    // SAFETY: the caller's; a group is one f32.
    let operands = unsafe { Operands::<f32, f32>::new(a, b, rows, steps, c) };
    operands.multiply(&[[0.0; COLUMNS]; 2], |sums, a, b| array::from_fn(|i| multiply_add(a, b[i], sums[i])));
}

/// [`Kernels::bf16`](super::Kernels::bf16).
///
/// # Safety
/// As [`Product`](super::Product) says.
pub(super) unsafe fn bf16(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, _: Ahead) {
    // SAFETY: the caller's; a group is two bf16.
    let operands = unsafe { Operands::<[u16; 2], f32>::new(a, b, rows, steps, c) };
    operands.multiply(&[[0.0; COLUMNS]; 2], |sums, a, b| {
        let a = a.map(widen);
        let sums: [f32; COLUMNS] = array::from_fn(|i| multiply_add(a[0], widen(b[i][0]), sums[i]));
        array::from_fn(|i| multiply_add(a[1], widen(b[i][1]), sums[i]))
    });
}

/// [`Kernels::int8`](super::Kernels::int8).
///
/// # Safety
/// As [`Product`](super::Product) says.
pub(super) unsafe fn int8(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut i32, _: Ahead) {
    // SAFETY: the caller's; a group is four integers.
    let operands = unsafe { Operands::<[u8; 4], i32>::new(a, b, rows, steps, c) };
    // SAFETY: the caller's; the trailer follows the panel, whose size is a multiple of the alignment.
    let trailer = unsafe { &*b.add(steps * PANEL_STEP_BYTES).cast::<Halves<i32>>() };
    operands.multiply(trailer, |sums, a, b| {
        let a = a.map(i32::from);
        array::from_fn(|i| {
            let b = b[i].map(|b| i32::from(b.cast_signed()));
            sums[i] + a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
        })
    });
}

/// The operands of a [`Product`](super::Product): groups `G`, sums `S`.
struct Operands<'a, G, S> {
    rows: usize,
    /// `[steps][rows]`
    a: &'a [Row<G>],
    /// `[steps]`
    b: &'a [PanelStep<G>],
    /// `[rows]`
    c: &'a mut [Halves<MaybeUninit<S>>],
}

impl<G: Copy, S: Copy + Default + AddAssign> Operands<'_, G, S> {
    /// # Safety
    /// As [`Product`](super::Product) says; `G` is numbers, four bytes of them, and `S` is one number.
    unsafe fn new(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut S) -> Self {
        const { assert!(size_of::<G>() == 4 && align_of::<G>() <= STEP_BYTES) };
        // SAFETY: the caller's; any bytes are numbers.
        unsafe {
            Self {
                rows,
                a: slice::from_raw_parts(a.cast(), steps * rows),
                b: slice::from_raw_parts(b.cast(), steps),
                c: slice::from_raw_parts_mut(c.cast(), rows),
            }
        }
    }

    /// Writes `start + a · b`, where `add` adds the products of one group of a row to the row's sums.
    #[inline(always)]
    fn multiply(
        mut self,
        start: &Halves<S>,
        add: impl Fn([S; COLUMNS], G, &[G; COLUMNS]) -> [S; COLUMNS] + Copy,
    ) {
        let mut row = 0;
        while row + ROWS <= self.rows {
            self.multiply_rows::<ROWS>(row, start, add);
            row += ROWS;
        }
        for row in row..self.rows {
            self.multiply_rows::<1>(row, start, add);
        }
    }

    /// The same for `R` rows, from `row` on.
    #[inline(always)]
    fn multiply_rows<const R: usize>(
        &mut self,
        row: usize,
        start: &Halves<S>,
        add: impl Fn([S; COLUMNS], G, &[G; COLUMNS]) -> [S; COLUMNS] + Copy,
    ) {
        for half in 0..2 {
            let mut sums = [start[half]; R];
            for (a, b) in self.a.chunks(F32_PART_STEPS * self.rows).zip(self.b.chunks(F32_PART_STEPS)) {
                let mut part = [[S::default(); COLUMNS]; R];
                for (a, b) in a.chunks_exact(self.rows).zip(b) {
                    let a: &[Row<G>; R] = a[row..].first_chunk().expect("R rows are left");
                    for (group, b) in b[half].iter().enumerate() {
                        for (part, a) in part.iter_mut().zip(a) {
                            *part = add(*part, a[group], b);
                        }
                    }
                }
                for (sums, part) in sums.iter_mut().zip(part) {
                    for (sum, part) in sums.iter_mut().zip(part) {
                        *sum += part;
                    }
                }
            }
            for (c, sums) in self.c[row..].iter_mut().zip(sums) {
                c[half] = sums.map(MaybeUninit::new);
            }
        }
    }
}

/// `a · b + c`, in one instruction where the target always has one. Elsewhere a fused product would be a call.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

/// The value of a bf16, given as its bits.
#[inline(always)]
fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

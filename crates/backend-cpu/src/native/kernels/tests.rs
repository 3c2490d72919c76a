//! Every kernel that can run here against the plain loop.

use std::fmt::Debug;
use std::mem::size_of;

use super::{
    Ahead, F32_PART_STEPS, Isa, Kernels, MAX_BLOCK_ROWS, PANEL, PANEL_STEP_BYTES, Product, STEP_BYTES, Tiles,
};

/// Depths of the products: one step, few, around one part of an f32 sum, and two parts.
const STEPS: &[usize] = &[1, 2, 3, 31, 32, 33, 64, 65];

/// How far an f32 sum may be from the exact one, as a part of the sum of its products' magnitudes.
///
/// One addition rounds by at most 2⁻²⁴ ≈ 6e-8 of the running sum. Rounding errors of both signs grow with the root of
/// their number: over the longest sum here, 2080 products of one sign, to some 15 · 6e-8, and 4e-6 leaves room for the
/// worst of a million sums. A single product lost or misplaced is off by about 1/2080 ≈ 5e-4.
const TOLERANCE: f64 = 4e-6;

#[test]
fn f32_products_match_the_plain_loop() {
    for (seed, values) in [symmetric, positive, of_many_magnitudes].into_iter().enumerate() {
        for &steps in STEPS {
            let mut random = Random::new((1000 * seed + steps) as u64);
            let case = Case::new(&mut random, steps, 0.0, values, values);
            let products = case.products(f64::from);
            case.check_floats(&Isa::available(), |isa| Kernels::of(isa).f32, true, &products);
        }
    }
}

#[test]
fn bf16_products_match_the_plain_loop() {
    for (seed, values) in [symmetric, positive, of_many_magnitudes].into_iter().enumerate() {
        for &steps in STEPS {
            let mut random = Random::new((1000 * seed + steps) as u64);
            let values = |random: &mut Random| Bf16((values(random).to_bits() >> 16) as u16);
            let case = Case::new(&mut random, steps, Bf16(0), values, values);
            let products = case.products(|value| f64::from(value.to_f32()));
            case.check_floats(&runnable(), |isa| Kernels::of(isa).bf16, false, &products);
        }
    }
}

#[test]
fn int8_products_match_the_plain_loop() {
    for &steps in STEPS {
        check_int8(steps, any_left, |random| random.below(256) as u8);
    }
}

/// No sum on the way saturates, whatever the operands.
#[test]
fn int8_products_of_extremes_are_exact() {
    for a in [0, 1, 128, 255] {
        for b in [-128_i8, -127, 127] {
            check_int8(33, |_| a, |_| b.cast_unsigned());
            check_int8(33, |_| a, |random| b.wrapping_mul([1, -1][random.below(2)]).cast_unsigned());
        }
    }
}

/// A large product first, which swallows those of 1 behind it, but only within its own part.
#[test]
fn f32_sums_are_taken_in_parts() {
    let large = 2_f32.powi(24);
    let steps = 16 * F32_PART_STEPS;
    let mut count = 0;
    let first_large = |_: &mut Random| {
        count += 1;
        if count % (steps * STEP_BYTES / 4) == 1 { large } else { 1.0 }
    };
    let case = Case::with(&mut Random::new(0), (steps, 0, PANEL), 0.0, first_large, |_| 1.0_f32);
    let part = (F32_PART_STEPS * STEP_BYTES / 4) as f32;
    for isa in Isa::available() {
        let sums = case.run(isa, Kernels::of(isa).f32, 1, &case.block(1), &case.panel(None));
        for sum in sums {
            assert!((sum - (large + 16.0 * part)).abs() <= part, "{isa}: {sum}");
        }
    }
}

/// So that results do not depend on how rows are cut into blocks. AMX is left out: its bf16 sums of 16 rows are rounded
/// otherwise than those of 32.
#[test]
fn rows_do_not_depend_on_the_rows_beside_them() {
    let floats = Case::with(&mut Random::new(0), (65, 3, PANEL), 0.0, symmetric, symmetric);
    let pairs = |random: &mut Random| Bf16((symmetric(random).to_bits() >> 16) as u16);
    let pairs = Case::with(&mut Random::new(0), (65, 3, PANEL), Bf16(0), pairs, pairs);
    for isa in Isa::available().into_iter().filter(|isa| isa.name() != "amx") {
        let first_rows = |rows: usize| {
            let mut f32 =
                floats.run(isa, Kernels::of(isa).f32, rows, &floats.block(rows), &floats.panel(None));
            let bf16 = pairs.run(isa, Kernels::of(isa).bf16, rows, &pairs.block(rows), &pairs.panel(None));
            f32.truncate(PANEL);
            f32.extend(&bf16[..PANEL]);
            f32
        };
        let alone = first_rows(1);
        for rows in (2..=MAX_BLOCK_ROWS).filter(|rows| takes(isa, true, *rows)) {
            assert_eq!(first_rows(rows), alone, "{isa}, {rows} rows");
        }
    }
}

/// Tiles are per thread, whether the processor's or emulated.
#[test]
fn threads_multiply_at_once() {
    let isas = runnable();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let isas = &isas;
            scope.spawn(move || {
                Case::new(&mut Random::new(thread), 33, 128, any_left, any_left).check_integers(isas);
            });
        }
    });
}

/// One depth, with what does not matter in the left operand beyond the matrix: there it is multiplied by zero.
fn check_int8(steps: usize, a: impl FnMut(&mut Random) -> u8, b: impl FnMut(&mut Random) -> u8) {
    Case::new(&mut Random::new(steps as u64), steps, 77, a, b).check_integers(&runnable());
}

/// From -127 to 127, plus 128.
fn any_left(random: &mut Random) -> u8 {
    random.below(255) as u8 + 1
}

/// Instruction sets whose bf16 and int8 kernels can run here: those available, and AMX also under emulation.
fn runnable() -> Vec<Isa> {
    #[allow(unused_mut, reason = "only x86-64 Linux emulates")]
    let mut isas = Isa::available();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if !isas.contains(&Isa::Amx) && Isa::Avx2.is_available() {
        super::emulator::install();
        isas.push(Isa::Amx);
    }
    isas
}

/// Whether an instruction set's kernels take blocks of `rows` rows.
fn takes(isa: Isa, float32: bool, rows: usize) -> bool {
    match isa.name() {
        // Any: they serve others too.
        "portable" | "avx2" => true,
        "amx" if !float32 => rows == 16 || rows == 32,
        _ => rows <= Kernels::block_rows(isa, float32),
    }
}

/// A plain product of [`MAX_BLOCK_ROWS`] rows, of which tests take as many as they need.
struct Case<T> {
    steps: usize,
    depth: usize,
    columns: usize,
    /// `[rows][depth]`
    a: Vec<T>,
    /// What fills the last step of `a`.
    padding: T,
    /// `[columns][depth]`
    b: Vec<T>,
}

impl<T: Number> Case<T> {
    /// Random sizes: the last step may be partly empty, and the panel may have fewer than [`PANEL`] columns.
    fn new(
        random: &mut Random,
        steps: usize,
        padding: T,
        a: impl FnMut(&mut Random) -> T,
        b: impl FnMut(&mut Random) -> T,
    ) -> Self {
        let missing = random.below(STEP_BYTES / size_of::<T>());
        let columns = PANEL - random.below(PANEL) * random.below(2);
        Self::with(random, (steps, missing, columns), padding, a, b)
    }

    fn with(
        random: &mut Random,
        (steps, missing, columns): (usize, usize, usize),
        padding: T,
        mut a: impl FnMut(&mut Random) -> T,
        mut b: impl FnMut(&mut Random) -> T,
    ) -> Self {
        let depth = steps * STEP_BYTES / size_of::<T>() - missing;
        let a = (0..MAX_BLOCK_ROWS * depth).map(|_| a(random)).collect();
        let b = (0..columns * depth).map(|_| b(random)).collect();
        Self { steps, depth, columns, a, padding, b }
    }

    /// The first `rows` rows: `[steps][rows][64 bytes]`.
    fn block(&self, rows: usize) -> Aligned {
        let per_step = STEP_BYTES / size_of::<T>();
        let mut bytes = Vec::new();
        for step in 0..self.steps {
            for row in self.a.chunks(self.depth).take(rows) {
                for k in step * per_step..(step + 1) * per_step {
                    row.get(k).unwrap_or(&self.padding).push_to(&mut bytes);
                }
            }
        }
        Aligned::new(&bytes)
    }

    /// `[steps][2 halves][16 groups][16 columns][4 bytes]`, then the trailer.
    fn panel(&self, trailer: Option<[i32; PANEL]>) -> Aligned {
        let per_group = 4 / size_of::<T>();
        let mut bytes = Vec::new();
        for step in 0..self.steps {
            for half in 0..2 {
                for group in 0..16 {
                    for column in 16 * half..16 * (half + 1) {
                        let first = (step * 16 + group) * per_group;
                        for k in first..first + per_group {
                            let inside = column < self.columns && k < self.depth;
                            let value = if inside { self.b[column * self.depth + k] } else { T::ZERO };
                            value.push_to(&mut bytes);
                        }
                    }
                }
            }
        }
        assert_eq!(bytes.len(), self.steps * PANEL_STEP_BYTES);
        bytes.extend(trailer.iter().flatten().flat_map(|value| value.to_ne_bytes()));
        Aligned::new(&bytes)
    }

    /// Calls a kernel for a block of the first `rows` rows.
    fn run<C: Sum>(
        &self,
        isa: Isa,
        product: Product<C>,
        rows: usize,
        block: &Aligned,
        panel: &Aligned,
    ) -> Vec<C> {
        const GUARD: u8 = 0xa5;
        let bytes = rows * PANEL * 4;
        let mut c = Aligned::new(&vec![GUARD; bytes + 2 * STEP_BYTES]);
        {
            let _tiles = Tiles::enter(isa);
            // SAFETY: the operands are laid out as `Product` says, and `isa` can run here.
            unsafe {
                product(
                    block.as_ptr(),
                    panel.as_ptr(),
                    rows,
                    self.steps,
                    c.as_mut_ptr().add(STEP_BYTES).cast(),
                    Ahead::NONE,
                )
            };
        }
        let (before, rest) = c.bytes().split_at(STEP_BYTES);
        let (result, behind) = rest.split_at(bytes);
        let untouched = before.iter().chain(behind).all(|byte| *byte == GUARD);
        assert!(untouched, "{isa}, {rows} rows: wrote outside of the result");
        result.as_chunks().0.iter().map(|bytes| C::from_bytes(*bytes)).collect()
    }

    /// For each row and column of a panel: the sum of the products, and of their magnitudes.
    fn products(&self, value: impl Fn(T) -> f64) -> Vec<(f64, f64)> {
        let numbers = |values: &[T]| values.iter().map(|v| value(*v)).collect::<Vec<f64>>();
        let (a, b) = (numbers(&self.a), numbers(&self.b));
        let mut products = Vec::new();
        for row in a.chunks(self.depth) {
            for column in b.chunks(self.depth) {
                let pairs = row.iter().zip(column).map(|(a, b)| a * b);
                products.push(pairs.fold((0.0, 0.0), |(sum, size), ab| (sum + ab, size + ab.abs())));
            }
            products.resize(products.len().next_multiple_of(PANEL), (0.0, 0.0));
        }
        products
    }

    fn check_floats(
        &self,
        isas: &[Isa],
        product: impl Fn(Isa) -> Product<f32>,
        float32: bool,
        products: &[(f64, f64)],
    ) {
        let panel = self.panel(None);
        for rows in 1..=MAX_BLOCK_ROWS {
            let block = self.block(rows);
            for &isa in isas.iter().filter(|isa| takes(**isa, float32, rows)) {
                let sums = self.run(isa, product(isa), rows, &block, &panel);
                for (i, (sum, (expected, size))) in sums.iter().zip(products).enumerate() {
                    let error = (f64::from(*sum) - expected).abs();
                    assert!(
                        error <= TOLERANCE * size,
                        "{isa}, row {} of {rows}, column {}, depth {}: {sum} for {expected}, off by {:e} of {size}",
                        i / PANEL,
                        i % PANEL,
                        self.depth,
                        error / size,
                    );
                }
            }
        }
    }
}

impl Case<u8> {
    fn check_integers(&self, isas: &[Isa]) {
        let weights = |column: usize| self.b.chunks(self.depth).nth(column).unwrap_or_default();
        let signed = |weight: &u8| i32::from(weight.cast_signed());
        let trailer = std::array::from_fn(|column| -128 * weights(column).iter().map(signed).sum::<i32>());
        let panel = self.panel(Some(trailer));
        let mut expected = Vec::new();
        for row in self.a.chunks(self.depth) {
            for column in 0..PANEL {
                let pairs = row.iter().zip(weights(column));
                expected.push(pairs.map(|(a, b)| (i32::from(*a) - 128) * signed(b)).sum::<i32>());
            }
        }
        for rows in 1..=MAX_BLOCK_ROWS {
            let block = self.block(rows);
            for &isa in isas.iter().filter(|isa| takes(**isa, false, rows)) {
                let sums = self.run(isa, Kernels::of(isa).int8, rows, &block, &panel);
                assert_eq!(sums, expected[..rows * PANEL], "{isa}, {rows} rows, depth {}", self.depth);
            }
        }
    }
}

/// An element of an operand.
trait Number: Copy {
    const ZERO: Self;

    fn push_to(self, bytes: &mut Vec<u8>);
}

impl Number for f32 {
    const ZERO: Self = 0.0;

    fn push_to(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_ne_bytes());
    }
}

/// The bits of a bf16.
#[derive(Clone, Copy)]
struct Bf16(u16);

impl Bf16 {
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl Number for Bf16 {
    const ZERO: Self = Self(0);

    fn push_to(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0.to_ne_bytes());
    }
}

/// An 8-bit integer, of either sign.
impl Number for u8 {
    const ZERO: Self = 0;

    fn push_to(self, bytes: &mut Vec<u8>) {
        bytes.push(self);
    }
}

/// An element of a result.
trait Sum: Copy + Debug {
    fn from_bytes(bytes: [u8; 4]) -> Self;
}

impl Sum for f32 {
    fn from_bytes(bytes: [u8; 4]) -> Self {
        Self::from_ne_bytes(bytes)
    }
}

impl Sum for i32 {
    fn from_bytes(bytes: [u8; 4]) -> Self {
        Self::from_ne_bytes(bytes)
    }
}

/// Whole cache lines, aligned to them.
struct Aligned(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; STEP_BYTES]);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let (lines, rest) = bytes.as_chunks();
        assert!(rest.is_empty());
        Self(lines.iter().map(|line| Line(*line)).collect())
    }

    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: lines are bytes without gaps.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.0.len() * STEP_BYTES) }
    }
}

/// From -1 to 1.
fn symmetric(random: &mut Random) -> f32 {
    random.unit() * 2.0 - 1.0
}

/// From 0.5 to 1: sums only grow, the worst case of their rounding.
fn positive(random: &mut Random) -> f32 {
    random.unit() / 2.0 + 0.5
}

/// From 2⁻⁴⁰ to 2⁴⁰, of both signs.
fn of_many_magnitudes(random: &mut Random) -> f32 {
    symmetric(random) * 2_f32.powi(random.below(80) as i32 - 40)
}

/// Marsaglia's xorshift with a multiplied output: enough to fill matrices, the same in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 24) as f32
    }
}

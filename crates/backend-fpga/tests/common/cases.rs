//! The cases: corners by name, then shapes at random.

use smolvla_backend_fpga::arith::{DIGIT, Scale, TWO_DIGITS};
use smolvla_backend_fpga::descriptor::{
    Descriptor, Flags, Op, ROW_WORDS, TILE_COLS, TRANSPOSED_WORDS, padded, word_pitch,
};

use super::Case;

/// Cases of random shapes, of each unit.
const RANDOM: usize = 100;

/// SplitMix64: its stream is the same everywhere.
struct Random(u64);

impl Random {
    fn named(name: &str) -> Self {
        // FNV-1a.
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// From `low` to `high`, both possible.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    fn size(&mut self, most: u32) -> u32 {
        self.between(1, most.into()) as u32
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() as usize % of.len()]
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Words of a kind.
#[derive(Clone, Copy)]
enum Words {
    /// Between -4 and 4.
    Tame,
    /// Of exponents that are 40 apart at most.
    Wide,
    /// Of any exponent.
    Wild,
    /// Nothing but zeros.
    Zeros,
    /// Zeros of both signs and subnormals.
    Nothing,
    /// Tame with one a million times larger.
    Outlier,
    /// Near the largest.
    Largest,
    /// Near the smallest normal.
    Smallest,
    /// All the same.
    Equal(f32),
    /// Multiples of a half of a step of 127.
    Ties,
    /// Those of [`CORNERS`], in turn.
    Corners,
    /// Tame, but every other row nothing but zeros.
    ZeroRows,
    /// Any bits, infinities and NaNs too.
    Bits,
}

const CORNERS: [f32; 36] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MIN_POSITIVE / 2.0,
    -f32::MIN_POSITIVE / 4.0,
    f32::MIN_POSITIVE * 1.5,
    f32::MAX,
    f32::MIN,
    1.0 + f32::EPSILON,
    1.0 - f32::EPSILON / 2.0,
    2.0,
    -2.0,
    0.5,
    16.0,
    -16.0,
    15.999_999,
    -15.999_999,
    16.000_002,
    0.062_5,
    -0.062_5,
    0.062_499_996,
    16_777_215.0,
    -16_777_216.0,
    3.0e38,
    -3.0e38,
    1.0e-38,
    -1.0e-20,
    1.0e20,
    127.0,
    -127.5,
    0.333_333_34,
    -8.062_5,
    5.960_464_5e-8,
];

impl Words {
    /// Rows of words.
    fn rows(self, random: &mut Random, rows: u32, cols: u32) -> Vec<Vec<f32>> {
        (0..rows).map(|i| self.row(random, i, cols)).collect()
    }

    fn row(self, random: &mut Random, row: u32, cols: u32) -> Vec<f32> {
        let any_of = |random: &mut Random, low: i64, high: i64| {
            let bits = random.next() as u32;
            f32::from_bits(bits & 0x807f_ffff | (random.between(low, high) as u32) << 23)
        };
        let outlier = random.next() as u32 % cols;
        (0..cols)
            .map(|j| match self {
                Self::Tame => random.unit() * 4.0,
                Self::Wide => any_of(random, 107, 147),
                Self::Wild => any_of(random, 1, 254),
                Self::Zeros => 0.0,
                Self::Nothing => any_of(random, 0, 0) * if random.flag() { 0.0 } else { 1.0 },
                Self::Outlier if j == outlier => random.unit() * 4.0e6 + 1.0e6,
                Self::Outlier => random.unit(),
                Self::Largest => any_of(random, 250, 254),
                Self::Smallest => any_of(random, 0, 5),
                Self::Equal(x) => x,
                Self::Ties if j == outlier => 127.0,
                Self::Ties => random.between(-254, 254) as f32 / 2.0,
                Self::Corners => CORNERS[(row * cols + j) as usize % CORNERS.len()],
                Self::ZeroRows if row.is_multiple_of(2) => 0.0,
                Self::ZeroRows => random.unit() * 4.0,
                Self::Bits => f32::from_bits(random.next() as u32),
            })
            .collect()
    }
}

/// A piece of memory that grows.
struct Space {
    name: String,
    random: Random,
    base: u64,
    memory: Vec<u8>,
}

impl Space {
    fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let mut random = Random::named(&name);
        // Addresses of more than 32 bits, too.
        let base = (random.next() % 31) << 28 | (random.next() % 16) << 12;
        Self { name, random, base, memory: Vec::new() }
    }

    fn case(mut self, stream: Vec<Descriptor>) -> Case {
        self.noise(256);
        let Self { name, base, memory, .. } = self;
        Case { name, base, memory, stream }
    }

    fn noise(&mut self, bytes: usize) {
        for _ in 0..bytes {
            self.memory.push(self.random.next() as u8);
        }
    }

    /// `bytes` of noise that begin `offset` after a multiple of 64, away from everything else.
    fn reserve(&mut self, bytes: usize, offset: usize) -> u64 {
        self.noise(128);
        let start = self.memory.len().next_multiple_of(64) + offset;
        self.noise(start + bytes - self.memory.len());
        self.base + start as u64
    }

    fn put(&mut self, address: u64, bytes: impl IntoIterator<Item = u8>) {
        let start = (address - self.base) as usize;
        for (i, byte) in bytes.into_iter().enumerate() {
            self.memory[start + i] = byte;
        }
    }

    fn put_words(&mut self, address: u64, words: impl IntoIterator<Item = u32>) {
        self.put(address, words.into_iter().flat_map(u32::to_le_bytes));
    }

    /// Rows of words, and where they are.
    fn matrix(&mut self, kind: Words, rows: u32, cols: u32, pitch: u32, offset: usize) -> u64 {
        let start = self.reserve(pitch as usize * (rows as usize - 1) + cols as usize * 4, offset);
        let words = kind.rows(&mut self.random, rows, cols);
        for (i, row) in (0..).zip(words) {
            self.put_words(start + u64::from(pitch) * i, row.into_iter().map(f32::to_bits));
        }
        start
    }

    /// Room for rows of words as results, with nothing but noise.
    fn results(&mut self, rows: u32, cols: u32, pitch: u32) -> u64 {
        self.reserve(pitch as usize * (rows as usize - 1) + word_pitch(cols as usize), 0)
    }

    fn scales(&mut self, scales: impl IntoIterator<Item = Scale>, count: u32, offset: usize) -> u64 {
        let start = self.reserve(count as usize * 4, offset);
        self.put_words(start, scales.into_iter().take(count as usize).map(Scale::to_word));
        start
    }
}

fn flag(flag: Flags, set: bool) -> Flags {
    if set { flag } else { Flags::default() }
}

/// What makes a row of operands lie as it does.
#[derive(Clone, Copy)]
struct Shape {
    rows: u32,
    cols: u32,
    /// Bytes after a multiple of 64.
    offset: usize,
    /// Bytes between rows.
    gap: u32,
}

const fn shape(rows: u32, cols: u32) -> Shape {
    Shape { rows, cols, offset: 0, gap: 0 }
}

impl Shape {
    const fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    const fn gap(self, gap: u32) -> Self {
        Self { gap, ..self }
    }

    /// Packed, but for the gap.
    fn pitch(self) -> u32 {
        self.cols * 4 + self.gap
    }

    fn random(random: &mut Random, rows: u32, cols: u32) -> Self {
        shape(random.size(rows), random.size(cols))
            .at(random.next() as usize % 16 * 4)
            .gap(random.next() as u32 % 20 * 4)
    }
}

/// Kinds of rows that all units on whole rows have, with shapes that cut beats in every way.
fn row_cases() -> Vec<(String, Words, Shape)> {
    let mut cases: Vec<(String, Words, Shape)> = [
        ("zero rows", Words::Zeros, shape(2, 20)),
        ("zeros of both signs and subnormals", Words::Nothing, shape(3, 33)),
        ("zero rows between others", Words::ZeroRows, shape(7, 65)),
        ("an outlier", Words::Outlier, shape(3, 100)),
        ("largest words", Words::Largest, shape(3, 40)),
        ("smallest words", Words::Smallest, shape(3, 40)),
        ("wide range", Words::Wide, shape(5, 96)),
        ("any exponents", Words::Wild, shape(5, 96)),
        ("equal words", Words::Equal(-3.25), shape(2, 48)),
        ("equal powers of two", Words::Equal(1024.0), shape(2, 64)),
        ("ties", Words::Ties, shape(4, 200)),
        ("corner words", Words::Corners, shape(6, 36)),
        ("corner words, a row each", Words::Corners, shape(36, 1)),
        ("corner words, pairs", Words::Corners, shape(18, 2)),
        ("one word", Words::Tame, shape(1, 1)),
        ("model's row 720", Words::Tame, shape(3, 720)),
        ("model's row 768", Words::Tame, shape(3, 768)),
        ("model's row 960", Words::Tame, shape(2, 960)),
        ("rows far apart", Words::Tame, shape(5, 30).gap(8192)),
        ("longest row", Words::Tame, shape(1, ROW_WORDS as u32)),
        ("longest row, unaligned", Words::Wide, shape(1, ROW_WORDS as u32).at(36)),
    ]
    .map(|(name, words, shape)| (name.to_owned(), words, shape))
    .into();
    for cols in 1..=17 {
        cases.push((format!("{cols} columns"), Words::Tame, shape(3, cols).at(cols as usize % 16 * 4)));
    }
    for cols in [31, 32, 47, 63, 64, 65, 127, 128, 129] {
        cases.push((format!("{cols} columns"), Words::Tame, shape(2, cols)));
    }
    for rows in [9, 10, 11, 15, 16, 17, 33] {
        cases.push((format!("{rows} rows"), Words::Tame, shape(rows, 24).gap(rows * 4)));
    }
    for offset in (4..64).step_by(4) {
        cases.push((
            format!("source {offset} bytes after a beat"),
            Words::Tame,
            shape(2, 50).at(offset).gap(12),
        ));
    }
    cases
}

// ---- GEMM ----

/// Digits of a kind.
#[derive(Clone, Copy)]
enum Digits {
    Any,
    Most,
    Least,
    /// +127 and -127 in turn.
    Turns,
    Zeros,
}

impl Digits {
    fn one(self, random: &mut Random, place: usize) -> u8 {
        let most = DIGIT as i8;
        let digit = match self {
            Self::Any => random.between(-i64::from(DIGIT), i64::from(DIGIT)) as i8,
            Self::Most => most,
            Self::Least => -most,
            Self::Turns => {
                if place.is_multiple_of(2) {
                    most
                } else {
                    -most
                }
            }
            Self::Zeros => 0,
        };
        digit as u8
    }
}

/// Factors of rows and columns.
#[derive(Clone, Copy)]
enum Factors {
    Usual,
    Zeros,
    /// With mantissas at both ends.
    Mantissas,
    /// Results below the normal range.
    Tiny,
    /// Results above it.
    Huge,
    /// Around both ends of the range.
    Ends,
}

impl Factors {
    fn row(self, random: &mut Random) -> Scale {
        let mantissa = random.between(1 << 13, 1 << 14) as u16;
        let exponent = random.between(-20, -6) as i16;
        self.bend(random, Scale { mantissa, exponent }, [1 << 13, 1 << 14])
    }

    fn column(self, random: &mut Random) -> Scale {
        let mantissa = random.between(1 << 12, 1 << 13) as u16;
        let exponent = random.between(-34, -20) as i16;
        self.bend(random, Scale { mantissa, exponent }, [1 << 12, 1 << 13])
    }

    fn bend(self, random: &mut Random, scale: Scale, ends: [u16; 2]) -> Scale {
        let Scale { mantissa, exponent } = scale;
        match self {
            Self::Usual => scale,
            Self::Zeros => {
                if random.flag() {
                    Scale::default()
                } else {
                    scale
                }
            }
            Self::Mantissas => Scale { mantissa: random.pick(&ends), exponent },
            Self::Tiny => Scale { mantissa, exponent: exponent - 120 },
            Self::Huge => Scale { mantissa, exponent: exponent + 120 },
            Self::Ends => {
                let away = random.between(50, 75) as i16;
                Scale { mantissa, exponent: exponent + if random.flag() { away } else { -away } }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Gemm {
    rows: u32,
    cols: u32,
    depth: u32,
    flags: Flags,
    activations: Digits,
    weights: Digits,
    factors: Factors,
    bias: Words,
    /// Of scales and bias.
    offset: usize,
    gap: u32,
}

const GEMM: Gemm = Gemm {
    rows: 10,
    cols: 16,
    depth: 64,
    flags: Flags(0),
    activations: Digits::Any,
    weights: Digits::Any,
    factors: Factors::Usual,
    bias: Words::Tame,
    offset: 0,
    gap: 0,
};

impl Gemm {
    fn case(self, name: impl Into<String>) -> Case {
        let Self { rows, cols, depth, flags, .. } = self;
        let mut space = Space::new(name);
        let width = padded(depth as usize);
        let planes = 1 + usize::from(flags.has(Flags::TWO_DIGITS));
        let weight_planes = 1 + usize::from(flags.has(Flags::TWO_DIGIT_WEIGHTS));
        let mut d = Descriptor { rows, cols, depth, flags, ..Descriptor::new(Op::Gemm) };

        d.pitch[0] = width as u32 + self.gap;
        let pitch = d.pitch[0] as usize;
        d.plane[0] = (pitch * rows as usize) as u32;
        d.source[0] = space.digit_rows(self.activations, rows, depth, pitch, planes);
        let scales: Vec<Scale> = (0..rows).map(|_| self.factors.row(&mut space.random)).collect();
        d.source[1] = space.scales(scales, rows, self.offset);
        if flags.has(Flags::ROWS) {
            d.pitch[1] = width as u32 + self.gap;
            let pitch = d.pitch[1] as usize;
            d.plane[1] = (pitch * cols as usize) as u32;
            d.source[2] = space.digit_rows(self.weights, cols, depth, pitch, weight_planes);
        } else {
            d.source[2] = space.panels(self.weights, cols, depth, weight_planes);
        }
        let scales: Vec<Scale> = (0..cols).map(|_| self.factors.column(&mut space.random)).collect();
        d.source[3] = space.scales(scales, cols, (self.offset + 20) % 64);
        if flags.has(Flags::BIAS) {
            d.destination[1] = space.matrix(self.bias, 1, cols, cols * 4, (self.offset + 44) % 64);
        }
        d.pitch[2] = word_pitch(cols as usize) as u32 + self.gap;
        d.destination[0] = space.results(rows, cols, d.pitch[2]);
        space.case(vec![d])
    }
}

impl Space {
    fn digit_rows(&mut self, kind: Digits, rows: u32, depth: u32, pitch: usize, planes: usize) -> u64 {
        let start = self.reserve(pitch * rows as usize * planes, 0);
        for i in 0..rows as usize * planes {
            let digits: Vec<u8> = (0..padded(depth as usize))
                .map(|k| if k < depth as usize { kind.one(&mut self.random, k) } else { 0 })
                .collect();
            self.put(start + (i * pitch) as u64, digits);
        }
        start
    }

    fn panels(&mut self, kind: Digits, cols: u32, depth: u32, planes: usize) -> u64 {
        let width = padded(depth as usize);
        let panels = (cols as usize).div_ceil(TILE_COLS);
        let start = self.reserve(panels * planes * width * TILE_COLS, 0);
        for panel in 0..panels {
            for plane in 0..planes {
                let digits: Vec<u8> = (0..width * TILE_COLS)
                    .map(|at| {
                        let (c, k) = (at / 8 % TILE_COLS, at / (8 * TILE_COLS) * 8 + at % 8);
                        let is_there = panel * TILE_COLS + c < cols as usize && k < depth as usize;
                        if is_there { kind.one(&mut self.random, k) } else { 0 }
                    })
                    .collect();
                self.put(start + ((panel * planes + plane) * width * TILE_COLS) as u64, digits);
            }
        }
        start
    }
}

pub(super) fn gemm() -> Vec<Case> {
    let wide = Flags::TWO_DIGITS.and(Flags::TWO_DIGIT_WEIGHTS);
    let mut cases = vec![
        GEMM.case("a tile"),
        Gemm { activations: Digits::Most, weights: Digits::Most, depth: 256, ..GEMM }.case("+127 · +127"),
        Gemm { activations: Digits::Most, weights: Digits::Least, depth: 256, ..GEMM }.case("+127 · -127"),
        Gemm { activations: Digits::Least, weights: Digits::Least, depth: 256, ..GEMM }.case("-127 · -127"),
        Gemm { activations: Digits::Turns, weights: Digits::Turns, ..GEMM }.case("±127 in turn"),
        Gemm { activations: Digits::Zeros, flags: Flags::BIAS, ..GEMM }.case("sums of zero, with bias"),
        Gemm { factors: Factors::Zeros, flags: Flags::BIAS, ..GEMM }.case("scales of zero"),
        Gemm { factors: Factors::Mantissas, ..GEMM }.case("mantissas at both ends"),
        Gemm { factors: Factors::Tiny, ..GEMM }.case("results flushed to zero"),
        Gemm { factors: Factors::Huge, ..GEMM }.case("results held at the largest"),
        Gemm { factors: Factors::Ends, rows: 50, cols: 48, ..GEMM }.case("results at the ends of the range"),
        Gemm { factors: Factors::Ends, rows: 50, cols: 48, flags: Flags::BIAS, bias: Words::Wild, ..GEMM }
            .case("results and bias of any exponent"),
        Gemm { flags: Flags::BIAS, bias: Words::Corners, rows: 20, cols: 36, ..GEMM }
            .case("bias of corner words"),
        Gemm {
            flags: wide,
            activations: Digits::Most,
            weights: Digits::Most,
            factors: Factors::Mantissas,
            depth: 4096,
            ..GEMM
        }
        .case("largest sum of two digits on both sides"),
        Gemm {
            flags: wide.and(Flags::ROWS),
            activations: Digits::Most,
            weights: Digits::Least,
            depth: 4096,
            ..GEMM
        }
        .case("least sum of two digits on both sides, rows"),
        Gemm {
            flags: Flags::TWO_DIGITS,
            activations: Digits::Least,
            weights: Digits::Most,
            depth: 8192,
            factors: Factors::Mantissas,
            ..GEMM
        }
        .case("least sum of two digits of activations"),
        Gemm { depth: 16_384, rows: 11, ..GEMM }.case("deepest panel"),
        Gemm { depth: 8192, cols: 33, flags: Flags::TWO_DIGIT_WEIGHTS, ..GEMM }
            .case("deepest panels of two digits"),
        Gemm { rows: 1270, depth: 1024, cols: 17, ..GEMM }.case("most activations"),
        Gemm { rows: 50, depth: 720, cols: 96, flags: Flags::TWO_DIGITS.and(Flags::BIAS), ..GEMM }
            .case("model's chunk of 50 actions"),
        Gemm { rows: 113, depth: 64, cols: 163, flags: wide.and(Flags::ROWS), ..GEMM }.case("model's scores"),
        Gemm { rows: 50, depth: 163, cols: 64, flags: wide.and(Flags::ROWS), ..GEMM }.case("model's values"),
        Gemm { rows: 23, cols: 39, gap: 4096 - 64, flags: Flags::ROWS.and(Flags::TWO_DIGITS), ..GEMM }
            .case("rows far apart"),
    ];
    for bits in 0..16 {
        let flags = Flags(bits);
        let sizes =
            Gemm { rows: 13, cols: 21, depth: 100, offset: bits as usize * 4, gap: 64, flags, ..GEMM };
        cases.push(sizes.case(format!("flags {bits:#06b}")));
    }
    for rows in [1, 2, 9, 11, 19, 20, 21] {
        cases.push(Gemm { rows, ..GEMM }.case(format!("{rows} rows")));
    }
    for cols in 1..=33 {
        let flags = flag(Flags::ROWS, cols % 2 == 0).and(flag(Flags::BIAS, cols % 3 == 0));
        cases.push(Gemm { cols, flags, offset: 60, ..GEMM }.case(format!("{cols} columns")));
    }
    for depth in [1, 7, 8, 9, 63, 65, 127, 128, 129, 192] {
        for flags in [Flags(0), wide.and(Flags::ROWS), Flags::TWO_DIGITS] {
            let name = format!("depth {depth}, flags {:#06b}", flags.0);
            cases.push(Gemm { depth, rows: 12, cols: 18, flags, ..GEMM }.case(name));
        }
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let gemm = Gemm {
            rows: random.size(64),
            cols: random.size(80),
            depth: random.size(400),
            flags: Flags(random.next() as u32 & 15),
            factors: random.pick(&[Factors::Usual, Factors::Zeros, Factors::Mantissas]),
            offset: random.next() as usize % 16 * 4,
            gap: random.next() as u32 % 4 * 64,
            ..GEMM
        };
        cases.push(gemm.case(name));
    }
    cases
}

// ---- Rows to digits ----

/// Where digits and scales go: the fields of their descriptor.
fn digits_to(space: &mut Space, d: &mut Descriptor, gap: u32) {
    let rows = d.rows as usize;
    let planes = 1 + usize::from(d.flags.has(Flags::TWO_DIGITS));
    d.pitch[2] = padded(d.cols as usize) as u32 + gap;
    d.plane[0] = d.pitch[2] * d.rows + 64;
    d.destination[0] = space.reserve(d.plane[0] as usize * planes, 0);
    let offset = space.random.next() as usize % 16 * 4;
    d.destination[1] = space.reserve(rows * 4, offset);
}

fn quantise_case(name: String, words: Words, shape: Shape, flags: Flags) -> Case {
    let mut space = Space::new(name);
    let Shape { rows, cols, .. } = shape;
    let mut d = Descriptor { rows, cols, flags, ..Descriptor::new(Op::Quantise) };
    if flags.has(Flags::TRANSPOSE) {
        d.pitch[0] = word_pitch(rows as usize) as u32 + shape.gap.next_multiple_of(64);
        // The rows that are quantised are columns in memory, so their words are of the kind as columns are.
        let columns = words.rows(&mut space.random, rows, cols);
        d.source[0] = space.reserve((d.pitch[0] * cols) as usize, 0);
        for j in 0..cols {
            let line: Vec<u32> = columns.iter().map(|column| column[j as usize].to_bits()).collect();
            space.put_words(d.source[0] + u64::from(d.pitch[0] * j), line);
        }
    } else {
        d.pitch[0] = shape.pitch();
        d.source[0] = space.matrix(words, rows, cols, d.pitch[0], shape.offset);
    }
    digits_to(&mut space, &mut d, shape.gap.next_multiple_of(64));
    space.case(vec![d])
}

pub(super) fn quantise() -> Vec<Case> {
    let mut cases = Vec::new();
    for (digits, flags) in [("one digit", Flags(0)), ("two digits", Flags::TWO_DIGITS)] {
        for (name, words, shape) in row_cases() {
            cases.push(quantise_case(format!("{name}, {digits}"), words, shape, flags));
        }
        let flags = flags.and(Flags::TRANSPOSE);
        for (rows, cols) in [
            (1, 1),
            (16, 16),
            (15, 17),
            (17, 15),
            (2, 65),
            (64, 113),
            (113, 64),
            (320, 50),
            (33, 129),
            (5, TRANSPOSED_WORDS as u32),
            (18, 200),
        ] {
            let name = format!("columns of {cols} × {rows}, {digits}");
            cases.push(quantise_case(name, Words::Wide, shape(rows, cols), flags));
        }
        for (name, words, shape) in row_cases() {
            let small = shape.cols <= 100 && shape.gap < 100 && shape.offset == 0;
            if small && shape.cols > 17 {
                cases.push(quantise_case(format!("columns: {name}, {digits}"), words, shape, flags));
            }
        }
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let shape = Shape::random(&mut random, 40, 200);
        let words = random.pick(&[Words::Tame, Words::Wide, Words::Wild]);
        let flags = flag(Flags::TWO_DIGITS, random.flag()).and(flag(Flags::TRANSPOSE, random.flag()));
        cases.push(quantise_case(name, words, shape, flags));
    }
    cases
}

/// Which columns of a softmax count.
#[derive(Clone, Copy, PartialEq)]
enum Mask {
    None,
    Any,
    All,
    Empty,
    One,
    /// Up to the row's own column.
    Causal,
    /// Every other row is empty.
    EmptyRows,
}

#[derive(Clone, Copy)]
struct Softmax {
    words: Words,
    shape: Shape,
    mask: Mask,
    repeat: u32,
    factor: f32,
    two_digits: bool,
    weights: i32,
}

const SOFTMAX: Softmax = Softmax {
    words: Words::Tame,
    shape: shape(5, 50),
    mask: Mask::None,
    repeat: 5,
    factor: std::f32::consts::LOG2_E,
    two_digits: false,
    weights: DIGIT,
};

impl Softmax {
    fn case(self, name: impl Into<String>) -> Case {
        let mut space = Space::new(name);
        let Shape { rows, cols, .. } = self.shape;
        let flags = flag(Flags::TWO_DIGITS, self.two_digits).and(flag(Flags::MASK, self.mask != Mask::None));
        let mut d = Descriptor { rows, cols, flags, ..Descriptor::new(Op::Softmax) };
        d.pitch[0] = self.shape.pitch();
        d.source[0] = space.matrix(self.words, rows, cols, d.pitch[0], self.shape.offset);
        if self.mask != Mask::None {
            d.repeat = self.repeat;
            d.pitch[1] = padded(cols as usize) as u32 + self.shape.gap.next_multiple_of(64);
            d.source[1] = space.reserve((d.pitch[1] * self.repeat) as usize, 0);
            for i in 0..self.repeat {
                let one = space.random.next() as u32 % cols;
                let row: Vec<u8> = (0..cols)
                    .map(|j| {
                        let allowed = match self.mask {
                            Mask::None | Mask::All => true,
                            Mask::Any => space.random.flag(),
                            Mask::Empty => false,
                            Mask::One => j == one,
                            Mask::Causal => j <= i,
                            Mask::EmptyRows => i % 2 == 1 && space.random.flag(),
                        };
                        // Any byte but zero allows.
                        if allowed { (space.random.next() % 255 + 1) as u8 } else { 0 }
                    })
                    .collect();
                space.put(d.source[1] + u64::from(d.pitch[1] * i), row);
            }
        }
        d.immediate = [self.factor.to_bits(), self.weights as u32];
        digits_to(&mut space, &mut d, self.shape.gap.next_multiple_of(64));
        space.case(vec![d])
    }
}

pub(super) fn softmax() -> Vec<Case> {
    let mut cases = Vec::new();
    for (digits, two_digits) in [("one digit", false), ("two digits", true)] {
        for (name, words, shape) in row_cases() {
            let softmax = Softmax { words, shape, two_digits, ..SOFTMAX };
            cases.push(softmax.case(format!("{name}, {digits}")));
        }
        for (name, mask) in [
            ("any", Mask::Any),
            ("all", Mask::All),
            ("empty", Mask::Empty),
            ("one", Mask::One),
            ("causal", Mask::Causal),
            ("empty rows between others", Mask::EmptyRows),
        ] {
            for cols in [1, 15, 16, 17, 64, 65, 163] {
                let shape = shape(5, cols);
                cases.push(
                    Softmax { mask, shape, two_digits, ..SOFTMAX }
                        .case(format!("mask {name}, {cols} columns, {digits}")),
                );
            }
            let (words, shape) = (Words::Wild, shape(9, 40).at(20));
            cases.push(
                Softmax { mask, words, shape, repeat: 4, two_digits, weights: TWO_DIGITS, ..SOFTMAX }
                    .case(format!("mask {name} repeated, any exponents, {digits}")),
            );
            let words = Words::Nothing;
            cases.push(
                Softmax { mask, words, shape, repeat: 2, two_digits, ..SOFTMAX }
                    .case(format!("mask {name} repeated, zeros of both signs, {digits}")),
            );
        }
        for factor in [0.0, 1.0e-9, 1.0e-3, 0.18, 100.0, 1.0e6, 1.0e30, f32::MIN_POSITIVE, f32::MAX] {
            for words in [Words::Tame, Words::Wild] {
                let wild = matches!(words, Words::Wild);
                let name =
                    format!("factor {factor:e}, {}{digits}", if wild { "any exponents, " } else { "" });
                cases.push(Softmax { factor, words, two_digits, ..SOFTMAX }.case(name));
            }
        }
        let shape = shape(20, 163).gap(4);
        cases.push(
            Softmax { mask: Mask::Causal, shape, repeat: 10, two_digits, weights: TWO_DIGITS, ..SOFTMAX }
                .case(format!("model's scores, {digits}")),
        );
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let shape = Shape::random(&mut random, 30, 200);
        let softmax = Softmax {
            words: random.pick(&[Words::Tame, Words::Wide, Words::Wild]),
            mask: random.pick(&[Mask::None, Mask::Any, Mask::EmptyRows]),
            repeat: random.size(shape.rows),
            factor: random.unit() * 2.0,
            two_digits: random.flag(),
            weights: random.pick(&[DIGIT, TWO_DIGITS]),
            shape,
        };
        cases.push(softmax.case(name));
    }
    cases
}

// ---- Rows to rows ----

fn norm_case(name: String, words: Words, shape: Shape, bias: bool, epsilon: f32, gain: Words) -> Case {
    let mut space = Space::new(name);
    let Shape { rows, cols, offset, gap } = shape;
    let mut d = Descriptor { rows, cols, flags: flag(Flags::BIAS, bias), ..Descriptor::new(Op::Norm) };
    d.pitch[0] = shape.pitch();
    d.source[0] = space.matrix(words, rows, cols, d.pitch[0], offset);
    d.source[1] = space.matrix(gain, 1, cols, cols * 4, (offset + 12) % 64);
    if bias {
        d.source[2] = space.matrix(gain, 1, cols, cols * 4, (offset + 40) % 64);
    }
    d.immediate[0] = epsilon.to_bits();
    d.pitch[2] = word_pitch(cols as usize) as u32 + gap.next_multiple_of(64);
    d.destination[0] = space.results(rows, cols, d.pitch[2]);
    space.case(vec![d])
}

pub(super) fn norm() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, bias) in [("RMSNorm", false), ("LayerNorm", true)] {
        for (name, words, shape) in row_cases() {
            cases.push(norm_case(format!("{name}, {kind}"), words, shape, bias, 1.0e-5, Words::Tame));
        }
        for epsilon in [0.0, 1.0e-40, f32::MIN_POSITIVE, 1.0e-12, 1.0e-6, 1.0, 1.0e10, f32::MAX] {
            for (words, which) in [
                (Words::Tame, "tame"),
                (Words::Wild, "of any exponent"),
                (Words::Smallest, "smallest"),
                (Words::Largest, "largest"),
                (Words::ZeroRows, "zero rows"),
            ] {
                let name = format!("epsilon {epsilon:e}, words {which}, {kind}");
                cases.push(norm_case(name, words, shape(4, 40), bias, epsilon, Words::Tame));
            }
        }
        for (name, gain) in
            [("any exponents", Words::Wild), ("corner words", Words::Corners), ("zeros", Words::Nothing)]
        {
            cases.push(norm_case(
                format!("gain of {name}, {kind}"),
                Words::Tame,
                shape(3, 72),
                bias,
                1.0e-6,
                gain,
            ));
        }
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let shape = Shape::random(&mut random, 12, 300);
        let words = random.pick(&[Words::Tame, Words::Wide, Words::Wild]);
        let bias = random.flag();
        cases.push(norm_case(name, words, shape, bias, 1.0e-5, Words::Tame));
    }
    cases
}

fn activate_case(name: String, words: Words, shape: Shape, flags: Flags, in_place: bool) -> Case {
    let mut space = Space::new(name);
    let Shape { rows, cols, gap, .. } = shape;
    let mut d = Descriptor { rows, cols, flags, ..Descriptor::new(Op::Activate) };
    let pitch = word_pitch(cols as usize) as u32 + gap.next_multiple_of(64);
    d.pitch[2] = pitch;
    if in_place {
        d.pitch[0] = pitch;
        d.source[0] = space.matrix(words, rows, cols, pitch, 0);
        d.destination[0] = d.source[0];
        // What is written after the last row belongs to it.
        space.noise(64);
    } else {
        d.pitch[0] = shape.pitch();
        d.source[0] = space.matrix(words, rows, cols, d.pitch[0], shape.offset);
        d.destination[0] = space.results(rows, cols, pitch);
    }
    if flags.has(Flags::MULTIPLY) {
        d.source[1] = space.matrix(words, rows, cols, d.pitch[0], (shape.offset + 52) % 64);
    }
    space.case(vec![d])
}

pub(super) fn activate() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, gelu) in [("SiLU", false), ("GELU", true)] {
        for (factor, multiply) in [("", false), (", multiplied", true)] {
            let flags = flag(Flags::GELU, gelu).and(flag(Flags::MULTIPLY, multiply));
            for (name, words, shape) in row_cases() {
                cases.push(activate_case(format!("{name}, {kind}{factor}"), words, shape, flags, false));
            }
            let name = format!("in place, {kind}{factor}");
            cases.push(activate_case(name, Words::Wide, shape(7, 100), flags, true));
            let name = format!("many words, {kind}{factor}");
            cases.push(activate_case(name, Words::Wide, shape(4, 4096), flags, false));
            let name = format!("more than a row of the buffer, {kind}{factor}");
            cases.push(activate_case(name, Words::Tame, shape(1, ROW_WORDS as u32 + 40), flags, false));
        }
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let shape = Shape::random(&mut random, 20, 300);
        let flags = flag(Flags::GELU, random.flag()).and(flag(Flags::MULTIPLY, random.flag()));
        let words = random.pick(&[Words::Tame, Words::Wide, Words::Wild]);
        let in_place = random.flag();
        cases.push(activate_case(name, words, shape, flags, in_place));
    }
    cases
}

#[derive(Clone, Copy)]
struct Rope {
    rows: u32,
    half: u32,
    heads: u32,
    repeat: u32,
    words: Words,
    table: Words,
    /// Of source, tables and result, in words.
    offsets: [usize; 3],
    gap: u32,
}

const ROPE: Rope = Rope {
    rows: 4,
    half: 32,
    heads: 3,
    repeat: 4,
    words: Words::Tame,
    table: Words::Tame,
    offsets: [0; 3],
    gap: 0,
};

impl Rope {
    fn case(self, name: impl Into<String>) -> Case {
        let mut space = Space::new(name);
        let Self { rows, half, heads, repeat, .. } = self;
        let [source, table, result] = self.offsets.map(|words| words % 16 * 4);
        let width = half * 2 * heads;
        let mut d = Descriptor { rows, cols: half, depth: heads, repeat, ..Descriptor::new(Op::Rope) };
        d.pitch = [width * 4 + self.gap, half * 4 + self.gap, width * 4 + self.gap];
        d.source[0] = space.matrix(self.words, rows, width, d.pitch[0], source);
        d.source[1] = space.matrix(self.table, repeat, half, d.pitch[1], table);
        d.source[2] = space.matrix(self.table, repeat, half, d.pitch[1], (table + 24) % 64);
        d.destination[0] = space.reserve((d.pitch[2] * rows) as usize, result);
        space.case(vec![d])
    }
}

pub(super) fn rope() -> Vec<Case> {
    let mut cases = vec![
        ROPE.case("a few heads"),
        Rope { rows: 6, heads: 15, repeat: 6, ..ROPE }.case("model's queries"),
        Rope { rows: 6, heads: 5, repeat: 3, ..ROPE }.case("model's keys, tables repeated"),
        Rope { repeat: 1, ..ROPE }.case("one row of tables"),
        Rope { repeat: 9, ..ROPE }.case("more rows of tables than rows"),
        Rope { words: Words::Wild, table: Words::Wild, ..ROPE }.case("any exponents"),
        Rope { words: Words::Wide, table: Words::Wide, ..ROPE }.case("wide range"),
        Rope { words: Words::Corners, table: Words::Corners, half: 36, ..ROPE }.case("corner words"),
        Rope { words: Words::Corners, table: Words::Equal(1.0), half: 36, ..ROPE }
            .case("sums of corner words"),
        Rope { words: Words::Equal(1.5), table: Words::Equal(0.75), ..ROPE }.case("differences of zero"),
        Rope { words: Words::Nothing, ..ROPE }.case("zeros of both signs and subnormals"),
        Rope { words: Words::Largest, table: Words::Equal(1.0), ..ROPE }.case("sums held at the largest"),
        Rope { words: Words::Smallest, table: Words::Equal(0.9), ..ROPE }.case("sums flushed to zero"),
        Rope { half: 512, heads: 2, ..ROPE }.case("wide heads"),
        Rope { gap: 5000, ..ROPE }.case("rows far apart"),
    ];
    for half in 1..=33 {
        let by = half as usize;
        let offsets = [by, by * 3, by * 5];
        cases.push(Rope { half, offsets, gap: 4, ..ROPE }.case(format!("halves of {half}")));
    }
    for i in 1..16 {
        cases.push(Rope { offsets: [i, 0, 0], ..ROPE }.case(format!("source {} bytes after a beat", i * 4)));
        cases.push(Rope { offsets: [0, i, 0], ..ROPE }.case(format!("tables {} bytes after a beat", i * 4)));
        cases.push(Rope { offsets: [0, 0, i], ..ROPE }.case(format!("result {} bytes after a beat", i * 4)));
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let rope = Rope {
            rows: random.size(20),
            half: random.size(70),
            heads: random.size(8),
            repeat: random.size(12),
            words: random.pick(&[Words::Tame, Words::Wide, Words::Wild]),
            offsets: [0; 3].map(|_| random.next() as usize),
            gap: random.next() as u32 % 20 * 4,
            ..ROPE
        };
        cases.push(rope.case(name));
    }
    cases
}

#[derive(Clone, Copy)]
struct Combine {
    words: [Words; 2],
    shape: Shape,
    flags: Flags,
    repeat: u32,
    alpha: f32,
    in_place: bool,
}

const COMBINE: Combine = Combine {
    words: [Words::Tame; 2],
    shape: shape(5, 50),
    flags: Flags(0),
    repeat: 5,
    alpha: -0.1,
    in_place: false,
};

impl Combine {
    fn case(self, name: impl Into<String>) -> Case {
        let mut space = Space::new(name);
        let Shape { rows, cols, offset, gap } = self.shape;
        let mut d = Descriptor { rows, cols, flags: self.flags, ..Descriptor::new(Op::Combine) };
        d.pitch[2] = word_pitch(cols as usize) as u32 + gap.next_multiple_of(64);
        if self.in_place {
            d.pitch[0] = d.pitch[2];
            d.source[0] = space.matrix(self.words[0], rows, cols, d.pitch[0], 0);
            d.destination[0] = d.source[0];
            space.noise(64);
        } else {
            d.pitch[0] = self.shape.pitch();
            d.source[0] = space.matrix(self.words[0], rows, cols, d.pitch[0], offset);
            d.destination[0] = space.results(rows, cols, d.pitch[2]);
        }
        if self.flags.has(Flags::ADD) {
            d.repeat = self.repeat;
            d.pitch[1] = cols * 4 + gap;
            d.source[1] = space.matrix(self.words[1], self.repeat, cols, d.pitch[1], (offset + 28) % 64);
        }
        if !self.flags.has(Flags::PLAIN) {
            d.immediate[0] = self.alpha.to_bits();
        }
        space.case(vec![d])
    }
}

pub(super) fn combine() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, flags) in
        [("scaled", Flags(0)), ("scaled and added", Flags::ADD), ("added", Flags::ADD.and(Flags::PLAIN))]
    {
        let combine = Combine { flags, ..COMBINE };
        for (name, words, shape) in row_cases() {
            let (words, repeat) = ([words, words], shape.rows);
            cases.push(Combine { words, shape, repeat, ..combine }.case(format!("{name}, {kind}")));
        }
        cases.push(Combine { in_place: true, ..combine }.case(format!("in place, {kind}")));
        let large = shape(2, ROW_WORDS as u32 + 24);
        cases.push(
            Combine { shape: large, repeat: 2, ..combine }
                .case(format!("more than a row of the buffer, {kind}")),
        );
        for alpha in [0.0, -0.0, 1.0, -1.0, f32::MIN_POSITIVE, 1.0e-40, f32::MAX, -1.0e-20, 1.0e20] {
            for (words, which) in [(Words::Wild, "of any exponent"), (Words::Corners, "of corners")] {
                let name = format!("alpha {alpha:e}, words {which}, {kind}");
                cases.push(Combine { alpha, words: [words, Words::Wild], ..combine }.case(name));
            }
        }
        for repeat in [1, 2, 3, 7] {
            cases
                .push(Combine { repeat, ..combine }.case(format!("operand repeated after {repeat}, {kind}")));
        }
    }
    // Every pair of corner words.
    for (i, corner) in CORNERS.into_iter().enumerate() {
        let combine = Combine {
            words: [Words::Corners, Words::Equal(corner)],
            shape: shape(1, CORNERS.len() as u32),
            repeat: 1,
            flags: Flags::ADD.and(Flags::PLAIN),
            ..COMBINE
        };
        cases.push(combine.case(format!("corner words and corner word {i}, added")));
        let scaled = Combine { flags: Flags(0), alpha: corner, ..combine };
        cases.push(scaled.case(format!("corner words and corner word {i}, scaled")));
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let shape = Shape::random(&mut random, 20, 300);
        let words = [0; 2].map(|_| random.pick(&[Words::Tame, Words::Wide, Words::Wild]));
        let combine = Combine {
            words,
            shape,
            flags: random.pick(&[Flags(0), Flags::ADD, Flags::ADD.and(Flags::PLAIN)]),
            repeat: random.size(shape.rows),
            alpha: random.unit(),
            in_place: random.flag(),
        };
        cases.push(combine.case(name));
    }
    cases
}

// ---- Copies ----

#[derive(Clone, Copy)]
struct Blocks {
    blocks: u32,
    rows: u32,
    cols: u32,
    /// Of source and result, in words.
    offsets: [usize; 2],
    /// Bytes between rows, of source and result.
    gaps: [u32; 2],
}

const COPY: Blocks = Blocks { blocks: 1, rows: 3, cols: 20, offsets: [0; 2], gaps: [0; 2] };

impl Blocks {
    fn case(self, name: impl Into<String>) -> Case {
        let mut space = Space::new(name);
        let Self { blocks, rows, cols, gaps, .. } = self;
        let [source, result] = self.offsets.map(|words| words % 16 * 4);
        let mut d = Descriptor { rows, cols, depth: blocks, ..Descriptor::new(Op::Copy) };
        d.pitch = [cols * 4 + gaps[0], 0, cols * 4 + gaps[1]];
        d.plane = [d.pitch[0] * rows + gaps[0], d.pitch[2] * rows + gaps[1]];
        d.source[0] = space.matrix(Words::Bits, blocks, d.plane[0] / 4, d.plane[0], source);
        d.destination[0] = space.reserve((d.plane[1] * blocks) as usize, result);
        space.case(vec![d])
    }

    /// `d` with heads and positions changed about, as attention wants them.
    fn heads(name: &str, heads: u32, rows: u32, width: u32) -> Case {
        let mut space = Space::new(name);
        let mut d = Descriptor { rows, cols: width, depth: heads, ..Descriptor::new(Op::Copy) };
        d.pitch = [heads * width * 4, 0, width * 4];
        d.plane = [width * 4, rows * width * 4];
        d.source[0] = space.matrix(Words::Bits, rows, heads * width, d.pitch[0], 0);
        d.destination[0] = space.reserve((d.plane[1] * heads) as usize, 0);
        space.case(vec![d])
    }
}

pub(super) fn copy() -> Vec<Case> {
    let mut cases = vec![
        COPY.case("a few rows"),
        Blocks { rows: 1, cols: 1, ..COPY }.case("one word"),
        Blocks { rows: 1, cols: 20_000, ..COPY }.case("a long row"),
        Blocks { rows: 1, cols: 20_000, offsets: [3, 14], ..COPY }.case("a long row, unaligned"),
        Blocks { rows: 100, cols: 1, gaps: [60, 124], ..COPY }.case("a column"),
        Blocks { rows: 50, cols: 32, gaps: [2000, 4096], ..COPY }.case("rows far apart"),
        Blocks { blocks: 5, rows: 7, cols: 64, gaps: [64, 0], ..COPY }.case("blocks"),
        Blocks { blocks: 9, rows: 2, cols: 3, gaps: [4, 8], offsets: [1, 2] }.case("small blocks"),
        Blocks::heads("heads apart", 5, 23, 64),
        Blocks::heads("narrow heads apart", 15, 11, 4),
    ];
    for cols in 1..=35 {
        let by = cols as usize;
        let offsets = [by * 3, by * 7];
        cases.push(Blocks { cols, offsets, gaps: [4, 8], ..COPY }.case(format!("{cols} columns")));
    }
    for from in 0..16 {
        for to in 0..16 {
            let copy = Blocks { rows: 2, cols: 18 + (from + to) as u32 % 15, offsets: [from, to], ..COPY };
            cases.push(copy.case(format!("from {} to {} bytes after a beat", from * 4, to * 4)));
        }
    }
    for i in 0..RANDOM {
        let name = format!("random {i}");
        let mut random = Random::named(&name);
        let copy = Blocks {
            blocks: random.size(5),
            rows: random.size(20),
            cols: random.size(120),
            offsets: [0; 2].map(|_| random.next() as usize),
            gaps: [0; 2].map(|_| random.next() as u32 % 30 * 4),
        };
        cases.push(copy.case(name));
    }
    cases
}

// ---- Streams ----

/// Several operations, each on results of the one before.
pub(super) fn stream() -> Vec<Case> {
    let mut cases = vec![Space::new("nothing").case(Vec::new())];
    // Around the sixteen descriptors that are read at once, and twice as many.
    for count in [1, 2, 15, 16, 17, 31, 32, 33, 100] {
        let mut space = Space::new(format!("{count} copies of copies"));
        let mut d = Descriptor { rows: 2, cols: 9, depth: 1, ..Descriptor::new(Op::Copy) };
        d.pitch = [40, 0, 40];
        let mut at = space.matrix(Words::Bits, 2, 9, 40, 12);
        let mut stream = Vec::new();
        for i in 0..count {
            let next = space.reserve(80, i % 16 * 4);
            (d.source[0], d.destination[0]) = (at, next);
            stream.push(d);
            at = next;
        }
        cases.push(space.case(stream));
    }
    for (name, wide) in [("a layer in one digit", false), ("a layer in two digits", true)] {
        cases.push(layer(name, wide));
    }
    cases
}

/// Norm, quantiser, product, gate, sum: as a model does them.
fn layer(name: &str, wide: bool) -> Case {
    let mut space = Space::new(name);
    let (rows, cols) = (23, 80);
    let pitch = word_pitch(cols as usize) as u32;
    let digits = flag(Flags::TWO_DIGITS, wide);
    let residual = space.matrix(Words::Wide, rows, cols, pitch, 0);
    let [normed, product, gated, sum] = [0; 4].map(|_| space.results(rows, cols, pitch));

    let mut norm = Descriptor { rows, cols, ..Descriptor::new(Op::Norm) };
    norm.pitch = [pitch, 0, pitch];
    norm.source[0] = residual;
    norm.source[1] = space.matrix(Words::Tame, 1, cols, cols * 4, 4);
    norm.immediate[0] = 1.0e-5_f32.to_bits();
    norm.destination[0] = normed;

    let mut quantise = Descriptor { rows, cols, flags: digits, ..Descriptor::new(Op::Quantise) };
    quantise.pitch[0] = pitch;
    quantise.source[0] = normed;
    digits_to(&mut space, &mut quantise, 0);

    let flags = digits.and(Flags::BIAS);
    let mut gemm = Descriptor { rows, cols, depth: cols, flags, ..Descriptor::new(Op::Gemm) };
    gemm.source[0] = quantise.destination[0];
    gemm.source[1] = quantise.destination[1];
    gemm.source[2] = space.panels(Digits::Any, cols, cols, 1);
    let scales: Vec<Scale> = (0..cols).map(|_| Factors::Usual.column(&mut space.random)).collect();
    gemm.source[3] = space.scales(scales, cols, 8);
    gemm.destination = [product, space.matrix(Words::Tame, 1, cols, cols * 4, 0)];
    gemm.pitch = [quantise.pitch[2], 0, pitch];
    gemm.plane[0] = quantise.plane[0];

    let mut gate = Descriptor { rows, cols, flags: Flags::MULTIPLY, ..Descriptor::new(Op::Activate) };
    gate.pitch = [pitch, 0, pitch];
    (gate.source[0], gate.source[1], gate.destination[0]) = (product, normed, gated);

    let flags = Flags::ADD.and(Flags::PLAIN);
    let mut add = Descriptor { rows, cols, flags, repeat: rows, ..Descriptor::new(Op::Combine) };
    add.pitch = [pitch; 3];
    (add.source[0], add.source[1], add.destination[0]) = (gated, residual, sum);
    space.case(vec![norm, quantise, gemm, gate, add])
}

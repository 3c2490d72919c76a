//! How many cycles of a compute unit's clock an operation takes, without running it.
//!
//! For the memory of the simulation: an answer [`LATENCY`] cycles after its request, then a beat of 64 bytes a cycle, and
//! another each cycle in the other direction. The operation alone is counted, from the cycle in which an engine is started to its
//! last write's acknowledgement; [`stream`] adds what the sequencer takes to read descriptors.
//!
//! - **GEMM** (`rtl/gemm`): digits of the activations are loaded first, two cycles a beat; then panels of 16 columns are computed one
//!   after the other while the next one's weights are loaded, a beat a cycle, into the other half of the weights' buffer. A tile of ten rows
//!   takes a cycle for every 8 products of a column and place of digits, one for each step between places, and 20 at least, in which the
//!   tile before is drained.
//! - **Everything else** (`rtl/vector`): rows pass through loading, the operation's unit and writing, which work on rows that follow
//!   each other; the slowest of the three is how far rows are apart. Only norms hold a row for several passes. This is the
//!   recurrence of the engine's header, row by row.
//!
//! With the feature `rtl-sim` a test (`tests/cycles.rs`) holds all of it to the counters of the simulated design, to the cycle.

use crate::descriptor::{Descriptor, Flags, Op, TILE_COLS, TILE_DEPTH, TILE_ROWS, padded};

/// Cycles from a read's address to its first beat in the memory that is modelled.
pub const LATENCY: u64 = 64;

/// Words of a beat.
const LANES: u64 = 16;

/// What an operation takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Cycles, with the memory that the [module](self) describes.
    pub cycles: u64,
    /// Of these, cycles in which the multiplier array has operands; zero but for products.
    pub array: u64,
    /// Beats of 64 bytes read.
    pub beats_read: u64,
    /// Beats written, also those with few of their bytes.
    pub beats_written: u64,
}

/// What an operation takes by itself.
pub fn of(d: &Descriptor) -> Cost {
    if d.rows == 0 || d.cols == 0 || d.op == Op::End {
        return Cost::default();
    }
    if d.op == Op::Gemm { gemm(d) } else { vector(d) }
}

/// Cycles of a stream on a compute unit, with its descriptors: they are read sixteen at once, up to the next multiple of 2 KiB, and one
/// takes [`DISPATCH`] cycles from the end of an operation to the start of the next.
pub fn stream(descriptors: &[Descriptor]) -> u64 {
    let batches = (descriptors.len() as u64 + 1).div_ceil(16);
    batches * FETCH + DISPATCH + descriptors.iter().map(|d| of(d).cycles + DISPATCH).sum::<u64>()
}

/// Cycles to read sixteen descriptors.
pub const FETCH: u64 = LATENCY + 38;

/// Cycles from an operation's end to the next one's start, where its descriptor was read before.
pub const DISPATCH: u64 = 4;

/// Beats of memory that `words` words from `address` on touch.
fn beats_from(address: u64, words: u64) -> u64 {
    (address / 4 % LANES + words).div_ceil(LANES)
}

/// Beats of a row of so many words.
fn beats(words: u64) -> u64 {
    words.div_ceil(LANES)
}

fn gemm(d: &Descriptor) -> Cost {
    let (rows, cols) = (u64::from(d.rows), u64::from(d.cols));
    let row_beats = padded(d.depth as usize) as u64 / 64;
    let (activations, weights) = (planes(d, Flags::TWO_DIGITS), planes(d, Flags::TWO_DIGIT_WEIGHTS));
    let tiles = rows.div_ceil(TILE_ROWS as u64);
    let panels = cols.div_ceil(TILE_COLS as u64);
    let last_rows = rows - (tiles - 1) * TILE_ROWS as u64;

    // Passes over a row's words, and a step for every one that multiplies the sums by 255: two digits on both sides add
    // their middle passes without one.
    let words = row_beats * 64 / TILE_DEPTH as u64;
    let passes = activations * weights;
    let steps = activations + weights - 2;
    let tile = (passes * words + steps).max(2 * TILE_ROWS as u64);

    let activation_beats = rows * row_beats * activations;
    let scale_beats = beats_from(d.source[1], rows);
    let constants = |panel: u64| {
        let (first, columns) = (panel * 64, (cols - panel * TILE_COLS as u64).min(TILE_COLS as u64));
        let bias = if d.flags.has(Flags::BIAS) { beats_from(d.destination[1] + first, columns) } else { 0 };
        beats_from(d.source[3] + first, columns) + bias
    };
    let weight_beats = |panel: u64| {
        let columns = match d.flags.has(Flags::ROWS) {
            true => (cols - panel * TILE_COLS as u64).min(TILE_COLS as u64),
            false => TILE_COLS as u64,
        };
        row_beats * columns * weights
    };

    let mut beats_read = activation_beats + scale_beats;
    // Cycles from the engine's start.
    let mut loaded = GEMM_FILL + LATENCY + 2 * activation_beats + scale_beats;
    // Ends of the last two panels.
    let (mut before, mut computed) = (0, 0);
    for panel in 0..panels {
        let own = constants(panel) + weight_beats(panel);
        beats_read += own;
        loaded = loaded.max(before + GEMM_FREE) + own;
        before = computed;
        computed = computed.max(loaded + GEMM_READ) + tiles * tile;
    }
    Cost {
        cycles: computed + GEMM_DRAIN + LATENCY + 2 * last_rows,
        array: panels * tiles * passes * words,
        beats_read,
        beats_written: rows * panels,
    }
}

/// From the engine's start to the first request at the memory, and from the memory to the buffers.
const GEMM_FILL: u64 = 10;
/// From the last word of a panel computed to the loading of another into its half.
const GEMM_FREE: u64 = 0;
/// From a panel's last beat to its first word in the array.
const GEMM_READ: u64 = 1;
/// From the array's last word to the last row's first half in the requantiser, and from there to memory.
const GEMM_DRAIN: u64 = 34;

fn planes(d: &Descriptor, flag: Flags) -> u64 {
    if d.flags.has(flag) { 2 } else { 1 }
}

/// What the units of work of the vector engine are: rows, or sixteen columns with [`Flags::TRANSPOSE`].
struct Units {
    count: u64,
    /// Requests of the first unit before its own: parameters of norms.
    before: Vec<Request>,
    /// Requests of a unit; the last of the smaller operands is followed by the row's own.
    smaller: Vec<Request>,
    /// The row's own, or those of all source rows.
    own: Vec<Request>,
    way: Way,
    beats_read: u64,
    beats_written: u64,
}

/// A request of so many beats that are given out, and whether its first ones do not lie in one beat of memory.
#[derive(Clone, Copy)]
struct Request {
    beats: u64,
    extra: u64,
}

/// What becomes of a unit that is loaded: see the header of `rtl/vector/vector_engine.sv`, whose names these are.
#[derive(Clone, Copy)]
enum Way {
    /// Passes in so many cycles through an operation of this latency.
    Through { pass: u64, latency: u64, spills: u64 },
    /// Is held for passes that take so many cycles, and is given up so many before their end.
    Held { passes: u64, early: u64 },
    /// Rows of digits in so many places.
    Digits { digits: u64, places: u64, softmax: bool },
    /// Columns; `rows` of the results in a unit.
    Columns { digits: u64, turn: u64 },
}

/// Units in the buffers, and units asked for, at a time; and the queue of requests.
const SLOTS: usize = 4;
const ASKED: usize = 8;
const QUEUE: usize = 64;
/// From the engine's start to the cycle before its first request; from the last acknowledgement to the engine's end.
const VECTOR_FIRST: u64 = 8;
const VECTOR_LAST: u64 = 1;

/// The recurrence of the engine's header, unit by unit.
fn vector(d: &Descriptor) -> Cost {
    let units = units_of(d);
    let (mut request, mut last, mut ready, mut looked, mut free) = (VECTOR_FIRST, 0, 0, 0, 0);
    let (mut scaled, mut end) = (0, 0);
    let (mut released, mut asked) = ([0; ASKED], [0; QUEUE]);
    let (mut written, mut number) = ([0; SLOTS], 0_usize);
    for unit in 0..units.count as usize {
        let before = if unit == 0 { &units.before[..] } else { &[] };
        let requests = before.iter().chain(&units.smaller).map(|r| (r, false));
        let own = units.own.iter().enumerate().map(|(i, r)| (r, i == 0));
        for (&Request { beats, extra }, waits) in requests.chain(own) {
            request = (request + 1).max(asked[number % QUEUE]);
            if waits && unit >= ASKED {
                request = request.max(released[unit % ASKED] + 5);
            }
            let first = (request + LATENCY + 1 + extra).max(last + 1 + extra).max(ready);
            last = first + beats - 1;
            asked[number % QUEUE] = last;
            number += 1;
        }
        let loaded = (last + 2).max(looked);
        let known = loaded
            + match units.way {
                Way::Through { .. } => 1,
                Way::Held { .. } | Way::Digits { softmax: true, .. } => 5,
                Way::Digits { .. } => 33,
                Way::Columns { .. } => 30,
            };
        let take = known.max(free);
        looked = take + 1;
        let release;
        match units.way {
            Way::Through { pass, latency, spills } => {
                release = take + 1 + pass;
                free = release + 1;
                end = release + latency + 4 + spills;
            }
            Way::Held { passes, early } => {
                let done = (take + 2).max(35) + passes;
                release = done - early;
                (free, end) = (done + 1, done + 2);
            }
            Way::Digits { digits, places, softmax } => {
                let begin = (take + 1).max(if unit >= SLOTS { written[unit % SLOTS] + 1 } else { 0 });
                release = begin + 4 * digits;
                free = release + 1;
                let scale = if softmax { (release + 13).max(scaled) + 21 } else { begin + 1 };
                scaled = scale - 1;
                let previous = if unit > 0 { written[(unit + SLOTS - 1) % SLOTS] + 1 } else { 0 };
                let complete = release + if softmax { 13 } else { 8 };
                written[unit % SLOTS] = complete.max(scale).max(previous) + places * (digits + 1) + 2;
                end = written[unit % SLOTS] + 4;
            }
            Way::Columns { digits, turn } => {
                release = take + 1 + 64 + (digits - 1) * turn;
                free = take + 2 + digits * turn;
                end = free + 1;
            }
        }
        released[unit % ASKED] = release;
        ready = loaded + 1;
        // The next unit's place is that of the one so many before it.
        if unit + 1 >= SLOTS {
            ready = ready.max(released[(unit + 1 - SLOTS) % ASKED] + 13);
        }
    }
    Cost {
        cycles: end + LATENCY + VECTOR_LAST,
        array: 0,
        beats_read: units.beats_read,
        beats_written: units.beats_written,
    }
}

/// A request of so many words.
fn request(address: u64, words: u64) -> Request {
    Request { beats: beats(words), extra: u64::from(address / 4 % LANES + words.min(LANES) > LANES) }
}

fn units_of(d: &Descriptor) -> Units {
    let (count, cols) = (u64::from(d.rows), u64::from(d.cols));
    let digits = cols.div_ceil(64);
    let places = planes(d, Flags::TWO_DIGITS);
    let plain = Units {
        count,
        before: Vec::new(),
        smaller: Vec::new(),
        own: vec![request(d.source[0], cols)],
        way: Way::Through { pass: beats(cols), latency: 0, spills: 0 },
        beats_read: count * beats_from(d.source[0], cols),
        beats_written: count * beats(cols),
    };
    let through = |latency| Way::Through { pass: beats(cols), latency, spills: 0 };
    match d.op {
        Op::End | Op::Gemm => plain,
        Op::Quantise if d.flags.has(Flags::TRANSPOSE) => {
            // Sixteen columns at a time: a beat of each source row, then 64 of them are turned and written. Units of
            // fewer columns are taken for whole ones.
            let groups = count.div_ceil(LANES);
            Units {
                count: groups,
                own: vec![Request { beats: 1, extra: 0 }; cols as usize],
                way: Way::Columns { digits, turn: 73 + count.min(LANES) * places },
                beats_read: groups * cols,
                beats_written: count * digits * places + groups,
                ..plain
            }
        }
        Op::Quantise | Op::Softmax => {
            let softmax = d.op == Op::Softmax;
            let mask = if softmax && d.flags.has(Flags::MASK) { digits } else { 0 };
            Units {
                smaller: if mask > 0 { vec![Request { beats: mask, extra: 0 }] } else { Vec::new() },
                way: Way::Digits { digits, places, softmax },
                beats_read: plain.beats_read + count * mask,
                beats_written: count * (digits * places + 1),
                ..plain
            }
        }
        Op::Norm => {
            let b = beats(cols);
            let centred = d.flags.has(Flags::BIAS);
            let mut before = vec![request(d.source[1], cols)];
            let mut read = plain.beats_read + beats_from(d.source[1], cols);
            if centred {
                before.push(request(d.source[2], cols));
                read += beats_from(d.source[2], cols);
            }
            let way = match centred {
                true => Way::Held { passes: 3 * b + 139, early: 17 },
                false => Way::Held { passes: 2 * b + 110, early: 13 },
            };
            Units { before, way, beats_read: read, ..plain }
        }
        Op::Activate | Op::Combine => {
            let second = d.flags.has(Flags::MULTIPLY) || d.flags.has(Flags::ADD);
            let latency = match (d.op, second) {
                (Op::Combine, false) => 3,
                (Op::Combine, true) => 7,
                (_, false) => 10,
                (_, true) => 13,
            };
            let read = if second { beats_from(d.source[1], cols) } else { 0 };
            Units {
                smaller: if second { vec![request(d.source[1], cols)] } else { Vec::new() },
                way: through(latency),
                beats_read: plain.beats_read + count * read,
                ..plain
            }
        }
        Op::Rope => {
            let (half, heads) = (cols, u64::from(d.depth));
            let words = 2 * half * heads;
            // Halves begin anew.
            let own = Request { beats: 2 * heads * beats(half), ..request(d.source[0], half) };
            let tables = [request(d.source[1], half), request(d.source[2], half)];
            let read = beats_from(d.source[1], half) + beats_from(d.source[2], half);
            Units {
                smaller: tables.to_vec(),
                own: vec![own],
                way: Way::Through { pass: 2 * own.beats, latency: 7, spills: 0 },
                beats_read: count * (beats_from(d.source[0], words) + read),
                beats_written: count * beats_from(d.destination[0], words),
                ..plain
            }
        }
        Op::Copy => {
            let count = count * u64::from(d.depth);
            let written = beats_from(d.destination[0], cols);
            let spills = written.saturating_sub(beats(cols));
            Units {
                count,
                way: Way::Through { pass: beats(cols), latency: 1, spills },
                beats_read: count * beats_from(d.source[0], cols),
                beats_written: count * written,
                ..plain
            }
        }
    }
}

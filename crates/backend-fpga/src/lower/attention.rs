//! Attention: two products with a softmax between, for each observation and key/value head.

use smolvla_core::backend::AttentionShape;

use super::movement::{Blocks, copy};
use super::product::{Weights, plane, product, quantise, quantise_columns};
use super::{Digits, Words};
use crate::descriptor::{Descriptor, Flags, Op, TRANSPOSED_WORDS, word_pitch};

/// Keys or values of all observations and heads, those of a head at one pitch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Those of the first head, `[batch·tokens, dim]`.
    first: Words,
    /// Bytes from head to head.
    stride: u64,
}

impl Heads {
    /// Side by side, as products leave them.
    pub(crate) fn side_by_side(x: Words, heads: usize) -> Self {
        let dim = x.cols as usize / heads;
        Self { first: x.columns(0, dim), stride: 4 * dim as u64 }
    }

    /// Whether columns can be quantised: each head's rows begin where rows are written.
    pub(crate) fn are_aligned(self, heads: usize) -> bool {
        self.first.is_aligned() && (heads == 1 || self.stride.is_multiple_of(64))
    }

    /// Tokens of an observation's head.
    fn of(self, observation: usize, head: usize, tokens: usize) -> Words {
        let of_head = Words { address: self.first.address + head as u64 * self.stride, ..self.first };
        of_head.rows(observation * tokens, tokens)
    }
}

/// Bytes of [`join`]'s result; `None`: more than can be counted.
pub(crate) fn joined_bytes(rows: usize, cols: usize, heads: usize) -> Option<usize> {
    match cols / heads % 16 {
        0 => Words::bytes(rows, cols),
        _ => Words::bytes(rows, cols / heads)?.checked_mul(heads),
    }
}

/// Where tokens of several segments lie together at `address`, `rows` of them over all observations: side by side
/// where heads can be, otherwise head after head.
pub(crate) fn joined(address: u64, rows: usize, cols: usize, heads: usize) -> Heads {
    let dim = cols / heads;
    match dim % 16 {
        0 => Heads::side_by_side(Words::whole(address, rows, cols), heads),
        _ => Heads { first: Words::whole(address, rows, dim), stride: (rows * word_pitch(dim)) as u64 },
    }
}

/// Puts each observation's tokens of a segment from token `start` on among the `tokens` of all segments.
pub(crate) fn join(
    segment: Words,
    to: Heads,
    start: usize,
    tokens: usize,
    (batch, heads): (usize, usize),
) -> Vec<Descriptor> {
    let (count, dim) = (segment.rows as usize / batch, segment.cols as usize / heads);
    let blocks = Blocks {
        count: batch,
        source: count as u64 * u64::from(segment.pitch),
        destination: tokens as u64 * u64::from(to.first.pitch),
    };
    let piece = |head: usize, width: usize| {
        let from = segment.rows(0, count).columns(head * dim, width);
        copy(from, to.of(0, head, tokens).rows(start, count), blocks)
    };
    if to.stride == 4 * dim as u64 {
        vec![piece(0, dim * heads)]
    } else {
        (0..heads).map(|head| piece(head, dim)).collect()
    }
}

/// Digits of every observation and head, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadDigits {
    /// Of the first.
    pub(crate) first: Digits,
    /// Bytes from one to the next.
    pub(crate) stride: u64,
}

impl HeadDigits {
    fn of(self, index: usize) -> Digits {
        let offset = index as u64 * self.stride;
        Digits { address: self.first.address + offset, scales: self.first.scales + offset, ..self.first }
    }
}

/// Each head's rows of a segment as digits, from row `start` of the head's on.
pub(crate) fn quantise_heads(
    segment: Words,
    to: HeadDigits,
    start: usize,
    (batch, heads): (usize, usize),
) -> Vec<Descriptor> {
    let tokens = segment.rows as usize / batch;
    let segment = Heads::side_by_side(segment, heads);
    let each = (0..batch).flat_map(|observation| (0..heads).map(move |head| (observation, head)));
    each.map(|(observation, head)| {
        let to = to.of(observation * heads + head).rows(start, tokens);
        quantise(segment.of(observation, head, tokens), to)
    })
    .collect()
}

/// Each head's columns as rows of digits. `transposed` is place for one head's columns as words, which more tokens
/// need than are transposed as they are quantised.
pub(crate) fn quantise_head_columns(
    values: Heads,
    to: HeadDigits,
    transposed: Option<Words>,
    (batch, heads): (usize, usize),
) -> Vec<Descriptor> {
    let tokens = to.first.depth as usize;
    let each = (0..batch).flat_map(|observation| (0..heads).map(move |head| (observation, head)));
    each.flat_map(|(observation, head)| {
        let (from, to) = (values.of(observation, head, tokens), to.of(observation * heads + head));
        match transposed {
            None => vec![quantise_columns(from, to)],
            Some(place) => vec![transpose(from, place), quantise(place, to)],
        }
    })
    .collect()
}

/// Whether so many tokens are more than are transposed as they are quantised.
pub(crate) fn needs_transposing(tokens: usize) -> bool {
    tokens > TRANSPOSED_WORDS
}

/// Column by column, a word at a time.
fn transpose(x: Words, to: Words) -> Descriptor {
    let blocks = Blocks { count: x.cols as usize, source: 4, destination: u64::from(to.pitch) };
    copy(x.columns(0, 1), Words { pitch: 4, ..to }, blocks)
}

/// Where an attention finds its operands and puts what lies between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) shape: AttentionShape,
    /// All queries.
    pub(crate) queries: Words,
    /// A head's rows are keys.
    pub(crate) keys: HeadDigits,
    /// A head's rows are columns of values.
    pub(crate) values: HeadDigits,
    /// Mask rows of the first observation, and bytes from row to row.
    pub(crate) mask: Option<(u64, u32)>,
    /// Place for the queries of the heads that share a key.
    pub(crate) query_digits: Digits,
    /// Place for their scores.
    pub(crate) scores: Words,
    /// Place for their softmax.
    pub(crate) weights: Digits,
    /// Place for their results, where they cannot be written side by side.
    pub(crate) apart: Option<Words>,
    pub(crate) result: Words,
}

/// Whether results of heads are written side by side: each begins where rows are written.
pub(crate) fn can_be_side_by_side(shape: AttentionShape) -> bool {
    shape.heads == 1 || shape.head_dim.is_multiple_of(16)
}

/// The whole attention.
pub(crate) fn attention(attention: &Attention) -> Vec<Descriptor> {
    let shape = attention.shape;
    let each =
        (0..shape.batch).flat_map(|observation| (0..shape.kv_heads).map(move |head| (observation, head)));
    each.flat_map(|(observation, head)| of_head(attention, observation, head)).collect()
}

/// The query heads of one key/value head, below each other.
fn of_head(attention: &Attention, observation: usize, kv_head: usize) -> Vec<Descriptor> {
    let Attention { shape, scores, weights, query_digits, .. } = *attention;
    let group = shape.heads / shape.kv_heads;
    let queries = attention.queries.rows as usize / shape.batch;
    let index = observation * shape.kv_heads + kv_head;
    let from = Heads::side_by_side(attention.queries, shape.heads);
    let to = Heads::side_by_side(attention.result, shape.heads);
    let heads = || (0..group).map(|member| (member * queries, kv_head * group + member));

    let mut stream: Vec<Descriptor> = heads()
        .map(|(row, head)| quantise(from.of(observation, head, queries), query_digits.rows(row, queries)))
        .collect();
    stream.extend(product(query_digits, Weights::Rows(attention.keys.of(index)), scores));
    stream.push(softmax(attention, observation, queries));
    let values = Weights::Rows(attention.values.of(index));
    match attention.apart {
        None => stream.extend(heads().flat_map(|(row, head)| {
            product(weights.rows(row, queries), values, to.of(observation, head, queries))
        })),
        Some(apart) => {
            stream.extend(product(weights, values, apart));
            let blocks = Blocks {
                count: group,
                source: queries as u64 * u64::from(apart.pitch),
                destination: to.stride,
            };
            let first = to.of(observation, kv_head * group, queries);
            stream.push(copy(apart.rows(0, queries), first, blocks));
        }
    }
    stream
}

fn softmax(attention: &Attention, observation: usize, queries: usize) -> Descriptor {
    let Attention { shape, scores, weights, query_digits, keys, values, .. } = *attention;
    // Products of keys and queries come without the two targets that their digits stand for.
    let targets = f64::from(query_digits.places.target()) * f64::from(keys.first.places.target());
    let factor = f64::from(shape.scale) * std::f64::consts::LOG2_E / targets;
    let masked = |(address, pitch): (u64, u32)| {
        let address = address + (observation * queries) as u64 * u64::from(pitch);
        (Flags::MASK, address, pitch, queries as u32)
    };
    let (mask, mask_address, mask_pitch, repeat) = attention.mask.map_or((Flags(0), 0, 0, 0), masked);
    Descriptor {
        flags: weights.places.flag(Flags::TWO_DIGITS).and(mask),
        rows: scores.rows,
        cols: scores.cols,
        repeat,
        source: [scores.address, mask_address, 0, 0],
        destination: [weights.address, weights.scales],
        pitch: [scores.pitch, mask_pitch, weights.pitch],
        plane: [plane(weights), 0],
        immediate: [(factor as f32).to_bits(), values.first.places.target() as u32],
        ..Descriptor::new(Op::Softmax)
    }
}

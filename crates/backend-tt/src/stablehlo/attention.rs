//! Attention and the rotary embedding: what works on one head at a time.

use smolvla_core::backend::AttentionShape;

use super::body::{Body, Element, Id};
use super::lower::{Lowered, Mask, Operands, ensure, shared};
use crate::program::AttentionKernel;
use crate::tensix::Format;

/// What is added to the score of a key that a query may not attend: the lowest number that bfloat16 holds too.
/// Any score disappears beside it, so a query that may attend nothing attends everything equally.
const FORBIDDEN: f32 = f32::from_bits(0xFF7F_0000);

/// From rows of heads side by side to `[batch, heads, tokens, head_dim]`.
fn split_heads(body: &mut Body, x: Id, [batch, tokens, heads, head_dim]: [usize; 4]) -> Id {
    let split = body.reshape(x, vec![batch, tokens, heads, head_dim]);
    body.transpose(split, &[0, 2, 1, 3])
}

/// Back from [`split_heads`].
fn join_heads(body: &mut Body, x: Id, [batch, tokens, heads, head_dim]: [usize; 4]) -> Id {
    let joined = body.transpose(x, &[0, 2, 1, 3]);
    body.reshape(joined, vec![batch * tokens, heads * head_dim])
}

/// Attention, rounded to `result`.
pub(super) fn attention(
    body: &mut Body,
    operands: &mut Operands,
    shape: AttentionShape,
    segments: usize,
    masked: bool,
    kernel: AttentionKernel,
    result: Format,
) -> Lowered<Id> {
    let AttentionShape { batch, heads, kv_heads, head_dim, scale } = shape;
    let group = shared(heads, kv_heads)?;
    let q = operands.tensor("q")?;
    let width = heads.saturating_mul(head_dim);
    ensure(q.cols == width, || format!("q has {} columns, its heads {width}", q.cols))?;
    let queries = shared(q.rows, batch)?;

    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut key_count = 0_usize;
    let mut key_element = Element::Bf16;
    let mut value_element = Element::Bf16;
    for segment in 0..segments {
        let key = operands.tensor("a key")?;
        let value = operands.tensor("a value")?;
        let width = kv_heads.saturating_mul(head_dim);
        ensure((key.rows, key.cols) == (value.rows, value.cols) && key.cols == width, || {
            format!(
                "segment {segment} has keys {}×{} and values {}×{}, its heads {width} columns",
                key.rows, key.cols, value.rows, value.cols
            )
        })?;
        let count = shared(key.rows, batch)?;
        let split = [batch, count, kv_heads, head_dim];
        keys.push(split_heads(body, key.id, split));
        values.push(split_heads(body, value.id, split));
        key_count = key_count.saturating_add(count);
        key_element = key_element.finer(body.type_of(key.id).element);
        value_element = value_element.finer(body.type_of(value.id).element);
    }
    ensure(key_count > 0, || "there is nothing to attend to".to_owned())?;
    let key = join(body, keys, key_element);
    let value = join(body, values, value_element);

    // Heads of a group are neighbours: their queries are the rows of one matrix, against one key/value head.
    let q = split_heads(body, q.id, [batch, queries, heads, head_dim]);
    let q = body.reshape(q, vec![batch, kv_heads, group * queries, head_dim]);
    // Swapped by hand, next to the product: compilers that multiply by a transpose find it there.
    let key = body.transpose(key, &[0, 1, 3, 2]);
    let scores = body.dot(q, key, 2);
    let scores = body.convert(scores, kernel.scores_format.into());
    let scores = body.convert(scores, Element::F32);
    let mut scores = body.with_constant("multiply", scores, scale);
    if masked {
        let mask = operands.mask()?;
        ensure((mask.batch, mask.queries, mask.keys) == (batch, queries, key_count), || {
            format!(
                "the mask is {}×{}×{}, the scores {batch}×{queries}×{key_count}",
                mask.batch, mask.queries, mask.keys
            )
        })?;
        let penalty = penalty(body, mask, group);
        let dims = body.type_of(scores).dims.clone();
        let penalty = body.broadcast(penalty, dims, vec![0, 1, 2, 3]);
        scores = body.binary("add", scores, penalty);
    }
    let weights = softmax(body, scores);
    let weights = body.convert(weights, kernel.weights_format.into());
    let attended = body.dot(weights, value, 2);
    // Rounded before it is moved: half the bytes.
    let attended = body.convert(attended, result.into());
    let attended = body.reshape(attended, vec![batch, heads, queries, head_dim]);
    Ok(join_heads(body, attended, [batch, queries, heads, head_dim]))
}

/// Segments along the keys, in one type.
fn join(body: &mut Body, segments: Vec<Id>, element: Element) -> Id {
    let segments = segments.into_iter().map(|segment| body.convert(segment, element)).collect();
    body.concatenate(segments, 2)
}

/// What a mask adds to scores, `[batch, 1, group·queries, keys]`: prepared once for all layers. Adding gives what
/// selecting would in f32, and is the form in which compilers look for attention.
fn penalty(body: &mut Body, mask: Mask, group: usize) -> Id {
    let Mask { id, batch, queries, keys } = mask;
    let allowed = body.constant(0.0, vec![batch, queries, keys]);
    let forbidden = body.constant(FORBIDDEN, vec![batch, queries, keys]);
    let penalty = body.select(id, allowed, forbidden);
    let penalty = if group == 1 {
        penalty
    } else {
        body.broadcast(penalty, vec![batch, group, queries, keys], vec![0, 2, 3])
    };
    body.reshape(penalty, vec![batch, 1, group * queries, keys])
}

/// Over the last of four dimensions.
fn softmax(body: &mut Body, x: Id) -> Id {
    let dims = body.type_of(x).dims.clone();
    let highest = body.reduce("maximum", x, 3, f32::MIN);
    let highest = body.broadcast(highest, dims.clone(), vec![0, 1, 2]);
    let shifted = body.binary("subtract", x, highest);
    let powers = body.unary("exponential", shifted);
    let sum = body.reduce("add", powers, 3, 0.0);
    let sum = body.broadcast(sum, dims, vec![0, 1, 2]);
    body.binary("divide", powers, sum)
}

/// The rotary embedding in half-split form, rounded to `result`.
pub(super) fn rope(body: &mut Body, operands: &mut Operands, result: Format) -> Lowered<Id> {
    let x = operands.tensor("x")?;
    let cos = operands.tensor("cos")?;
    let sin = operands.tensor("sin")?;
    let half = cos.cols;
    ensure((cos.rows, cos.cols) == (sin.rows, sin.cols), || {
        format!("cos is {}×{}, sin {}×{}", cos.rows, cos.cols, sin.rows, sin.cols)
    })?;
    let heads = shared(x.cols, half.saturating_mul(2))?;
    let repeats = shared(x.rows, cos.rows)?;
    let shape = [repeats, cos.rows, heads, 2 * half];
    let table = |body: &mut Body, table: Id| {
        let table = body.convert(table, Element::F32);
        body.broadcast(table, vec![repeats, heads, cos.rows, half], vec![2, 3])
    };
    let (cos, sin) = (table(body, cos.id), table(body, sin.id));

    let x = split_heads(body, x.id, shape);
    let x = body.convert(x, Element::F32);
    let first = body.slice(x, 3, 0, half);
    let second = body.slice(x, 3, half, half);
    let mut turned = |a: Id, name: &'static str, b: Id| {
        let (a, b) = (body.binary("multiply", a, cos), body.binary("multiply", b, sin));
        body.binary(name, a, b)
    };
    let parts = vec![turned(first, "subtract", second), turned(second, "add", first)];
    let turned = body.concatenate(parts, 3);
    let turned = body.convert(turned, result.into());
    Ok(join_heads(body, turned, shape))
}

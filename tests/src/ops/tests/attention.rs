//! Wrong attentions and softmaxes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use smolvla_core::backend::{AttentionMask, AttentionShape};
use smolvla_core::graph::KeyValue;

use super::*;

alterations! {
    IgnoresMask {
        fn attention(
            &self,
            inner: &Reference,
            q: &HostMatrix,
            segments: &[&KeyValue<HostMatrix>],
            _: Option<&HostMask>,
            shape: AttentionShape,
        ) -> Outcome {
            inner.attention(q, segments, None, shape)
        }
    }

    IgnoresScale {
        fn attention(
            &self,
            inner: &Reference,
            q: &HostMatrix,
            segments: &[&KeyValue<HostMatrix>],
            mask: Option<&HostMask>,
            shape: AttentionShape,
        ) -> Outcome {
            let scale = (shape.head_dim as f32).powf(-0.5);
            inner.attention(q, segments, mask, AttentionShape { scale, ..shape })
        }
    }

    /// Query head `h` reads key/value head `h % kv_heads`.
    GroupsHeadsWrongly {
        fn attention(
            &self,
            inner: &Reference,
            q: &HostMatrix,
            segments: &[&KeyValue<HostMatrix>],
            mask: Option<&HostMask>,
            shape: AttentionShape,
        ) -> Outcome {
            let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
            let group = heads / kv_heads;
            // The head that comes to stand at `place`, and the place of a head.
            let head_at = |place: usize| place % group * kv_heads + place / group;
            let place_of = |head: usize| head % kv_heads * group + head / kv_heads;
            let col = |head: usize, col: usize| head * head_dim + col % head_dim;
            let q = rearranged(q, |row, c| [row, col(head_at(c / head_dim), c)])?;
            let result = inner.attention(&q, segments, mask, shape)?;
            rearranged(&result, |row, c| [row, col(place_of(c / head_dim), c)])
        }
    }

    ReadsSegmentsBackwards {
        fn attention(
            &self,
            inner: &Reference,
            q: &HostMatrix,
            segments: &[&KeyValue<HostMatrix>],
            mask: Option<&HostMask>,
            shape: AttentionShape,
        ) -> Outcome {
            let segments: Vec<_> = segments.iter().rev().copied().collect();
            inner.attention(q, &segments, mask, shape)
        }
    }

    /// Every observation attends the keys of the first.
    ReadsFirstObservation {
        fn attention(
            &self,
            inner: &Reference,
            q: &HostMatrix,
            segments: &[&KeyValue<HostMatrix>],
            mask: Option<&HostMask>,
            shape: AttentionShape,
        ) -> Outcome {
            let first = |x: &HostMatrix| {
                let tokens = x.rows() / shape.batch;
                rearranged(x, |row, col| [row % tokens, col])
            };
            let segments = segments
                .iter()
                .map(|kv| Ok(KeyValue { key: first(&kv.key)?, value: first(&kv.value)? }))
                .collect::<Outcome<Vec<_>>>()?;
            inner.attention(q, &segments.iter().collect::<Vec<_>>(), mask, shape)
        }
    }
}

/// Attention in f32, term after term, with a softmax of its own: scores and which of them are allowed to weights.
#[derive(Clone)]
pub(super) struct Softmax {
    weights: fn(&[f32], &[bool]) -> Vec<f32>,
    /// What was uploaded, by shape; of one shape the last.
    masks: Arc<Mutex<HashMap<[usize; 3], Vec<bool>>>>,
}

impl Softmax {
    pub(super) fn new(weights: fn(&[f32], &[bool]) -> Vec<f32>) -> Self {
        Self { weights, masks: Arc::default() }
    }
}

impl Alteration<Reference> for Softmax {
    fn upload_mask(
        &self,
        inner: &Reference,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Outcome<HostMask> {
        let mut masks = self.masks.lock().expect("no test panics in here");
        masks.insert([batch, queries, keys], allowed.to_vec());
        inner.upload_mask(allowed, batch, queries, keys)
    }

    fn attention(
        &self,
        inner: &Reference,
        q: &HostMatrix,
        segments: &[&KeyValue<HostMatrix>],
        mask: Option<&HostMask>,
        AttentionShape { batch, heads, kv_heads, head_dim, scale }: AttentionShape,
    ) -> Outcome {
        let join = |part: fn(&KeyValue<HostMatrix>) -> &HostMatrix| {
            let parts: Vec<_> = segments.iter().map(|kv| part(kv)).collect();
            inner.concat_tokens(&parts, batch)
        };
        let (key, value) = (join(|kv| &kv.key)?, join(|kv| &kv.value)?);
        let (queries, keys) = (q.rows() / batch, key.rows() / batch);
        let allowed = match mask {
            Some(mask) => {
                let masks = self.masks.lock().expect("no test panics in here");
                masks[&[mask.batch(), mask.queries(), mask.keys()]].clone()
            }
            None => vec![true; q.rows() * keys],
        };
        let (q_values, key, value) = (values(q), values(&key), values(&value));
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let mut result = vec![0.0; q_values.len()];
        for row in 0..q.rows() {
            for head in 0..heads {
                let own = row * width + head * head_dim..row * width + (head + 1) * head_dim;
                let kv_row = |key: usize| {
                    let start =
                        (row / queries * keys + key) * kv_width + head / (heads / kv_heads) * head_dim;
                    start..start + head_dim
                };
                let scores: Vec<f32> = (0..keys)
                    .map(|index| {
                        let products =
                            q_values[own.clone()].iter().zip(&key[kv_row(index)]).map(|(q, k)| q * k);
                        sum(products) * scale
                    })
                    .collect();
                let weights = (self.weights)(&scores, &allowed[row * keys..][..keys]);
                for (index, weight) in weights.iter().enumerate() {
                    let terms = value[kv_row(index)].iter().map(|value| weight * value);
                    result[own.clone()].iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
            }
        }
        matrix(result, q.rows(), q.cols())
    }
}

fn masked_with(scores: &[f32], allowed: &[bool], masked: impl Fn(f32) -> f32) -> Vec<f32> {
    scores
        .iter()
        .zip(allowed)
        .map(|(score, allowed)| if *allowed { *score } else { masked(*score) })
        .collect()
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    normalised(scores.iter().map(|score| (score - highest).exp()).collect())
}

fn normalised(weights: Vec<f32>) -> Vec<f32> {
    let total = sum(weights.iter().copied());
    weights.into_iter().map(|weight| weight / total).collect()
}

/// As it should be.
pub(super) fn careful(scores: &[f32], allowed: &[bool]) -> Vec<f32> {
    softmax(&masked_with(scores, allowed, |_| f32::MIN))
}

#[test]
fn wrong_attentions_fail_the_cases_of_attention_alone() {
    assert_eq!(failing(IgnoresMask), ["attention"].into());
    assert_eq!(failing(IgnoresScale), ["attention"].into());
    assert_eq!(failing(GroupsHeadsWrongly), ["attention"].into());
    assert_eq!(failing(ReadsSegmentsBackwards), ["attention"].into());
    assert_eq!(failing(ReadsFirstObservation), ["attention"].into());
}

#[test]
fn wrong_softmaxes_fail_the_cases_made_for_them() {
    let without_maximum = Softmax::new(|scores, allowed| {
        let masked = masked_with(scores, allowed, |_| f32::MIN);
        normalised(masked.iter().map(|score| score.exp()).collect())
    });
    let minus_infinity =
        Softmax::new(|scores, allowed| softmax(&masked_with(scores, allowed, |_| f32::NEG_INFINITY)));
    let zero_for_nothing = Softmax::new(|scores, allowed| {
        let weights = careful(scores, allowed);
        if allowed.contains(&true) { weights } else { vec![0.0; weights.len()] }
    });
    let masked_by_a_sum =
        Softmax::new(|scores, allowed| softmax(&masked_with(scores, allowed, |score| score - 1e4)));
    for (softmax, found_by) in [
        (without_maximum, &["high_scores", "low_scores", "fully_masked_rows"] as &[&str]),
        (minus_infinity, &["fully_masked_rows", "nothing_allowed"]),
        (zero_for_nothing, &["fully_masked_rows", "nothing_allowed"]),
        (masked_by_a_sum, &["large_scores_masked"]),
    ] {
        assert_eq!(failing(softmax.clone()), ["attention"].into());
        let complaints = complaints("attention", softmax);
        for case in found_by {
            assert!(complaints.contains(&format!("attention ({case})")), "{case}: {complaints}");
        }
    }
}

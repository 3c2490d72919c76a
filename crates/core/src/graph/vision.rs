//! The vision tower and the connector.

use super::{Heads, linear_activated, split};
use crate::backend::{Activation, Backend, BackendError, Epilogue};
use crate::graph::KeyValue;

/// The SigLIP tower with the connector that turns its output into image tokens.
#[derive(Debug)]
pub struct Vision<T, L> {
    /// Patch convolution as a linear layer, `channels·patch² → width`.
    pub patch_embedding: L,
    /// The position embeddings on the host, row-major `[positions, width]`: which rows are used, and in what
    /// order, depends on the image's size.
    pub positions: Vec<f32>,
    /// Position embeddings of the usual image size, by patches a side.
    pub usual_positions: (usize, T),
    /// The blocks.
    pub layers: Vec<VisionLayer<T, L>>,
    /// Gain and bias of the norm after the blocks, `[1, width]`.
    pub post_norm: (T, T),
    /// Connector, `scale²·width → text width`.
    pub connector: L,
}

/// One SigLIP block: attention and MLP, each after a layer norm and with a residual.
#[derive(Debug)]
pub struct VisionLayer<T, L> {
    /// Gain and bias of the norm before attention, `[1, width]`.
    pub norm1: (T, T),
    /// Fused query, key and value projections.
    pub qkv: L,
    /// Output projection.
    pub output: L,
    /// Gain and bias of the norm before the MLP.
    pub norm2: (T, T),
    /// First MLP layer.
    pub fc1: L,
    /// Second MLP layer.
    pub fc2: L,
    /// Attention heads.
    pub heads: Heads,
    /// Epsilon of the norms.
    pub eps: f32,
}

/// The composed form of [`Backend::vision_layer`].
pub fn vision_layer<B: Backend>(
    backend: &B,
    layer: &VisionLayer<B::Tensor, B::Linear>,
    x: &B::Tensor,
    images: usize,
) -> Result<B::Tensor, BackendError> {
    let y = backend.layer_norm(x, &layer.norm1.0, &layer.norm1.1, layer.eps)?;
    let qkv = backend.linear(&y, &layer.qkv, Epilogue::NONE)?;
    let [q, key, value] = split(backend, &qkv, layer.heads.qkv_widths())?;
    let attended = backend.attention(&q, &[&KeyValue { key, value }], None, layer.heads.shape(images))?;
    let x = backend.linear(&attended, &layer.output, Epilogue::residual(x))?;

    let y = backend.layer_norm(&x, &layer.norm2.0, &layer.norm2.1, layer.eps)?;
    let y = linear_activated(backend, &y, &layer.fc1, Activation::GeluTanh)?;
    backend.linear(&y, &layer.fc2, Epilogue::residual(&x))
}

/// Square images cut into patches: `[images·side², channels·patch²]`, a patch's pixels channel by channel, row
/// by row. That is the order of the patch convolution's weights, so that the convolution is a linear layer.
#[derive(Clone, Debug)]
pub struct Patches {
    /// Number of images.
    pub images: usize,
    /// Patches along one side of an image.
    pub side: usize,
    /// The values, in `[-1, 1]`.
    pub values: Vec<f32>,
}

impl Patches {
    /// Room for images of `side × side` patches.
    pub fn with_capacity(images: usize, side: usize, patch_values: usize) -> Self {
        Self { images: 0, side, values: Vec::with_capacity(images * side * side * patch_values) }
    }

    /// [`Patches::with_capacity`] in the memory of `values`, whose contents are dropped.
    pub fn reusing(mut values: Vec<f32>, images: usize, side: usize, patch_values: usize) -> Self {
        values.clear();
        values.reserve(images * side * side * patch_values);
        Self { images: 0, side, values }
    }

    /// Cuts one image, given as planes `[channels, height, width]` with `height = width = side·patch`.
    pub fn push(&mut self, planes: &[f32], channels: usize, patch: usize) {
        let width = self.side * patch;
        debug_assert_eq!(planes.len(), channels * width * width);
        for row in 0..self.side {
            for column in 0..self.side {
                for channel in 0..channels {
                    for y in 0..patch {
                        let start = (channel * width + row * patch + y) * width + column * patch;
                        // A length known in advance is copied without a call; the published patches are 16 wide.
                        let (sixteens, rest) = planes[start..start + patch].as_chunks::<16>();
                        for sixteen in sixteens {
                            self.values.extend_from_slice(sixteen);
                        }
                        self.values.extend_from_slice(rest);
                    }
                }
            }
        }
        self.images += 1;
    }
}

/// Which position embedding each patch of a `side × side` image takes, row by row, from a table made for
/// `table_side × table_side` patches.
///
/// Follows SmolVLM's bucketing of fractional coordinates in f32 where the table's boundaries are exact in f32,
/// as those of the published model are (32 a side). For tables whose side is no power of two, torch's own
/// boundaries depend on the processor's vector width, and so do LeRobot's ids; exact fractions are taken then.
pub fn position_ids(side: usize, table_side: usize) -> Vec<usize> {
    let step = 1.0 / side as f32;
    let bucket = |index: usize| {
        if table_side.is_power_of_two() {
            let coordinate = (index as f32 * step).min((1.0 - 1e-6_f64) as f32);
            (coordinate * table_side as f32) as usize
        } else {
            index * table_side / side
        }
    };
    let buckets: Vec<usize> = (0..side).map(bucket).collect();
    buckets.iter().flat_map(|row| buckets.iter().map(move |column| row * table_side + column)).collect()
}

impl<T, L> Vision<T, L> {
    /// The position embeddings for images of `side × side` patches, row-major `[side², width]`.
    pub fn positions_for(&self, side: usize, table_side: usize) -> Vec<f32> {
        let width = self.positions.len() / (table_side * table_side);
        position_ids(side, table_side)
            .into_iter()
            .flat_map(|id| &self.positions[id * width..(id + 1) * width])
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_ids_of_the_table_size_count_up() {
        for side in [1, 2, 8, 27, 32, 40] {
            assert_eq!(position_ids(side, side), (0..side * side).collect::<Vec<_>>(), "side {side}");
        }
    }

    #[test]
    fn position_ids_of_a_smaller_image_are_spread_over_the_table() {
        // 2 patches a side: coordinates 0 and 0.5 fall into buckets 0 and 4 of 8.
        assert_eq!(position_ids(2, 8), [0, 4, 32, 36]);
    }

    #[test]
    fn position_ids_round_as_torch_does() {
        // transformers' bucketing, run in torch 2.11; with 82 patches, 41 of them is half a table and rounds below it.
        let row = |side: usize| position_ids(side, 32)[..side].to_vec();
        assert_eq!(row(12), [0, 2, 5, 8, 10, 13, 16, 18, 21, 24, 26, 29]);
        assert_eq!(row(48), (0..48).map(|index| index * 2 / 3).collect::<Vec<_>>());
        assert_eq!(row(82)[41], 15);
    }

    #[test]
    fn patches_are_channel_major_within_a_patch() {
        // One channel, 4 × 4 pixels, 2 × 2 patches.
        let planes: Vec<f32> = (0..16).map(|v| v as f32).collect();
        let mut patches = Patches::with_capacity(1, 2, 4);
        patches.push(&planes, 1, 2);
        assert_eq!(patches.values, [0., 1., 4., 5., 2., 3., 6., 7., 8., 9., 12., 13., 10., 11., 14., 15.]);
    }

    #[test]
    fn patches_of_any_size_take_their_own_pixels_in_memory_used_before() {
        let (channels, side) = (3, 2);
        let mut memory = vec![7.0; 10_000];
        for patch in [1, 15, 16, 17, 35] {
            let width = side * patch;
            let planes: Vec<f32> = (0..channels * width * width).map(|v| v as f32).collect();
            let mut patches = Patches::reusing(memory, 2, side, channels * patch * patch);
            patches.push(&planes, channels, patch);
            patches.push(&planes, channels, patch);
            assert_eq!((patches.images, patches.values.len()), (2, 2 * planes.len()));
            for (index, &value) in patches.values.iter().enumerate() {
                let (pixel, rest) = (index % (patch * patch), index / (patch * patch));
                let (channel, square) = (rest % channels, rest / channels % (side * side));
                let y = square / side * patch + pixel / patch;
                let x = square % side * patch + pixel % patch;
                assert_eq!(
                    value,
                    planes[(channel * width + y) * width + x],
                    "patch {patch}, element {index}"
                );
            }
            memory = patches.values;
        }
    }
}

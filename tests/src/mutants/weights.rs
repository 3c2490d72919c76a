//! Defects of loading: edits of the weights file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::policy::{Policy, PolicyOptions};
use smolvla_core::reference::Reference;
use smolvla_core::{Capabilities, Error, Precision, Result};

use super::Mutant;
use crate::evidence::Evidence;
use crate::ops::OpCase;
use crate::subject::Subject;

pub(super) fn mutants() -> Vec<Mutant> {
    let edited = |name, defect, edit| Mutant::new(name, defect, Edited { edit });
    vec![
        edited(
            "transposed_square_weight",
            "the square key projection of a cross-attention layer (320 × 320 at full size) is transposed",
            |weights| weights.transpose(&format!("{EXPERT}.1.self_attn.k_proj.weight")),
        ),
        edited("dropped_bias", "one layer's bias is left out", |weights| {
            weights.fill(&format!("{VISION}.0.mlp.fc2.bias"), 0);
        }),
        edited("swapped_gate_and_up", "gate and up projections of one layer are swapped", |weights| {
            let layer = format!("{EXPERT}.2.mlp");
            weights.swap(&format!("{layer}.gate_proj.weight"), &format!("{layer}.up_proj.weight"));
        }),
        edited("neighbours_weight", "one layer has its neighbour's output projection", |weights| {
            let projection = |layer: usize| format!("{TEXT}.{layer}.self_attn.o_proj.weight");
            weights.copy(&projection(1), &projection(0));
        }),
        edited("sign_of_one_weight", "the sign of the largest number of one matrix is lost", |weights| {
            weights.negate_largest(&format!("{TEXT}.1.mlp.down_proj.weight"));
        }),
        edited(
            "blue_before_red",
            "the patch embedding reads the channels in the order blue, green, red",
            |weights| {
                weights.swap_first_and_last_channel(&format!(
                    "{VLM}.vision_model.embeddings.patch_embedding.weight"
                ));
            },
        ),
    ]
}

const VLM: &str = "model.vlm_with_expert.vlm.model";
const VISION: &str = "model.vlm_with_expert.vlm.model.vision_model.encoder.layers";
const TEXT: &str = "model.vlm_with_expert.vlm.model.text_model.layers";
const EXPERT: &str = "model.vlm_with_expert.lm_expert.layers";

/// The plain-loop backend on checkpoints whose weights are edited first.
struct Edited {
    edit: fn(&mut Weights),
}

impl Subject for Edited {
    fn capabilities(&self) -> Capabilities {
        Subject::capabilities(&Reference)
    }

    fn check_op(&self, case: &OpCase, precision: Precision) -> Evidence {
        Reference.check_op(case, precision)
    }

    fn load(&self, checkpoint: &Checkpoint, options: &PolicyOptions) -> Result<Box<dyn Policy>> {
        let folder =
            tempfile::tempdir().map_err(|source| io_error(Path::new("a temporary folder"), source))?;
        let edited = folder.path().join("policy");
        copy_folder(&checkpoint.folder, &edited)?;
        let file = edited.join("model.safetensors");
        let mut weights = Weights::read(&file)?;
        (self.edit)(&mut weights);
        fs::write(&file, &weights.bytes).map_err(|source| io_error(&file, source))?;
        // Weights are copied on loading, so that the folder may go.
        Reference.load(&Checkpoint::open(&edited, &LoadOptions::default())?, options)
    }
}

/// A safetensors file in memory. Editing a tensor it does not hold changes nothing, and the mutant survives.
struct Weights {
    bytes: Vec<u8>,
    /// Start and end of each tensor in `bytes`, and its shape.
    tensors: BTreeMap<String, (usize, usize, Vec<usize>)>,
}

impl Weights {
    fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).map_err(|source| io_error(file, source))?;
        let malformed =
            |error: safetensors::SafeTensorError| io_error(file, io::Error::other(error.to_string()));
        let (header_size, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(malformed)?;
        let data = 8 + header_size;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (start, end) = info.data_offsets;
                (name, (data + start, data + end, info.shape.clone()))
            })
            .collect();
        Ok(Self { bytes, tensors })
    }

    /// A tensor's bytes, and how many make a row of its first axis.
    fn rows(&mut self, name: &str) -> (&mut [u8], usize) {
        match self.tensors.get(name) {
            Some((start, end, shape)) => {
                let bytes = &mut self.bytes[*start..*end];
                let row = bytes.len() / shape.first().copied().unwrap_or(1).max(1);
                (bytes, row)
            }
            None => (&mut [], 1),
        }
    }

    fn fill(&mut self, name: &str, byte: u8) {
        self.rows(name).0.fill(byte);
    }

    fn copy(&mut self, from: &str, to: &str) {
        let source = self.rows(from).0.to_vec();
        self.rows(to).0.copy_from_slice(&source);
    }

    fn swap(&mut self, a: &str, b: &str) {
        let first = self.rows(a).0.to_vec();
        self.copy(b, a);
        self.rows(b).0.copy_from_slice(&first);
    }

    fn transpose(&mut self, name: &str) {
        let (bytes, row) = self.rows(name);
        let side = bytes.len() / row;
        let element = row / side;
        let original = bytes.to_vec();
        for (index, to) in bytes.chunks_mut(element).enumerate() {
            let (r, c) = (index / side, index % side);
            to.copy_from_slice(&original[(c * side + r) * element..][..element]);
        }
    }

    /// Of a matrix of bfloat16.
    fn negate_largest(&mut self, name: &str) {
        let (bytes, _) = self.rows(name);
        let (elements, _) = bytes.as_chunks_mut::<2>();
        // Without the sign, bfloat16 are ordered as their bits are.
        if let Some(largest) =
            elements.iter_mut().max_by_key(|element| u16::from_le_bytes(**element) & 0x7fff)
        {
            largest[1] ^= 0x80;
        }
    }

    /// Of a convolution's weight, `[outputs, channels, height, width]`.
    fn swap_first_and_last_channel(&mut self, name: &str) {
        let channels = self.tensors.get(name).and_then(|(_, _, shape)| shape.get(1).copied()).unwrap_or(1);
        let (bytes, row) = self.rows(name);
        let channel = row / channels;
        for output in bytes.chunks_mut(row) {
            let (first, rest) = output.split_at_mut(channel);
            let last = rest.len() - channel;
            first.swap_with_slice(&mut rest[last..]);
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|source| io_error(to, source))?;
    for entry in fs::read_dir(from).map_err(|source| io_error(from, source))? {
        let path = entry.map_err(|source| io_error(from, source))?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(|source| io_error(&path, source))?;
        }
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { action: "edit", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One bfloat16 matrix `[2, 2]` called `a`, one called `b`.
    fn weights() -> Weights {
        let tensors = BTreeMap::from([
            ("a".to_owned(), (0, 8, vec![2, 2])),
            ("b".to_owned(), (8, 16, vec![2, 2, 1, 1])),
        ]);
        Weights { bytes: (0..16).collect(), tensors }
    }

    #[test]
    fn edits_change_what_they_say() {
        let after = |edit: fn(&mut Weights)| {
            let mut weights = weights();
            edit(&mut weights);
            weights.bytes
        };
        assert_eq!(after(|w| w.transpose("a"))[..8], [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!(after(|w| w.copy("a", "b"))[8..], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(after(|w| w.swap("a", "b"))[..8], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(after(|w| w.fill("b", 9))[8..], [9; 8]);
        assert_eq!(after(|w| w.negate_largest("a"))[..8], [0, 1, 2, 3, 4, 5, 6, 0x87]);
        assert_eq!(after(|w| w.swap_first_and_last_channel("b"))[8..], [10, 11, 8, 9, 14, 15, 12, 13]);
    }
}

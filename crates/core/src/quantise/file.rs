//! The quantised `model.safetensors`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::digits::{Int4, Int8};
use super::layers::Layer;
use super::smooth::Smoothing;
use super::{FORMAT, FORMAT_KEY, LayerError, QuantiseOptions, storage};
use crate::checkpoint::{Checkpoint, MULTIPLIER, SCALE, framed};
use crate::error::{Error, Result};
use crate::weights::{GROUP, StorageType};

/// A weights file yet to be written.
pub(crate) struct Contents<'a> {
    checkpoint: &'a Checkpoint,
    smoothing: &'a Smoothing,
    /// How weights of linear layers are stored.
    storage: BTreeMap<String, StorageType>,
    metadata: Map<String, Value>,
}

/// One tensor of the new file.
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    size_bytes: usize,
    /// Bytes of an element: wider ones come first, so that all are aligned.
    alignment: usize,
    /// The tensor of the old file that it is made of.
    of: String,
    part: Part,
}

/// What is taken of a tensor of the old file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Its bytes as they are.
    Copy,
    /// A norm's parameter with its factors.
    Norm,
    /// Integers.
    Digits,
    /// Their scales.
    Scales,
    /// Multipliers of the groups of 4-bit ones.
    Multipliers,
}

impl<'a> Contents<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        layers: &[Layer],
        smoothing: &'a Smoothing,
        errors: &[LayerError],
        options: &QuantiseOptions,
    ) -> Self {
        let list = |chosen: fn(&LayerError) -> bool| -> Value {
            let paths: Vec<&str> =
                errors.iter().filter(|error| chosen(error)).map(|error| error.layer.as_str()).collect();
            // Metadata are texts.
            if paths.is_empty() { json!("none") } else { json!(paths.join(", ")) }
        };
        let mut metadata = Map::new();
        // What Python's tools look for.
        metadata.insert("format".to_owned(), json!("pt"));
        metadata.insert(FORMAT_KEY.to_owned(), json!(FORMAT));
        metadata.insert("quantised_by".to_owned(), json!(super::report::WRITER));
        metadata.insert("alpha".to_owned(), json!(options.alpha.to_string()));
        metadata.insert("activations".to_owned(), json!("int8 per token, int8w for layers that escape"));
        metadata.insert("escape".to_owned(), list(|error| error.escape));
        metadata.insert("int4".to_owned(), list(|error| error.int4));
        Self { checkpoint, smoothing, storage: storage(checkpoint, layers, errors), metadata }
    }

    /// Writes the file; `progress` hears of bytes written and bytes in all.
    pub(crate) fn write(&self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let tensors = self.tensors()?;
        let header = self.header(&tensors);
        let total = header.len() + tensors.iter().map(|tensor| tensor.size_bytes).sum::<usize>();
        let mut file = BufWriter::new(File::create(path).map_err(Error::io("create", path))?);
        file.write_all(&header).map_err(Error::io("write", path))?;
        let mut done = header.len();
        for tensor in &tensors {
            progress(done as u64, total as u64);
            let bytes = self.bytes(tensor)?;
            if bytes.len() != tensor.size_bytes {
                let reason = format!("has {} bytes where {} were announced", bytes.len(), tensor.size_bytes);
                return Err(Error::Tensor { file: path.to_owned(), tensor: tensor.name.clone(), reason });
            }
            file.write_all(&bytes).map_err(Error::io("write", path))?;
            done += bytes.len();
        }
        file.flush().map_err(Error::io("write", path))?;
        progress(done as u64, total as u64);
        Ok(())
    }

    /// Every tensor, in the order of the file.
    fn tensors(&self) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::new();
        for (name, entry) in self.checkpoint.weights.tensors() {
            let mut add = |suffix: &str, dtype: &str, shape: Vec<usize>, size_bytes: usize, part| {
                let elements = shape.iter().product::<usize>().max(1);
                tensors.push(Tensor {
                    name: format!("{name}{suffix}"),
                    dtype: dtype.to_owned(),
                    shape,
                    size_bytes,
                    alignment: size_bytes / elements,
                    of: name.to_owned(),
                    part,
                });
            };
            let (elements, rows) = (entry.elements(), entry.shape.first().copied().unwrap_or(1));
            match self.storage.get(name) {
                Some(StorageType::I4) => {
                    let mut shape = entry.shape.clone();
                    shape.iter_mut().last().into_iter().for_each(|last| *last /= 2);
                    add("", "U8", shape, elements / 2, Part::Digits);
                    add(SCALE, "F32", vec![rows], 4 * rows, Part::Scales);
                    let groups = elements / rows / GROUP;
                    add(MULTIPLIER, "U8", vec![rows, groups], rows * groups, Part::Multipliers);
                }
                Some(_) => {
                    add("", "I8", entry.shape.clone(), elements, Part::Digits);
                    add(SCALE, "F32", vec![rows], 4 * rows, Part::Scales);
                }
                None if self.smoothing.norm(self.checkpoint, name)?.is_some() => {
                    add("", "F32", entry.shape.clone(), 4 * elements, Part::Norm);
                }
                None => add("", &entry.dtype, entry.shape.clone(), entry.size_bytes(), Part::Copy),
            }
        }
        tensors.sort_by(|a, b| b.alignment.cmp(&a.alignment).then_with(|| a.name.cmp(&b.name)));
        Ok(tensors)
    }

    /// The header. Not by `safetensors`, whose metadata have another order in every process: the same checkpoint is to
    /// become the same bytes.
    fn header(&self, tensors: &[Tensor]) -> Vec<u8> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), Value::Object(self.metadata.clone()));
        let mut end = 0;
        for Tensor { name, dtype, shape, size_bytes, .. } in tensors {
            let offsets = [end, end + size_bytes];
            end += size_bytes;
            header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        }
        framed(Value::Object(header).to_string().into_bytes())
    }

    fn bytes(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = tensor.of.as_str();
        match tensor.part {
            Part::Copy => {
                let weights = &self.checkpoint.weights;
                let bytes =
                    weights.entry(name).map(|entry| weights.bytes(entry).to_vec()).unwrap_or_default();
                weights.release(name);
                return Ok(bytes);
            }
            Part::Norm => {
                return Ok(floats(&self.smoothing.norm(self.checkpoint, name)?.unwrap_or_default()));
            }
            Part::Digits | Part::Scales | Part::Multipliers => (),
        }
        let (weight, cols) = self.smoothing.weight(self.checkpoint, name)?;
        if self.storage.get(name) == Some(&StorageType::I4)
            && let Some(int4) = Int4::new(&weight, cols)
        {
            return Ok(match tensor.part {
                Part::Scales => floats(&int4.steps),
                Part::Multipliers => int4.multipliers,
                _ => int4.packed(),
            });
        }
        let int8 = Int8::new(&weight, cols);
        Ok(match tensor.part {
            Part::Scales => floats(&int8.steps),
            _ => int8.digits.into_iter().map(i8::cast_unsigned).collect(),
        })
    }
}

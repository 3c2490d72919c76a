//! Golden files: inputs, noise and every stage of one run of LeRobot.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use smolvla_core::policy::Observation;
use smolvla_core::processor::Image;

/// One golden file, as `tools/reference/golden.py` writes it.
#[derive(Clone, Debug)]
pub struct Golden {
    file: PathBuf,
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, GoldenTensor>,
}

/// A tensor of a golden file.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenTensor {
    /// Its axes.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Values,
}

/// Elements of a [`GoldenTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Activations.
    F32(Vec<f32>),
    /// Token ids and positions.
    I64(Vec<i64>),
    /// Image bytes and masks.
    U8(Vec<u8>),
}

/// A golden file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct GoldenError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Golden {
    /// Reads a golden file.
    ///
    /// # Errors
    /// [`GoldenError`] when it cannot be read or parsed.
    pub fn open(file: &Path) -> Result<Self, GoldenError> {
        let fail = |reason: String| GoldenError { file: file.to_owned(), reason };
        let bytes = std::fs::read(file).map_err(|error| fail(error.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| fail(error.to_string()))?;
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| fail(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in parsed.iter() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => {
                    Values::F32(data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
                }
                Dtype::I64 => {
                    Values::I64(data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
                }
                Dtype::U8 | Dtype::BOOL => Values::U8(data.to_vec()),
                other => return Err(fail(format!("{name} is {other:?}"))),
            };
            tensors.insert(name.to_owned(), GoldenTensor { shape: view.shape().to_vec(), values });
        }
        Ok(Self { file: file.to_owned(), metadata: header.metadata().clone().unwrap_or_default(), tensors })
    }

    /// A value of the header.
    ///
    /// # Errors
    /// [`GoldenError`] when there is none.
    pub fn metadata(&self, key: &str) -> Result<&str, GoldenError> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| self.missing(&format!("metadata {key}")))
    }

    /// All tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &GoldenTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// A tensor of activations with its shape.
    ///
    /// # Errors
    /// [`GoldenError`] when it is absent or not f32.
    pub fn f32(&self, name: &str) -> Result<(&[usize], &[f32]), GoldenError> {
        match self.tensors.get(name) {
            Some(GoldenTensor { shape, values: Values::F32(values) }) => Ok((shape, values)),
            _ => Err(self.missing(name)),
        }
    }

    /// A tensor of integers with its shape.
    ///
    /// # Errors
    /// [`GoldenError`] when it is absent or not i64.
    pub fn i64(&self, name: &str) -> Result<(&[usize], &[i64]), GoldenError> {
        match self.tensors.get(name) {
            Some(GoldenTensor { shape, values: Values::I64(values) }) => Ok((shape, values)),
            _ => Err(self.missing(name)),
        }
    }

    /// A tensor of bytes with its shape.
    ///
    /// # Errors
    /// [`GoldenError`] when it is absent or not u8 or bool.
    pub fn u8(&self, name: &str) -> Result<(&[usize], &[u8]), GoldenError> {
        match self.tensors.get(name) {
            Some(GoldenTensor { shape, values: Values::U8(values) }) => Ok((shape, values)),
            _ => Err(self.missing(name)),
        }
    }

    /// The observations LeRobot was given.
    ///
    /// # Errors
    /// [`GoldenError`] when inputs are absent or malformed.
    pub fn observations(&self) -> Result<Vec<Observation>, GoldenError> {
        let tasks: Vec<String> = serde_json::from_str(self.metadata("tasks")?)
            .map_err(|error| GoldenError { file: self.file.clone(), reason: format!("tasks: {error}") })?;
        tasks
            .into_iter()
            .enumerate()
            .map(|(index, task)| {
                let state = self.f32(&format!("input.{index}.state"))?.1.to_vec();
                Ok(Observation { images: self.images(index)?, state, task })
            })
            .collect()
    }

    fn images(&self, observation: usize) -> Result<Vec<(String, Image)>, GoldenError> {
        let prefix = format!("input.{observation}.");
        let names = self.tensors.keys().filter_map(|name| {
            let camera = name.strip_prefix(&prefix)?;
            (camera != "state").then_some((name, camera))
        });
        names
            .map(|(name, camera)| {
                let (shape, bytes) = self.u8(name)?;
                let image = match shape {
                    [height, width, 3] => Image::from_rgb8(camera, *width, *height, bytes.to_vec()).ok(),
                    _ => None,
                };
                Ok((camera.to_owned(), image.ok_or_else(|| self.missing(name))?))
            })
            .collect()
    }

    fn missing(&self, what: &str) -> GoldenError {
        GoldenError { file: self.file.clone(), reason: format!("has no usable {what}") }
    }
}

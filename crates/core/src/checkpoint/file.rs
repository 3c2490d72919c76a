//! A memory-mapped safetensors file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use crate::weights::{GROUP, StorageType, TensorView};
use crate::{Error, Result};

/// A safetensors file, mapped into memory and read on demand.
///
/// The header is checked once, when the file is opened; tensors are then found by name without copying.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, TensorEntry>,
    metadata: BTreeMap<String, String>,
}

/// What the name of a weight of integers is followed by in that of its scales, as in compressed-tensors.
pub(crate) const SCALE: &str = "_scale";
/// Likewise in that of the multipliers of its groups, where the integers have 4 bits.
pub(crate) const MULTIPLIER: &str = "_multiplier";
/// Seven, the largest 4-bit integer of a symmetric range, times this still has 8 bits.
pub(crate) const LARGEST_MULTIPLIER: u8 = 18;

/// A safetensors file's header as it stands in the file: its length in front, padded so that the tensors are aligned.
pub(crate) fn framed(mut header: Vec<u8>) -> Vec<u8> {
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}

/// What the header of a safetensors file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// The element type as safetensors spells it: `F32`, `BF16`, `I64`, …
    pub dtype: String,
    /// The element type as weights can be read; `None` for types that cannot.
    pub storage: Option<StorageType>,
    /// Length of every dimension, in elements: of 4-bit integers twice the bytes.
    pub shape: Vec<usize>,
    /// Where the elements are in the file.
    bytes: Range<usize>,
}

impl TensorEntry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The dimensions as a matrix: a vector is one row, higher ranks keep their first dimension.
    fn matrix(&self) -> (usize, usize) {
        match self.shape[..] {
            [] => (1, 1),
            [cols] => (1, cols),
            [rows, ref rest @ ..] => (rows, rest.iter().product()),
        }
    }
}

impl WeightsFile {
    /// Opens and maps a file and checks its header.
    ///
    /// The file must stay as it is for as long as it is open: no thread or process, this one included, may
    /// write to it or truncate it. Where somebody does, tensors change under their readers, and reading beyond
    /// a new end kills the process with a bus error. To replace a file that may be in use, write a new one and
    /// rename it over the old one, which stays readable here.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened; [`Error::Corrupt`] when it is truncated, has overlapping or
    /// missing data, or is not a safetensors file; [`Error::Tensor`] when a tensor has no elements or more than
    /// can be counted.
    pub fn open(path: &Path) -> Result<Self> {
        let io_error = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(io_error("read"))?;
        let metadata = file.metadata().map_err(io_error("read"))?;
        if metadata.is_dir() {
            return Err(io_error("read")(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if metadata.len() == 0 {
            return Err(corrupt(path, "is empty"));
        }
        let map = map_file(&file).map_err(io_error("map"))?;
        let (header_len, header) =
            SafeTensors::read_metadata(&map).map_err(|error| corrupt(path, &explain(&error, map.len())))?;
        let data_start = header_len + size_of::<u64>();
        let tensors = header
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (start, end) = info.data_offsets;
                let entry = TensorEntry {
                    dtype: info.dtype.to_string(),
                    storage: storage(info.dtype),
                    shape: info.shape.clone(),
                    bytes: data_start + start..data_start + end,
                };
                (name, entry)
            })
            .collect();
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut file = Self { path: path.to_owned(), map, tensors, metadata };
        file.check_shapes()?;
        file.unpack_shapes();
        Ok(file)
    }

    /// Refuses shapes that hold nothing, whose other dimensions could be any number, or overflow.
    fn check_shapes(&self) -> Result<()> {
        for (name, entry) in &self.tensors {
            let elements = entry.shape.iter().try_fold(1_usize, |product, len| product.checked_mul(*len));
            let wrong = match elements {
                _ if entry.shape.contains(&0) => "has no elements",
                None => "has more elements than can be counted",
                Some(_) => continue,
            };
            return Err(self.error(name, format!("{wrong}: its shape is {:?}", entry.shape)));
        }
        Ok(())
    }

    /// Bytes with scales and multipliers beside them hold two elements each.
    fn unpack_shapes(&mut self) {
        let has_partners = |name: &str| {
            [SCALE, MULTIPLIER].iter().all(|suffix| self.tensors.contains_key(&format!("{name}{suffix}")))
        };
        let bytes = self.tensors.iter().filter(|(name, entry)| entry.dtype == "U8" && has_partners(name));
        let packed: Vec<String> = bytes.map(|(name, _)| name.clone()).collect();
        for name in packed {
            if let Some(entry) = self.tensors.get_mut(&name)
                && let Some(last) = entry.shape.last_mut()
            {
                *last = last.saturating_mul(2);
                entry.storage = Some(StorageType::I4);
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file.
    pub fn size_bytes(&self) -> usize {
        self.map.len()
    }

    /// What the header says about the file as a whole, by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorEntry)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// What the header says about a tensor, if the file has it.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// A tensor as a matrix `[rows, cols]`, or `None` if the file has no such tensor.
    ///
    /// A vector is one row; higher ranks keep their first dimension as rows. Integers of 8 or 4 bits come with their
    /// scales, the tensor of the same name and `_scale`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when its elements are neither floats nor integers with the scales they need.
    pub fn get(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        let Some(entry) = self.entry(name) else { return Ok(None) };
        self.view(name, entry).map(Some).map_err(|reason| self.error(name, reason.into_owned()))
    }

    /// A tensor's view, or why there is none.
    pub(super) fn view(
        &self,
        name: &str,
        entry: &TensorEntry,
    ) -> std::result::Result<TensorView<'_>, Cow<'static, str>> {
        let (rows, cols) = entry.matrix();
        let bytes = self.bytes(entry);
        let view = match entry.storage {
            None => None,
            Some(StorageType::I8) => TensorView::quantised(rows, cols, bytes, self.scales(name, rows)?),
            Some(StorageType::I4) => {
                let multipliers = self.multipliers(name, rows, cols)?;
                TensorView::quantised4(rows, cols, bytes, self.scales(name, rows)?, multipliers)
            }
            Some(storage) => TensorView::new(storage, rows, cols, bytes),
        };
        view.ok_or_else(|| not_floats(entry).into())
    }

    /// The scales of a tensor of integers: one for each row, positive, and finite even times the largest integer.
    fn scales(&self, name: &str, rows: usize) -> std::result::Result<&[u8], String> {
        let partner = format!("{name}{SCALE}");
        let Some(entry) = self.entry(&partner) else {
            return Err(format!("has elements of type I8 and no scales: {partner} is missing"));
        };
        if entry.storage != Some(StorageType::F32) || entry.elements() != rows {
            return Err(format!(
                "its scales {partner} are {} {:?}; expected F32 [{rows}], one for each row",
                entry.dtype, entry.shape
            ));
        }
        let bytes = self.bytes(entry);
        let scales = bytes.as_chunks().0.iter().map(|scale| f32::from_le_bytes(*scale));
        match scales.enumerate().find(|(_, scale)| !(*scale > 0.0 && (scale * 128.0).is_finite())) {
            Some((row, scale)) => Err(format!(
                "scale {row} of {partner} is {scale:?}; expected positive numbers, finite times 128"
            )),
            None => Ok(bytes),
        }
    }

    /// The multipliers of a tensor of 4-bit integers: with them digits have 8 bits.
    fn multipliers(&self, name: &str, rows: usize, cols: usize) -> std::result::Result<&[u8], String> {
        let partner = format!("{name}{MULTIPLIER}");
        if !cols.is_multiple_of(GROUP) {
            return Err(format!("has rows of {cols} elements in 4 bits; expected a multiple of {GROUP}"));
        }
        let Some(entry) = self.entry(&partner) else { return Err(format!("{partner} is missing")) };
        if entry.dtype != "U8" || entry.elements() != rows * (cols / GROUP) {
            return Err(format!(
                "its multipliers {partner} are {} {:?}; expected U8 [{rows}, {}]",
                entry.dtype,
                entry.shape,
                cols / GROUP
            ));
        }
        let bytes = self.bytes(entry);
        match bytes.iter().position(|multiplier| !(1..=LARGEST_MULTIPLIER).contains(multiplier)) {
            Some(index) => Err(format!(
                "multiplier {index} of {partner} is {}; expected 1 to {LARGEST_MULTIPLIER}",
                bytes[index]
            )),
            None => Ok(bytes),
        }
    }

    /// The bytes of a tensor as they lie in the file.
    pub(crate) fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.map[entry.bytes.clone()]
    }

    /// The weight that a tensor holds the scales or multipliers of.
    pub(crate) fn partner_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let weight = name.strip_suffix(SCALE).or_else(|| name.strip_suffix(MULTIPLIER))?;
        let storage = self.entry(weight)?.storage?;
        (storage == StorageType::I4 || storage == StorageType::I8 && name.ends_with(SCALE)).then_some(weight)
    }

    /// [`WeightsFile::get`] of a tensor that must be there.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the file has no such tensor, and as [`WeightsFile::get`].
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.get(name)?.ok_or_else(|| self.error(name, "is missing".to_owned()))
    }

    /// Gives back the memory that a tensor's part of the file takes, where the operating system can (on Unix).
    ///
    /// For whoever has read a tensor and will hardly read it again: the numbers of a mapped file count as memory of
    /// the process once they are read. Views stay as they are; what is read again comes back from the file.
    pub fn release(&self, name: &str) {
        if let Some(entry) = self.entry(name)
            && let Err(error) = release_pages(&self.map, &entry.bytes)
        {
            // It only costs memory.
            tracing::debug!(tensor = name, %error, "pages are not given back");
        }
    }

    pub(crate) fn error(&self, tensor: &str, reason: String) -> Error {
        Error::Tensor { file: self.path.clone(), tensor: tensor.to_owned(), reason }
    }
}

/// Why a tensor cannot be used as a weight.
fn not_floats(entry: &TensorEntry) -> String {
    format!("has elements of type {}; expected F64, F32, F16, BF16, or I8 with scales", entry.dtype)
}

#[allow(unsafe_code, reason = "the operating system offers no safe way to map a file")]
fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only, and everything read through it is bytes, valid in any pattern. What no code
    // can ensure is that the file stays as it is: if anyone writes to it while it is mapped, slices that Rust
    // takes for immutable change, and if anyone truncates it, reading beyond the end raises a bus error. Not to
    // do so is the contract in the documentation of `WeightsFile::open`, the only caller, and of
    // `Checkpoint::open`; this library itself only ever writes new files and renames them into place.
    unsafe { Mmap::map(file) }
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "the crate that maps the file cannot know that its pages are never written to")]
fn release_pages(map: &Mmap, bytes: &Range<usize>) -> io::Result<()> {
    // SAFETY: the advice drops pages, and what was written to them; nothing can be written through this map, which
    // is read-only and of a file. Who reads a dropped page gets it again from the file, at the same address and,
    // the file being as it was (the contract of `WeightsFile::open`), with the same bytes, so that slices into
    // the map stay valid and unchanged. `bytes` is a range of the map, checked when the file was opened.
    unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) }
}

#[cfg(not(unix))]
fn release_pages(_map: &Mmap, _bytes: &Range<usize>) -> io::Result<()> {
    Ok(())
}

fn storage(dtype: Dtype) -> Option<StorageType> {
    match dtype {
        Dtype::F64 => Some(StorageType::F64),
        Dtype::F32 => Some(StorageType::F32),
        Dtype::F16 => Some(StorageType::F16),
        Dtype::BF16 => Some(StorageType::Bf16),
        Dtype::I8 => Some(StorageType::I8),
        _ => None,
    }
}

fn corrupt(path: &Path, reason: &str) -> Error {
    Error::Corrupt { file: path.to_owned(), reason: format!("{reason}; download or copy the file again") }
}

fn explain(error: &SafeTensorError, len: usize) -> String {
    match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            format!("ends within its header (it has {len} bytes): it is truncated or not a safetensors file")
        }
        SafeTensorError::HeaderTooLarge => {
            "announces a header of more than 100 MB: it is not a safetensors file".to_owned()
        }
        SafeTensorError::InvalidHeader(_) | SafeTensorError::InvalidHeaderDeserialization(_) => {
            format!("has a header that is not JSON ({error}): it is damaged or not a safetensors file")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("has {len} bytes, which is not what its header announces: it is truncated or damaged")
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("has overlapping or missing data at tensor {name}: it is damaged")
        }
        other => format!("is damaged ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use safetensors::tensor::{TensorView as RawView, serialize};

    use super::*;

    fn bytes_of(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, RawView::new(*dtype, shape.to_vec(), bytes).unwrap()));
        serialize(views, None::<HashMap<String, String>>).unwrap()
    }

    fn opened(bytes: &[u8]) -> (tempfile::TempDir, Result<WeightsFile>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        fs::write(&path, bytes).unwrap();
        let file = WeightsFile::open(&path);
        (folder, file)
    }

    #[test]
    fn every_float_type_reads_the_same_values() {
        let one_two = [1.0_f32, -2.5];
        let f64s: Vec<u8> = one_two.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let f32s: Vec<u8> = one_two.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16s: Vec<u8> = one_two.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        let bf16s: Vec<u8> = one_two.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let (_folder, file) = opened(&bytes_of(&[
            ("f64", Dtype::F64, &[2], &f64s),
            ("f32", Dtype::F32, &[2], &f32s),
            ("f16", Dtype::F16, &[2], &f16s),
            ("bf16", Dtype::BF16, &[2], &bf16s),
        ]));
        let file = file.unwrap();
        for name in ["f64", "f32", "f16", "bf16"] {
            let view = file.tensor(name).unwrap();
            assert_eq!((view.rows(), view.cols()), (1, 2), "{name}");
            assert_eq!(view.to_f32(), one_two, "{name}");
        }
    }

    #[test]
    fn convolution_keeps_first_dimension_as_rows() {
        let (_folder, file) = opened(&bytes_of(&[("conv", Dtype::F32, &[2, 3, 2, 2], &[0; 96])]));
        let file = file.unwrap();
        let view = file.tensor("conv").unwrap();
        assert_eq!((view.rows(), view.cols()), (2, 12));
        assert_eq!(file.entry("conv").unwrap().shape, [2, 3, 2, 2]);
    }

    #[test]
    fn released_tensor_reads_the_same() {
        let values: Vec<u8> = (0..40_000_u32).flat_map(|v| (v as f32).to_le_bytes()).collect();
        let (_folder, file) =
            opened(&bytes_of(&[("a", Dtype::F32, &[4], &[1; 16]), ("b", Dtype::F32, &[200, 200], &values)]));
        let file = file.unwrap();
        let view = file.tensor("b").unwrap();
        let before = view.to_f32();
        file.release("b");
        file.release("none");
        assert_eq!(view.to_f32(), before);
        assert_eq!(file.tensor("a").unwrap().to_f32(), [f32::from_bits(0x0101_0101); 4]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_tensor_takes_no_memory() {
        let (_folder, file) = opened(&bytes_of(&[("a", Dtype::F32, &[1024, 1024], &vec![1; 4 << 20])]));
        let file = file.unwrap();
        let resident = || {
            let start = format!("{:x}-", file.map.as_ptr().addr());
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
            let line = lines.find(|line| line.starts_with("Rss:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        file.tensor("a").unwrap().to_f32();
        let before = resident();
        file.release("a");
        let after = resident();
        assert!(before >= 4 << 10 && after <= 64, "{before} kB before, {after} kB after");
    }

    #[test]
    fn integer_tensor_is_refused_where_used() {
        let (_folder, file) = opened(&bytes_of(&[("steps", Dtype::I64, &[1], &[0; 8])]));
        let message = file.unwrap().tensor("steps").unwrap_err().to_string();
        assert!(message.contains("steps: has elements of type I64"), "{message}");
    }

    #[test]
    fn absent_tensor_is_named() {
        let (_folder, file) = opened(&bytes_of(&[("a", Dtype::F32, &[1], &[0; 4])]));
        let file = file.unwrap();
        assert!(file.get("b").unwrap().is_none());
        assert!(file.tensor("b").unwrap_err().to_string().contains("b: is missing"));
    }

    #[test]
    fn damaged_files_are_refused_with_a_reason() {
        let good = bytes_of(&[("a", Dtype::F32, &[4], &[0; 16]), ("b", Dtype::F32, &[4], &[0; 16])]);
        let overlapping = {
            let text = String::from_utf8(good.clone()).unwrap();
            text.replace("[16,32]", "[12,28]").into_bytes()
        };
        let mut endless = good.clone();
        endless[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut long = good.clone();
        long.push(0);
        let mut garbled = good.clone();
        garbled[8] = b'?';
        let cases: [(&[u8], &str); 7] = [
            (b"", "is empty"),
            (&good[..5], "within its header"),
            (&good[..20], "within its header"),
            (&good[..good.len() - 1], "truncated"),
            (&long, "not what its header announces"),
            (&endless, "more than 100 MB"),
            (&garbled, "not JSON"),
        ];
        for (bytes, expected) in cases.into_iter().chain([(&overlapping[..], "tensor b")]) {
            let (folder, file) = opened(bytes);
            let message = file.unwrap_err().to_string();
            assert!(message.contains(expected), "{expected}: {message}");
            assert!(message.contains(&folder.path().display().to_string()), "{message}");
            assert!(message.contains("again"), "{message}");
        }
    }

    #[test]
    fn tensors_without_elements_are_refused() {
        for shape in ["[4611686018427387904,0]", "[0,4611686018427387904,4]", "[0]"] {
            let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
            let (_folder, file) = opened(&bytes);
            let message = file.unwrap_err().to_string();
            assert!(message.contains("a: has no elements"), "{shape}: {message}");
        }
    }

    #[test]
    fn folder_and_absent_file_are_io_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(WeightsFile::open(folder.path()), Err(Error::Io { .. })));
        assert!(matches!(WeightsFile::open(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}

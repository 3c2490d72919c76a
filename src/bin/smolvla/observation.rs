//! An observation and the noise from the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use smolvla::processor::Image;

use crate::failure::Failure;

/// More noise than any policy takes; a larger file is a mistake.
const MAX_NOISE_BYTES: u64 = 64 << 20;

/// `--image CAMERA=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageArg {
    camera: String,
    file: PathBuf,
}

/// Splits `CAMERA=FILE`; for clap.
pub(crate) fn image_arg(text: &str) -> Result<ImageArg, String> {
    match text.split_once('=') {
        Some((camera, file)) if !camera.trim().is_empty() && !file.is_empty() => {
            Ok(ImageArg { camera: camera.trim().to_owned(), file: file.into() })
        }
        _ => Err("expected CAMERA=FILE, such as camera1=top.png".to_owned()),
    }
}

/// Opens every image once its camera is known to be the only one of its name.
pub(crate) fn open_images(args: &[ImageArg]) -> Result<Vec<(String, Image)>, Failure> {
    let mut seen = BTreeSet::new();
    for arg in args {
        if !seen.insert(&arg.camera) {
            return Err(Failure::input(format!("--image: camera `{}` is given twice", arg.camera)));
        }
    }
    args.iter().map(|arg| Ok((arg.camera.clone(), Image::open(&arg.file)?))).collect()
}

/// Joint positions from `--state`.
pub(crate) fn parse_state(text: &str) -> Result<Vec<f32>, Failure> {
    let fields = text.split(',').map(str::trim);
    fields.enumerate().map(|(index, field)| number("--state", index, field)).collect()
}

/// The instruction from `--task`.
pub(crate) fn parse_task(text: &str) -> Result<String, Failure> {
    match text.trim() {
        "" => Err(Failure::input("--task: the instruction is empty; say what the robot is to do")),
        _ => Ok(text.to_owned()),
    }
}

/// Numbers from `--noise`: the tensor `noise` of a safetensors file, or text.
pub(crate) fn read_noise(path: &Path) -> Result<Vec<f32>, Failure> {
    let failure = |reason: String| Failure::input(format!("--noise {}: {reason}", path.display()));
    let size = fs::metadata(path).map_err(|error| failure(format!("cannot read: {error}")))?.len();
    if size > MAX_NOISE_BYTES {
        return Err(failure(format!("is {size} bytes long; that cannot be the noise of one chunk")));
    }
    let bytes = fs::read(path).map_err(|error| failure(format!("cannot read: {error}")))?;
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return safetensors_noise(&bytes).map_err(failure);
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| failure("is not text; expected numbers, or a .safetensors file".to_owned()))?;
    let fields = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|field| !field.is_empty());
    let what = format!("--noise {}", path.display());
    fields.enumerate().map(|(index, field)| number(&what, index, field)).collect()
}

fn safetensors_noise(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let tensors =
        SafeTensors::deserialize(bytes).map_err(|error| format!("is not a safetensors file: {error}"))?;
    let tensor = tensors.tensor("noise").map_err(|_| {
        let names = tensors.names().into_iter().take(8).collect::<Vec<_>>().join(", ");
        format!("has no tensor `noise`; it has: {names}")
    })?;
    if tensor.dtype() != Dtype::F32 {
        return Err(format!("tensor `noise` is {:?}; expected F32", tensor.dtype()));
    }
    let words = tensor.data().chunks_exact(4);
    Ok(words.map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

/// A finite number, the one at `index` of `what`.
pub(crate) fn number(what: &str, index: usize, field: &str) -> Result<f32, Failure> {
    match field.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(Failure::input(format!(
            "{what}: number {} is `{field}`; expected a finite number",
            index + 1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_takes_finite_numbers_only() {
        assert_eq!(parse_state("-1, 2.5,1e-3").unwrap(), [-1.0, 2.5, 1e-3]);
        for (text, culprit) in
            [("1,NaN", "number 2 is `NaN`"), ("inf", "`inf`"), ("1,,2", "number 2 is ``"), ("1e99", "`1e99`")]
        {
            let message = parse_state(text).unwrap_err().to_string();
            assert!(message.contains(culprit), "{message}");
        }
    }

    #[test]
    fn image_needs_a_camera_and_a_file() {
        let arg = image_arg("top=a=b.png").unwrap();
        assert_eq!((arg.camera.as_str(), arg.file.to_str()), ("top", Some("a=b.png")));
        for text in ["top", "=a.png", "top=", "", "="] {
            assert!(image_arg(text).unwrap_err().contains("CAMERA=FILE"), "{text}");
        }
    }

    #[test]
    fn noise_is_read_from_text_and_from_safetensors() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("noise.txt");
        fs::write(&text, "1, 2\n-3.5\n").unwrap();
        assert_eq!(read_noise(&text).unwrap(), [1.0, 2.0, -3.5]);

        let file = folder.path().join("noise.safetensors");
        let bytes: Vec<u8> = [0.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
        fs::write(&file, safetensors::serialize([("noise", &view)], None).unwrap()).unwrap();
        assert_eq!(read_noise(&file).unwrap(), [0.5, -2.0]);
        fs::write(&file, safetensors::serialize([("other", &view)], None).unwrap()).unwrap();
        assert!(read_noise(&file).unwrap_err().to_string().contains("it has: other"));
        fs::write(&file, b"nonsense").unwrap();
        assert!(read_noise(&file).unwrap_err().to_string().contains("not a safetensors file"));
    }
}

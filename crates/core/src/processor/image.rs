//! Camera images: decoding, resizing and padding.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::Normalizer;
use crate::config::files::{LARGEST_IMAGE, read_limited};
use crate::{Error, Result};

/// More pixels than any robot's camera delivers; a decoder asked for more is being attacked or fed garbage.
const MAX_PIXELS: u64 = 100_000_000;
const CHANNELS: usize = 3;
/// Black, and what is left over around a picture, in `[-1, 1]`.
const PADDING: f32 = -1.0;

/// A colour image `[height, width, 3]`, as bytes or as floats in `[0, 1]`.
///
/// ```
/// use smolvla_core::processor::Image;
///
/// let black = Image::from_rgb8("front", 640, 480, vec![0; 640 * 480 * 3])?;
/// assert_eq!((black.width(), black.height()), (640, 480));
/// # Ok::<(), smolvla_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    name: String,
    width: usize,
    height: usize,
    pixels: Pixels,
}

#[derive(Clone, Debug, PartialEq)]
enum Pixels {
    U8(Vec<u8>),
    F32(Vec<f32>),
}

/// An image as the vision tower takes it: `data: [3, height, width]`, padding −1, colours in `[-1, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// Rows of each plane.
    pub height: usize,
    /// Columns of each plane.
    pub width: usize,
    /// Red, green and blue planes, row-major.
    pub data: Vec<f32>,
}

impl Image {
    /// Decodes a PNG or JPEG file, told apart by content.
    ///
    /// Grey, palette, 16-bit and transparent images become 8-bit RGB as PIL's `convert("RGB")` makes them:
    /// alpha is dropped and 16-bit samples keep their high byte (also of grey images, which PIL saturates).
    /// The EXIF orientation is applied.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read or has more than 256 MiB; [`Error::Image`] when it is neither PNG nor JPEG, broken,
    /// cut short, or larger than a hundred million pixels.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_limited(path, LARGEST_IMAGE)?;
        Self::decode(path.display().to_string(), &bytes)
    }

    /// Decodes the bytes of a PNG or JPEG file; `name` is what errors call it. See [`Image::open`].
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn decode(name: impl Into<String>, bytes: &[u8]) -> Result<Self> {
        let name = name.into();
        match decode_rgb8(bytes) {
            Ok((width, height, data)) => Self::from_rgb8(name, width, height, data),
            Err(reason) => Err(Error::Image { name, reason }),
        }
    }

    /// An image from bytes `[height, width, 3]`; `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Image`] when a side is zero or `data` has not `height·width·3` elements.
    pub fn from_rgb8(name: impl Into<String>, width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        let name = name.into();
        check_size(&name, width, height, data.len())?;
        Ok(Self { name, width, height, pixels: Pixels::U8(data) })
    }

    /// An image from floats `[height, width, 3]` in `[0, 1]`; `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Image`] when a side is zero, `data` has not `height·width·3` elements, or a value is outside
    /// `[0, 1]` (0…255 floats are a common mistake) or not a number.
    pub fn from_rgb_f32(
        name: impl Into<String>,
        width: usize,
        height: usize,
        data: Vec<f32>,
    ) -> Result<Self> {
        let name = name.into();
        check_size(&name, width, height, data.len())?;
        if let Some(index) = data.iter().position(|v| !(0.0..=1.0).contains(v)) {
            let reason = format!(
                "value {} at row {}, column {}; expected floats from 0 to 1",
                data[index],
                index / CHANNELS / width,
                index / CHANNELS % width
            );
            return Err(Error::Image { name, reason });
        }
        Ok(Self { name, width, height, pixels: Pixels::F32(data) })
    }

    /// What errors call it: the file, or the camera.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// One row as floats in `[0, 1]`, `out: [width, 3]`.
    fn read_row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.width * CHANNELS..(row + 1) * self.width * CHANNELS;
        match &self.pixels {
            Pixels::U8(data) => {
                for (out, &byte) in out.iter_mut().zip(&data[range]) {
                    *out = fraction(byte);
                }
            }
            Pixels::F32(data) => out.copy_from_slice(&data[range]),
        }
    }
}

/// Resizes `image` into `target` (`(width, height)`; `None` keeps its size) and maps `[0, 1]` to `[-1, 1]`.
///
/// The aspect ratio is kept and what is left over is filled with −1 at the left and the top. Bilinear with
/// half-pixel centres and without antialiasing, in f32, as LeRobot's `resize_with_pad` does it with torch.
///
/// # Errors
/// [`Error::Image`] when the image is so elongated that a side would shrink to nothing.
pub fn resize_with_pad(image: &Image, target: Option<(usize, usize)>) -> Result<Planes> {
    prepare_image(image, target, None)
}

/// [`resize_with_pad`] after normalising the colours in `[0, 1]` channel by channel.
///
/// Published policies do not normalise images, so `normalizer` is usually `None`; where it is not, its
/// statistics are 3 wide.
///
/// # Errors
/// As [`resize_with_pad`], and [`Error::Input`] when the statistics of `normalizer` are not for three
/// channels.
pub fn prepare_image(
    image: &Image,
    target: Option<(usize, usize)>,
    normalizer: Option<&Normalizer>,
) -> Result<Planes> {
    prepare_image_in(Vec::new(), image, target, normalizer)
}

/// [`prepare_image`] with memory for the result: what it holds is overwritten, and it grows where needed.
pub(crate) fn prepare_image_in(
    memory: Vec<f32>,
    image: &Image,
    target: Option<(usize, usize)>,
    normalizer: Option<&Normalizer>,
) -> Result<Planes> {
    if let Some(width) = normalizer.and_then(Normalizer::width)
        && width != CHANNELS
    {
        return Err(Error::input(
            image.name(),
            format!("the image statistics are {width} wide; expected one value for each of red, green, blue"),
        ));
    }
    let (width, height) = target.unwrap_or((image.width, image.height));
    let (inner_width, inner_height) = fit(image, width, height)?;
    let (left, top) = (width - inner_width, height - inner_height);

    let mut data = memory;
    data.resize(CHANNELS * height * width, PADDING);
    let mut rows = ResizedRows::new(image, normalizer, inner_width);
    let mut mixed = vec![0.0; CHANNELS * inner_width];
    for plane in data.chunks_exact_mut(height * width) {
        plane[..top * width].fill(PADDING);
    }
    for (y, tap) in Tap::along(image.height, inner_height).iter().enumerate() {
        let (upper, lower) = rows.pair(tap.first)?;
        for (out, (&a, &b)) in mixed.iter_mut().zip(upper.iter().zip(lower)) {
            *out = tap.mix(a, b) * 2.0 - 1.0;
        }
        let (pixels, _) = mixed.as_chunks::<CHANNELS>();
        for (channel, plane) in data.chunks_exact_mut(height * width).enumerate() {
            let (padding, out) = plane[(top + y) * width..][..width].split_at_mut(left);
            padding.fill(PADDING);
            for (out, pixel) in out.iter_mut().zip(pixels) {
                *out = pixel[channel];
            }
        }
    }
    Ok(Planes { height, width, data })
}

/// The size the picture itself takes within `width × height`.
fn fit(image: &Image, width: usize, height: usize) -> Result<(usize, usize)> {
    let ratio = (image.width as f64 / width as f64).max(image.height as f64 / height as f64);
    // Truncated, as Python's `int` does.
    let inner_width = (image.width as f64 / ratio) as usize;
    let inner_height = (image.height as f64 / ratio) as usize;
    if inner_width == 0 || inner_height == 0 {
        return Err(Error::Image {
            name: image.name.clone(),
            reason: format!(
                "{}×{} pixels fitted into {width}×{height} would be {inner_width}×{inner_height}",
                image.width, image.height
            ),
        });
    }
    Ok((inner_width, inner_height))
}

/// Where one output sample comes from along one axis: the input sample `first` and the one after it. The last
/// sample counts as followed by itself.
struct Tap {
    first: usize,
    first_weight: f32,
    second_weight: f32,
}

impl Tap {
    /// The taps of all `outputs` samples over `inputs` samples: half-pixel centres, edges clamped.
    fn along(inputs: usize, outputs: usize) -> Vec<Self> {
        let scale = inputs as f32 / outputs as f32;
        (0..outputs)
            .map(|output| {
                // Fused, as torch's kernels are compiled: rounding twice moves a tap by up to 3e-5 samples.
                let position = scale.mul_add(output as f32 + 0.5, -0.5).max(0.0);
                let first = (position as usize).min(inputs - 1);
                let second_weight = (position - first as f32).clamp(0.0, 1.0);
                Self { first, first_weight: 1.0 - second_weight, second_weight }
            })
            .collect()
    }

    fn mix(&self, first: f32, second: f32) -> f32 {
        first * self.first_weight + second * self.second_weight
    }
}

/// The rows of a picture, resized horizontally when they are asked for.
struct ResizedRows<'a> {
    image: &'a Image,
    normalizer: Option<&'a Normalizer>,
    columns: Vec<Tap>,
    /// A row of the picture and its last pixel again: `[width + 1, 3]`.
    source: Vec<f32>,
    upper: ResizedRow,
    lower: ResizedRow,
}

/// One resized row, `[width, 3]`, and which one.
struct ResizedRow {
    index: Option<usize>,
    pixels: Vec<f32>,
}

impl<'a> ResizedRows<'a> {
    fn new(image: &'a Image, normalizer: Option<&'a Normalizer>, width: usize) -> Self {
        let row = || ResizedRow { index: None, pixels: vec![0.0; width * CHANNELS] };
        Self {
            image,
            normalizer,
            columns: Tap::along(image.width, width),
            source: vec![0.0; (image.width + 1) * CHANNELS],
            upper: row(),
            lower: row(),
        }
    }

    /// The row `first` and the one after it.
    fn pair(&mut self, first: usize) -> Result<(&[f32], &[f32])> {
        let second = (first + 1).min(self.image.height - 1);
        // The lower row of one output row is often the upper of the next.
        if self.lower.index == Some(first) && self.upper.index != Some(first) {
            std::mem::swap(&mut self.upper, &mut self.lower);
        }
        for (row, index) in [(&mut self.upper, first), (&mut self.lower, second)] {
            if row.index != Some(index) {
                read_pixels(self.image, index, self.normalizer, &mut self.source)?;
                row.fill(index, &self.source, &self.columns);
            }
        }
        Ok((&self.upper.pixels, &self.lower.pixels))
    }
}

impl ResizedRow {
    /// `source: [columns + 1, 3]`.
    fn fill(&mut self, index: usize, source: &[f32], columns: &[Tap]) {
        self.index = Some(index);
        let (source, _) = source.as_chunks::<CHANNELS>();
        let (pixels, _) = self.pixels.as_chunks_mut::<CHANNELS>();
        for (out, tap) in pixels.iter_mut().zip(columns) {
            let (first, second) = (source[tap.first], source[tap.first + 1]);
            *out = std::array::from_fn(|channel| tap.mix(first[channel], second[channel]));
        }
    }
}

/// One row of `image`, normalised, and its last pixel again: `out: [width + 1, 3]`.
fn read_pixels(image: &Image, row: usize, normalizer: Option<&Normalizer>, out: &mut [f32]) -> Result<()> {
    let width = image.width * CHANNELS;
    image.read_row(row, &mut out[..width]);
    if let Some(normalizer) = normalizer {
        normalizer.normalize(&mut out[..width])?;
    }
    out.copy_within(width - CHANNELS..width, width);
    Ok(())
}

/// `byte / 255`, correctly rounded, without a division: 1/255 is 257/65536 and a 65536th of 1/255. The first product
/// is exact, the second too small for its rounding to matter.
fn fraction(byte: u8) -> f32 {
    const HIGH: f32 = 257.0 / 65536.0;
    const LOW: f32 = 1.0 / (255.0 * 65536.0);
    let value = f32::from(byte);
    value * HIGH + value * LOW
}

fn check_size(name: &str, width: usize, height: usize, elements: usize) -> Result<()> {
    let expected = width.checked_mul(height).and_then(|n| n.checked_mul(CHANNELS));
    if width == 0 || height == 0 || expected != Some(elements) {
        return Err(Error::Image {
            name: name.to_owned(),
            reason: format!(
                "{width}×{height} RGB pixels from {elements} values; expected width·height·3 > 0"
            ),
        });
    }
    Ok(())
}

fn decode_rgb8(bytes: &[u8]) -> Result<(usize, usize, Vec<u8>), String> {
    let reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Png) => {}
        Some(ImageFormat::Jpeg) if jpeg_is_complete(bytes) => {}
        Some(ImageFormat::Jpeg) => return Err("the JPEG data is cut short".to_owned()),
        Some(other) => return Err(format!("is {other:?}; expected PNG or JPEG")),
        None => return Err("is neither PNG nor JPEG".to_owned()),
    }
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width}×{height} pixels; at most {MAX_PIXELS} are accepted"));
    }
    let orientation = decoder.orientation().map_err(|error| error.to_string())?;
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    decoded.apply_orientation(orientation);
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    Ok((width, height, to_rgb8(decoded)))
}

/// PIL's `convert("RGB")`: alpha is dropped, never blended, and wide samples keep their high byte.
fn to_rgb8(image: DynamicImage) -> Vec<u8> {
    let high_byte = |sample: u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => image.into_rgb16().into_raw().into_iter().map(high_byte).collect(),
        other => other.into_rgb8().into_raw(),
    }
}

/// Whether the scans of a JPEG file are followed by an end-of-image marker.
///
/// The decoder fills what is missing with grey; that must not reach a robot unnoticed.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const TEMPORARY: u8 = 0x01;
    const RESTART: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;
    const START_OF_IMAGE: u8 = 0xd8;
    const END_OF_IMAGE: u8 = 0xd9;
    const START_OF_SCAN: u8 = 0xda;

    let mut at = 0;
    // Entropy-coded bytes are skipped like padding: within them 0xff is always followed by 0 or a restart.
    while let Some(offset) = bytes[at..].iter().position(|&b| b == 0xff) {
        let Some(&marker) = bytes.get(at + offset + 1) else { return false };
        at += offset + 1;
        match marker {
            END_OF_IMAGE => return true,
            // A fill byte: the next one may be the marker.
            0xff => {}
            0x00 | TEMPORARY | START_OF_IMAGE | START_OF_SCAN => at += 1,
            marker if RESTART.contains(&marker) => at += 1,
            _ => {
                let Some(length) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                if at >= bytes.len() {
                    return false;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder};
    use serde::Deserialize;

    use super::*;
    use crate::config::NormalizationMode;
    use crate::processor::FeatureStatistics;

    /// LeRobot 0.6.1's `resize_with_pad(img / 255, pad_value=0) * 2 - 1` of [`pattern`] in torch 2.11: every
    /// `step`-th element of `[3, height, width]`. Sizes are `[width, height]`.
    const RESIZED_BY_LEROBOT: &str = include_str!("../../tests/fixtures/resize_with_pad.json");

    #[derive(Deserialize)]
    struct ResizeCase {
        source: [usize; 2],
        target: [usize; 2],
        step: usize,
        values: Vec<f32>,
    }

    /// An image of quadratic gradients that wrap, so that every tap matters.
    fn pattern(width: usize, height: usize) -> Image {
        let mut data = Vec::with_capacity(width * height * CHANNELS);
        for y in 0..height {
            for x in 0..width {
                for c in 0..CHANNELS {
                    data.push((x * x * 3 + y * y * 5 + x * y * 7 + c * 61 + x * 11 + y * 29) as u8);
                }
            }
        }
        Image::from_rgb8("pattern", width, height, data).unwrap()
    }

    fn encode_png(data: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes).write_image(data, width, height, color).unwrap();
        bytes
    }

    /// A grey JPEG of two rows, black above white.
    fn encode_jpeg() -> Vec<u8> {
        let mut data = vec![0; 16 * 8];
        data.resize(16 * 16, 255);
        let mut bytes = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
        encoder.write_image(&data, 16, 16, ExtendedColorType::L8).unwrap();
        bytes
    }

    fn bytes_of(image: &Image) -> &[u8] {
        match &image.pixels {
            Pixels::U8(data) => data,
            Pixels::F32(_) => panic!("expected bytes"),
        }
    }

    #[test]
    fn resize_matches_lerobot() {
        let cases: Vec<ResizeCase> = serde_json::from_str(RESIZED_BY_LEROBOT).unwrap();
        assert!(cases.len() >= 10);
        for ResizeCase { source, target, step, values } in cases {
            let planes = resize_with_pad(&pattern(source[0], source[1]), Some(target.into())).unwrap();
            assert_eq!((planes.width, planes.height), target.into());
            assert_eq!(planes.data.len(), CHANNELS * target[0] * target[1]);
            let ours = planes.data.iter().step_by(step);
            assert_eq!(ours.len(), values.len());
            for (index, (ours, theirs)) in ours.zip(values).enumerate() {
                assert!(
                    (ours - theirs).abs() <= 1e-6,
                    "{source:?} to {target:?}, element {}: {ours} instead of {theirs}",
                    index * step
                );
            }
        }
    }

    /// Element `(channel, y, x)` of what [`prepare_image`] makes of `image`, one pixel at a time.
    fn plain_element(
        image: &Image,
        (width, height): (usize, usize),
        normalizer: Option<&Normalizer>,
        (channel, y, x): (usize, usize, usize),
    ) -> f32 {
        let (inner_width, inner_height) = fit(image, width, height).unwrap();
        let (left, top) = (width - inner_width, height - inner_height);
        if x < left || y < top {
            return -1.0;
        }
        let source = |row: usize, column: usize| {
            let index = (row * image.width + column) * CHANNELS + channel;
            let mut pixel = [0.0; CHANNELS];
            pixel[channel] = match &image.pixels {
                Pixels::U8(data) => f32::from(data[index]) / 255.0,
                Pixels::F32(data) => data[index],
            };
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut pixel).unwrap();
            }
            pixel[channel]
        };
        let tap = |output: usize, inputs: usize, outputs: usize| {
            let position = (inputs as f32 / outputs as f32).mul_add(output as f32 + 0.5, -0.5).max(0.0);
            let first = (position as usize).min(inputs - 1);
            let weight = (position - first as f32).clamp(0.0, 1.0);
            (first, (first + 1).min(inputs - 1), 1.0 - weight, weight)
        };
        let (x0, x1, x0_weight, x1_weight) = tap(x - left, image.width, inner_width);
        let (y0, y1, y0_weight, y1_weight) = tap(y - top, image.height, inner_height);
        let upper = source(y0, x0) * x0_weight + source(y0, x1) * x1_weight;
        let lower = source(y1, x0) * x0_weight + source(y1, x1) * x1_weight;
        (upper * y0_weight + lower * y1_weight) * 2.0 - 1.0
    }

    #[test]
    fn every_element_equals_the_plain_formula_bit_for_bit() {
        let cases = [
            ((1, 1), (1, 1)),
            ((1, 1), (16, 9)),
            ((3, 5), (64, 64)),
            ((3, 5), (2, 4)),
            ((641, 479), (128, 128)),
            ((641, 479), (641, 479)),
            ((100, 2000), (512, 512)),
            ((37, 23), (101, 203)),
            ((640, 480), (512, 512)),
        ];
        let statistics = FeatureStatistics {
            mean: Some(vec![0.1, 0.5, 0.7]),
            std: Some(vec![0.3, 0.25, 0.11]),
            ..FeatureStatistics::default()
        };
        let mode = NormalizationMode::MeanStd;
        let normalizer = Normalizer::new("camera", mode, &statistics, 1e-8, Path::new("stats")).unwrap();
        // One memory for all: nothing of an earlier, larger or smaller image may be left.
        let mut memory = Vec::new();
        for ((width, height), target) in cases {
            let bytes = pattern(width, height);
            // Floats that no byte stands for.
            let floats = bytes_of(&bytes).iter().map(|&b| f32::from(b) / 255.3).collect();
            let floats = Image::from_rgb_f32("floats", width, height, floats).unwrap();
            for (image, normalizer) in [(&bytes, None), (&floats, None), (&bytes, Some(&normalizer))] {
                let planes = prepare_image_in(memory, image, Some(target), normalizer).unwrap();
                assert_eq!(planes.data.len(), CHANNELS * target.0 * target.1);
                for (index, ours) in planes.data.iter().enumerate() {
                    let (row, x) = (index / target.0, index % target.0);
                    let element = (row / target.1, row % target.1, x);
                    let expected = plain_element(image, target, normalizer, element);
                    assert_eq!(
                        ours.to_bits(),
                        expected.to_bits(),
                        "{width} × {height} to {target:?}, {element:?}: {ours} instead of {expected}"
                    );
                }
                memory = planes.data;
            }
        }
    }

    #[test]
    fn every_byte_becomes_the_float_that_division_gives() {
        for byte in 0..=u8::MAX {
            assert_eq!(fraction(byte).to_bits(), (f32::from(byte) / 255.0).to_bits(), "{byte}");
        }
    }

    #[test]
    fn landscape_is_padded_at_the_top() {
        let white = Image::from_rgb8("white", 640, 480, vec![255; 640 * 480 * 3]).unwrap();
        let planes = resize_with_pad(&white, Some((512, 512))).unwrap();
        for plane in planes.data.chunks_exact(512 * 512) {
            assert!(plane[..128 * 512].iter().all(|&v| v == -1.0));
            assert!(plane[128 * 512..].iter().all(|&v| (v - 1.0).abs() <= 1e-6));
        }
    }

    #[test]
    fn floats_resize_as_the_bytes_they_came_from() {
        let bytes = pattern(30, 20);
        let floats = bytes_of(&bytes).iter().map(|&b| f32::from(b) / 255.0).collect();
        let floats = Image::from_rgb_f32("floats", 30, 20, floats).unwrap();
        let target = Some((48, 48));
        assert_eq!(resize_with_pad(&floats, target).unwrap(), resize_with_pad(&bytes, target).unwrap());
    }

    #[test]
    fn image_without_target_keeps_its_size() {
        let planes = resize_with_pad(&pattern(5, 4), None).unwrap();
        assert_eq!((planes.width, planes.height), (5, 4));
        let expected = f32::from(bytes_of(&pattern(5, 4))[3 * 7 + 1]) / 255.0 * 2.0 - 1.0;
        assert_eq!(planes.data[20 + 7], expected);
    }

    #[test]
    fn colours_are_normalised_before_padding() {
        let statistics = FeatureStatistics {
            mean: Some(vec![0.25, 0.5, 0.75]),
            std: Some(vec![0.5, 0.25, 0.125]),
            ..FeatureStatistics::default()
        };
        let normalizer = |statistics| {
            let file = Path::new("statistics.safetensors");
            Normalizer::new("camera", NormalizationMode::MeanStd, statistics, 0.0, file).unwrap()
        };
        let image = Image::from_rgb_f32("half", 2, 1, vec![0.5; 6]).unwrap();
        let planes = prepare_image(&image, Some((2, 2)), Some(&normalizer(&statistics))).unwrap();
        let expected = [-1.0, -1.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -5.0, -5.0];
        assert_eq!(planes.data, expected);

        let grey =
            FeatureStatistics { mean: Some(vec![0.5]), std: Some(vec![0.5]), ..FeatureStatistics::default() };
        let error = prepare_image(&image, None, Some(&normalizer(&grey))).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
    }

    #[test]
    fn sliver_is_refused_rather_than_vanishing() {
        let error = resize_with_pad(&pattern(1, 2000), Some((512, 512))).unwrap_err();
        let expected = "image pattern: 1×2000 pixels fitted into 512×512 would be 0×512";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn png_variants_become_rgb_as_in_pil() {
        let decode = |bytes: Vec<u8>| Image::decode("test", &bytes).unwrap();
        let rgb = encode_png(&[1, 2, 3, 4, 5, 6], 2, 1, ExtendedColorType::Rgb8);
        assert_eq!(bytes_of(&decode(rgb)), [1, 2, 3, 4, 5, 6]);
        let grey = encode_png(&[9, 200], 2, 1, ExtendedColorType::L8);
        assert_eq!(bytes_of(&decode(grey)), [9, 9, 9, 200, 200, 200]);
        let transparent = encode_png(&[10, 20, 30, 0], 1, 1, ExtendedColorType::Rgba8);
        assert_eq!(bytes_of(&decode(transparent)), [10, 20, 30]);
        let wide: Vec<u8> = [0x12ff_u16, 0x8000, 0xff00].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let wide = encode_png(&wide, 1, 1, ExtendedColorType::Rgb16);
        assert_eq!(bytes_of(&decode(wide)), [0x12, 0x80, 0xff]);
    }

    #[test]
    fn jpeg_is_turned_by_its_exif_orientation() {
        let plain = encode_jpeg();
        // APP1: a big-endian TIFF header and one entry, orientation 3 (turned by half).
        let mut exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0".to_vec();
        exif.extend([0; 4]);
        let turned = [&plain[..2], &exif, &plain[2..]].concat();
        let (plain, turned) = (Image::decode("a", &plain).unwrap(), Image::decode("b", &turned).unwrap());
        assert!(bytes_of(&plain)[0] < 8 && bytes_of(&turned)[0] > 247);
        assert_eq!(bytes_of(&plain).iter().rev().copied().collect::<Vec<_>>(), bytes_of(&turned));
    }

    #[test]
    fn what_is_not_an_image_is_refused_by_name() {
        let png = encode_png(&[7; 3 * 64 * 64], 64, 64, ExtendedColorType::Rgb8);
        let jpeg = encode_jpeg();
        let cases: [(&[u8], &str); 7] = [
            (b"", "is neither PNG nor JPEG"),
            (b"hello", "is neither PNG nor JPEG"),
            (b"GIF89a\x01\x00\x01\x00", "is Gif; expected PNG or JPEG"),
            (&png[..png.len() / 2], ""),
            (&png[..20], ""),
            (&jpeg[..jpeg.len() - 2], "the JPEG data is cut short"),
            (&jpeg[..40], "the JPEG data is cut short"),
        ];
        for (bytes, reason) in cases {
            let message = Image::decode("front.png", bytes).unwrap_err().to_string();
            assert!(message.starts_with("image front.png: ") && message.contains(reason), "{message}");
        }
    }

    #[test]
    fn huge_image_is_refused_before_decoding() {
        let mut png = encode_png(&[0; 3], 1, 1, ExtendedColorType::Rgb8);
        png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let checksum = crc32(&png[12..29]).to_be_bytes();
        png[29..33].copy_from_slice(&checksum);
        let message = Image::decode("bomb.png", &png).unwrap_err().to_string();
        assert!(message.contains("65535×65535 pixels; at most 100000000"), "{message}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        })
    }

    #[test]
    fn absent_file_is_an_io_error_with_its_path() {
        let error = Image::open("/nonexistent/front.png").unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nonexistent/front.png: "), "{error}");
    }

    #[test]
    fn memory_images_are_checked() {
        for (width, height, elements) in [(0, 4, 0), (4, 0, 0), (2, 2, 11), (usize::MAX, 2, 6)] {
            assert!(Image::from_rgb8("front", width, height, vec![0; elements]).is_err());
        }
        for value in [255.0, -0.1, f32::NAN] {
            let message = Image::from_rgb_f32("front", 1, 2, vec![0.5, 0.5, 0.5, 0.5, value, 0.5]);
            let message = message.unwrap_err().to_string();
            assert!(message.contains("row 1, column 0; expected floats from 0 to 1"), "{message}");
        }
    }
}

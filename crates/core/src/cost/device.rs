//! Devices as data: peaks, memory, floors, each number with its source.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Format;
use crate::config::files::read_limited;
use crate::error::{Error, Result};

/// Most bytes of a device file.
const LARGEST_FILE: u64 = 1 << 20;

/// Where figures of devices lie, whatever their unit; beyond are mistakes, and sums that overflow.
const RANGE: RangeInclusive<f64> = 1e-6..=1e9;
/// Where factors on them lie.
const FACTORS: RangeInclusive<f64> = 1e-3..=1e3;

/// The presets that come with the library, by name.
const PRESETS: [(&str, &str); 8] = [
    ("u280", include_str!("devices/u280.toml")),
    ("u280-datasheet", include_str!("devices/u280-datasheet.toml")),
    ("p150", include_str!("devices/p150.toml")),
    ("h200", include_str!("devices/h200.toml")),
    ("rtx4090", include_str!("devices/rtx4090.toml")),
    ("orin", include_str!("devices/orin.toml")),
    ("cpu", include_str!("devices/cpu.toml")),
    ("cpu-amx", include_str!("devices/cpu-amx.toml")),
];

/// What bounds a device, as its file says. Rates are dense; a multiply-accumulate counts as two operations.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Device {
    /// Its short name: a preset's, or its file's without extension.
    #[serde(skip_deserializing)]
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// `cpu`, `gpu`, `fpga` or `accelerator`.
    pub class: Class,
    /// What people must know about the figures.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Peak rates of matrix products, by number format.
    pub peaks: BTreeMap<String, Peak>,
    /// Off-chip memory.
    pub memory: Memory,
    /// Memory on chip that could keep weights between denoising steps.
    pub on_chip: Option<OnChip>,
    /// The least time that a kernel takes.
    pub launch: Option<Launch>,
    /// Rate of everything that is no matrix product.
    pub elementwise: Option<Elementwise>,
    /// Sizes that products are padded to multiples of.
    pub array: Option<Array>,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A processor.
    Cpu,
    /// A graphics card.
    Gpu,
    /// Programmable logic.
    Fpga,
    /// A processor for neural networks.
    Accelerator,
}

/// A peak rate.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Peak {
    /// 10¹² operations a second.
    pub tops: f64,
    /// Where the number is from.
    #[serde(default)]
    pub source: String,
    /// The share of it that large products reach.
    #[serde(default = "one")]
    pub attained: f64,
    /// Where the share is from.
    #[serde(default)]
    pub attained_source: String,
}

/// Off-chip memory.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// 10⁹ bytes a second.
    pub gb_s: f64,
    /// 10⁹ bytes.
    pub capacity_gb: f64,
    /// Where both are from.
    #[serde(default)]
    pub source: String,
    /// The share of the bandwidth that long transfers reach.
    #[serde(default = "one")]
    pub attained: f64,
    /// Where the share is from.
    #[serde(default)]
    pub attained_source: String,
}

/// Memory on chip.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OnChip {
    /// 10⁶ bytes.
    pub mb: f64,
    /// 10⁹ bytes a second; without it, what is on chip is read for nothing.
    pub gb_s: Option<f64>,
    /// Where both are from.
    #[serde(default)]
    pub source: String,
}

/// The least time of a kernel, whatever it does: from the start of one to the start of the next.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// 10⁻⁶ seconds.
    pub us: f64,
    /// Where the number is from.
    #[serde(default)]
    pub source: String,
}

/// Rate of everything that is no matrix product.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Elementwise {
    /// 10⁹ operations a second.
    pub gops: f64,
    /// Whether the units that multiply matrices do it, so that both take their turns; otherwise they overlap.
    #[serde(default)]
    pub shared: bool,
    /// Where the number is from.
    #[serde(default)]
    pub source: String,
}

/// Granularity of a matrix unit.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// Rows of a result that are computed together.
    pub rows: u64,
    /// Columns of a result that are computed together.
    pub columns: u64,
    /// Products that are summed together.
    pub depth: u64,
    /// Where the numbers are from.
    #[serde(default)]
    pub source: String,
}

fn one() -> f64 {
    1.0
}

impl Device {
    /// Names of the presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// Figures that the file gives without saying where they are from, and shares that it leaves at 1.
    pub fn unsourced(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |what: String, source: &str| {
            if source.is_empty() {
                found.push(what);
            }
        };
        for (format, peak) in &self.peaks {
            check(format!("peaks.{format}"), &peak.source);
            check(format!("peaks.{format}.attained = {}", peak.attained), &peak.attained_source);
        }
        check("memory".to_owned(), &self.memory.source);
        check(format!("memory.attained = {}", self.memory.attained), &self.memory.attained_source);
        for (what, source) in [
            ("on_chip", self.on_chip.as_ref().map(|part| &part.source)),
            ("launch", self.launch.as_ref().map(|part| &part.source)),
            ("elementwise", self.elementwise.as_ref().map(|part| &part.source)),
            ("array", self.array.as_ref().map(|part| &part.source)),
        ] {
            if let Some(source) = source {
                check(what.to_owned(), source);
            }
        }
        found
    }

    /// A preset by name, else the device in the TOML file of that name.
    ///
    /// # Errors
    /// [`Error::Input`] when there is neither; otherwise as [`Device::from_file`].
    ///
    /// ```
    /// use smolvla_core::cost::{Device, Format};
    ///
    /// let device = Device::named("u280")?;
    /// assert!(device.peak(Format::Int8)?.tops > 4.0);
    /// let missing = Device::named("abacus").unwrap_err().to_string();
    /// assert!(missing.starts_with("device: there is no preset or file `abacus`"), "{missing}");
    /// # Ok::<(), smolvla_core::Error>(())
    /// ```
    pub fn named(name: &str) -> Result<Self> {
        if let Some((name, text)) = PRESETS.iter().find(|(preset, _)| preset.eq_ignore_ascii_case(name)) {
            return Self::parse(Path::new(&format!("{name}.toml")), text);
        }
        match Self::from_file(Path::new(name)) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let presets: Vec<_> = Self::presets().collect();
                Err(Error::input(
                    "device",
                    format!(
                        "there is no preset or file `{name}`; expected one of {}, or a TOML file",
                        presets.join(", ")
                    ),
                ))
            }
            result => result,
        }
    }

    /// The device in a TOML file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or is larger than 1 MiB; [`Error::Corrupt`] when it is no text;
    /// [`Error::Config`] naming the key at fault.
    pub fn from_file(file: &Path) -> Result<Self> {
        let bytes = read_limited(file, LARGEST_FILE)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::Corrupt {
            file: file.to_owned(),
            reason: "is no text; expected TOML".to_owned(),
        })?;
        Self::parse(file, &text)
    }

    /// The file of a preset, as a start for one's own.
    pub fn preset_text(name: &str) -> Option<&'static str> {
        PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, text)| *text)
    }

    fn parse(file: &Path, text: &str) -> Result<Self> {
        let mut device: Self = toml::from_str(text).map_err(|error| syntax(file, text, &error))?;
        device.name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        device.check(file)?;
        Ok(device)
    }

    fn check(&self, file: &Path) -> Result<()> {
        let at = Numbers { file };
        if self.peaks.is_empty() {
            return Err(at.error("peaks", "has no format; expected a table such as [peaks.int8]"));
        }
        for (format, peak) in &self.peaks {
            let known = Format::named(format).is_some_and(|format| format != Format::Int32);
            if !known {
                let names: Vec<_> =
                    Format::ALL.iter().filter(|f| **f != Format::Int32).map(|f| f.name()).collect();
                let reason = format!("is no number format; expected one of {}", names.join(", "));
                return Err(at.error(&format!("peaks.{format}"), &reason));
            }
            at.positive(&format!("peaks.{format}.tops"), peak.tops)?;
            at.share(&format!("peaks.{format}.attained"), peak.attained)?;
        }
        at.positive("memory.gb_s", self.memory.gb_s)?;
        at.positive("memory.capacity_gb", self.memory.capacity_gb)?;
        at.share("memory.attained", self.memory.attained)?;
        if let Some(on_chip) = &self.on_chip {
            at.positive("on_chip.mb", on_chip.mb)?;
            if let Some(gb_s) = on_chip.gb_s {
                at.positive("on_chip.gb_s", gb_s)?;
            }
        }
        if let Some(launch) = &self.launch {
            at.not_negative("launch.us", launch.us)?;
        }
        if let Some(elementwise) = &self.elementwise {
            at.positive("elementwise.gops", elementwise.gops)?;
        }
        if let Some(array) = &self.array {
            for (key, value) in
                [("array.rows", array.rows), ("array.columns", array.columns), ("array.depth", array.depth)]
            {
                at.positive(key, value as f64)?;
            }
        }
        Ok(())
    }

    /// The peak of products in `format`.
    ///
    /// # Errors
    /// [`Error::Input`] when the device has none, listing those it has.
    pub fn peak(&self, format: Format) -> Result<&Peak> {
        self.peaks.get(format.name()).ok_or_else(|| {
            let has: Vec<_> = self.peaks.keys().map(String::as_str).collect();
            Error::input(
                "precision",
                format!("device `{}` multiplies nothing in {format}; it has {}", self.name, has.join(", ")),
            )
        })
    }

    /// Operations that `product` takes on this device, padding included.
    pub fn padded_ops(&self, product: &crate::count::Product) -> f64 {
        let Some(array) = &self.array else { return 2.0 * product.macs() as f64 };
        let up = |value: u64, multiple: u64| value.div_ceil(multiple.max(1)) as f64 * multiple.max(1) as f64;
        2.0 * product.count as f64
            * up(product.rows, array.rows)
            * up(product.depth, array.depth)
            * up(product.cols, array.columns)
    }

    /// The same device with `factor` times the bandwidth.
    ///
    /// # Errors
    /// [`Error::Input`] when `factor` is not between 0.001 and 1000.
    pub fn with_bandwidth(mut self, factor: f64) -> Result<Self> {
        self.memory.gb_s *= positive_factor("bandwidth", factor)?;
        Ok(self)
    }

    /// The same device with `factor` times the arithmetic.
    ///
    /// # Errors
    /// [`Error::Input`] when `factor` is not between 0.001 and 1000.
    pub fn with_compute(mut self, factor: f64) -> Result<Self> {
        let factor = positive_factor("compute", factor)?;
        for peak in self.peaks.values_mut() {
            peak.tops *= factor;
        }
        if let Some(elementwise) = &mut self.elementwise {
            elementwise.gops *= factor;
        }
        Ok(self)
    }
}

fn positive_factor(field: &str, factor: f64) -> Result<f64> {
    if FACTORS.contains(&factor) {
        return Ok(factor);
    }
    let (least, most) = (FACTORS.start(), FACTORS.end());
    Err(Error::input(field, format!("a factor of {factor}; expected {least} to {most}")))
}

/// What to add to a refusal of a number that has the right sign.
fn beyond(value: f64) -> String {
    if value > 0.0 { format!(" from {} to {}", RANGE.start(), RANGE.end()) } else { String::new() }
}

/// Checks numbers of a file.
struct Numbers<'a> {
    file: &'a Path,
}

impl Numbers<'_> {
    fn error(&self, key: &str, reason: &str) -> Error {
        Error::Config { file: self.file.to_owned(), key: key.to_owned(), reason: reason.to_owned() }
    }

    fn positive(&self, key: &str, value: f64) -> Result<()> {
        if RANGE.contains(&value) {
            return Ok(());
        }
        Err(self.error(key, &format!("is {value}; expected a positive number{}", beyond(value))))
    }

    fn not_negative(&self, key: &str, value: f64) -> Result<()> {
        if (0.0..=*RANGE.end()).contains(&value) {
            return Ok(());
        }
        Err(self.error(key, &format!("is {value}; expected a number that is not negative{}", beyond(value))))
    }

    fn share(&self, key: &str, value: f64) -> Result<()> {
        if value > 0.0 && value <= 1.0 {
            return Ok(());
        }
        Err(self.error(key, &format!("is {value}; expected a share above 0 and up to 1")))
    }
}

/// An error of the TOML parser: the key where it knows one, else the line.
fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let key = match line {
        Some(line) => format!("line {line}"),
        None => "the file".to_owned(),
    };
    Error::Config { file: PathBuf::from(file), key, reason: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: &str = "\
title = 'mine'
class = 'gpu'
[peaks.int8]
tops = 100.0
[memory]
gb_s = 1000.0
capacity_gb = 16.0
";

    fn parse(text: &str) -> Result<Device> {
        Device::parse(Path::new("mine.toml"), text)
    }

    #[test]
    fn every_number_of_every_preset_has_its_source() {
        for name in Device::presets() {
            let device = Device::named(name).unwrap();
            assert_eq!(device.name, name);
            assert_eq!(device.unsourced(), [""; 0], "{name}");
            assert!(device.on_chip.is_some(), "{name}");
        }
    }

    #[test]
    fn a_users_file_needs_no_more_than_peaks_and_memory() {
        let device = parse(MINE).unwrap();
        assert_eq!((device.name.as_str(), device.peak(Format::Int8).unwrap().tops), ("mine", 100.0));
        assert_eq!(device.memory.attained, 1.0);
        assert_eq!(
            device.unsourced(),
            ["peaks.int8", "peaks.int8.attained = 1", "memory", "memory.attained = 1"]
        );
        let message = device.peak(Format::Bf16).unwrap_err().to_string();
        assert_eq!(message, "precision: device `mine` multiplies nothing in bf16; it has int8");
    }

    #[test]
    fn wrong_files_name_the_key() {
        let with = |from: &str, to: &str| parse(&MINE.replace(from, to)).unwrap_err().to_string();
        assert_eq!(
            with("gb_s = 1000.0", "gb_s = -5"),
            "mine.toml: memory.gb_s: is -5; expected a positive number"
        );
        assert_eq!(
            with("gb_s = 1000.0", "gb_s = nan"),
            "mine.toml: memory.gb_s: is NaN; expected a positive number"
        );
        let message = with("gb_s = 1000.0", "gb_s = 1e300");
        assert!(message.ends_with("expected a positive number from 0.000001 to 1000000000"), "{message}");
        let message = with("gb_s = 1000.0", "gbps = 1000.0");
        assert!(message.starts_with("mine.toml: line 6: unknown field `gbps`"), "{message}");
        let message = with("tops = 100.0", "");
        assert!(message.contains("missing field `tops`"), "{message}");
        let message = with("peaks.int8", "peaks.int3");
        assert!(
            message.starts_with("mine.toml: peaks.int3: is no number format; expected one of f32"),
            "{message}"
        );
        let message = with("[memory]", "[memory");
        assert!(message.starts_with("mine.toml: line 5: "), "{message}");
        let message = with("tops = 100.0", "tops = 100.0\nattained = 1.5");
        assert!(message.contains("peaks.int8.attained: is 1.5; expected a share"), "{message}");
        let message = with("'gpu'", "'toaster'");
        assert!(message.contains("line 2: unknown variant `toaster`"), "{message}");
    }

    #[test]
    fn a_file_that_is_none_is_an_error_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("absent.toml");
        let message = Device::named(name.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("there is no preset or file"), "{message}");
        let message = Device::named(folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(message.starts_with("cannot read"), "{message}");
    }

    #[test]
    fn products_are_padded_to_the_array() {
        let mut device = parse(MINE).unwrap();
        let product = crate::count::Product { count: 2, rows: 113, depth: 960, cols: 320 };
        assert_eq!(device.padded_ops(&product), 2.0 * product.macs() as f64);
        device.array = Some(Array { rows: 10, columns: 16, depth: 8, source: String::new() });
        assert_eq!(device.padded_ops(&product), 2.0 * 2.0 * 120.0 * 960.0 * 320.0);
    }

    #[test]
    fn factors_must_be_positive() {
        let message = parse(MINE).unwrap().with_bandwidth(-1.0).unwrap_err().to_string();
        assert_eq!(message, "bandwidth: a factor of -1; expected 0.001 to 1000");
        assert!(parse(MINE).unwrap().with_compute(f64::NAN).is_err());
        assert_eq!(parse(MINE).unwrap().with_bandwidth(2.0).unwrap().memory.gb_s, 2000.0);
    }
}

//! Measurements beside the roof.
//!
//! Reads what `cargo xtask bench --record` writes: rows of whole policies with the time of each stage, or rows of single
//! operations. The roof here is what no implementation can go below: all products of a stage at the device's peak, or
//! the weights that do not fit on chip at its bandwidth, whichever takes longer. A measurement above it is impossible, so
//! it is an error of the device's file, of the count or of the measurement, and is told as such.
//!
//! Rows say by name in what numbers they ran, and an engine may keep some layers wider than that name (`int8` of the CPU
//! backend keeps the language model and attention in bf16). The roof supposes the named format throughout: it stays a
//! bound, and the share of it that was reached is the smaller.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Cost, Device, Execution, Sums, Widths};
use crate::config::files::read_limited;
use crate::config::{Architecture, PolicyConfig};
use crate::count::{Product, Trace, Workload, count, count_with_prefix};
use crate::error::{Error, Result};
use crate::graph::Stage;

/// How far above the roof a measurement may be: ceilings were measured too, on a machine that others share.
pub const TOLERANCE: f64 = 1.02;

/// Most bytes of a file: a year of measurements has less than one of them.
const LARGEST_FILE: u64 = 64 << 20;
/// Largest size in a row's shape: the products of four of them are still numbers.
const LARGEST_SIZE: u64 = 1 << 15;

/// What a file of measurements says.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// Whole policies.
    Policies(Vec<PolicyRow>),
    /// Single operations.
    Kernels(Vec<KernelRow>),
}

/// A chunk of one engine.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRow {
    /// Line of the file.
    pub line: u64,
    /// Which engine.
    pub engine: String,
    /// In which precision, or by which plan.
    pub precision: String,
    /// Cameras.
    pub cameras: usize,
    /// Observations.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Tokens of the prefix, where the file says.
    pub prefix_tokens: Option<usize>,
    /// Milliseconds of vision, prefill and denoising, where the engine can tell them apart.
    pub stages_ms: [Option<f64>; 3],
}

/// A single operation.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRow {
    /// Line of the file.
    pub line: u64,
    /// What it is called.
    pub kernel: String,
    /// Its products.
    pub shape: String,
    /// In which precision.
    pub precision: String,
    /// Threads.
    pub threads: usize,
    /// Milliseconds.
    pub median_ms: f64,
    /// Its matrix products: one of a linear layer, two of an attention.
    pub products: Vec<Product>,
}

/// A measurement and its roof.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Line of the file.
    pub line: u64,
    /// What was measured: `smolvla cpu, 1 camera`, or an operation.
    pub what: String,
    /// The stage, of a whole policy.
    pub stage: Option<&'static str>,
    /// Tokens of the prefix that the roof is of, of a whole policy.
    pub prefix_tokens: Option<usize>,
    /// In which precision.
    pub precision: String,
    /// Seconds that it took.
    pub measured: f64,
    /// Seconds that no implementation can go below on this device.
    pub roof: f64,
    /// Whether the roof is that of the very work that was measured: the file said how long the prefix was.
    pub is_exact: bool,
    /// Seconds as modelled for the scenario's own execution, of a whole policy.
    pub expected: Option<f64>,
    /// Operations of matrix products.
    pub ops: f64,
    /// Operations for each byte through memory.
    pub ops_per_byte: f64,
}

impl Comparison {
    /// The share of the roof's rate that was reached.
    pub fn achieved(&self) -> f64 {
        self.roof / self.measured
    }

    /// Whether it is faster than can be.
    pub fn is_above_roof(&self) -> bool {
        self.is_exact && self.achieved() > TOLERANCE
    }
}

/// Comparisons, and what could not be compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Calibration {
    /// Each measurement with its roof.
    pub comparisons: Vec<Comparison>,
    /// Assumptions that were made.
    pub notes: Vec<String>,
    /// Lines that were left out, by the reason.
    pub left_out: BTreeMap<String, Vec<u64>>,
}

impl Calibration {
    /// Says something once.
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl Measured {
    /// Reads a file of `benchmarks/record`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or is larger than 64 MiB; [`Error::Corrupt`] naming line and column of what is
    /// wrong.
    pub fn from_file(file: &Path) -> Result<Self> {
        let bytes = read_limited(file, LARGEST_FILE)?;
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let columns =
            Columns { file, names: reader.headers().map_err(|error| broken(file, &error))?.clone() };
        if columns.has("vision_ms") {
            let mut rows = Vec::new();
            for record in reader.records() {
                rows.push(columns.policy(&record.map_err(|error| broken(file, &error))?)?);
            }
            return Ok(Self::Policies(rows));
        }
        if columns.has("shape") && columns.has("median_ms") {
            let mut rows = Vec::new();
            for record in reader.records() {
                rows.push(columns.kernel(&record.map_err(|error| broken(file, &error))?)?);
            }
            return Ok(Self::Kernels(rows));
        }
        Err(Error::Corrupt {
            file: file.to_owned(),
            reason: "has neither a column `vision_ms` nor `shape` and `median_ms`; expected what `cargo xtask bench \
                     --record` writes"
                .to_owned(),
        })
    }

    /// Sets each row beside the roof of `device`. `workload` says what the file does not: steps and prompt.
    ///
    /// Rows on fewer than all threads are left out: the device is all of them. So are precisions that have no widths of
    /// their name, or no peak on the device.
    ///
    /// # Errors
    /// As [`count`], where a row's cameras and batch are out of range.
    pub fn against(
        &self,
        policy: &PolicyConfig,
        architecture: &Architecture,
        workload: &Workload,
        execution: &Execution,
        device: &Device,
    ) -> Result<Calibration> {
        let mut calibration = Calibration::default();
        calibration.note(
            "every layer is compared in the format of its row's name; an engine that keeps some wider reaches less of that roof"
                .to_owned(),
        );
        if device.on_chip.is_none() {
            calibration.note(
                "the device states no [on_chip] memory: every stage is taken to read its weights from off chip".to_owned(),
            );
        }
        match self {
            Self::Policies(rows) => {
                let most = rows.iter().map(|row| row.threads).max().unwrap_or(0);
                calibration.note(wide_rows(most));
                for row in rows {
                    let context = Context { policy, architecture, workload, execution, device };
                    context.policy(row, most, &mut calibration)?;
                }
            }
            Self::Kernels(rows) => {
                let most = rows.iter().map(|row| row.threads).max().unwrap_or(0);
                calibration.note(wide_rows(most));
                for row in rows {
                    kernel_against(row, most, device, &mut calibration);
                }
            }
        }
        Ok(calibration)
    }
}

struct Context<'a> {
    policy: &'a PolicyConfig,
    architecture: &'a Architecture,
    workload: &'a Workload,
    execution: &'a Execution,
    device: &'a Device,
}

impl Context<'_> {
    fn policy(&self, row: &PolicyRow, threads: usize, calibration: &mut Calibration) -> Result<()> {
        let Some(widths) = usable(&row.precision, row.threads, threads, row.line, self.device, calibration)
        else {
            return Ok(());
        };
        let (trace, assumed) = self.trace(row)?;
        if assumed {
            calibration.note(format!(
                "rows without `prefix_tokens` are compared with a prompt of {} tokens, and not taken for errors where they \
                 are above the roof",
                self.workload.prompt_tokens
            ));
        }
        let cost = Cost::of(&trace, self.execution, &widths, self.device)?;
        let weights = Cost::of(&trace, &Execution::default(), &widths, self.device)?;
        let peak = self.device.peak(widths.products)?.tops * 1e12;
        let bandwidth = self.device.memory.gb_s * 1e9;
        let on_chip = self.device.on_chip.as_ref().map_or(0.0, |on_chip| on_chip.mb * 1e6);
        let many = if row.cameras == 1 { "" } else { "s" };
        let batch = if row.batch == 1 { String::new() } else { format!(", batch {}", row.batch) };
        let what = format!("{}, {} camera{many}{batch}", row.engine, row.cameras);
        for (stage, ms) in [Stage::Vision, Stage::Prefill, Stage::Denoise].into_iter().zip(row.stages_ms) {
            let Some(ms) = ms else { continue };
            let of = |cost: &Cost, value: fn(&Sums) -> f64| -> f64 {
                let parts = cost.parts.iter().filter(|part| part.part.stage() == stage);
                parts.map(|part| value(&part.sums)).sum()
            };
            let ops = of(&cost, |sums| 2.0 * sums.macs as f64);
            let passes = if stage == Stage::Denoise { trace.workload.steps as f64 } else { 1.0 };
            let read = of(&weights, |sums| sums.traffic.weights + sums.traffic.scales);
            let at_least = passes * (read / passes - on_chip).max(0.0);
            let bytes = of(&cost, |sums| sums.traffic.total());
            calibration.comparisons.push(Comparison {
                line: row.line,
                what: what.clone(),
                stage: Some(stage.name()),
                prefix_tokens: Some(trace.prefix_tokens),
                precision: row.precision.clone(),
                measured: ms / 1e3,
                roof: (ops / peak).max(at_least / bandwidth),
                is_exact: !assumed,
                expected: Some(of(&cost, |sums| sums.seconds.total)),
                ops,
                ops_per_byte: ops / bytes,
            });
        }
        Ok(())
    }

    /// The trace of a row, and whether its prompt had to be assumed.
    fn trace(&self, row: &PolicyRow) -> Result<(Trace, bool)> {
        // Pictures together: no implementation has to read the tower's weights more than once.
        let workload = Workload {
            cameras: row.cameras,
            batch: row.batch,
            images_together: true,
            chunk: None,
            ..self.workload.clone()
        };
        match row.prefix_tokens {
            None => Ok((count(self.policy, self.architecture, &workload)?, true)),
            Some(tokens) => {
                let trace = count_with_prefix(self.policy, self.architecture, &workload, tokens);
                Ok((
                    trace.map_err(|error| Error::input(format!("line {}", row.line), error.to_string()))?,
                    false,
                ))
            }
        }
    }
}

fn wide_rows(threads: usize) -> String {
    format!(
        "rows on {threads} threads, the most of any row, are taken to have had the whole device; others are left out"
    )
}

/// The widths of a row that can be compared; says why where it cannot.
fn usable(
    precision: &str,
    threads: usize,
    most: usize,
    line: u64,
    device: &Device,
    calibration: &mut Calibration,
) -> Option<Widths> {
    let mut leave_out = |why: String| calibration.left_out.entry(why).or_default().push(line);
    if threads < most {
        leave_out(format!("ran on {threads} of {most} threads"));
        return None;
    }
    let widths = match Widths::named(precision) {
        Ok(widths) => widths,
        Err(error) => {
            leave_out(error.to_string());
            return None;
        }
    };
    if let Err(error) = device.peak(widths.products) {
        leave_out(error.to_string());
        return None;
    }
    Some(widths)
}

fn kernel_against(row: &KernelRow, threads: usize, device: &Device, calibration: &mut Calibration) {
    let Some(widths) = usable(&row.precision, row.threads, threads, row.line, device, calibration) else {
        return;
    };
    let Ok(peak) = device.peak(widths.products) else { return };
    let ops: f64 = row.products.iter().map(|product| 2.0 * product.macs() as f64).sum();
    // A benchmark repeats one operation: operands may stay in caches, so only arithmetic bounds it.
    let elements = |product: &Product| {
        product.count
            * (product.rows * product.depth + product.depth * product.cols + product.rows * product.cols)
    };
    let bytes = row.products.iter().map(elements).sum::<u64>() as f64 * widths.weights.bytes();
    calibration.comparisons.push(Comparison {
        line: row.line,
        what: format!("{} {}", row.kernel, row.shape),
        stage: None,
        prefix_tokens: None,
        precision: row.precision.clone(),
        measured: row.median_ms / 1e3,
        roof: ops / (peak.tops * 1e12),
        is_exact: true,
        expected: None,
        ops,
        ops_per_byte: ops / bytes,
    });
}

/// The columns of a file, by name.
struct Columns<'a> {
    file: &'a Path,
    names: csv::StringRecord,
}

impl Columns<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|column| column == name)
    }

    fn get<'r>(&self, record: &'r csv::StringRecord, name: &str) -> Option<&'r str> {
        let index = self.names.iter().position(|column| column == name)?;
        record.get(index).map(str::trim).filter(|cell| !cell.is_empty())
    }

    fn policy(&self, record: &csv::StringRecord) -> Result<PolicyRow> {
        Ok(PolicyRow {
            line: line(record),
            engine: self.text(record, "engine")?,
            precision: self.text(record, "precision")?,
            cameras: self.count(record, "cameras")?,
            batch: self.count(record, "batch")?,
            threads: self.count(record, "threads")?,
            prefix_tokens: match self.get(record, "prefix_tokens") {
                Some(_) => Some(self.count(record, "prefix_tokens")?),
                None => None,
            },
            stages_ms: [
                self.positive(record, "vision_ms")?,
                self.positive(record, "prefill_ms")?,
                self.positive(record, "denoise_ms")?,
            ],
        })
    }

    fn kernel(&self, record: &csv::StringRecord) -> Result<KernelRow> {
        let shape = self.text(record, "shape")?;
        let median_ms = self
            .positive(record, "median_ms")?
            .ok_or_else(|| self.error(record, "median_ms", "is empty; expected a number"))?;
        Ok(KernelRow {
            line: line(record),
            kernel: self.text(record, "kernel")?,
            products: products(&shape).ok_or_else(|| {
                let reason =
                    format!("is `{shape}`; expected rows×inputs×outputs or heads×queries×keys×width, of 1 to {LARGEST_SIZE} each");
                self.error(record, "shape", &reason)
            })?,
            shape,
            precision: self.text(record, "precision")?,
            threads: self.count(record, "threads")?,
            median_ms,
        })
    }

    fn text(&self, record: &csv::StringRecord, name: &str) -> Result<String> {
        let text = self.get(record, name).ok_or_else(|| self.error(record, name, "is empty"))?;
        Ok(text.to_owned())
    }

    fn count(&self, record: &csv::StringRecord, name: &str) -> Result<usize> {
        let text = self.text(record, name)?;
        let number = text.parse().ok().filter(|number| *number > 0);
        number
            .ok_or_else(|| self.error(record, name, &format!("is `{text}`; expected a whole number above 0")))
    }

    fn positive(&self, record: &csv::StringRecord, name: &str) -> Result<Option<f64>> {
        let Some(text) = self.get(record, name) else { return Ok(None) };
        let number: Option<f64> =
            text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(record, name, &format!("is `{text}`; expected a positive number"))),
        }
    }

    fn error(&self, record: &csv::StringRecord, column: &str, reason: &str) -> Error {
        Error::Corrupt {
            file: self.file.to_owned(),
            reason: format!("line {}: {column} {reason}", line(record)),
        }
    }
}

/// `1024×768×2304` of a linear layer, `12×1024×1024×64` of an attention.
fn products(shape: &str) -> Option<Vec<Product>> {
    let size = |text: &str| text.trim().parse().ok().filter(|size| (1..=LARGEST_SIZE).contains(size));
    let sizes: Vec<u64> = shape.split('×').map(size).collect::<Option<_>>()?;
    match sizes[..] {
        [rows, depth, cols] => Some(vec![Product { count: 1, rows, depth, cols }]),
        [count, queries, keys, dim] => Some(vec![
            Product { count, rows: queries, depth: dim, cols: keys },
            Product { count, rows: queries, depth: keys, cols: dim },
        ]),
        _ => None,
    }
}

fn line(record: &csv::StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

fn broken(file: &Path, error: &csv::Error) -> Error {
    Error::Corrupt { file: file.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{self, Size, SynthOptions};

    const HEAD: &str =
        "engine,precision,cameras,batch,threads,vision_ms,prefill_ms,denoise_ms,prefix_tokens\n";

    fn read(text: &str) -> Result<Measured> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bench.csv");
        std::fs::write(&file, text).unwrap();
        Measured::from_file(&file)
    }

    fn against(text: &str) -> Calibration {
        let (policy, architecture) =
            synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() }).unwrap();
        let device = Device::named("cpu").unwrap();
        let workload = Workload::of(&policy);
        read(text)
            .unwrap()
            .against(&policy, &architecture, &workload, &Execution::default(), &device)
            .unwrap()
    }

    #[test]
    fn stages_are_set_beside_their_roofs() {
        let calibration = against(&format!("{HEAD}smolvla cpu,bf16,1,1,2,604.4,68.26,299.7,79\n"));
        assert!(calibration.left_out.is_empty(), "{:?}", calibration.left_out);
        let shares: Vec<f64> = calibration.comparisons.iter().map(Comparison::achieved).collect();
        assert_eq!(shares.len(), 3);
        // As benchmarks/README.md has them from another derivation: 76, 75 and 72 percent of the ceiling.
        for (share, expected) in shares.iter().zip([0.76, 0.75, 0.72]) {
            assert!((share - expected).abs() < 0.01, "{shares:?}");
        }
        assert!(calibration.comparisons.iter().all(|comparison| !comparison.is_above_roof()));
    }

    #[test]
    fn what_is_faster_than_the_roof_is_flagged() {
        let calibration = against(&format!("{HEAD}smolvla cpu,bf16,1,1,2,300,68.26,299.7,79\n"));
        let flags: Vec<bool> = calibration.comparisons.iter().map(Comparison::is_above_roof).collect();
        assert_eq!(flags, [true, false, false]);
    }

    #[test]
    fn what_may_have_been_less_work_is_not_flagged() {
        let calibration = against(&format!("{HEAD}peer,bf16,1,1,2,604.4,48,299.7,\n"));
        let prefill = &calibration.comparisons[1];
        assert!(prefill.achieved() > 1.5 && !prefill.is_above_roof(), "{prefill:?}");
    }

    #[test]
    fn weights_that_fit_on_chip_do_not_bind() {
        let (policy, architecture) =
            synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() }).unwrap();
        let rows = read(&format!("{HEAD}a,int8,1,1,2,40,8,20,113\n")).unwrap();
        let roof = |mb: f64| {
            let mut device = Device::named("cpu-amx").unwrap();
            device.on_chip.as_mut().unwrap().mb = mb;
            let workload = Workload::of(&policy);
            let execution = Execution::default();
            let calibration = rows.against(&policy, &architecture, &workload, &execution, &device).unwrap();
            calibration.comparisons[2].roof
        };
        // 50.95 GMAC at 11.77 TOP/s; or 98 MB at 30 GB/s in each of ten steps.
        assert!((roof(132.0) - 8.66e-3).abs() < 1e-4, "{}", roof(132.0));
        assert!((roof(1.0) - 32.4e-3).abs() < 1e-3, "{}", roof(1.0));
    }

    #[test]
    fn rows_that_cannot_be_compared_say_why() {
        let calibration = against(&format!(
            "{HEAD}a,bf16,1,1,1,600,,,\nb,auto,1,1,2,600,,,\nc,fp8,1,1,2,600,,,\nd,f32,1,1,2,1200,,,\n"
        ));
        assert_eq!(calibration.comparisons.len(), 1);
        let notes = format!("{:?} {:?}", calibration.notes, calibration.left_out);
        for part in [
            "\"ran on 1 of 2 threads\": [2]",
            "there is no `auto`",
            ": [3]",
            "nothing in fp8",
            ": [4]",
            "prompt of 48",
        ] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
    }

    #[test]
    fn operations_are_set_beside_the_arithmetic() {
        let calibration = against(
            "kernel,shape,precision,threads,median_ms\n\
             vision qkv,1024×768×2304,bf16,2,8.454\nvision attention,12×1024×1024×64,f32,2,16.76\n",
        );
        let shares: Vec<f64> = calibration.comparisons.iter().map(Comparison::achieved).collect();
        assert!((shares[0] - 0.907).abs() < 0.002 && (shares[1] - 0.813).abs() < 0.002, "{shares:?}");
    }

    #[test]
    fn wrong_files_name_line_and_column() {
        let message = |text: &str| read(text).unwrap_err().to_string();
        let text = message(&format!("{HEAD}a,bf16,0,1,2,1,1,1,\n"));
        assert!(
            text.ends_with("bench.csv: line 2: cameras is `0`; expected a whole number above 0"),
            "{text}"
        );
        let text = message(&format!("{HEAD}a,bf16,1,1,2,fast,1,1,\n"));
        assert!(text.contains("line 2: vision_ms is `fast`; expected a positive number"), "{text}");
        assert!(message("a,b\n1,2\n").contains("has neither a column `vision_ms`"));
        assert!(message(&format!("{HEAD}a,bf16\n")).contains("line: 2"), "short rows are refused");
        let text = message("kernel,shape,precision,threads,median_ms\na,3×4,f32,1,1\n");
        assert!(text.contains("line 2: shape is `3×4`; expected rows"), "{text}");
        for shape in ["0×1×1", "99999999999×99999999999×99999999999", "1×2×3×4×5", "1×-2×3"] {
            let text = message(&format!("kernel,shape,precision,threads,median_ms\na,{shape},f32,1,1\n"));
            assert!(text.contains(&format!("shape is `{shape}`")), "{text}");
        }
        let absent = Measured::from_file(Path::new("absent.csv")).unwrap_err().to_string();
        assert!(absent.starts_with("cannot read absent.csv"), "{absent}");
    }
}

//! Rows of `benchmarks/record/<machine>/<date>*.csv`.
//!
//! Rows are only ever added. The session, the minute at which a measurement began, tells which belong together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::ceiling::Ceilings;
use crate::flops::Stages;
use crate::machine::{Machine, root};
use crate::{kernels, policy};

const POLICY: [&str; 27] = [
    "session",
    "revision",
    "engine",
    "precision",
    "isa",
    "cameras",
    "batch",
    "threads",
    "runs",
    "prefix_tokens",
    "preprocess_ms",
    "vision_ms",
    "prefill_ms",
    "denoise_ms",
    "total_ms",
    "total_min_ms",
    "total_max_ms",
    "load_s",
    "peak_memory_mb",
    "vision_gflops",
    "prefill_gflops",
    "denoise_gflops",
    "vision_percent_of_ceiling",
    "prefill_percent_of_ceiling",
    "denoise_percent_of_ceiling",
    "denoise_weights_gb_s",
    "times_faster_than_lerobot_mixed",
];

const KERNELS: [&str; 13] = [
    "session",
    "revision",
    "kernel",
    "shape",
    "precision",
    "isa",
    "threads",
    "runs",
    "median_ms",
    "min_ms",
    "max_ms",
    "gflops",
    "percent_of_ceiling",
];

const CEILINGS: [&str; 5] = ["session", "what", "threads", "rate", "unit"];

/// Rows of one kind, ready to be written.
#[derive(Debug)]
pub(crate) struct Csv {
    /// What follows the date in the file's name.
    suffix: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Csv {
    /// The whole policy, and its peers.
    pub(crate) fn policy(machine: &Machine, rows: &[policy::Row]) -> Self {
        Self {
            suffix: "",
            columns: &POLICY,
            rows: rows.iter().map(|row| policy_fields(machine, row)).collect(),
        }
    }

    /// Single operations.
    pub(crate) fn kernels(machine: &Machine, rows: &[kernels::Row]) -> Self {
        Self {
            suffix: "-kernels",
            columns: &KERNELS,
            rows: rows.iter().map(|row| kernel_fields(machine, row)).collect(),
        }
    }

    /// What the machine can do at most.
    pub(crate) fn ceilings(machine: &Machine, ceilings: &Ceilings) -> Self {
        let with_unit = |unit| move |ceiling| (ceiling, unit);
        let all = ceilings.compute.iter().map(with_unit("GFLOP/s"));
        let rows = all
            .chain(ceilings.reading.iter().map(with_unit("GB/s")))
            .flat_map(|(ceiling, unit)| {
                ceiling.rates.iter().map(move |(threads, rate)| {
                    vec![
                        machine.time.clone(),
                        ceiling.name.clone(),
                        threads.to_string(),
                        number(*rate),
                        unit.to_owned(),
                    ]
                })
            })
            .collect();
        Self { suffix: "-ceilings", columns: &CEILINGS, rows }
    }

    /// Adds the rows to the machine's file of the day, written aside and renamed. Returns the file.
    ///
    /// # Errors
    /// When the file has other columns, or cannot be read or written.
    pub(crate) fn append(&self, machine: &Machine) -> Result<PathBuf> {
        let folder = root().join("benchmarks/record").join(&machine.name);
        let file = folder.join(format!("{}{}.csv", machine.date, self.suffix));
        self.append_to(&file)?;
        Ok(file)
    }

    fn append_to(&self, file: &Path) -> Result {
        let fail = |error: io::Error| format!("cannot write {}: {error}", file.display());
        let head = line(self.columns.iter().copied());
        let mut text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => head.clone(),
            Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
        };
        if text.lines().next() != Some(head.trim_end()) {
            return Err(format!(
                "{}: its columns are others than this version writes ({}); rename the file or bring its columns up \
                 to date",
                file.display(),
                self.columns.join(",")
            ));
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        for row in &self.rows {
            text.push_str(&line(row.iter().map(String::as_str)));
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let aside = file.with_extension("csv.partial");
        fs::write(&aside, text).map_err(fail)?;
        fs::rename(&aside, file).map_err(fail)
    }
}

fn policy_fields(machine: &Machine, row: &policy::Row) -> Vec<String> {
    let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
    let stages = |stages: &Stages<Option<f64>>| [stages.vision, stages.prefill, stages.denoise].map(optional);
    let mut fields = vec![
        machine.time.clone(),
        machine.revision.clone(),
        row.engine.clone(),
        row.precision.clone(),
        row.isa.clone(),
        row.cameras.to_string(),
        row.batch.to_string(),
        row.threads.to_string(),
        row.runs.to_string(),
        row.prefix_tokens.map(|tokens| tokens.to_string()).unwrap_or_default(),
        number(row.preprocess_ms),
    ];
    fields.extend(stages(&row.stages_ms));
    fields.extend(
        [row.total_ms, row.total_min_ms, row.total_max_ms, row.load_s, row.peak_memory_mb].map(number),
    );
    fields.extend(stages(&row.gflops));
    fields.extend(stages(&row.percent_of_ceiling));
    fields.extend([row.denoise_weights_gb_s, row.times_faster].map(optional));
    fields
}

fn kernel_fields(machine: &Machine, row: &kernels::Row) -> Vec<String> {
    vec![
        machine.time.clone(),
        machine.revision.clone(),
        row.kernel.clone(),
        row.shape.clone(),
        row.precision.clone(),
        row.isa.clone(),
        row.threads.to_string(),
        row.runs.to_string(),
        number(row.median_ms),
        number(row.min_ms),
        number(row.max_ms),
        number(row.gflops),
        row.percent_of_ceiling.map(number).unwrap_or_default(),
    ]
}

/// Four significant digits, never fewer than the integer has.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = usize::try_from(3 - magnitude).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A line of CSV; fields with commas or quotes are quoted.
fn line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let quote = |field: &str| {
        if field.contains([',', '"', '\n']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.to_owned()
        }
    };
    let mut line = fields.into_iter().map(quote).collect::<Vec<_>>().join(",");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(columns: &'static [&'static str], row: &[&str]) -> Csv {
        Csv { suffix: "", columns, rows: vec![row.iter().map(|field| (*field).to_owned()).collect()] }
    }

    #[test]
    fn rows_are_added_below_those_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine/day.csv");
        csv(&["a", "b"], &["1", "x"]).append_to(&file).unwrap();
        csv(&["a", "b"], &["2", "y, z"]).append_to(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a,b\n1,x\n2,\"y, z\"\n");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn a_file_of_other_columns_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("day.csv");
        fs::write(&file, "a,c\n1,2\n").unwrap();
        let message = csv(&["a", "b"], &["1", "x"]).append_to(&file).unwrap_err();
        assert!(message.contains("day.csv: its columns are others"), "{message}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "a,c\n1,2\n");
    }

    #[test]
    fn numbers_have_four_digits() {
        let numbers = [0.0, 0.01234567, 1.5, 12.3456, 1234.56, 123456.7].map(number);
        assert_eq!(numbers, ["0", "0.01235", "1.5", "12.35", "1235", "123457"]);
    }

    #[test]
    fn committed_files_have_todays_columns() {
        let record = root().join("benchmarks/record");
        let mut files = 0;
        for machine in fs::read_dir(record).unwrap() {
            for file in fs::read_dir(machine.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let columns: &[&str] = match name.get(10..) {
                    Some("-kernels.csv") => &KERNELS,
                    Some("-ceilings.csv") => &CEILINGS,
                    _ => &POLICY,
                };
                let text = fs::read_to_string(&path).unwrap();
                assert_eq!(text.lines().next().unwrap(), columns.join(","), "{name}");
                let quoted = text.contains('"');
                for line in text.lines().filter(|_| !quoted) {
                    assert_eq!(line.split(',').count(), columns.len(), "{name}: {line}");
                }
                files += 1;
            }
        }
        assert!(files > 0, "no record is committed");
    }

    /// What is faster than the machine can be was measured wrongly, or counted wrongly, or the preset is wrong.
    #[test]
    fn committed_measurements_are_below_the_roof() {
        use smolvla::cost::measured::Measured;
        use smolvla::cost::{Device, Execution};
        use smolvla::count::Workload;
        use smolvla::synth::{self, Size, SynthOptions};

        let options = SynthOptions { size: Size::Base, ..SynthOptions::default() };
        let (policy, architecture) = synth::sizes(&options).unwrap();
        let device = Device::named("cpu").unwrap();
        let folder = root().join("benchmarks/record/epyc-2core");
        for (name, least) in [("2026-11-21.csv", 45), ("2026-11-21-kernels.csv", 42)] {
            let calibration = Measured::from_file(&folder.join(name))
                .and_then(|measured| {
                    let (workload, execution) = (Workload::of(&policy), Execution::default());
                    measured.against(&policy, &architecture, &workload, &execution, &device)
                })
                .unwrap();
            assert!(calibration.comparisons.len() >= least, "{name}: {}", calibration.comparisons.len());
            for comparison in calibration.comparisons {
                assert!(!comparison.is_above_roof(), "{name}: {comparison:?}");
            }
        }
    }
}

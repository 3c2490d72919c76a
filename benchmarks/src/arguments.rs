//! The command line.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use smolvla::Capabilities;
use smolvla_backend_cpu::Isa;

use crate::Result;
use crate::machine::cores;
use crate::policy::{Axes, Config};
use crate::precision::Choice;

/// Measure the policy, its kernels and this machine's ceilings, and print a Markdown table.
///
/// Without a selection each precision is measured with 1, 2 and 3 cameras on all cores, and with one camera on one
/// thread and with four observations at once. --cameras, --threads and --batch replace that by every combination of
/// their values (one camera, all cores, one observation where a flag is left out).
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Checkpoint folder [default: a synthetic one of the published size, made once in the target folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// How many cameras, with commas between
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count(1, 3))]
    cameras: Option<Vec<usize>>,
    /// Precisions, plans, or files of plans, with commas between [default: all that the engine offers]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    precision: Option<Vec<String>>,
    /// Numbers of threads, with commas between
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count(1, 1024))]
    threads: Option<Vec<usize>>,
    /// Observations at once, with commas between
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count(1, 64))]
    batch: Option<Vec<usize>>,
    /// Force instruction sets, with commas between, or `all` [default: the engine's choice]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    isa: Option<Vec<String>>,
    /// The engine to measure: cpu, or ndarray for Burn's
    #[arg(long, value_name = "NAME", default_value = "cpu", value_parser = ["cpu", "ndarray"])]
    #[arg(conflicts_with_all = ["kernels", "isa"])]
    pub(crate) backend: String,
    /// Every combination of cameras, threads and batches
    #[arg(long, conflicts_with_all = ["cameras", "threads", "batch", "kernels", "ceilings", "peers"])]
    full: bool,
    /// Timed runs of each configuration, after one that is not
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = count(1, 1000))]
    pub(crate) runs: usize,
    /// Let other engines take turns with ours: all, or those named, with commas between
    #[arg(long, value_name = "ENGINE,…", value_delimiter = ',', num_args = 0..)]
    #[arg(conflicts_with_all = ["kernels", "ceilings"])]
    pub(crate) peers: Option<Vec<String>>,
    /// Measure single operations at the model's shapes instead of whole chunks
    #[arg(long, conflicts_with_all = ["cameras", "batch", "checkpoint"])]
    pub(crate) kernels: bool,
    /// Measure only what this machine can do at most
    #[arg(long, conflicts_with_all = ["kernels", "cameras", "batch", "checkpoint", "precision", "isa"])]
    pub(crate) ceilings: bool,
    /// Add the rows to benchmarks/record/MACHINE/DATE.csv
    #[arg(long)]
    pub(crate) record: bool,
    /// Name of this machine's folder there [default: from its processor, as `epyc-2core`]
    #[arg(long, value_name = "NAME", value_parser = machine_name)]
    pub(crate) machine: Option<String>,
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

impl Arguments {
    /// The precisions and plans asked for, all offered.
    pub(crate) fn precisions(&self, capabilities: &Capabilities) -> Result<Vec<Choice>> {
        match &self.precision {
            Some(named) => named.iter().map(|name| Choice::new(name, capabilities)).collect(),
            None => Choice::all(capabilities),
        }
    }

    /// The instruction sets to force; one `None` where the engine chooses.
    pub(crate) fn isas(&self) -> Result<Vec<Option<String>>> {
        let Some(named) = &self.isa else { return Ok(vec![None]) };
        let available: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        if *named == ["all"] {
            return Ok(available.into_iter().map(|name| Some(name.to_owned())).collect());
        }
        if let Some(unknown) = named.iter().find(|name| !available.contains(&name.as_str())) {
            return Err(format!("--isa {unknown}: this processor offers {} and `all`", available.join(", ")));
        }
        Ok(named.iter().cloned().map(Some).collect())
    }

    pub(crate) fn axes(&self) -> Axes {
        Axes {
            cameras: self.cameras.clone(),
            threads: self.threads.clone(),
            batch: self.batch.clone(),
            full: self.full,
        }
    }

    /// The configurations to compare with peers: where none were named, one camera and one observation on all cores.
    pub(crate) fn compared(&self, mut configs: Vec<Config>) -> Vec<Config> {
        if self.cameras.is_none() && self.threads.is_none() && self.batch.is_none() {
            configs.retain(|config| (config.cameras, config.threads, config.batch) == (1, cores(), 1));
        }
        configs
    }

    /// Numbers of threads to measure ceilings and kernels with.
    pub(crate) fn threads_of(&self, configs: &[Config]) -> Vec<usize> {
        let mut threads = match &self.threads {
            Some(threads) => threads.clone(),
            None => configs.iter().map(|config| config.threads).chain([1, cores()]).collect(),
        };
        threads.sort_unstable();
        threads.dedup();
        threads
    }

    /// The most cameras that any configuration has.
    pub(crate) fn most_cameras(&self, configs: &[Config]) -> usize {
        configs.iter().map(|config| config.cameras).max().unwrap_or(1)
    }
}

fn count(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}

/// A name that stays within the folder of records.
fn machine_name(text: &str) -> Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("expected letters, digits, `-` and `_`".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use smolvla::Precision;

    use super::*;

    fn parse(words: &[&str]) -> std::result::Result<Arguments, String> {
        Arguments::try_parse_from(std::iter::once(&"bench").chain(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn lists_are_given_with_commas_and_bounded() {
        assert_eq!(parse(&["--cameras", "1,3"]).unwrap().cameras, Some(vec![1, 3]));
        for (flag, value) in [
            ("--cameras", "4"),
            ("--threads", "0"),
            ("--batch", "x"),
            ("--runs", "0"),
            ("--machine", "../up"),
        ] {
            let message = parse(&[flag, value]).unwrap_err();
            assert!(message.contains(flag) && message.contains(value), "{message}");
        }
        assert!(parse(&["--kernels", "--cameras", "1"]).is_err());
    }

    #[test]
    fn peers_are_all_or_those_named() {
        assert_eq!(parse(&[]).unwrap().peers, None);
        assert_eq!(parse(&["--peers"]).unwrap().peers, Some(Vec::new()));
        let named = parse(&["--peers", "lerobot-mixed,openvino-bf16", "--record"]).unwrap();
        assert_eq!(named.peers.unwrap(), ["lerobot-mixed", "openvino-bf16"]);
    }

    #[test]
    fn peers_are_compared_on_one_camera_unless_others_are_named() {
        let f32 = Choice { argument: "f32".to_owned(), plan: Precision::F32.into() };
        let compared = |words: &[&str]| {
            let arguments = parse(words).unwrap();
            let configs =
                crate::policy::configs(&arguments.axes(), std::slice::from_ref(&f32), &[None], cores());
            arguments.compared(configs)
        };
        let kept = compared(&["--peers"]);
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].cameras, kept[0].threads), (1, cores()));
        assert_eq!(compared(&["--peers", "--cameras", "1,3"]).len(), 2);
    }

    #[test]
    fn precisions_are_checked_against_the_engine() {
        let capabilities = Capabilities::new("cpu", "a device", [Precision::F32, Precision::Bf16]);
        assert_eq!(parse(&[]).unwrap().precisions(&capabilities).unwrap().len(), 2);
        let message = parse(&["--precision", "bf16,int3"]).unwrap().precisions(&capabilities).unwrap_err();
        assert!(message.starts_with("--precision int3: "), "{message}");
    }

    #[test]
    fn instruction_sets_are_those_of_this_processor() {
        assert_eq!(parse(&[]).unwrap().isas().unwrap(), [None]);
        assert_eq!(parse(&["--isa", "portable"]).unwrap().isas().unwrap(), [Some("portable".to_owned())]);
        assert!(!parse(&["--isa", "all"]).unwrap().isas().unwrap().is_empty());
        let message = parse(&["--isa", "mmx"]).unwrap().isas().unwrap_err();
        assert!(message.starts_with("--isa mmx: this processor offers portable"), "{message}");
    }
}

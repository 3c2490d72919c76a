//! The whole policy: which configurations are measured, and how engines take turns.

use std::path::Path;
use std::thread;
use std::time::Duration;

use smolvla::Precision;
use smolvla::checkpoint::Checkpoint;
use smolvla::count::{Workload, count, count_with_prefix};

use crate::ceiling::Ceilings;
use crate::engine::{Engine, Ready, Sample};
use crate::flops::{Stages, Work};
use crate::machine::scratch;
use crate::one::{One, What};
use crate::peers::{self, BASELINE, Peers};
use crate::precision::{Choice, arithmetic};
use crate::progress::Progress;
use crate::statistics::{median, range};
use crate::{Failures, Result};

/// One way to run this project's engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) precision: Choice,
    /// Forced; `None` lets the engine choose.
    pub(crate) isa: Option<String>,
    pub(crate) cameras: usize,
    pub(crate) batch: usize,
    pub(crate) threads: usize,
}

/// Values of the axes; `None` where the user named none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Axes {
    pub(crate) cameras: Option<Vec<usize>>,
    pub(crate) threads: Option<Vec<usize>>,
    pub(crate) batch: Option<Vec<usize>>,
    /// Every combination of 1, 2 and 3 cameras, one and all threads, and 1 and 4 observations.
    pub(crate) full: bool,
}

/// A row of the table of policies.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) engine: String,
    pub(crate) precision: String,
    pub(crate) isa: String,
    pub(crate) cameras: usize,
    pub(crate) batch: usize,
    pub(crate) threads: usize,
    pub(crate) runs: usize,
    /// Tokens of the prefix as computed, where the engine says.
    pub(crate) prefix_tokens: Option<usize>,
    /// Medians of the stages, where an engine can tell them apart, and of the whole.
    pub(crate) preprocess_ms: f64,
    pub(crate) stages_ms: Stages<Option<f64>>,
    pub(crate) total_ms: f64,
    pub(crate) total_min_ms: f64,
    pub(crate) total_max_ms: f64,
    pub(crate) load_s: f64,
    pub(crate) peak_memory_mb: f64,
    /// GFLOP/s; only of this project's engine, whose operations are counted.
    pub(crate) gflops: Stages<Option<f64>>,
    /// Of the time that the stage would take if each layer ran at the fastest instruction for its precision.
    pub(crate) percent_of_ceiling: Stages<Option<f64>>,
    /// GB/s of the expert's weights while denoising.
    pub(crate) denoise_weights_gb_s: Option<f64>,
    /// How many times faster than LeRobot in bfloat16: the median of the rounds' ratios.
    pub(crate) times_faster: Option<f64>,
    pub(crate) note: Option<String>,
}

/// What is measured, with what, and how often.
pub(crate) struct Session<'a> {
    /// Device of this project's engine.
    pub(crate) backend: &'a str,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) folder: &'a Path,
    pub(crate) configs: Vec<Config>,
    pub(crate) peers: Option<Peers>,
    pub(crate) runs: usize,
    pub(crate) ceilings: &'a Ceilings,
}

/// What engines have run before their times count.
const WARM_UP_RUNS: usize = 1;
/// Between two engines' turns: threads of some libraries spin for 200 ms after their last work.
const SETTLE: Duration = Duration::from_millis(300);
/// Tokens of an instruction of some words.
const USUAL_PROMPT_TOKENS: usize = 15;
/// For the estimate alone.
const ASSUMED_SHARE_OF_CEILING: f64 = 0.25;
const ASSUMED_LOAD_S: f64 = 3.0;
const ASSUMED_SECONDS_A_PICTURE: f64 = 1.0;

/// The configurations of each precision and instruction set: each axis varied by itself from one camera, one
/// observation and all threads, or every combination of what the user named.
pub(crate) fn configs(
    axes: &Axes,
    precisions: &[Choice],
    isas: &[Option<String>],
    cores: usize,
) -> Vec<Config> {
    let mut both = vec![1, cores];
    both.dedup();
    let points: Vec<[usize; 3]> = if axes.full {
        product(&[1, 2, 3], &both, &[1, 4])
    } else if axes.cameras.is_none() && axes.threads.is_none() && axes.batch.is_none() {
        let mut points = product(&[1, 2, 3], &[cores], &[1]);
        points.extend(product(&[1], &both, &[1, 4]).into_iter().filter(|[_, threads, batch]| {
            // One step away from one camera on all cores.
            (*threads == cores) != (*batch == 1)
        }));
        points
    } else {
        let or = |axis: &Option<Vec<usize>>, usual| axis.clone().unwrap_or_else(|| vec![usual]);
        product(&or(&axes.cameras, 1), &or(&axes.threads, cores), &or(&axes.batch, 1))
    };
    let mut configs = Vec::new();
    for isa in isas {
        for [cameras, threads, batch] in &points {
            configs.extend(precisions.iter().map(|precision| Config {
                precision: precision.clone(),
                isa: isa.clone(),
                cameras: *cameras,
                batch: *batch,
                threads: *threads,
            }));
        }
    }
    configs
}

fn product(cameras: &[usize], threads: &[usize], batches: &[usize]) -> Vec<[usize; 3]> {
    let mut points = Vec::new();
    for &batch in batches {
        for &threads in threads {
            points.extend(cameras.iter().map(|&cameras| [cameras, threads, batch]));
        }
    }
    points
}

impl Session<'_> {
    /// Seconds that this will take if the engine reaches a quarter of the ceiling; without the peers.
    pub(crate) fn estimate_s(&self) -> f64 {
        let one = |config: &Config| {
            let chunk_s = self.seconds_at_ceiling(config) / ASSUMED_SHARE_OF_CEILING;
            ASSUMED_LOAD_S + chunk_s * (WARM_UP_RUNS + self.runs) as f64
        };
        self.configs.iter().map(one).sum()
    }

    /// Measures everything. What fails is added to `failures` and has no row.
    pub(crate) fn run(&self, failures: &mut Failures) -> Vec<Row> {
        let groups = self.groups();
        let progress = Progress::new(groups.iter().flatten().map(|contender| self.units(contender)).sum());
        let rows = groups.iter().flat_map(|group| self.measure(group, &progress, failures)).collect();
        progress.finish();
        rows
    }

    /// Engines that are loaded together and take turns: with peers, all that do the same; otherwise each by itself.
    fn groups(&self) -> Vec<Vec<Contender>> {
        let Some(peers) = &self.peers else {
            return self.configs.iter().map(|config| vec![Contender::Own(config.clone())]).collect();
        };
        let mut groups: Vec<Vec<Contender>> = Vec::new();
        for config in &self.configs {
            let same = |group: &&mut Vec<Contender>| {
                group[0].point() == [config.cameras, config.batch, config.threads]
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(Contender::Own(config.clone())),
                None => groups.push(vec![Contender::Own(config.clone())]),
            }
        }
        for group in &mut groups {
            let [cameras, batch, threads] = group[0].point();
            let peer = |engine: &String| Contender::Peer { engine: engine.clone(), cameras, batch, threads };
            group.extend(peers.engines.iter().map(peer));
        }
        groups
    }

    fn measure(&self, group: &[Contender], progress: &Progress, failures: &mut Failures) -> Vec<Row> {
        let mut turns = self.start(group, progress, failures);
        for round in 0..WARM_UP_RUNS + self.runs {
            turns.retain_mut(|turn| {
                progress.next(0, &turn.contender.describe());
                match turn.engine.run::<Sample>() {
                    Ok(sample) => {
                        turn.last = sample;
                        if round >= WARM_UP_RUNS {
                            turn.samples.push(sample);
                        }
                        progress.next(self.units_of_run(turn.contender), &turn.contender.describe());
                        if group.len() > 1 {
                            thread::sleep(SETTLE);
                        }
                        true
                    }
                    Err(reason) => {
                        failures.push(format!("{}: {reason}", turn.contender.describe()));
                        false
                    }
                }
            });
        }
        let baseline: Option<Vec<f64>> =
            turns.iter().find(|turn| turn.contender.is_baseline()).map(Turn::totals_ms);
        turns.iter().map(|turn| self.row(turn, baseline.as_deref())).collect()
    }

    /// Loads them one after the other.
    fn start<'g>(
        &self,
        group: &'g [Contender],
        progress: &Progress,
        failures: &mut Failures,
    ) -> Vec<Turn<'g>> {
        let mut turns = Vec::with_capacity(group.len());
        for contender in group {
            progress.next(0, &format!("loading {}", contender.describe()));
            let started = self.engine(contender).and_then(|mut engine| Ok((engine.ready()?, engine)));
            match started {
                Ok((ready, engine)) => {
                    turns.push(Turn {
                        contender,
                        engine,
                        ready,
                        samples: Vec::new(),
                        last: Sample::default(),
                    });
                }
                Err(reason) => failures.push(reason),
            }
        }
        turns
    }

    fn engine(&self, contender: &Contender) -> Result<Engine> {
        let log = |name: &str| scratch().join(format!("{name}.log"));
        match contender {
            Contender::Own(config) => {
                let one = One {
                    what: What::Policy,
                    checkpoint: Some(self.folder.to_owned()),
                    cameras: config.cameras,
                    batch: config.batch,
                    precision: config.precision.argument.clone(),
                    backend: self.backend.to_owned(),
                };
                let mut command = one.command(config.threads, config.isa.as_deref())?;
                // A plan is named by its file.
                let file = config.precision.name().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
                Engine::start(&contender.describe(), &mut command, &log(&format!("smolvla-{file}")))
            }
            Contender::Peer { engine, cameras, batch, threads } => {
                let peers = self.peers.as_ref().expect("only a session with peers has one in a group");
                let mut command = peers.command(engine, self.folder, *threads, *cameras, *batch);
                Engine::start(engine, &mut command, &log(engine))
            }
        }
    }

    fn row(&self, turn: &Turn<'_>, baseline: Option<&[f64]>) -> Row {
        // An engine tells a stage always or never.
        let stage = |of: fn(&Sample) -> Option<f64>| {
            let times: Option<Vec<f64>> = turn.samples.iter().map(of).collect();
            times.map(median)
        };
        let totals = turn.totals_ms();
        let (total_min_ms, total_max_ms) = range(totals.iter().copied());
        let [cameras, batch, threads] = turn.contender.point();
        let (engine, precision) = match turn.contender {
            Contender::Own(config) => (format!("smolvla {}", self.backend), config.precision.name()),
            Contender::Peer { engine, .. } => (engine.clone(), peers::precision(engine)),
        };
        let mut row = Row {
            engine,
            precision: precision.to_owned(),
            isa: turn.ready.isa.clone().unwrap_or_default(),
            cameras,
            batch,
            threads,
            runs: turn.samples.len(),
            preprocess_ms: median(turn.samples.iter().map(|sample| sample.preprocess_ms)),
            stages_ms: Stages {
                vision: stage(|sample| sample.vision_ms),
                prefill: stage(|sample| sample.prefill_ms),
                denoise: stage(|sample| sample.denoise_ms),
            },
            total_ms: median(totals.iter().copied()),
            total_min_ms,
            total_max_ms,
            load_s: turn.ready.load_s,
            peak_memory_mb: turn.last.peak_memory_mb,
            prefix_tokens: turn.last.prefix_tokens,
            gflops: Stages::default(),
            percent_of_ceiling: Stages::default(),
            denoise_weights_gb_s: None,
            times_faster: baseline
                .map(|baseline| median(baseline.iter().zip(&totals).map(|(theirs, own)| theirs / own))),
            note: turn.note(),
        };
        if let Contender::Own(config) = turn.contender {
            self.add_rates(&mut row, config, turn.last.prefix_tokens);
        }
        row
    }

    fn add_rates(&self, row: &mut Row, config: &Config, prefix_tokens: Option<usize>) {
        let Some(work) = self.work(config, prefix_tokens) else { return };
        let plan = &config.precision.plan;
        row.gflops = work.zip(&row.stages_ms, |work, ms| Some(work.flops() / 1e6 / (*ms)?));
        row.percent_of_ceiling = work.zip(&row.stages_ms, |work, ms| {
            Some(100.0 * 1e3 * work.seconds_at(plan, |precision| self.ceiling(precision, config))? / (*ms)?)
        });
        let bytes = work.denoise.weight_bytes(plan);
        row.denoise_weights_gb_s = bytes.zip(row.stages_ms.denoise).map(|(bytes, ms)| bytes / 1e6 / ms);
    }

    fn ceiling(&self, precision: Precision, config: &Config) -> Option<f64> {
        self.ceilings.of(arithmetic(precision)?, config.threads)
    }

    /// The work of a chunk; where the prefix's length is not known, that of a usual instruction is taken. `None` where
    /// there are more pictures than the count takes.
    fn work(&self, config: &Config, prefix_tokens: Option<usize>) -> Option<Stages<Work>> {
        let policy = &self.checkpoint.config;
        let workload = Workload {
            batch: config.batch,
            cameras: config.cameras,
            prompt_tokens: USUAL_PROMPT_TOKENS,
            ..Workload::of(policy)
        };
        let architecture = &self.checkpoint.architecture;
        let trace = match prefix_tokens {
            Some(tokens) => count_with_prefix(policy, architecture, &workload, tokens),
            None => count(policy, architecture, &workload),
        };
        Some(Stages::of(&trace.ok()?))
    }

    /// Seconds of a chunk if every layer ran at the ceiling; a guess where that is not known.
    fn seconds_at_ceiling(&self, config: &Config) -> f64 {
        let Some(work) = self.work(config, None) else {
            return ASSUMED_SECONDS_A_PICTURE * config.batch as f64;
        };
        work.seconds_at(&config.precision.plan, |precision| self.ceiling(precision, config))
            .unwrap_or_else(|| work.flops() / 100e9)
    }

    /// What a contender adds to the bar in all.
    fn units(&self, contender: &Contender) -> u64 {
        self.units_of_run(contender) * (WARM_UP_RUNS + self.runs) as u64
    }

    /// Microseconds at the ceiling, so that a bar over several precisions moves evenly. A peer counts as one in f32.
    fn units_of_run(&self, contender: &Contender) -> u64 {
        let config = match contender {
            Contender::Own(config) => config.clone(),
            Contender::Peer { cameras, batch, threads, .. } => Config {
                precision: Choice { argument: String::new(), plan: Precision::F32.into() },
                isa: None,
                cameras: *cameras,
                batch: *batch,
                threads: *threads,
            },
        };
        (1e6 * self.seconds_at_ceiling(&config)) as u64
    }
}

/// One that takes part in a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Contender {
    Own(Config),
    Peer { engine: String, cameras: usize, batch: usize, threads: usize },
}

impl Contender {
    /// Cameras, observations and threads.
    fn point(&self) -> [usize; 3] {
        match self {
            Self::Own(config) => [config.cameras, config.batch, config.threads],
            Self::Peer { cameras, batch, threads, .. } => [*cameras, *batch, *threads],
        }
    }

    fn is_baseline(&self) -> bool {
        matches!(self, Self::Peer { engine, .. } if engine == BASELINE)
    }

    fn describe(&self) -> String {
        let what = match self {
            Self::Own(config) => {
                let isa = config.isa.as_ref().map(|isa| format!(" on {isa}")).unwrap_or_default();
                format!("smolvla {}{isa}", config.precision.name())
            }
            Self::Peer { engine, .. } => engine.clone(),
        };
        let [cameras, batch, threads] = self.point();
        format!("{what}, cameras {cameras}, batch {batch}, threads {threads}")
    }
}

/// An engine in a comparison, loaded.
struct Turn<'g> {
    contender: &'g Contender,
    engine: Engine,
    ready: Ready,
    samples: Vec<Sample>,
    /// The latest, counted or not.
    last: Sample,
}

impl Turn<'_> {
    /// A peer's versions and its own note; of this project's engine the head of the table says as much.
    fn note(&self) -> Option<String> {
        if matches!(self.contender, Contender::Own(_)) {
            return None;
        }
        let versions = self.ready.versions.iter().map(|(name, version)| format!("{name} {version}"));
        let parts: Vec<String> = versions.chain(self.ready.note.clone()).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn totals_ms(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.total_ms).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(precision: Precision) -> Choice {
        Choice { argument: precision.name().to_owned(), plan: precision.into() }
    }

    fn points(axes: &Axes, cores: usize) -> Vec<[usize; 3]> {
        configs(axes, &[choice(Precision::F32)], &[None], cores)
            .iter()
            .map(|config| [config.cameras, config.threads, config.batch])
            .collect()
    }

    #[test]
    fn without_flags_each_axis_is_varied_by_itself() {
        let expected = [[1, 2, 1], [2, 2, 1], [3, 2, 1], [1, 1, 1], [1, 2, 4]];
        assert_eq!(points(&Axes::default(), 2), expected);
        // One core: one thread is all threads.
        assert_eq!(points(&Axes::default(), 1), [[1, 1, 1], [2, 1, 1], [3, 1, 1], [1, 1, 4]]);
    }

    #[test]
    fn flags_are_multiplied() {
        let axes = Axes { cameras: Some(vec![1, 3]), batch: Some(vec![1, 4]), ..Axes::default() };
        assert_eq!(points(&axes, 8), [[1, 8, 1], [3, 8, 1], [1, 8, 4], [3, 8, 4]]);
        assert_eq!(points(&Axes { full: true, ..Axes::default() }, 2).len(), 12);
    }

    #[test]
    fn precisions_of_a_point_stand_together() {
        let precisions = [choice(Precision::F32), choice(Precision::Bf16)];
        let isas = [None, Some("avx2".to_owned())];
        let configs = configs(&Axes { threads: Some(vec![1]), ..Axes::default() }, &precisions, &isas, 2);
        let names: Vec<_> =
            configs.iter().map(|config| (config.precision.name(), config.isa.as_deref())).collect();
        assert_eq!(names, [("f32", None), ("bf16", None), ("f32", Some("avx2")), ("bf16", Some("avx2"))]);
    }
}

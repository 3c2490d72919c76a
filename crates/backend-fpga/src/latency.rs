//! What a chunk would take on a U280 with several compute units: a model. **Nothing here is measured**: no card was at hand, nothing was
//! placed or routed, and the clock is assumed.
//!
//! [`Recording`] runs a policy's graph on a device that computes nothing and remembers the descriptors; [`Latency`] prices them.
//!
//! - **Compute**: [`crate::cycles`] of each descriptor over the clock.
//! - **Memory**: all bytes that a descriptor moves, both ways, through its unit's one AXI port, which belongs to one pseudo-channel of the HBM:
//!   14.375 GB/s, of which the share of 425 of 460 GB/s is attained (Wang et al., *Shuhai*, FCCM 2020, on a U280). What of it lies in
//!   another unit's channel crosses the HBM's switch and is counted as if that cost nothing: activations are shared, weights lie with the
//!   unit that has their panels.
//! - A descriptor takes the longer of the two. The memory of [`crate::cycles`] gives a beat of 64 bytes a cycle, 19.2 GB/s at 300 MHz, so that where the
//!   channel is slower the product's own overlap of loading and computing is not counted twice but lost sight of: times are a lower bound
//!   there.
//! - **Several units**: each descriptor is split, products by tiles of rows or by panels, all else by rows; or, where a sequence of
//!   descriptors repeats without needing what an earlier repetition wrote (the heads of an attention), whole repetitions are dealt to the
//!   units, whichever is faster. After each split descriptor the units wait for each other, [`BARRIER`]. **The design has
//!   no such barrier yet**: what there is today is one unit, or several that each serve another robot.
//! - **Host**: what a chunk uploads and downloads, over PCIe at [`PCIE`] with [`TRANSFER`] each. *Assumed.*

use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smolvla_core::Precision;
use smolvla_core::backend::{Backend, Execution};
use smolvla_core::checkpoint;
use smolvla_core::config::{Architecture, PolicyConfig};
use smolvla_core::graph::{self, CameraInput, Model, ModelInput, Observer, Parameters, PrefixLayout, Site};
use smolvla_core::synth::{self, Size, SynthOptions};
use smolvla_core::weights::{StorageType, TensorView};
use smolvla_core::{Error, Result};

use crate::FpgaBackend;
use crate::cycles;
use crate::descriptor::{Descriptor, Flags, Op, TILE_COLS, TILE_ROWS};
use crate::device::{Counters, DeviceError, DeviceInfo, FpgaDevice};
use crate::resources;

/// Bytes a second of a pseudo-channel.
pub const CHANNEL: f64 = 14.375e9;

/// The share of it that is attained: Shuhai measured 425 of 460 GB/s.
pub const ATTAINED: f64 = 425.0 / 460.0;

/// Cycles in which units wait for each other after a descriptor that they share. *Assumed*: a write that the others poll for.
pub const BARRIER: u64 = 2 * cycles::LATENCY + 20;

/// Bytes a second between host and card. *Assumed*, for PCIe 3.0 with 16 lanes.
pub const PCIE: f64 = 12e9;

/// Seconds of a transfer besides its bytes. *Assumed.*
pub const TRANSFER: f64 = 30e-6;

/// A part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Patch embedding and vision tower.
    Vision,
    /// Pixel shuffle and projection to image tokens.
    Connector,
    /// Prefix, language model, and the expert's projections of its keys and values.
    Prefix,
    /// Denoising steps.
    Denoise,
}

impl Part {
    /// Every part, in the order of execution.
    pub const ALL: [Self; 4] = [Self::Vision, Self::Connector, Self::Prefix, Self::Denoise];

    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Connector => "connector",
            Self::Prefix => "language model, prefix",
            Self::Denoise => "denoising, 10 steps",
        }
    }
}

/// The descriptors of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Streams with the part that each is of, in order.
    pub streams: Vec<(Part, Vec<Descriptor>)>,
    /// Bytes of each transfer from and to the host.
    pub transfers: Vec<u64>,
}

/// A policy with no values, whose graph is run to record its descriptors.
pub struct Recorder {
    model: Model<FpgaBackend<Collector>>,
    collector: Collector,
    policy: PolicyConfig,
    architecture: Architecture,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("architecture", &self.architecture).finish_non_exhaustive()
    }
}

impl Recorder {
    /// The published model at a precision, as the backend prepares it: by the plan of that name.
    ///
    /// # Errors
    /// Where the backend refuses a layer.
    pub fn of_base(precision: Precision) -> Result<Self> {
        Self::of(Size::Base, precision)
    }

    fn of(size: Size, precision: Precision) -> Result<Self> {
        let (policy, architecture) = synth::sizes(&SynthOptions { size, ..SynthOptions::default() })?;
        let collector = Collector::default();
        let backend = FpgaBackend::new(collector.clone());
        let plans = backend.capabilities().plans;
        let plan = plans.into_iter().find(|plan| plan.name() == Some(precision.name()));
        let plan = plan.unwrap_or_else(|| precision.into());
        let backend = backend.with_plan(&plan)?;
        let model =
            graph::load(backend, &architecture, &plan, &Zeros::of(&policy, &architecture), &mut |_| ())?;
        Ok(Self { model, collector, policy, architecture })
    }

    /// The second chunk of so many cameras: the first one also embeds the times of all steps, which are then kept.
    ///
    /// # Errors
    /// Where the graph fails.
    pub fn record(&mut self, cameras: usize) -> Result<Recording> {
        let side = self
            .policy
            .resize_imgs_with_padding
            .map_or(self.architecture.vision.image_size, |(width, _)| width);
        let image = vec![0.0; self.architecture.vision.channels * side * side];
        let tokens = self.policy.tokenizer_max_length;
        let input = ModelInput {
            batch: 1,
            cameras: vec![CameraInput { side, images: vec![image], present: vec![true] }; cameras],
            tokens: vec![0; tokens],
            token_mask: vec![true; tokens],
            token_length: tokens,
            state: vec![0.0; self.architecture.max_state_dim],
            noise: vec![0.0; self.architecture.chunk_size * self.architecture.max_action_dim],
            steps: self.policy.num_steps,
            prefix_length: 0,
            layout: PrefixLayout::Packed,
        };
        let actions = (self.architecture.chunk_size * self.architecture.max_action_dim * 4) as u64;
        let mut recording = Recording::default();
        for _ in 0..2 {
            self.collector.take();
            let mut boundaries =
                Boundaries { collector: self.collector.clone(), recording: Recording::default() };
            self.model.run(&input, &mut boundaries)?;
            recording = boundaries.recording;
            let (stream, transfers) = self.collector.take();
            recording.add(Part::Denoise, stream, transfers);
        }
        recording.transfers.push(actions);
        Ok(recording)
    }
}

impl Recording {
    fn add(&mut self, part: Part, stream: Vec<Descriptor>, transfers: Vec<u64>) {
        self.streams.push((part, stream));
        self.transfers.extend(transfers);
    }

    /// Descriptors of a part.
    pub fn of(&self, part: Part) -> impl Iterator<Item = &Descriptor> {
        self.streams.iter().filter(move |(own, _)| *own == part).flat_map(|(_, stream)| stream)
    }
}

/// Asks for values at the parts' borders: the backend then runs what it has put off.
struct Boundaries {
    collector: Collector,
    recording: Recording,
}

impl Observer for Boundaries {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::VisionOutput | Site::Connector | Site::Actions { .. })
    }

    fn value(&mut self, site: Site, _rows: usize, _cols: usize, _values: Vec<f32>) {
        let part = match site {
            Site::VisionOutput => Part::Vision,
            Site::Connector => Part::Connector,
            Site::Actions { step: 0 } => Part::Prefix,
            _ => Part::Denoise,
        };
        let (stream, transfers) = self.collector.take();
        self.recording.add(part, stream, transfers);
    }
}

/// A device that computes nothing and remembers what it was asked. Whatever is read from it is zeros.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    collected: Arc<Mutex<(Vec<Descriptor>, Vec<u64>)>>,
}

impl Collector {
    /// Descriptors, and bytes of each write, since the last time.
    pub fn take(&self) -> (Vec<Descriptor>, Vec<u64>) {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Descriptor>, Vec<u64>)> {
        // Entries are added whole.
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FpgaDevice for Collector {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "nothing: descriptors are collected, not run".to_owned(),
            driver: None,
            execution: Execution::Emulated("nothing: every number that comes out is zero".to_owned()),
        }
    }

    fn write(&self, _address: u64, bytes: &[u8]) -> std::result::Result<(), DeviceError> {
        self.lock().1.push(bytes.len() as u64);
        Ok(())
    }

    fn read(&self, _address: u64, bytes: &mut [u8]) -> std::result::Result<(), DeviceError> {
        bytes.fill(0);
        Ok(())
    }

    fn run(&self, stream: &[Descriptor]) -> std::result::Result<Counters, DeviceError> {
        self.lock().0.extend_from_slice(stream);
        Ok(Counters::default())
    }
}

/// Parameters of the right shapes, all zeros.
struct Zeros {
    tensors: Vec<(String, usize, usize)>,
    zeros: Vec<u8>,
}

impl Zeros {
    fn of(policy: &PolicyConfig, architecture: &Architecture) -> Self {
        let tensors: Vec<_> = checkpoint::expected(policy, architecture)
            .into_iter()
            .map(|tensor| match tensor.shape()[..] {
                [cols] => (tensor.name, 1, cols),
                ref shape => (tensor.name.clone(), shape[0], shape[1..].iter().product()),
            })
            .collect();
        let largest = tensors.iter().map(|(_, rows, cols)| rows * cols).max().unwrap_or(0);
        Self { tensors, zeros: vec![0; StorageType::Bf16.bytes_of(largest)] }
    }
}

impl Parameters for Zeros {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let absent = || Error::Tensor {
            file: "the architecture".into(),
            tensor: name.to_owned(),
            reason: "there is no such parameter".to_owned(),
        };
        let (_, rows, cols) = self.tensors.iter().find(|(own, ..)| own == name).ok_or_else(absent)?;
        let bytes = &self.zeros[..StorageType::Bf16.bytes_of(rows * cols)];
        TensorView::new(StorageType::Bf16, *rows, *cols, bytes).ok_or_else(absent)
    }
}

/// On what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Compute units.
    pub units: u64,
    /// Their clock in hertz. *Assumed*, whatever it is.
    pub clock: f64,
}

impl Settings {
    /// As many units as fit, at 300 MHz.
    pub fn card() -> Self {
        Self { units: resources::fit().units, clock: 300e6 }
    }

    /// Bytes a second that a unit's port gives it.
    pub fn bandwidth(&self) -> f64 {
        (CHANNEL * ATTAINED).min(64.0 * self.clock)
    }
}

/// Seconds, by what they pass with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Products, where computing takes longer than memory.
    pub array: f64,
    /// All else, where it takes longer than memory.
    pub vector: f64,
    /// Whatever memory takes longer for.
    pub memory: f64,
    /// Descriptors: reading them, and waiting for other units.
    pub control: f64,
    /// Cycles in which the arrays of all units multiply, over the clock and the units: the least that products can take.
    pub least: f64,
}

impl Times {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.array + self.vector + self.memory + self.control
    }

    /// What most of it passes with.
    pub fn bound(&self) -> &'static str {
        let all = [
            (self.array, "products"),
            (self.vector, "vector engine"),
            (self.memory, "HBM"),
            (self.control, "descriptors"),
        ];
        all.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, name)| name)
    }

    fn add(&mut self, other: &Self) {
        self.array += other.array;
        self.vector += other.vector;
        self.memory += other.memory;
        self.control += other.control;
        self.least += other.least;
    }
}

/// What a chunk would take. **Modelled.**
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// On what.
    pub settings: Settings,
    /// By part, as [`Part::ALL`].
    pub parts: [Times; 4],
    /// Transfers from and to the host, in seconds.
    pub host: f64,
}

impl Latency {
    /// Prices a recording.
    pub fn of(recording: &Recording, settings: Settings) -> Self {
        let mut parts = [Times::default(); 4];
        for (part, stream) in &recording.streams {
            parts[*part as usize].add(&price(stream, &settings));
        }
        let host = recording.transfers.iter().map(|bytes| *bytes as f64 / PCIE + TRANSFER).sum();
        Self { settings, parts, host }
    }

    /// Seconds of the whole chunk.
    pub fn total(&self) -> f64 {
        self.parts.iter().map(Times::total).sum::<f64>() + self.host
    }
}

fn price(stream: &[Descriptor], settings: &Settings) -> Times {
    let mut times = Times::default();
    let mut at = 0;
    while at < stream.len() {
        let (period, count) = repetition(&stream[at..]);
        let group = &stream[at..at + period * count as usize];
        let split: Vec<Times> = group.iter().map(|d| shared(d, settings, settings.units)).collect();
        let split = sum(&split);
        let best = if count > 1 && settings.units > 1 {
            // Units that are left over share a repetition.
            let each = (settings.units / count).max(1);
            let rounds = count.div_ceil(settings.units);
            let mut dealt =
                sum(&stream[at..at + period].iter().map(|d| shared(d, settings, each)).collect::<Vec<_>>());
            let rounds = rounds as f64;
            dealt.array *= rounds;
            dealt.vector *= rounds;
            dealt.memory *= rounds;
            dealt.control = dealt.control * rounds + BARRIER as f64 / settings.clock;
            dealt.least = split.least;
            if dealt.total() < split.total() { dealt } else { split }
        } else {
            split
        };
        times.add(&best);
        at += group.len();
    }
    times.control += stream.len().div_ceil(16) as f64 * cycles::FETCH as f64 / settings.clock;
    times
}

fn sum(all: &[Times]) -> Times {
    let mut times = Times::default();
    all.iter().for_each(|own| times.add(own));
    times
}

/// A descriptor on `units` units: the time of the one with most of it.
fn shared(d: &Descriptor, settings: &Settings, units: u64) -> Times {
    let of = |d: &Descriptor| {
        let cost = cycles::of(d);
        let compute = cost.cycles as f64 / settings.clock;
        let memory = 64.0 * (cost.beats_read + cost.beats_written) as f64 / settings.bandwidth();
        (compute, memory)
    };
    let pieces = pieces(d, units);
    let fastest = pieces.iter().map(of).min_by(|a, b| a.0.max(a.1).total_cmp(&b.0.max(b.1)));
    let (compute, memory) = fastest.unwrap_or_else(|| of(d));
    let barrier = if units > 1 { BARRIER } else { 0 };
    let mut times = Times {
        control: (cycles::DISPATCH + barrier) as f64 / settings.clock,
        least: cycles::of(d).array as f64 / settings.clock / settings.units as f64,
        ..Times::default()
    };
    if memory > compute {
        times.memory = memory;
    } else if d.op == Op::Gemm {
        times.array = compute;
    } else {
        times.vector = compute;
    }
    times
}

/// The largest piece of a descriptor, for each way to split it.
fn pieces(d: &Descriptor, units: u64) -> Vec<Descriptor> {
    let share = |whole: u32, unit: usize| {
        let parts = whole.div_ceil(unit as u32);
        (parts.div_ceil(units as u32) * unit as u32).min(whole)
    };
    let by_rows = |unit| Descriptor { rows: share(d.rows, unit), ..*d };
    match d.op {
        Op::Gemm => vec![by_rows(TILE_ROWS), Descriptor { cols: share(d.cols, TILE_COLS), ..*d }],
        Op::Quantise if d.flags.has(Flags::TRANSPOSE) => vec![by_rows(16)],
        Op::Copy => vec![by_rows(1), Descriptor { depth: share(d.depth, 1), ..*d }],
        _ => vec![by_rows(1)],
    }
}

/// Longest sequence that is looked for: queries, scores, softmax and values of the heads that share keys.
const PERIOD: usize = 12;

/// The sequence that repeats from the beginning of a stream, and how often: the one that covers most. Repetitions have equal
/// shapes, and none reads what an earlier one wrote.
fn repetition(stream: &[Descriptor]) -> (usize, u64) {
    let mut best = (1, 1);
    for period in 1..=PERIOD.min(stream.len() / 2) {
        let first = &stream[..period];
        let mut count = 1;
        while let Some(next) = stream.get(count * period..(count + 1) * period) {
            let alike = first.iter().zip(next).all(|(a, b)| shape(a) == shape(b));
            if !alike || depends(&stream[..count * period], next) {
                break;
            }
            count += 1;
        }
        if count > 1 && period * count > best.0 * best.1 {
            best = (period, count);
        }
    }
    (best.0, best.1 as u64)
}

/// What cycles follow from, addresses apart.
fn shape(d: &Descriptor) -> (Op, Flags, [u32; 3]) {
    (d.op, d.flags, [d.rows, d.cols, d.depth])
}

/// Whether `next` reads what `earlier` wrote and it has not written itself before.
fn depends(earlier: &[Descriptor], next: &[Descriptor]) -> bool {
    let ranges = |d: &Descriptor, writes: bool| {
        let operands = d.operands();
        let regions = if writes { operands.writes } else { operands.reads };
        regions.into_iter().map(|region| (region.start, region.start + region.extent())).collect::<Vec<_>>()
    };
    let mut own: Vec<(u64, u64)> = Vec::new();
    for d in next {
        for (start, end) in ranges(d, false) {
            if own.iter().any(|(from, to)| *from <= start && end <= *to) {
                continue;
            }
            if earlier.iter().flat_map(|d| ranges(d, true)).any(|(from, to)| from < end && start < to) {
                return true;
            }
        }
        own.extend(ranges(d, true));
    }
    false
}

fn ms(seconds: f64) -> String {
    let value = seconds * 1e3;
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Parts of each latency, in Markdown, with what each is bound by.
pub fn stages_table(latencies: &[(&str, Latency)]) -> String {
    let mut text = "| modelled, ms |".to_owned();
    for part in Part::ALL {
        let _ = write!(text, " {} |", part.name());
    }
    text.push_str(
        " host transfers | chunk | least for the products |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (name, latency) in latencies {
        let _ = write!(text, "| {name} |");
        for times in &latency.parts {
            let _ = write!(text, " {}, {} |", ms(times.total()), times.bound());
        }
        let least = latency.parts.iter().map(|times| times.least).sum::<f64>();
        let _ = writeln!(text, " {} | {} | {} |", ms(latency.host), ms(latency.total()), ms(least));
    }
    text
}

/// Where the time of each latency goes, in Markdown.
pub fn bounds_table(latencies: &[(&str, Latency)]) -> String {
    let mut text = "| share of the time that passes with | products | vector engine | HBM | descriptors, barriers |\n|---|---:|---:|---:|---:|\n".to_owned();
    for (name, latency) in latencies {
        for (part, times) in Part::ALL.iter().zip(&latency.parts) {
            let share = |own: f64| format!("{:.0} %", own / times.total() * 100.0);
            let _ = writeln!(
                text,
                "| {name}, {} | {} | {} | {} | {} |",
                part.name(),
                share(times.array),
                share(times.vector),
                share(times.memory),
                share(times.control)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(rows: u32, depth: u32, cols: u32) -> Descriptor {
        Descriptor { rows, depth, cols, ..Descriptor::new(Op::Gemm) }
    }

    #[test]
    fn more_units_and_a_faster_clock_take_less_time() {
        let stream =
            [product(1024, 768, 3072), Descriptor { rows: 1024, cols: 768, ..Descriptor::new(Op::Norm) }];
        let of = |units, clock| price(&stream, &Settings { units, clock }).total();
        assert!(of(1, 300e6) > of(2, 300e6) && of(2, 300e6) > of(8, 300e6));
        assert!(of(8, 200e6) > of(8, 250e6));
        // Eight units are less than eight times as fast: tiles do not divide, and they wait for each other.
        assert!(of(8, 300e6) * 8.0 > of(1, 300e6));
        let times = price(&stream, &Settings { units: 4, clock: 300e6 });
        assert!(times.least <= times.array && times.array + times.vector <= times.total());
    }

    #[test]
    fn heads_are_dealt_and_layers_are_not() {
        // Two heads: each writes the same place for scores, and its own result.
        let head = |i: u64| {
            let scores = Descriptor {
                source: [i << 12, 0x10_0000, 0x20_0000 + (i << 12), 0x30_0000],
                destination: [0x40_0000, 0],
                pitch: [64, 64, 64],
                flags: Flags::ROWS,
                ..product(10, 64, 16)
            };
            let values = Descriptor {
                source: [0x40_0000, 0x10_0000, 0x50_0000, 0x30_0000],
                destination: [0x60_0000 + (i << 12), 0],
                ..scores
            };
            [scores, values]
        };
        let heads: Vec<Descriptor> = (0..4).flat_map(head).collect();
        assert_eq!(repetition(&heads), (2, 4));
        // Layers: each reads what the one before wrote.
        let layer = |i: u64| Descriptor {
            source: [i << 16, 0x100_0000, 0x200_0000, 0x300_0000],
            destination: [(i + 1) << 16, 0],
            pitch: [64, 0, 64],
            ..product(10, 64, 16)
        };
        let layers: Vec<Descriptor> = (0..4).map(layer).collect();
        assert_eq!(repetition(&layers), (1, 1));
    }

    #[test]
    fn a_recorded_chunk_has_the_products_of_the_graph() {
        let (policy, architecture) =
            synth::sizes(&SynthOptions { size: Size::Tiny, ..SynthOptions::default() }).unwrap();
        let workload =
            smolvla_core::count::Workload { cameras: 2, ..smolvla_core::count::Workload::of(&policy) };
        let trace = smolvla_core::count::count(&policy, &architecture, &workload).unwrap();
        let counted: u64 = trace
            .ops
            .iter()
            .filter(|op| &*op.layer != "expert.time")
            .map(smolvla_core::count::Op::macs)
            .sum();
        let mut recorder = Recorder::of(Size::Tiny, Precision::Int8).unwrap();
        let recording = recorder.record(2).unwrap();
        let products = |part| {
            let products = recording.of(part).filter(|d: &&Descriptor| d.op == Op::Gemm);
            products.map(|d| u64::from(d.rows) * u64::from(d.cols) * u64::from(d.depth)).sum::<u64>()
        };
        assert_eq!(Part::ALL.map(products).iter().sum::<u64>(), counted);
        assert!(Part::ALL.iter().all(|part| products(*part) > 0));
        let latency = Latency::of(&recording, Settings { units: 2, clock: 300e6 });
        assert!(latency.host > 0.0 && latency.total() > latency.host);
    }
}

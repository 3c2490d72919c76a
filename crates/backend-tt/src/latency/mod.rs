//! What a chunk would take on a Blackhole p150: a model, from the vendor's published figures. **Nothing here is
//! measured**, and every table says "modelled".
//!
//! A [`Trace`] says which operations a chunk consists of, a [`Plan`] in what numbers each of them is stored and
//! computed, and [`Settings`] on how many cores, with what floor, and what is one kernel. A kernel takes
//!
//! > max(cycles / clock, bytes / bandwidth) + floor
//!
//! - **Matrix cycles**: the 32×32 tiles of a result are dealt to the cores, `ceil(rows · columns / cores)` to the
//!   fullest of them; each tile takes `depth` tile products of 16, 32, 48 or 64 cycles (LoFi to HiFi4). No
//!   product is faster than at the attained share of the peak, see [`Card::attained`].
//! - **Vector cycles** come on top, since one thread of a core (TRISC1) issues both: 32 lanes, an instruction a cycle
//!   for each of the operations that [`smolvla_core::count`](mod@smolvla_core::count) counts, at
//!   [`Card::vector_attained`]. Elementwise work is dealt by tile; norms and softmax by row of tiles, because a row
//!   is reduced on one core.
//! - **Bytes**: weights come from GDDR6 once for each use, and so do activations, both ways, which is where the
//!   vendor's library puts them unless told otherwise; [`Activations::L1`] leaves them on chip. All lie in tiles,
//!   padded to 32×32; biases and gains are rows of f32. Within a kernel everything stays in L1.
//! - **Floor**: the time between kernels, [`Launch`].
//!
//! # Why the floor is added
//!
//! In [`smolvla_core::cost`] a floor is a minimum, for every device alike. Here it comes on top of the work, because
//! that is what the vendor's figures say: of all 39 traced products with default settings (bf16 at HiFi2, bfp8 and bfp4
//! at LoFi, 640×704×704 to 5120×5632×5632, on 110 cores) this model with 12 µs on top gives 0.73 to 1.17 times the
//! published time, and with 12 µs as a minimum 0.46 to 1.03 times. A test holds it to that. Source: Tenstorrent,
//! tt-metal tech report *Matrix Multiply FLOPS*, "P150 Out of Box Results (11×10 grid)"
//! (<https://github.com/tenstorrent/tt-metal/blob/main/tech_reports/GEMM_FLOPS/GEMM_FLOPS.md>).
//!
//! # What it leaves out
//!
//! What runs on the host: cutting pictures into patches, looking tokens up, Euler steps; transfers over PCIe, the
//! time half of the time MLP (kept from an earlier chunk), contention of cores for GDDR6 and the network on chip,
//! overlap of kernels, and changes of layout and format between kernels beyond those of [`Fusing`].
//!
//! `data/latency.md` beside this crate's sources has the totals of the published model; a test keeps it up to date
//! (`SMOLVLA_WRITE_DOCS=1 cargo test -p smolvla-backend-tt latency`).
//!
//! ```
//! use smolvla_backend_tt::Plan;
//! use smolvla_backend_tt::latency::{Latency, Settings};
//! use smolvla_core::graph::Stage;
//!
//! let plan = Plan::named("balanced").expect("one of the built-in plans");
//! let latency = Latency::of_base(1, &plan, &Settings::default())?;
//! assert!(latency.stage(Stage::Denoise).total > latency.stage(Stage::Prefill).total);
//! assert!(latency.to_string().starts_with("modelled"));
//! # Ok::<(), smolvla_core::Error>(())
//! ```

mod kernels;
mod table;
#[cfg(test)]
mod tests;

use smolvla_core::Error;
use smolvla_core::cost::{Bound, BoundBy};
use smolvla_core::count::{Product, Trace, Workload, count};
use smolvla_core::graph::Stage;
use smolvla_core::synth::{self, Size, SynthOptions};

use self::kernels::{Formats, Vector, Work, works};
pub use self::table::{Table, compare};
use crate::plan::Plan;
use crate::tensix::Fidelity;

/// Side of a tile.
const TILE: u64 = 32;
/// Operations of a core in a cycle at LoFi: a matrix engine multiplies 8×16 by 16×16.
const OPS_A_CYCLE: f64 = 4096.0;
/// Lanes of a core's vector unit.
const LANES: f64 = 32.0;

/// A p150: its cores, clock and memory.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Card {
    /// Tensix cores that compute.
    pub cores: u32,
    /// Their clock in hertz.
    pub clock: f64,
    /// GDDR6 bandwidth, in bytes a second.
    pub bandwidth: f64,
    /// The share of it that long transfers reach.
    pub bandwidth_attained: f64,
    /// The share of the vector unit's instructions that are the counted operations; the rest are loads, stores and
    /// bubbles.
    pub vector_attained: f64,
}

impl Card {
    /// A p150 of 120 cores, as of firmware 19.5.
    ///
    /// - 1.35 GHz, 512 GB/s, 90 % of it attained: as in the preset `p150` of [`smolvla_core::cost::Device`], which
    ///   has the sources.
    /// - Half of the vector unit's instructions: *assumed*. A function of one operation, `abs`, takes 146 cycles a
    ///   tile on a p150b where 32 would do (22 %), with a load and a store for each instruction; longer functions
    ///   have fewer of those: the fast exponential takes 77 cycles (tt-metal pull request 57292,
    ///   <https://github.com/tenstorrent/tt-metal/pull/57292>).
    pub fn p150() -> Self {
        Self { cores: 120, clock: 1.35e9, bandwidth: 512e9, bandwidth_attained: 0.9, vector_attained: 0.5 }
    }

    /// The same card with so many cores, one at least: 110 where the vendor's fast dispatch takes ten of 120 for
    /// itself, 140 before firmware 19.5. [`crate::probe`] says which a card has.
    #[must_use]
    pub fn with_cores(self, cores: u32) -> Self {
        Self { cores: cores.max(1), ..self }
    }

    /// Peak operations a second, a multiply-accumulate being two: 664, 332, 221 and 166 TFLOP/s at 120 cores.
    pub fn peak(&self, fidelity: Fidelity) -> f64 {
        let passes = cycles(fidelity) as f64 / cycles(Fidelity::LoFi) as f64;
        f64::from(self.cores) * OPS_A_CYCLE * self.clock / passes
    }

    /// The share of [`Card::peak`] that large products reach.
    ///
    /// LoFi 89 %, HiFi2 90 %, HiFi4 94 %: 542.0, 274.3 and 142.4 TFLOP/s of the 608, 304 and 152 of 110 cores,
    /// traced, by hand-tuned kernels (*Matrix Multiply FLOPS*, see the [module documentation](self)). HiFi3: assumed,
    /// as HiFi2.
    pub fn attained(&self, fidelity: Fidelity) -> f64 {
        match fidelity {
            Fidelity::LoFi => 0.89,
            Fidelity::HiFi2 | Fidelity::HiFi3 => 0.90,
            Fidelity::HiFi4 => 0.94,
        }
    }

    /// Seconds of arithmetic that a product takes, without memory and floor.
    pub fn product(&self, product: &Product, fidelity: Fidelity) -> f64 {
        let tiles = product.count * product.rows.div_ceil(TILE) * product.cols.div_ceil(TILE);
        let each = (product.depth.div_ceil(TILE) * cycles(fidelity)) as f64 / self.clock;
        let dealt = tiles.div_ceil(u64::from(self.cores)) as f64;
        let evenly = tiles as f64 / f64::from(self.cores) / self.attained(fidelity);
        dealt.max(evenly) * each
    }

    /// Seconds of the vector unit.
    fn vector(&self, vector: &Vector) -> f64 {
        let tiles = vector.units.div_ceil(u64::from(self.cores)) * vector.tiles_each;
        let instructions = (TILE * TILE) as f64 / LANES * vector.operations;
        tiles as f64 * instructions / self.vector_attained / self.clock
    }

    fn memory(&self, bytes: f64) -> f64 {
        bytes / (self.bandwidth * self.bandwidth_attained)
    }
}

/// Cycles that the matrix engine takes for a product of two tiles: *Matrix Multiply FLOPS*, "Utilization derivation
/// formula".
fn cycles(fidelity: Fidelity) -> u64 {
    match fidelity {
        Fidelity::LoFi => 16,
        Fidelity::HiFi2 => 32,
        Fidelity::HiFi3 => 48,
        Fidelity::HiFi4 => 64,
    }
}

/// How kernels are started, and what lies between one and the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Launch {
    /// Recorded once and replayed by the card: 12 µs. The smallest of the vendor's traced products, 640×704×704, takes
    /// 10.6 to 15.7 µs (*Matrix Multiply FLOPS*), of which arithmetic or memory needs 1 to 6.
    #[default]
    Traced,
    /// One by one from the host, at its best: 20 µs. The same product with default settings takes 16.8 to 25.6 µs
    /// untraced, and the first port's 600 kernels a step took 12 ms.
    UntracedLow,
    /// One by one from the host, at its worst: 60 µs. The same product by the hand-tuned kernels takes 69 to 90 µs
    /// untraced, the work included.
    UntracedHigh,
}

impl Launch {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Traced, Self::UntracedLow, Self::UntracedHigh];

    /// Seconds of a floor.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Traced => 12e-6,
            Self::UntracedLow => 20e-6,
            Self::UntracedHigh => 60e-6,
        }
    }

    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traced => "traced",
            Self::UntracedLow => "untraced, 20 us",
            Self::UntracedHigh => "untraced, 60 us",
        }
    }
}

/// Where activations lie between kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// In GDDR6: written by one kernel, read by the next.
    #[default]
    Gddr6,
    /// In the cores' L1, moved for nothing: what sharded kernels come near. 120 cores have 180 MiB; the largest
    /// activation of a camera is 6 MiB in bf16, its unfused attention scores 48 MiB in f32.
    L1,
}

/// Which operations are one kernel.
///
/// This is finer than [`smolvla_core::cost::Fusion`], which begins at one kernel an operation and joins operations into
/// blocks and layers: compilers for this card begin below that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fusing {
    /// A norm; otherwise five kernels (RMSNorm) or eight (LayerNorm).
    pub norms: bool,
    /// The softmax of attention weights; otherwise five kernels. Without [`Fusing::attention`] only.
    pub softmax: bool,
    /// All of an attention, whose scores then stay on chip; otherwise joining segments, splitting and joining heads
    /// (four kernels), scores, scale, mask, softmax, values.
    pub attention: bool,
    /// Bias, activation and residual with the product before them; otherwise a kernel each.
    pub epilogues: bool,
    /// Rotary embedding and SwiGLU's gate; otherwise nine kernels and four.
    pub gates: bool,
    /// Slices with what reads them; otherwise a copy each.
    pub slices: bool,
}

impl Default for Fusing {
    fn default() -> Self {
        Self::OPERATIONS
    }
}

impl Fusing {
    /// One kernel for each operation of the graph.
    pub const OPERATIONS: Self =
        Self { norms: true, softmax: true, attention: true, epilogues: true, gates: true, slices: true };
    /// What the vendor's compiler has been seen to fuse in a denoising step: norms and softmax (`libtt.so` of
    /// `jax-tt-plugin` 0.1.3, for a mock p150). What it does with the rest has not been looked at, so nothing is
    /// assumed.
    pub const COMPILER: Self = Self { norms: true, softmax: true, ..Self::NOTHING };
    /// Nothing: a kernel for each primitive.
    pub const NOTHING: Self = Self {
        norms: false,
        softmax: false,
        attention: false,
        epilogues: false,
        gates: false,
        slices: false,
    };

    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::OPERATIONS => "one kernel an operation",
            Self::COMPILER => "norms and softmax fused",
            Self::NOTHING => "nothing fused",
            _ => "fused otherwise",
        }
    }
}

/// On what, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The card.
    pub card: Card,
    /// How kernels are started.
    pub launch: Launch,
    /// What is one kernel.
    pub fusing: Fusing,
    /// Where activations lie between kernels.
    pub activations: Activations,
}

impl Default for Settings {
    /// 120 cores, traced, one kernel an operation, activations in GDDR6.
    fn default() -> Self {
        Self {
            card: Card::p150(),
            launch: Launch::default(),
            fusing: Fusing::default(),
            activations: Activations::default(),
        }
    }
}

/// Sums over kernels, in seconds. **Modelled.**
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Sums {
    /// How many kernels.
    pub kernels: u64,
    /// The matrix engine's cycles.
    pub matrix: f64,
    /// The vector unit's cycles.
    pub vector: f64,
    /// Transfers from and to GDDR6.
    pub memory: f64,
    /// Floors.
    pub floor: f64,
    /// What it takes: of each kernel its cycles or its transfers, whichever are longer, and its floor.
    pub total: f64,
    /// The same by what it passes with; sums up to [`Sums::total`].
    pub passes_with: BoundBy,
}

impl Sums {
    fn work(&mut self, work: &Work, settings: &Settings) {
        let card = &settings.card;
        let matrix: f64 =
            work.products.iter().map(|(product, fidelity)| card.product(product, *fidelity)).sum();
        let vector = work.vector.as_ref().map_or(0.0, |vector| card.vector(vector));
        let memory = card.memory(match settings.activations {
            Activations::Gddr6 => work.weights + work.activations,
            Activations::L1 => work.weights,
        });
        let floor = settings.launch.seconds();
        let computes = matrix + vector >= memory;
        self.add(&Self {
            kernels: 1,
            matrix,
            vector,
            memory,
            floor,
            total: (matrix + vector).max(memory) + floor,
            passes_with: BoundBy {
                compute: if computes { matrix } else { 0.0 },
                elementwise: if computes { vector } else { 0.0 },
                bandwidth: if computes { 0.0 } else { memory },
                floor,
            },
        });
    }

    fn add(&mut self, other: &Self) {
        self.kernels += other.kernels;
        self.matrix += other.matrix;
        self.vector += other.vector;
        self.memory += other.memory;
        self.floor += other.floor;
        self.total += other.total;
        self.passes_with.compute += other.passes_with.compute;
        self.passes_with.elementwise += other.passes_with.elementwise;
        self.passes_with.bandwidth += other.passes_with.bandwidth;
        self.passes_with.floor += other.passes_with.floor;
    }

    /// What most of the time passes with.
    pub fn bound(&self) -> Bound {
        let mut most = Bound::Compute;
        for bound in Bound::ALL {
            if self.passes_with.of(bound) > self.passes_with.of(most) {
                most = bound;
            }
        }
        most
    }

    /// The share of the time that passes so, 0 to 1.
    pub fn share(&self, bound: Bound) -> f64 {
        if self.total > 0.0 { self.passes_with.of(bound) / self.total } else { 0.0 }
    }
}

/// What a chunk would take on a p150, stage by stage. **Modelled**; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Latency {
    /// The name of the plan.
    pub plan: String,
    /// Cameras of the observation.
    pub cameras: usize,
    /// Denoising steps.
    pub steps: usize,
    /// On what, and how.
    pub settings: Settings,
    /// Vision, prefill and denoising.
    pub stages: [Sums; 3],
    /// All of them.
    pub total: Sums,
    /// What must be known about these numbers beyond the module's documentation.
    pub notes: Vec<String>,
}

/// The stages, in the order of [`Latency::stages`].
const STAGES: [Stage; 3] = [Stage::Vision, Stage::Prefill, Stage::Denoise];

impl Latency {
    /// Goes through the kernels of `trace` with the numbers of `plan`.
    pub fn of(trace: &Trace, plan: &Plan, settings: &Settings) -> Self {
        let formats = Formats::new(trace, plan);
        let mut stages = [Sums::default(); 3];
        for op in &trace.ops {
            let stage = &mut stages[op.part.stage() as usize];
            for work in works(op, &formats, settings.fusing) {
                stage.work(&work, settings);
            }
        }
        let mut total = Sums::default();
        stages.iter().for_each(|stage| total.add(stage));
        let mut notes = Vec::new();
        if formats.multiplies_f32() {
            notes.push(
                "The matrix engine has no products of f32; layers that ask for them are modelled at HiFi4."
                    .to_owned(),
            );
        }
        Self {
            plan: plan.name.clone(),
            cameras: trace.workload.cameras,
            steps: trace.workload.steps,
            settings: *settings,
            stages,
            total,
            notes,
        }
    }

    /// The published model with so many cameras and everything else as its configuration says.
    ///
    /// # Errors
    /// As [`count()`]: [`Error::Input`] when the number of cameras is out of range.
    pub fn of_base(cameras: usize, plan: &Plan, settings: &Settings) -> Result<Self, Error> {
        let (policy, architecture) =
            synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() })?;
        let trace = count(&policy, &architecture, &Workload { cameras, ..Workload::of(&policy) })?;
        Ok(Self::of(&trace, plan, settings))
    }

    /// A stage's sums.
    pub fn stage(&self, stage: Stage) -> &Sums {
        &self.stages[stage as usize]
    }
}

/// What the first port to this card says of itself, in milliseconds, measured by its authors on a p150. It is another
/// model: no rotary embedding, 12 heads of 80, no state, no noise; bfp8 at LoFi, untraced. How many cameras is not
/// said.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FirstPort {
    /// On the CPU; nothing here models it.
    pub preprocessing: f64,
    /// "Vision Encoder".
    pub vision: f64,
    /// "VLM K/V Cache".
    pub prefill: f64,
    /// "Flow Matching", 10 steps.
    pub denoise: f64,
    /// As stated; the parts sum up to 230.
    pub total: f64,
}

/// The first port's table; `smolvla cost --scenario seed-001` has its source.
pub const FIRST_PORT: FirstPort =
    FirstPort { preprocessing: 77.0, vision: 23.0, prefill: 9.0, denoise: 121.0, total: 229.0 };

impl FirstPort {
    /// A stage's time in milliseconds.
    pub fn stage(&self, stage: Stage) -> f64 {
        match stage {
            Stage::Vision => self.vision,
            Stage::Prefill => self.prefill,
            Stage::Denoise => self.denoise,
        }
    }

    /// The three stages without preprocessing, in milliseconds.
    pub fn stages(&self) -> f64 {
        self.vision + self.prefill + self.denoise
    }
}

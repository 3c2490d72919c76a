//! What a chunk costs on a device: kernels under their roofs, summed up by part and by kind.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::execution::{Execution, Kernel, Traffic, kernels};
use super::{Device, Widths};
use crate::count::{Part, Product, Trace};
use crate::error::Result;

/// What a kernel's time is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// Matrix products.
    Compute,
    /// Everything else that is computed.
    Elementwise,
    /// Memory traffic.
    Bandwidth,
    /// The least time that a kernel takes, whatever it does.
    Floor,
}

impl Bound {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Compute, Self::Elementwise, Self::Bandwidth, Self::Floor];

    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Elementwise => "elementwise",
            Self::Bandwidth => "bandwidth",
            Self::Floor => "floor",
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Seconds, by what they are for.
///
/// A kernel computes and transfers at the same time, so it takes the longest of the four; where products and other
/// arithmetic take turns on the same units ([`Elementwise::shared`](super::Elementwise::shared)), their sum counts as
/// one. Rates are those that the device attains ([`Peak::attained`](super::Peak::attained)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Matrix products.
    pub compute: f64,
    /// Everything else that is computed.
    pub elementwise: f64,
    /// Memory traffic, and reading weights that stay on chip where the device says how fast that is.
    pub bandwidth: f64,
    /// Least times of kernels.
    pub floor: f64,
    /// What it takes: of each kernel the longest.
    pub total: f64,
    /// What no implementation of these kernels can go below: products and traffic at the device's peaks, without floors
    /// or padding.
    pub roof: f64,
}

impl Seconds {
    fn of(kernel: &Kernel, device: &Device, widths: &Widths) -> Result<Self> {
        let peak = device.peak(widths.products)?;
        let rate = peak.tops * 1e12;
        let elementwise_rate = device.elementwise.as_ref().map_or(f64::INFINITY, |vector| vector.gops * 1e9);
        let bandwidth = device.memory.gb_s * 1e9;
        let padded: f64 = kernel.products.iter().map(|product| device.padded_ops(product)).sum();
        let bytes = kernel.traffic.total();
        let compute = padded / (rate * peak.attained);
        let elementwise = kernel.elementwise as f64 / elementwise_rate;
        let on_chip = device.on_chip.as_ref().and_then(|on_chip| on_chip.gb_s);
        let found = on_chip.map_or(0.0, |gb_s| kernel.resident / (gb_s * 1e9));
        let transfer = bytes / (bandwidth * device.memory.attained) + found;
        let floor = device.launch.as_ref().map_or(0.0, |launch| kernel.launches as f64 * launch.us * 1e-6);
        let shared = device.elementwise.as_ref().is_some_and(|vector| vector.shared);
        let arithmetic = if shared { compute + elementwise } else { compute.max(elementwise) };
        Ok(Self {
            compute,
            elementwise,
            bandwidth: transfer,
            floor,
            total: arithmetic.max(transfer).max(floor),
            roof: (2.0 * kernel.macs() as f64 / rate).max(bytes / bandwidth),
        })
    }

    /// What takes longest.
    pub fn bound(&self) -> Bound {
        let parts = [
            (Bound::Compute, self.compute),
            (Bound::Elementwise, self.elementwise),
            (Bound::Bandwidth, self.bandwidth),
            (Bound::Floor, self.floor),
        ];
        let mut longest = parts[0];
        for part in &parts[1..] {
            if part.1 > longest.1 {
                longest = *part;
            }
        }
        longest.0
    }

    fn add(&mut self, other: &Self) {
        self.compute += other.compute;
        self.elementwise += other.elementwise;
        self.bandwidth += other.bandwidth;
        self.floor += other.floor;
        self.total += other.total;
        self.roof += other.roof;
    }
}

/// Sums over kernels.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// How many kernels.
    pub kernels: u64,
    /// Multiply-accumulates of matrix products.
    pub macs: u64,
    /// Other operations.
    pub elementwise: u64,
    /// Bytes through memory.
    pub traffic: Traffic,
    /// Bytes of weights found on chip.
    pub resident_bytes: f64,
    /// Time.
    pub seconds: Seconds,
    /// Seconds of [`Seconds::total`] that pass in kernels bound by each.
    pub bound_by: BoundBy,
}

/// Seconds that pass in kernels of which something takes longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BoundBy {
    /// Matrix products.
    pub compute: f64,
    /// Everything else that is computed.
    pub elementwise: f64,
    /// Memory traffic.
    pub bandwidth: f64,
    /// The floor.
    pub floor: f64,
}

impl BoundBy {
    /// Seconds in kernels bound so.
    pub fn of(&self, bound: Bound) -> f64 {
        match bound {
            Bound::Compute => self.compute,
            Bound::Elementwise => self.elementwise,
            Bound::Bandwidth => self.bandwidth,
            Bound::Floor => self.floor,
        }
    }

    fn add(&mut self, bound: Bound, seconds: f64) {
        *match bound {
            Bound::Compute => &mut self.compute,
            Bound::Elementwise => &mut self.elementwise,
            Bound::Bandwidth => &mut self.bandwidth,
            Bound::Floor => &mut self.floor,
        } += seconds;
    }
}

impl Sums {
    fn add(&mut self, kernel: &Kernel, seconds: &Seconds) {
        self.kernels += kernel.launches;
        self.macs += kernel.macs();
        self.elementwise += kernel.elementwise;
        self.traffic.add(&kernel.traffic);
        self.resident_bytes += kernel.resident;
        self.seconds.add(seconds);
        self.bound_by.add(seconds.bound(), seconds.total);
    }

    /// Operations of matrix products for each byte through memory, a multiply-accumulate counting as two.
    pub fn ops_per_byte(&self) -> f64 {
        ratio(2.0 * self.macs as f64, self.traffic.total())
    }

    /// The same for each byte of weights and their scales.
    pub fn ops_per_weight_byte(&self) -> f64 {
        ratio(2.0 * self.macs as f64, self.traffic.weights + self.traffic.scales)
    }

    /// What bounds the kernels in which most of the time passes.
    pub fn bound(&self) -> Bound {
        let mut most = Bound::Compute;
        for bound in Bound::ALL {
            if self.bound_by.of(bound) > self.bound_by.of(most) {
                most = bound;
            }
        }
        most
    }

    /// The share of the time that passes in kernels bound so.
    pub fn share_bound_by(&self, bound: Bound) -> f64 {
        ratio(self.bound_by.of(bound), self.seconds.total)
    }

    /// Operations of matrix products a second.
    pub fn ops_per_second(&self) -> f64 {
        ratio(2.0 * self.macs as f64, self.seconds.total)
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// A part of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartCost {
    /// Which.
    pub part: Part,
    /// What it costs.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Kernels of one kind: the same operation with the same sizes in every layer and step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelCost {
    /// The part of the model.
    pub part: Part,
    /// Its place in the graph, with `*` for the number of a layer.
    pub name: String,
    /// The matrix products of one of them, for people: `1024×768×2304` (rows × depth × columns) of a linear layer,
    /// `12×1024×1024×64` (heads × queries × keys × width) of an attention.
    pub products: String,
    /// What all of them cost.
    #[serde(flatten)]
    pub sums: Sums,
}

/// What a chunk costs on a device.
///
/// ```
/// use smolvla_core::cost::{Bound, Cost, Device, Execution, Widths};
/// use smolvla_core::count::{Workload, count};
/// use smolvla_core::synth::{self, SynthOptions};
///
/// let (policy, architecture) = synth::sizes(&SynthOptions::default())?;
/// let trace = count(&policy, &architecture, &Workload::of(&policy))?;
/// let cost = Cost::of(&trace, &Execution::default(), &Widths::named("int8")?, &Device::named("u280")?)?;
/// assert_eq!(cost.parts.len(), 5);
/// assert!(cost.total.seconds.roof <= cost.total.seconds.total);
/// # Ok::<(), smolvla_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Each part of the model, in the order of execution.
    pub parts: Vec<PartCost>,
    /// Each kind of kernel, in the order of execution.
    pub kernels: Vec<KernelCost>,
    /// Everything.
    pub total: Sums,
}

impl Cost {
    /// Goes through a trace as `execution` says, with numbers as wide as `widths`, on `device`.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when the device does not multiply in the format of the products.
    pub fn of(trace: &Trace, execution: &Execution, widths: &Widths, device: &Device) -> Result<Self> {
        let mut parts: Vec<PartCost> =
            Part::ALL.into_iter().map(|part| PartCost { part, sums: Sums::default() }).collect();
        let mut kinds: Vec<(Key, KernelCost)> = Vec::new();
        let mut total = Sums::default();
        for kernel in kernels(trace, execution, widths) {
            let seconds = Seconds::of(&kernel, device, widths)?;
            parts[kernel.part as usize].sums.add(&kernel, &seconds);
            total.add(&kernel, &seconds);
            let key = Key::of(&kernel);
            let place = match kinds.iter().position(|(known, _)| *known == key) {
                Some(place) => place,
                None => {
                    let cost = KernelCost {
                        part: kernel.part,
                        name: key.name(),
                        products: describe(&kernel.products),
                        sums: Sums::default(),
                    };
                    kinds.push((key, cost));
                    kinds.len() - 1
                }
            };
            kinds[place].1.sums.add(&kernel, &seconds);
        }
        Ok(Self { parts, kernels: kinds.into_iter().map(|(_, kind)| kind).collect(), total })
    }

    /// The cost of one part.
    pub fn part(&self, part: Part) -> &Sums {
        &self.parts[part as usize].sums
    }
}

/// What makes kernels be of one kind.
#[derive(PartialEq)]
struct Key {
    part: Part,
    layer: String,
    name: Arc<str>,
    products: Vec<Product>,
}

impl Key {
    fn of(kernel: &Kernel) -> Self {
        let layer: Vec<&str> = kernel
            .layer
            .split('.')
            .map(|piece| if piece.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { piece })
            .collect();
        Self {
            part: kernel.part,
            layer: layer.join("."),
            name: Arc::clone(&kernel.name),
            products: kernel.products.clone(),
        }
    }
}

impl Key {
    fn name(&self) -> String {
        match &*self.name {
            "" => self.layer.clone(),
            name => format!("{}.{name}", self.layer),
        }
    }
}

fn describe(products: &[Product]) -> String {
    let mut texts = Vec::new();
    let mut rest = products;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        // An attention: scores, and their product with the values.
        if let Some((second, after)) = after.split_first()
            && first.count > 1
            && (second.count, second.rows, second.depth, second.cols)
                == (first.count, first.rows, first.cols, first.depth)
        {
            texts.push(format!("{}×{}×{}×{}", first.count, first.rows, first.cols, first.depth));
            rest = after;
            continue;
        }
        let shape = format!("{}×{}×{}", first.rows, first.depth, first.cols);
        texts.push(if first.count == 1 { shape } else { format!("{}·{shape}", first.count) });
    }
    texts.join(" + ")
}

//! What is counted, on what, and how: everything a cost follows from.

use serde::Serialize;
use smolvla::config::{Architecture, PolicyConfig};
use smolvla::cost::{Class, Cost, CrossKv, Device, Execution, Fusion, Storage, TimeMlp, Widths};
use smolvla::count::{Trace, Workload, count};

use super::choices::{ExecutionArgs, WidthArgs};
use super::sweep::Axis;
use crate::failure::Failure;

/// Everything a cost follows from.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The model, as the user named it.
    pub(crate) model: String,
    pub(crate) policy: PolicyConfig,
    pub(crate) architecture: Architecture,
    pub(crate) workload: Workload,
    pub(crate) execution: Execution,
    pub(crate) widths: Widths,
    pub(crate) device: Device,
    /// What `widths` and `execution` were asked for; what it comes to depends on the device.
    width_args: WidthArgs,
    execution_args: ExecutionArgs,
}

/// What it costs.
#[derive(Clone, Debug)]
pub(crate) struct Evaluated {
    pub(crate) trace: Trace,
    pub(crate) cost: Cost,
    pub(crate) storage: Storage,
}

impl Scenario {
    pub(super) fn new(
        model: String,
        (policy, architecture): (PolicyConfig, Architecture),
        workload: Workload,
        device: Device,
        width_args: WidthArgs,
        execution_args: ExecutionArgs,
    ) -> Result<Self, Failure> {
        let (widths, execution) = (width_args.resolve(&device)?, execution_args.resolve(&device)?);
        Ok(Self {
            model,
            policy,
            architecture,
            workload,
            execution,
            widths,
            device,
            width_args,
            execution_args,
        })
    }

    /// The same on another device.
    pub(super) fn on(mut self, device: Device) -> Result<Self, Failure> {
        self.widths = self.width_args.resolve(&device)?;
        self.execution = self.execution_args.resolve(&device)?;
        self.device = device;
        Ok(self)
    }

    /// The same with another `--precision`, under the formats that were asked for one by one.
    pub(super) fn in_precision(mut self, name: &str) -> Result<Self, Failure> {
        name.clone_into(&mut self.width_args.precision);
        let device = self.device.clone();
        self.on(device)
    }

    /// The same with another `--fusion`.
    pub(super) fn fused(mut self, fusion: Fusion) -> Result<Self, Failure> {
        self.execution_args.fusion = fusion;
        let device = self.device.clone();
        self.on(device)
    }

    pub(crate) fn evaluate(&self) -> Result<Evaluated, Failure> {
        let trace = count(&self.policy, &self.architecture, &self.workload)?;
        let cost = Cost::of(&trace, &self.execution, &self.widths, &self.device)?;
        let storage = Storage::of(&self.policy, &self.architecture, &trace, &self.execution, &self.widths);
        Ok(Evaluated { trace, cost, storage })
    }

    /// `1 camera, prompt of 48 tokens, 50 actions, 10 denoising steps`.
    pub(crate) fn describe_workload(&self) -> String {
        self.describe_workload_but(None)
    }

    /// The same without what a sweep varies.
    pub(crate) fn describe_workload_but(&self, varied: Option<Axis>) -> String {
        let workload = &self.workload;
        let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut parts = Vec::new();
        let mut add = |axis: Axis, text: String| {
            if varied != Some(axis) {
                parts.push(text);
            }
        };
        add(Axis::Cameras, many(workload.cameras, "camera"));
        if workload.batch > 1 {
            add(Axis::Batch, format!("batch of {}", workload.batch));
        }
        add(Axis::Prompt, format!("prompt of {}", many(workload.prompt_tokens, "token")));
        add(Axis::Chunk, many(workload.chunk.unwrap_or(self.architecture.chunk_size), "action"));
        add(Axis::Steps, many(workload.steps, "denoising step"));
        if !workload.images_together {
            parts.push("pictures encoded one by one".to_owned());
        }
        parts.join(", ")
    }

    /// `int8: weights int8 with a scale an output (f32), activations int8, …`.
    pub(crate) fn describe_widths(&self) -> String {
        let widths = &self.widths;
        let scales = match (widths.scales, widths.group) {
            (Some(scales), Some(group)) => format!(" with a scale ({scales}) for {group}"),
            (Some(scales), None) => format!(" with a scale ({scales}) an output"),
            (None, _) => String::new(),
        };
        format!(
            "{}: weights {}{scales}, activations {}, K/V {}, gains and biases {}, products in {}, sums in {}",
            widths.name,
            widths.weights,
            widths.activations,
            widths.kv,
            widths.parameters,
            widths.products,
            widths.accumulators
        )
    }

    /// How the device goes through the graph, in a line.
    pub(crate) fn describe_execution(&self) -> String {
        let execution = &self.execution;
        let mut parts = vec![
            match execution.fusion {
                Fusion::Operations => "one kernel an operation",
                Fusion::Blocks => "one kernel an attention or MLP block",
                Fusion::Layers => "one kernel a layer",
            }
            .to_owned(),
        ];
        if execution.unfused_attention {
            parts.push("attention scores through memory".to_owned());
        }
        if execution.cross_kv == CrossKv::EveryStep {
            parts.push("cross-attention's K/V projected in every step".to_owned());
        }
        match execution.time_mlp {
            TimeMlp::Kept => (),
            TimeMlp::First => parts.push("first chunk with this number of steps".to_owned()),
            TimeMlp::Whole => parts.push("time MLP over every action in every step".to_owned()),
        }
        if execution.resident_bytes > 0.0 {
            parts.push(format!(
                "up to {:.1} MB of the expert's weights stay on chip between steps",
                execution.resident_bytes / 1e6
            ));
        }
        parts.join("; ")
    }

    /// What a user should know about this scenario.
    pub(crate) fn notes(&self, evaluated: &Evaluated) -> Vec<String> {
        let device = &self.device;
        let mut notes = Vec::new();
        let storage = &evaluated.storage;
        let needed = storage.needed_bytes + storage.kv_cache_bytes + storage.peak_activation_bytes;
        let capacity = device.memory.capacity_gb * 1e9;
        if needed > capacity {
            notes.push(format!(
                "DOES NOT FIT {}: weights, K/V and activations take {:.2} GB of {:.2} GB",
                device.name,
                needed / 1e9,
                capacity / 1e9
            ));
        }
        let inside = self.execution.resident_bytes
            + if self.execution.fusion == Fusion::Operations { 0.0 } else { storage.peak_activation_bytes };
        if let Some(on_chip) = device.on_chip.as_ref().filter(|on_chip| inside > on_chip.mb * 1e6) {
            notes.push(format!(
                "needs up to {:.1} MB on chip for what fused kernels and resident weights keep there; the device has {} MB",
                inside / 1e6,
                on_chip.mb
            ));
        }
        notes.push(format!(
            "times are modelled from figures of {} ({}), not measured; transfers from and to the host, and what happens \
             before and after the network, are not in them",
            device.name, device.title
        ));
        notes.extend(device.notes.iter().cloned());
        if device.class == Class::Cpu && self.widths.weights.is_scaled() {
            notes.push(format!(
                "{} here is every layer in those numbers; `smolvla run --precision` means plans of the backend, which keep \
                 some layers wider",
                self.widths.name
            ));
        }
        let unsourced = device.unsourced();
        if !unsourced.is_empty() {
            notes.push(format!("the device's file names no source for {}", unsourced.join(", ")));
        }
        if device.elementwise.is_none() {
            notes.push(
                "the device states no elementwise rate: only products, memory and floors bound it".to_owned(),
            );
        }
        if device.launch.is_none() {
            notes.push("the device states no launch time: kernels cost nothing to start".to_owned());
        }
        notes
    }
}

/// A scenario and its cost, for programs.
#[derive(Serialize)]
pub(crate) struct Json<'a> {
    model: &'a str,
    device: &'a Device,
    workload: JsonWorkload,
    precision: &'a Widths,
    execution: &'a Execution,
    cost: &'a Cost,
    storage: &'a Storage,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct JsonWorkload {
    cameras: usize,
    batch: usize,
    images_together: bool,
    prompt_tokens: usize,
    prefix_tokens: usize,
    chunk: usize,
    steps: usize,
}

impl<'a> Json<'a> {
    pub(crate) fn of(scenario: &'a Scenario, evaluated: &'a Evaluated) -> Self {
        let workload = &scenario.workload;
        Self {
            model: &scenario.model,
            device: &scenario.device,
            workload: JsonWorkload {
                cameras: workload.cameras,
                batch: workload.batch,
                images_together: workload.images_together,
                prompt_tokens: workload.prompt_tokens,
                prefix_tokens: evaluated.trace.prefix_tokens,
                chunk: workload.chunk.unwrap_or(scenario.architecture.chunk_size),
                steps: workload.steps,
            },
            precision: &scenario.widths,
            execution: &scenario.execution,
            cost: &evaluated.cost,
            storage: &evaluated.storage,
            notes: scenario.notes(evaluated),
        }
    }
}

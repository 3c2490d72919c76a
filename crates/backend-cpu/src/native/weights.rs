//! Linear layers as panels, packed once from the stored bytes.

use half::bf16;
use smolvla_core::backend::{Precision, Prepared};
use smolvla_core::weights::LinearSource;

use super::kernels::{PANEL, PANEL_STEP_BYTES};
use super::memory::Buffer;
use super::pool::Pool;

/// Columns in one half of a panel.
pub(crate) const HALF: usize = PANEL / 2;

/// How the left operand of a product is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// f32.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit integers with a scale a row.
    Int8,
}

impl Operand {
    /// Elements of one row in one step.
    pub(crate) fn step(self) -> usize {
        match self {
            Self::F32 => 16,
            Self::Bf16 => 32,
            Self::Int8 => 64,
        }
    }

    /// Steps that hold `width` elements.
    pub(crate) fn steps(self, width: usize) -> usize {
        width.div_ceil(self.step())
    }
}

/// A prepared linear layer.
#[derive(Debug)]
pub struct Weights {
    inputs: usize,
    outputs: usize,
    precision: Precision,
    operand: Operand,
    /// Whether each panel holds sixteen outputs of the first half of the layer and the sixteen of the second that go
    /// with them: a gate and its up-projection meet in one block that way.
    paired: bool,
    /// Panels one after another, as [`super::kernels`] says; for [`Precision::Int8Weights`] in 8 bits.
    panels: Buffer,
    /// A bias a column of each panel, zero where there is none.
    bias: Buffer,
    /// A scale a column of each panel; empty where weights are floats.
    scales: Vec<f32>,
}

impl Prepared for Weights {
    fn inputs(&self) -> usize {
        self.inputs
    }
    fn outputs(&self) -> usize {
        self.outputs
    }
    fn precision(&self) -> Precision {
        self.precision
    }
}

impl Weights {
    /// Packs `source`, panel by panel on all threads. `None` for a precision this engine does not have.
    pub(crate) fn pack(source: &LinearSource<'_>, precision: Precision, pool: &Pool) -> Option<Self> {
        let operand = match precision {
            Precision::F32 => Operand::F32,
            Precision::Bf16 | Precision::Int8Weights => Operand::Bf16,
            Precision::Int8 => Operand::Int8,
            _ => return None,
        };
        let (inputs, outputs) = (source.inputs(), source.outputs());
        let paired = match source.weights.as_slice() {
            [gate, up] => gate.rows() == up.rows() && gate.rows().is_multiple_of(HALF),
            _ => false,
        };
        let count = outputs.div_ceil(PANEL);
        let steps = operand.steps(inputs);
        let layout = Layout { outputs, paired };
        let panel_bytes = panel_bytes(precision, steps);
        let mut panels = Buffer::zeros::<u8>(count * panel_bytes);
        let mut scales = Buffer::zeros::<f32>(if is_integer(precision) { count * PANEL } else { 0 });
        let mut bias = Buffer::zeros::<f32>(count * PANEL);
        if let Some(values) = source.bias_f32() {
            for (column, slot) in bias.as_mut_slice::<f32>().iter_mut().enumerate() {
                *slot = layout.output(column).map_or(0.0, |output| values[output]);
            }
        }
        let (panels_out, scales_out) = (panels.shared(), scales.shared());
        pool.run(count, &|panel, _| {
            // SAFETY: each task writes its own panel and its own columns' scales.
            let (bytes, scales) = unsafe {
                (
                    std::slice::from_raw_parts_mut(panels_out.at::<u8>(panel * panel_bytes), panel_bytes),
                    if is_integer(precision) {
                        std::slice::from_raw_parts_mut(scales_out.at::<f32>(panel * PANEL), PANEL)
                    } else {
                        &mut []
                    },
                )
            };
            let mut row = vec![0.0; inputs];
            for column in 0..PANEL {
                let Some(output) = layout.output(panel * PANEL + column) else { continue };
                read_output(source, output, &mut row);
                let scale = pack_column(precision, &row, column, steps, bytes);
                if let Some(slot) = scales.get_mut(column) {
                    *slot = scale;
                }
            }
        });
        let scales = scales.as_slice::<f32>().to_vec();
        Some(Self { inputs, outputs, precision, operand, paired, panels, bias, scales })
    }

    /// How the left operand must be stored.
    pub(crate) fn operand(&self) -> Operand {
        self.operand
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Steps of a row.
    pub(crate) fn steps(&self) -> usize {
        self.operand().steps(self.inputs)
    }

    /// Whether gates and up-projections share panels.
    pub(crate) fn paired(&self) -> bool {
        self.paired
    }

    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        panel_bytes(self.precision, self.steps())
    }

    /// Where a panel starts.
    pub(crate) fn panel(&self, panel: usize) -> *const u8 {
        let start = panel * self.panel_bytes();
        self.panels.as_slice::<u8>()[start..].as_ptr()
    }

    /// Bytes of a panel as a kernel takes it, where it must be widened first.
    pub(crate) fn widened_panel_bytes(&self) -> Option<usize> {
        (self.precision == Precision::Int8Weights).then(|| self.steps() * PANEL_STEP_BYTES)
    }

    /// The biases of a panel's columns.
    pub(crate) fn bias(&self, panel: usize) -> &[f32] {
        &self.bias.as_slice::<f32>()[panel * PANEL..][..PANEL]
    }

    /// The scales of a panel's columns, where weights are integers.
    pub(crate) fn scales(&self, panel: usize) -> Option<&[f32]> {
        self.scales.get(panel * PANEL..(panel + 1) * PANEL)
    }

    /// Columns of the result: the outputs, or half as many where gates and up-projections are joined.
    pub(crate) fn outputs_stored(&self, gated: bool) -> usize {
        if gated { self.outputs / 2 } else { self.outputs }
    }

    /// The first output of each half of a panel.
    pub(crate) fn halves(&self, panel: usize) -> [usize; 2] {
        if self.paired {
            [panel * HALF, self.outputs / 2 + panel * HALF]
        } else {
            [panel * PANEL, panel * PANEL + HALF]
        }
    }
}

/// Where outputs lie among the panels' columns.
struct Layout {
    outputs: usize,
    paired: bool,
}

impl Layout {
    /// The output in a column, counted over all panels; `None` beyond the last.
    fn output(&self, column: usize) -> Option<usize> {
        let output = if self.paired {
            let (panel, within) = (column / PANEL, column % PANEL);
            within / HALF * (self.outputs / 2) + panel * HALF + within % HALF
        } else {
            column
        };
        (output < self.outputs).then_some(output)
    }
}

fn is_integer(precision: Precision) -> bool {
    matches!(precision, Precision::Int8 | Precision::Int8Weights)
}

/// Bytes from one panel to the next.
fn panel_bytes(precision: Precision, steps: usize) -> usize {
    match precision {
        Precision::Int8 => steps * PANEL_STEP_BYTES + PANEL * size_of::<i32>(),
        Precision::Int8Weights => steps * PANEL_STEP_BYTES / 2,
        _ => steps * PANEL_STEP_BYTES,
    }
}

/// One row of the stacked matrices: the weights of one output.
fn read_output(source: &LinearSource<'_>, mut output: usize, row: &mut [f32]) {
    for weight in &source.weights {
        if output < weight.rows() {
            return weight.read_row(output, row);
        }
        output -= weight.rows();
    }
}

/// Writes the weights of one output into its column of a panel; returns its scale.
fn pack_column(precision: Precision, row: &[f32], column: usize, steps: usize, panel: &mut [u8]) -> f32 {
    let (half, lane) = (column / HALF, column % HALF);
    // Where group `g` (of four bytes) of the column lies.
    let group = |g: usize| ((g / 16 * 2 + half) * 16 + g % 16) * 64 + lane * 4;
    match precision {
        Precision::F32 => {
            for (g, value) in row.iter().enumerate() {
                panel[group(g)..][..4].copy_from_slice(&value.to_le_bytes());
            }
            1.0
        }
        Precision::Bf16 => {
            for (g, pair) in row.chunks(2).enumerate() {
                for (slot, &value) in panel[group(g)..][..4].chunks_exact_mut(2).zip(pair) {
                    slot.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
                }
            }
            1.0
        }
        Precision::Int8 => {
            let (scale, inverse) = channel_scale(row);
            let mut sum = 0;
            for (g, four) in row.chunks(4).enumerate() {
                for (slot, &value) in panel[group(g)..][..4].iter_mut().zip(four) {
                    let q = quantized(value, inverse);
                    sum += i32::from(q);
                    *slot = q.to_le_bytes()[0];
                }
            }
            let correction = steps * PANEL_STEP_BYTES + column * 4;
            panel[correction..][..4].copy_from_slice(&(-128 * sum).to_le_bytes());
            scale
        }
        _ => {
            // Pairs of bytes in the place of pairs of bf16, so that widening is one pass in order.
            let (scale, inverse) = channel_scale(row);
            for (g, pair) in row.chunks(2).enumerate() {
                for (slot, &value) in panel[group(g) / 2..][..2].iter_mut().zip(pair) {
                    *slot = quantized(value, inverse).to_le_bytes()[0];
                }
            }
            scale
        }
    }
}

/// The scale that maps a channel's largest weight to 127, and its inverse. A channel with a weight that is no number gets
/// NaN as its scale, so that its outputs say so.
fn channel_scale(row: &[f32]) -> (f32, f32) {
    if row.iter().any(|value| !value.is_finite()) {
        return (f32::NAN, 0.0);
    }
    let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) }
}

fn quantized(value: f32, inverse: f32) -> i8 {
    (value * inverse).round_ties_even() as i8
}

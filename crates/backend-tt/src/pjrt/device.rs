//! Programs on what a plugin drives.

use std::path::Path;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use smolvla_core::backend::{BackendErrorKind, Execution};
use smolvla_core::{Capabilities, Precision};

use super::{
    Argument as Input, BlockFloat, Buffer, Client, CompileOptions, ElementType, Executable, MathFidelity,
    Mock, Mode, Numeric, PjrtError, Plugin, TenstorrentOptions,
};
use crate::device::{Given, Granularity, Readable, TtDevice};
use crate::error::DeviceError;
use crate::program::{Argument, Op, Program};
use crate::stablehlo::{Target, emit_for};
use crate::tensix::{Dest, Fidelity, Format, Math};

/// The device of a plugin: whole stages go to its compiler as StableHLO.
///
/// Numbers are stored as `f32` where a plan says so, else as `bfloat16`. How many passes the matrix engine makes, how
/// wide its accumulators are and what weights are converted to, Tenstorrent's compiler is told by
/// [`TenstorrentOptions::of`]; any other compiler is told nothing, and multiplies as it multiplies.
#[derive(Debug)]
pub struct PluginDevice<M: Mode> {
    client: Client<M>,
}

/// A device that computes: a card, or a processor in its place.
pub type PjrtDevice = PluginDevice<Numeric>;

/// A card that is not there: programs compile for it and its kernels are built, and nothing is computed. So it is no
/// [`Readable`], and there is no backend on it:
///
/// ```compile_fail,E0277
/// # use smolvla_backend_tt::TtBackend;
/// # use smolvla_backend_tt::pjrt::MockDevice;
/// fn backend(device: MockDevice) {
///     TtBackend::new(device);
/// }
/// ```
///
/// as there is on one that computes:
///
/// ```
/// # use smolvla_backend_tt::TtBackend;
/// # use smolvla_backend_tt::pjrt::PjrtDevice;
/// fn backend(device: PjrtDevice) {
///     TtBackend::new(device);
/// }
/// ```
pub type MockDevice = PluginDevice<Mock>;

impl<M: Mode> Clone for PluginDevice<M> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone() }
    }
}

impl<M: Mode> From<Client<M>> for PluginDevice<M> {
    fn from(client: Client<M>) -> Self {
        Self { client }
    }
}

impl<M: Mode> PluginDevice<M> {
    /// The first device of the plugin at `path`.
    ///
    /// # Errors
    /// Those of [`Plugin::load`] and [`Client::open`].
    pub fn open(path: &Path) -> Result<Self, PjrtError> {
        Client::open(&Plugin::load(path)?).map(Self::from)
    }

    /// The connection to the plugin.
    pub fn client(&self) -> &Client<M> {
        &self.client
    }

    /// Makes a program ready to run as [`TtDevice::compile`] does, with a name for its module and options of one's own.
    ///
    /// # Errors
    /// As there.
    pub fn compile_with(
        &self,
        program: &Program,
        name: &str,
        options: &CompileOptions,
    ) -> Result<Executable<M>, DeviceError> {
        let target = if self.client.plugin().is_tenstorrent() { Target::Tenstorrent } else { Target::Any };
        let text = emit_for(program, name, target)?;
        let what = || format!("the plugin's compiler refuses a program of {}", instructions(program));
        let executable = self.client.compile(&text, options).map_err(|error| failure(&what(), error))?;
        if executable.outputs() != program.results.len() {
            let (made, asked) = (executable.outputs(), program.results.len());
            let message = format!("the plugin made a program of {made} results out of one of {asked}");
            return Err(DeviceError::new(BackendErrorKind::Other, message));
        }
        Ok(executable.expecting(program.arguments.iter().map(input)))
    }

    fn place(
        &self,
        bytes: &[u8],
        element: ElementType,
        dimensions: &[usize],
    ) -> Result<Buffer<M>, DeviceError> {
        let what = || format!("cannot copy {dimensions:?} of {element} to the device");
        self.client.upload(bytes, element, dimensions).map_err(|error| failure(&what(), error))
    }
}

fn instructions(program: &Program) -> String {
    match program.instructions.len() {
        1 => "1 operation".to_owned(),
        count => format!("{count} operations"),
    }
}

/// How a format lies in a device's memory.
fn element(format: Format) -> ElementType {
    match format {
        Format::F32 => ElementType::F32,
        // The interface has no block floats; a compiler that has them is told by an option.
        Format::Bf16 | Format::Bfp8 | Format::Bfp4 => ElementType::Bf16,
    }
}

/// What a program takes for an argument.
fn input(argument: &Argument) -> (ElementType, Vec<usize>) {
    match *argument {
        Argument::Tensor(tensor) => (element(tensor.format), vec![tensor.rows, tensor.cols]),
        Argument::Weight { outputs, inputs, format } => (element(format), vec![outputs, inputs]),
        Argument::Mask { batch, queries, keys } => (ElementType::Pred, vec![batch, queries, keys]),
    }
}

/// Numbers as they lie in memory, rounded to the nearest, ties to even.
fn bytes(values: &[f32], element: ElementType) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * element.bytes()];
    if element == ElementType::Bf16 {
        for (place, value) in bytes.chunks_exact_mut(2).zip(values) {
            place.copy_from_slice(&bf16::from_f32(*value).to_ne_bytes());
        }
    } else {
        for (place, value) in bytes.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    bytes
}

/// The plugin's error, with what to do about it where that can be told.
fn failure(what: &str, error: PjrtError) -> DeviceError {
    let kind = error.kind();
    let advice = match kind {
        BackendErrorKind::OutOfMemory => {
            "; close what else uses the device, or run fewer observations at once"
        }
        BackendErrorKind::DeviceLost => "; open the device again, a card after `tt-smi -r`",
        BackendErrorKind::Timeout => "; a card that hangs is reset by `tt-smi -r`",
        BackendErrorKind::Unsupported => "; another version of the plugin may have it",
        _ => "",
    };
    DeviceError { kind, message: format!("{what}: {error}{advice}"), source: Some(Box::new(error)) }
}

impl<M: Mode> TtDevice for PluginDevice<M> {
    type Buffer = Buffer<M>;
    type Executable = Executable<M>;

    fn granularity(&self) -> Granularity {
        Granularity::Stage
    }

    fn upload(
        &self,
        values: &[f32],
        rows: usize,
        cols: usize,
        format: Format,
    ) -> Result<Buffer<M>, DeviceError> {
        let element = element(format);
        self.place(&bytes(values, element), element, &[rows, cols])
    }

    fn upload_weight(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        format: Format,
    ) -> Result<Buffer<M>, DeviceError> {
        self.upload(values, outputs, inputs, format)
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Buffer<M>, DeviceError> {
        let bytes: Vec<u8> = allowed.iter().map(|allowed| u8::from(*allowed)).collect();
        self.place(&bytes, ElementType::Pred, &[batch, queries, keys])
    }

    fn compile(&self, program: &Program) -> Result<Executable<M>, DeviceError> {
        let options = if self.client.plugin().is_tenstorrent() {
            CompileOptions::from(&TenstorrentOptions::of(program))
        } else {
            CompileOptions::default()
        };
        self.compile_with(program, crate::trace::stage(program), &options)
    }

    fn execute(
        &self,
        executable: &Executable<M>,
        arguments: Vec<Given<'_, Buffer<M>>>,
    ) -> Result<Vec<Buffer<M>>, DeviceError> {
        let inputs = arguments.into_iter().map(|argument| match argument {
            Given::Lent(buffer) => Input::Lent(buffer),
            Given::Donated(buffer) => Input::Given(buffer),
        });
        // Not waited for here: Tenstorrent's plugin ends the process where a buffer is waited for twice.
        executable.execute(inputs).map_err(|error| failure("the plugin cannot run a program", error))
    }
}

impl Readable for PjrtDevice {
    fn download(&self, buffer: &Buffer<Numeric>) -> Result<Vec<f32>, DeviceError> {
        let bytes = buffer.to_host().map_err(|error| failure("cannot copy a result to the host", error))?;
        match buffer.element_type() {
            ElementType::F32 => {
                let (numbers, _) = bytes.as_chunks();
                Ok(numbers.iter().map(|number| f32::from_ne_bytes(*number)).collect())
            }
            ElementType::Bf16 => {
                let (numbers, _) = bytes.as_chunks();
                let numbers: Vec<_> = numbers.iter().map(|number| bf16::from_ne_bytes(*number)).collect();
                Ok(numbers.to_f32_vec())
            }
            other => {
                let message = format!("an array of {other} is no matrix");
                Err(DeviceError::new(BackendErrorKind::InvalidArgument, message))
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        let client = &self.client;
        let (platform, kind) = (client.platform(), client.device().kind.as_str());
        let is_tenstorrent = client.plugin().is_tenstorrent();
        let device = if kind.is_empty() || kind == platform {
            platform.to_owned()
        } else {
            format!("{kind} ({platform})")
        };
        let plans: &[&str] =
            if is_tenstorrent { &["balanced", "accurate", "fast"] } else { &["float", "accurate"] };
        let mut capabilities = crate::capabilities(device, plans);
        let version = client.platform_version();
        let path = client.plugin().path().display();
        capabilities.driver = Some(if version.is_empty() {
            format!("PJRT plugin {path}")
        } else {
            format!("PJRT plugin {path} ({version})")
        });
        capabilities.static_shapes = true;
        let refused = |precision, why: &str| (precision, why.to_owned());
        if is_tenstorrent {
            let why = "the matrix engine multiplies at most 10 × 11 bits of its operands";
            capabilities.refusals = vec![refused(Precision::F32, why)];
        } else {
            // What comes out must never pass for a card's.
            let by = format!("{platform} through a PJRT plugin, in place of a Blackhole");
            capabilities.execution = Execution::Emulated(by);
            let why = "only Tenstorrent's plugin stores weights as block floats";
            capabilities.refusals = vec![refused(Precision::Bfp8, why), refused(Precision::Bfp8LoFi, why)];
        }
        capabilities
    }
}

impl TenstorrentOptions {
    /// What the plan of a program comes to. There is one setting for all matrix products of a program and one for all
    /// its weights, so where linear layers differ, those that are fewer follow the others. Products of 32-bit floats
    /// ask for the highest precision by themselves, which the compiler takes for four passes.
    pub fn of(program: &Program) -> Self {
        let linear = |fine: bool| {
            program.instructions.iter().filter_map(move |step| match step.op {
                Op::Linear { math, input, .. } if fine == (input == Format::F32) => Some(math),
                _ => None,
            })
        };
        let what = "fidelities and accumulators of products";
        let math = commonest(linear(false), what)
            .or_else(|| commonest(linear(true), what))
            .unwrap_or(Math { fidelity: Fidelity::HiFi4, dest: Dest::Bits32 });
        let weights = program.arguments.iter().filter_map(|argument| match argument {
            Argument::Weight { format, .. } => Some(*format),
            _ => None,
        });
        Self {
            // Both are set always: left alone, the compiler chooses by its level of optimisation.
            math_fidelity: Some(match math.fidelity {
                Fidelity::LoFi => MathFidelity::LoFi,
                Fidelity::HiFi2 => MathFidelity::HiFi2,
                Fidelity::HiFi3 => MathFidelity::HiFi3,
                Fidelity::HiFi4 => MathFidelity::HiFi4,
            }),
            fp32_accumulation: Some(math.dest == Dest::Bits32),
            weights: match commonest(weights, "formats of weights") {
                Some(Format::Bfp8) => Some(BlockFloat::Bfp8),
                Some(Format::Bfp4) => Some(BlockFloat::Bfp4),
                Some(Format::F32 | Format::Bf16) | None => None,
            },
            ..Self::default()
        }
    }
}

/// The value that occurs most often, the first of several such. Says so where there are others.
fn commonest<T: Copy + PartialEq + std::fmt::Debug>(
    values: impl Iterator<Item = T>,
    what: &str,
) -> Option<T> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    let (chosen, _) = counts.iter().find(|(_, count)| *count == most)?;
    if counts.len() > 1 {
        tracing::warn!(
            "a program has several {what}, and Tenstorrent's compiler takes one: {chosen:?} of {counts:?}"
        );
    }
    Some(*chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::TensorType;

    /// Linear layers of these, each with a weight of its own.
    fn program(layers: &[(Math, Format)]) -> Program {
        let tensor = TensorType { rows: 32, cols: 32, format: Format::Bf16 };
        let mut program = Program::default();
        let x = program.argument(Argument::Tensor(tensor));
        let weights: Vec<_> = layers
            .iter()
            .map(|(_, format)| {
                program.argument(Argument::Weight { outputs: 32, inputs: 32, format: *format })
            })
            .collect();
        for ((math, _), weight) in layers.iter().zip(weights) {
            let op = Op::Linear {
                math: *math,
                input: Format::Bf16,
                bias: false,
                activation: None,
                residual: false,
            };
            let y = program.push(op, vec![x, weight], tensor);
            program.results.push(y);
        }
        program
    }

    #[test]
    fn options_follow_most_linear_layers() {
        let two = Math { fidelity: Fidelity::HiFi2, dest: Dest::Bits32 };
        let four = Math { fidelity: Fidelity::HiFi4, dest: Dest::Bits32 };
        let low = Math { fidelity: Fidelity::LoFi, dest: Dest::Bits16 };
        let of = |layers: &[(Math, Format)]| {
            let options = TenstorrentOptions::of(&program(layers));
            (options.math_fidelity.unwrap(), options.fp32_accumulation.unwrap(), options.weights)
        };
        let mixed = [(four, Format::Bf16), (two, Format::Bfp8), (two, Format::Bfp8)];
        assert_eq!(of(&mixed), (MathFidelity::HiFi2, true, Some(BlockFloat::Bfp8)));
        assert_eq!(of(&mixed[..1]), (MathFidelity::HiFi4, true, None));
        assert_eq!(of(&[(low, Format::Bfp4)]), (MathFidelity::LoFi, false, Some(BlockFloat::Bfp4)));
        // Never the plugin's own choice.
        assert_eq!(of(&[]), (MathFidelity::HiFi4, true, None));

        // Products of 32-bit floats look after themselves, where there are others.
        let mut program = program(&[(four, Format::Bfp8), (four, Format::Bfp8), (two, Format::Bfp8)]);
        for step in &mut program.instructions[..2] {
            let Op::Linear { input, .. } = &mut step.op else { unreachable!() };
            *input = Format::F32;
        }
        assert_eq!(TenstorrentOptions::of(&program).math_fidelity, Some(MathFidelity::HiFi2));
        program.instructions.truncate(2);
        assert_eq!(TenstorrentOptions::of(&program).math_fidelity, Some(MathFidelity::HiFi4));
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_even() {
        let halfway = f32::from_bits(0x3F80_8000);
        let above = f32::from_bits(0x3F81_8000);
        let stored: Vec<u16> = bytes(&[halfway, above, -1.0], ElementType::Bf16)
            .as_chunks()
            .0
            .iter()
            .map(|b| u16::from_ne_bytes(*b))
            .collect();
        assert_eq!(stored, [0x3F80, 0x3F82, 0xBF80]);
        assert_eq!(bytes(&[1.5], ElementType::F32), 1.5_f32.to_ne_bytes());
    }

    #[test]
    fn errors_keep_their_kind_and_say_what_to_do() {
        let full = PjrtError::Call {
            call: "PJRT_Client_BufferFromHostBuffer",
            code: super::super::ErrorCode::ResourceExhausted,
            message: "out of DRAM".to_owned(),
        };
        let error = failure("cannot copy", full);
        assert_eq!(error.kind, BackendErrorKind::OutOfMemory);
        for part in ["cannot copy: ", "out of DRAM", "fewer observations"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert!(error.source.is_some_and(|source| source.is::<PjrtError>()));
    }
}

//! Programs as text in StableHLO, for any compiler behind the PJRT interface.
//!
//! [`emit`] writes a module that holds nothing but operations of StableHLO 1.0 on static shapes, in the pretty form;
//! [`emit_for`] adds what one compiler wants to know beside them.
//! The same program gives the same text, byte for byte: it is what a cache of compiled programs looks up.
//!
//! # Numbers
//! `F32` is `f32`; `Bf16`, `Bfp8` and `Bfp4` are `bf16`, since StableHLO has no type for block floats: a device that
//! stores weights in one is told so by an option of its compiler. Products accumulate in f32, whatever multiplies
//! them; norms, softmax, activations and sums compute in f32; each result is rounded once, to its own format. How many
//! passes a matrix engine makes ([`Math`](crate::tensix::Math), [`Dest`](crate::tensix::Dest)) has no place in
//! StableHLO either: f32 operands ask for the highest precision, all else is the compiler's.
//!
//! # Forms
//! Tenstorrent's compiler knows softmax, SiLU, GELU, rotary embeddings and the joining of heads by their shape, and
//! finds them in what is written here. It does not find a LayerNorm, and an RMSNorm only where input and gain are
//! stored alike, so norms are composite operations under its names; every other compiler puts in the function beside
//! them. Queries of one key/value head are one matrix, `[batch, kv_heads, group·queries, head_dim]`, so that no key or
//! value is repeated.

mod attention;
mod body;
#[cfg(test)]
pub(crate) mod cases;
mod lower;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use smolvla_core::backend::BackendErrorKind;

use self::body::{Body, Element, Type};
use self::lower::Lowering;
use crate::error::DeviceError;
use crate::program::{Argument, Program};

/// Who is to read a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// Any compiler of StableHLO.
    #[default]
    Any,
    /// Tenstorrent's compiler alone: weights are marked as parameters, by a custom call that others do not know. Only
    /// what is so marked does its option for the format of weights apply to, and is laid out once instead of at every
    /// run.
    Tenstorrent,
}

/// Writes `program` for [`Target::Any`]; see [`emit_for`].
///
/// # Errors
/// As [`emit_for`].
pub fn emit(program: &Program, name: &str) -> Result<String, DeviceError> {
    emit_for(program, name, Target::Any)
}

/// Writes `program` as a StableHLO module of that name, whose function `main` takes the program's arguments and
/// returns its results:
///
/// | argument | type |
/// |---|---|
/// | tensor | `tensor<rows x cols x T>` |
/// | weight | `tensor<outputs x inputs x T>` |
/// | mask | `tensor<batch x queries x keys x i1>` |
///
/// A donated argument is given to the first result of its type that no other argument has (`tf.aliasing_output`), or
/// else to the compiler to use as it can (`jax.buffer_donor`).
///
/// # Errors
/// When the program is malformed: an operand that is not there yet or of the wrong kind, or shapes that do not fit.
///
/// ```
/// use smolvla_backend_tt::program::{Argument, Op, Program, TensorType};
/// use smolvla_backend_tt::tensix::{Dest, Format};
///
/// let tensor = TensorType { rows: 2, cols: 3, format: Format::F32 };
/// let mut program = Program::default();
/// let x = program.argument(Argument::Tensor(tensor));
/// let y = program.push(Op::Scale { factor: 0.5, dest: Dest::Bits32 }, vec![x], tensor);
/// program.results.push(y);
/// let text = smolvla_backend_tt::stablehlo::emit(&program, "halve")?;
/// assert!(text.starts_with("module @halve {\n  func.func public @main(%arg0: tensor<2x3xf32>) -> (tensor<2x3xf32>)"));
/// # Ok::<(), smolvla_backend_tt::DeviceError>(())
/// ```
pub fn emit_for(program: &Program, name: &str, target: Target) -> Result<String, DeviceError> {
    let malformed = |message: String| {
        let message = format!("program `{name}` is malformed: {message}");
        DeviceError::new(BackendErrorKind::InvalidArgument, message)
    };
    let mut body = Body::default();
    let mut arguments = Vec::with_capacity(program.arguments.len());
    for (index, argument) in program.arguments.iter().enumerate() {
        let Type { dims, element } = argument_type(argument);
        if !is_sized(&dims) {
            return Err(malformed(format!("argument {index} is empty or too large: {argument}")));
        }
        arguments.push(body.argument(dims, element));
    }
    if target == Target::Tenstorrent {
        for (index, argument) in program.arguments.iter().enumerate() {
            if matches!(argument, Argument::Weight { .. }) {
                arguments[index] = body.mark(arguments[index], index);
            }
        }
    }
    let mut lowering = Lowering::new(program, body, arguments);
    for (index, instruction) in program.instructions.iter().enumerate() {
        lowering
            .instruction(instruction)
            .map_err(|message| malformed(format!("instruction {index} ({:?}): {message}", instruction.op)))?;
    }
    let results = lowering.results().map_err(malformed)?;
    let types: Vec<Type> = results.iter().map(|id| lowering.body.type_of(*id).clone()).collect();
    let donations = donations(program, &types).map_err(malformed)?;

    let mut text = symbol(name).map_or("module {\n".to_owned(), |name| format!("module @{name} {{\n"));
    text.extend(lowering.functions.into_iter().map(|function| function.text));
    text += &lowering.body.function("func.func public @main", &donations, &results).to_string();
    text += "}\n";
    Ok(text)
}

/// Whether a tensor of these dimensions has numbers, and no more than can be counted.
fn is_sized(dims: &[usize]) -> bool {
    let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim));
    count.is_some_and(|count| count > 0 && i64::try_from(count).is_ok())
}

fn argument_type(argument: &Argument) -> Type {
    match *argument {
        Argument::Tensor(tensor) => {
            Type { dims: vec![tensor.rows, tensor.cols], element: tensor.format.into() }
        }
        Argument::Weight { outputs, inputs, format } => {
            Type { dims: vec![outputs, inputs], element: format.into() }
        }
        Argument::Mask { batch, queries, keys } => {
            Type { dims: vec![batch, queries, keys], element: Element::I1 }
        }
    }
}

/// What is said of each argument, where results are of these types: whether and with what it may be written over.
fn donations(program: &Program, results: &[Type]) -> Result<Vec<String>, String> {
    let mut donations = vec![String::new(); program.arguments.len()];
    let mut taken = vec![false; results.len()];
    for &index in &program.donated {
        let Some(argument) = program.arguments.get(index) else {
            return Err(format!("argument {index} is donated, and there are {}", program.arguments.len()));
        };
        if !donations[index].is_empty() {
            return Err(format!("argument {index} is donated twice"));
        }
        let wanted = argument_type(argument);
        let free = results.iter().zip(&taken).position(|(result, taken)| !taken && *result == wanted);
        donations[index] = match free {
            Some(result) => {
                taken[result] = true;
                format!(" {{tf.aliasing_output = {result} : i32}}")
            }
            None => " {jax.buffer_donor = true}".to_owned(),
        };
    }
    Ok(donations)
}

/// A name as a symbol of MLIR, without its `@`: bare where it may be, else quoted; `None` for an empty one.
fn symbol(name: &str) -> Option<String> {
    let first = name.bytes().next()?;
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
    if (first.is_ascii_alphabetic() || first == b'_') && name.bytes().all(inside) {
        return Some(name.to_owned());
    }
    let mut quoted = String::from("\"");
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => {
                let _ = write!(quoted, "\\{byte:02X}");
            }
        }
    }
    quoted.push('"');
    Some(quoted)
}

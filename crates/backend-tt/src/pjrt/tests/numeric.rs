//! XLA's plugin for the CPU.

use std::path::Path;

use half::bf16;
use libtest_mimic::{Failed, Trial};
use smolvla_backend_tt::pjrt::{
    Argument, Buffer, Client, CompileOptions, ElementType, ErrorCode, Numeric, PjrtError, Plugin,
};

use super::programs::{self, Program};
use super::{numeric_plugin, with};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        with(numeric_plugin, "xla_cpu::describes_itself", describes_itself),
        with(numeric_plugin, "xla_cpu::linear_f32", |path| linear(path, "linear_f32", 1e-6)),
        with(numeric_plugin, "xla_cpu::linear_bf16", |path| linear(path, "linear_bf16", 4e-3)),
        with(numeric_plugin, "xla_cpu::rms_norm", rms_norm),
        with(numeric_plugin, "xla_cpu::attention", attention),
        with(numeric_plugin, "xla_cpu::element_types_survive_the_round_trip", round_trip),
        with(numeric_plugin, "xla_cpu::outputs_come_back_row_by_row", transposed),
        with(numeric_plugin, "xla_cpu::broken_programs_are_errors", broken),
        with(numeric_plugin, "xla_cpu::wrong_inputs_are_errors", wrong_inputs),
        with(numeric_plugin, "xla_cpu::given_inputs_are_reused", donation),
        with(numeric_plugin, "xla_cpu::threads_share_a_client", threads),
        #[cfg(target_os = "linux")]
        with(numeric_plugin, "xla_cpu::nothing_leaks", leaks),
    ]
}

fn open(path: &Path) -> Result<Client<Numeric>, PjrtError> {
    Client::open(&Plugin::load(path)?)
}

/// Numbers between −1 and 1 that look like noise, the same at every run.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(count)
    .collect()
}

/// Values as the element type holds them, and their bytes.
fn rounded(values: &[f32], element: ElementType) -> (Vec<f32>, Vec<u8>) {
    match element {
        ElementType::Bf16 => {
            let narrow: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
            let bytes = narrow.iter().flat_map(|value| value.to_le_bytes()).collect();
            (narrow.into_iter().map(bf16::to_f32).collect(), bytes)
        }
        _ => (values.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

fn floats(buffer: &Buffer<Numeric>) -> Result<Vec<f32>, PjrtError> {
    let bytes = buffer.to_host()?;
    Ok(match buffer.element_type() {
        ElementType::Bf16 => {
            bytes.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()
        }
        _ => bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
    })
}

/// Runs a program on noise; its inputs, and its one output.
fn run(path: &Path, program: &Program) -> Result<(Vec<Vec<f32>>, Vec<f32>), PjrtError> {
    let client = open(path)?;
    let executable = client.compile(&program.mlir, &CompileOptions::default())?;
    assert_eq!(executable.outputs(), 1);
    let mut values = Vec::new();
    let mut buffers = Vec::new();
    for (seed, (element, sizes)) in (1..).zip(&program.inputs) {
        let (value, bytes) = rounded(&noise(sizes.iter().product(), seed), *element);
        buffers.push(client.upload(&bytes, *element, sizes)?);
        values.push(value);
    }
    let outputs = executable.execute(buffers.iter().map(Argument::from))?;
    Ok((values, floats(&outputs[0])?))
}

/// Relative error, of all values together.
fn assert_near(actual: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    let squares =
        |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let difference = squares(&mut actual.iter().zip(expected).map(|(a, b)| a - b));
    let error = (difference / squares(&mut expected.iter().copied())).sqrt();
    assert!(error < tolerance, "relative error {error:e}, allowed is {tolerance:e}");
}

fn describes_itself(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    assert!(client.plugin().version() >= (0, 57));
    assert!(!client.platform().is_empty());
    assert!(!client.devices().is_empty() && !client.device().kind.is_empty(), "{:?}", client.devices());
    let again = Plugin::load(path)?;
    assert_eq!(again.path(), client.plugin().path());
    Ok(())
}

fn linear(path: &Path, name: &str, tolerance: f64) -> Result<(), Failed> {
    let (inputs, output) = run(path, &programs::named(name, false))?;
    assert_near(&output, &programs::expected_linear(&inputs[0], &inputs[1], &inputs[2]), tolerance);
    Ok(())
}

fn rms_norm(path: &Path) -> Result<(), Failed> {
    let (inputs, output) = run(path, &programs::named("rms_norm", false))?;
    assert_near(&output, &programs::expected_rms_norm(&inputs[0], &inputs[1]), 5e-3);
    Ok(())
}

fn attention(path: &Path) -> Result<(), Failed> {
    let (inputs, output) = run(path, &programs::named("attention", false))?;
    assert_near(&output, &programs::expected_attention(&inputs[0], &inputs[1], &inputs[2]), 1e-2);
    Ok(())
}

fn round_trip(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    for (element, sizes) in [
        (ElementType::Pred, vec![3, 5]),
        (ElementType::S32, vec![2, 1, 4]),
        (ElementType::F32, vec![]),
        (ElementType::Bf16, vec![7]),
        (ElementType::F32, vec![0, 4]),
    ] {
        let bytes: Vec<u8> = (0..element.array_bytes(&sizes)?).map(|index| (index % 2) as u8).collect();
        let buffer = client.upload(&bytes, element, &sizes)?;
        buffer.wait()?;
        assert_eq!((buffer.element_type(), buffer.dimensions()), (element, &sizes[..]));
        assert_eq!(buffer.to_host()?, bytes);
    }
    Ok(())
}

/// A compiler may lay a transposed array out as it lay.
fn transposed(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    let program = "module { func.func @main(%x: tensor<2x3xf32>) -> tensor<3x2xf32> {
        %y = stablehlo.transpose %x, dims = [1, 0] : (tensor<2x3xf32>) -> tensor<3x2xf32>
        return %y : tensor<3x2xf32>
    } }";
    let (_, bytes) = rounded(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], ElementType::F32);
    let x = client.upload(&bytes, ElementType::F32, &[2, 3])?;
    let outputs = client.compile(program, &CompileOptions::default())?.execute([(&x).into()])?;
    assert_eq!(outputs[0].dimensions(), [3, 2]);
    assert_eq!(floats(&outputs[0])?, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    Ok(())
}

fn broken(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    let fits_not =
        "module { func.func @main(%x: tensor<2xf32>) -> tensor<3xf32> { return %x : tensor<2xf32> } }";
    for program in ["", "no program", fits_not] {
        let error = client.compile(program, &CompileOptions::default()).unwrap_err();
        assert!(matches!(error, PjrtError::Call { call: "PJRT_Client_Compile", .. }), "{error}");
    }
    let program = programs::named("linear_f32", false);
    let options = CompileOptions::default().with("no_such_option", true);
    let error = client.compile(&program.mlir, &options).unwrap_err();
    assert!(error.to_string().contains("no_such_option"), "{error}");
    Ok(())
}

fn wrong_inputs(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    let program = programs::named("linear_f32", false);
    let executable = client.compile(&program.mlir, &CompileOptions::default())?;
    let small = client.upload(&[0; 4], ElementType::F32, &[1])?;
    for count in [0, 1, 3] {
        let error = executable.execute((0..count).map(|_| Argument::from(&small))).unwrap_err();
        let PjrtError::Call { code, .. } = error else { panic!("{error}") };
        assert_eq!(code, ErrorCode::InvalidArgument, "{count} inputs");
    }
    assert_eq!(small.to_host()?, [0; 4]);
    Ok(())
}

/// A program that may write over its input does so where it is given, and not where it is lent.
fn donation(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    let program =
        "module { func.func @main(%x: tensor<4xf32> {tf.aliasing_output = 0 : i32}) -> tensor<4xf32> {
        %y = stablehlo.add %x, %x : tensor<4xf32>
        return %y : tensor<4xf32>
    } }";
    let executable = client.compile(program, &CompileOptions::default())?;
    let (_, bytes) = rounded(&[1.0, 2.0, 3.0, 4.0], ElementType::F32);
    let lent = client.upload(&bytes, ElementType::F32, &[4])?;
    let doubled = executable.execute([(&lent).into()])?.swap_remove(0);
    assert_eq!((lent.to_host()?, floats(&doubled)?), (bytes, vec![2.0, 4.0, 6.0, 8.0]));
    let mut chain = doubled;
    for _ in 0..3 {
        chain = executable.execute([chain.into()])?.swap_remove(0);
    }
    assert_eq!(floats(&chain)?, [16.0, 32.0, 48.0, 64.0]);
    Ok(())
}

fn threads(path: &Path) -> Result<(), Failed> {
    let client = open(path)?;
    let program = programs::named("rms_norm", false);
    let executable = client.compile(&program.mlir, &CompileOptions::default())?;
    let results = std::thread::scope(|scope| {
        let run = || -> Result<Vec<u8>, PjrtError> {
            let mut last = Vec::new();
            for _ in 0..20 {
                let (_, x) = rounded(&noise(programs::ROWS * programs::WIDTH, 1), ElementType::Bf16);
                let (_, gain) = rounded(&noise(programs::WIDTH, 2), ElementType::Bf16);
                let x = client.upload(&x, ElementType::Bf16, &program.inputs[0].1)?;
                let gain = client.upload(&gain, ElementType::Bf16, &program.inputs[1].1)?;
                last = executable.execute([x.into(), gain.into()])?[0].to_host()?;
            }
            Ok(last)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>, _>>()
    })?;
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    Ok(())
}

/// Pages of this process that are in memory, in bytes.
#[cfg(target_os = "linux")]
pub(super) fn resident() -> Result<usize, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}

#[cfg(target_os = "linux")]
fn leaks(path: &Path) -> Result<(), Failed> {
    const MEGABYTE: usize = 1 << 20;
    let client = open(path)?;
    let bytes = vec![0; MEGABYTE];
    let buffers = || -> Result<(), PjrtError> {
        // A thousand of these, if kept, would be a gigabyte.
        client.upload(&bytes, ElementType::Pred, &[MEGABYTE])?.to_host().map(drop)
    };
    let program = "module { func.func @main(%x: tensor<262144xf32>) -> tensor<262144xf32> {
        %y = stablehlo.add %x, %x : tensor<262144xf32>
        return %y : tensor<262144xf32>
    } }";
    let executable = client.compile(program, &CompileOptions::default())?;
    let x = client.upload(&bytes, ElementType::F32, &[MEGABYTE / 4])?;
    let outputs = || executable.execute([(&x).into()])?[0].wait();
    let errors = || client.compile("no program", &CompileOptions::default()).map(drop).unwrap_err();
    for _ in 0..50 {
        buffers()?;
        outputs()?;
        errors();
    }
    let before = resident()?;
    for _ in 0..1000 {
        buffers()?;
        outputs()?;
        errors();
    }
    let grown = resident()?.saturating_sub(before);
    assert!(grown < 64 * MEGABYTE, "a thousand buffers left {grown} bytes");

    let small = "module { func.func @main(%x: tensor<f32>) -> tensor<f32> { return %x : tensor<f32> } }";
    let compile = || client.compile(small, &CompileOptions::default()).map(drop);
    for _ in 0..100 {
        compile()?;
    }
    let before = resident()?;
    for _ in 0..1000 {
        compile()?;
    }
    let grown = resident()?.saturating_sub(before);
    assert!(grown < 64 * MEGABYTE, "a thousand executables left {grown} bytes");
    Ok(())
}

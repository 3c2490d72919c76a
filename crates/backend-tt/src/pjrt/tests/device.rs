//! Programs of this backend on XLA's plugin for the CPU.

use std::path::Path;

use libtest_mimic::{Failed, Trial};
use smolvla_backend_tt::DeviceError;
use smolvla_backend_tt::device::{Given, Readable, TtDevice};
use smolvla_backend_tt::pjrt::{Buffer, Numeric, PjrtDevice};
use smolvla_core::backend::{BackendErrorKind, Execution};

use crate::cases::{Case, cases};
use crate::program::{Argument, Op, Program, TensorType};
use crate::tensix::{Dest, Format};
use crate::{numeric_plugin, with};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        with(numeric_plugin, "device::every_operation_computes_what_the_plain_loops_do", operations),
        with(numeric_plugin, "device::numbers_survive_the_round_trip", round_trip),
        with(numeric_plugin, "device::wrong_shapes_are_errors", wrong_shapes),
        with(numeric_plugin, "device::says_what_it_is", says_what_it_is),
        #[cfg(target_os = "linux")]
        with(numeric_plugin, "device::nothing_leaks", leaks),
    ]
}

fn upload(device: &PjrtDevice, argument: &Argument, values: &[f32]) -> Result<Buffer<Numeric>, DeviceError> {
    match *argument {
        Argument::Tensor(TensorType { rows, cols, format }) => device.upload(values, rows, cols, format),
        Argument::Weight { outputs, inputs, format } => device.upload_weight(values, outputs, inputs, format),
        Argument::Mask { batch, queries, keys } => {
            let allowed: Vec<bool> = values.iter().map(|value| *value > 0.0).collect();
            device.upload_mask(&allowed, batch, queries, keys)
        }
    }
}

fn results(device: &PjrtDevice, case: &Case) -> Result<Vec<Vec<f32>>, DeviceError> {
    let executable = device.compile(&case.program)?;
    let buffers = case.program.arguments.iter().zip(&case.inputs);
    let buffers: Vec<_> =
        buffers.map(|(argument, values)| upload(device, argument, values)).collect::<Result<_, _>>()?;
    // Twice with everything lent, then as the program says: what is donated may be gone afterwards.
    for _ in 0..2 {
        device.execute(&executable, buffers.iter().map(Given::Lent).collect())?;
    }
    let given = buffers.into_iter().enumerate();
    let mut lent = Vec::new();
    let given: Vec<_> = given
        .map(|(index, buffer)| {
            if case.program.donated.contains(&index) {
                return Some(buffer);
            }
            lent.push(buffer);
            None
        })
        .collect();
    let mut lent = lent.iter();
    let arguments = given.into_iter().filter_map(|donated| match donated {
        Some(buffer) => Some(Given::Donated(buffer)),
        None => lent.next().map(Given::Lent),
    });
    let outputs = device.execute(&executable, arguments.collect())?;
    outputs.iter().map(|output| device.download(output)).collect()
}

fn operations(path: &Path) -> Result<(), Failed> {
    let device = PjrtDevice::open(path)?;
    let mut wrong = Vec::new();
    for case in cases() {
        let results = results(&device, &case).map_err(|error| format!("{}: {error}", case.name))?;
        assert_eq!(results.len(), case.expected.len(), "{}", case.name);
        for (result, expected) in results.iter().zip(&case.expected) {
            assert_eq!(result.len(), expected.len(), "{}", case.name);
            let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let off = result.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
            // A number that is none is never near.
            if result.iter().any(|value| !value.is_finite()) || off > case.tolerance * largest {
                wrong.push(format!("{}: {off} off, of {largest}", case.name));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn round_trip(path: &Path) -> Result<(), Failed> {
    let device = PjrtDevice::open(path)?;
    let values = [1.0, -2.5, f32::MIN_POSITIVE, f32::INFINITY, 1.003_906_3, 0.0];
    let buffer = device.upload(&values, 2, 3, Format::F32)?;
    assert_eq!(device.download(&buffer)?, values);
    let buffer = device.upload(&values, 3, 2, Format::Bf16)?;
    assert_eq!(device.download(&buffer)?, [1.0, -2.5, f32::MIN_POSITIVE, f32::INFINITY, 1.0, 0.0]);
    let mask = device.upload_mask(&[true, false], 1, 1, 2)?;
    assert_eq!(device.download(&mask).unwrap_err().kind, BackendErrorKind::InvalidArgument);
    Ok(())
}

/// `factor · x`.
fn scale(tensor: TensorType) -> Program {
    let mut program = Program::default();
    let x = program.argument(Argument::Tensor(tensor));
    let y = program.push(Op::Scale { factor: 2.0, dest: Dest::Bits32 }, vec![x], tensor);
    program.results.push(y);
    program
}

fn wrong_shapes(path: &Path) -> Result<(), Failed> {
    let device = PjrtDevice::open(path)?;
    let executable = device.compile(&scale(TensorType { rows: 2, cols: 3, format: Format::F32 }))?;
    let refused = |values: &[f32], rows, cols, format| -> Result<(), DeviceError> {
        let buffer = device.upload(values, rows, cols, format)?;
        let error = device.execute(&executable, vec![Given::Lent(&buffer)]).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::InvalidArgument, "{error}");
        Ok(())
    };
    refused(&[0.0; 6], 3, 2, Format::F32)?;
    refused(&[0.0; 3], 1, 3, Format::F32)?;
    refused(&[0.0; 6], 2, 3, Format::Bf16)?;
    assert!(device.execute(&executable, Vec::new()).is_err());
    assert!(device.upload(&[0.0; 5], 2, 3, Format::F32).is_err());
    let mut malformed = scale(TensorType { rows: 2, cols: 3, format: Format::F32 });
    malformed.results.clear();
    assert_eq!(device.compile(&malformed).unwrap_err().kind, BackendErrorKind::InvalidArgument);
    Ok(())
}

fn says_what_it_is(path: &Path) -> Result<(), Failed> {
    let capabilities = PjrtDevice::open(path)?.capabilities();
    let plans: Vec<_> = capabilities.plans.iter().filter_map(|plan| plan.name()).collect();
    assert!(capabilities.static_shapes && capabilities.driver.is_some_and(|driver| driver.contains(".so")));
    match capabilities.execution {
        Execution::Emulated(by) => {
            assert!(by.ends_with("through a PJRT plugin, in place of a Blackhole"), "{by}");
            assert_eq!(plans, ["float", "accurate", "auto"]);
        }
        _ => assert_eq!(plans, ["balanced", "accurate", "fast", "auto"]),
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn leaks(path: &Path) -> Result<(), Failed> {
    const MEGABYTE: usize = 1 << 20;
    // A thousand of these, if kept, would be a gigabyte.
    let (rows, cols) = (512, 512);
    let tensor = TensorType { rows, cols, format: Format::F32 };
    let device = PjrtDevice::open(path)?;
    let mut program = scale(tensor);
    let lent = device.compile(&program)?;
    program.donated.push(0);
    let donated = device.compile(&program)?;
    let values = vec![1.0; rows * cols];
    let x = device.upload(&values, rows, cols, Format::F32)?;
    let round = || -> Result<(), DeviceError> {
        let given = device.upload(&values, rows, cols, Format::F32)?;
        drop(device.upload_weight(&values, rows, cols, Format::Bf16)?);
        drop(device.execute(&lent, vec![Given::Lent(&x)])?);
        let outputs = device.execute(&donated, vec![Given::Donated(given)])?;
        assert_eq!(device.download(&outputs[0])?[0], 2.0);
        Ok(())
    };
    for _ in 0..50 {
        round()?;
    }
    let before = crate::numeric::resident()?;
    for _ in 0..1000 {
        round()?;
    }
    let grown = crate::numeric::resident()?.saturating_sub(before);
    assert!(grown < 64 * MEGABYTE, "a thousand uploads and runs left {grown} bytes");
    Ok(())
}

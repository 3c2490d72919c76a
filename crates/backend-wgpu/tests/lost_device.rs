//! A device that goes away (here by being destroyed: a driver cannot be made to reset): every operation says so, and
//! nothing panics or hangs. A program of its own, because the device is gone for the whole process.

use std::process::ExitCode;

use libtest_mimic::Failed;
use smolvla_backend_wgpu::{Options, WgpuBackend};
use smolvla_core::Backend;
use smolvla_core::backend::BackendErrorKind;

mod support;

fn main() -> ExitCode {
    let test: support::Test = lost;
    support::main([("a_lost_device_is_a_typed_error".to_owned(), test)])
}

fn lost(backend: &WgpuBackend) -> Result<(), Failed> {
    let x = backend.upload(&[1.0, 2.0, 3.0, 4.0], 2, 2).map_err(|error| Failed::from(error.to_string()))?;
    let before = backend.download(&x).map_err(|error| Failed::from(error.to_string()))?;
    if before != [1.0, 2.0, 3.0, 4.0] {
        return Err(Failed::from(format!("uploaded 1 to 4, downloaded {before:?}")));
    }
    backend.lose_device();
    let first = backend
        .scale(&x, 2.0)
        .and_then(|y| backend.download(&y))
        .err()
        .ok_or_else(|| Failed::from("a result came from a lost device"))?;
    if first.kind != BackendErrorKind::DeviceLost || !first.message.contains("start the program again") {
        return Err(Failed::from(format!("{:?}: {first}", first.kind)));
    }
    for (op, error) in [
        ("synchronize", backend.synchronize().err()),
        ("upload", backend.upload(&[1.0], 1, 1).err()),
        ("download", backend.download(&x).err()),
    ] {
        let is_lost = |e: &smolvla_core::BackendError| e.kind == BackendErrorKind::DeviceLost && e.op == op;
        if !error.as_ref().is_some_and(is_lost) {
            return Err(Failed::from(format!("{op} after the device was lost: {error:?}")));
        }
    }
    match WgpuBackend::open(&Options::default()) {
        Err(error) if error.kind == BackendErrorKind::DeviceLost => {}
        other => return Err(Failed::from(format!("opening the lost device again: {other:?}"))),
    }
    Ok(())
}

//! The program that XRT's software emulation starts for a card: put it, or a link to it, at
//! `$XILINX_VITIS/data/emulation/unified/cpu_em/generic_pcie/model/genericpciemodel`.
//!
//! It is one of our devices behind XRT's protocol, and says on standard error which one: with the feature `rtl-sim` the
//! design itself, simulated, and without it the definition of its arithmetic.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a program that speaks to people on standard error")]

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("smolvla-fpga-emu: {reason}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
fn run() -> Result<(), String> {
    use smolvla_backend_fpga::device::FpgaDevice;
    use smolvla_core::backend::Execution;

    let connection = connect()?;
    #[cfg(feature = "rtl-sim")]
    let device = smolvla_backend_fpga::rtl::RtlDevice::new().map_err(|error| error.to_string())?;
    #[cfg(not(feature = "rtl-sim"))]
    let device = smolvla_backend_fpga::plain::PlainDevice::new();
    if let Execution::Emulated(what) = device.info().execution {
        eprintln!("smolvla-fpga-emu: the card is {what}");
    }
    smolvla_backend_fpga::xrt::emulation::serve(device, connection, |reason| {
        eprintln!("smolvla-fpga-emu: {reason}");
    })
    .map_err(|error| error.to_string())
}

#[cfg(not(unix))]
fn run() -> Result<(), String> {
    Err("XRT's software emulation is there on Linux only".to_owned())
}

/// Where XRT listens. It starts this program before it does.
#[cfg(unix)]
fn connect() -> Result<std::os::unix::net::UnixStream, String> {
    use std::time::Duration;

    const ATTEMPTS: usize = 200;
    const PAUSE: Duration = Duration::from_millis(50);

    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{name} is not set; XRT's software emulation starts this program"))
    };
    let path = format!("/tmp/{}/{}", variable("USER")?, variable("EMULATION_SOCKETID")?);
    let mut reason = None;
    for _ in 0..ATTEMPTS {
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(connection) => return Ok(connection),
            Err(error) => reason = Some(error),
        }
        std::thread::sleep(PAUSE);
    }
    Err(format!("nobody listens at {path}: {}", reason.map_or_else(String::new, |error| error.to_string())))
}

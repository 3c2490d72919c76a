//! The design itself, simulated, against the definition of its arithmetic: every case of every unit, bit for bit, with
//! an ideal memory and with one that stalls at random.
#![cfg(feature = "rtl-sim")]
#![allow(clippy::print_stdout, reason = "what was covered is read in the output of `cargo xtask rtl`")]

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Case, UNITS, cases, difference, expected, run};
use smolvla_backend_fpga::descriptor::{Descriptor, Op};
use smolvla_backend_fpga::device::FpgaDevice;
use smolvla_backend_fpga::rtl::{Options, RtlDevice};
use smolvla_core::backend::{BackendErrorKind, Execution};

/// Names a file for the waveform of the runs with the ideal memory; one unit's cases go into one file.
const TRACE: &str = "SMOLVLA_RTL_TRACE_FILE";

fn device(options: Options) -> RtlDevice {
    RtlDevice::with(options).expect("the simulation opens")
}

/// Cycles that no case of a unit needs between two transfers.
const PATIENCE: u64 = 20_000;

fn ideal() -> Options {
    Options { patience: PATIENCE, trace: std::env::var_os(TRACE).map(PathBuf::from), ..Options::default() }
}

/// Runs all cases of a unit; every case that fails is named.
fn check(unit: &str) {
    let started = Instant::now();
    let mut shown = started;
    let cases = cases(unit);
    assert!(!cases.is_empty(), "no cases of {unit}");
    let mut failures = Vec::new();
    let mut ideal = device(ideal());
    let mut stalled =
        device(Options { stalls: 0x5eed, latency: 7, skip: 13, patience: PATIENCE, ..Options::default() });
    for (i, case) in cases.iter().enumerate() {
        // One that is stuck takes seconds.
        if failures.len() > 20 {
            break;
        }
        let want = expected(case);
        for (device, memory) in [(&mut ideal, "ideal"), (&mut stalled, "stalling")] {
            let wrong = match run(case, device) {
                Ok(found) => difference(case, &want, &found),
                Err(reason) => Some(reason),
            };
            if let Some(wrong) = wrong {
                failures.push(format!("{} ({memory} memory): {wrong}", case.name));
            }
        }
        if shown.elapsed() > Duration::from_secs(2) {
            shown = Instant::now();
            println!("{unit}: {} of {} cases", i + 1, cases.len());
        }
    }
    let usage = ideal.usage();
    let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    println!(
        "{unit}: {} cases, {} cycles with the ideal memory, {:.1} s: {}",
        cases.len(),
        usage.cycles,
        started.elapsed().as_secs_f64(),
        names.join("; ")
    );
    let shown = failures.join("\n  ");
    assert!(failures.is_empty(), "{unit}: {} runs fail:\n  {shown}", failures.len());
}

macro_rules! units {
    ($($unit:ident),*) => {
        $(
            #[test]
            fn $unit() {
                check(stringify!($unit));
            }
        )*

        #[test]
        fn every_unit_has_a_test() {
            assert_eq!([$(stringify!($unit)),*], UNITS);
        }
    };
}

units!(gemm, quantise, norm, softmax, activate, rope, combine, copy, stream);

#[test]
fn case_names_are_unique() {
    for unit in UNITS {
        let mut names: Vec<String> = cases(unit).into_iter().map(|case| case.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{unit}");
    }
}

fn one_copy() -> Case {
    cases("copy").into_iter().find(|case| case.name == "a few rows").expect("a case of that name")
}

#[test]
fn it_says_that_it_is_a_simulation() {
    let info = device(Options::default()).info();
    assert!(matches!(&info.execution, Execution::Emulated(by) if by.contains("Verilator")), "{info:?}");
}

#[test]
fn an_ideal_memory_gives_the_same_cycles_every_time() {
    let case = one_copy();
    let cycles = |options: Options| {
        let device = device(options);
        let mut runs = [0; 2];
        for cycles in &mut runs {
            run(&case, &device).expect("it runs");
            *cycles = device.usage().cycles;
        }
        assert_eq!(runs[0] * 2, runs[1]);
        runs[0]
    };
    let usual = cycles(Options::default());
    assert_eq!(usual, cycles(Options::default()));
    // Descriptors, their operands and the acknowledgements wait for it.
    assert!(cycles(Options { latency: 164, ..Options::default() }) >= usual + 300);
}

#[test]
fn cycles_are_counted_by_operation() {
    let case = cases("stream").into_iter().find(|case| case.name == "a layer in one digit").expect("a layer");
    let device = device(Options::default());
    run(&case, &device).expect("it runs");
    let usage = device.usage();
    assert_eq!(usage.descriptors, 5);
    assert!(usage.beats_read > 100 && usage.beats_written > 100, "{usage:?}");
    for op in [Op::Gemm, Op::Quantise, Op::Norm, Op::Activate, Op::Combine, Op::End] {
        assert!(usage.of(op) > 50, "{op:?}: {usage:?}");
    }
    for op in [Op::Softmax, Op::Rope, Op::Copy] {
        assert_eq!(usage.of(op), 0, "{op:?}");
    }
    let busy: u64 = usage.ops.iter().sum();
    assert!(busy <= usage.cycles && busy + 2 >= usage.cycles, "{usage:?}");
}

#[test]
fn an_unknown_operation_ends_a_run() {
    let device = device(Options::default());
    let case = one_copy();
    device.write(case.base, &case.memory).expect("it is in memory");
    let mut stream = case.stream[0].to_bytes().to_vec();
    let mut unknown = case.stream[0].to_bytes();
    unknown[0] = 77;
    stream.extend(unknown);
    stream.extend(Descriptor::new(Op::End).to_bytes());
    let error = device.run_bytes(&stream).unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unsupported);
    assert_eq!(error.message, "the compute unit knows no operation 77 (after 1 descriptors)");
    works(&device);
}

#[test]
fn a_stream_without_an_end_ends_at_its_limit() {
    let device = device(Options::default());
    let case = one_copy();
    device.write(case.base, &case.memory).expect("it is in memory");
    let error = device.run_bytes(&case.stream[0].to_bytes()).unwrap_err();
    assert_eq!(error.message, "the stream has no end within 1 descriptors (after 1 descriptors)");
    works(&device);
}

#[test]
fn an_address_outside_of_memory_is_an_error() {
    let device = device(Options::default());
    let mut copy = one_copy();
    device.write(copy.base, &copy.memory).expect("it is in memory");
    let end = Descriptor::new(Op::End).to_bytes();
    let there = copy.stream[0];
    for outside in [32 << 28, u64::MAX << 12] {
        copy.stream[0] = Descriptor { source: [outside, 0, 0, 0], ..there };
        let read = device.run_bytes(&[copy.stream[0].to_bytes(), end].concat()).unwrap_err();
        copy.stream[0] = Descriptor { destination: [outside, 0], ..there };
        let write = device.run_bytes(&[copy.stream[0].to_bytes(), end].concat()).unwrap_err();
        for error in [read, write] {
            assert_eq!(error.kind, BackendErrorKind::InvalidArgument);
            let message =
                "the compute unit read or wrote an address that is not in memory (after 1 descriptors)";
            assert_eq!(error.message, message);
        }
    }
    works(&device);
}

#[test]
fn a_unit_in_which_nothing_moves_is_given_up() {
    // The memory answers later than is waited for.
    let device = device(Options { latency: 5000, patience: 1000, ..Options::default() });
    let error = run(&one_copy(), &device).unwrap_err();
    assert_eq!(error, "the compute unit is stuck: nothing moved for 1000 cycles (after 0 descriptors)");
    assert_eq!(device.usage().cycles, 0);
}

#[test]
fn a_descriptor_that_breaks_the_contract_does_not_reach_the_unit() {
    let mut case = one_copy();
    case.stream[0].rows = 0;
    let error = run(&case, &device(Options::default())).unwrap_err();
    assert!(error.contains("nothing to do"), "{error}");
}

/// Whether a device still does what it should, after an error.
fn works(device: &RtlDevice) {
    let case = one_copy();
    let found = run(&case, device).expect("it runs");
    assert_eq!(difference(&case, &expected(&case), &found), None);
}

//! Programs of a device that remembers what it was given.

use std::sync::atomic::{AtomicBool, Ordering};

use smolvla_core::backend::BackendErrorKind;

use super::*;
use crate::tensix::Dest;

/// Takes whole stages, computes nothing.
#[derive(Default)]
struct Fake {
    compiled: Mutex<Vec<Program>>,
    runs: Mutex<Vec<Run>>,
    uploads: Mutex<usize>,
    /// One clone is with each buffer.
    alive: Arc<()>,
    fails: AtomicBool,
}

/// A run: which program, and which of its arguments were given away.
#[derive(Debug, PartialEq)]
struct Run {
    program: usize,
    arguments: usize,
    donated: Vec<usize>,
}

impl Fake {
    fn buffer(&self) -> Arc<()> {
        *lock(&self.uploads) += 1;
        Arc::clone(&self.alive)
    }

    /// Buffers that are not freed.
    fn alive(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }

    fn runs(&self) -> usize {
        lock(&self.runs).len()
    }

    fn program(&self, index: usize) -> Program {
        lock(&self.compiled)[index].clone()
    }
}

impl TtDevice for Fake {
    type Buffer = Arc<()>;
    type Executable = usize;

    fn granularity(&self) -> Granularity {
        Granularity::Stage
    }

    fn upload(&self, _: &[f32], _: usize, _: usize, _: Format) -> Result<Arc<()>, DeviceError> {
        Ok(self.buffer())
    }

    fn upload_weight(&self, _: &[f32], _: usize, _: usize, _: Format) -> Result<Arc<()>, DeviceError> {
        Ok(self.buffer())
    }

    fn upload_mask(&self, _: &[bool], _: usize, _: usize, _: usize) -> Result<Arc<()>, DeviceError> {
        Ok(self.buffer())
    }

    fn compile(&self, program: &Program) -> Result<usize, DeviceError> {
        let mut compiled = lock(&self.compiled);
        compiled.push(program.clone());
        Ok(compiled.len() - 1)
    }

    fn execute(
        &self,
        executable: &usize,
        arguments: Vec<Given<'_, Arc<()>>>,
    ) -> Result<Vec<Arc<()>>, DeviceError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(DeviceError::new(BackendErrorKind::DeviceLost, "it is gone"));
        }
        let is_donated =
            |(index, given): (usize, &Given<'_, _>)| matches!(given, Given::Donated(_)).then_some(index);
        let donated = arguments.iter().enumerate().filter_map(is_donated).collect();
        lock(&self.runs).push(Run { program: *executable, arguments: arguments.len(), donated });
        let results = self.program(*executable).results.len();
        Ok((0..results).map(|_| Arc::clone(&self.alive)).collect())
    }
}

type Held = Arc<Handle<Fake>>;

const SIZES: TensorType = TensorType { rows: 2, cols: 3, format: Format::F32 };

fn recorder() -> Recorder<Fake> {
    Recorder::new(Fake::default())
}

fn host(recorder: &Recorder<Fake>) -> Held {
    recorder.host(vec![1.0; 6], SIZES.rows, SIZES.cols)
}

fn read(held: &Held) -> Operand<Fake> {
    Operand::Tensor(Arc::clone(&held.node))
}

fn scaled(recorder: &Recorder<Fake>, x: &Held, factor: f32) -> Held {
    let op = Op::Scale { factor, dest: Dest::Bits32 };
    recorder.record(op, vec![read(x)], SIZES).unwrap()
}

fn is_computed(held: &Held) -> bool {
    held.node.buffer().is_some() && !held.node.is_pending()
}

#[test]
fn what_is_asked_for_between_two_flushes_is_one_program() {
    let recorder = recorder();
    let x = host(&recorder);
    let mut held = vec![scaled(&recorder, &x, 0.5)];
    for step in 0..9 {
        held.push(scaled(&recorder, &held[step], 2.0));
    }
    assert_eq!((recorder.device.runs(), held.iter().any(is_computed)), (0, false));
    recorder.flush(None).unwrap();
    assert_eq!(recorder.device.runs(), 1);
    let program = recorder.device.program(0);
    assert_eq!((program.arguments.len(), program.instructions.len(), program.results.len()), (1, 10, 10));
    assert!(held.iter().all(is_computed));
    // There is nothing left to do.
    recorder.flush(None).unwrap();
    recorder.settle(&held[9].node).unwrap();
    assert_eq!(recorder.device.runs(), 1);
}

#[test]
fn only_what_is_still_held_is_a_result() {
    let recorder = recorder();
    let x = host(&recorder);
    let inner = scaled(&recorder, &x, 0.5);
    let outer = scaled(&recorder, &inner, 2.0);
    let dead = scaled(&recorder, &inner, 3.0);
    drop((inner, dead));
    recorder.flush(None).unwrap();
    let program = recorder.device.program(0);
    // What nobody can ask for is not computed either, unless something else reads it.
    assert_eq!((program.instructions.len(), &program.results[..]), (2, &[Value(2)][..]));
    assert!(is_computed(&outer));
}

#[test]
fn a_matrix_is_one_argument_and_goes_to_the_device_once() {
    let recorder = recorder();
    let x = host(&recorder);
    let sum = |x: &Held, y: &Held| {
        let tensor = TensorType { rows: 6, ..SIZES };
        recorder.record(Op::ConcatTokens { batch: 1 }, vec![read(x), read(x), read(y)], tensor).unwrap()
    };
    let first = sum(&x, &scaled(&recorder, &x, 0.5));
    recorder.flush(None).unwrap();
    let program = recorder.device.program(0);
    assert_eq!(program.arguments, [Argument::Tensor(SIZES)]);
    assert_eq!(program.instructions[1].operands, [Value(0), Value(0), Value(1)]);
    let second = sum(&x, &host(&recorder));
    recorder.flush(None).unwrap();
    assert_eq!(*lock(&recorder.device.uploads), 2);
    drop((first, second));
}

#[test]
fn masks_and_weights_are_arguments_too() {
    let recorder = recorder();
    let x = host(&recorder);
    let argument = Argument::Weight { outputs: 3, inputs: 3, format: Format::Bf16 };
    let weight = Arc::new(Fixed { argument, buffer: recorder.device.buffer() });
    let op = Op::Scale { factor: 1.0, dest: Dest::Bits32 };
    let operands = vec![read(&x), Operand::Fixed(Arc::clone(&weight)), Operand::Fixed(weight)];
    let held = recorder.record(op, operands, SIZES).unwrap();
    recorder.flush(None).unwrap();
    assert_eq!(recorder.device.program(0).arguments, [Argument::Tensor(SIZES), argument]);
    assert!(is_computed(&held));
}

#[test]
fn a_donated_matrix_is_given_away_and_can_be_read_again() {
    let recorder = recorder();
    let (x, other) = (host(&recorder), host(&recorder));
    let run = |donated: Option<&Arc<Node<Fake>>>| {
        let y = scaled(&recorder, &other, 0.5);
        let tensor = TensorType { rows: 4, ..SIZES };
        let op = Op::ConcatTokens { batch: 1 };
        let held = recorder.record(op, vec![read(&y), read(&x)], tensor).unwrap();
        drop(y);
        recorder.flush(donated).unwrap();
        assert!(is_computed(&held));
    };
    run(Some(&x.node));
    assert_eq!(recorder.device.program(0).donated, [1]);
    assert_eq!(lock(&recorder.device.runs)[0], Run { program: 0, arguments: 2, donated: vec![1] });
    assert!(x.node.buffer().is_none() && other.node.buffer().is_some());
    run(None);
    assert!(lock(&recorder.device.runs)[1].donated.is_empty());
    // On the device by now, and so no longer ours to give: somebody may have read it there.
    run(Some(&x.node));
    assert!(lock(&recorder.device.runs)[2].donated.is_empty());
}

#[test]
fn programs_of_one_structure_are_compiled_once() {
    let recorder = recorder();
    let run = |factor| {
        let held = scaled(&recorder, &host(&recorder), factor);
        recorder.flush(None).unwrap();
        assert!(is_computed(&held));
    };
    run(0.5);
    run(0.5);
    run(0.25);
    run(0.5);
    let programs: Vec<usize> = lock(&recorder.device.runs).iter().map(|run| run.program).collect();
    assert_eq!(programs, [0, 0, 1, 0]);
}

#[test]
fn one_result_can_be_computed_before_the_others() {
    let recorder = recorder();
    let x = host(&recorder);
    let (before, first) = (scaled(&recorder, &x, 0.5), scaled(&recorder, &x, 2.0));
    recorder.finish(&first).unwrap();
    recorder.finish(&first).unwrap();
    assert_eq!((is_computed(&before), is_computed(&first), recorder.device.runs()), (false, true, 1));
    let after = scaled(&recorder, &first, 4.0);
    recorder.flush(None).unwrap();
    assert!(is_computed(&before) && is_computed(&after));
    let program = recorder.device.program(1);
    assert_eq!((program.arguments.len(), program.instructions.len()), (2, 2));
}

#[test]
fn what_failed_can_be_asked_for_again() {
    let recorder = recorder();
    let x = host(&recorder);
    let y = scaled(&recorder, &x, 0.5);
    recorder.device.fails.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(recorder.flush(None).unwrap_err().kind, BackendErrorKind::DeviceLost);
        assert_eq!(recorder.settle(&y.node).unwrap_err().kind, BackendErrorKind::DeviceLost);
        assert_eq!(recorder.finish(&y).unwrap_err().kind, BackendErrorKind::DeviceLost);
    }
    assert!(!is_computed(&y));
    let z = scaled(&recorder, &y, 2.0);
    recorder.device.fails.store(false, Ordering::Relaxed);
    recorder.settle(&z.node).unwrap();
    assert!(is_computed(&y) && is_computed(&z));
    assert_eq!(recorder.device.program(1).results.len(), 2);
}

#[test]
fn dropped_matrices_are_freed() {
    let recorder = recorder();
    let x = host(&recorder);
    let mut y = scaled(&recorder, &x, 0.5);
    for _ in 0..100 {
        y = scaled(&recorder, &y, 2.0);
        recorder.flush(None).unwrap();
        // The one that is held, and what was uploaded.
        assert_eq!(recorder.device.alive(), 2);
    }
    assert_eq!(lock(&recorder.device.compiled).len(), 2);
    drop((x, y));
    assert_eq!(recorder.device.alive(), 0);
    assert!(lock(&recorder.unfinished).is_empty());
}

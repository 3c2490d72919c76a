//! What operations become, and that devices take it.

use std::sync::Mutex;

use smolvla_core::PrecisionPlan;
use smolvla_core::backend::{
    Activation, AttentionShape, Backend, BackendErrorKind, Epilogue, Execution, Matrix, Precision,
};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use crate::FpgaBackend;
use crate::arith::{DIGIT, TWO_DIGITS};
use crate::descriptor::{Descriptor, Flags, Op};
use crate::device::{BANK_BYTES, Counters, DeviceError, DeviceInfo, FpgaDevice};
use crate::plain::PlainDevice;

/// Keeps what it is asked, and does it too.
struct Recorder {
    device: PlainDevice,
    log: Mutex<Vec<Asked>>,
    fails: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Write(u64),
    Run(Vec<Descriptor>),
}

impl FpgaDevice for Recorder {
    fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.log.lock().unwrap().push(Asked::Write(address));
        self.device.write(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read(address, bytes)
    }

    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError> {
        if self.fails {
            return Err(DeviceError { kind: BackendErrorKind::Timeout, message: "no answer".to_owned() });
        }
        self.log.lock().unwrap().push(Asked::Run(stream.to_vec()));
        self.device.run(stream)?;
        Ok(Counters { cycles: stream.len() as u64 })
    }
}

fn backend() -> FpgaBackend<Recorder> {
    FpgaBackend::new(Recorder { device: PlainDevice::new(), log: Mutex::default(), fails: false })
}

impl FpgaBackend<Recorder> {
    /// All descriptors so far.
    fn stream(&self) -> Vec<Descriptor> {
        self.synchronize().unwrap();
        let log = std::mem::take(&mut *self.device().log.lock().unwrap());
        let runs = log.into_iter().filter_map(|asked| match asked {
            Asked::Run(stream) => Some(stream),
            Asked::Write(_) => None,
        });
        runs.flatten().collect()
    }

    fn matrix(&self, rows: usize, cols: usize) -> crate::FpgaTensor {
        let values: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        self.upload(&values, rows, cols).unwrap()
    }

    fn layer(&self, outputs: usize, inputs: usize, precision: Precision) -> crate::FpgaLinear {
        let bytes = |count: usize| -> Vec<u8> {
            (0..count).flat_map(|i| ((i * 13 % 29) as f32 - 14.0).to_le_bytes()).collect()
        };
        let (weights, bias) = (bytes(outputs * inputs), bytes(outputs));
        let source = LinearSource {
            name: "layer".to_owned(),
            path: "layer".to_owned(),
            weights: vec![TensorView::new(StorageType::F32, outputs, inputs, &weights).unwrap()],
            biases: vec![TensorView::new(StorageType::F32, 1, outputs, &bias).unwrap()],
        };
        self.prepare_linear(&source, precision).unwrap()
    }
}

fn ops(stream: &[Descriptor]) -> Vec<Op> {
    stream.iter().map(|descriptor| descriptor.op).collect()
}

#[test]
fn a_linear_layer_is_digits_products_and_its_epilogue() {
    let backend = backend();
    let weight = backend.layer(40, 768, Precision::Int8Weights);
    let (x, residual) = (backend.matrix(1000, 768), backend.matrix(10, 40));
    let epilogue = Epilogue { activation: Some(Activation::GeluTanh), residual: Some(&residual) };
    let y = backend.linear(&x, &weight, epilogue).unwrap();
    assert_eq!((y.rows(), y.cols()), (1000, 40));
    let again = backend.linear(&x, &weight, Epilogue::NONE).unwrap();
    assert_eq!((again.rows(), again.cols()), (1000, 40));
    let stream = backend.stream();
    // Two digits of 768 numbers take 192 words of a row bank: 85 tiles of ten rows at a time.
    assert_eq!(
        ops(&stream),
        [Op::Quantise, Op::Gemm, Op::Gemm, Op::Activate, Op::Combine, Op::Gemm, Op::Gemm]
    );
    let [quantise, first, second, activate, combine, ..] = &stream[..] else { unreachable!() };
    let pitch = 768;
    assert_eq!(
        *quantise,
        Descriptor {
            op: Op::Quantise,
            flags: Flags::TWO_DIGITS,
            rows: 1000,
            cols: 768,
            source: [x.words.address, 0, 0, 0],
            destination: [first.source[0], first.source[1]],
            pitch: [3072, 0, pitch],
            plane: [1000 * pitch, 0],
            ..Descriptor::new(Op::Quantise)
        }
    );
    assert_eq!((first.rows, second.rows), (850, 150));
    assert_eq!(
        *first,
        Descriptor {
            op: Op::Gemm,
            flags: Flags::TWO_DIGITS.and(Flags::BIAS),
            rows: 850,
            cols: 40,
            depth: 768,
            pitch: [pitch, 0, 192],
            plane: [1000 * pitch, 0],
            ..*first
        }
    );
    // Three panels, then scales, then the bias.
    assert_eq!(first.source[3], first.source[2] + 3 * 768 * 16);
    assert_eq!(first.destination[1], first.source[3] + 40 * 4);
    assert_eq!(second.source[0], first.source[0] + u64::from(850 * pitch));
    assert_eq!(second.source[1], first.source[1] + 850 * 4);
    assert_eq!(second.destination[0], first.destination[0] + 850 * 192);
    assert_eq!((activate.flags, activate.source[0]), (Flags::GELU, first.destination[0]));
    assert_eq!((combine.flags, combine.repeat), (Flags::ADD.and(Flags::PLAIN), 10));
    assert_eq!(combine.source[..2], [activate.destination[0], residual.words.address]);
    // The digits of `x` are those made before.
    assert_eq!(stream[5].source[..2], first.source[..2]);
}

#[test]
fn int8_layers_have_one_digit() {
    let backend = backend();
    for precision in [Precision::Int8, Precision::Int8Full] {
        let weight = backend.layer(17, 33, precision);
        let _y = backend.linear(&backend.matrix(3, 33), &weight, Epilogue::NONE).unwrap();
        let stream = backend.stream();
        assert_eq!(stream[0].flags, Flags(0));
        assert_eq!(stream[1].flags, Flags::BIAS);
        assert_eq!(stream[1].plane, [0, 0]);
    }
}

#[test]
fn rows_longer_than_the_buffers_are_multiplied_in_parts() {
    let backend = backend();
    let weight = backend.layer(3, 8192 + 70, Precision::Int16);
    let x = backend.matrix(2, 8192 + 70);
    let y = backend.linear(&x, &weight, Epilogue::NONE).unwrap();
    let stream = backend.stream();
    assert_eq!(ops(&stream), [Op::Quantise, Op::Gemm, Op::Gemm, Op::Combine]);
    let both = Flags::TWO_DIGITS.and(Flags::TWO_DIGIT_WEIGHTS);
    assert_eq!((stream[1].flags, stream[2].flags), (both.and(Flags::BIAS), both));
    assert_eq!((stream[1].depth, stream[2].depth), (8192, 70));
    assert_eq!(stream[2].source[0], stream[1].source[0] + 8192);
    assert_eq!(stream[1].pitch[0], stream[2].pitch[0]);
    let x = backend.download(&x).unwrap();
    let expected = |row: usize, output: usize| -> f64 {
        let weight = |i: usize| (i * 13 % 29) as f64 - 14.0;
        let inputs = 8192 + 70;
        let products = (0..inputs).map(|i| f64::from(x[row * inputs + i]) * weight(output * inputs + i));
        products.sum::<f64>() + weight(output)
    };
    for (i, y) in backend.download(&y).unwrap().into_iter().enumerate() {
        let expected = expected(i / 3, i % 3);
        assert!((f64::from(y) - expected).abs() < 2.0, "{y} {expected}");
    }
}

fn attend(
    backend: &FpgaBackend<Recorder>,
    shape: AttentionShape,
    queries: usize,
    segments: &[&KeyValue<crate::FpgaTensor>],
    masked: bool,
) -> Vec<Descriptor> {
    let tokens: usize = segments.iter().map(|segment| segment.key.rows()).sum::<usize>() / shape.batch;
    let mask = vec![true; shape.batch * queries * tokens];
    let mask = masked.then(|| backend.upload_mask(&mask, shape.batch, queries, tokens).unwrap());
    let q = backend.matrix(shape.batch * queries, shape.heads * shape.head_dim);
    let _y = backend.attention(&q, segments, mask.as_ref(), shape).unwrap();
    backend.stream()
}

fn key_value(
    backend: &FpgaBackend<Recorder>,
    rows: usize,
    shape: AttentionShape,
) -> KeyValue<crate::FpgaTensor> {
    let cols = shape.kv_heads * shape.head_dim;
    KeyValue { key: backend.matrix(rows, cols), value: backend.matrix(rows, cols) }
}

#[test]
fn an_attention_is_two_products_around_a_softmax() {
    let backend = backend();
    let shape = AttentionShape { batch: 1, heads: 4, kv_heads: 2, head_dim: 16, scale: 0.25 };
    let kv = key_value(&backend, 7, shape);
    let stream = attend(&backend, shape, 3, &[&kv], true);
    let head = [Op::Quantise, Op::Quantise, Op::Gemm, Op::Softmax, Op::Gemm, Op::Gemm];
    // Keys and values of both heads, then each of them with its two query heads.
    assert_eq!(ops(&stream), [[Op::Quantise; 4].as_slice(), &head, &head].concat());
    let [key, _, value, _, query, next_query, scores, softmax, first, second, ..] = &stream[..] else {
        unreachable!()
    };
    let both = Flags::TWO_DIGITS;
    assert_eq!((key.flags, key.rows, key.cols), (both, 7, 16));
    assert_eq!((value.flags, value.rows, value.cols), (both.and(Flags::TRANSPOSE), 16, 7));
    assert_eq!(stream[3].source[0], value.source[0] + 64);
    assert_eq!((query.rows, query.cols, query.plane[0]), (3, 16, 6 * 64));
    assert_eq!(next_query.source[0], query.source[0] + 64);
    assert_eq!(next_query.destination[0], query.destination[0] + 3 * 64);
    // The second key/value head has the third query head on.
    assert_eq!(stream[10].source[0], query.source[0] + 2 * 64);
    assert_eq!(scores.flags, both.and(Flags::TWO_DIGIT_WEIGHTS).and(Flags::ROWS));
    assert_eq!((scores.rows, scores.cols, scores.depth), (6, 7, 16));
    assert_eq!(
        scores.source,
        [query.destination[0], query.destination[1], key.destination[0], key.destination[1]]
    );
    assert_eq!(scores.plane, [6 * 64, 7 * 64]);
    assert_eq!((softmax.flags, softmax.repeat), (both.and(Flags::MASK), 3));
    assert_eq!((softmax.rows, softmax.cols, softmax.source[0]), (6, 7, scores.destination[0]));
    let factor = 0.25 * std::f64::consts::LOG2_E / f64::from(TWO_DIGITS).powi(2);
    assert_eq!(softmax.immediate, [(factor as f32).to_bits(), TWO_DIGITS as u32]);
    assert_eq!((first.rows, first.cols, first.depth), (3, 16, 7));
    assert_eq!(first.source[2..], [value.destination[0], value.destination[1]]);
    assert_eq!(second.source[0], first.source[0] + 3 * 64);
    assert_eq!((first.pitch[2], second.destination[0]), (256, first.destination[0] + 64));

    // Digits of keys and values are made once.
    assert_eq!(ops(&attend(&backend, shape, 3, &[&kv], false)), [head, head].concat());
}

#[test]
fn attention_in_single_digits_is_the_plan_int8full() {
    let plan = PrecisionPlan::from(Precision::Int8Full);
    let backend = backend().with_plan(&plan).unwrap();
    let shape = AttentionShape { batch: 1, heads: 1, kv_heads: 1, head_dim: 16, scale: 1.0 };
    let kv = key_value(&backend, 7, shape);
    let stream = attend(&backend, shape, 3, &[&kv], false);
    let flags: Vec<Flags> = stream.iter().map(|descriptor| descriptor.flags).collect();
    assert_eq!(flags, [Flags(0), Flags::TRANSPOSE, Flags(0), Flags::ROWS, Flags(0), Flags::ROWS]);
    assert_eq!(stream[4].immediate[1], DIGIT as u32);
}

#[test]
fn the_first_of_two_segments_is_made_ready_once() {
    let backend = backend();
    let shape = AttentionShape { batch: 2, heads: 1, kv_heads: 1, head_dim: 16, scale: 1.0 };
    let (prefix, own) = (key_value(&backend, 2 * 5, shape), key_value(&backend, 2 * 3, shape));
    let first = attend(&backend, shape, 3, &[&prefix, &own], false);
    let second = attend(&backend, shape, 3, &[&prefix, &own], false);
    let count = |stream: &[Descriptor], op: Op| stream.iter().filter(|d| d.op == op).count();
    // Keys of each observation and segment, columns of values and queries of each observation.
    assert_eq!((count(&first, Op::Quantise), count(&second, Op::Quantise)), (4 + 2 + 2, 2 + 2 + 2));
    assert_eq!((count(&first, Op::Copy), count(&second, Op::Copy)), (2, 1));
    // The second segment's tokens come after the first's, in each observation.
    let copy = second.iter().find(|d| d.op == Op::Copy).unwrap();
    assert_eq!((copy.rows, copy.cols, copy.depth, copy.plane), (3, 16, 2, [3 * 64, 8 * 64]));
}

#[test]
fn heads_that_do_not_fill_beats_are_put_apart_and_then_together() {
    let backend = backend();
    let shape = AttentionShape { batch: 1, heads: 4, kv_heads: 2, head_dim: 5, scale: 1.0 };
    let kv = key_value(&backend, 7, shape);
    let stream = attend(&backend, shape, 3, &[&kv], false);
    let head = [Op::Quantise, Op::Quantise, Op::Gemm, Op::Softmax, Op::Gemm, Op::Copy];
    // Values of each head are copied to where their columns can be quantised.
    let before = [Op::Quantise, Op::Quantise, Op::Copy, Op::Copy, Op::Quantise, Op::Quantise];
    assert_eq!(ops(&stream), [before, head, head].concat());
    let copy = stream[11];
    assert_eq!((copy.rows, copy.cols, copy.depth, copy.plane), (3, 5, 2, [3 * 64, 5 * 4]));
}

#[test]
fn uploads_wait_for_operations_that_use_their_place() {
    let backend = backend();
    let x = backend.upload(&[1.0, 2.0], 1, 2).unwrap();
    let twice = backend.scale(&x, 2.0).unwrap();
    let address = x.words.address;
    drop(x);
    // 32 banks later the place is free for another.
    let others: Vec<_> = (0..40).map(|i| backend.upload(&[f32::from(i as u8)], 1, 1).unwrap()).collect();
    assert!(others.iter().any(|other| other.words.address == address));
    assert_eq!(backend.download(&twice).unwrap(), [2.0, 4.0]);
    for (i, other) in others.iter().enumerate() {
        assert_eq!(backend.download(other).unwrap(), [i as f32]);
    }
}

#[test]
fn moved_words_keep_their_bits() {
    let backend = backend();
    let values = [f32::MAX, f32::MIN, -0.0, 0.0, f32::from_bits(1), -f32::MIN_POSITIVE, 1.0, -1.0];
    let x = backend.upload(&values, 4, 2).unwrap();
    let shuffled = backend.pixel_shuffle(&x, 2, 2).unwrap();
    let joined = backend.concat_tokens(&[&x, &x], 2).unwrap();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&backend.download(&shuffled).unwrap()), bits(&values));
    let halves = [&values[..4], &values[..4], &values[4..], &values[4..]].concat();
    assert_eq!(bits(&backend.download(&joined).unwrap()), bits(&halves));
    let right = backend.split_cols(&x, &[1, 1]).unwrap().remove(1);
    assert_eq!(bits(&backend.download(&right).unwrap()), bits(&[f32::MIN, 0.0, -f32::MIN_POSITIVE, -1.0]));
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_place() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let error = backend().upload(&[0.0, 0.0, 0.0, value], 2, 2).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::InvalidArgument);
        assert!(error.message.starts_with(&format!("element [1, 1] is {text};")), "{error}");
    }
}

#[test]
fn memory_that_is_full_is_an_error_with_sizes() {
    let backend = backend();
    let x = backend.matrix(1, 1);
    let layer = backend.layer(1, 1, Precision::Int8);
    // Of 2^22 rows the digits alone fill a bank.
    let rows = BANK_BYTES as usize / 64;
    let tall = x.part(crate::lower::Words { rows: rows as u32, ..x.words });
    let error = backend.linear(&tall, &layer, Epilogue::NONE).unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::OutOfMemory);
    let asked = rows * 68;
    assert!(error.message.contains(&asked.to_string()), "{error}");
    assert!(error.message.contains("268435456 of them in one piece"), "{error}");
}

#[test]
fn nothing_is_read_after_a_stream_has_failed() {
    let device = Recorder { device: PlainDevice::new(), log: Mutex::default(), fails: true };
    let backend = FpgaBackend::new(device);
    let x = backend.upload(&[1.0], 1, 1).unwrap();
    let y = backend.scale(&x, 2.0).unwrap();
    let error = backend.download(&y).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (BackendErrorKind::Timeout, "no answer"));
    let error = backend.download(&x).unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::DeviceLost);
    assert!(error.message.contains("no answer"), "{error}");
}

#[test]
fn capabilities_say_what_computes_and_why_there_is_no_f32() {
    let capabilities = backend().capabilities();
    assert_eq!(
        capabilities.precisions,
        [Precision::Int8, Precision::Int8Weights, Precision::Int8Full, Precision::Int16]
    );
    assert!(matches!(capabilities.execution, Execution::Emulated(_)));
    assert_eq!(capabilities.why_not(Precision::F32), Some("the design multiplies int8 digits"));
    let names: Vec<_> = capabilities.plans.iter().filter_map(PrecisionPlan::name).collect();
    assert_eq!(names, ["int8", "int8w", "int8full", "auto"]);
    for plan in &capabilities.plans {
        assert_eq!(plan.precision_for("text.layers.3.qkv"), Precision::Int16);
        assert_eq!(plan.precision_for("vision.layers.3.fc1"), plan.default_precision());
    }
}

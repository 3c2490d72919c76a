//! Wrong linear layers, elementwise functions, movements and whole layers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use smolvla_core::backend::{Activation, AttentionShape, BackendErrorKind, Epilogue, LayerOp, Prepared};
use smolvla_core::graph::{self, DenoiseContext, Expert, KeyValue, VisionLayer};
use smolvla_core::weights::LinearSource;

use super::*;

// ---- linear ----

alterations! {
    DropsBias {
        fn prepare_linear(&self, inner: &Reference, source: &LinearSource<'_>, p: Precision) -> Outcome<HostLinear> {
            inner.prepare_linear(&LinearSource { biases: Vec::new(), ..source.clone() }, p)
        }
    }

    StacksTheOtherWayRound {
        fn prepare_linear(&self, inner: &Reference, source: &LinearSource<'_>, p: Precision) -> Outcome<HostLinear> {
            let mut source = source.clone();
            source.weights.reverse();
            source.biases.reverse();
            inner.prepare_linear(&source, p)
        }
    }

    ActivatesAfterResidual {
        fn linear(&self, inner: &Reference, x: &HostMatrix, w: &HostLinear, e: Epilogue<'_, HostMatrix>) -> Outcome {
            let sum = inner.linear(x, w, Epilogue { activation: None, ..e })?;
            e.activation.map_or(Ok(sum.clone()), |activation| inner.activate(&sum, activation))
        }
    }

    /// Each row of the residual for as many consecutive rows, in place of one after the other.
    StretchesResidual {
        fn linear(&self, inner: &Reference, x: &HostMatrix, w: &HostLinear, e: Epilogue<'_, HostMatrix>) -> Outcome {
            let Some(residual) = e.residual else { return inner.linear(x, w, e) };
            let (period, cols) = (residual.rows(), residual.cols());
            let rows: Vec<f32> = values(residual)
                .chunks(cols)
                .flat_map(|row| row.repeat(x.rows() / period))
                .collect();
            let residual = matrix(rows, x.rows(), cols)?;
            inner.linear(x, w, Epilogue { residual: Some(&residual), ..e })
        }
    }

    LosesLastRowBeyondTile {
        fn linear(&self, inner: &Reference, x: &HostMatrix, w: &HostLinear, e: Epilogue<'_, HostMatrix>) -> Outcome {
            let result = inner.linear(x, w, e)?;
            let (rows, cols) = (result.rows(), result.cols());
            let mut result = values(&result);
            if rows % 32 == 1 && rows > 1 {
                result[(rows - 1) * cols..].fill(0.0);
            }
            matrix(result, rows, cols)
        }
    }
}

#[test]
fn wrong_linears_fail_the_cases_of_linear_alone() {
    assert_eq!(failing(DropsBias), ["linear"].into());
    assert_eq!(failing(StacksTheOtherWayRound), ["linear"].into());
    assert_eq!(failing(ActivatesAfterResidual), ["linear"].into());
    assert_eq!(failing(StretchesResidual), ["linear"].into());
    assert_eq!(failing(LosesLastRowBeyondTile), ["linear"].into());
}

#[test]
fn a_complaint_names_operation_case_metric_and_element() {
    let complaints = complaints("linear", LosesLastRowBeyondTile);
    assert!(complaints.contains("linear (tile_plus_one): NMSE "), "{complaints}");
    assert!(complaints.contains("row error "), "{complaints}");
    assert!(complaints.contains("; worst element [32, "), "{complaints}");
}

// ---- elementwise functions and rounding ----

alterations! {
    RotatesNeighbours {
        fn rope(&self, inner: &Reference, x: &HostMatrix, cos: &HostMatrix, sin: &HostMatrix) -> Outcome {
            let half = cos.cols();
            let apart = |col: usize| col / (2 * half) * 2 * half + col % 2 * half + col % (2 * half) / 2;
            let together = |col: usize| {
                let (head, index) = (col / (2 * half), col % (2 * half));
                head * 2 * half + index % half * 2 + index / half
            };
            let x = rearranged(x, |row, col| [row, together(col)])?;
            rearranged(&inner.rope(&x, cos, sin)?, |row, col| [row, apart(col)])
        }
    }

    RotatesBackwards {
        fn rope(&self, inner: &Reference, x: &HostMatrix, cos: &HostMatrix, sin: &HostMatrix) -> Outcome {
            inner.rope(x, cos, &inner.scale(sin, -1.0)?)
        }
    }

    /// Rows beyond the table take its last row.
    RopeTableDoesNotRepeat {
        fn rope(&self, inner: &Reference, x: &HostMatrix, cos: &HostMatrix, sin: &HostMatrix) -> Outcome {
            let long = |table: &HostMatrix| {
                let cols = table.cols();
                let old = values(table);
                let last = &old[old.len() - cols..];
                let rest = last.repeat(x.rows() - table.rows());
                matrix([&old[..], &rest].concat(), x.rows(), cols)
            };
            inner.rope(x, &long(cos)?, &long(sin)?)
        }
    }

    TanhOverflows {
        fn activate(&self, inner: &Reference, x: &HostMatrix, activation: Activation) -> Outcome {
            match activation {
                Activation::Silu => inner.activate(x, activation),
                Activation::GeluTanh => map(x, |x| {
                    let e = (2.0 * 0.797_884_6 * (x + 0.044_715 * x * x * x)).exp();
                    0.5 * x * (1.0 + (e - 1.0) / (e + 1.0))
                }),
            }
        }
    }

    SigmoidOverflows {
        fn activate(&self, inner: &Reference, x: &HostMatrix, activation: Activation) -> Outcome {
            match activation {
                Activation::Silu => map(x, |x| x * (x.exp() / (1.0 + x.exp()))),
                Activation::GeluTanh => inner.activate(x, activation),
            }
        }
    }

    GeluBySigmoid {
        fn activate(&self, inner: &Reference, x: &HostMatrix, activation: Activation) -> Outcome {
            match activation {
                Activation::Silu => inner.activate(x, activation),
                Activation::GeluTanh => map(x, |x| x / (1.0 + (-1.702 * x).exp())),
            }
        }
    }

    SwapsGateAndUp {
        fn silu_mul(&self, inner: &Reference, x: &HostMatrix) -> Outcome {
            let width = x.cols() / 2;
            inner.silu_mul(&rearranged(x, |row, col| [row, (col + width) % (2 * width)])?)
        }
    }

    DividesByReciprocal {
        fn scale(&self, _: &Reference, x: &HostMatrix, factor: f32) -> Outcome {
            map(x, |x| x / (1.0 / factor))
        }
    }

    FusesMultiplyAndAdd {
        fn axpy(&self, _: &Reference, alpha: f32, x: &HostMatrix, y: &HostMatrix) -> Outcome {
            let sums = values(x).into_iter().zip(values(y)).map(|(x, y)| alpha.mul_add(x, y));
            matrix(sums.collect(), x.rows(), x.cols())
        }
    }
}

#[test]
fn wrong_elementwise_functions_fail_their_own_cases_alone() {
    assert_eq!(failing(RotatesNeighbours), ["rope"].into());
    assert_eq!(failing(RotatesBackwards), ["rope"].into());
    assert_eq!(failing(RopeTableDoesNotRepeat), ["rope"].into());
    assert_eq!(failing(TanhOverflows), ["activate"].into());
    assert_eq!(failing(SigmoidOverflows), ["activate"].into());
    assert_eq!(failing(GeluBySigmoid), ["activate"].into());
    assert_eq!(failing(SwapsGateAndUp), ["silu_mul"].into());
}

#[test]
fn other_roundings_fail_where_the_rounding_is_prescribed() {
    assert_eq!(failing(DividesByReciprocal), ["scale"].into());
    assert_eq!(failing(FusesMultiplyAndAdd), ["axpy"].into());
}

// ---- movement ----

alterations! {
    LosesLastWord {
        fn embed_rows(&self, inner: &Reference, table: &HostTable, ids: &[u32]) -> Outcome {
            let last = table.inputs() as u32 - 1;
            let ids: Vec<u32> = ids.iter().map(|id| (*id).min(last.saturating_sub(1))).collect();
            inner.embed_rows(table, &ids)
        }
    }

    RoundsWordsToBf16 {
        fn embed_rows(&self, inner: &Reference, table: &HostTable, ids: &[u32]) -> Outcome {
            map(&inner.embed_rows(table, ids)?, |v| f32::from_bits(v.to_bits() & 0xffff_0000))
        }
    }

    JoinsPartsWhole {
        fn concat_tokens(&self, inner: &Reference, parts: &[&HostMatrix], _: usize) -> Outcome {
            inner.concat_tokens(parts, 1)
        }
    }

    LosesSignOfZero {
        fn slice_rows(&self, inner: &Reference, x: &HostMatrix, start: usize, count: usize) -> Outcome {
            map(&inner.slice_rows(x, start, count)?, |v| v + 0.0)
        }
    }

    /// Every part starts at a multiple of its own width.
    SplitsEvenly {
        fn split_cols(&self, inner: &Reference, x: &HostMatrix, widths: &[usize]) -> Outcome<Vec<HostMatrix>> {
            let starts = widths.iter().enumerate().map(|(index, width)| (index * width).min(x.cols() - width));
            starts
                .zip(widths)
                .map(|(start, width)| {
                    let mut parts = inner.split_cols(&rearranged(x, |row, col| {
                        [row, (col + start) % x.cols()]
                    })?, &[*width, x.cols() - width])?;
                    Ok(parts.swap_remove(0))
                })
                .collect()
        }
    }

    ShufflesColumnsBeforeRows {
        fn pixel_shuffle(&self, inner: &Reference, x: &HostMatrix, grid: usize, factor: usize) -> Outcome {
            let cols = x.cols();
            let result = inner.pixel_shuffle(x, grid, factor)?;
            rearranged(&result, |row, col| {
                let (block, channel) = (col / cols, col % cols);
                [row, (block % factor * factor + block / factor) * cols + channel]
            })
        }
    }

    FlushesSubnormals {
        fn download(&self, inner: &Reference, x: &HostMatrix) -> Outcome<Vec<f32>> {
            let flush = |v: f32| if v.is_subnormal() { 0.0_f32.copysign(v) } else { v };
            Ok(inner.download(x)?.into_iter().map(flush).collect())
        }
    }
}

#[test]
fn wrong_movements_fail_their_own_cases_alone() {
    assert_eq!(failing(LosesLastWord), ["embed_rows"].into());
    assert_eq!(failing(RoundsWordsToBf16), ["embed_rows"].into());
    assert_eq!(failing(JoinsPartsWhole), ["concat_tokens"].into());
    assert_eq!(failing(LosesSignOfZero), ["slice_rows"].into());
    assert_eq!(failing(SplitsEvenly), ["split_cols"].into());
    assert_eq!(failing(ShufflesColumnsBeforeRows), ["pixel_shuffle"].into());
}

#[test]
fn flushing_subnormals_fails_movement_and_nothing_that_computes() {
    let movement: BTreeSet<_> =
        cases(Size::Tiny).iter().filter(|case| case.class() == Class::Movement).map(OpCase::op).collect();
    assert_eq!(failing_with_layers(FlushesSubnormals), movement);
}

// ---- runs and layers ----

/// Every other `silu_mul` is off by the last bit.
#[derive(Clone, Default)]
struct Wavers(Arc<AtomicU32>);

impl Alteration<Reference> for Wavers {
    fn silu_mul(&self, inner: &Reference, x: &HostMatrix) -> Outcome {
        let odd = self.0.fetch_add(1, Ordering::Relaxed) % 2;
        map(&inner.silu_mul(x)?, |v| f32::from_bits(v.to_bits() ^ odd))
    }
}

#[test]
fn runs_that_differ_by_a_bit_fail() {
    assert_eq!(failing(Wavers::default()), ["silu_mul"].into());
    let complaints = complaints("silu_mul", Wavers::default());
    assert!(complaints.contains("silu_mul (odd_sizes): two runs differ at [0, 0]: "), "{complaints}");
}

/// Writes into some arguments. A [`HostMatrix`] cannot be changed in place, so this one reads differently afterwards.
#[derive(Clone, Default)]
struct WritesIntoArguments(Arc<Mutex<Vec<HostMatrix>>>);

impl WritesIntoArguments {
    fn write(&self, argument: &HostMatrix) {
        self.0.lock().expect("no test panics in here").push(argument.clone());
    }
}

impl Alteration<Reference> for WritesIntoArguments {
    fn download(&self, inner: &Reference, x: &HostMatrix) -> Outcome<Vec<f32>> {
        let mut values = inner.download(x)?;
        if self.0.lock().expect("no test panics in here").contains(x) {
            values[0] += 1.0;
        }
        Ok(values)
    }

    fn rope(&self, inner: &Reference, x: &HostMatrix, cos: &HostMatrix, sin: &HostMatrix) -> Outcome {
        self.write(sin);
        inner.rope(x, cos, sin)
    }

    fn linear(
        &self,
        inner: &Reference,
        x: &HostMatrix,
        w: &HostLinear,
        e: Epilogue<'_, HostMatrix>,
    ) -> Outcome {
        e.residual.iter().for_each(|residual| self.write(residual));
        inner.linear(x, w, e)
    }

    fn attention(
        &self,
        inner: &Reference,
        q: &HostMatrix,
        segments: &[&KeyValue<HostMatrix>],
        mask: Option<&HostMask>,
        shape: AttentionShape,
    ) -> Outcome {
        self.write(&segments[segments.len() - 1].value);
        inner.attention(q, segments, mask, shape)
    }
}

#[test]
fn arguments_that_change_fail() {
    let failing = failing_with_layers(WritesIntoArguments::default());
    // The tables and the prefix are arguments of layers too, and the residual is the layer's own input.
    let expected = ["linear", "attention", "rope"].into_iter().chain(LAYERS).collect();
    assert_eq!(failing, expected);
    for (op, complaint) in [
        ("linear", "linear (residual): changes its argument residual [0, 0]: "),
        ("attention", "attention (three_segments): changes its argument value 2 [0, 0]: "),
        ("rope", "rope (odd_half): changes its argument sin [0, 0]: "),
        ("vision_layer", "vision_layer (one_image): changes its argument x [0, 0]: "),
        ("text_layer", "text_layer (usual): changes its argument sin [0, 0]: "),
        ("expert_layer", "expert_layer (cross_attention): changes its argument values of prefix 0 [0, 0]: "),
        ("denoise_step", "denoise_step (first_step): changes its argument sin of self-attention [0, 0]: "),
    ] {
        let complaints = complaints(op, WritesIntoArguments::default());
        assert!(complaints.contains(complaint), "{complaint}: {complaints}");
    }
}

/// A vision layer and a denoising step of its own.
#[derive(Clone)]
struct Fused {
    vision_factor: f32,
    steps_off: usize,
}

impl Alteration<Reference> for Fused {
    fn overrides(&self, _: &Reference, op: LayerOp) -> bool {
        matches!(op, LayerOp::VisionLayer | LayerOp::DenoiseStep)
    }

    fn vision_layer(
        &self,
        inner: &Reference,
        layer: &VisionLayer<HostMatrix, HostLinear>,
        x: &HostMatrix,
        images: usize,
    ) -> Outcome {
        inner.scale(&graph::vision_layer(inner, layer, x, images)?, self.vision_factor)
    }

    fn denoise_step(
        &self,
        inner: &Reference,
        expert: &Expert<HostMatrix, HostLinear>,
        context: &DenoiseContext<HostMatrix, HostMask>,
        x_t: &HostMatrix,
        step: usize,
    ) -> Outcome {
        inner.denoise_step(expert, context, x_t, step.saturating_sub(self.steps_off))
    }
}

#[test]
fn a_layer_of_the_backends_own_is_held_to_the_composed_one() {
    let fused = |vision_factor, steps_off| Fused { vision_factor, steps_off };
    assert_eq!(failing_with_layers(fused(1.0, 0)), [].into());
    assert_eq!(failing_with_layers(fused(1.001, 0)), ["vision_layer"].into());
    assert_eq!(failing_with_layers(fused(1.0, 1)), ["denoise_step"].into());
    let backend = Checked::new(Altered::new(Reference, fused(1.001, 0)));
    for case in cases(Size::Tiny).iter().filter(|case| LAYERS.contains(&case.op())) {
        let evidence = case.check(&backend, Precision::F32);
        let is_fused = ["vision_layer", "denoise_step"].contains(&case.op());
        let form = if is_fused { "the backend's own form" } else { "composed of operations" };
        assert_eq!(evidence.notes, [format!("{}: {form}", case.op())]);
        assert_eq!(evidence.measurements.iter().any(|m| m.judge == Judge::Itself), is_fused);
    }
    let complaints = complaints("vision_layer", fused(1.001, 0));
    assert!(complaints.contains("vision_layer (one_image) against the composed form: NMSE"), "{complaints}");
}

/// A vision layer without the operations it could be composed of.
#[derive(Clone)]
struct HasLayerAlone {
    factor: f32,
}

impl Alteration<Reference> for HasLayerAlone {
    fn overrides(&self, _: &Reference, op: LayerOp) -> bool {
        op == LayerOp::VisionLayer
    }

    fn layer_norm(&self, _: &Reference, _: &HostMatrix, _: &HostMatrix, _: &HostMatrix, _: f32) -> Outcome {
        refusal(BackendErrorKind::Unsupported)
    }

    fn vision_layer(
        &self,
        inner: &Reference,
        layer: &VisionLayer<HostMatrix, HostLinear>,
        x: &HostMatrix,
        images: usize,
    ) -> Outcome {
        inner.scale(&graph::vision_layer(inner, layer, x, images)?, self.factor)
    }
}

#[test]
fn a_layer_that_cannot_be_composed_is_judged_by_the_plain_loops() {
    for case in cases(Size::Tiny).iter().filter(|case| case.op() == "vision_layer") {
        for (factor, holds) in [(1.0, true), (1.001, false)] {
            let backend = Checked::new(Altered::new(Reference, HasLayerAlone { factor }));
            let evidence = case.check(&backend, Precision::F32);
            assert_eq!((evidence.holds(), evidence.unsupported), (holds, None), "{}", case.name());
            assert_eq!(evidence.measurements.len(), 1);
            let note = "vision_layer: not compared with the composed form: lacking: op: no";
            assert_eq!(evidence.notes[1..], [note]);
        }
    }
}

/// Every other `silu_mul` says that it cannot.
#[derive(Clone, Default)]
struct Tires(Arc<AtomicU32>);

impl Alteration<Reference> for Tires {
    fn silu_mul(&self, inner: &Reference, x: &HostMatrix) -> Outcome {
        if self.0.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            return refusal(BackendErrorKind::Unsupported);
        }
        inner.silu_mul(x)
    }
}

#[test]
fn what_a_backend_could_do_once_is_not_unsupported() {
    let backend = Checked::new(Altered::new(Reference, Tires::default()));
    let case = cases(Size::Tiny).into_iter().find(|case| case.op() == "silu_mul").expect("there is one");
    let evidence = case.check(&backend, Precision::F32);
    assert_eq!(evidence.unsupported, None);
    assert_eq!(evidence.failures, ["silu_mul (odd_sizes): the second run: lacking: op: no"]);
}

/// A backend whose `layer_norm` and `rope` say that they cannot, and whose `scale` breaks.
#[derive(Clone)]
struct Lacking;

fn refusal<T>(kind: BackendErrorKind) -> Outcome<T> {
    Err(BackendError::new("lacking", "op", kind, "no"))
}

impl Alteration<Reference> for Lacking {
    fn layer_norm(&self, _: &Reference, _: &HostMatrix, _: &HostMatrix, _: &HostMatrix, _: f32) -> Outcome {
        refusal(BackendErrorKind::Unsupported)
    }

    fn scale(&self, _: &Reference, _: &HostMatrix, _: f32) -> Outcome {
        refusal(BackendErrorKind::Other)
    }
}

#[test]
fn what_a_backend_cannot_do_is_unsupported_and_what_breaks_is_a_failure() {
    let backend = Checked::new(Altered::new(Reference, Lacking));
    for case in cases(Size::Tiny) {
        let evidence = case.check(&backend, Precision::F32);
        let expected = match case.op() {
            "layer_norm" | "vision_layer" => (true, 0),
            "scale" => (false, 1),
            _ => (false, 0),
        };
        assert_eq!((evidence.unsupported.is_some(), evidence.failures.len()), expected, "{}", case.name());
    }
    assert!(complaints("scale", Lacking).starts_with("scale (usual): lacking: op: no"));
}

//! Shape checks, written once for all backends.

use std::fmt::Display;

use crate::backend::{
    Activation, AttentionMask, AttentionShape, Backend, BackendError, BackendErrorKind, Capabilities,
    Epilogue, LayerOp, Matrix, Precision, Prepared,
};
use crate::graph::{
    self, DenoiseContext, Expert, ExpertAttentionWeights, ExpertLayer, Heads, KeyValue, TextLayer,
    TextLayerOutput, VisionLayer,
};
use crate::precision::PrecisionPlan;
use crate::weights::LinearSource;

/// A backend whose every operation first checks its arguments, and then that the result has the shape the
/// contract promises.
///
/// Misuse comes back as [`BackendErrorKind::InvalidArgument`] naming the operation and the shapes, so that
/// backends themselves need no checks. Layers are composed from the checked operations; those that the backend
/// overrides ([`Backend::overrides`]) are forwarded, and their arguments and results checked.
#[derive(Clone, Debug)]
pub struct Checked<B> {
    inner: B,
}

impl<B: Backend> Checked<B> {
    /// Wraps a backend.
    pub fn new(inner: B) -> Self {
        Self { inner }
    }

    fn op(&self, op: &'static str) -> Op<'_, B> {
        Op { backend: &self.inner, op }
    }
}

/// One operation being checked.
struct Op<'a, B> {
    backend: &'a B,
    op: &'static str,
}

impl<B: Backend> Op<'_, B> {
    fn error(&self, message: String) -> BackendError {
        BackendError::new(
            self.backend.capabilities().backend,
            self.op,
            BackendErrorKind::InvalidArgument,
            message,
        )
    }

    fn require(&self, condition: bool, message: impl FnOnce() -> String) -> Result<(), BackendError> {
        if condition { Ok(()) } else { Err(self.error(message())) }
    }

    fn equal(&self, what: impl Display, got: usize, expected: usize) -> Result<(), BackendError> {
        self.require(got == expected, || format!("{what} is {got}, expected {expected}"))
    }

    /// `rows` is a whole, non-zero number of `unit`s.
    fn divides(&self, what: impl Display, rows: usize, unit: usize) -> Result<(), BackendError> {
        self.require(unit > 0 && rows.is_multiple_of(unit), || {
            format!("{what}: {rows} is not a multiple of {unit}")
        })
    }

    /// A gain or bias for rows of `x`.
    fn row_vector(&self, what: &str, vector: &B::Tensor, x: &B::Tensor) -> Result<(), BackendError> {
        self.require((vector.rows(), vector.cols()) == (1, x.cols()), || {
            format!("{what} is {}, expected [1, {}]", shape(vector), x.cols())
        })
    }

    /// `b` has the columns of the result and rows that repeat a whole number of times.
    fn repeats(&self, what: &str, b: &B::Tensor, rows: usize, cols: usize) -> Result<(), BackendError> {
        self.require(b.cols() == cols && b.rows() > 0 && rows.is_multiple_of(b.rows()), || {
            format!("{what} is {}, whose rows do not repeat over [{rows}, {cols}]", shape(b))
        })
    }

    fn result(&self, x: B::Tensor, rows: usize, cols: usize) -> Result<B::Tensor, BackendError> {
        if (x.rows(), x.cols()) == (rows, cols) {
            return Ok(x);
        }
        Err(BackendError {
            kind: BackendErrorKind::Other,
            ..self.error(format!("returned {}, expected [{rows}, {cols}]", shape(&x)))
        })
    }
}

fn shape(x: &impl Matrix) -> String {
    format!("[{}, {}]", x.rows(), x.cols())
}

impl<B: Backend> Backend for Checked<B> {
    type Tensor = B::Tensor;
    type Linear = B::Linear;
    type Table = B::Table;
    type Mask = B::Mask;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn with_plan(self, plan: &PrecisionPlan) -> Result<Self, BackendError> {
        Ok(Self { inner: self.inner.with_plan(plan)? })
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<Self::Linear, BackendError> {
        let op = self.op("prepare_linear");
        let name = &source.name;
        let capabilities = self.inner.capabilities();
        if !capabilities.precisions.contains(&precision) {
            let offered: Vec<&str> = capabilities.precisions.iter().map(|p| p.name()).collect();
            let why = capabilities.why_not(precision).map_or_else(String::new, |why| format!(": {why}"));
            return Err(BackendError {
                kind: BackendErrorKind::Unsupported,
                ..op.error(format!(
                    "{name}: precision {precision} is not supported{why}; choose {}",
                    offered.join(", ")
                ))
            });
        }
        check_source(&op, source)?;
        if !source.biases.is_empty() {
            op.equal(format!("{name}: number of biases"), source.biases.len(), source.weights.len())?;
            for (weight, bias) in source.weights.iter().zip(&source.biases) {
                op.equal(format!("{name}: bias width"), bias.rows() * bias.cols(), weight.rows())?;
            }
        }
        let linear = self.inner.prepare_linear(source, precision)?;
        op.equal(format!("{name}: prepared inputs"), linear.inputs(), source.inputs())?;
        op.equal(format!("{name}: prepared outputs"), linear.outputs(), source.outputs())?;
        op.require(linear.precision() == precision, || {
            format!("{name}: prepared as {}, {precision} was asked for", linear.precision())
        })?;
        Ok(linear)
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
        let op = self.op("prepare_table");
        check_source(&op, source)?;
        op.equal(format!("{}: number of weights", source.name), source.weights.len(), 1)?;
        op.equal(format!("{}: number of biases", source.name), source.biases.len(), 0)?;
        // Backends keep a table's bytes as they are stored, and integers alone mean nothing.
        op.require(!source.weights.iter().any(|weight| weight.dtype().is_quantised()), || {
            format!("{}: a table of integers; expected floats", source.name)
        })?;
        self.inner.prepare_table(source)
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError> {
        let op = self.op("upload");
        op.require(rows > 0 && cols > 0, || format!("[{rows}, {cols}] is empty"))?;
        op.equal("number of values", values.len(), rows * cols)?;
        op.result(self.inner.upload(values, rows, cols)?, rows, cols)
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError> {
        let op = self.op("upload_mask");
        op.require(!allowed.is_empty(), || format!("[{batch}, {queries}, {keys}] is empty"))?;
        op.equal("number of values", allowed.len(), batch * queries * keys)?;
        self.inner.upload_mask(allowed, batch, queries, keys)
    }

    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError> {
        let values = self.inner.download(x)?;
        self.op("download").equal("number of values", values.len(), x.rows() * x.cols())?;
        Ok(values)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.inner.synchronize()
    }

    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("linear");
        op.equal("width of x", x.cols(), weight.inputs())?;
        let (rows, cols) = (x.rows(), weight.outputs());
        if let Some(residual) = epilogue.residual {
            op.repeats("residual", residual, rows, cols)?;
        }
        op.result(self.inner.linear(x, weight, epilogue)?, rows, cols)
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("layer_norm");
        op.row_vector("gain", gain, x)?;
        op.row_vector("bias", bias, x)?;
        op.result(self.inner.layer_norm(x, gain, bias, eps)?, x.rows(), x.cols())
    }

    fn rms_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("rms_norm");
        op.row_vector("gain", gain, x)?;
        op.result(self.inner.rms_norm(x, gain, eps)?, x.rows(), x.cols())
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("attention");
        let AttentionShape { batch, heads, kv_heads, head_dim, .. } = shape;
        op.divides("query heads over key/value heads", heads, kv_heads)?;
        op.divides("rows of q over the batch", q.rows(), batch)?;
        op.equal("width of q", q.cols(), heads * head_dim)?;
        op.require(!segments.is_empty(), || "no keys".to_owned())?;
        let mut keys = 0;
        for (index, segment) in segments.iter().enumerate() {
            let KeyValue { key, value } = segment;
            op.equal(format!("width of key segment {index}"), key.cols(), kv_heads * head_dim)?;
            op.require((key.rows(), key.cols()) == (value.rows(), value.cols()), || {
                format!("segment {index} has keys {} and values {}", self::shape(key), self::shape(value))
            })?;
            op.divides(format!("rows of key segment {index} over the batch"), key.rows(), batch)?;
            keys += key.rows() / batch;
        }
        if let Some(mask) = mask {
            op.equal("batch of the mask", mask.batch(), batch)?;
            op.equal("queries of the mask", mask.queries(), q.rows() / batch)?;
            op.equal("keys of the mask", mask.keys(), keys)?;
        }
        op.result(self.inner.attention(q, segments, mask, shape)?, q.rows(), q.cols())
    }

    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("rope");
        op.require((cos.rows(), cos.cols()) == (sin.rows(), sin.cols()), || {
            format!("cos is {}, sin is {}", shape(cos), shape(sin))
        })?;
        op.divides("width of x over head_dim", x.cols(), 2 * cos.cols())?;
        op.divides("rows of x over rows of the table", x.rows(), cos.rows())?;
        op.result(self.inner.rope(x, cos, sin)?, x.rows(), x.cols())
    }

    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError> {
        self.op("activate").result(self.inner.activate(x, activation)?, x.rows(), x.cols())
    }

    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        let op = self.op("silu_mul");
        op.divides("width of x", x.cols(), 2)?;
        op.result(self.inner.silu_mul(x)?, x.rows(), x.cols() / 2)
    }

    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError> {
        self.op("scale").result(self.inner.scale(x, factor)?, x.rows(), x.cols())
    }

    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        let op = self.op("axpy");
        op.require((x.rows(), x.cols()) == (y.rows(), y.cols()), || {
            format!("x is {}, y is {}", shape(x), shape(y))
        })?;
        op.result(self.inner.axpy(alpha, x, y)?, y.rows(), y.cols())
    }

    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        let op = self.op("embed_rows");
        op.require(!ids.is_empty(), || "no ids".to_owned())?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= table.inputs()) {
            return Err(op.error(format!("id {id} is outside the table of {} rows", table.inputs())));
        }
        op.result(self.inner.embed_rows(table, ids)?, ids.len(), table.outputs())
    }

    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError> {
        let op = self.op("concat_tokens");
        let Some(first) = parts.first() else {
            return Err(op.error("no parts".to_owned()));
        };
        for (index, part) in parts.iter().enumerate() {
            op.equal(format!("width of part {index}"), part.cols(), first.cols())?;
            op.divides(format!("rows of part {index} over the batch"), part.rows(), batch)?;
        }
        let rows = parts.iter().map(|part| part.rows()).sum();
        op.result(self.inner.concat_tokens(parts, batch)?, rows, first.cols())
    }

    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError> {
        let op = self.op("slice_rows");
        op.require(count > 0 && start.checked_add(count).is_some_and(|end| end <= x.rows()), || {
            format!("{count} rows from {start} of {}", shape(x))
        })?;
        op.result(self.inner.slice_rows(x, start, count)?, count, x.cols())
    }

    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError> {
        let op = self.op("split_cols");
        op.equal("sum of the widths", widths.iter().sum(), x.cols())?;
        op.require(!widths.contains(&0), || format!("a width of {widths:?} is zero"))?;
        let parts = self.inner.split_cols(x, widths)?;
        op.equal("number of parts returned", parts.len(), widths.len())?;
        parts.into_iter().zip(widths).map(|(part, width)| op.result(part, x.rows(), *width)).collect()
    }

    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("pixel_shuffle");
        op.divides("grid over the factor", grid, factor)?;
        op.divides("rows of x over the grid's tokens", x.rows(), grid * grid)?;
        let block = factor * factor;
        op.result(self.inner.pixel_shuffle(x, grid, factor)?, x.rows() / block, x.cols() * block)
    }

    fn overrides(&self, op: LayerOp) -> bool {
        self.inner.overrides(op)
    }

    fn vision_layer(
        &self,
        layer: &VisionLayer<Self::Tensor, Self::Linear>,
        x: &Self::Tensor,
        images: usize,
    ) -> Result<Self::Tensor, BackendError> {
        if !self.overrides(LayerOp::VisionLayer) {
            return graph::vision_layer(self, layer, x, images);
        }
        let op = self.op("vision_layer");
        op.equal("width of x", x.cols(), layer.qkv.inputs())?;
        op.divides("rows of x over the images", x.rows(), images)?;
        for (gain, bias) in [&layer.norm1, &layer.norm2] {
            op.row_vector("gain", gain, x)?;
            op.row_vector("bias", bias, x)?;
        }
        op.result(self.inner.vision_layer(layer, x, images)?, x.rows(), x.cols())
    }

    fn text_layer(
        &self,
        layer: &TextLayer<Self::Tensor, Self::Linear>,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        mask: &Self::Mask,
    ) -> Result<TextLayerOutput<Self::Tensor>, BackendError> {
        if !self.overrides(LayerOp::TextLayer) {
            return graph::text_layer(self, layer, x, cos, sin, mask);
        }
        let op = self.op("text_layer");
        op.equal("width of x", x.cols(), layer.qkv.inputs())?;
        op.equal("rows of x", x.rows(), mask.batch() * mask.queries())?;
        op.equal("keys of the mask", mask.keys(), mask.queries())?;
        rotary_fits(&op, cos, sin, x.rows(), layer.heads)?;
        op.row_vector("gain", &layer.norm, x)?;
        if let Some(output) = &layer.output {
            op.row_vector("gain of the MLP", &output.mlp.norm, x)?;
        }
        let TextLayerOutput { kv, residual } = self.inner.text_layer(layer, x, cos, sin, mask)?;
        let kv = KeyValue {
            key: op.result(kv.key, x.rows(), layer.heads.kv_width())?,
            value: op.result(kv.value, x.rows(), layer.heads.kv_width())?,
        };
        let residual = residual.map(|residual| op.result(residual, x.rows(), x.cols())).transpose()?;
        Ok(TextLayerOutput { kv, residual })
    }

    fn expert_layer(
        &self,
        layer: &ExpertLayer<Self::Tensor, Self::Linear>,
        prefix: &KeyValue<Self::Tensor>,
        context: &DenoiseContext<Self::Tensor, Self::Mask>,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        if !self.overrides(LayerOp::ExpertLayer) {
            return graph::expert_layer(self, layer, prefix, context, x);
        }
        let op = self.op("expert_layer");
        op.equal("width of x", x.cols(), layer.output.outputs())?;
        op.divides("rows of x over the batch", x.rows(), context.batch)?;
        op.row_vector("gain", &layer.norm, x)?;
        op.row_vector("gain of the MLP", &layer.mlp.norm, x)?;
        op.equal("width of the prefix's keys", prefix.key.cols(), layer.heads.kv_width())?;
        op.equal("width of the prefix's values", prefix.value.cols(), layer.heads.kv_width())?;
        op.equal("rows of the prefix's values", prefix.value.rows(), prefix.key.rows())?;
        op.divides("rows of the prefix over the batch", prefix.key.rows(), context.batch)?;
        let (queries, keys) = (x.rows() / context.batch, prefix.key.rows() / context.batch);
        let (mask, keys, rotary) = match &layer.attention {
            ExpertAttentionWeights::SelfAttention { .. } => {
                (Some(&context.self_mask), keys + queries, &context.self_rotary)
            }
            ExpertAttentionWeights::CrossAttention { .. } => {
                (context.cross_mask.as_ref(), keys, &context.cross_rotary)
            }
        };
        if let Some(mask) = mask {
            op.equal("observations of the mask", mask.batch(), context.batch)?;
            op.equal("queries of the mask", mask.queries(), queries)?;
            op.equal("keys of the mask", mask.keys(), keys)?;
        }
        rotary_fits(&op, &rotary.cos, &rotary.sin, x.rows(), layer.heads)?;
        op.result(self.inner.expert_layer(layer, prefix, context, x)?, x.rows(), x.cols())
    }

    fn denoise_step(
        &self,
        expert: &Expert<Self::Tensor, Self::Linear>,
        context: &DenoiseContext<Self::Tensor, Self::Mask>,
        x_t: &Self::Tensor,
        step: usize,
    ) -> Result<Self::Tensor, BackendError> {
        let op = self.op("denoise_step");
        op.equal("width of x_t", x_t.cols(), expert.action_in.inputs())?;
        op.divides("rows of x_t over the batch", x_t.rows(), context.batch)?;
        op.require(step < context.time.steps.len(), || {
            format!("step {step} of {}", context.time.steps.len())
        })?;
        if !self.overrides(LayerOp::DenoiseStep) {
            return graph::denoise_step(self, expert, context, x_t, step, &mut |_, x| Ok(x));
        }
        op.result(self.inner.denoise_step(expert, context, x_t, step)?, x_t.rows(), x_t.cols())
    }
}

/// Whether a rotary table is for these heads and repeats over `rows` rows.
fn rotary_fits<B: Backend>(
    op: &Op<'_, B>,
    cos: &B::Tensor,
    sin: &B::Tensor,
    rows: usize,
    heads: Heads,
) -> Result<(), BackendError> {
    op.equal("width of cos", cos.cols(), heads.dim / 2)?;
    op.equal("width of sin", sin.cols(), cos.cols())?;
    op.equal("rows of sin", sin.rows(), cos.rows())?;
    op.divides("rows of x over the rows of cos", rows, cos.rows())
}

fn check_source<B: Backend>(op: &Op<'_, B>, source: &LinearSource<'_>) -> Result<(), BackendError> {
    let name = &source.name;
    op.require(source.inputs() > 0 && source.outputs() > 0, || format!("{name}: no weights"))?;
    for weight in &source.weights {
        op.equal(format!("{name}: width of a stacked weight"), weight.cols(), source.inputs())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{GatedMlp, Heads, TextOutput};
    use crate::reference::{HostMatrix, Reference};
    use crate::weights::{StorageType, TensorView};

    const BACKEND: Checked<Reference> = Checked { inner: Reference };

    fn zeros(rows: usize, cols: usize) -> HostMatrix {
        BACKEND.upload(&vec![0.0; rows * cols], rows, cols).unwrap()
    }

    fn kv(key: HostMatrix, value: HostMatrix) -> KeyValue<HostMatrix> {
        KeyValue { key, value }
    }

    fn source<'a>(weights: Vec<TensorView<'a>>, biases: Vec<TensorView<'a>>) -> LinearSource<'a> {
        LinearSource { name: "layer".to_owned(), path: "layer".to_owned(), weights, biases }
    }

    #[track_caller]
    fn refused<T>(result: Result<T, BackendError>, op: &str, message: &str) {
        let error = result.err().expect("misuse is refused");
        assert_eq!(error.kind, BackendErrorKind::InvalidArgument);
        let text = error.to_string();
        assert!(text.starts_with(&format!("reference: {op}: ")), "{text}");
        assert!(text.contains(message), "{text}");
    }

    #[test]
    fn every_operation_refuses_shapes_that_do_not_fit() {
        let b = BACKEND;
        let bytes = [0_u8; 4 * 12];
        let view =
            |rows, cols| TensorView::new(StorageType::F32, rows, cols, &bytes[..rows * cols * 4]).unwrap();
        let weight = b.prepare_linear(&source(vec![view(3, 4)], vec![]), Precision::F32).unwrap();
        let table = b.prepare_table(&source(vec![view(3, 4)], vec![])).unwrap();
        let shape = AttentionShape { batch: 2, heads: 4, kv_heads: 2, head_dim: 2, scale: 1.0 };
        let x = zeros(4, 8);
        let good = kv(zeros(6, 4), zeros(6, 4));

        refused(b.upload(&[0.0; 3], 2, 2), "upload", "number of values is 3, expected 4");
        refused(b.upload(&[], 0, 2), "upload", "is empty");
        refused(b.upload_mask(&[true], 1, 1, 2), "upload_mask", "expected 2");
        refused(
            b.prepare_linear(&source(vec![view(3, 4), view(2, 3)], vec![]), Precision::F32),
            "prepare_linear",
            "width of a stacked weight is 3, expected 4",
        );
        refused(
            b.prepare_linear(&source(vec![view(3, 4)], vec![view(1, 2)]), Precision::F32),
            "prepare_linear",
            "bias width is 2, expected 3",
        );
        refused(b.prepare_table(&source(vec![], vec![])), "prepare_table", "no weights");
        refused(b.linear(&zeros(2, 5), &weight, Epilogue::NONE), "linear", "width of x is 5, expected 4");
        refused(
            b.linear(&zeros(4, 4), &weight, Epilogue::residual(&zeros(3, 3))),
            "linear",
            "residual is [3, 3], whose rows do not repeat over [4, 3]",
        );
        refused(b.layer_norm(&x, &zeros(1, 7), &zeros(1, 8), 1e-6), "layer_norm", "gain is [1, 7]");
        refused(b.layer_norm(&x, &zeros(1, 8), &zeros(2, 8), 1e-6), "layer_norm", "bias is [2, 8]");
        refused(b.rms_norm(&x, &zeros(1, 9), 1e-6), "rms_norm", "expected [1, 8]");
        refused(b.attention(&x, &[], None, shape), "attention", "no keys");
        refused(b.attention(&zeros(3, 8), &[&good], None, shape), "attention", "3 is not a multiple of 2");
        refused(b.attention(&zeros(4, 6), &[&good], None, shape), "attention", "width of q is 6, expected 8");
        let uneven = kv(zeros(6, 4), zeros(4, 4));
        refused(b.attention(&x, &[&good, &uneven], None, shape), "attention", "segment 1 has keys [6, 4]");
        let mask = b.upload_mask(&[true; 16], 2, 2, 4).unwrap();
        refused(
            b.attention(&x, &[&good], Some(&mask), shape),
            "attention",
            "keys of the mask is 4, expected 3",
        );
        let ungrouped = AttentionShape { kv_heads: 3, ..shape };
        refused(b.attention(&x, &[&good], None, ungrouped), "attention", "4 is not a multiple of 3");
        refused(b.rope(&x, &zeros(4, 3), &zeros(4, 3)), "rope", "8 is not a multiple of 6");
        refused(b.rope(&x, &zeros(4, 2), &zeros(3, 2)), "rope", "sin is [3, 2]");
        refused(b.silu_mul(&zeros(2, 3)), "silu_mul", "3 is not a multiple of 2");
        refused(b.axpy(1.0, &x, &zeros(4, 7)), "axpy", "y is [4, 7]");
        refused(b.embed_rows(&table, &[0, 3]), "embed_rows", "id 3 is outside the table of 3 rows");
        refused(b.embed_rows(&table, &[]), "embed_rows", "no ids");
        refused(b.concat_tokens(&[], 1), "concat_tokens", "no parts");
        refused(b.concat_tokens(&[&x, &zeros(3, 8)], 2), "concat_tokens", "part 1");
        refused(b.slice_rows(&x, 3, 2), "slice_rows", "2 rows from 3 of [4, 8]");
        refused(b.slice_rows(&x, usize::MAX, 2), "slice_rows", "of [4, 8]");
        refused(b.split_cols(&x, &[4, 3]), "split_cols", "sum of the widths is 7, expected 8");
        refused(b.pixel_shuffle(&x, 2, 3), "pixel_shuffle", "2 is not a multiple of 3");
        refused(b.pixel_shuffle(&zeros(5, 1), 2, 2), "pixel_shuffle", "5 is not a multiple of 4");
    }

    #[test]
    fn a_precision_the_backend_lacks_is_unsupported() {
        let bytes = [0_u8; 4];
        let view = TensorView::new(StorageType::F32, 1, 1, &bytes).unwrap();
        let error = BACKEND.prepare_linear(&source(vec![view], vec![]), Precision::Int8).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unsupported);
        assert!(error.to_string().contains("layer: precision int8 is not supported; choose f32"), "{error}");
    }

    #[test]
    fn a_wrong_result_inside_a_composed_layer_is_caught() {
        let bytes = [0_u8; 4 * 12 * 4];
        let linear = |rows, cols| {
            let view = TensorView::new(StorageType::F32, rows, cols, &bytes[..rows * cols * 4]).unwrap();
            BACKEND.prepare_linear(&source(vec![view], vec![]), Precision::F32).unwrap()
        };
        let mlp = GatedMlp { norm: zeros(1, 4), gate_up: linear(8, 4), down: linear(4, 4), eps: 1e-5 };
        let layer = TextLayer {
            norm: zeros(1, 4),
            qkv: linear(12, 4),
            output: Some(TextOutput { projection: linear(4, 4), mlp }),
            heads: Heads { query: 1, kv: 1, dim: 4 },
            eps: 1e-5,
        };
        let mask = BACKEND.upload_mask(&[true; 9], 1, 3, 3).unwrap();
        let (x, table) = (zeros(3, 4), zeros(3, 2));
        let error = Checked::new(Lying).text_layer(&layer, &x, &table, &table, &mask).unwrap_err();
        assert_eq!(error.to_string(), "reference: silu_mul: returned [2, 4], expected [3, 4]");
    }

    /// The reference, but for a `silu_mul` that loses a row.
    struct Lying;

    impl Backend for Lying {
        type Tensor = HostMatrix;
        type Linear = <Reference as Backend>::Linear;
        type Table = <Reference as Backend>::Table;
        type Mask = <Reference as Backend>::Mask;

        fn capabilities(&self) -> Capabilities {
            Reference.capabilities()
        }
        fn prepare_linear(&self, s: &LinearSource<'_>, p: Precision) -> Result<Self::Linear, BackendError> {
            Reference.prepare_linear(s, p)
        }
        fn prepare_table(&self, s: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
            Reference.prepare_table(s)
        }
        fn upload(&self, v: &[f32], rows: usize, cols: usize) -> Result<HostMatrix, BackendError> {
            Reference.upload(v, rows, cols)
        }
        fn upload_mask(&self, a: &[bool], b: usize, q: usize, k: usize) -> Result<Self::Mask, BackendError> {
            Reference.upload_mask(a, b, q, k)
        }
        fn download(&self, x: &HostMatrix) -> Result<Vec<f32>, BackendError> {
            Reference.download(x)
        }
        fn synchronize(&self) -> Result<(), BackendError> {
            Reference.synchronize()
        }
        fn linear(
            &self,
            x: &HostMatrix,
            w: &Self::Linear,
            e: Epilogue<'_, HostMatrix>,
        ) -> Result<HostMatrix, BackendError> {
            Reference.linear(x, w, e)
        }
        fn layer_norm(
            &self,
            x: &HostMatrix,
            g: &HostMatrix,
            b: &HostMatrix,
            eps: f32,
        ) -> Result<HostMatrix, BackendError> {
            Reference.layer_norm(x, g, b, eps)
        }
        fn rms_norm(&self, x: &HostMatrix, g: &HostMatrix, eps: f32) -> Result<HostMatrix, BackendError> {
            Reference.rms_norm(x, g, eps)
        }
        fn attention(
            &self,
            q: &HostMatrix,
            s: &[&KeyValue<HostMatrix>],
            m: Option<&Self::Mask>,
            shape: AttentionShape,
        ) -> Result<HostMatrix, BackendError> {
            Reference.attention(q, s, m, shape)
        }
        fn rope(&self, x: &HostMatrix, c: &HostMatrix, s: &HostMatrix) -> Result<HostMatrix, BackendError> {
            Reference.rope(x, c, s)
        }
        fn activate(&self, x: &HostMatrix, a: Activation) -> Result<HostMatrix, BackendError> {
            Reference.activate(x, a)
        }
        fn silu_mul(&self, x: &HostMatrix) -> Result<HostMatrix, BackendError> {
            Reference.slice_rows(&Reference.silu_mul(x)?, 0, x.rows() - 1)
        }
        fn scale(&self, x: &HostMatrix, f: f32) -> Result<HostMatrix, BackendError> {
            Reference.scale(x, f)
        }
        fn axpy(&self, a: f32, x: &HostMatrix, y: &HostMatrix) -> Result<HostMatrix, BackendError> {
            Reference.axpy(a, x, y)
        }
        fn embed_rows(&self, t: &Self::Table, ids: &[u32]) -> Result<HostMatrix, BackendError> {
            Reference.embed_rows(t, ids)
        }
        fn concat_tokens(&self, p: &[&HostMatrix], batch: usize) -> Result<HostMatrix, BackendError> {
            Reference.concat_tokens(p, batch)
        }
        fn slice_rows(&self, x: &HostMatrix, start: usize, n: usize) -> Result<HostMatrix, BackendError> {
            Reference.slice_rows(x, start, n)
        }
        fn split_cols(&self, x: &HostMatrix, widths: &[usize]) -> Result<Vec<HostMatrix>, BackendError> {
            Reference.split_cols(x, widths)
        }
        fn pixel_shuffle(&self, x: &HostMatrix, grid: usize, f: usize) -> Result<HostMatrix, BackendError> {
            Reference.pixel_shuffle(x, grid, f)
        }
    }
}

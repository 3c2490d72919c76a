//! The backend of shapes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Op, OpKind, Part, Product, Role, TensorInfo, Weight};
use crate::backend::{
    Activation, AttentionMask, AttentionShape, Backend, BackendError, Capabilities, Epilogue, Matrix,
    Precision, Prepared,
};
use crate::graph::{
    self, DenoiseContext, Expert, ExpertLayer, KeyValue, Observer, Site, Stage, TextLayer, TextLayerOutput,
    VisionLayer,
};
use crate::weights::LinearSource;

/// The backend of shapes; see the [module documentation](super).
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) max_tensor_bytes: Option<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Whether parameters are all there, and operations are to be counted.
    pub(super) running: bool,
    stage: Stage,
    part: Part,
    layer: Arc<str>,
    is_mlp: bool,
    step: Option<usize>,
    /// Denoising steps in all.
    pub(super) steps: usize,
    pub(super) ops: Vec<Op>,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            running: false,
            stage: Stage::Vision,
            part: Part::Vision,
            layer: "vision".into(),
            is_mlp: false,
            step: None,
            steps: 0,
            ops: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl State {
    fn enter(&mut self, part: Part, layer: impl Into<Arc<str>>) {
        self.part = part;
        self.layer = layer.into();
        self.is_mlp = false;
    }

    fn tensor(&mut self, rows: usize, cols: usize, role: Role, view_of: Option<usize>) -> Shape {
        let id = self.tensors.len();
        self.tensors.push(TensorInfo { rows, cols, role, view_of });
        Shape { id, rows, cols }
    }

    /// Tells the rotary embeddings of a layer apart, in their order.
    fn name_ropes(&mut self, first: usize, names: &[&str]) {
        let ropes = self.ops[first..].iter_mut().filter(|op| op.kind == OpKind::Rope);
        for (op, name) in ropes.zip(names) {
            op.name = (*name).into();
        }
    }

    fn op(&mut self, kind: OpKind, name: impl Into<Arc<str>>) -> Op {
        Op {
            kind,
            part: self.part,
            layer: Arc::clone(&self.layer),
            name: name.into(),
            is_mlp: self.is_mlp,
            step: self.step,
            products: Vec::new(),
            elementwise: 0,
            weight: None,
            biases: 0,
            scores: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

/// A panic elsewhere cannot leave a half-written operation behind: each is pushed whole.
pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the graph's sites, to know which part the next operation belongs to.
pub(super) struct Scopes {
    pub(super) state: Arc<Mutex<State>>,
}

impl Observer for Scopes {
    fn reached(&mut self, site: Site) {
        let mut state = lock(&self.state);
        match site {
            Site::VisionLayer(_) => state.enter(Part::Vision, "vision.post_norm"),
            Site::VisionOutput => state.enter(Part::Connector, "connector"),
            Site::PrefixEmbeddings => state.enter(Part::Text, "text"),
            Site::TextValue(_) => state.enter(Part::CrossKv, "expert.cross_kv"),
            Site::Actions { step } => {
                // After the last step there is only the download.
                state.step = (step < state.steps).then_some(step);
                state.enter(Part::Expert, "expert.euler");
            }
            _ => (),
        }
    }
}

/// A tensor of [`Counter`]: its shape and its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    id: usize,
    rows: usize,
    cols: usize,
}

impl Matrix for Shape {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
}

/// A linear layer or table of [`Counter`].
#[derive(Clone, Debug)]
pub(crate) struct ShapeOfWeight {
    path: Arc<str>,
    inputs: usize,
    outputs: usize,
    biased: bool,
    precision: Precision,
}

impl Prepared for ShapeOfWeight {
    fn inputs(&self) -> usize {
        self.inputs
    }
    fn outputs(&self) -> usize {
        self.outputs
    }
    fn precision(&self) -> Precision {
        self.precision
    }
}

impl ShapeOfWeight {
    fn new(source: &LinearSource<'_>, inputs: usize, outputs: usize, precision: Precision) -> Self {
        let biased = !source.biases.is_empty();
        Self { path: source.path.as_str().into(), inputs, outputs, biased, precision }
    }

    /// `vision.layers.3` and `qkv`.
    fn layer_and_name(&self) -> (&str, &str) {
        self.path.rsplit_once('.').unwrap_or(("", &self.path))
    }
}

/// A mask of [`Counter`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShapeOfMask {
    batch: usize,
    queries: usize,
    keys: usize,
}

impl AttentionMask for ShapeOfMask {
    fn batch(&self) -> usize {
        self.batch
    }
    fn queries(&self) -> usize {
        self.queries
    }
    fn keys(&self) -> usize {
        self.keys
    }
}

impl Counter {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// An operation with one result.
    fn one(
        &self,
        kind: OpKind,
        inputs: &[&Shape],
        (rows, cols): (usize, usize),
        elementwise_an_element: u64,
    ) -> Shape {
        self.named(kind, kind.name(), inputs, (rows, cols), elementwise_an_element)
    }

    fn named(
        &self,
        kind: OpKind,
        name: &str,
        inputs: &[&Shape],
        (rows, cols): (usize, usize),
        elementwise_an_element: u64,
    ) -> Shape {
        let mut state = self.state();
        let result = state.tensor(rows, cols, Role::Activation, None);
        let mut op = state.op(kind, name);
        op.elementwise = elementwise_an_element * (rows * cols) as u64;
        op.inputs = inputs.iter().map(|x| x.id).collect();
        op.outputs = vec![result.id];
        state.ops.push(op);
        result
    }

    fn view(&self, x: &Shape, shapes: &[(usize, usize)]) -> Vec<Shape> {
        let mut state = self.state();
        let role = state.tensors[x.id].role;
        let views: Vec<Shape> =
            shapes.iter().map(|(rows, cols)| state.tensor(*rows, *cols, role, Some(x.id))).collect();
        let mut op = state.op(OpKind::View, OpKind::View.name());
        op.inputs = vec![x.id];
        op.outputs = views.iter().map(|view| view.id).collect();
        state.ops.push(op);
        views
    }

    fn keep(&self, tensors: [&Shape; 2]) {
        let mut state = self.state();
        for tensor in tensors {
            state.tensors[tensor.id].role = Role::Cache;
        }
    }
}

impl Backend for Counter {
    type Tensor = Shape;
    type Linear = ShapeOfWeight;
    type Table = ShapeOfWeight;
    type Mask = ShapeOfMask;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities =
            Capabilities::new("counter", "shapes only, nothing is computed", [Precision::F32]);
        capabilities.max_tensor_bytes = self.max_tensor_bytes;
        capabilities
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<ShapeOfWeight, BackendError> {
        Ok(ShapeOfWeight::new(source, source.inputs(), source.outputs(), precision))
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<ShapeOfWeight, BackendError> {
        Ok(ShapeOfWeight::new(source, source.outputs(), source.inputs(), Precision::F32))
    }

    fn upload(&self, _: &[f32], rows: usize, cols: usize) -> Result<Shape, BackendError> {
        let mut state = self.state();
        if !state.running {
            return Ok(state.tensor(rows, cols, Role::Parameter, None));
        }
        let tensor = state.tensor(rows, cols, Role::Input, None);
        let mut op = state.op(OpKind::Upload, OpKind::Upload.name());
        op.outputs = vec![tensor.id];
        state.ops.push(op);
        Ok(tensor)
    }

    fn upload_mask(
        &self,
        _: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<ShapeOfMask, BackendError> {
        Ok(ShapeOfMask { batch, queries, keys })
    }

    fn download(&self, x: &Shape) -> Result<Vec<f32>, BackendError> {
        let mut state = self.state();
        let mut op = state.op(OpKind::Download, OpKind::Download.name());
        op.inputs = vec![x.id];
        state.ops.push(op);
        Ok(vec![0.0; x.rows * x.cols])
    }

    /// The graph waits at the end of each stage and nowhere else.
    fn synchronize(&self) -> Result<(), BackendError> {
        let mut state = self.state();
        match state.stage {
            Stage::Vision => {
                state.stage = Stage::Prefill;
                state.enter(Part::Text, "prefix");
            }
            Stage::Prefill | Stage::Denoise => {
                state.stage = Stage::Denoise;
                state.enter(Part::Expert, "expert.euler");
            }
        }
        Ok(())
    }

    fn linear(
        &self,
        x: &Shape,
        weight: &ShapeOfWeight,
        epilogue: Epilogue<'_, Shape>,
    ) -> Result<Shape, BackendError> {
        let mut state = self.state();
        let (layer, name) = weight.layer_and_name();
        if layer == "vision" {
            state.enter(Part::Vision, "vision");
        }
        // Keys and values of the prefix stay keys and values of the prefix under the expert's projections.
        let role = match state.tensors[x.id].role {
            Role::Cache => Role::Cache,
            _ => Role::Activation,
        };
        let result = state.tensor(x.rows, weight.outputs, role, None);
        let mut op = state.op(OpKind::Linear, name);
        if state.part == Part::CrossKv {
            // The time embeddings are computed here too, when the number of steps is new.
            (op.part, op.layer) = match layer {
                "expert" => (Part::Expert, "expert.time".into()),
                _ => (Part::CrossKv, layer.into()),
            };
        }
        let (rows, depth, cols) = (x.rows as u64, weight.inputs as u64, weight.outputs as u64);
        op.products = vec![Product { count: 1, rows, depth, cols }];
        op.weight = Some(Weight { path: Arc::clone(&weight.path), elements: depth * cols, rows: cols });
        op.biases = if weight.biased { cols } else { 0 };
        let activation = epilogue.activation.map_or(0, cost_of_activation);
        let each = u64::from(weight.biased) + activation + u64::from(epilogue.residual.is_some());
        op.elementwise = each * rows * cols;
        op.inputs = std::iter::once(x).chain(epilogue.residual).map(|x| x.id).collect();
        op.outputs = vec![result.id];
        state.ops.push(op);
        if name == "output" {
            // What follows the attention's output projection is the MLP.
            state.is_mlp = true;
        }
        Ok(result)
    }

    fn layer_norm(&self, x: &Shape, gain: &Shape, bias: &Shape, _: f32) -> Result<Shape, BackendError> {
        Ok(self.one(OpKind::LayerNorm, &[x, gain, bias], (x.rows, x.cols), 7))
    }

    fn rms_norm(&self, x: &Shape, gain: &Shape, _: f32) -> Result<Shape, BackendError> {
        Ok(self.one(OpKind::RmsNorm, &[x, gain], (x.rows, x.cols), 4))
    }

    fn attention(
        &self,
        q: &Shape,
        segments: &[&KeyValue<Shape>],
        mask: Option<&ShapeOfMask>,
        shape: AttentionShape,
    ) -> Result<Shape, BackendError> {
        let mut state = self.state();
        let result = state.tensor(q.rows, q.cols, Role::Activation, None);
        let name = match (state.part, segments.len()) {
            (Part::Expert, 1) => "cross_attention",
            (Part::Expert, _) => "self_attention",
            _ => "attention",
        };
        let mut op = state.op(OpKind::Attention, name);
        let queries = (q.rows / shape.batch) as u64;
        let keys: u64 = segments.iter().map(|segment| (segment.key.rows / shape.batch) as u64).sum();
        let dim = shape.head_dim as u64;
        let count = (shape.batch * shape.heads) as u64;
        op.products = vec![
            Product { count, rows: queries, depth: dim, cols: keys },
            Product { count, rows: queries, depth: keys, cols: dim },
        ];
        op.scores = count * queries * keys;
        op.elementwise = (6 + u64::from(mask.is_some())) * op.scores;
        op.inputs = vec![q.id];
        op.inputs.extend(segments.iter().flat_map(|segment| [segment.key.id, segment.value.id]));
        op.outputs = vec![result.id];
        state.ops.push(op);
        Ok(result)
    }

    fn rope(&self, x: &Shape, cos: &Shape, sin: &Shape) -> Result<Shape, BackendError> {
        Ok(self.one(OpKind::Rope, &[x, cos, sin], (x.rows, x.cols), 3))
    }

    fn activate(&self, x: &Shape, activation: Activation) -> Result<Shape, BackendError> {
        Ok(self.one(OpKind::Activate, &[x], (x.rows, x.cols), cost_of_activation(activation)))
    }

    fn silu_mul(&self, x: &Shape) -> Result<Shape, BackendError> {
        Ok(self.one(OpKind::SiluMul, &[x], (x.rows, x.cols / 2), 5))
    }

    fn scale(&self, x: &Shape, _: f32) -> Result<Shape, BackendError> {
        Ok(self.one(OpKind::Scale, &[x], (x.rows, x.cols), 1))
    }

    fn axpy(&self, _: f32, x: &Shape, y: &Shape) -> Result<Shape, BackendError> {
        self.state().enter(Part::Expert, "expert.euler");
        Ok(self.one(OpKind::Axpy, &[x, y], (x.rows, x.cols), 2))
    }

    fn embed_rows(&self, table: &ShapeOfWeight, ids: &[u32]) -> Result<Shape, BackendError> {
        let mut state = self.state();
        let result = state.tensor(ids.len(), table.outputs, Role::Activation, None);
        let mut op = state.op(OpKind::EmbedRows, OpKind::EmbedRows.name());
        let rows = ids.len() as u64;
        op.weight =
            Some(Weight { path: Arc::clone(&table.path), elements: rows * table.outputs as u64, rows });
        op.outputs = vec![result.id];
        state.ops.push(op);
        Ok(result)
    }

    fn concat_tokens(&self, parts: &[&Shape], _: usize) -> Result<Shape, BackendError> {
        let rows = parts.iter().map(|part| part.rows).sum();
        Ok(self.one(OpKind::ConcatTokens, parts, (rows, parts[0].cols), 0))
    }

    fn slice_rows(&self, x: &Shape, _: usize, count: usize) -> Result<Shape, BackendError> {
        Ok(self.view(x, &[(count, x.cols)])[0])
    }

    fn split_cols(&self, x: &Shape, widths: &[usize]) -> Result<Vec<Shape>, BackendError> {
        Ok(self.view(x, &widths.iter().map(|width| (x.rows, *width)).collect::<Vec<_>>()))
    }

    fn pixel_shuffle(&self, x: &Shape, _: usize, factor: usize) -> Result<Shape, BackendError> {
        let block = factor * factor;
        Ok(self.one(OpKind::PixelShuffle, &[x], (x.rows / block, x.cols * block), 0))
    }

    // The layers are composed as on any backend; only their names are noted on the way.

    fn vision_layer(
        &self,
        layer: &VisionLayer<Shape, ShapeOfWeight>,
        x: &Shape,
        images: usize,
    ) -> Result<Shape, BackendError> {
        self.state().enter(Part::Vision, layer.qkv.layer_and_name().0);
        graph::vision_layer(self, layer, x, images)
    }

    fn text_layer(
        &self,
        layer: &TextLayer<Shape, ShapeOfWeight>,
        x: &Shape,
        cos: &Shape,
        sin: &Shape,
        mask: &ShapeOfMask,
    ) -> Result<TextLayerOutput<Shape>, BackendError> {
        self.state().enter(Part::Text, layer.qkv.layer_and_name().0);
        let first = self.state().ops.len();
        let output = graph::text_layer(self, layer, x, cos, sin, mask)?;
        match layer.output {
            Some(_) => self.state().name_ropes(first, &["rope_q", "rope_k"]),
            None => {
                // The last layer makes only keys and values.
                let mut state = self.state();
                state.name_ropes(first, &["rope_k"]);
                let fused = state.ops[first..].iter_mut().filter(|op| op.kind == OpKind::Linear);
                fused.for_each(|op| op.name = "kv".into());
            }
        }
        self.keep([&output.kv.key, &output.kv.value]);
        Ok(output)
    }

    fn expert_layer(
        &self,
        layer: &ExpertLayer<Shape, ShapeOfWeight>,
        prefix: &KeyValue<Shape>,
        context: &DenoiseContext<Shape, ShapeOfMask>,
        x: &Shape,
    ) -> Result<Shape, BackendError> {
        self.state().enter(Part::Expert, layer.output.layer_and_name().0);
        let first = self.state().ops.len();
        let output = graph::expert_layer(self, layer, prefix, context, x)?;
        self.state().name_ropes(first, &["rope_q", "rope_k"]);
        Ok(output)
    }

    fn denoise_step(
        &self,
        expert: &Expert<Shape, ShapeOfWeight>,
        context: &DenoiseContext<Shape, ShapeOfMask>,
        x_t: &Shape,
        step: usize,
    ) -> Result<Shape, BackendError> {
        self.state().enter(Part::Expert, "expert.suffix");
        graph::denoise_step(self, expert, context, x_t, step, &mut |site, x| {
            if matches!(site, Site::ExpertLayer { .. }) {
                self.state().enter(Part::Expert, "expert.head");
            }
            Ok(x)
        })
    }
}

fn cost_of_activation(activation: Activation) -> u64 {
    match activation {
        Activation::Silu => 4,
        Activation::GeluTanh => 8,
    }
}

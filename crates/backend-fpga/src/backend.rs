//! [`FpgaBackend`]: the policy's operations on a device that runs descriptors.

use std::fmt;
use std::sync::Arc;

use smolvla_core::backend::{
    Activation, AttentionShape, Backend, BackendErrorKind, Capabilities, Epilogue, Matrix, Precision,
};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::{LinearSource, TensorView};
use smolvla_core::{BackendError, PrecisionPlan};

use crate::allocator::Block;
use crate::arith::Scale;
use crate::card::Card;
use crate::descriptor::{Descriptor, ROW_WORDS, TILE_COLS, padded};
use crate::device::{BANK_BYTES, Counters, DeviceInfo, FpgaDevice};
use crate::lower::attention::{self, Attention, HeadDigits, Heads};
use crate::lower::movement::{self, Blocks};
use crate::lower::product::{self, Weights};
use crate::lower::{Digits, Places, Words, rows};
use crate::plans;
use crate::tensor::{Form, FpgaLinear, FpgaMask, FpgaTable, FpgaTensor};
use crate::weights::pack;

/// The policy's operations on a device that runs descriptors.
///
/// An operation is put at the end of a stream; the stream runs when a result is read, or when it is waited for. Clones
/// are handles of the same device.
pub struct FpgaBackend<D> {
    card: Arc<Card<D>>,
    /// Digits of queries, keys, softmax and values.
    attention: Places,
}

impl<D> Clone for FpgaBackend<D> {
    fn clone(&self) -> Self {
        Self { card: Arc::clone(&self.card), attention: self.attention }
    }
}

impl<D: FpgaDevice> fmt::Debug for FpgaBackend<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FpgaBackend")
            .field("device", &self.card.device().info().name)
            .field("attention", &self.attention)
            .finish_non_exhaustive()
    }
}

impl<D: FpgaDevice> FpgaBackend<D> {
    /// The backend on `device`, whose memory is all its own.
    pub fn new(device: D) -> Self {
        Self { card: Arc::new(Card::new(device)), attention: Places::Two }
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.card.device()
    }

    /// What everything that has run on the device cost.
    pub fn counters(&self) -> Counters {
        self.card.counters()
    }

    /// A buffer of as many bytes as `bytes` says, if they can be counted.
    fn allocate(&self, op: &'static str, what: &str, bytes: Option<usize>) -> Result<Block, BackendError> {
        self.card.allocate(op, what, bytes.unwrap_or(usize::MAX >> 1))
    }

    /// A buffer for a matrix of words.
    fn words(&self, op: &'static str, rows: usize, cols: usize) -> Result<(Words, Block), BackendError> {
        let what = format!("a matrix of {rows} × {cols} words");
        let block = self.allocate(op, &what, Words::bytes(rows, cols))?;
        Ok((Words::whole(block.address(), rows, cols), block))
    }

    /// A buffer for rows of digits.
    fn digits(
        &self,
        op: &'static str,
        (rows, depth): (usize, usize),
        places: Places,
    ) -> Result<(Digits, Block), BackendError> {
        let what = format!("{rows} rows of {depth} numbers in {} digits", places.planes());
        let block = self.allocate(op, &what, Digits::bytes(rows, depth, places))?;
        Ok((Digits::whole(block.address(), rows, depth, places), block))
    }

    /// An operation whose result is a new matrix.
    fn op<I: IntoIterator<Item = Descriptor>>(
        &self,
        op: &'static str,
        rows: usize,
        cols: usize,
        lower: impl FnOnce(Words) -> I,
    ) -> Result<FpgaTensor, BackendError> {
        let (to, block) = self.words(op, rows, cols)?;
        self.card.push(lower(to));
        Ok(FpgaTensor::new(to, Arc::new(block)))
    }

    /// Rows of `x` as digits, made once.
    fn quantised(
        &self,
        op: &'static str,
        x: &FpgaTensor,
        places: Places,
    ) -> Result<(Digits, Arc<Block>), BackendError> {
        let block = x.form(Form::Rows(places), || {
            let (to, block) = self.digits(op, (x.rows(), x.cols()), places)?;
            self.card.push([product::quantise(x.words, to)]);
            Ok(block)
        })?;
        Ok((Digits::whole(block.address(), x.rows(), x.cols(), places), block))
    }

    /// Refuses rows that the vector unit has no place for.
    fn fits_a_row(&self, op: &'static str, cols: usize) -> Result<(), BackendError> {
        if cols <= ROW_WORDS {
            return Ok(());
        }
        Err(unsupported(op, format!("a row of {cols} numbers; the vector unit holds {ROW_WORDS}")))
    }

    /// Every head's digits of all segments' keys, one after the other, when `stream` has run.
    fn keys(
        &self,
        segments: &[&FpgaTensor],
        shape: AttentionShape,
        stream: &mut Vec<Descriptor>,
    ) -> Result<(HeadDigits, Arc<Block>), BackendError> {
        let (batch, heads, places) = (shape.batch, shape.kv_heads, self.attention);
        let tokens = segments.iter().map(|segment| segment.rows()).sum::<usize>() / batch;
        let place = |address| head_digits(address, (tokens, shape.head_dim), places);
        let [first, rest @ ..] = segments else { return Err(no_segments()) };
        // The first segment is the prefix in all steps: its keys are quantised once.
        let block = first.form(Form::Keys { batch, heads, tokens, places }, || {
            let bytes = head_bytes((tokens, shape.head_dim), places, batch * heads);
            let block = self.allocate("attention", &format!("{tokens} keys of {heads} heads"), bytes)?;
            self.card.push(attention::quantise_heads(first.words, place(block.address()), 0, (batch, heads)));
            Ok(block)
        })?;
        let to = place(block.address());
        let mut start = first.rows() / batch;
        for segment in rest {
            stream.extend(attention::quantise_heads(segment.words, to, start, (batch, heads)));
            start += segment.rows() / batch;
        }
        Ok((to, block))
    }

    /// Every head's digits of the columns of all segments' values together, when `stream` has run.
    fn values(
        &self,
        segments: &[&FpgaTensor],
        shape: AttentionShape,
        stream: &mut Vec<Descriptor>,
        held: &mut Vec<Block>,
    ) -> Result<(HeadDigits, Arc<Block>), BackendError> {
        let (batch, heads, places) = (shape.batch, shape.kv_heads, self.attention);
        let [first, rest @ ..] = segments else { return Err(no_segments()) };
        let tokens = segments.iter().map(|segment| segment.rows()).sum::<usize>() / batch;
        let sizes = (shape.head_dim, tokens);
        let block = if rest.is_empty() {
            first.form(Form::Values { batch, heads, places }, || {
                let mut own = Vec::new();
                let side_by_side = Heads::side_by_side(first.words, heads);
                let block = if side_by_side.are_aligned(heads) {
                    self.value_digits(side_by_side, sizes, (batch, heads), &mut own, held)?
                } else {
                    let (values, _block) = self.join(first, rest, (batch, heads), &mut own)?;
                    self.value_digits(values, sizes, (batch, heads), &mut own, held)?
                };
                self.card.push(own);
                Ok(block)
            })?
        } else {
            let (values, _block) = self.join(first, rest, (batch, heads), stream)?;
            Arc::new(self.value_digits(values, sizes, (batch, heads), stream, held)?)
        };
        Ok((head_digits(block.address(), sizes, places), block))
    }

    /// Digits of each head's columns, of `(columns, tokens)`; what has to be kept until `stream` is pushed is put in
    /// `held`.
    fn value_digits(
        &self,
        values: Heads,
        sizes: (usize, usize),
        (batch, heads): (usize, usize),
        stream: &mut Vec<Descriptor>,
        held: &mut Vec<Block>,
    ) -> Result<Block, BackendError> {
        let (op, places) = ("attention", self.attention);
        let bytes = head_bytes(sizes, places, batch * heads);
        let block = self.allocate(op, &format!("values of {heads} heads"), bytes)?;
        let transposed = if attention::needs_transposing(sizes.1) {
            let (words, block) = self.words(op, sizes.0, sizes.1)?;
            // Until the stream is pushed: another thread's work may come before it.
            held.push(block);
            Some(words)
        } else {
            None
        };
        let to = head_digits(block.address(), sizes, places);
        stream.extend(attention::quantise_head_columns(values, to, transposed, (batch, heads)));
        Ok(block)
    }

    /// The words of all segments, each observation's together, when `stream` has run: the first segment's are put there
    /// once.
    fn join(
        &self,
        first: &FpgaTensor,
        rest: &[&FpgaTensor],
        (batch, heads): (usize, usize),
        stream: &mut Vec<Descriptor>,
    ) -> Result<(Heads, Arc<Block>), BackendError> {
        let all = first.rows() + rest.iter().map(|segment| segment.rows()).sum::<usize>();
        let tokens = all / batch;
        let place = |address| attention::joined(address, all, first.cols(), heads);
        let put = |segment: &FpgaTensor, to: Heads, start: usize| {
            attention::join(segment.words, to, start, tokens, (batch, heads))
        };
        let block = first.form(Form::Joined { batch, heads, tokens }, || {
            let bytes = attention::joined_bytes(all, first.cols(), heads);
            let block = self.allocate("attention", &format!("{all} rows of values"), bytes)?;
            self.card.push(put(first, place(block.address()), 0));
            Ok(block)
        })?;
        let to = place(block.address());
        let mut start = first.rows() / batch;
        for segment in rest {
            stream.extend(put(segment, to, start));
            start += segment.rows() / batch;
        }
        Ok((to, block))
    }
}

/// Bytes of the digits of so many heads; `None`: more than can be counted.
fn head_bytes((rows, depth): (usize, usize), places: Places, heads: usize) -> Option<usize> {
    Digits::bytes(rows, depth, places)?.checked_mul(heads)
}

/// Digits of heads, one after the other.
fn head_digits(address: u64, (rows, depth): (usize, usize), places: Places) -> HeadDigits {
    // A buffer of all of them has been counted.
    let stride = Digits::bytes(rows, depth, places).unwrap_or(0) as u64;
    HeadDigits { first: Digits::whole(address, rows, depth, places), stride }
}

fn unsupported(op: &'static str, message: String) -> BackendError {
    BackendError::new(crate::NAME, op, BackendErrorKind::Unsupported, message)
}

fn invalid(op: &'static str, message: String) -> BackendError {
    BackendError::new(crate::NAME, op, BackendErrorKind::InvalidArgument, message)
}

fn no_segments() -> BackendError {
    invalid("attention", "there are no keys".to_owned())
}

/// Digits of the activations of a layer, and of its weights.
fn places_of(precision: Precision) -> Option<(Places, Places)> {
    match precision {
        Precision::Int8 | Precision::Int8Full => Some((Places::One, Places::One)),
        Precision::Int8Weights => Some((Places::Two, Places::One)),
        Precision::Int16 => Some((Places::Two, Places::Two)),
        _ => None,
    }
}

impl<D: FpgaDevice> Backend for FpgaBackend<D> {
    type Tensor = FpgaTensor;
    type Linear = FpgaLinear;
    type Table = FpgaTable;
    type Mask = FpgaMask;

    fn capabilities(&self) -> Capabilities {
        let DeviceInfo { name, driver, execution } = self.card.device().info();
        let offered = |precision: &Precision| places_of(*precision).is_some();
        let precisions = Precision::ALL.iter().copied().filter(offered);
        let mut capabilities = Capabilities::new(crate::NAME, name, precisions);
        capabilities.driver = driver;
        capabilities.execution = execution;
        capabilities.plans = plans::all();
        let others = Precision::ALL.iter().copied().filter(|precision| !offered(precision));
        let why = "the design multiplies int8 digits";
        capabilities.refusals = others.map(|precision| (precision, why.to_owned())).collect();
        capabilities.max_tensor_bytes = Some(BANK_BYTES);
        capabilities
    }

    /// Attention is in single digits where `int8full` is the default, and in two otherwise.
    fn with_plan(self, plan: &PrecisionPlan) -> Result<Self, BackendError> {
        let attention =
            if plan.default_precision() == Precision::Int8Full { Places::One } else { Places::Two };
        Ok(Self { attention, ..self })
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<FpgaLinear, BackendError> {
        let op = "prepare_linear";
        let Some((places, weight_places)) = places_of(precision) else {
            return Err(unsupported(op, format!("no {precision}: the design multiplies int8 digits")));
        };
        let (inputs, outputs) = (source.inputs(), source.outputs());
        if inputs > ROW_WORDS {
            let message = format!("{}: {inputs} inputs; the vector unit holds {ROW_WORDS}", source.name);
            return Err(unsupported(op, message));
        }
        let named = |message: String| invalid(op, format!("{}: {message}", source.name));
        let bias = source.bias_f32();
        if let Some(output) = bias.iter().flatten().position(|b| !b.is_finite()) {
            return Err(named(format!("the bias of output {output} is not finite")));
        }
        let mut bytes = Vec::new();
        let mut parts = Vec::new();
        let deepest = product::deepest(places, weight_places);
        for start in (0..inputs).step_by(deepest) {
            let count = deepest.min(inputs - start);
            let matrices: Vec<_> = source.weights.iter().map(|weight| weight.columns(start, count)).collect();
            let packed = pack(&matrices, weight_places, places.target()).map_err(named)?;
            let address = bytes.len().next_multiple_of(64);
            bytes.resize(address, 0);
            bytes.extend(packed.panels);
            let scales = bytes.len() as u64;
            bytes.extend(packed.scales.into_iter().map(Scale::to_word).flat_map(u32::to_le_bytes));
            // Of the sum of all parts: the first has it.
            let after = bytes.len() as u64;
            let bias = bias.as_ref().filter(|_| start == 0);
            bytes.extend(bias.into_iter().flatten().flat_map(|b| b.to_le_bytes()));
            let bias = bias.map(|_| after);
            let (address, outputs) = (address as u64, outputs as u32);
            let weights = Weights::Panels { address, scales, bias, outputs, places: weight_places };
            parts.push((start, count, weights));
        }
        let block = self.allocate(op, &format!("{}: a layer", source.name), Some(bytes.len()))?;
        self.card.write_now(op, &block, &bytes)?;
        for (.., weights) in &mut parts {
            *weights = weights.moved(block.address());
        }
        Ok(FpgaLinear { parts, places, inputs, outputs, precision, _block: block })
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<FpgaTable, BackendError> {
        match &source.weights[..] {
            [table] => Ok(FpgaTable {
                dtype: table.dtype(),
                bytes: (0..table.rows()).flat_map(|row| table.row_bytes(row)).copied().collect(),
                rows: table.rows(),
                width: table.cols(),
            }),
            several => {
                let message = format!("{}: {} matrices; a table is one", source.name, several.len());
                Err(invalid("prepare_table", message))
            }
        }
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<FpgaTensor, BackendError> {
        upload(self, "upload", values, rows, cols)
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<FpgaMask, BackendError> {
        let op = "upload_mask";
        let pitch = padded(keys);
        let mut bytes = vec![0; batch * queries * pitch];
        for (row, allowed) in bytes.chunks_exact_mut(pitch.max(1)).zip(allowed.chunks_exact(keys.max(1))) {
            for (byte, allowed) in row.iter_mut().zip(allowed) {
                *byte = u8::from(*allowed);
            }
        }
        let what = format!("a mask of {} × {keys}", batch * queries);
        let block = self.allocate(op, &what, Some(bytes.len()))?;
        self.card.write(op, &block, bytes)?;
        Ok(FpgaMask { block, pitch: pitch as u32, batch, queries, keys })
    }

    fn download(&self, x: &FpgaTensor) -> Result<Vec<f32>, BackendError> {
        let (rows, cols) = (x.rows(), x.cols());
        if rows * cols == 0 {
            return Ok(Vec::new());
        }
        let pitch = x.words.pitch as usize;
        let mut bytes = vec![0; (rows - 1) * pitch + 4 * cols];
        self.card.read("download", x.words.address, &mut bytes)?;
        let word = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
        Ok(bytes.chunks(pitch).flat_map(|row| row[..4 * cols].as_chunks().0.iter().map(word)).collect())
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.card.synchronize("synchronize")
    }

    fn linear(
        &self,
        x: &FpgaTensor,
        weight: &FpgaLinear,
        epilogue: Epilogue<'_, FpgaTensor>,
    ) -> Result<FpgaTensor, BackendError> {
        let op = "linear";
        let (rows, cols) = (x.rows(), weight.outputs);
        let (digits, _block) = self.quantised(op, x, weight.places)?;
        let part = |(start, count, weights): (usize, usize, Weights)| {
            self.op(op, rows, cols, |to| product::product(digits.columns(start, count), weights, to))
        };
        let [first, others @ ..] = &weight.parts[..] else {
            return Err(invalid(op, "a layer without inputs".to_owned()));
        };
        let mut y = part(*first)?;
        for other in others {
            let other = part(*other)?;
            y = self.op(op, rows, cols, |to| [rows::add(None, other.words, y.words, to)])?;
        }
        if let Some(activation) = epilogue.activation {
            y = self.activate(&y, activation)?;
        }
        if let Some(residual) = epilogue.residual {
            y = self.op(op, rows, cols, |to| [rows::add(None, y.words, residual.words, to)])?;
        }
        Ok(y)
    }

    fn layer_norm(
        &self,
        x: &FpgaTensor,
        gain: &FpgaTensor,
        bias: &FpgaTensor,
        eps: f32,
    ) -> Result<FpgaTensor, BackendError> {
        let op = "layer_norm";
        self.fits_a_row(op, x.cols())?;
        let norm = |to| [rows::norm(x.words, gain.words, Some(bias.words), eps, to)];
        self.op(op, x.rows(), x.cols(), norm)
    }

    fn rms_norm(&self, x: &FpgaTensor, gain: &FpgaTensor, eps: f32) -> Result<FpgaTensor, BackendError> {
        let op = "rms_norm";
        self.fits_a_row(op, x.cols())?;
        self.op(op, x.rows(), x.cols(), |to| [rows::norm(x.words, gain.words, None, eps, to)])
    }

    fn attention(
        &self,
        q: &FpgaTensor,
        segments: &[&KeyValue<FpgaTensor>],
        mask: Option<&FpgaMask>,
        shape: AttentionShape,
    ) -> Result<FpgaTensor, BackendError> {
        let op = "attention";
        let places = self.attention;
        let keys: Vec<&FpgaTensor> = segments.iter().map(|segment| &segment.key).collect();
        let values: Vec<&FpgaTensor> = segments.iter().map(|segment| &segment.value).collect();
        let tokens = keys.iter().map(|key| key.rows()).sum::<usize>() / shape.batch;
        let deepest = product::deepest(places, places);
        if tokens.max(shape.head_dim) > deepest {
            let message = format!("{tokens} keys of {} numbers; the buffers hold {deepest}", shape.head_dim);
            return Err(unsupported(op, message));
        }
        if !(shape.scale.is_finite() && shape.scale >= 0.0) {
            return Err(unsupported(
                op,
                format!("a scale of {}; the softmax takes none below 0", shape.scale),
            ));
        }
        let rows = shape.heads / shape.kv_heads * (q.rows() / shape.batch);
        let (query_digits, _query_block) = self.digits(op, (rows, shape.head_dim), places)?;
        let (scores, _scores_block) = self.words(op, rows, tokens)?;
        let (weights, _weights_block) = self.digits(op, (rows, tokens), places)?;
        let apart = if attention::can_be_side_by_side(shape) {
            None
        } else {
            Some(self.words(op, rows, shape.head_dim)?)
        };
        let (result, block) = self.words(op, q.rows(), q.cols())?;
        // In one piece: what other threads ask for must not come between.
        let mut stream = Vec::new();
        let (keys, _key_block) = self.keys(&keys, shape, &mut stream)?;
        let mut held = Vec::new();
        let (values, _value_block) = self.values(&values, shape, &mut stream, &mut held)?;
        stream.extend(attention::attention(&Attention {
            shape,
            queries: q.words,
            keys,
            values,
            mask: mask.map(|mask| (mask.block.address(), mask.pitch)),
            query_digits,
            scores,
            weights,
            apart: apart.as_ref().map(|(words, _)| *words),
            result,
        }));
        self.card.push(stream);
        Ok(FpgaTensor::new(result, Arc::new(block)))
    }

    fn rope(&self, x: &FpgaTensor, cos: &FpgaTensor, sin: &FpgaTensor) -> Result<FpgaTensor, BackendError> {
        let op = "rope";
        // Each half of a head begins a beat of 16 words.
        let halves = x.cols() / cos.cols().max(1);
        self.fits_a_row(op, cos.cols().next_multiple_of(TILE_COLS).saturating_mul(halves))?;
        let copied;
        let sin = if sin.words.pitch == cos.words.pitch {
            sin
        } else {
            // Parts of matrices of different widths: both have one pitch when they are copied.
            let cos = self.copied(op, cos)?;
            copied = self.copied(op, sin)?;
            return self.rope(x, &cos, &copied);
        };
        self.op(op, x.rows(), x.cols(), |to| [rows::rope(x.words, cos.words, sin.words, to)])
    }

    fn activate(&self, x: &FpgaTensor, activation: Activation) -> Result<FpgaTensor, BackendError> {
        self.op("activate", x.rows(), x.cols(), |to| [rows::activate(x.words, activation, to)])
    }

    fn silu_mul(&self, x: &FpgaTensor) -> Result<FpgaTensor, BackendError> {
        self.op("silu_mul", x.rows(), x.cols() / 2, |to| [rows::silu_mul(x.words, to)])
    }

    fn scale(&self, x: &FpgaTensor, factor: f32) -> Result<FpgaTensor, BackendError> {
        self.op("scale", x.rows(), x.cols(), |to| [rows::scale(factor, x.words, to)])
    }

    fn axpy(&self, alpha: f32, x: &FpgaTensor, y: &FpgaTensor) -> Result<FpgaTensor, BackendError> {
        self.op("axpy", x.rows(), x.cols(), |to| [rows::add(Some(alpha), x.words, y.words, to)])
    }

    fn embed_rows(&self, table: &FpgaTable, ids: &[u32]) -> Result<FpgaTensor, BackendError> {
        let op = "embed_rows";
        let row_bytes = table.dtype.bytes_of(table.width);
        let mut values = vec![0.0; ids.len() * table.width];
        for (id, out) in ids.iter().zip(values.chunks_exact_mut(table.width.max(1))) {
            let stored = table.bytes.get(*id as usize * row_bytes..).and_then(|rest| rest.get(..row_bytes));
            let row = stored.and_then(|bytes| TensorView::new(table.dtype, 1, table.width, bytes));
            let Some(row) = row else {
                return Err(invalid(op, format!("there is no word {id} among {}", table.rows)));
            };
            row.read_row(0, out);
        }
        upload(self, op, &values, ids.len(), table.width)
    }

    fn concat_tokens(&self, parts: &[&FpgaTensor], batch: usize) -> Result<FpgaTensor, BackendError> {
        let words: Vec<Words> = parts.iter().map(|part| part.words).collect();
        let rows = parts.iter().map(|part| part.rows()).sum();
        let cols = parts.first().map_or(0, |part| part.cols());
        self.op("concat_tokens", rows, cols, |to| movement::concat_tokens(&words, batch, to))
    }

    fn slice_rows(&self, x: &FpgaTensor, start: usize, count: usize) -> Result<FpgaTensor, BackendError> {
        Ok(x.part(x.words.rows(start, count)))
    }

    fn split_cols(&self, x: &FpgaTensor, widths: &[usize]) -> Result<Vec<FpgaTensor>, BackendError> {
        let mut start = 0;
        let piece = |width: &usize| {
            let piece = x.part(x.words.columns(start, *width));
            start += width;
            piece
        };
        Ok(widths.iter().map(piece).collect())
    }

    fn pixel_shuffle(&self, x: &FpgaTensor, grid: usize, factor: usize) -> Result<FpgaTensor, BackendError> {
        let block = factor * factor;
        let shuffle = |to| movement::pixel_shuffle(x.words, grid, factor, to);
        self.op("pixel_shuffle", x.rows() / block, x.cols() * block, shuffle)
    }
}

impl<D: FpgaDevice> FpgaBackend<D> {
    fn copied(&self, op: &'static str, x: &FpgaTensor) -> Result<FpgaTensor, BackendError> {
        self.op(op, x.rows(), x.cols(), |to| [movement::copy(x.words, to, Blocks::ONE)])
    }
}

fn upload<D: FpgaDevice>(
    backend: &FpgaBackend<D>,
    op: &'static str,
    values: &[f32],
    rows: usize,
    cols: usize,
) -> Result<FpgaTensor, BackendError> {
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let (row, col) = (index / cols, index % cols);
        let message =
            format!("element [{row}, {col}] is {}; the design has finite numbers only", values[index]);
        return Err(invalid(op, message));
    }
    let (words, block) = backend.words(op, rows, cols)?;
    let pitch = words.pitch as usize;
    let mut bytes = vec![0; rows * pitch];
    for (row, values) in bytes.chunks_exact_mut(pitch.max(1)).zip(values.chunks_exact(cols.max(1))) {
        for (word, value) in row.as_chunks_mut().0.iter_mut().zip(values) {
            *word = value.to_le_bytes();
        }
    }
    backend.card.write(op, &block, bytes)?;
    Ok(FpgaTensor::new(words, Arc::new(block)))
}

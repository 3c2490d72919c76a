//! Kernels of our own, for what Burn would compose of many.
//!
//! A denoising step is some two hundred small operations on 50 rows; composed of Burn's operations, attention alone
//! would be a dozen launches with a copy of the cached keys and values in it. Each kernel here is one launch, takes its
//! sizes at run time (so that it is compiled once, and never tuned), and reads columns of a wider matrix in place. The
//! composed forms in `smolvla-backend-burn` are what they are tested against.
//!
//! All matrices are f32. The product of an f16 layer is here too, because Burn's own would round its sums to f16.

use burn::backend::backend_extension;
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_wgpu::{CubeBackend, CubeTensor};
use cubecl::prelude::*;
use cubecl::{calculate_cube_count_elemwise, client::Client};

/// Units that share a workgroup.
const UNITS: u32 = 64;
/// Keys that a workgroup of attention reads at a time.
const TILE: usize = 16;

/// The score where attention is forbidden: below any other, and far enough from the least f32 that no difference of
/// scores, nor its exponent to base 2, is infinite. Shaders may assume that there are no infinities.
const FORBIDDEN: f32 = -1e30;

/// Columns of a matrix: `start..start + cols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) start: usize,
    pub(crate) cols: usize,
}

/// Sizes of an attention; columns are of each matrix that it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    pub(crate) queries: usize,
    /// Keys of an observation in each segment; 0: there is no second segment.
    pub(crate) keys: [usize; 2],
    /// First columns of the queries, of each segment's keys and of its values.
    pub(crate) q: usize,
    pub(crate) key: [usize; 2],
    pub(crate) value: [usize; 2],
    pub(crate) masked: bool,
}

/// Our operations, as Burn dispatches them. All matrices are `[rows, cols]`.
#[backend_extension(Cube, Fusion)]
pub(crate) trait Kernels: burn::backend::Backend {
    /// `x·weightᵀ` with x rounded to f16: products of f16, sums and result in f32. `weight` is f16, `[outputs, inputs]`.
    #[fusion(meta = |x, weight| spec(x, weight.shape[0]))]
    fn half_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// LayerNorm where `centred`, else RMSNorm (which ignores `bias`), of each row of some columns.
    #[fusion(meta = |x, _gain, _bias, columns, _eps, _centred| spec(x, columns.cols))]
    fn norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        columns: Columns,
        eps: f32,
        centred: bool,
    ) -> FloatTensor<Self>;

    /// Half-split rotary embedding of some columns.
    #[fusion(meta = |x, _cos, _sin, columns| spec(x, columns.cols))]
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        columns: Columns,
    ) -> FloatTensor<Self>;

    /// `silu(gate)·up` of `[gate, up]`.
    #[fusion(meta = |x, columns| spec(x, columns.cols / 2))]
    fn gate(x: FloatTensor<Self>, columns: Columns) -> FloatTensor<Self>;

    /// Attention over one or two segments. `forbidden` is `[batch·queries, keys]`, not 0 where attention is forbidden.
    #[fusion(meta = |q, _k0, _v0, _k1, _v1, _forbidden, sizes| spec(q, sizes.heads * sizes.head_dim))]
    fn attend(
        q: FloatTensor<Self>,
        key0: FloatTensor<Self>,
        value0: FloatTensor<Self>,
        key1: FloatTensor<Self>,
        value1: FloatTensor<Self>,
        forbidden: FloatTensor<Self>,
        sizes: Attention,
    ) -> FloatTensor<Self>;
}

/// A result with the rows of `x`, in f32.
fn spec(x: &TensorSpec, cols: usize) -> TensorSpec {
    TensorSpec::new(Shape::new([x.shape[0], cols]), DType::F32)
}

impl Kernels for CubeBackend {
    fn half_product(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
        let mut weight = weight;
        weight.meta.swap(0, 1);
        matmul(cast(x, DType::F16), weight, None, MatmulStrategy::default(), DType::F32)
            .expect("Burn has a product for every f16 matrix")
    }

    fn norm(
        x: CubeTensor,
        gain: CubeTensor,
        bias: CubeTensor,
        columns: Columns,
        eps: f32,
        centred: bool,
    ) -> CubeTensor {
        let rows = x.meta.shape()[0];
        let out = empty(&x, columns.cols);
        let client = x.client.clone();
        let count = count_of(&client, rows);
        norm_kernel::launch(
            &client,
            count,
            CubeDim::new_1d(UNITS),
            x.into_tensor_arg(),
            gain.into_tensor_arg(),
            bias.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            columns.start as u32,
            eps,
            centred,
        );
        out
    }

    fn rotate(x: CubeTensor, cos: CubeTensor, sin: CubeTensor, columns: Columns) -> CubeTensor {
        let out = empty(&x, columns.cols);
        let client = x.client.clone();
        let pairs = x.meta.shape()[0] * columns.cols / 2;
        let dim = CubeDim::new_1d(UNITS);
        let count = calculate_cube_count_elemwise(&client, pairs, dim);
        rotate_kernel::launch(
            &client,
            count,
            dim,
            x.into_tensor_arg(),
            cos.into_tensor_arg(),
            sin.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            columns.start as u32,
        );
        out
    }

    fn gate(x: CubeTensor, columns: Columns) -> CubeTensor {
        let out = empty(&x, columns.cols / 2);
        let client = x.client.clone();
        let dim = CubeDim::new_1d(UNITS);
        let count = calculate_cube_count_elemwise(&client, x.meta.shape()[0] * columns.cols / 2, dim);
        gate_kernel::launch(
            &client,
            count,
            dim,
            x.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            columns.start as u32,
        );
        out
    }

    fn attend(
        q: CubeTensor,
        key0: CubeTensor,
        value0: CubeTensor,
        key1: CubeTensor,
        value1: CubeTensor,
        forbidden: CubeTensor,
        sizes: Attention,
    ) -> CubeTensor {
        let out = empty(&q, sizes.heads * sizes.head_dim);
        let client = q.client.clone();
        let groups = sizes.queries.div_ceil(UNITS as usize) as u32;
        let count = CubeCount::Static(groups, sizes.heads as u32, sizes.batch as u32);
        attend_kernel::launch(
            &client,
            count,
            CubeDim::new_1d(UNITS),
            q.into_tensor_arg(),
            key0.into_tensor_arg(),
            value0.into_tensor_arg(),
            key1.into_tensor_arg(),
            value1.into_tensor_arg(),
            forbidden.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            sizes.q as u32,
            sizes.key[0] as u32,
            sizes.value[0] as u32,
            sizes.key[1] as u32,
            sizes.value[1] as u32,
            sizes.queries as u32,
            sizes.keys[0] as u32,
            sizes.keys[1] as u32,
            (sizes.heads / sizes.kv_heads) as u32,
            sizes.scale,
            sizes.head_dim,
            sizes.masked,
        );
        out
    }
}

/// Room for an f32 matrix with the rows of `like`.
fn empty(like: &CubeTensor, cols: usize) -> CubeTensor {
    let shape = Shape::new([like.meta.shape()[0], cols]);
    let handle = like.client.empty(shape.num_elements() * DType::F32.size());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, DType::F32)
}

/// A workgroup for each row, in as many dimensions as the device needs for them.
fn count_of(client: &Client, rows: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, rows, CubeDim::new_1d(1))
}

/// A workgroup a row; its units sum their shares, and then halve the number of sums until one is left.
#[cube(launch)]
fn norm_kernel(
    x: &Tensor<f32>,
    gain: &Tensor<f32>,
    bias: &Tensor<f32>,
    out: &mut Tensor<f32>,
    start: u32,
    eps: f32,
    #[comptime] centred: bool,
) {
    let row = CUBE_POS;
    let cols = out.shape(1);
    if row >= out.shape(0) {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let from = row * x.stride(0) + start as usize * x.stride(1);
    let step = x.stride(1);
    let mut sums = Shared::<[f32]>::new_slice(units);

    let mut mean = 0.0f32;
    if centred {
        let mut sum = 0.0f32;
        let mut col = unit;
        while col < cols {
            sum += x[from + col * step];
            col += units;
        }
        mean = total(&mut sums, sum, unit) / f32::cast_from(cols as u32);
    }
    let mut squares = 0.0f32;
    let mut col = unit;
    while col < cols {
        let value = x[from + col * step] - mean;
        squares += value * value;
        col += units;
    }
    let variance = total(&mut sums, squares, unit) / f32::cast_from(cols as u32);
    let root = f32::sqrt(variance + eps);
    let mut col = unit;
    while col < cols {
        let mut value = (x[from + col * step] - mean) / root * gain[col * gain.stride(1)];
        if centred {
            value += bias[col * bias.stride(1)];
        }
        out[row * cols + col] = value;
        col += units;
    }
}

/// The sum of every unit's `share`, for all of them.
#[cube]
fn total(sums: &mut Shared<[f32]>, share: f32, unit: usize) -> f32 {
    // A sum before this one may still be read.
    sync_cube();
    sums[unit] = share;
    sync_cube();
    let mut half = (UNITS as usize / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = sums[unit + half];
            sums[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    sums[0]
}

/// A unit a pair of columns.
#[cube(launch)]
fn rotate_kernel(x: &Tensor<f32>, cos: &Tensor<f32>, sin: &Tensor<f32>, out: &mut Tensor<f32>, start: u32) {
    let cols = out.shape(1);
    let half = cos.shape(1);
    let pair = ABSOLUTE_POS;
    if pair >= out.shape(0) * cols / 2 {
        terminate!();
    }
    let row = pair / (cols / 2);
    let rest = pair % (cols / 2);
    let index = rest % half;
    let col = rest / half * 2 * half + index;
    let from = row * x.stride(0) + start as usize * x.stride(1);
    let table = row % cos.shape(0);
    let x1 = x[from + col * x.stride(1)];
    let x2 = x[from + (col + half) * x.stride(1)];
    let c = cos[table * cos.stride(0) + index * cos.stride(1)];
    let s = sin[table * sin.stride(0) + index * sin.stride(1)];
    out[row * cols + col] = x1 * c - x2 * s;
    out[row * cols + col + half] = x2 * c + x1 * s;
}

/// A unit an element of the result.
#[cube(launch)]
fn gate_kernel(x: &Tensor<f32>, out: &mut Tensor<f32>, start: u32) {
    let cols = out.shape(1);
    let place = ABSOLUTE_POS;
    if place >= out.shape(0) * cols {
        terminate!();
    }
    let row = place / cols;
    let col = place % cols;
    let from = row * x.stride(0) + (start as usize + col) * x.stride(1);
    let gate = x[from];
    let up = x[from + cols * x.stride(1)];
    // e^-|gate| never overflows.
    let small = f32::exp(-f32::abs(gate));
    let mut numerator = gate;
    if gate < 0.0 {
        numerator = gate * small;
    }
    out[place] = numerator / (1.0 + small) * up;
}

/// A unit a query of one head. The workgroup brings keys and values to shared memory a tile at a time, and every unit
/// goes through the tile with a running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax",
/// arXiv:1805.02867), so that scores are never stored.
#[cube(launch)]
fn attend_kernel(
    q: &Tensor<f32>,
    key0: &Tensor<f32>,
    value0: &Tensor<f32>,
    key1: &Tensor<f32>,
    value1: &Tensor<f32>,
    forbidden: &Tensor<f32>,
    out: &mut Tensor<f32>,
    q_start: u32,
    key0_start: u32,
    value0_start: u32,
    key1_start: u32,
    value1_start: u32,
    queries: u32,
    keys0: u32,
    keys1: u32,
    group: u32,
    scale: f32,
    #[comptime] head_dim: usize,
    #[comptime] masked: bool,
) {
    let queries = queries as usize;
    let keys0 = keys0 as usize;
    let keys1 = keys1 as usize;
    let keys = keys0 + keys1;
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let head = CUBE_POS_Y as usize;
    let observation = CUBE_POS_Z as usize;
    let kv_col = head / group as usize * head_dim;
    let query = CUBE_POS_X as usize * units + unit;
    // Units beyond the last query help to bring tiles; they compute the last query again, and keep it to themselves.
    let row = observation * queries + usize::min(query, queries - 1);

    let mut wanted = Array::<f32>::new(head_dim);
    let mut sums = Array::<f32>::new(head_dim);
    #[unroll]
    for d in 0..head_dim {
        let place = row * q.stride(0) + (q_start as usize + head * head_dim + d) * q.stride(1);
        wanted[d] = q[place] * scale;
        sums[d] = 0.0;
    }
    let mut top = f32::new(FORBIDDEN);
    let mut weights = 0.0f32;
    let mut keys_tile = Shared::<[f32]>::new_slice(TILE * head_dim);
    let mut values_tile = Shared::<[f32]>::new_slice(TILE * head_dim);
    let mut scores = Array::<f32>::new(TILE);

    let mut first = 0usize;
    while first < keys {
        let count = usize::min(keys - first, TILE);
        sync_cube();
        let mut place = unit;
        while place < count * head_dim {
            let key = first + place / head_dim;
            let col = kv_col + place % head_dim;
            if key < keys0 {
                let row = observation * keys0 + key;
                keys_tile[place] = key0[row * key0.stride(0) + (key0_start as usize + col) * key0.stride(1)];
                values_tile[place] =
                    value0[row * value0.stride(0) + (value0_start as usize + col) * value0.stride(1)];
            } else {
                let row = observation * keys1 + key - keys0;
                keys_tile[place] = key1[row * key1.stride(0) + (key1_start as usize + col) * key1.stride(1)];
                values_tile[place] =
                    value1[row * value1.stride(0) + (value1_start as usize + col) * value1.stride(1)];
            }
            place += units;
        }
        sync_cube();

        let mut higher = top;
        for index in 0..count {
            let mut score = 0.0f32;
            #[unroll]
            for d in 0..head_dim {
                score += wanted[d] * keys_tile[index * head_dim + d];
            }
            if masked {
                let place = row * forbidden.stride(0) + (first + index) * forbidden.stride(1);
                if forbidden[place] != 0.0 {
                    // Not -∞: where a query may attend nothing, all scores are equal.
                    score = f32::new(FORBIDDEN);
                }
            }
            scores[index] = score;
            higher = f32::max(higher, score);
        }
        let shrink = f32::exp(top - higher);
        weights *= shrink;
        #[unroll]
        for d in 0..head_dim {
            sums[d] *= shrink;
        }
        for index in 0..count {
            let weight = f32::exp(scores[index] - higher);
            weights += weight;
            #[unroll]
            for d in 0..head_dim {
                sums[d] += weight * values_tile[index * head_dim + d];
            }
        }
        top = higher;
        first += TILE;
    }
    if query < queries {
        let width = out.shape(1);
        #[unroll]
        for d in 0..head_dim {
            out[row * width + head * head_dim + d] = sums[d] / weights;
        }
    }
}

//! A backend that forwards to another one except where told: how wrong backends are made for tests of the suite.
//!
//! An [`Alteration`] has every method of [`Backend`], each with the inner backend in front of its arguments and
//! each forwarding to it by default, so that one says only what it changes:
//!
//! ```
//! use smolvla_conformance::altered::{Altered, Alteration};
//! use smolvla_core::reference::Reference;
//! use smolvla_core::{Backend, BackendError};
//!
//! #[derive(Clone)]
//! struct ScaleTwice;
//!
//! impl<B: Backend> Alteration<B> for ScaleTwice {
//!     fn scale(&self, inner: &B, x: &B::Tensor, factor: f32) -> Result<B::Tensor, BackendError> {
//!         inner.scale(&inner.scale(x, factor)?, factor)
//!     }
//! }
//!
//! let backend = Altered::new(Reference, ScaleTwice);
//! let x = backend.upload(&[1.0, 2.0], 1, 2)?;
//! assert_eq!(backend.download(&backend.scale(&x, 3.0)?)?, [9.0, 18.0]);
//! # Ok::<(), BackendError>(())
//! ```

use smolvla_core::backend::{Activation, AttentionShape, Backend, Capabilities, Epilogue, LayerOp};
use smolvla_core::graph::{
    self, DenoiseContext, Expert, ExpertLayer, KeyValue, TextLayer, TextLayerOutput, VisionLayer,
};
use smolvla_core::weights::LinearSource;
use smolvla_core::{BackendError, Precision, PrecisionPlan};

/// A backend that forwards to another one except where its [`Alteration`] says otherwise.
///
/// A layer that neither side overrides is composed over the altered backend, so that an altered operation shows
/// inside it too. A layer that the inner backend has its own form of is forwarded whole; to see its operations
/// altered, the alteration's `overrides` must say no.
#[derive(Clone, Debug)]
pub struct Altered<B, A> {
    inner: B,
    alteration: A,
}

impl<B: Backend, A: Alteration<B>> Altered<B, A> {
    /// Alters `inner`.
    pub fn new(inner: B, alteration: A) -> Self {
        Self { inner, alteration }
    }
}

/// `()` alters nothing.
impl<B: Backend> Alteration<B> for () {}

/// Writes the trait and the backend from one list of signatures, so that neither can miss a method.
macro_rules! altered {
    (
        operations { $( fn $op:ident($($arg:ident: $arg_type:ty),*) -> $result:ty; )* }
        layers { $(
            fn $layer:ident($($layer_arg:ident: $layer_arg_type:ty),*) -> $layer_result:ty;
            $layer_op:ident, composed by $composed:path;
        )* }
    ) => {
        /// What is different about an [`Altered`] backend. Every method forwards to `inner` by default.
        pub trait Alteration<B: Backend>: Clone + Send + Sync + 'static {
            $(
                #[doc = concat!("In place of [`Backend::", stringify!($op), "`].")]
                fn $op(&self, inner: &B $(, $arg: $arg_type)*) -> $result {
                    inner.$op($($arg),*)
                }
            )*

            /// In place of [`Backend::overrides`]. The layer methods below are called for what this says yes to;
            /// the others are composed.
            fn overrides(&self, inner: &B, op: LayerOp) -> bool {
                inner.overrides(op)
            }

            $(
                #[doc = concat!("In place of [`Backend::", stringify!($layer), "`].")]
                fn $layer(&self, inner: &B $(, $layer_arg: $layer_arg_type)*) -> $layer_result {
                    inner.$layer($($layer_arg),*)
                }
            )*
        }

        impl<B: Backend, A: Alteration<B>> Backend for Altered<B, A> {
            type Tensor = B::Tensor;
            type Linear = B::Linear;
            type Table = B::Table;
            type Mask = B::Mask;

            fn with_plan(self, plan: &PrecisionPlan) -> Result<Self, BackendError> {
                Ok(Self { inner: self.inner.with_plan(plan)?, ..self })
            }

            $(
                fn $op(&self $(, $arg: $arg_type)*) -> $result {
                    self.alteration.$op(&self.inner $(, $arg)*)
                }
            )*

            fn overrides(&self, op: LayerOp) -> bool {
                self.alteration.overrides(&self.inner, op)
            }

            $(
                fn $layer(&self $(, $layer_arg: $layer_arg_type)*) -> $layer_result {
                    if self.overrides(LayerOp::$layer_op) {
                        return self.alteration.$layer(&self.inner $(, $layer_arg)*);
                    }
                    $composed(self $(, $layer_arg)*)
                }
            )*
        }
    };
}

altered! {
    operations {
        fn capabilities() -> Capabilities;
        fn prepare_linear(source: &LinearSource<'_>, precision: Precision) -> Result<B::Linear, BackendError>;
        fn prepare_table(source: &LinearSource<'_>) -> Result<B::Table, BackendError>;
        fn upload(values: &[f32], rows: usize, cols: usize) -> Result<B::Tensor, BackendError>;
        fn upload_mask(
            allowed: &[bool], batch: usize, queries: usize, keys: usize
        ) -> Result<B::Mask, BackendError>;
        fn download(x: &B::Tensor) -> Result<Vec<f32>, BackendError>;
        fn synchronize() -> Result<(), BackendError>;
        fn linear(
            x: &B::Tensor, weight: &B::Linear, epilogue: Epilogue<'_, B::Tensor>
        ) -> Result<B::Tensor, BackendError>;
        fn layer_norm(
            x: &B::Tensor, gain: &B::Tensor, bias: &B::Tensor, eps: f32
        ) -> Result<B::Tensor, BackendError>;
        fn rms_norm(x: &B::Tensor, gain: &B::Tensor, eps: f32) -> Result<B::Tensor, BackendError>;
        fn attention(
            q: &B::Tensor, segments: &[&KeyValue<B::Tensor>], mask: Option<&B::Mask>, shape: AttentionShape
        ) -> Result<B::Tensor, BackendError>;
        fn rope(x: &B::Tensor, cos: &B::Tensor, sin: &B::Tensor) -> Result<B::Tensor, BackendError>;
        fn activate(x: &B::Tensor, activation: Activation) -> Result<B::Tensor, BackendError>;
        fn silu_mul(x: &B::Tensor) -> Result<B::Tensor, BackendError>;
        fn scale(x: &B::Tensor, factor: f32) -> Result<B::Tensor, BackendError>;
        fn axpy(alpha: f32, x: &B::Tensor, y: &B::Tensor) -> Result<B::Tensor, BackendError>;
        fn embed_rows(table: &B::Table, ids: &[u32]) -> Result<B::Tensor, BackendError>;
        fn concat_tokens(parts: &[&B::Tensor], batch: usize) -> Result<B::Tensor, BackendError>;
        fn slice_rows(x: &B::Tensor, start: usize, count: usize) -> Result<B::Tensor, BackendError>;
        fn split_cols(x: &B::Tensor, widths: &[usize]) -> Result<Vec<B::Tensor>, BackendError>;
        fn pixel_shuffle(x: &B::Tensor, grid: usize, factor: usize) -> Result<B::Tensor, BackendError>;
    }
    layers {
        fn vision_layer(
            layer: &VisionLayer<B::Tensor, B::Linear>, x: &B::Tensor, images: usize
        ) -> Result<B::Tensor, BackendError>;
        VisionLayer, composed by graph::vision_layer;

        fn text_layer(
            layer: &TextLayer<B::Tensor, B::Linear>, x: &B::Tensor, cos: &B::Tensor, sin: &B::Tensor, mask: &B::Mask
        ) -> Result<TextLayerOutput<B::Tensor>, BackendError>;
        TextLayer, composed by graph::text_layer;

        fn expert_layer(
            layer: &ExpertLayer<B::Tensor, B::Linear>,
            prefix: &KeyValue<B::Tensor>,
            context: &DenoiseContext<B::Tensor, B::Mask>,
            x: &B::Tensor
        ) -> Result<B::Tensor, BackendError>;
        ExpertLayer, composed by graph::expert_layer;

        fn denoise_step(
            expert: &Expert<B::Tensor, B::Linear>,
            context: &DenoiseContext<B::Tensor, B::Mask>,
            x_t: &B::Tensor,
            step: usize
        ) -> Result<B::Tensor, BackendError>;
        DenoiseStep, composed by untapped_denoise_step;
    }
}

/// The composed step, with nobody watching.
fn untapped_denoise_step<B: Backend>(
    backend: &B,
    expert: &Expert<B::Tensor, B::Linear>,
    context: &DenoiseContext<B::Tensor, B::Mask>,
    x_t: &B::Tensor,
    step: usize,
) -> Result<B::Tensor, BackendError> {
    graph::denoise_step(backend, expert, context, x_t, step, &mut |_, x| Ok(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smolvla_core::reference::{HostMatrix, Reference};
    use smolvla_core::weights::{StorageType, TensorView};

    /// Zero out of `linear`, and layers of its own for those it is told.
    #[derive(Clone)]
    struct Marked(Option<LayerOp>);

    impl Alteration<Reference> for Marked {
        fn linear(
            &self,
            inner: &Reference,
            x: &HostMatrix,
            weight: &<Reference as Backend>::Linear,
            epilogue: Epilogue<'_, HostMatrix>,
        ) -> Result<HostMatrix, BackendError> {
            inner.scale(&inner.linear(x, weight, epilogue)?, 0.0)
        }

        fn overrides(&self, _: &Reference, op: LayerOp) -> bool {
            self.0 == Some(op)
        }

        fn vision_layer(
            &self,
            inner: &Reference,
            _: &VisionLayer<HostMatrix, <Reference as Backend>::Linear>,
            x: &HostMatrix,
            _: usize,
        ) -> Result<HostMatrix, BackendError> {
            inner.scale(x, 7.0)
        }
    }

    /// A vision layer of ones run on `backend`.
    fn vision_layer<A: Alteration<Reference>>(alteration: A) -> Vec<f32> {
        let backend = Altered::new(Reference, alteration);
        let ones = |rows: usize, cols: usize| backend.upload(&vec![1.0; rows * cols], rows, cols).unwrap();
        let bytes = 1.0_f32.to_le_bytes().repeat(12);
        let linear = |rows: usize, cols: usize| {
            let view = TensorView::new(StorageType::F32, rows, cols, &bytes[..4 * rows * cols]).unwrap();
            let (name, path) = ("ones".to_owned(), "ones".to_owned());
            let source = LinearSource { name, path, weights: vec![view], biases: vec![] };
            backend.prepare_linear(&source, Precision::F32).unwrap()
        };
        let layer = VisionLayer {
            norm1: (ones(1, 2), ones(1, 2)),
            qkv: linear(6, 2),
            output: linear(2, 2),
            norm2: (ones(1, 2), ones(1, 2)),
            fc1: linear(3, 2),
            fc2: linear(2, 3),
            heads: graph::Heads { query: 1, kv: 1, dim: 2 },
            eps: 1e-6,
        };
        backend.download(&backend.vision_layer(&layer, &ones(1, 2), 1).unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_altered_is_forwarded() {
        let backend = Altered::new(Reference, ());
        assert_eq!(backend.capabilities(), Reference.capabilities());
        let x = backend.upload(&[1.0, 2.0], 1, 2).unwrap();
        assert_eq!(backend.download(&backend.scale(&x, 3.0).unwrap()).unwrap(), [3.0, 6.0]);
        assert!(!backend.overrides(LayerOp::VisionLayer));
    }

    #[test]
    fn a_layer_is_composed_of_altered_operations_unless_it_is_altered_itself() {
        assert!(vision_layer(())[0] > 1.0);
        assert_eq!(vision_layer(Marked(None)), [0.0, 0.0]);
        assert_eq!(vision_layer(Marked(Some(LayerOp::TextLayer))), [0.0, 0.0]);
        assert_eq!(vision_layer(Marked(Some(LayerOp::VisionLayer))), [7.0, 7.0]);
    }
}

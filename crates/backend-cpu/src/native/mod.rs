//! The native engine: packed weights, kernels for the instructions at hand, threads of its own.
//!
//! # Tour
//! - [`isa`] finds out what the processor has; [`kernels`] multiplies packed blocks with it; [`simd`] is everything that
//!   is not a matrix product, written once for all instruction sets.
//! - [`weights`] packs linear layers at load; [`rows`] packs activations, normalised and rounded on the way.
//! - [`product`] runs a linear layer with what follows it; [`attention`] is a streaming softmax between two products;
//!   [`layers`] puts them together without going through memory in between.
//! - [`pool`] has the threads, [`memory`] what they work in.
//!
//! A result never depends on the number of threads: which rows and columns a task computes is fixed by shapes and
//! instruction set, and no sum is shared between tasks.

mod affinity;
mod attention;
mod backend;
mod elementwise;
mod engine;
mod isa;
mod kernels;
mod layers;
mod mask;
mod memory;
mod plans;
mod pool;
mod product;
mod rows;
mod simd;
mod tensor;
mod weights;

#[cfg(test)]
mod tests;

pub use backend::{CpuBackend, Options, open};
pub use isa::Isa;
pub use mask::Mask;
pub use tensor::{Table, Tensor};
pub use weights::Weights;

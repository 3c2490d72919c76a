//! SmolVLA on the AMD Alveo U280: an int8 accelerator of this project's own design.
//!
//! The policy's operations become [descriptors](descriptor), and descriptors run on devices behind one trait
//! ([`device::FpgaDevice`]), which all give the same bytes:
//!
//! | `--backend` | device |
//! |---|---|
//! | `fpga`, `fpga:functional` | [`functional::Functional`]: an integer-exact model in software |
//! | `fpga:rtl` | `rtl::RtlDevice`: the design itself, simulated by Verilator; feature `rtl-sim` |
//! | `fpga:xrt` | `xrt::XrtDevice`: a card, or XRT's emulation of one; feature `xrt` |
//!
//! What is computed is written down once, in [`arith`].

mod allocator;
pub mod arith;
mod backend;
mod card;
pub mod cycles;
pub mod descriptor;
pub mod device;
pub mod functional;
#[cfg(test)]
mod guide;
pub mod latency;
mod lower;
mod memory;
mod open;
pub mod plain;
mod plans;
pub mod resources;
#[cfg(feature = "rtl-sim")]
pub mod rtl;
mod tensor;
mod validate;
mod weights;
#[cfg(feature = "xrt")]
pub mod xrt;

pub use self::backend::FpgaBackend;
pub use self::open::{Opened, XCLBIN_VARIABLE, open};
pub use self::tensor::{FpgaLinear, FpgaMask, FpgaTable, FpgaTensor};

/// The backend's name, as `--backend` takes it.
pub const NAME: &str = "fpga";

#[cfg(test)]
mod tests;

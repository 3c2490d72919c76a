//! Bindings of the PJRT C API, by hand: programs in StableHLO run on whatever a plugin, named at run time, drives.
//!
//! Tenstorrent's plugin drives a Blackhole card; XLA's runs the same program on the CPU, which is how the programs
//! are tested. A plugin is a dynamic library with one symbol, `GetPjrtApi`, and is loaded once and never unloaded.
//!
//! A [`Client`] is of a [`Mode`]: [`Numeric`] clients compute; a [`Mock`] client drives a device that is not there, to
//! compile for it. What a mock leaves in its buffers is no result, so only buffers of numeric clients can be read.
//!
//! The interface reports errors as values. A plugin in C++ that lets an exception out ends the process all the same, as
//! nothing in Rust can catch one; where Tenstorrent's is known to, that is checked before.
//!
//! ```no_run
//! use smolvla_backend_tt::pjrt::{Client, CompileOptions, ElementType, Numeric, Plugin};
//!
//! let program = "module { func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
//!     %sum = stablehlo.add %x, %x : tensor<2xf32>
//!     return %sum : tensor<2xf32>
//! } }";
//! let client = Client::<Numeric>::open(&Plugin::load("pjrt_plugin.so")?)?;
//! let executable = client.compile(program, &CompileOptions::default())?;
//! let x = client.upload(&[0; 8], ElementType::F32, &[2])?;
//! let outputs = executable.execute([(&x).into()])?;
//! assert_eq!(outputs[0].to_host()?, [0; 8]);
//! # Ok::<(), smolvla_backend_tt::pjrt::PjrtError>(())
//! ```

mod buffer;
pub mod child;
mod client;
mod device;
mod discovery;
mod error;
mod executable;
#[cfg(test)]
mod fake;
mod ffi;
mod options;
mod plugin;

pub use buffer::{Buffer, ElementType};
pub use client::{Client, Device, Mock, Mode, Numeric};
pub use device::{MockDevice, PjrtDevice, PluginDevice};
pub use discovery::{PLUGIN_VARIABLE, Wheels, plugin_of_environment};
pub use error::{ErrorCode, PjrtError};
pub use executable::{Argument, Executable};
pub use options::{BlockFloat, CompileOptions, MathFidelity, Optimization, OptionValue, TenstorrentOptions};
pub use plugin::Plugin;

/// Whether a variable makes Tenstorrent's device a mock.
pub(crate) fn mock_is_asked_for() -> bool {
    plugin::mock_variable().is_some()
}

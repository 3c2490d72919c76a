//! Compile options, serialised as the interface wants them: a `CompileOptionsProto`.
//!
//! Only the few fields that matter are written, by hand: field numbers are those of
//! `xla/pjrt/proto/compile_options.proto`, and a protocol buffer is numbers and lengths.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The value of a compile option.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptionValue {
    /// Text.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
}

impl From<&str> for OptionValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<bool> for OptionValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for OptionValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

/// How a program is compiled: for one device, with options that the plugin understands.
///
/// XLA's own plugins take the names of XLA flags and refuse others; for Tenstorrent's see [`TenstorrentOptions`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompileOptions {
    overrides: BTreeMap<String, OptionValue>,
}

impl CompileOptions {
    /// Sets one option.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<OptionValue>) -> Self {
        self.overrides.insert(name.into(), value.into());
        self
    }

    /// The message that the plugin reads, for the device of this identifier.
    pub(super) fn serialised(&self, device: i64) -> Vec<u8> {
        let mut computation = Message::default();
        computation.number(1, device);
        let mut assignment = Message::default();
        assignment.number(1, 1).number(2, 1).bytes(3, &computation.0);
        let mut build = Message::default();
        build.number(1, device).number(4, 1).number(5, 1).bytes(9, &assignment.0);
        let mut options = Message::default();
        options.bytes(3, &build.0);
        for (name, value) in &self.overrides {
            let mut field = Message::default();
            match value {
                OptionValue::Text(text) => field.bytes(1, text.as_bytes()),
                OptionValue::Bool(value) => field.number(2, i64::from(*value)),
                OptionValue::Int(value) => field.number(3, *value),
            };
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes()).bytes(2, &field.0);
            options.bytes(7, &entry.0);
        }
        options.0
    }
}

/// A protocol buffer that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number; negative ones take ten bytes, in two's complement.
    fn number(&mut self, field: u64, value: i64) -> &mut Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    /// Text, or a message in a message.
    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
}

/// In how many passes Tensix multiplies: each pass takes more of the mantissas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MathFidelity {
    /// One pass.
    LoFi,
    /// Two passes: the other operand's mantissa whole.
    HiFi2,
    /// Three passes.
    HiFi3,
    /// Four passes: both mantissas whole.
    HiFi4,
    /// Whatever each operation of ttnn takes by itself.
    OperationDefault,
}

impl MathFidelity {
    fn name(self) -> &'static str {
        match self {
            Self::LoFi => "lofi",
            Self::HiFi2 => "hifi2",
            Self::HiFi3 => "hifi3",
            Self::HiFi4 => "hifi4",
            Self::OperationDefault => "ttnn_default",
        }
    }
}

/// How much Tenstorrent's compiler plans. The plugin ends the process over a level that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimization {
    /// Every array in tiles in DRAM: compiles in milliseconds.
    None,
    /// Asks each kernel what it can do, which compiles it: seconds an operation where kernels are not cached.
    Basic,
    /// Also spreads arrays over the cores' own memory: minutes where kernels are not cached.
    Full,
}

/// The block float that weights of matrix products are converted to on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFloat {
    /// Eight bits a value and one exponent for sixteen of them.
    Bfp8,
    /// Four bits a value and one exponent for sixteen of them.
    Bfp4,
}

/// Options of Tenstorrent's plugin (tt-xla). What is `None` is left to the plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenstorrentOptions {
    /// How much the compiler plans.
    pub optimization: Option<Optimization>,
    /// Fidelity of matrix products; norms and softmax stay at [`MathFidelity::HiFi4`].
    pub math_fidelity: Option<MathFidelity>,
    /// Whether matrix products sum in 32 bits until they are packed. [`Optimization::None`] does unless told otherwise,
    /// the higher levels leave it to each operation.
    pub fp32_accumulation: Option<bool>,
    /// Weights of matrix products in block floats: of inputs that the program marks as parameters, with the attribute
    /// `ttcore.argument_type = #ttcore.argument_type<parameter>`.
    pub weights: Option<BlockFloat>,
    /// Record the program's commands on the device at its first run and replay them afterwards. Not on a mock: running
    /// such a program there ends the process.
    pub trace: Option<bool>,
    /// Compute what depends on parameters alone once, at the first run.
    pub const_eval: Option<bool>,
    /// A folder for the intermediate forms of the program, and a name for their files.
    pub export: Option<(PathBuf, String)>,
}

impl From<&TenstorrentOptions> for CompileOptions {
    fn from(options: &TenstorrentOptions) -> Self {
        let mut compile = Self::default();
        if let Some(optimization) = options.optimization {
            let level = match optimization {
                Optimization::None => 0,
                Optimization::Basic => 1,
                Optimization::Full => 2,
            };
            compile = compile.with("optimization_level", level);
        }
        if let Some(fidelity) = options.math_fidelity {
            compile = compile.with("math_fidelity", fidelity.name());
        }
        for (name, value) in [
            ("fp32_dest_acc_en", options.fp32_accumulation),
            ("enable_trace", options.trace),
            ("enable_const_eval", options.const_eval),
        ] {
            if let Some(value) = value {
                compile = compile.with(name, value);
            }
        }
        if let Some(weights) = options.weights {
            let name = match weights {
                BlockFloat::Bfp8 => "bfp_bf8",
                BlockFloat::Bfp4 => "bfp_bf4",
            };
            compile = compile.with("experimental_weight_dtype", name);
        }
        if let Some((folder, name)) = &options.export {
            compile = compile
                .with("export_path", folder.to_string_lossy().as_ref())
                .with("export_model_name", name.as_str());
        }
        compile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_is_one_replica_and_one_partition() {
        let bytes = CompileOptions::default().serialised(0);
        // Build options (3): ordinal 0, one replica, one partition, and an assignment (9) of computation 0 to device 0.
        let expected =
            [0x1a, 0x10, 0x08, 0, 0x20, 1, 0x28, 1, 0x4a, 0x08, 0x08, 1, 0x10, 1, 0x1a, 2, 0x08, 0];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn options_are_entries_of_a_map() {
        let base = CompileOptions::default().serialised(0).len();
        let options = CompileOptions::default().with("a", true).with("b", "cd").with("e", -1);
        let bytes = options.serialised(0);
        let mut expected = vec![0x3a, 7, 0x0a, 1, b'a', 0x12, 2, 0x10, 1];
        expected.extend([0x3a, 9, 0x0a, 1, b'b', 0x12, 4, 0x0a, 2, b'c', b'd']);
        expected.extend([0x3a, 16, 0x0a, 1, b'e', 0x12, 11, 0x18]);
        expected.extend([0xff; 9]);
        expected.push(1);
        assert_eq!(bytes[base..], expected);
    }

    #[test]
    fn long_options_have_long_lengths() {
        let text = "x".repeat(300);
        let bytes = CompileOptions::default().with("k", text.as_str()).serialised(300);
        assert!(bytes.windows(4).any(|window| window == [0x0a, 0xac, 0x02, b'x']));
        assert!(bytes.windows(3).any(|window| window == [0x08, 0xac, 0x02]));
    }

    #[test]
    fn options_of_tenstorrent_have_its_names() {
        let options = TenstorrentOptions {
            math_fidelity: Some(MathFidelity::HiFi2),
            fp32_accumulation: Some(true),
            weights: Some(BlockFloat::Bfp8),
            ..TenstorrentOptions::default()
        };
        let expected = CompileOptions::default()
            .with("math_fidelity", "hifi2")
            .with("fp32_dest_acc_en", true)
            .with("experimental_weight_dtype", "bfp_bf8");
        assert_eq!(CompileOptions::from(&options), expected);
        assert_eq!(CompileOptions::from(&TenstorrentOptions::default()), CompileOptions::default());
    }
}

//! The compute unit as XRT sees it: its name, its arguments and its registers.
//!
//! The RTL's AXI-Lite slave (`rtl/top/control.sv`) has these registers, and the `kernel.xml` that a card's xclbin is packaged
//! with must declare these arguments; [`super::Xclbin::emulation`] does for emulation.

/// The kernel's name.
pub const KERNEL: &str = "smolvla_cu";

/// The compute unit that is used: the first.
pub const UNIT: &str = "smolvla_cu_1";

/// Bytes of a unit's registers.
pub const REGISTERS_BYTES: u64 = 0x1000;

/// Control register of `ap_ctrl_hs`.
pub const CONTROL: u32 = 0x00;
/// Bit of [`CONTROL`]: start; stays set while the unit runs.
pub const AP_START: u32 = 1;
/// Bit of [`CONTROL`]: done; cleared by reading.
pub const AP_DONE: u32 = 1 << 1;
/// Bit of [`CONTROL`]: idle.
pub const AP_IDLE: u32 = 1 << 2;

/// Argument with the address of the first descriptor, 64 bits at [`DESCRIPTORS`].
///
/// It is declared as a scalar. XRT binds a pointer argument to one memory, and copies what lies in another; our
/// descriptors name addresses in every bank, and where each buffer lies is decided by us.
pub const DESCRIPTORS_ARGUMENT: i32 = 0;
/// Lower half of the address of the first descriptor; the upper half follows.
pub const DESCRIPTORS: u32 = 0x10;

/// Argument with the most descriptors to do, 32 bits at [`LIMIT`].
pub const LIMIT_ARGUMENT: i32 = 1;
/// The most descriptors to do, the end among them.
pub const LIMIT: u32 = 0x1c;

/// A pointer argument that is never set, and a register that the unit has not: the linker wants one for each AXI master,
/// to connect the master to memories.
pub const MEMORY: u32 = 0x24;

/// Cycles from start to end of the last run, lower half, read only; the upper half follows.
pub const CYCLES: u32 = 0x40;

/// How the last run ended, read only: bits 0 to 7 are zero, or say why; see [`failure`].
pub const ERROR: u32 = 0x4c;
/// Code in [`ERROR`] of what stands for a card: it refused, and says why on its standard error.
pub const REFUSED: u32 = 0xff;

/// What a value of [`ERROR`] says, if the run did not end well.
pub fn failure(error: u32) -> Option<String> {
    let operation = error >> 8 & 0xff;
    match error & 0xff {
        0 => None,
        1 => Some(format!("it does not know operation {operation}")),
        2 => Some(format!("the stream has no end within its length; the last operation is {operation}")),
        3 => Some(format!("its memory answered operation {operation} with an error")),
        REFUSED => Some("the process that stands for a card refused; its reason is above".to_owned()),
        code => Some(format!("unknown error {code} at operation {operation}")),
    }
}

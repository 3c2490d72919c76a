//! AMX: products of tiles of 16 rows by 64 bytes.
//!
//! By inline assembly, since Rust's intrinsics for it are unstable. A tile of the left operand is one step of 16 rows,
//! one of the right half a step of a panel: both are 1 KiB without gaps. Four tiles hold sums, so that a product need not
//! wait for the one before it.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use super::{Ahead, PANEL, PANEL_STEP_BYTES, STEP_BYTES};

/// Rows of a tile.
const TILE_ROWS: usize = 16;
/// Bytes of a tile.
const TILE_BYTES: usize = TILE_ROWS * STEP_BYTES;
/// Bytes of a row of the result.
const ROW_BYTES: usize = PANEL * 4;
/// How far ahead the right operand is fetched: far enough for the L3 cache's latency at the speed of the products, near
/// enough that the L1 cache keeps it.
const AHEAD_BYTES: usize = 4 * PANEL_STEP_BYTES;

/// Sums of 16 rows, as a product writes them.
#[repr(C, align(64))]
struct Sums<S>([S; TILE_ROWS * PANEL]);

/// One row of the result.
#[repr(C, align(64))]
struct Row([u8; ROW_BYTES]);

/// What the sums of floating point start from.
static ZEROS: Row = Row([0; ROW_BYTES]);

/// Whether the processor has AMX with bf16 and 8-bit products, and the operating system lets this process use it.
///
/// On Linux the first call asks for that, once for all threads of the process.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_amx() && linux_permits_amx())
}

/// Configures this thread's tiles: eight of 16 rows by 64 bytes.
///
/// Until [`leave`], each switch to another thread saves and restores their 8 KiB.
///
/// # Safety
/// [`available`] is true.
pub(crate) unsafe fn enter() {
    static CONFIGURATION: Configuration = Configuration::new();
    // SAFETY: the configuration is valid, and nothing else in the process uses tiles.
    unsafe {
        asm!(
            "ldtilecfg [{}]",
            in(reg) &raw const CONFIGURATION,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Gives this thread's tiles back.
///
/// # Safety
/// [`available`] is true.
pub(crate) unsafe fn leave() {
    // SAFETY: nothing else in the process uses tiles.
    unsafe {
        asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, nomem),
        );
    }
}

/// [`Kernels::bf16`](super::Kernels::bf16), for 16 or 32 rows.
///
/// Of 16 rows, even and odd steps are summed apart, of 32 they are not: the same row is rounded differently.
///
/// # Safety
/// As [`Product`](super::Product) says; the thread is between [`enter`] and [`leave`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn bf16(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut f32, _: Ahead) {
    let start = (&raw const ZEROS).cast();
    if rows == 2 * TILE_ROWS {
        // SAFETY: the caller's.
        unsafe { bf16_32(a, b, steps, start, c.cast()) }
        return;
    }
    debug_assert_eq!(rows, TILE_ROWS);
    let mut odd = Sums([0.0; TILE_ROWS * PANEL]);
    // SAFETY: the caller's; the asm block writes all 16 rows of both results.
    let sums = unsafe {
        bf16_16(a, b, steps, start, c.cast(), odd.0.as_mut_ptr().cast());
        &mut *c.cast::<Sums<f32>>()
    };
    for (sum, odd) in sums.0.iter_mut().zip(odd.0) {
        *sum += odd;
    }
}

/// [`Kernels::int8`](super::Kernels::int8), for 16 or 32 rows.
///
/// # Safety
/// As [`Product`](super::Product) says; the thread is between [`enter`] and [`leave`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn int8(a: *const u8, b: *const u8, rows: usize, steps: usize, c: *mut i32, _: Ahead) {
    // SAFETY: the trailer follows the panel.
    let trailer = unsafe { b.add(steps * PANEL_STEP_BYTES) };
    if rows == 2 * TILE_ROWS {
        // SAFETY: the caller's.
        unsafe { int8_32(a, b, steps, trailer, c.cast()) }
        return;
    }
    debug_assert_eq!(rows, TILE_ROWS);
    let mut odd = Sums([0; TILE_ROWS * PANEL]);
    // SAFETY: the caller's; the asm block writes all 16 rows of both results.
    let sums = unsafe {
        int8_16(a, b, steps, trailer, c.cast(), odd.0.as_mut_ptr().cast());
        &mut *c.cast::<Sums<i32>>()
    };
    for (sum, odd) in sums.0.iter_mut().zip(odd.0) {
        *sum = sum.wrapping_add(odd);
    }
}

/// The products of one kind of number, which `$dot` multiplies.
macro_rules! products {
    ($rows_32:ident, $rows_16:ident, $dot:literal) => {
        /// 32 rows: four tiles of sums, for which each loaded tile is used twice. They start from the row `start`,
        /// loaded with a stride of zero.
        ///
        /// # Safety
        /// As [`Product`](super::Product) says; `start` is readable for 128 bytes, and the thread has its tiles.
        unsafe fn $rows_32(a: *const u8, b: *const u8, steps: usize, start: *const u8, c: *mut u8) {
            // SAFETY: reads `steps` steps of `a` and `b`, and writes 32 rows of `c`; prefetches cannot fault.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{start} + {zero}]",
                    "tileloadd tmm1, [{start} + {zero} + 64]",
                    "tileloadd tmm2, [{start} + {zero}]",
                    "tileloadd tmm3, [{start} + {zero} + 64]",
                    "test {steps}, {steps}",
                    "jz 3f",
                    "2:",
                    "tileloadd tmm4, [{a} + {stride}]",
                    "tileloadd tmm6, [{b} + {stride}]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    // The right operand streams from the L2 or L3 cache. A tile load waits for its 16 lines, of which
                    // the processor's own prefetcher sees too few before the panel ends.
                    ".irp line, 0, 1, 2, 3, 4, 5, 6, 7",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "tileloadd tmm7, [{b} + {stride} + {tile}]",
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    ".irp line, 8, 9, 10, 11, 12, 13, 14, 15",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "tileloadd tmm5, [{a} + {stride} + {tile}]",
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    ".irp line, 16, 17, 18, 19, 20, 21, 22, 23",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    concat!($dot, " tmm3, tmm5, tmm7"),
                    ".irp line, 24, 25, 26, 27, 28, 29, 30, 31",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "add {a}, 2 * {tile}",
                    "add {b}, 2 * {tile}",
                    "dec {steps}",
                    "jnz 2b",
                    "3:",
                    "tilestored [{c} + {row}], tmm0",
                    "tilestored [{c} + {row} + 64], tmm1",
                    "tilestored [{c} + {row} + 16 * {row_bytes}], tmm2",
                    "tilestored [{c} + {row} + 16 * {row_bytes} + 64], tmm3",
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    steps = inout(reg) steps => _,
                    start = in(reg) start,
                    c = in(reg) c,
                    zero = in(reg) 0_usize,
                    stride = in(reg) STEP_BYTES,
                    row = in(reg) ROW_BYTES,
                    row_bytes = const ROW_BYTES,
                    tile = const TILE_BYTES,
                    ahead = const AHEAD_BYTES,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        /// 16 rows: the sums of even steps go to `c`, starting from the row `start`, those of odd steps to `odd`.
        ///
        /// # Safety
        /// As [`Product`](super::Product) says; `odd` is as `c`, `start` is readable for 128 bytes, and the thread has
        /// its tiles.
        unsafe fn $rows_16(
            a: *const u8,
            b: *const u8,
            steps: usize,
            start: *const u8,
            c: *mut u8,
            odd: *mut u8,
        ) {
            // SAFETY: reads `steps` steps of `a` and `b`, and writes 16 rows of `c` and `odd`; prefetches cannot fault.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{start} + {zero}]",
                    "tileloadd tmm1, [{start} + {zero} + 64]",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "sub {steps}, 2",
                    "jb 3f",
                    "2:",
                    "tileloadd tmm4, [{a} + {stride}]",
                    "tileloadd tmm6, [{b} + {stride}]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    // As for 32 rows.
                    ".irp line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "tileloadd tmm7, [{b} + {stride} + {tile}]",
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    ".irp line, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "tileloadd tmm5, [{a} + {stride} + {tile}]",
                    "tileloadd tmm6, [{b} + {stride} + 2 * {tile}]",
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    ".irp line, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "tileloadd tmm7, [{b} + {stride} + 3 * {tile}]",
                    concat!($dot, " tmm3, tmm5, tmm7"),
                    ".irp line, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63",
                    "prefetcht0 [{b} + 64 * \\line + {ahead}]",
                    ".endr",
                    "add {a}, 2 * {tile}",
                    "add {b}, 4 * {tile}",
                    "sub {steps}, 2",
                    "jae 2b",
                    "3:",
                    // -1 is left of an odd number of steps, -2 of an even one.
                    "test {steps}, 1",
                    "jz 4f",
                    "tileloadd tmm4, [{a} + {stride}]",
                    "tileloadd tmm6, [{b} + {stride}]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b} + {stride} + {tile}]",
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    "4:",
                    "tilestored [{c} + {row}], tmm0",
                    "tilestored [{c} + {row} + 64], tmm1",
                    "tilestored [{odd} + {row}], tmm2",
                    "tilestored [{odd} + {row} + 64], tmm3",
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    steps = inout(reg) steps => _,
                    start = in(reg) start,
                    c = in(reg) c,
                    odd = in(reg) odd,
                    zero = in(reg) 0_usize,
                    stride = in(reg) STEP_BYTES,
                    row = in(reg) ROW_BYTES,
                    tile = const TILE_BYTES,
                    ahead = const AHEAD_BYTES,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

products!(bf16_32, bf16_16, "tdpbf16ps");
products!(int8_32, int8_16, "tdpbusd");

/// What `ldtilecfg` reads: the palette, bytes of a row of each tile (16 bits each, from byte 16 on), rows of each tile
/// (8 bits each, from byte 48 on).
#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Configuration {
    const fn new() -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = STEP_BYTES as u8;
            bytes[48 + tile] = TILE_ROWS as u8;
            tile += 1;
        }
        Self(bytes)
    }
}

/// CPUID and XCR0: tiles, their products of bf16 and 8-bit integers, and that the operating system saves tiles.
fn processor_has_amx() -> bool {
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATES: u32 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & BF16_TILE_INT8 != BF16_TILE_INT8 {
        return false;
    }
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let states: u32;
    // SAFETY: OSXSAVE says that `xgetbv` exists.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") states, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    states & TILE_STATES == TILE_STATES
}

/// Asks Linux for the tile state, which a process may use only after that. Another system is not asked.
#[cfg(target_os = "linux")]
fn linux_permits_amx() -> bool {
    const SYS_ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let status: isize;
    // SAFETY: the system call touches no memory of the process; it clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") SYS_ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status == 0
}

/// Nobody has tried these kernels on other systems.
#[cfg(not(target_os = "linux"))]
fn linux_permits_amx() -> bool {
    false
}

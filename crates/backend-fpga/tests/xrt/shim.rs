//! A fault of Debian's XRT 202210.2.13.466 that makes software emulation crash, mended in this process's memory.
//!
//! The emulation library grows its message buffer with `realloc`, and goes on with the old pointer. In the compiled
//! function the branch after a successful `realloc` skips the store that follows `malloc`; one byte makes it go there.
//! Only the known bytes are touched.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libloading::Library;

/// `CpuemShim::alloc_void(size_t)`.
const SYMBOL: &str = "_ZN12xclcpuemhal29CpuemShim10alloc_voidEm";

/// The function as Debian 12 has it on x86-64.
const FUNCTION: [u8; 95] = [
    0x55, 0x48, 0x89, 0xf5, 0x53, 0x48, 0x89, 0xfb, 0x48, 0x83, 0xec, 0x08, 0x48, 0x8b, 0x87, 0x78, 0x06,
    0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x10, 0x48, 0x39, 0xf0, 0x72, 0x23, 0x48, 0x83, 0xc4, 0x08, 0x5b,
    0x5d, 0xc3, 0x0f, 0x1f, 0x40, 0x00, 0x48, 0x89, 0xf7, 0xe8, 0x10, 0xe3, 0xfd, 0xff, 0x48, 0x89, 0x83,
    0x70, 0x06, 0x00, 0x00, 0x48, 0x89, 0xe8, 0xeb, 0xe1, 0x0f, 0x1f, 0x40, 0x00, 0x48, 0x8b, 0xbf, 0x70,
    0x06, 0x00, 0x00, 0xe8, 0x14, 0xe6, 0xfd, 0xff, 0x48, 0x85, 0xc0, 0x75, 0xe6, 0x48, 0x8b, 0xbb, 0x70,
    0x06, 0x00, 0x00, 0xe8, 0xc3, 0xe1, 0xfd, 0xff, 0xeb, 0xd8,
];

/// Where the branch after `realloc` has its distance, and what the distance should be.
const BRANCH: (usize, u8) = (0x50, 0xdf);

/// Loads XRT from this root and mends it; stays loaded.
pub(super) fn mend(root: &Path) -> Result<(), String> {
    let path = root.join("lib/libxrt_swemu.so.2");
    // SAFETY: XRT's initialisers want variables that the parent has set.
    let library = unsafe { Library::new(&path) }.map_err(|error| error.to_string())?;
    // SAFETY: it is a function; it is not called, only its address is taken.
    let symbol = unsafe { library.get::<unsafe extern "C" fn()>(SYMBOL) };
    let symbol = symbol.map_err(|_| format!("{} has no function {SYMBOL}", path.display()))?;
    let address = *symbol as usize as u64;
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem");
    let memory = memory.map_err(|error| format!("/proc/self/mem: {error}"))?;
    let mut found = [0; FUNCTION.len()];
    memory.read_exact_at(&mut found, address).map_err(|error| format!("/proc/self/mem: {error}"))?;
    if found != FUNCTION {
        return Err(format!("{} is not Debian's 202210.2.13.466, whose fault is known", path.display()));
    }
    let (at, distance) = BRANCH;
    memory
        .write_all_at(&[distance], address + at as u64)
        .map_err(|error| format!("/proc/self/mem: {error}"))?;
    std::mem::forget(library);
    Ok(())
}

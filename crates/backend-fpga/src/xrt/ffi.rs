//! The part of XRT's native C interface that is used, loaded at run time, and owners of its handles.
//!
//! Written from the headers `xrt_device.h`, `xrt_bo.h` and `xrt_kernel.h` of XRT 2022.1; later 2.x libraries keep these
//! functions. They catch their C++ exceptions and return a null handle or a status, and print the reason to standard
//! error. Loading the library does not: [`super::environment`] checks beforehand what would throw there.
//!
//! The library is never unloaded: it leaves threads, signal handlers and exit handlers behind. A device outlives
//! what was made on it, because each owner here holds the one that it came from.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libloading::Library;

use super::kernel;

type Raw = *mut c_void;
type Handle = NonNull<c_void>;

/// Direction of a copy between a buffer's two halves, in the host and on the card.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    ToDevice = 0,
    FromDevice = 1,
}

/// `enum ert_cmd_state` of a run that ended well.
const COMPLETED: c_int = 4;
/// States of a run that did not end: new, queued, running, submitted, timeout.
const UNFINISHED: [c_int; 5] = [1, 2, 3, 7, 8];

/// The part of the time that has passed for which a pause is, and what a pause is at least and at most.
const PATIENCE: u32 = 64;
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// How a run ended.
pub(super) enum Outcome {
    Completed,
    Unfinished,
    /// The state that XRT names.
    Failed(c_int),
}

/// XRT's functions.
struct Api {
    device_open: unsafe extern "C" fn(c_uint) -> Raw,
    device_close: unsafe extern "C" fn(Raw) -> c_int,
    device_load_xclbin_file: unsafe extern "C" fn(Raw, *const c_char) -> c_int,
    device_get_xclbin_uuid: unsafe extern "C" fn(Raw, *mut u8) -> c_int,
    kernel_open_exclusive: unsafe extern "C" fn(Raw, *const u8, *const c_char) -> Raw,
    kernel_close: unsafe extern "C" fn(Raw) -> c_int,
    kernel_read_register: unsafe extern "C" fn(Raw, u32, *mut u32) -> c_int,
    bo_alloc: unsafe extern "C" fn(Raw, usize, u64, u32) -> Raw,
    bo_free: unsafe extern "C" fn(Raw) -> c_int,
    bo_address: unsafe extern "C" fn(Raw) -> u64,
    bo_write: unsafe extern "C" fn(Raw, *const c_void, usize, usize) -> c_int,
    bo_read: unsafe extern "C" fn(Raw, *mut c_void, usize, usize) -> c_int,
    bo_sync: unsafe extern "C" fn(Raw, c_int, usize, usize) -> c_int,
    run_open: unsafe extern "C" fn(Raw) -> Raw,
    run_close: unsafe extern "C" fn(Raw) -> c_int,
    run_set_arg: unsafe extern "C" fn(Raw, c_int, ...) -> c_int,
    run_start: unsafe extern "C" fn(Raw) -> c_int,
    run_state: unsafe extern "C" fn(Raw) -> c_int,
    /// Keeps the functions where they are; never dropped.
    _library: ManuallyDrop<Library>,
}

impl Api {
    fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: XRT's initialisers throw only where the environment that was checked before is not as it should be.
        let library = ManuallyDrop::new(unsafe { Library::new(path) }.map_err(|error| error.to_string())?);
        // SAFETY: each field's type is the named function's in XRT's headers, and the library is never unloaded.
        unsafe {
            Ok(Self {
                device_open: symbol(&library, "xrtDeviceOpen")?,
                device_close: symbol(&library, "xrtDeviceClose")?,
                device_load_xclbin_file: symbol(&library, "xrtDeviceLoadXclbinFile")?,
                device_get_xclbin_uuid: symbol(&library, "xrtDeviceGetXclbinUUID")?,
                kernel_open_exclusive: symbol(&library, "xrtPLKernelOpenExclusive")?,
                kernel_close: symbol(&library, "xrtKernelClose")?,
                kernel_read_register: symbol(&library, "xrtKernelReadRegister")?,
                bo_alloc: symbol(&library, "xrtBOAlloc")?,
                bo_free: symbol(&library, "xrtBOFree")?,
                bo_address: symbol(&library, "xrtBOAddress")?,
                bo_write: symbol(&library, "xrtBOWrite")?,
                bo_read: symbol(&library, "xrtBORead")?,
                bo_sync: symbol(&library, "xrtBOSync")?,
                run_open: symbol(&library, "xrtRunOpen")?,
                run_close: symbol(&library, "xrtRunClose")?,
                run_set_arg: symbol(&library, "xrtRunSetArg")?,
                run_start: symbol(&library, "xrtRunStart")?,
                run_state: symbol(&library, "xrtRunState")?,
                _library: library,
            })
        }
    }
}

/// # Safety
/// `T` is the type of the function of this name, and the library stays loaded while it is used.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: as the caller promises.
    let found = unsafe { library.get::<T>(name) };
    found.map(|symbol| *symbol).map_err(|_| format!("the library has no function `{name}`"))
}

/// The reason that XRT leaves in `errno` besides what it prints.
fn reason() -> String {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        None | Some(0) => "XRT gives its reason above, on standard error".to_owned(),
        Some(_) => format!("{error}; XRT may say more above, on standard error"),
    }
}

fn check(status: c_int) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(reason()) }
}

fn handle(raw: Raw) -> Result<Handle, String> {
    Handle::new(raw).ok_or_else(reason)
}

fn c_string(text: &[u8]) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a name has a zero byte".to_owned())
}

/// An opened device.
pub(super) struct Card {
    api: Api,
    handle: Handle,
}

// SAFETY: XRT's native interface may be called from any thread; it looks handles up under locks of its own.
unsafe impl Send for Card {}
// SAFETY: as above; what XRT leaves to callers (one writer of a buffer at a time) `XrtDevice` orders with a mutex.
unsafe impl Sync for Card {}

impl Card {
    /// Loads XRT and opens its `index`th device.
    pub(super) fn open(library: &Path, index: u32) -> Result<Arc<Self>, OpenError> {
        let api = Api::load(library).map_err(OpenError::Library)?;
        // SAFETY: the function takes any index.
        let handle = handle(unsafe { (api.device_open)(index) }).map_err(OpenError::Device)?;
        Ok(Arc::new(Self { api, handle }))
    }

    /// Loads an xclbin; gives the UUID that names it.
    pub(super) fn load(&self, xclbin: &Path) -> Result<[u8; 16], String> {
        let path = c_string(xclbin.as_os_str().as_encoded_bytes())?;
        // SAFETY: the handle is open, the path a C string.
        check(unsafe { (self.api.device_load_xclbin_file)(self.handle.as_ptr(), path.as_ptr()) })?;
        let mut uuid = [0; 16];
        // SAFETY: the handle is open, and `xuid_t` is 16 bytes.
        check(unsafe { (self.api.device_get_xclbin_uuid)(self.handle.as_ptr(), uuid.as_mut_ptr()) })?;
        Ok(uuid)
    }

    /// Opens a compute unit, for this process alone: only then may its registers be read.
    pub(super) fn kernel(self: &Arc<Self>, uuid: &[u8; 16], name: &str) -> Result<Kernel, String> {
        let name = c_string(name.as_bytes())?;
        // SAFETY: the handle is open, `xuid_t` is 16 bytes, the name a C string.
        let raw =
            unsafe { (self.api.kernel_open_exclusive)(self.handle.as_ptr(), uuid.as_ptr(), name.as_ptr()) };
        Ok(Kernel { handle: handle(raw)?, card: Arc::clone(self) })
    }

    /// Allocates a buffer in one of the xclbin's memories.
    pub(super) fn buffer(self: &Arc<Self>, bytes: usize, memory: u32) -> Result<Buffer, String> {
        // SAFETY: the handle is open; no flag means a buffer with a half in the host and one on the card.
        let raw = unsafe { (self.api.bo_alloc)(self.handle.as_ptr(), bytes, 0, memory) };
        Ok(Buffer { handle: handle(raw)?, bytes, card: Arc::clone(self) })
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and all that was made on it is gone, since it held this.
        unsafe { (self.api.device_close)(self.handle.as_ptr()) };
    }
}

/// Why no device was opened.
pub(super) enum OpenError {
    /// The library could not be loaded.
    Library(String),
    /// It has no such device.
    Device(String),
}

/// A buffer with a half in the host and a half on the card.
pub(super) struct Buffer {
    handle: Handle,
    bytes: usize,
    card: Arc<Card>,
}

// SAFETY: as for `Card`.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Where it is on the card.
    pub(super) fn address(&self) -> u64 {
        // SAFETY: the handle is open.
        unsafe { (self.card.api.bo_address)(self.handle.as_ptr()) }
    }

    /// Copies to the card.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), String> {
        self.contains(offset, bytes.len())?;
        // SAFETY: the handle is open, the source readable for this length, the target inside the buffer.
        check(unsafe {
            (self.card.api.bo_write)(self.handle.as_ptr(), bytes.as_ptr().cast(), bytes.len(), offset)
        })?;
        self.sync(Direction::ToDevice, offset, bytes.len())
    }

    /// Copies from the card.
    pub(super) fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<(), String> {
        self.contains(offset, bytes.len())?;
        self.sync(Direction::FromDevice, offset, bytes.len())?;
        // SAFETY: the handle is open, the target writable for this length, the source inside the buffer.
        check(unsafe {
            (self.card.api.bo_read)(self.handle.as_ptr(), bytes.as_mut_ptr().cast(), bytes.len(), offset)
        })
    }

    fn sync(&self, direction: Direction, offset: usize, len: usize) -> Result<(), String> {
        // SAFETY: the handle is open, the range inside the buffer.
        check(unsafe { (self.card.api.bo_sync)(self.handle.as_ptr(), direction as c_int, len, offset) })
    }

    fn contains(&self, offset: usize, len: usize) -> Result<(), String> {
        match offset.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(format!("{len} bytes at {offset} are outside a buffer of {} bytes", self.bytes)),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and this is its only owner.
        unsafe { (self.card.api.bo_free)(self.handle.as_ptr()) };
    }
}

/// An opened compute unit.
pub(super) struct Kernel {
    handle: Handle,
    card: Arc<Card>,
}

// SAFETY: as for `Card`.
unsafe impl Send for Kernel {}

impl Kernel {
    /// A run over `descriptors` at `address`, not started.
    pub(super) fn run(&self, address: u64, descriptors: u32) -> Result<Run, String> {
        // SAFETY: the handle is open.
        let raw = unsafe { (self.card.api.run_open)(self.handle.as_ptr()) };
        let run = Run { handle: handle(raw)?, card: Arc::clone(&self.card) };
        let set_arg = self.card.api.run_set_arg;
        // SAFETY: the handle is open, and XRT takes a scalar of 8 bytes as a `uint64_t` from the variable arguments.
        check(unsafe { set_arg(run.handle.as_ptr(), kernel::DESCRIPTORS_ARGUMENT, address) })?;
        // SAFETY: the handle is open, and XRT takes a `uint` as an `unsigned int`.
        check(unsafe { set_arg(run.handle.as_ptr(), kernel::LIMIT_ARGUMENT, descriptors) })?;
        Ok(run)
    }

    /// A register of the compute unit.
    pub(super) fn register(&self, offset: u32) -> Result<u32, String> {
        let mut value = 0;
        // SAFETY: the handle is open, the target a 32-bit word.
        check(unsafe { (self.card.api.kernel_read_register)(self.handle.as_ptr(), offset, &raw mut value) })?;
        Ok(value)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and this is its only owner.
        unsafe { (self.card.api.kernel_close)(self.handle.as_ptr()) };
    }
}

/// A run of a compute unit.
pub(super) struct Run {
    handle: Handle,
    card: Arc<Card>,
}

impl Run {
    /// Starts it.
    pub(super) fn start(&self) -> Result<(), String> {
        // SAFETY: the handle is open.
        check(unsafe { (self.card.api.run_start)(self.handle.as_ptr()) })
    }

    /// Waits for its end, at most so long.
    ///
    /// `xrtRunWaitFor` takes a time limit and may exceed it, and in software emulation does: it waits for the run's end, however
    /// long that takes. So the state is asked, after pauses that grow with the time that has passed.
    pub(super) fn wait(&self, timeout: Duration) -> Outcome {
        let start = Instant::now();
        loop {
            // SAFETY: the handle is open.
            match unsafe { (self.card.api.run_state)(self.handle.as_ptr()) } {
                COMPLETED => return Outcome::Completed,
                state if !UNFINISHED.contains(&state) => return Outcome::Failed(state),
                _ => {}
            }
            let elapsed = start.elapsed();
            if elapsed >= timeout {
                return Outcome::Unfinished;
            }
            std::thread::sleep((elapsed / PATIENCE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and this is its only owner.
        unsafe { (self.card.api.run_close)(self.handle.as_ptr()) };
    }
}

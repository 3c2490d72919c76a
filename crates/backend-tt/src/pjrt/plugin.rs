//! Loading a plugin, and calling its functions.

use std::ffi::c_char;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::PjrtError;
use super::ffi;

/// The variables that make Tenstorrent's runtime drive no device: one names a described cluster, the other a saved
/// system to compile for. Either way nothing computes.
const MOCK_VARIABLES: [&str; 2] = ["TT_METAL_MOCK_CLUSTER_DESC_PATH", "TT_COMPILE_ONLY_SYSTEM_DESC"];

/// A symbol that Tenstorrent's plugin exports beside the one of the interface.
const TENSTORRENT_SYMBOL: &[u8] = b"tt_pjrt_shutdown\0";

/// Plugins by the library's real path. A plugin may be initialised once, and some take seconds to load.
static LOADED: Mutex<Vec<Plugin>> = Mutex::new(Vec::new());

/// A loaded plugin. Clones are the same plugin.
#[derive(Clone, Debug)]
pub struct Plugin(pub(super) Arc<Inner>);

/// What a plugin is known by once it is loaded.
pub(super) struct Inner {
    path: PathBuf,
    pub(super) api: ffi::Api,
    is_tenstorrent: bool,
    mock_variable: Option<&'static str>,
    /// Held during every call but waiting: see [`super::client::Handle`].
    calls: Mutex<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("path", &self.path)
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// The variable that makes Tenstorrent's device a mock, where one is set now.
pub(super) fn mock_variable() -> Option<&'static str> {
    MOCK_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

impl Plugin {
    /// Loads and initialises a plugin; where that is done already, returns it.
    ///
    /// The library is trusted as this program's own code is: its initialisers run. Tenstorrent's unpacks some 400 MB
    /// under `TMPDIR` and reads its own variables (`TT_METAL_…`, `TTXLA_…`): set them before.
    ///
    /// # Errors
    /// [`PjrtError::CannotLoad`], [`PjrtError::NotAPlugin`], [`PjrtError::Version`], [`PjrtError::MissingFunction`], or
    /// the plugin's own [`PjrtError::Call`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PjrtError> {
        let given = path.as_ref();
        // A bare name is the loader's to find, so it need not be a path.
        let path = given.canonicalize().unwrap_or_else(|_| given.to_owned());
        // Held while the plugin loads: two threads must not initialise one plugin. The list is whole even where a
        // thread died while it held the lock.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.iter().find(|plugin| plugin.0.path == path) {
            return Ok(plugin.clone());
        }
        let (table, is_tenstorrent) = open(&path)?;
        // SAFETY: `GetPjrtApi` returned the table, which is a plugin's for the life of the process.
        let plugin = unsafe { Self::from_table(table, path, is_tenstorrent)? };
        loaded.push(plugin.clone());
        Ok(plugin)
    }

    /// Takes a plugin's table, checks it and initialises the plugin.
    ///
    /// # Safety
    /// `table` is null, or a table as the interface has it: as long as it says, its functions doing what they are named
    /// for, for the life of the process.
    pub(super) unsafe fn from_table(
        table: *const ffi::Api,
        path: PathBuf,
        is_tenstorrent: bool,
    ) -> Result<Self, PjrtError> {
        if table.is_null() {
            return Err(PjrtError::NoResult { call: "GetPjrtApi" });
        }
        // SAFETY: the caller vouches for the table; its first field is its size.
        if unsafe { (*table).struct_size } < ffi::Api::HEADER {
            return Err(PjrtError::MissingFunction { path, call: "PJRT_Error_Destroy" });
        }
        // SAFETY: the caller vouches for the table, and it is long enough to have a version.
        let found = unsafe { ((*table).version.major, (*table).version.minor) };
        if found.0 != ffi::MAJOR || found.1 < ffi::LOWEST_MINOR {
            let needed = format!("{}.{} or a later {}.x", ffi::MAJOR, ffi::LOWEST_MINOR, ffi::MAJOR);
            return Err(PjrtError::Version { path, found, needed });
        }
        // SAFETY: as above; the major version is the one of these layouts.
        let api = unsafe { ffi::Api::copied_from(table) };
        let mock_variable = mock_variable();
        let inner = Inner { path, api, is_tenstorrent, mock_variable, calls: Mutex::new(()) };
        inner.check()?;
        let mut arguments = ffi::PluginInitialize::new();
        // SAFETY: the struct has no pointers.
        unsafe { inner.call("PJRT_Plugin_Initialize", inner.api.plugin_initialize, &mut arguments)? };
        Ok(Self(Arc::new(inner)))
    }

    /// The library.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The major and minor version of the interface that the plugin speaks.
    pub fn version(&self) -> (i32, i32) {
        self.0.version()
    }

    /// Whether this is Tenstorrent's plugin, by what it exports.
    pub fn is_tenstorrent(&self) -> bool {
        self.0.is_tenstorrent
    }

    /// The variable that kept Tenstorrent's runtime from driving a device when the plugin was loaded, if one did.
    pub fn mock_variable(&self) -> Option<&'static str> {
        self.0.mock_variable
    }
}

/// The table of the library at `path`, which stays loaded, and whether it is Tenstorrent's.
fn open(path: &Path) -> Result<(*const ffi::Api, bool), PjrtError> {
    if let Some(reason) = unfit(path) {
        return Err(PjrtError::CannotLoad { path: path.to_owned(), reason });
    }
    let cannot_load = |error: libloading::Error| {
        // The loader's own words are in the source.
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        PjrtError::CannotLoad { path: path.to_owned(), reason }
    };
    // All symbols now, so that a missing one is an error here and not the end of the process at its first use.
    #[cfg(unix)]
    // SAFETY: the library's initialisers run; whoever names a plugin trusts it, as documented.
    let library = unsafe {
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)
    };
    #[cfg(not(unix))]
    // SAFETY: as above.
    let library = unsafe { libloading::Library::new(path) };
    let library = library.map_err(cannot_load)?;
    let table = {
        // SAFETY: a symbol of this name has this type in every plugin; that is what the name means.
        let function = unsafe { library.get::<ffi::GetPjrtApi>(b"GetPjrtApi\0") }
            .map_err(|_| PjrtError::NotAPlugin { path: path.to_owned() })?;
        // SAFETY: the function takes nothing and may be called at any time.
        unsafe { function() }
    };
    // Never unloaded: a plugin has threads of its own and destructors that run when threads and the process end, and
    // their code would be gone.
    // SAFETY: the symbol is only looked for, and neither read nor called.
    let is_tenstorrent = unsafe { library.get::<*const ()>(TENSTORRENT_SYMBOL) }.is_ok();
    std::mem::forget(library);
    Ok((table, is_tenstorrent))
}

/// Why the loader must not see the file at all: it maps what an ELF header promises, and a file that was cut off would
/// end the process where it is first read.
fn unfit(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let found = file.metadata().ok()?;
    if found.is_dir() {
        return Some("it is a folder".to_owned());
    }
    let mut header = [0; 64];
    // What is shorter is no ELF file, and the loader says so.
    file.read_exact(&mut header).ok()?;
    // 64 bits, little-endian; the loader refuses any other.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let number = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut start = [0; 8];
    start.copy_from_slice(&header[0x28..0x30]);
    // The table of sections is the last thing that linkers write.
    let end = u64::from_le_bytes(start).saturating_add(number(0x3a) * number(0x3c));
    (end > found.len()).then(|| format!("it is cut off: {} of at least {end} bytes", found.len()))
}

impl Inner {
    pub(super) fn version(&self) -> (i32, i32) {
        (self.api.version.major, self.api.version.minor)
    }

    /// Whether every function that is called without asking is there.
    fn check(&self) -> Result<(), PjrtError> {
        let api = &self.api;
        let there = [
            ("PJRT_Error_Destroy", api.error_destroy.is_some()),
            ("PJRT_Error_Message", api.error_message.is_some()),
            ("PJRT_Error_GetCode", api.error_get_code.is_some()),
            ("PJRT_Plugin_Initialize", api.plugin_initialize.is_some()),
            ("PJRT_Event_Destroy", api.event_destroy.is_some()),
            ("PJRT_Event_Await", api.event_await.is_some()),
            ("PJRT_Client_Create", api.client_create.is_some()),
            ("PJRT_Client_Destroy", api.client_destroy.is_some()),
            ("PJRT_Client_PlatformName", api.client_platform_name.is_some()),
            ("PJRT_Client_AddressableDevices", api.client_addressable_devices.is_some()),
            ("PJRT_Client_Compile", api.client_compile.is_some()),
            ("PJRT_Client_BufferFromHostBuffer", api.buffer_from_host_buffer.is_some()),
            ("PJRT_DeviceDescription_Id", api.description_id.is_some()),
            ("PJRT_Device_GetDescription", api.device_get_description.is_some()),
            ("PJRT_Executable_Destroy", api.executable_destroy.is_some()),
            ("PJRT_Executable_NumOutputs", api.executable_num_outputs.is_some()),
            ("PJRT_LoadedExecutable_Destroy", api.loaded_executable_destroy.is_some()),
            ("PJRT_LoadedExecutable_GetExecutable", api.loaded_executable_get_executable.is_some()),
            ("PJRT_LoadedExecutable_Execute", api.loaded_executable_execute.is_some()),
            ("PJRT_Buffer_Destroy", api.buffer_destroy.is_some()),
            ("PJRT_Buffer_ElementType", api.buffer_element_type.is_some()),
            ("PJRT_Buffer_Dimensions", api.buffer_dimensions.is_some()),
            ("PJRT_Buffer_ToHostBuffer", api.buffer_to_host_buffer.is_some()),
        ];
        match there.into_iter().find(|(_, is_there)| !is_there) {
            Some((call, _)) => Err(PjrtError::MissingFunction { path: self.path.clone(), call }),
            None => Ok(()),
        }
    }

    /// Calls a function of the table, alone; its error, if any, is read and freed.
    ///
    /// # Safety
    /// `arguments` is what the function takes, with pointers that are valid as the interface asks.
    pub(super) unsafe fn call<A>(
        &self,
        call: &'static str,
        function: ffi::Function<A>,
        arguments: &mut A,
    ) -> Result<(), PjrtError> {
        // The lock guards no data, so one that a thread died with is as good.
        let _alone = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller vouches for the arguments.
        unsafe { self.call_unlocked(call, function, arguments) }
    }

    /// As [`Self::call`], while other threads call too.
    ///
    /// # Safety
    /// As [`Self::call`], and the function may be called while others run.
    unsafe fn call_unlocked<A>(
        &self,
        call: &'static str,
        function: ffi::Function<A>,
        arguments: &mut A,
    ) -> Result<(), PjrtError> {
        let function =
            function.ok_or_else(|| PjrtError::MissingFunction { path: self.path.clone(), call })?;
        let thrown = Thrown { call };
        // SAFETY: the caller vouches for the arguments.
        let error = unsafe { function(arguments) };
        std::mem::forget(thrown);
        if error.is_null() { Ok(()) } else { Err(self.take_error(call, error)) }
    }

    /// Waits for an event and frees it. A null event is of something that is done.
    ///
    /// # Safety
    /// `event` is null or an event of this plugin that nobody else frees.
    pub(super) unsafe fn finish(&self, event: *mut ffi::Event) -> Result<(), PjrtError> {
        if event.is_null() {
            return Ok(());
        }
        let mut wait = ffi::EventAwait::new();
        wait.event = event;
        // SAFETY: the caller vouches for the event; events are made to be waited for while other threads work.
        let outcome = unsafe { self.call_unlocked("PJRT_Event_Await", self.api.event_await, &mut wait) };
        let mut destroy = ffi::EventDestroy::new();
        destroy.event = event;
        // SAFETY: as above; it is not used afterwards.
        unsafe { self.call("PJRT_Event_Destroy", self.api.event_destroy, &mut destroy)? };
        outcome
    }

    /// The plugin's error as a value; the plugin's is freed.
    fn take_error(&self, call: &'static str, error: *mut ffi::Error) -> PjrtError {
        let mut message = String::new();
        if let Some(function) = self.api.error_message {
            let mut arguments = ffi::ErrorMessage::new();
            arguments.error = error;
            // SAFETY: the error is the plugin's and not yet freed.
            unsafe { function(&raw mut arguments) };
            // SAFETY: the text belongs to the error.
            message = unsafe { text(arguments.message, arguments.message_size) };
        }
        let mut code = 0;
        if let Some(function) = self.api.error_get_code {
            let mut arguments = ffi::ErrorGetCode::new();
            arguments.error = error;
            // SAFETY: the error is the plugin's and not yet freed.
            let second = unsafe { function(&raw mut arguments) };
            code = arguments.code;
            self.free_error(second);
        }
        self.free_error(error);
        PjrtError::Call { call, code: code.into(), message }
    }

    fn free_error(&self, error: *mut ffi::Error) {
        if let (Some(destroy), false) = (self.api.error_destroy, error.is_null()) {
            let mut arguments = ffi::ErrorDestroy::new();
            arguments.error = error;
            // SAFETY: the error is the plugin's, and whoever calls this does not use it again.
            unsafe { destroy(&raw mut arguments) };
        }
    }
}

/// Dropped only where an exception leaves a plugin. Nothing in Rust can stop a foreign exception: the process ends, and
/// this says why.
struct Thrown {
    call: &'static str,
}

impl Drop for Thrown {
    fn drop(&mut self) {
        tracing::error!("the PJRT plugin threw an exception out of {}, which ends this process", self.call);
    }
}

/// A plugin's text; it need not end in a zero byte, nor be UTF-8.
///
/// # Safety
/// `start` is null or has `length` bytes.
pub(super) unsafe fn text(start: *const c_char, length: usize) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for the bytes.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
    String::from_utf8_lossy(bytes).trim_end_matches('\0').trim_end().to_owned()
}

//! A client: the connection to the devices that a plugin drives.

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use super::buffer::{Buffer, ElementType};
use super::error::PjrtError;
use super::executable::Executable;
use super::ffi;
use super::options::CompileOptions;
use super::plugin::{self, Plugin, text};

/// XLA's own platform on the CPU, which has nothing to do with Tenstorrent's variables.
const CPU_PLATFORM: &str = "cpu";

/// Where Tenstorrent's kernel driver puts its cards.
const CARDS: &str = "/dev/tenstorrent";

/// What a client's buffers hold: numbers, or nothing.
pub trait Mode: sealed::Sealed + Send + Sync + 'static {
    /// Whether outputs are results.
    const NUMERIC: bool;
}

/// A device that computes.
#[derive(Debug)]
pub enum Numeric {}

/// A device that is not there: programs compile for it and pretend to run. Its outputs are whatever memory held, so
/// nothing reads them, and how long they take says nothing.
#[derive(Debug)]
pub enum Mock {}

impl Mode for Numeric {
    const NUMERIC: bool = true;
}

impl Mode for Mock {
    const NUMERIC: bool = false;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Numeric {}
    impl Sealed for super::Mock {}
}

/// A device of a client, as the plugin describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The plugin's number for it.
    pub id: i32,
    /// The model, where the plugin says.
    pub kind: String,
    /// A longer description, where the plugin has one.
    pub description: String,
}

/// A connection to a plugin's devices, working on one of them. Clones share the connection.
#[derive(Debug)]
pub struct Client<M: Mode> {
    pub(super) inner: Arc<Inner>,
    device: usize,
    mode: PhantomData<fn() -> M>,
}

impl<M: Mode> Clone for Client<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), device: self.device, mode: PhantomData }
    }
}

/// The plugin's client, freed when the last buffer and executable that need it are gone.
#[derive(Debug)]
pub(super) struct Inner {
    plugin: Plugin,
    raw: Handle<ffi::Client>,
    platform: String,
    platform_version: String,
    devices: Vec<(Handle<ffi::Device>, Device)>,
}

/// A pointer to an object of the plugin.
#[derive(Debug)]
pub(super) struct Handle<T>(NonNull<T>);

// SAFETY: the interface ties no object to the thread that made it: XLA's runtime and Tenstorrent's hand objects from
// thread to thread themselves, and free them on any.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: a shared handle only yields its pointer, and every call that takes one is made under the lock of its plugin, so
// the plugin sees one such call at a time whether or not it locks by itself. Waiting for an event is the exception, and an
// event is one thread's alone.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Handle<T> {
    pub(super) fn new(raw: *mut T, call: &'static str) -> Result<Self, PjrtError> {
        NonNull::new(raw).map(Self).ok_or(PjrtError::NoResult { call })
    }

    pub(super) fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<M: Mode> Client<M> {
    /// Connects to the plugin's devices and works on the first.
    ///
    /// # Errors
    /// [`PjrtError::WrongMode`] where a variable makes the plugin's device a mock and this client would read its
    /// numbers, or where a mock is wanted and none is set up; [`PjrtError::NoDevice`] where Tenstorrent's plugin would
    /// find no card; else the plugin's own.
    pub fn open(plugin: &Plugin) -> Result<Self, PjrtError> {
        let path = plugin.path().display();
        // What Tenstorrent's runtime does not find, it throws an exception over, which would end this process.
        if plugin.is_tenstorrent() {
            // The runtime may look at it now, whatever it was when the plugin was loaded.
            if M::NUMERIC
                && let Some(variable) = plugin::mock_variable()
            {
                return Err(mocked(plugin, variable));
            }
            match plugin.mock_variable() {
                Some(variable) if M::NUMERIC => return Err(mocked(plugin, variable)),
                Some(variable) => {
                    let named = std::env::var_os(variable).unwrap_or_default();
                    if !Path::new(&named).is_file() {
                        let named = named.display();
                        return Err(PjrtError::NoDevice(format!(
                            "{variable} names {named}, which is no file"
                        )));
                    }
                }
                None if !has_card() => {
                    let text = format!("{path} drives Tenstorrent cards, and there is none in {CARDS}");
                    return Err(PjrtError::NoDevice(text));
                }
                None => {}
            }
        }
        let inner = Inner::create(plugin)?;
        let mock = plugin.mock_variable().filter(|_| inner.platform != CPU_PLATFORM);
        match (M::NUMERIC, mock) {
            (true, Some(variable)) => Err(mocked(plugin, variable)),
            (false, None) => Err(PjrtError::WrongMode(format!(
                "the device of {path} is no mock: TT_METAL_MOCK_CLUSTER_DESC_PATH was not set when it was loaded"
            ))),
            _ => Ok(Self { inner: Arc::new(inner), device: 0, mode: PhantomData }),
        }
    }

    /// The same connection, working on another of [`Self::devices`].
    ///
    /// # Errors
    /// [`PjrtError::InvalidArgument`] where there is no such device.
    pub fn on_device(&self, ordinal: usize) -> Result<Self, PjrtError> {
        let count = self.inner.devices.len();
        if ordinal >= count {
            let text = format!("there is no device {ordinal}: {} has {count}", self.inner.platform);
            return Err(PjrtError::InvalidArgument(text));
        }
        Ok(Self { inner: Arc::clone(&self.inner), device: ordinal, mode: PhantomData })
    }

    /// The platform's name, such as `cpu` or `tt`.
    pub fn platform(&self) -> &str {
        &self.inner.platform
    }

    /// The platform's version, where the plugin says.
    pub fn platform_version(&self) -> &str {
        &self.inner.platform_version
    }

    /// The plugin that drives the devices.
    pub fn plugin(&self) -> &Plugin {
        &self.inner.plugin
    }

    /// The devices that this process can use.
    pub fn devices(&self) -> Vec<Device> {
        self.inner.devices.iter().map(|(_, device)| device.clone()).collect()
    }

    /// The device that this client works on.
    pub fn device(&self) -> &Device {
        &self.inner.devices[self.device].1
    }

    /// Compiles a StableHLO module, as text, whose public function is `main`.
    ///
    /// # Errors
    /// The plugin's.
    pub fn compile(&self, mlir: &str, options: &CompileOptions) -> Result<Executable<M>, PjrtError> {
        const FORMAT: &str = "mlir";
        let inner = &*self.inner;
        let options = options.serialised(i64::from(self.device().id));
        let mut program = ffi::Program::new();
        program.code = mlir.as_ptr().cast::<c_char>();
        program.code_size = mlir.len();
        program.format = FORMAT.as_ptr().cast::<c_char>();
        program.format_size = FORMAT.len();
        let mut arguments = ffi::ClientCompile::new();
        arguments.client = inner.raw.get();
        arguments.program = &raw const program;
        arguments.compile_options = options.as_ptr().cast::<c_char>();
        arguments.compile_options_size = options.len();
        // SAFETY: the client is alive; program and options outlive the call, which is all that is asked.
        unsafe { inner.call("PJRT_Client_Compile", |api| api.client_compile, &mut arguments)? };
        let raw = Handle::new(arguments.executable, "PJRT_Client_Compile")?;
        Executable::adopt(self, raw)
    }

    /// Copies an array to the device: dense, the last dimension's elements together.
    ///
    /// # Errors
    /// [`PjrtError::InvalidArgument`] where the bytes are not what the dimensions take; else the plugin's.
    pub fn upload(
        &self,
        bytes: &[u8],
        element_type: ElementType,
        dimensions: &[usize],
    ) -> Result<Buffer<M>, PjrtError> {
        let needed = element_type.array_bytes(dimensions)?;
        if bytes.len() != needed {
            let given = bytes.len();
            let text = format!("{dimensions:?} of {element_type} take {needed} bytes, not {given}");
            return Err(PjrtError::InvalidArgument(text));
        }
        let too_large = |_| PjrtError::InvalidArgument(format!("{dimensions:?} is too large"));
        let dims = dimensions
            .iter()
            .map(|&size| i64::try_from(size))
            .collect::<Result<Vec<_>, _>>()
            .map_err(too_large)?;
        let inner = &*self.inner;
        let mut arguments = ffi::BufferFromHostBuffer::new();
        arguments.client = inner.raw.get();
        arguments.data = bytes.as_ptr().cast::<c_void>();
        arguments.element_type = element_type.code();
        arguments.dims = dims.as_ptr();
        arguments.num_dims = dims.len();
        arguments.host_buffer_semantics = ffi::IMMUTABLE_ONLY_DURING_CALL;
        arguments.device = inner.devices[self.device].0.get();
        // SAFETY: client and device are alive; the plugin copies the bytes, and reads the dimensions, before it returns.
        unsafe {
            inner.call(
                "PJRT_Client_BufferFromHostBuffer",
                |api| api.buffer_from_host_buffer,
                &mut arguments,
            )?;
        }
        let raw = Handle::new(arguments.buffer, "PJRT_Client_BufferFromHostBuffer");
        // SAFETY: the event is this call's, and nobody else has it.
        let copied = unsafe { inner.plugin.0.finish(arguments.done_with_host_buffer) };
        let buffer = Buffer::new(self, raw?, element_type, dimensions.to_vec());
        copied.map(|()| buffer)
    }
}

fn mocked(plugin: &Plugin, variable: &str) -> PjrtError {
    let path = plugin.path().display();
    PjrtError::WrongMode(format!(
        "{variable} is set, so the device of {path} is a mock and computes nothing: unset it"
    ))
}

/// Whether Tenstorrent's kernel driver has made a file for a card: they are numbered.
fn has_card() -> bool {
    let is_card = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    std::fs::read_dir(CARDS).is_ok_and(|cards| cards.flatten().any(|card| is_card(&card.file_name())))
}

impl Inner {
    fn create(plugin: &Plugin) -> Result<Self, PjrtError> {
        let functions = &*plugin.0;
        let mut create = ffi::ClientCreate::new();
        // SAFETY: no options and no callbacks are passed.
        unsafe { functions.call("PJRT_Client_Create", functions.api.client_create, &mut create)? };
        let mut client = Self {
            plugin: plugin.clone(),
            raw: Handle::new(create.client, "PJRT_Client_Create")?,
            platform: String::new(),
            platform_version: String::new(),
            devices: Vec::new(),
        };
        // From here on the client is freed whatever fails.
        client.platform = client.text("PJRT_Client_PlatformName", |api| api.client_platform_name)?;
        // Versions are for people: where there is none, none is shown.
        client.platform_version =
            client.text("PJRT_Client_PlatformVersion", |api| api.client_platform_version).unwrap_or_default();
        client.devices = client.addressable_devices()?;
        if client.devices.is_empty() {
            let message = format!("{} drives no device here", plugin.path().display());
            return Err(PjrtError::Call {
                call: "PJRT_Client_AddressableDevices",
                code: super::ErrorCode::Unavailable,
                message,
            });
        }
        Ok(client)
    }

    fn text(
        &self,
        call: &'static str,
        function: impl FnOnce(&ffi::Api) -> ffi::Function<ffi::ClientText>,
    ) -> Result<String, PjrtError> {
        let mut arguments = ffi::ClientText::new();
        arguments.client = self.raw.get();
        // SAFETY: the client is alive.
        unsafe { self.call(call, function, &mut arguments)? };
        // SAFETY: the text belongs to the client.
        Ok(unsafe { text(arguments.text, arguments.text_size) })
    }

    fn addressable_devices(&self) -> Result<Vec<(Handle<ffi::Device>, Device)>, PjrtError> {
        const CALL: &str = "PJRT_Client_AddressableDevices";
        let mut arguments = ffi::ClientAddressableDevices::new();
        arguments.client = self.raw.get();
        // SAFETY: the client is alive.
        unsafe { self.call(CALL, |api| api.client_addressable_devices, &mut arguments)? };
        if arguments.num_devices == 0 {
            return Ok(Vec::new());
        }
        if arguments.devices.is_null() {
            return Err(PjrtError::NoResult { call: CALL });
        }
        // SAFETY: the list belongs to the client and has as many devices as it says.
        let devices = unsafe { std::slice::from_raw_parts(arguments.devices, arguments.num_devices) };
        devices.iter().map(|&raw| Ok((Handle::new(raw, CALL)?, self.describe(raw)?))).collect()
    }

    fn describe(&self, device: *mut ffi::Device) -> Result<Device, PjrtError> {
        let mut get = ffi::DeviceGetDescription::new();
        get.device = device;
        // SAFETY: devices live as long as their client.
        unsafe { self.call("PJRT_Device_GetDescription", |api| api.device_get_description, &mut get)? };
        let mut id = ffi::DescriptionId::new();
        id.description = get.description;
        // SAFETY: so do their descriptions.
        unsafe { self.call("PJRT_DeviceDescription_Id", |api| api.description_id, &mut id)? };
        let words = |call, function: fn(&ffi::Api) -> ffi::Function<ffi::DescriptionText>| {
            let mut arguments = ffi::DescriptionText::new();
            arguments.description = get.description;
            // SAFETY: as above; the text belongs to the description. Words are for people: none is no error.
            unsafe {
                let told = self.call(call, function, &mut arguments);
                told.map(|()| text(arguments.text, arguments.text_size)).unwrap_or_default()
            }
        };
        Ok(Device {
            id: id.id,
            kind: words("PJRT_DeviceDescription_Kind", |api| api.description_kind),
            description: words("PJRT_DeviceDescription_DebugString", |api| api.description_debug_string),
        })
    }

    /// Calls a function of the plugin, alone.
    ///
    /// # Safety
    /// As [`plugin::Inner::call`].
    pub(super) unsafe fn call<A>(
        &self,
        call: &'static str,
        function: impl FnOnce(&ffi::Api) -> ffi::Function<A>,
        arguments: &mut A,
    ) -> Result<(), PjrtError> {
        let functions = self.functions();
        // SAFETY: the caller vouches for the arguments.
        unsafe { functions.call(call, function(&functions.api), arguments) }
    }

    pub(super) fn functions(&self) -> &plugin::Inner {
        &self.plugin.0
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut arguments = ffi::ClientDestroy::new();
        arguments.client = self.raw.get();
        // SAFETY: buffers and executables keep this alive, so none is left; nothing uses the client afterwards.
        let outcome = unsafe { self.call("PJRT_Client_Destroy", |api| api.client_destroy, &mut arguments) };
        report(outcome);
    }
}

/// What a destructor could not do: there is nobody to tell but the log.
pub(super) fn report(outcome: Result<(), PjrtError>) {
    if let Err(error) = outcome {
        tracing::warn!("a PJRT object was not freed: {error}");
    }
}

/// Element types are C's `int` in the interface.
pub(super) type TypeCode = c_int;

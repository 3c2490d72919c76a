//! The part of the PJRT C API that is called here, as C lays it out.
//!
//! Written from the layouts that `xla/pjrt/c/pjrt_c_api.h` documents at version 0.94, with the field that 0.97 added
//! to the execute options. The interface promises that a major version neither moves nor removes a field, and that
//! new ones come last, so plugins of other minor versions are read through `struct_size`: see
//! [`Api::copied_from`]. Functions that are not called are places in the table ([`Unused`]).
//!
//! Pointers to extensions are never followed: they are plain addresses here, always zero in what is passed.

use std::ffi::{c_char, c_int, c_void};
use std::marker::{PhantomData, PhantomPinned};

/// The major version that these layouts belong to.
pub(super) const MAJOR: c_int = 0;

/// The lowest minor version whose table has its functions where [`Api`] has them: 0.57 last moved some.
pub(super) const LOWEST_MINOR: c_int = 57;

/// Objects of the plugin: only ever behind a pointer.
macro_rules! opaque {
    ($($(#[$documentation:meta])* $name:ident),* $(,)?) => {$(
        $(#[$documentation])*
        #[derive(Debug)]
        #[repr(C)]
        pub(super) struct $name {
            _bytes: [u8; 0],
            _marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque! {
    /// `PJRT_Error`.
    Error,
    /// `PJRT_Event`.
    Event,
    /// `PJRT_Client`.
    Client,
    /// `PJRT_Device`.
    Device,
    /// `PJRT_DeviceDescription`.
    DeviceDescription,
    /// `PJRT_Executable`: what a compilation made.
    Executable,
    /// `PJRT_LoadedExecutable`: the same, ready to run on a device.
    LoadedExecutable,
    /// `PJRT_Buffer`.
    Buffer,
}

/// Arguments of a call, or another struct that tells its size: `struct_size` and `extension_start` come first.
macro_rules! sized {
    ($($(#[$documentation:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$documentation])*
        #[repr(C)]
        pub(super) struct $name {
            pub(super) struct_size: usize,
            pub(super) extension_start: usize,
            $(pub(super) $field: $type,)*
        }

        impl $name {
            /// With its size filled in, and everything else zero: null, none, false.
            pub(super) fn new() -> Self {
                // SAFETY: every field is a number, a pointer or a struct of such, for which zero bytes are a value.
                let zeroed: Self = unsafe { std::mem::zeroed() };
                Self { struct_size: size_of::<Self>(), ..zeroed }
            }
        }
    )*};
}

/// `PJRT_Api_Version`.
#[repr(C)]
pub(super) struct Version {
    pub(super) struct_size: usize,
    pub(super) extension_start: usize,
    pub(super) major: c_int,
    pub(super) minor: c_int,
}

sized! {
    /// `PJRT_Error_Destroy_Args`.
    ErrorDestroy { error: *mut Error }
    /// `PJRT_Error_Message_Args`.
    ErrorMessage { error: *const Error, message: *const c_char, message_size: usize }
    /// `PJRT_Error_GetCode_Args`.
    ErrorGetCode { error: *const Error, code: c_int }
    /// `PJRT_Plugin_Initialize_Args`.
    PluginInitialize {}
    /// `PJRT_Event_Destroy_Args`.
    EventDestroy { event: *mut Event }
    /// `PJRT_Event_Await_Args`.
    EventAwait { event: *mut Event }
    /// `PJRT_Client_Create_Args`.
    ClientCreate {
        create_options: *const c_void,
        num_options: usize,
        kv_get_callback: usize,
        kv_get_user_arg: *mut c_void,
        kv_put_callback: usize,
        kv_put_user_arg: *mut c_void,
        client: *mut Client,
        kv_try_get_callback: usize,
        kv_try_get_user_arg: *mut c_void,
    }
    /// `PJRT_Client_Destroy_Args`.
    ClientDestroy { client: *mut Client }
    /// `PJRT_Client_PlatformName_Args` and `PJRT_Client_PlatformVersion_Args`, which have one layout.
    ClientText { client: *mut Client, text: *const c_char, text_size: usize }
    /// `PJRT_Client_AddressableDevices_Args`.
    ClientAddressableDevices { client: *mut Client, devices: *const *mut Device, num_devices: usize }
    /// `PJRT_Program`.
    Program { code: *const c_char, code_size: usize, format: *const c_char, format_size: usize }
    /// `PJRT_Client_Compile_Args`.
    ClientCompile {
        client: *mut Client,
        program: *const Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        executable: *mut LoadedExecutable,
    }
    /// `PJRT_Client_BufferFromHostBuffer_Args`.
    BufferFromHostBuffer {
        client: *mut Client,
        data: *const c_void,
        element_type: c_int,
        dims: *const i64,
        num_dims: usize,
        byte_strides: *const i64,
        num_byte_strides: usize,
        host_buffer_semantics: c_int,
        device: *mut Device,
        memory: *mut c_void,
        device_layout: *mut MemoryLayout,
        done_with_host_buffer: *mut Event,
        buffer: *mut Buffer,
    }
    /// `PJRT_DeviceDescription_Id_Args`.
    DescriptionId { description: *mut DeviceDescription, id: c_int }
    /// `PJRT_DeviceDescription_Kind_Args` and `PJRT_DeviceDescription_DebugString_Args`, which have one layout.
    DescriptionText { description: *mut DeviceDescription, text: *const c_char, text_size: usize }
    /// `PJRT_Device_GetDescription_Args`.
    DeviceGetDescription { device: *mut Device, description: *mut DeviceDescription }
    /// `PJRT_Executable_Destroy_Args`.
    ExecutableDestroy { executable: *mut Executable }
    /// `PJRT_Executable_NumOutputs_Args`.
    ExecutableNumOutputs { executable: *mut Executable, num_outputs: usize }
    /// `PJRT_LoadedExecutable_Destroy_Args`.
    LoadedExecutableDestroy { executable: *mut LoadedExecutable }
    /// `PJRT_LoadedExecutable_GetExecutable_Args`.
    LoadedExecutableGetExecutable { loaded_executable: *mut LoadedExecutable, executable: *mut Executable }
    /// `PJRT_ExecuteOptions`, to the field that 0.97 added: newer plugins refuse a shorter one, and older ones do not
    /// read what they do not know.
    ExecuteOptions {
        send_callbacks: *mut c_void,
        recv_callbacks: *mut c_void,
        num_send_ops: usize,
        num_recv_ops: usize,
        launch_id: c_int,
        non_donatable_input_indices: *const i64,
        num_non_donatable_input_indices: usize,
        context: *mut c_void,
        call_location: *const c_char,
        num_tasks: usize,
        task_ids: *mut c_int,
        incarnation_ids: *mut i64,
        multi_slice_config: *mut c_void,
    }
    /// `PJRT_LoadedExecutable_Execute_Args`.
    LoadedExecutableExecute {
        executable: *mut LoadedExecutable,
        options: *mut ExecuteOptions,
        argument_lists: *const *const *mut Buffer,
        num_devices: usize,
        num_args: usize,
        output_lists: *const *mut *mut Buffer,
        device_complete_events: *mut *mut Event,
        execute_device: *mut Device,
    }
    /// `PJRT_Buffer_Destroy_Args`.
    BufferDestroy { buffer: *mut Buffer }
    /// `PJRT_Buffer_ElementType_Args`.
    BufferElementType { buffer: *mut Buffer, element_type: c_int }
    /// `PJRT_Buffer_Dimensions_Args`.
    BufferDimensions { buffer: *mut Buffer, dims: *const i64, num_dims: usize }
    /// `PJRT_Buffer_MemoryLayout_Tiled`.
    Tiled {
        minor_to_major: *const i64,
        minor_to_major_size: usize,
        tile_dims: *const i64,
        tile_dim_sizes: *const usize,
        num_tiles: usize,
    }
    /// `PJRT_Buffer_MemoryLayout`, the tiled kind: it is the larger one of the union.
    MemoryLayout { tiled: Tiled, kind: c_int }
    /// `PJRT_Buffer_ToHostBuffer_Args`.
    BufferToHostBuffer {
        src: *mut Buffer,
        host_layout: *const MemoryLayout,
        dst: *mut c_void,
        dst_size: usize,
        event: *mut Event,
    }
    /// `PJRT_Buffer_ReadyEvent_Args`.
    BufferReadyEvent { buffer: *mut Buffer, event: *mut Event }
}

/// `PJRT_HostBufferSemantics_kImmutableOnlyDuringCall`: the plugin copies before it returns.
pub(super) const IMMUTABLE_ONLY_DURING_CALL: c_int = 0;

/// `PJRT_Buffer_MemoryLayout_Type_Tiled`.
pub(super) const LAYOUT_TILED: c_int = 0;

/// A function of the table that returns an error or null.
///
/// The interface has no exceptions, but a plugin in C++ may let one out, as Tenstorrent's does. So that this is defined,
/// if the end of the process, the functions may unwind as far as the types go.
pub(super) type Function<Arguments> = Option<unsafe extern "C-unwind" fn(*mut Arguments) -> *mut Error>;

/// A function of the table that returns nothing.
pub(super) type Procedure<Arguments> = Option<unsafe extern "C-unwind" fn(*mut Arguments)>;

/// Functions that are not called here: only their places matter.
pub(super) type Unused<const N: usize> = [usize; N];

/// The type of `GetPjrtApi`, the one symbol that a plugin exports.
pub(super) type GetPjrtApi = unsafe extern "C-unwind" fn() -> *const Api;

/// `PJRT_Api`, to the last function called here.
#[repr(C)]
pub(super) struct Api {
    pub(super) struct_size: usize,
    pub(super) extension_start: usize,
    pub(super) version: Version,
    pub(super) error_destroy: Procedure<ErrorDestroy>,
    pub(super) error_message: Procedure<ErrorMessage>,
    pub(super) error_get_code: Function<ErrorGetCode>,
    pub(super) plugin_initialize: Function<PluginInitialize>,
    /// `PJRT_Plugin_Attributes`.
    pub(super) unused_4: Unused<1>,
    pub(super) event_destroy: Function<EventDestroy>,
    /// `PJRT_Event_IsReady`, `PJRT_Event_Error`.
    pub(super) unused_6: Unused<2>,
    pub(super) event_await: Function<EventAwait>,
    /// `PJRT_Event_OnReady`.
    pub(super) unused_9: Unused<1>,
    pub(super) client_create: Function<ClientCreate>,
    pub(super) client_destroy: Function<ClientDestroy>,
    pub(super) client_platform_name: Function<ClientText>,
    /// `PJRT_Client_ProcessIndex`.
    pub(super) unused_13: Unused<1>,
    pub(super) client_platform_version: Function<ClientText>,
    /// `PJRT_Client_Devices`.
    pub(super) unused_15: Unused<1>,
    pub(super) client_addressable_devices: Function<ClientAddressableDevices>,
    /// `PJRT_Client_LookupDevice` to `PJRT_Client_AddressableMemories`.
    pub(super) unused_17: Unused<3>,
    pub(super) client_compile: Function<ClientCompile>,
    /// `PJRT_Client_DefaultDeviceAssignment`.
    pub(super) unused_21: Unused<1>,
    pub(super) buffer_from_host_buffer: Function<BufferFromHostBuffer>,
    pub(super) description_id: Function<DescriptionId>,
    /// `PJRT_DeviceDescription_ProcessIndex`, `PJRT_DeviceDescription_Attributes`.
    pub(super) unused_24: Unused<2>,
    pub(super) description_kind: Function<DescriptionText>,
    pub(super) description_debug_string: Function<DescriptionText>,
    /// `PJRT_DeviceDescription_ToString`.
    pub(super) unused_28: Unused<1>,
    pub(super) device_get_description: Function<DeviceGetDescription>,
    /// `PJRT_Device_IsAddressable` to `PJRT_Memory_AddressableByDevices`.
    pub(super) unused_30: Unused<10>,
    pub(super) executable_destroy: Function<ExecutableDestroy>,
    /// `PJRT_Executable_Name` to `PJRT_Executable_NumPartitions`.
    pub(super) unused_41: Unused<3>,
    pub(super) executable_num_outputs: Function<ExecutableNumOutputs>,
    /// `PJRT_Executable_SizeOfGeneratedCodeInBytes` to `PJRT_Executable_Serialize`.
    pub(super) unused_45: Unused<5>,
    pub(super) loaded_executable_destroy: Function<LoadedExecutableDestroy>,
    pub(super) loaded_executable_get_executable: Function<LoadedExecutableGetExecutable>,
    /// `PJRT_LoadedExecutable_AddressableDevices` to `PJRT_LoadedExecutable_IsDeleted`.
    pub(super) unused_52: Unused<3>,
    pub(super) loaded_executable_execute: Function<LoadedExecutableExecute>,
    /// `PJRT_Executable_DeserializeAndLoad`, `PJRT_LoadedExecutable_Fingerprint`.
    pub(super) unused_56: Unused<2>,
    pub(super) buffer_destroy: Function<BufferDestroy>,
    pub(super) buffer_element_type: Function<BufferElementType>,
    pub(super) buffer_dimensions: Function<BufferDimensions>,
    /// `PJRT_Buffer_UnpaddedDimensions` to `PJRT_Buffer_CopyToDevice`.
    pub(super) unused_61: Unused<9>,
    pub(super) buffer_to_host_buffer: Function<BufferToHostBuffer>,
    /// `PJRT_Buffer_IsOnCpu`.
    pub(super) unused_71: Unused<1>,
    pub(super) buffer_ready_event: Function<BufferReadyEvent>,
}

impl Api {
    /// The bytes before the first function: what every plugin has.
    pub(super) const HEADER: usize = std::mem::offset_of!(Api, error_destroy);

    /// A table without functions.
    pub(super) fn empty() -> Self {
        // SAFETY: fields are numbers, structs of numbers and optional function pointers, whose zero is `None`.
        unsafe { std::mem::zeroed() }
    }

    /// The plugin's table as far as it goes: functions that it does not have are `None`.
    ///
    /// # Safety
    /// `table` points to a table of this major version that is as long as it says, at least [`Self::HEADER`].
    pub(super) unsafe fn copied_from(table: *const Self) -> Self {
        let mut copy = Self::empty();
        // SAFETY: the caller vouches for the header.
        let length = unsafe { (*table).struct_size }.min(size_of::<Self>());
        // SAFETY: both have `length` bytes, and a part of the table is a value of `Self`, the rest being zero: a
        // length that cuts a pointer in two leaves it out.
        unsafe {
            let whole = Self::HEADER
                + (length.saturating_sub(Self::HEADER)) / size_of::<usize>() * size_of::<usize>();
            std::ptr::copy_nonoverlapping(table.cast::<u8>(), (&raw mut copy).cast(), whole);
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// The place of a function in the table.
    fn place(offset: usize) -> usize {
        (offset - Api::HEADER) / size_of::<usize>()
    }

    #[test]
    fn functions_are_at_the_places_that_the_header_gives_them() {
        assert_eq!((offset_of!(Api, version), Api::HEADER), (16, 40));
        for (offset, expected) in [
            (offset_of!(Api, error_get_code), 2),
            (offset_of!(Api, plugin_initialize), 3),
            (offset_of!(Api, event_destroy), 5),
            (offset_of!(Api, event_await), 8),
            (offset_of!(Api, client_create), 10),
            (offset_of!(Api, client_platform_version), 14),
            (offset_of!(Api, client_addressable_devices), 16),
            (offset_of!(Api, client_compile), 20),
            (offset_of!(Api, buffer_from_host_buffer), 22),
            (offset_of!(Api, description_kind), 26),
            (offset_of!(Api, device_get_description), 29),
            (offset_of!(Api, executable_destroy), 40),
            (offset_of!(Api, executable_num_outputs), 44),
            (offset_of!(Api, loaded_executable_destroy), 50),
            (offset_of!(Api, loaded_executable_execute), 55),
            (offset_of!(Api, buffer_destroy), 58),
            (offset_of!(Api, buffer_to_host_buffer), 70),
            (offset_of!(Api, buffer_ready_event), 72),
        ] {
            assert_eq!(place(offset), expected);
        }
        assert_eq!(size_of::<Api>(), Api::HEADER + 73 * 8);
    }

    /// Sizes are C's `offsetof(last field) + sizeof(last field)`, rounded up to the alignment of a pointer.
    #[test]
    fn structs_have_the_sizes_of_the_header() {
        for (size, expected) in [
            (size_of::<Version>(), 24),
            (size_of::<ErrorMessage>(), 40),
            (size_of::<ErrorGetCode>(), 32),
            (size_of::<PluginInitialize>(), 16),
            (size_of::<EventAwait>(), 24),
            (size_of::<ClientCreate>(), 88),
            (size_of::<ClientText>(), 40),
            (size_of::<ClientAddressableDevices>(), 40),
            (size_of::<Program>(), 48),
            (size_of::<ClientCompile>(), 56),
            (size_of::<BufferFromHostBuffer>(), 120),
            (size_of::<ExecuteOptions>(), 120),
            (size_of::<LoadedExecutableExecute>(), 80),
            (size_of::<BufferDimensions>(), 40),
            (size_of::<Tiled>(), 56),
            (size_of::<MemoryLayout>(), 80),
            (size_of::<BufferToHostBuffer>(), 56),
            (size_of::<BufferReadyEvent>(), 32),
        ] {
            assert_eq!(size, expected);
        }
        assert_eq!(offset_of!(BufferFromHostBuffer, host_buffer_semantics), 72);
        assert_eq!(offset_of!(ClientCreate, client), 64);
        assert_eq!(offset_of!(ExecuteOptions, non_donatable_input_indices), 56);
        assert_eq!(offset_of!(LoadedExecutableExecute, output_lists), 56);
        assert_eq!(offset_of!(MemoryLayout, kind), 72);
    }

    #[test]
    fn a_shorter_table_lacks_its_last_functions() {
        unsafe extern "C-unwind" fn nothing(_: *mut BufferReadyEvent) -> *mut Error {
            std::ptr::null_mut()
        }
        unsafe extern "C-unwind" fn destroy(_: *mut BufferDestroy) -> *mut Error {
            std::ptr::null_mut()
        }
        let mut table = Api::empty();
        table.buffer_ready_event = Some(nothing);
        table.buffer_destroy = Some(destroy);
        for (cut, has_ready_event) in [(0, true), (4, false), (8, false)] {
            table.struct_size = size_of::<Api>() - cut;
            // SAFETY: the table is at least as long as it says.
            let copy = unsafe { Api::copied_from(&raw const table) };
            assert_eq!(copy.buffer_ready_event.is_some(), has_ready_event);
            assert!(copy.buffer_destroy.is_some());
        }
    }
}

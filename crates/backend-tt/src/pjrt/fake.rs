//! A plugin without a library: a table of functions that count what they hand out, and fail on demand.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::ptr;

use super::client::{Client, Numeric};
use super::*;

/// Objects of the plugin that are alive, and what was called. One plugin a test: a test runs on one thread.
#[derive(Default)]
struct World {
    errors: i32,
    clients: i32,
    executables: i32,
    buffers: i32,
    events: i32,
    not_donatable: Vec<i64>,
    calls: Vec<&'static str>,
    /// The call that fails next.
    failing: &'static str,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

fn world<R>(look: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(look)
}

/// What every object is: something to point at.
const OBJECT: usize = 1;

fn object<T>() -> *mut T {
    Box::into_raw(Box::new(OBJECT)).cast()
}

fn free<T>(object: *mut T) {
    assert!(!object.is_null());
    // SAFETY: every pointer that these functions are given came from `object`.
    let object = unsafe { Box::from_raw(object.cast::<usize>()) };
    assert_eq!(*object, OBJECT);
}

/// Notes the call; an error where it is to fail.
fn outcome(call: &'static str) -> *mut ffi::Error {
    world(|world| {
        world.calls.push(call);
        if world.failing != call {
            return ptr::null_mut();
        }
        world.failing = "";
        world.errors += 1;
        object()
    })
}

const MESSAGE: &CStr = c"the program does not parse";

/// `fn name(arguments: Type) { body }`, in C's way; the body runs where the call does not fail.
macro_rules! functions {
    ($($name:ident($arguments:ident: $type:ty) $body:block)*) => {$(
        unsafe extern "C-unwind" fn $name($arguments: *mut $type) -> *mut ffi::Error {
            // SAFETY: called with arguments of this type alone.
            let $arguments = unsafe { &mut *$arguments };
            assert!($arguments.struct_size == size_of::<$type>() && $arguments.extension_start == 0);
            let error = outcome(stringify!($name));
            if error.is_null() $body
            error
        }
    )*};
}

functions! {
    error_get_code(arguments: ffi::ErrorGetCode) { arguments.code = 3; }
    plugin_initialize(arguments: ffi::PluginInitialize) { let _ = arguments; }
    event_destroy(arguments: ffi::EventDestroy) { free(arguments.event); world(|world| world.events -= 1); }
    event_await(arguments: ffi::EventAwait) { assert!(!arguments.event.is_null()); }
    client_create(arguments: ffi::ClientCreate) { arguments.client = object(); world(|world| world.clients += 1); }
    client_destroy(arguments: ffi::ClientDestroy) { free(arguments.client); world(|world| world.clients -= 1); }
    platform(arguments: ffi::ClientText) { (arguments.text, arguments.text_size) = (c"fake".as_ptr(), 4); }
    devices(arguments: ffi::ClientAddressableDevices) {
        struct List([usize; 2]);
        static LIST: List = List([8, 16]);
        (arguments.devices, arguments.num_devices) = (LIST.0.as_ptr().cast(), 2);
    }
    description(arguments: ffi::DeviceGetDescription) { arguments.description = arguments.device.cast(); }
    identifier(arguments: ffi::DescriptionId) { arguments.id = arguments.description.addr() as c_int; }
    compile(arguments: ffi::ClientCompile) {
        arguments.executable = object();
        world(|world| world.executables += 1);
    }
    executable_destroy(arguments: ffi::LoadedExecutableDestroy) {
        free(arguments.executable);
        world(|world| world.executables -= 1);
    }
    program(arguments: ffi::LoadedExecutableGetExecutable) {
        arguments.executable = object();
        world(|world| world.executables += 1);
    }
    program_destroy(arguments: ffi::ExecutableDestroy) {
        free(arguments.executable);
        world(|world| world.executables -= 1);
    }
    num_outputs(arguments: ffi::ExecutableNumOutputs) { arguments.num_outputs = 2; }
    execute(arguments: ffi::LoadedExecutableExecute) {
        // SAFETY: the caller passes lists for one device, two outputs, and as many indices as it says.
        unsafe {
            let options = &*arguments.options;
            let lent = options.non_donatable_input_indices;
            let lent = std::slice::from_raw_parts(lent, options.num_non_donatable_input_indices);
            let outputs = std::slice::from_raw_parts_mut(*arguments.output_lists, 2);
            outputs.fill_with(object);
            world(|world| {
                world.buffers += 2;
                world.not_donatable = lent.to_vec();
            });
        }
    }
    upload(arguments: ffi::BufferFromHostBuffer) {
        arguments.buffer = object();
        arguments.done_with_host_buffer = object();
        world(|world| (world.buffers, world.events) = (world.buffers + 1, world.events + 1));
    }
    buffer_destroy(arguments: ffi::BufferDestroy) { free(arguments.buffer); world(|world| world.buffers -= 1); }
    element_type(arguments: ffi::BufferElementType) { arguments.element_type = 4; }
    dimensions(arguments: ffi::BufferDimensions) {
        static DIMENSIONS: [i64; 2] = [2, 1];
        (arguments.dims, arguments.num_dims) = (DIMENSIONS.as_ptr(), 2);
    }
    download(arguments: ffi::BufferToHostBuffer) {
        // SAFETY: the caller passes a place for as many bytes as it says.
        unsafe { arguments.dst.cast::<u8>().write_bytes(7, arguments.dst_size) };
        arguments.event = object();
        world(|world| world.events += 1);
    }
}

unsafe extern "C-unwind" fn error_destroy(arguments: *mut ffi::ErrorDestroy) {
    // SAFETY: called with arguments of this type alone.
    free(unsafe { (*arguments).error });
    world(|world| world.errors -= 1);
}

unsafe extern "C-unwind" fn error_message(arguments: *mut ffi::ErrorMessage) {
    // SAFETY: called with arguments of this type alone.
    let arguments = unsafe { &mut *arguments };
    (arguments.message, arguments.message_size) = (MESSAGE.as_ptr().cast::<c_char>(), MESSAGE.count_bytes());
}

/// A whole table of version 0.99.
fn table() -> ffi::Api {
    let mut api = ffi::Api::empty();
    api.struct_size = size_of::<ffi::Api>();
    (api.version.major, api.version.minor) = (0, 99);
    api.error_destroy = Some(error_destroy);
    api.error_message = Some(error_message);
    api.error_get_code = Some(error_get_code);
    api.plugin_initialize = Some(plugin_initialize);
    api.event_destroy = Some(event_destroy);
    api.event_await = Some(event_await);
    api.client_create = Some(client_create);
    api.client_destroy = Some(client_destroy);
    api.client_platform_name = Some(platform);
    api.client_addressable_devices = Some(devices);
    api.client_compile = Some(compile);
    api.buffer_from_host_buffer = Some(upload);
    api.description_id = Some(identifier);
    api.device_get_description = Some(description);
    api.executable_destroy = Some(program_destroy);
    api.executable_num_outputs = Some(num_outputs);
    api.loaded_executable_destroy = Some(executable_destroy);
    api.loaded_executable_get_executable = Some(program);
    api.loaded_executable_execute = Some(execute);
    api.buffer_destroy = Some(buffer_destroy);
    api.buffer_element_type = Some(element_type);
    api.buffer_dimensions = Some(dimensions);
    api.buffer_to_host_buffer = Some(download);
    api
}

fn load(table: &ffi::Api) -> Result<Plugin, PjrtError> {
    // SAFETY: the table is as long as it says or is refused, and its functions are the ones above.
    unsafe { Plugin::from_table(table, PathBuf::from("fake.so"), false) }
}

fn open() -> Client<Numeric> {
    Client::open(&load(&table()).unwrap()).unwrap()
}

fn assert_nothing_is_left() {
    world(|world| {
        let left = [world.errors, world.clients, world.executables, world.buffers, world.events];
        assert_eq!(left, [0; 5], "{:?}", world.calls);
    });
}

#[test]
fn versions_are_checked_before_anything_is_called() {
    for (major, minor) in [(1, 0), (0, 56), (-1, 99)] {
        let mut table = table();
        (table.version.major, table.version.minor) = (major, minor);
        let error = load(&table).unwrap_err();
        assert!(matches!(error, PjrtError::Version { found, .. } if found == (major, minor)), "{error}");
        assert!(error.to_string().contains("needed is 0.57"), "{error}");
    }
    assert!(world(|world| world.calls.is_empty()));
    assert_eq!(load(&table()).unwrap().version(), (0, 99));
}

#[test]
fn tables_with_holes_are_refused() {
    // SAFETY: a null table is allowed.
    let absent = unsafe { Plugin::from_table(ptr::null(), PathBuf::new(), false) };
    assert!(matches!(absent, Err(PjrtError::NoResult { call: "GetPjrtApi" })));
    let mut short = table();
    short.struct_size = 39;
    assert!(matches!(load(&short), Err(PjrtError::MissingFunction { .. })));
    short.struct_size = std::mem::offset_of!(ffi::Api, buffer_to_host_buffer);
    assert!(matches!(load(&short), Err(PjrtError::MissingFunction { call: "PJRT_Buffer_ToHostBuffer", .. })));
    let mut hole = table();
    hole.client_compile = None;
    assert!(matches!(load(&hole), Err(PjrtError::MissingFunction { call: "PJRT_Client_Compile", .. })));
}

#[test]
fn functions_that_are_rarely_needed_are_missed_when_they_are() {
    let client = open();
    assert_eq!((client.platform(), client.platform_version()), ("fake", ""));
    let error = client.upload(&[1], ElementType::Pred, &[]).unwrap().wait().unwrap_err();
    assert!(matches!(error, PjrtError::MissingFunction { call: "PJRT_Buffer_ReadyEvent", .. }), "{error}");
}

#[test]
fn devices_are_chosen_by_their_place_in_the_list() {
    let client = open();
    assert_eq!(client.devices().iter().map(|device| device.id).collect::<Vec<_>>(), [8, 16]);
    assert_eq!((client.device().id, client.on_device(1).unwrap().device().id), (8, 16));
    assert!(matches!(client.on_device(2), Err(PjrtError::InvalidArgument(_))));
}

#[test]
fn failed_calls_are_errors_and_free_everything() {
    let run = || -> Result<(), PjrtError> {
        let client = Client::<Numeric>::open(&load(&table())?)?;
        let executable = client.compile("module {}", &CompileOptions::default())?;
        let input = client.upload(&[0; 4], ElementType::S32, &[1])?;
        let outputs = executable.execute([input.into()])?;
        outputs[0].to_host().map(drop)
    };
    run().unwrap();
    let calls = world(|world| std::mem::take(&mut world.calls));
    // A destructor has nobody to tell; a client's second text is for people.
    for call in calls.into_iter().filter(|call| !call.ends_with("_destroy")) {
        world(|world| world.failing = call);
        let error = run().unwrap_err();
        let PjrtError::Call { code, message, .. } = &error else { panic!("{call}: {error}") };
        assert_eq!(
            (*code, message.as_str()),
            (ErrorCode::InvalidArgument, "the program does not parse"),
            "{call}"
        );
        assert_nothing_is_left();
    }
    world(|world| world.failing = "compile");
    let error = run().unwrap_err().in_backend("open");
    assert_eq!(
        error.to_string(),
        "tt: open: PJRT_Client_Compile failed (InvalidArgument): the program does not parse"
    );
    assert_eq!(error.kind, smolvla_core::backend::BackendErrorKind::InvalidArgument);
}

#[test]
fn clients_live_as_long_as_what_they_made() {
    let client = open();
    let executable = client.compile("module {}", &CompileOptions::default()).unwrap();
    let input = client.upload(&[0; 8], ElementType::F32, &[2]).unwrap();
    drop(client);
    assert_eq!(world(|world| world.clients), 1);
    let outputs = executable.execute([(&input).into()]).unwrap();
    drop((executable, input));
    assert_eq!(world(|world| (world.clients, world.buffers)), (1, 2));
    assert_eq!((outputs[0].element_type(), outputs[1].dimensions()), (ElementType::S32, &[2, 1][..]));
    assert_eq!(outputs[0].to_host().unwrap(), [7; 8]);
    drop(outputs);
    assert_nothing_is_left();
    assert_eq!(world(|world| world.calls.last().copied()), Some("client_destroy"));
}

#[test]
fn inputs_that_are_lent_are_kept_from_donation() {
    let client = open();
    let executable = client.compile("module {}", &CompileOptions::default()).unwrap();
    let upload = || client.upload(&[0; 4], ElementType::F32, &[1]).unwrap();
    let (kept, given) = (upload(), upload());
    executable.execute([(&kept).into(), given.into(), (&kept).into()]).unwrap();
    assert_eq!(world(|world| world.not_donatable.clone()), [0, 2]);
    assert_eq!(world(|world| world.buffers), 1);
}

#[test]
fn inputs_of_another_client_are_refused() {
    let (client, other) = (open(), open());
    let executable = client.compile("module {}", &CompileOptions::default()).unwrap();
    let input = other.upload(&[0; 4], ElementType::F32, &[1]).unwrap();
    let error = executable.execute([(&input).into()]).unwrap_err();
    assert_eq!(error.to_string(), "input 0 is of another client");
}

#[test]
fn inputs_are_checked_where_they_are_known() {
    let client = open();
    let executable = client.compile("module {}", &CompileOptions::default()).unwrap();
    let input = client.upload(&[0; 4], ElementType::F32, &[1]).unwrap();
    executable.execute([(&input).into()]).unwrap();
    let executable = executable.expecting([(ElementType::F32, vec![1, 1]), (ElementType::S32, vec![1])]);
    let refused = |inputs: Vec<Argument<'_, Numeric>>| executable.execute(inputs).unwrap_err().to_string();
    assert_eq!(refused(vec![(&input).into()]), "1 inputs are given, and 2 expected");
    let text = refused(vec![(&input).into(), (&input).into()]);
    assert_eq!(text, "input 0 is [1] of f32, and [1, 1] of f32 expected");
    let input = client.upload(&[0; 4], ElementType::F32, &[1, 1]).unwrap();
    let text = refused(vec![(&input).into(), (&input).into()]);
    assert_eq!(text, "input 1 is [1, 1] of f32, and [1] of i32 expected");
}

#[test]
fn uploads_of_the_wrong_length_are_refused() {
    let client = open();
    let error = client.upload(&[0; 6], ElementType::Bf16, &[2, 2]).unwrap_err();
    assert_eq!(error.to_string(), "[2, 2] of bf16 take 8 bytes, not 6");
    assert!(matches!(
        client.upload(&[], ElementType::F32, &[usize::MAX]),
        Err(PjrtError::InvalidArgument(_))
    ));
}

#[test]
fn mocks_need_the_variable_that_makes_them() {
    let error = Client::<Mock>::open(&load(&table()).unwrap()).unwrap_err();
    assert!(matches!(error, PjrtError::WrongMode(_)), "{error}");
    assert_nothing_is_left();
}

//! Devices that this process has opened. Burn keeps a device for as long as the process lives, so each adapter is
//! opened once and shared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::{env, fs, io};

use burn::tensor::Device;
use burn_wgpu::wgpu;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use etcetera::BaseStrategy;
use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::NAME;
use crate::adapter::{Adapter, Place};
use crate::failure::Failures;

/// An adapter opened for computing.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) device: Device,
    pub(crate) failures: Arc<Failures>,
    /// The device beneath Burn's.
    pub(crate) raw: wgpu::Device,
}

/// The environment variable that moves the cache; the command's own.
const CACHE: &str = "SMOLVLA_CACHE";

/// Opens the adapter, or hands out what was opened before.
pub(crate) fn open(adapter: &Adapter) -> Result<Opened, BackendError> {
    static OPENED: LazyLock<Mutex<HashMap<Place, Opened>>> = LazyLock::new(Mutex::default);

    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&adapter.place) {
        device.failures.handle().check("open")?;
        return Ok(device.clone());
    }
    if opened.is_empty() {
        keep_tuning();
    }
    let device = create(adapter)?;
    opened.insert(adapter.place, device.clone());
    Ok(device)
}

fn create(adapter: &Adapter) -> Result<Opened, BackendError> {
    let error = |kind, message: String| BackendError::new(NAME, "open", kind, message);
    let Some(kind) = adapter.device_kind() else {
        return Err(error(
            BackendErrorKind::Unsupported,
            format!("Burn cannot open adapter {adapter}; choose another, or use --backend cpu"),
        ));
    };
    if cfg!(feature = "vulkan") && adapter.is_software() {
        return Err(error(
            BackendErrorKind::Unsupported,
            format!(
                "this build compiles for Vulkan through SPIR-V (`wgpu-vulkan`), which crashes software renderers such \
                 as {adapter}; build with `--features wgpu`"
            ),
        ));
    }
    let failures = Arc::new(Failures::default());
    let (device, setup) = failures.handle().run("open", || {
        Device::wgpu_options().device_kind(kind).graphics_api(adapter.graphics_api()).init_with_setup()
    })?;
    let name = setup.adapter.get_info().name;
    if name != adapter.name {
        return Err(error(
            BackendErrorKind::Unavailable,
            format!(
                "asked for adapter {adapter}, the system gave `{name}`; adapters have changed: start the program again"
            ),
        ));
    }
    failures.watch(&setup.device);
    Ok(Opened { device, failures, raw: setup.device })
}

/// Where the results of tuning are kept from one run to the next: `SMOLVLA_CACHE`, or the user's cache folder; `None`
/// where there is neither.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let folder = match env::var_os(CACHE).filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => etcetera::choose_base_strategy().ok()?.cache_dir().join("smolvla"),
    };
    Some(folder.join("wgpu"))
}

/// Has CubeCL keep what it tunes in our cache folder; it would otherwise look for a Cargo project around the current
/// folder. Without a folder that can be written, tuning is done anew in every process, and a warning says so.
fn keep_tuning() {
    // Reads its own configuration first, which names a folder too.
    let _ = CubeClRuntimeConfig::get();
    let made = cache_folder().map(|folder| writable(&folder).map(|()| folder));
    match made {
        Some(Ok(folder)) => cubecl::environment::set_root(folder),
        Some(Err(error)) => {
            tracing::warn!("{NAME}: results of tuning will not be kept: {error}; set {CACHE} to a folder");
        }
        None => tracing::warn!("{NAME}: results of tuning will not be kept; set {CACHE} to a folder"),
    }
}

/// Makes the folder, and sees that files can be made in it.
fn writable(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, [])?;
    fs::remove_file(probe)
}

//! Devices that this process has opened. Burn keeps a device for as long as the process lives, so each adapter is
//! opened once and shared.

use std::collections::HashMap;
use std::io::Read as _;
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
/// folder. Without a folder and a file that can be written, nothing is kept anywhere, and a warning says so.
fn keep_tuning() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    let kept = match cache_folder() {
        None => Err(format!("there is no cache folder; set {CACHE} to one")),
        Some(folder) => match writable(&folder, &config.environment.name) {
            Ok(()) => Ok(folder),
            Err(error) => Err(format!("{}: {error}", folder.display())),
        },
    };
    if let Err(reason) = &kept {
        tracing::warn!("{NAME}: results of tuning will not be kept: {reason}");
        config.autotune.disable_cache = true;
        config.throughput.disable_cache = true;
    }
    // A program that has configured CubeCL itself keeps its configuration.
    CubeClRuntimeConfig::try_set(config);
    if let Ok(folder) = kept {
        cubecl::environment::set_root(folder);
    }
}

/// Makes the folder, and sees that files can be made in it and that what is there is a database that can be written.
/// CubeCL would do without in silence, and tune anew in every process.
fn writable(folder: &Path, environment: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, [])?;
    fs::remove_file(probe)?;
    let name = format!("{environment}.db");
    let mut file = match fs::OpenOptions::new().read(true).write(true).open(folder.join(&name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?,
    };
    let mut head = Vec::new();
    (&mut file).take(HEAD.len() as u64).read_to_end(&mut head)?;
    if head.is_empty() || head == HEAD {
        return Ok(());
    }
    Err(io::Error::other(format!("{name} is damaged: delete it")))
}

/// What every SQLite file begins with (sqlite.org, "Database File Format", 1.3).
const HEAD: &[u8] = b"SQLite format 3\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_kept_to_only_where_its_database_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        writable(&inner, "default").unwrap();
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 0);
        fs::write(inner.join("default.db"), [HEAD, b"and more"].concat()).unwrap();
        writable(&inner, "default").unwrap();
        fs::write(inner.join("default.db"), "not a database at all").unwrap();
        assert_eq!(writable(&inner, "default").unwrap_err().to_string(), "default.db is damaged: delete it");
        writable(&inner, "other").unwrap();
        assert!(writable(Path::new("/proc/none"), "default").is_err());
    }
}

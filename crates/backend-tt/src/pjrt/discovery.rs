//! Where plugins are.

use std::path::{Path, PathBuf};

/// The variable in which a user names a plugin: the path of a library.
pub const PLUGIN_VARIABLE: &str = "SMOLVLA_PJRT_PLUGIN";

/// The plugin that [`PLUGIN_VARIABLE`] names, whether or not it is there.
pub fn plugin_of_environment() -> Option<PathBuf> {
    std::env::var_os(PLUGIN_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The plugins that `cargo xtask setup` unpacks from wheels, for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheels(PathBuf);

impl Wheels {
    /// Those of a target folder of cargo's.
    pub fn of_target(target: &Path) -> Self {
        Self(target.join("wheels"))
    }

    /// XLA's plugin for the CPU.
    ///
    /// # Errors
    /// Says that it is not there and how to get it.
    pub fn xla_cpu(&self) -> Result<PathBuf, String> {
        self.file("lammps-jax-pjrt-cpu/pjrt_c_api_cpu_plugin.so", "XLA's CPU plugin")
    }

    /// Tenstorrent's plugin.
    ///
    /// # Errors
    /// Says that it is not there and how to get it.
    pub fn tenstorrent(&self) -> Result<PathBuf, String> {
        self.file("jax-tt-plugin/libtt.so", "Tenstorrent's plugin")
    }

    fn file(&self, name: &str, what: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{what} is not here; `cargo xtask setup` fetches it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_wheels_say_how_to_get_them() {
        let wheels = Wheels::of_target(Path::new("/nowhere"));
        for reason in [wheels.xla_cpu().unwrap_err(), wheels.tenstorrent().unwrap_err()] {
            assert!(reason.contains("cargo xtask setup"), "{reason}");
        }
    }
}

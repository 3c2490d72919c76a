//! Devices by name.

use smolvla_core::backend::BackendErrorKind;
use smolvla_core::checkpoint::Checkpoint;
use smolvla_core::graph::LoadProgress;
use smolvla_core::policy::{Policy, PolicyOptions, SmolVla};
use smolvla_core::reference::Reference;
use smolvla_core::{Backend, BackendError, Capabilities, Error, Result};

/// A backend that exists in this library, whether or not this build contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// The name [`Device::open`] and `--backend` take.
    pub name: &'static str,
    /// What it runs on, in a line.
    pub summary: &'static str,
    /// The feature that links it; `None`: always there.
    pub feature: Option<&'static str>,
    /// Whether this build contains it.
    pub built_in: bool,
}

/// Every backend, in the order people should try them.
pub const BACKENDS: [BackendEntry; 5] = [
    BackendEntry {
        name: "cpu",
        summary: "this machine's processor",
        feature: Some("cpu"),
        built_in: cfg!(feature = "cpu"),
    },
    BackendEntry {
        name: "wgpu",
        summary: "a GPU through Vulkan, Metal or DirectX 12 (not built yet)",
        feature: Some("wgpu"),
        built_in: cfg!(feature = "wgpu"),
    },
    BackendEntry {
        name: "tt",
        summary: "a Tenstorrent Blackhole card (not built yet)",
        feature: Some("tt"),
        built_in: cfg!(feature = "tt"),
    },
    BackendEntry {
        name: "fpga",
        summary: "an AMD Alveo U280 card (not built yet)",
        feature: Some("fpga"),
        built_in: cfg!(feature = "fpga"),
    },
    BackendEntry {
        name: "reference",
        summary: "plain loops with f64 sums: the specification, hundreds of times slower",
        feature: None,
        built_in: true,
    },
];

/// An opened backend, ready to load one checkpoint.
///
/// ```
/// use smolvla::Device;
///
/// let device = Device::open("reference")?;
/// assert_eq!(device.capabilities().backend, "reference");
/// assert!(Device::open("abacus").unwrap_err().to_string().contains("`abacus`"));
/// # Ok::<(), smolvla::Error>(())
/// ```
#[derive(Debug)]
pub struct Device {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Reference,
    #[cfg(feature = "cpu")]
    Cpu(smolvla_backend_cpu::CpuBackend),
}

impl Device {
    /// Opens a backend by name: `cpu`, `reference`, `wgpu`, `tt` or `fpga`, with a device number where there
    /// can be several (`wgpu:0`).
    ///
    /// # Errors
    /// [`Error::Input`] for a name that does not exist; [`Error::Backend`] when this build lacks the backend
    /// (naming the feature to enable) or the device cannot be opened.
    pub fn open(name: &str) -> Result<Self> {
        let (backend, selector) = match name.split_once(':') {
            Some((backend, selector)) => (backend, Some(selector)),
            None => (name, None),
        };
        let entry = find(backend)?;
        if selector.is_some() && matches!(backend, "cpu" | "reference") {
            return Err(Error::input("backend", format!("`{name}`: `{backend}` takes no device number")));
        }
        if !entry.built_in {
            return Err(not_linked(entry).into());
        }
        let kind = match backend {
            "reference" => Kind::Reference,
            #[cfg(feature = "cpu")]
            "cpu" => Kind::Cpu(smolvla_backend_cpu::open()),
            #[cfg(feature = "wgpu")]
            "wgpu" => match smolvla_backend_wgpu::open(selector)? {},
            #[cfg(feature = "tt")]
            "tt" => match smolvla_backend_tt::open(selector)? {},
            #[cfg(feature = "fpga")]
            "fpga" => match smolvla_backend_fpga::open(selector)? {},
            _ => return Err(not_linked(entry).into()),
        };
        Ok(Self { kind })
    }

    /// What the device is and can do.
    pub fn capabilities(&self) -> Capabilities {
        match &self.kind {
            Kind::Reference => Reference.capabilities(),
            #[cfg(feature = "cpu")]
            Kind::Cpu(backend) => backend.capabilities(),
        }
    }

    /// Prepares `checkpoint` on this device; `progress` hears of every layer.
    ///
    /// # Errors
    /// As [`SmolVla::open`].
    pub fn load(
        self,
        checkpoint: &Checkpoint,
        options: &PolicyOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn Policy>> {
        Ok(match self.kind {
            Kind::Reference => Box::new(SmolVla::open(Reference, checkpoint, options, progress)?),
            #[cfg(feature = "cpu")]
            Kind::Cpu(backend) => Box::new(SmolVla::open(backend, checkpoint, options, progress)?),
        })
    }
}

fn find(backend: &str) -> Result<&'static BackendEntry> {
    BACKENDS.iter().find(|entry| entry.name == backend).ok_or_else(|| {
        let names: Vec<_> = BACKENDS.iter().map(|entry| entry.name).collect();
        Error::input("backend", format!("there is no `{backend}`; expected one of {}", names.join(", ")))
    })
}

fn not_linked(entry: &BackendEntry) -> BackendError {
    let feature = entry.feature.unwrap_or(entry.name);
    BackendError::new(
        entry.name,
        "open",
        BackendErrorKind::Unavailable,
        format!("this build does not contain it; build again with `--features {feature}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_refuses_unknown_names_and_lists_the_known() {
        for name in ["", "CPU", "cuda", ":0", "cuda:1"] {
            let message = Device::open(name).unwrap_err().to_string();
            assert!(message.starts_with("backend: there is no"), "{message}");
            assert!(message.contains("cpu, wgpu, tt, fpga, reference"), "{message}");
        }
    }

    #[test]
    fn open_refuses_a_device_number_where_there_is_one_device() {
        let message = Device::open("reference:1").unwrap_err().to_string();
        assert!(message.contains("takes no device number"), "{message}");
    }

    #[test]
    fn open_names_the_feature_that_is_missing() {
        for entry in BACKENDS.iter().filter(|entry| !entry.built_in) {
            let message = Device::open(entry.name).unwrap_err().to_string();
            assert!(message.contains(&format!("--features {}", entry.name)), "{message}");
        }
    }

    #[test]
    fn open_gives_the_device_that_was_asked_for() {
        assert_eq!(Device::open("reference").unwrap().capabilities().backend, "reference");
        #[cfg(feature = "cpu")]
        assert_eq!(Device::open("cpu").unwrap().capabilities().backend, "cpu");
    }
}

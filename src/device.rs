//! Devices by name.

#[cfg(feature = "tt")]
use smolvla_backend_tt::Opened;
use smolvla_core::backend::BackendErrorKind;
use smolvla_core::checkpoint::Checkpoint;
use smolvla_core::graph::LoadProgress;
use smolvla_core::policy::{Policy, PolicyOptions, SmolVla};
use smolvla_core::reference::Reference;
use smolvla_core::{Backend, BackendError, Capabilities, Error, Precision, PrecisionPlan, Result};

/// A backend of this library, whether or not this build contains it.
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
pub const BACKENDS: [BackendEntry; 6] = [
    BackendEntry {
        name: "cpu",
        summary: "this machine's processor",
        feature: Some("cpu"),
        built_in: cfg!(feature = "cpu"),
    },
    BackendEntry {
        name: "wgpu",
        summary: "a GPU through Vulkan, Metal or DirectX 12",
        feature: Some("wgpu"),
        built_in: cfg!(feature = "wgpu"),
    },
    BackendEntry {
        name: "tt",
        summary: "a Tenstorrent Blackhole: its arithmetic in software, or a card through its PJRT plugin",
        feature: Some("tt"),
        built_in: cfg!(feature = "tt"),
    },
    BackendEntry {
        name: "fpga",
        summary: "an AMD Alveo U280: an accelerator of our own design, its arithmetic in software",
        feature: Some("fpga"),
        built_in: cfg!(feature = "fpga"),
    },
    BackendEntry {
        name: "ndarray",
        summary: "this machine's processor through Burn's ndarray engine: slow, and written by others",
        feature: Some("ndarray"),
        built_in: cfg!(feature = "ndarray"),
    },
    BackendEntry {
        name: "reference",
        summary: "plain loops with f64 sums: the specification, minutes a chunk at full size",
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
    #[cfg(feature = "ndarray")]
    NdArray(smolvla_backend_cpu::ndarray::NdArrayBackend),
    #[cfg(feature = "wgpu")]
    Wgpu(Box<smolvla_backend_wgpu::WgpuBackend>),
    #[cfg(feature = "tt")]
    Tt(Opened),
    #[cfg(feature = "fpga")]
    Fpga(smolvla_backend_fpga::Opened),
}

impl Device {
    /// Opens a backend by name: `cpu`, `ndarray`, `reference`, `wgpu`, `tt` or `fpga`, with a device's number or
    /// part of its name where there can be several (`wgpu:0`, `wgpu:nvidia`, `tt:emulator`, `tt:pjrt:/path/plugin.so`,
    /// `fpga:functional`).
    ///
    /// # Errors
    /// [`Error::Input`] for a name that does not exist; [`Error::Backend`] when this build lacks the backend
    /// (naming the feature to enable), or the device cannot be opened.
    pub fn open(name: &str) -> Result<Self> {
        let (backend, selector) = match name.split_once(':') {
            Some((backend, selector)) => (backend, Some(selector)),
            None => (name, None),
        };
        let entry = find(backend)?;
        if let Some(selector) = selector
            && matches!(backend, "cpu" | "ndarray" | "reference")
        {
            let hint = match Precision::named(selector) {
                Some(_) => format!("; for a precision, `--backend {backend} --precision {selector}`"),
                None => String::new(),
            };
            return Err(Error::input(
                "backend",
                format!("`{name}`: `{backend}` takes no device number{hint}"),
            ));
        }
        if !entry.built_in {
            return Err(absent(entry).into());
        }
        let kind = match backend {
            "reference" => Kind::Reference,
            #[cfg(feature = "cpu")]
            "cpu" => Kind::Cpu(smolvla_backend_cpu::open()?),
            #[cfg(feature = "ndarray")]
            "ndarray" => Kind::NdArray(smolvla_backend_cpu::ndarray::open()),
            #[cfg(feature = "wgpu")]
            "wgpu" => Kind::Wgpu(Box::new(smolvla_backend_wgpu::open(selector)?)),
            #[cfg(feature = "tt")]
            "tt" => Kind::Tt(smolvla_backend_tt::open(selector)?),
            #[cfg(feature = "fpga")]
            "fpga" => Kind::Fpga(smolvla_backend_fpga::open(selector)?),
            _ => return Err(absent(entry).into()),
        };
        let device = Self { kind };
        let capabilities = device.capabilities();
        tracing::info!(backend = capabilities.backend, device = capabilities.device, "device opened");
        Ok(device)
    }

    /// What the device is and can do.
    pub fn capabilities(&self) -> Capabilities {
        match &self.kind {
            Kind::Reference => Reference.capabilities(),
            #[cfg(feature = "cpu")]
            Kind::Cpu(backend) => backend.capabilities(),
            #[cfg(feature = "ndarray")]
            Kind::NdArray(backend) => backend.capabilities(),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(backend) => backend.capabilities(),
            #[cfg(feature = "tt")]
            Kind::Tt(Opened::Emulator(backend)) => backend.capabilities(),
            #[cfg(feature = "tt")]
            Kind::Tt(Opened::Pjrt(backend)) => backend.capabilities(),
            #[cfg(feature = "fpga")]
            Kind::Fpga(backend) => backend.capabilities(),
        }
    }

    /// The plan for those who ask for none: f32, the numbers of the checkpoint; where the device has no f32, the first plan
    /// that it recommends.
    ///
    /// # Errors
    /// [`Error::Input`] for a device that has no f32 and recommends no plan.
    pub fn default_plan(&self) -> Result<PrecisionPlan> {
        let capabilities = self.capabilities();
        let name = match capabilities.precisions.contains(&Precision::F32) {
            true => Precision::F32.name(),
            false => capabilities.plans.first().and_then(PrecisionPlan::name).unwrap_or(PrecisionPlan::AUTO),
        };
        PrecisionPlan::resolve(name, &capabilities)
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
            #[cfg(feature = "ndarray")]
            Kind::NdArray(backend) => Box::new(SmolVla::open(backend, checkpoint, options, progress)?),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(backend) => Box::new(SmolVla::open(*backend, checkpoint, options, progress)?),
            #[cfg(feature = "tt")]
            Kind::Tt(Opened::Emulator(backend)) => {
                Box::new(SmolVla::open(backend, checkpoint, options, progress)?)
            }
            #[cfg(feature = "tt")]
            Kind::Tt(Opened::Pjrt(backend)) => {
                Box::new(SmolVla::open(backend, checkpoint, options, progress)?)
            }
            #[cfg(feature = "fpga")]
            Kind::Fpga(backend) => Box::new(SmolVla::open(backend, checkpoint, options, progress)?),
        })
    }
}

fn find(backend: &str) -> Result<&'static BackendEntry> {
    BACKENDS.iter().find(|entry| entry.name == backend).ok_or_else(|| {
        let names: Vec<_> = BACKENDS.iter().map(|entry| entry.name).collect();
        Error::input("backend", format!("there is no `{backend}`; expected one of {}", names.join(", ")))
    })
}

/// Why a backend that this build does not contain cannot be opened.
fn absent(entry: &BackendEntry) -> BackendError {
    let feature = entry.feature.unwrap_or(entry.name);
    let message = format!("this build does not contain it; build again with `--features {feature}`");
    BackendError::new(entry.name, "open", BackendErrorKind::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_refuses_unknown_names_and_lists_the_known() {
        for name in ["", "CPU", "cuda", ":0", "cuda:1"] {
            let message = Device::open(name).unwrap_err().to_string();
            assert!(message.starts_with("backend: there is no"), "{message}");
            assert!(message.contains("cpu, wgpu, tt, fpga, ndarray, reference"), "{message}");
        }
    }

    #[test]
    fn open_refuses_a_device_number_where_there_is_one_device() {
        let message = Device::open("reference:1").unwrap_err().to_string();
        assert!(message.ends_with("takes no device number"), "{message}");
        let message = Device::open("reference:int8").unwrap_err().to_string();
        assert!(message.contains("--backend reference --precision int8"), "{message}");
    }

    #[test]
    fn absent_backends_name_the_missing_feature() {
        let cpu = absent(&BACKENDS[0]).to_string();
        assert!(cpu.contains("--features cpu"), "{cpu}");
        for entry in BACKENDS.iter().filter(|entry| !entry.built_in) {
            let message = Device::open(entry.name).unwrap_err().to_string();
            assert!(message.contains(&format!("--features {}", entry.name)), "{message}");
        }
    }

    #[test]
    fn default_plan_is_f32_or_else_what_the_device_recommends() {
        assert_eq!(Device::open("reference").unwrap().default_plan().unwrap(), Precision::F32.into());
        #[cfg(feature = "tt")]
        {
            let device = Device::open("tt:emulator").unwrap();
            assert_eq!(device.default_plan().unwrap(), device.capabilities().plans[0]);
        }
    }

    #[test]
    fn open_gives_the_device_that_was_asked_for() {
        assert_eq!(Device::open("reference").unwrap().capabilities().backend, "reference");
        #[cfg(feature = "cpu")]
        assert_eq!(Device::open("cpu").unwrap().capabilities().backend, "cpu");
        #[cfg(feature = "fpga")]
        assert_eq!(Device::open("fpga:functional").unwrap().capabilities().backend, "fpga");
    }
}

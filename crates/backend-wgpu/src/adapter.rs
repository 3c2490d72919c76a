//! Graphics adapters: listing them, and choosing one.

use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use burn::tensor::DeviceKind;
use burn_wgpu::{WgpuBackend as GraphicsApi, wgpu};
use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::NAME;

/// The graphics interfaces that are asked for adapters, best first.
const INTERFACES: [(wgpu::Backends, GraphicsApi, &str); 3] = [
    (wgpu::Backends::VULKAN, GraphicsApi::Vulkan, "Vulkan"),
    (wgpu::Backends::METAL, GraphicsApi::Metal, "Metal"),
    (wgpu::Backends::DX12, GraphicsApi::Dx12, "DirectX 12"),
];

/// A graphics adapter of this machine, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Adapter {
    /// Its place in the list: `--backend wgpu:INDEX` opens it.
    pub index: usize,
    /// The device's name, as its driver gives it.
    pub name: String,
    /// "Vulkan", "Metal" or "DirectX 12".
    pub interface: &'static str,
    /// What kind of device it is.
    pub kind: AdapterKind,
    /// The driver and its version; empty where it does not say.
    pub driver: String,
    /// Whether shaders can compute with 16-bit floats, which `f16` needs.
    pub f16: bool,
    /// Whether the units of a workgroup can exchange values directly.
    pub subgroups: bool,
    /// Sizes of those groups of units, least and most; 0 where the driver does not say.
    pub subgroup_sizes: [u32; 2],
    /// The largest buffer a shader can be given, in bytes.
    pub max_binding_bytes: u64,
    /// The largest buffer that can be made, in bytes.
    pub max_buffer_bytes: u64,
    /// Memory that the units of a workgroup share, in bytes.
    pub workgroup_bytes: u32,
    /// Units in a workgroup, at most.
    pub workgroup_units: u32,
    /// Storage buffers that a shader can be given, at most.
    pub storage_bindings: u32,
    /// How Burn finds it: the interface, and the number among adapters of its kind.
    #[serde(skip)]
    pub(crate) place: Place,
}

/// What kind of device an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AdapterKind {
    /// A graphics card with memory of its own.
    DiscreteGpu,
    /// A GPU that shares the processor's memory.
    IntegratedGpu,
    /// A GPU lent by a virtual machine's host.
    VirtualGpu,
    /// Something that its driver does not name.
    Other,
    /// No GPU: a program on the processor that stands in for one.
    Software,
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DiscreteGpu => "discrete GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::VirtualGpu => "virtual GPU",
            Self::Other => "unnamed kind of device",
            Self::Software => "software renderer, no GPU",
        })
    }
}

/// How Burn finds an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Index into [`INTERFACES`].
    interface: usize,
    kind: AdapterKind,
    /// Among adapters of that interface and kind.
    number: usize,
}

impl Adapter {
    /// Whether the processor stands in for a GPU.
    pub fn is_software(&self) -> bool {
        self.kind == AdapterKind::Software
    }

    pub(crate) fn device_kind(&self) -> Option<DeviceKind> {
        let Place { kind, number, .. } = self.place;
        Some(match kind {
            AdapterKind::DiscreteGpu => DeviceKind::DiscreteGpu(number),
            AdapterKind::IntegratedGpu => DeviceKind::IntegratedGpu(number),
            AdapterKind::VirtualGpu => DeviceKind::VirtualGpu(number),
            AdapterKind::Software if number == 0 => DeviceKind::Cpu,
            // Burn names one software renderer, and none of the others.
            AdapterKind::Software | AdapterKind::Other => return None,
        })
    }

    pub(crate) fn graphics_api(&self) -> GraphicsApi {
        INTERFACES[self.place.interface].1
    }
}

/// `0: NVIDIA H200 (Vulkan, discrete GPU)`.
impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, name, interface, kind, .. } = self;
        write!(f, "{index}: {name} ({interface}, {kind})")
    }
}

/// Every adapter of this machine, in the order of `--backend wgpu:0`, `wgpu:1`, …: graphics cards first, software
/// last. Empty where there is no driver.
pub fn adapters() -> Vec<Adapter> {
    // The Vulkan loader does not survive instances that come and go on several threads at once: one instance an
    // interface is made, by one thread, and kept.
    static INSTANCES: LazyLock<Mutex<[wgpu::Instance; INTERFACES.len()]>> = LazyLock::new(|| {
        Mutex::new(INTERFACES.map(|(backends, ..)| {
            wgpu::Instance::new(wgpu::InstanceDescriptor {
                backends,
                ..wgpu::InstanceDescriptor::new_without_display_handle()
            })
        }))
    });
    let instances = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<Adapter> = Vec::new();
    for (interface, instance) in instances.iter().enumerate() {
        let adapters = cubecl::future::block_on(instance.enumerate_adapters(INTERFACES[interface].0));
        for adapter in adapters {
            let kind = match adapter.get_info().device_type {
                wgpu::DeviceType::DiscreteGpu => AdapterKind::DiscreteGpu,
                wgpu::DeviceType::IntegratedGpu => AdapterKind::IntegratedGpu,
                wgpu::DeviceType::VirtualGpu => AdapterKind::VirtualGpu,
                wgpu::DeviceType::Cpu => AdapterKind::Software,
                wgpu::DeviceType::Other => AdapterKind::Other,
            };
            let same = |other: &&Adapter| (other.place.interface, other.kind) == (interface, kind);
            let number = found.iter().filter(same).count();
            found.push(describe(&adapter, Place { interface, kind, number }));
        }
    }
    // Stable: within a kind, in the order of the interfaces and of the drivers.
    found.sort_by_key(|adapter| adapter.kind);
    for (index, adapter) in found.iter_mut().enumerate() {
        adapter.index = index;
    }
    found
}

fn describe(adapter: &wgpu::Adapter, place: Place) -> Adapter {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    Adapter {
        index: 0,
        name: info.name,
        interface: INTERFACES[place.interface].2,
        kind: place.kind,
        driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
        max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        max_buffer_bytes: limits.max_buffer_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        workgroup_units: limits.max_compute_invocations_per_workgroup,
        storage_bindings: limits.max_storage_buffers_per_shader_stage,
        place,
    }
}

/// The adapter that `selector` means: nothing, a number of the list, or a part of one's name with a letter in it.
pub(crate) fn choose<'a>(
    adapters: &'a [Adapter],
    selector: Option<&str>,
) -> Result<&'a Adapter, BackendError> {
    let error = |kind, message| Err(BackendError::new(NAME, "open", kind, message));
    let Some(first) = adapters.first() else {
        return error(BackendErrorKind::Unavailable, NONE.to_owned());
    };
    let best = adapters.iter().find(|adapter| adapter.device_kind().is_some()).unwrap_or(first);
    let list = || adapters.iter().map(Adapter::to_string).collect::<Vec<_>>().join("; ");
    let Some(selector) = selector else { return Ok(best) };
    if let Some(adapter) = selector.parse().ok().and_then(|index: usize| adapters.get(index)) {
        return Ok(adapter);
    }
    // A number that is no adapter's must not open one whose name has a digit of it.
    let is_name = selector.contains(char::is_alphabetic);
    let wanted = selector.to_lowercase();
    let is_named = |adapter: &&Adapter| is_name && adapter.name.to_lowercase().contains(&wanted);
    let named: Vec<&Adapter> = adapters.iter().filter(is_named).collect();
    // One card behind several interfaces (Vulkan and DirectX 12 on Windows): the list has the best interface first.
    let is_one_card = |a: &Adapter, b: &Adapter| a.name == b.name && a.interface != b.interface;
    match named[..] {
        [adapter] => Ok(adapter),
        [best, ref others @ ..] if others.iter().all(|other| is_one_card(best, other)) => Ok(best),
        [] => error(
            BackendErrorKind::Unavailable,
            format!("no adapter has `{selector}` as its number or in its name; the adapters are {}", list()),
        ),
        _ => error(
            BackendErrorKind::InvalidArgument,
            format!(
                "`{selector}` is in the names of {} adapters; choose one by number: {}",
                named.len(),
                list()
            ),
        ),
    }
}

/// What to do where there is no adapter at all.
const NONE: &str = "no graphics adapter was found through Vulkan, Metal or DirectX 12. Install the driver of your \
                    GPU (on Linux with its Vulkan part; `vulkaninfo --summary` must list it). Without a GPU, a \
                    software renderer runs everything slowly: on Debian and Ubuntu `apt-get install \
                    mesa-vulkan-drivers`. Or use --backend cpu";

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, kind: AdapterKind) -> Adapter {
        Adapter {
            index,
            name: name.to_owned(),
            interface: "Vulkan",
            kind,
            driver: String::new(),
            f16: true,
            subgroups: true,
            subgroup_sizes: [32, 32],
            max_binding_bytes: 1 << 27,
            max_buffer_bytes: 1 << 31,
            workgroup_bytes: 1 << 15,
            workgroup_units: 1024,
            storage_bindings: 8,
            place: Place { interface: 0, kind, number: 0 },
        }
    }

    fn two_cards() -> [Adapter; 3] {
        [
            adapter(0, "NVIDIA GeForce RTX 4090", AdapterKind::DiscreteGpu),
            adapter(1, "NVIDIA GeForce RTX 3060", AdapterKind::DiscreteGpu),
            adapter(2, "llvmpipe (LLVM 15.0.6, 256 bits)", AdapterKind::Software),
        ]
    }

    #[test]
    fn choose_takes_the_first_a_number_or_a_part_of_a_name() {
        let adapters = two_cards();
        let chosen = |selector| choose(&adapters, selector).unwrap().index;
        assert_eq!(chosen(None), 0);
        assert_eq!(chosen(Some("1")), 1);
        assert_eq!(chosen(Some("rtx 3060")), 1);
        assert_eq!(chosen(Some("LLVMpipe")), 2);
    }

    #[test]
    fn choose_lists_the_adapters_where_the_selector_fits_none_or_several() {
        let adapters = two_cards();
        for (selector, part) in [
            ("7", "no adapter has `7` as its number or in its name"),
            ("99999999999999999999999", "no adapter has `99999999999999999999999`"),
            ("3060", "no adapter has `3060`"),
            (" ", "no adapter has ` `"),
            ("radeon", "no adapter has `radeon`"),
            ("", "no adapter has ``"),
            ("nvidia", "in the names of 2 adapters"),
        ] {
            let error = choose(&adapters, Some(selector)).unwrap_err().to_string();
            assert!(error.starts_with("wgpu: open: ") && error.contains(part), "{error}");
            assert!(error.contains(" 0: NVIDIA GeForce RTX 4090 (Vulkan, discrete GPU); 1: "), "{error}");
            assert!(error.contains("; 2: llvmpipe"), "{error}");
        }
    }

    #[test]
    fn choose_takes_the_best_interface_of_one_card() {
        let mut adapters =
            [adapter(0, "Radeon", AdapterKind::DiscreteGpu), adapter(1, "Radeon", AdapterKind::DiscreteGpu)];
        assert!(choose(&adapters, Some("radeon")).is_err());
        adapters[1].interface = "DirectX 12";
        assert_eq!(choose(&adapters, Some("radeon")).unwrap().index, 0);
    }

    #[test]
    fn choose_passes_over_what_cannot_be_opened() {
        let adapters =
            [adapter(0, "thing", AdapterKind::Other), adapter(1, "llvmpipe", AdapterKind::Software)];
        assert_eq!(choose(&adapters, None).unwrap().index, 1);
    }

    #[test]
    fn choose_says_how_to_get_an_adapter_where_there_is_none() {
        let error = choose(&[], None).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unavailable);
        for part in ["no graphics adapter", "mesa-vulkan-drivers", "--backend cpu"] {
            assert!(error.message.contains(part), "{error}");
        }
    }
}

//! How many compute units a U280 holds, by what synthesis says that one takes.
//!
//! `synth/resources.csv` is written by `cargo xtask synth` (Yosys); nothing was placed or routed.

use std::fmt::Write as _;

/// Counts of the device's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// DSP48E2 slices.
    pub dsp: u64,
    /// Lookup tables, those used as memory included.
    pub lut: u64,
    /// Flip-flops.
    pub ff: u64,
    /// Block RAMs of 18 Kib; one of 36 Kib is two.
    pub bram18: u64,
    /// UltraRAMs of 288 Kib.
    pub uram: u64,
}

impl Resources {
    /// Each with its name, in one order.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("DSP48E2", self.dsp),
            ("LUT", self.lut),
            ("FF", self.ff),
            ("RAMB18E2", self.bram18),
            ("URAM288", self.uram),
        ]
    }
}

/// A module of the design.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// How often it is in a compute unit.
    pub instances: u64,
    /// What all of them take, with the modules in them.
    pub resources: Resources,
}

/// The XCU280 of the card: AMD, Alveo U280 Data Center Accelerator Card Data Sheet, DS963.
pub const CARD: Resources =
    Resources { dsp: 9_024, lut: 1_303_680, ff: 2_607_360, bram18: 2 * 2_016, uram: 960 };

/// What the card's PCIe platform takes. *Assumed*: figures in use for `xilinx_u280_gen3x16_xdma_1_202211_1`, not checked with the
/// platform itself.
pub const PLATFORM: Resources = Resources { dsp: 4, lut: 107_629, ff: 136_086, bram18: 391, uram: 0 };

/// The share of each resource of the card, platform included, that a design is given. *Assumed*: fuller devices seldom close timing.
pub const UTILISATION: f64 = 0.85;

/// Pseudo-channels of the HBM; each compute unit has a port of its own.
pub const CHANNELS: u64 = 32;

/// The top module.
pub const COMPUTE_UNIT: &str = "smolvla_cu";

/// Multiply-accumulates of a compute unit in a cycle.
pub const MACS: u64 =
    (crate::descriptor::TILE_ROWS * crate::descriptor::TILE_COLS * crate::descriptor::TILE_DEPTH) as u64;

const RECORDED: &str = include_str!("../synth/resources.csv");

/// All modules, by name.
pub fn modules() -> Vec<Module> {
    RECORDED.lines().filter(|line| !line.starts_with('#')).skip(1).filter_map(module).collect()
}

fn module(line: &'static str) -> Option<Module> {
    let mut fields = line.split(',');
    let name = fields.next()?;
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (instances, dsp, lut, ff) = (number()?, number()?, number()?, number()?);
    let (ramb36, ramb18, uram) = (number()?, number()?, number()?);
    let resources = Resources { dsp, lut, ff, bram18: 2 * ramb36 + ramb18, uram };
    Some(Module { name, instances, resources })
}

/// What one compute unit takes.
pub fn compute_unit() -> Resources {
    let all = modules();
    all.iter().find(|module| module.name == COMPUTE_UNIT).map(|module| module.resources).unwrap_or_default()
}

/// How many compute units fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Units.
    pub units: u64,
    /// What there is not enough of for another.
    pub bound_by: &'static str,
}

/// How many compute units fit a U280 with [`PLATFORM`] at [`UTILISATION`].
pub fn fit() -> Fit {
    let mut fit = Fit { units: CHANNELS, bound_by: "HBM pseudo-channels" };
    let taken = compute_unit().named().into_iter().zip(PLATFORM.named()).zip(CARD.named());
    for (((name, unit), (_, platform)), (_, card)) in taken {
        let room = (card as f64 * UTILISATION) as u64 - platform;
        if let Some(units) = room.checked_div(unit)
            && units < fit.units
        {
            fit = Fit { units, bound_by: name };
        }
    }
    fit
}

/// The table of modules, in Markdown.
pub fn table() -> String {
    let mut text = "| module | instances | DSP48E2 | LUT | FF | RAMB36E2 | URAM288 |\n|---|---:|---:|---:|---:|---:|---:|\n".to_owned();
    let row = |text: &mut String, name: &str, instances: &str, r: &Resources| {
        let half = if r.bram18 % 2 == 1 { ".5" } else { "" };
        let _ = writeln!(
            text,
            "| {name} | {instances} | {} | {} | {} | {}{half} | {} |",
            r.dsp,
            thousands(r.lut),
            thousands(r.ff),
            r.bram18 / 2,
            r.uram
        );
    };
    for module in modules() {
        let name = format!("`{}`", module.name);
        let name = if module.name == COMPUTE_UNIT { format!("**{name}**, the compute unit") } else { name };
        row(&mut text, &name, &module.instances.to_string(), &module.resources);
    }
    text
}

/// The table of the card, in Markdown: what a unit, all that fit and the platform take.
pub fn card_table() -> String {
    let Fit { units, .. } = fit();
    let mut text = format!(
        "| | card | platform, assumed | one unit | {units} units and platform | of the card |\n|---|---:|---:|---:|---:|---:|\n"
    );
    let taken = compute_unit().named().into_iter().zip(PLATFORM.named()).zip(CARD.named());
    for (((name, unit), (_, platform)), (_, card)) in taken {
        let all = units * unit + platform;
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {:.0} % |",
            thousands(card),
            thousands(platform),
            thousands(unit),
            thousands(all),
            all as f64 / card as f64 * 100.0
        );
    }
    text
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_array_is_half_as_many_slices_as_products() {
        let all = modules();
        let of = |name: &str| all.iter().find(|module| module.name == name).unwrap();
        assert_eq!(of("dsp_mac").instances, MACS / 2);
        assert_eq!(of("dsp_mac").resources.dsp, MACS / 2);
        assert_eq!(of("gemm_array").resources.dsp, MACS / 2);
        let unit = compute_unit();
        for part in
            ["gemm_engine", "vector_engine", "sequencer", "control", "axi_read_master", "axi_write_master"]
        {
            let part = of(part);
            for ((name, own), (_, whole)) in part.resources.named().into_iter().zip(unit.named()) {
                assert!(own <= whole, "{}: {own} {name} of {whole}", part.name);
            }
        }
        // The buffers of the activations are UltraRAM, those of the weights block RAM.
        assert!(of("activation_buffer").resources.uram > 0 && of("weight_buffer").resources.bram18 > 0);
    }

    #[test]
    fn as_many_units_fit_as_are_said_to_and_not_one_more() {
        let fit = fit();
        let within = |units: u64| {
            let mut taken = compute_unit().named().into_iter().zip(PLATFORM.named()).zip(CARD.named());
            units <= CHANNELS
                && taken.all(|(((_, unit), (_, platform)), (_, card))| {
                    (units * unit + platform) as f64 <= card as f64 * UTILISATION
                })
        };
        assert!(fit.units > 0 && within(fit.units) && !within(fit.units + 1), "{fit:?}");
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_303_680].map(thousands), ["0", "999", "1,000", "1,303,680"]);
    }
}

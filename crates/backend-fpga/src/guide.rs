//! The tables of `docs/u280.md`, from the model itself.

use std::fmt::Write as _;
use std::path::Path;

use smolvla_core::Precision;

use crate::latency::{self, Latency, Part, Recorder, Recording, Settings};
use crate::resources;

const COMMAND: &str = "SMOLVLA_WRITE_DOCS=1 cargo test --release -p smolvla-backend-fpga guide";

/// Chunks of one to three cameras.
fn recordings(precision: Precision) -> [Recording; 3] {
    let mut recorder = Recorder::of_base(precision).unwrap();
    [1, 2, 3].map(|cameras| recorder.record(cameras).unwrap())
}

fn cameras(number: usize) -> String {
    if number == 1 { "1 camera".to_owned() } else { format!("{number} cameras") }
}

/// Parts by cameras, units and precision at 300 MHz.
fn stages(int8: &[Recording; 3], full: &[Recording; 3]) -> String {
    let card = Settings::card();
    let one = Settings { units: 1, ..card };
    let mut rows: Vec<(String, Latency)> = Vec::new();
    for (name, recordings) in [("int8", int8), ("int8full", full)] {
        for settings in [card, one] {
            for (number, recording) in recordings.iter().enumerate() {
                let units = if settings.units == 1 {
                    "1 unit".to_owned()
                } else {
                    format!("{} units", settings.units)
                };
                let name = format!("`{name}`, {units}, {}", cameras(number + 1));
                rows.push((name, Latency::of(recording, settings)));
            }
        }
    }
    latency::stages_table(
        &rows.iter().map(|(name, latency)| (name.as_str(), latency.clone())).collect::<Vec<_>>(),
    )
}

/// Chunks by clock.
fn clocks(int8: &[Recording; 3], full: &[Recording; 3]) -> String {
    let card = Settings::card();
    let mut text =
        "| modelled, ms a chunk | 200 MHz | 250 MHz | 300 MHz |\n|---|---:|---:|---:|\n".to_owned();
    for (name, recordings) in [("int8", int8), ("int8full", full)] {
        for units in [card.units, 1] {
            for (number, recording) in recordings.iter().enumerate() {
                let of = |clock| Latency::of(recording, Settings { units, clock }).total() * 1e3;
                let units = if units == 1 { "1 unit".to_owned() } else { format!("{units} units") };
                let _ = writeln!(
                    text,
                    "| `{name}`, {units}, {} | {:.0} | {:.0} | {:.0} |",
                    cameras(number + 1),
                    of(200e6),
                    of(250e6),
                    of(300e6)
                );
            }
        }
    }
    text
}

/// What the time of one camera passes with.
fn bounds(int8: &[Recording; 3]) -> String {
    let card = Settings::card();
    let all = format!("{} units", card.units);
    let one = Latency::of(&int8[0], Settings { units: 1, ..card });
    latency::bounds_table(&[(&all, Latency::of(&int8[0], card)), ("1 unit", one)])
}

/// Descriptors of a chunk of one camera.
fn descriptors(int8: &[Recording; 3]) -> String {
    let mut text =
        "| one camera | descriptors | cycles of one unit, millions | of them with the array multiplying | GB moved |\n|---|---:|---:|---:|---:|\n".to_owned();
    for part in Part::ALL {
        let costs: Vec<_> = int8[0].of(part).map(crate::cycles::of).collect();
        let sum = |of: fn(&crate::cycles::Cost) -> u64| costs.iter().map(of).sum::<u64>() as f64;
        let cycles = sum(|cost| cost.cycles);
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {:.0} % | {:.2} |",
            part.name(),
            costs.len(),
            cycles / 1e6,
            sum(|cost| cost.array) / cycles * 100.0,
            sum(|cost| cost.beats_read + cost.beats_written) * 64.0 / 1e9
        );
    }
    text
}

/// `text` with the table after each marker put in.
fn with_tables(text: &str) -> String {
    let (int8, full) = (recordings(Precision::Int8), recordings(Precision::Int8Full));
    let fit = resources::fit();
    let fits = format!("**{} compute units fit**; a further one lacks {}.\n", fit.units, fit.bound_by);
    let mut text = text.to_owned();
    for (name, table) in [
        ("resources", resources::table()),
        ("card", resources::card_table() + "\n" + &fits),
        ("descriptors", descriptors(&int8)),
        ("stages", stages(&int8, &full)),
        ("clocks", clocks(&int8, &full)),
        ("bounds", bounds(&int8)),
    ] {
        let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end -->");
        let start = text.find(&begin).unwrap_or_else(|| panic!("no marker {begin}")) + begin.len();
        let length = text[start..].find(end).unwrap_or_else(|| panic!("no end of {name}"));
        text.replace_range(start..start + length, &table);
    }
    text
}

#[test]
fn tables_of_the_guide_are_those_of_the_model() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/u280.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let expected = with_tables(&text);
    if text == expected {
        return;
    }
    if std::env::var_os("SMOLVLA_WRITE_DOCS").is_some() {
        std::fs::write(&file, expected).unwrap();
        return;
    }
    panic!("docs/u280.md is out of date: run `{COMMAND}` and read what changed");
}

/// The cost model has a device file of its own: it must describe this design.
#[test]
fn preset_of_the_cost_model_is_this_design() {
    let device = smolvla_core::cost::Device::named("u280").unwrap();
    let units = resources::fit().units;
    let peak = device.peak(smolvla_core::cost::Format::Int8).unwrap();
    let tops = (units * resources::MACS * 2) as f64 * 300e6 / 1e12;
    assert!((peak.tops - tops).abs() < 1e-9, "{} TOP/s of {units} units, {} in the preset", tops, peak.tops);
    let array = device.array.as_ref().unwrap();
    let (rows, columns, depth) =
        (crate::descriptor::TILE_ROWS, crate::descriptor::TILE_COLS, crate::descriptor::TILE_DEPTH);
    assert_eq!((array.rows, array.columns, array.depth), (rows as u64, columns as u64, depth as u64));
    let source = &peak.source;
    let dsp = resources::compute_unit().dsp;
    let stated = format!("{units} x {dsp} = {}", units * dsp).replace(',', "");
    assert!(source.replace(',', "").contains(&stated), "{stated} is not in: {source}");
    // What is left on chip, in bytes of 8 bits without parity's share: 4.5 and 36 KiB a memory.
    let unit = resources::compute_unit();
    let left = |card: u64, platform: u64, unit: u64, kib: f64| {
        (card - platform - units * unit) as f64 * kib * 1024.0
    };
    let bytes = left(resources::CARD.bram18, resources::PLATFORM.bram18, unit.bram18, 2.25)
        + left(resources::CARD.uram, resources::PLATFORM.uram, unit.uram, 36.0);
    let mb = device.on_chip.as_ref().unwrap().mb;
    assert!((mb - bytes / 1e6).abs() < 0.06, "{:.1} MB are left on chip, {mb} in the preset", bytes / 1e6);
}

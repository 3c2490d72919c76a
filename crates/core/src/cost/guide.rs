//! The tables of `docs/cost-model.md`, from the model itself.

use std::fmt::Write as _;
use std::path::Path;

use super::*;
use crate::count::{Part, Trace, Workload, count};
use crate::synth::{self, Size, SynthOptions};

/// Devices of the guide with the numbers that each is made for.
const DEVICES: [(&str, &str); 7] = [
    ("u280", "int8"),
    ("p150", "bfp8"),
    ("h200", "bf16"),
    ("rtx4090", "bf16"),
    ("orin", "bf16"),
    ("cpu", "bf16"),
    ("cpu-amx", "bf16"),
];

fn traced(change: impl Fn(&mut Workload)) -> Trace {
    let (policy, architecture) =
        synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() }).unwrap();
    let mut workload = Workload::of(&policy);
    change(&mut workload);
    count(&policy, &architecture, &workload).unwrap()
}

fn cost(trace: &Trace, execution: &Execution, precision: &str, device: &Device) -> Option<Cost> {
    let widths = Widths::named(precision).unwrap();
    device.peak(widths.products).ok()?;
    Some(Cost::of(trace, execution, &widths, device).unwrap())
}

fn ms(cost: Option<&Cost>) -> String {
    cost.map_or("—".to_owned(), |cost| number(cost.total.seconds.total * 1e3))
}

/// Three digits.
fn number(value: f64) -> String {
    match value {
        value if value >= 99.5 => format!("{value:.0}"),
        value if value >= 9.95 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|---|{}\n", head.join(" | "), "---:|".repeat(head.len() - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn bounds() -> String {
    let trace = traced(|_| ());
    let rows = DEVICES.map(|(name, precision)| {
        let device = Device::named(name).unwrap();
        let cost = cost(&trace, &Execution::default(), precision, &device).unwrap();
        let mut row = vec![format!("`{name}`, {precision}")];
        for part in [Part::Vision, Part::Text, Part::Expert] {
            let sums = cost.part(part);
            row.push(format!("{} ms, {}", number(sums.seconds.total * 1e3), sums.bound().name()));
        }
        row.push(format!("{} ms", ms(Some(&cost))));
        row.push(format!("{} ms", number(cost.total.seconds.roof * 1e3)));
        row
    });
    table(&["device", "vision", "text", "expert", "chunk", "roof"], rows)
}

fn precisions() -> String {
    let trace = traced(|_| ());
    let names = ["f32", "bf16", "bfp8", "fp8", "int8", "int8w", "int4", "int4w"];
    let rows = DEVICES.map(|(name, _)| {
        let device = Device::named(name).unwrap();
        let times = names.map(|name| ms(cost(&trace, &Execution::default(), name, &device).as_ref()));
        std::iter::once(format!("`{name}`")).chain(times).collect()
    });
    table(&["ms a chunk", "f32", "bf16", "bfp8", "fp8", "int8", "int8w", "int4", "int4w"], rows)
}

fn fusion() -> String {
    let trace = traced(|_| ());
    let rows = DEVICES.map(|(name, precision)| {
        let device = Device::named(name).unwrap();
        let unfused = Execution { unfused_attention: true, ..Execution::default() };
        let executions = [unfused]
            .into_iter()
            .chain(Fusion::ALL.map(|fusion| Execution { fusion, ..Execution::default() }));
        let times = executions.map(|execution| ms(cost(&trace, &execution, precision, &device).as_ref()));
        std::iter::once(format!("`{name}`, {precision}")).chain(times).collect()
    });
    table(&["ms a chunk", "scores through memory", "operations", "blocks", "layers"], rows)
}

fn batching() -> String {
    let sizes = [1, 2, 4, 8];
    let traces = sizes.map(|batch| traced(|w| w.batch = batch));
    let rows = DEVICES.map(|(name, precision)| {
        let device = Device::named(name).unwrap();
        let mut row = vec![format!("`{name}`, {precision}")];
        for (trace, batch) in traces.iter().zip(sizes) {
            let cost = cost(trace, &Execution::default(), precision, &device).unwrap();
            row.push(number(cost.total.seconds.total * 1e3 / batch as f64));
        }
        row
    });
    table(&["ms an observation", "batch 1", "2", "4", "8"], rows)
}

fn cameras() -> String {
    let traces = [1, 2, 3, 4].map(|cameras| traced(|w| w.cameras = cameras));
    let apart = traced(|w| (w.cameras, w.images_together) = (3, false));
    let rows = DEVICES.map(|(name, precision)| {
        let device = Device::named(name).unwrap();
        let of = |trace| ms(cost(trace, &Execution::default(), precision, &device).as_ref());
        std::iter::once(format!("`{name}`, {precision}"))
            .chain(traces.iter().map(of))
            .chain([of(&apart)])
            .collect()
    });
    table(&["ms a chunk", "1 camera", "2", "3", "4", "3, one by one"], rows)
}

fn bandwidth() -> String {
    let trace = traced(|_| ());
    let rows = DEVICES.map(|(name, precision)| {
        let mut row = vec![format!("`{name}`, {precision}")];
        for factor in [0.25, 0.5, 1.0, 2.0] {
            let device = Device::named(name).unwrap().with_bandwidth(factor).unwrap();
            row.push(ms(cost(&trace, &Execution::default(), precision, &device).as_ref()));
        }
        let device = Device::named(name).unwrap();
        let resident_bytes = device.on_chip.as_ref().map_or(0.0, |on_chip| on_chip.mb * 1e6);
        let resident = Execution { resident_bytes, ..Execution::default() };
        row.push(ms(cost(&trace, &resident, precision, &device).as_ref()));
        row
    });
    table(&["ms a chunk", "¼ of the bandwidth", "½", "1", "2", "expert's weights on chip"], rows)
}

/// `text` with the table after each marker put in.
fn with_tables(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, table) in [
        ("bounds", bounds()),
        ("precisions", precisions()),
        ("fusion", fusion()),
        ("batching", batching()),
        ("cameras", cameras()),
        ("bandwidth", bandwidth()),
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
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cost-model.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let expected = with_tables(&text);
    if text == expected {
        return;
    }
    if std::env::var_os("SMOLVLA_WRITE_DOCS").is_some() {
        std::fs::write(&file, expected).unwrap();
        return;
    }
    panic!(
        "docs/cost-model.md is out of date: run this test once with SMOLVLA_WRITE_DOCS=1 and read what changed"
    );
}

//! The report: one page that needs nothing beside it, and its pictures as files.

use std::fs;
use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use smolvla::cost::Widths;
use smolvla::cost::measured::Calibration;
use smolvla::count::MOST_IMAGES;

use super::pictures::{self, Picture};
use super::scenario::{Evaluated, Scenario};
use super::sweep::{Axis, Sweep};
use super::tables::Table;
use super::views::{self, Point};
use super::{above_roof, points, summary};
use crate::charts::Theme;
use crate::console::Task;
use crate::failure::Failure;
use crate::output_file;

const STYLE: &str = include_str!("report.css");

/// Writes `index.html` and the pictures into `folder`, which is made where it is absent. Returns the page.
pub(crate) fn write(
    folder: &Path,
    scenario: &Scenario,
    evaluated: &Evaluated,
    mut sweeps: Vec<(Sweep, Vec<Point>)>,
    calibration: Option<&Calibration>,
    task: &Task,
) -> Result<PathBuf, Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::write(folder, &error))?;
    for usual in usual_sweeps(scenario) {
        if sweeps.iter().all(|(sweep, _)| sweep.axis != usual.axis) {
            let points = points(scenario, &usual)?;
            sweeps.push((usual, points));
        }
    }
    let mut drawn = pictures::of(scenario, evaluated, calibration);
    drawn.extend(sweeps.iter().filter_map(|(sweep, points)| pictures::bars(scenario, sweep, points)));

    let mut inline = Vec::new();
    for (index, picture) in drawn.iter().enumerate() {
        task.set(index as u64, drawn.len() as u64);
        let light = picture.chart.svg(Theme::Light)?;
        let dark = picture.chart.svg(Theme::Dark)?;
        let file = |suffix: &str| folder.join(format!("{}{suffix}", picture.name));
        output_file::write(&file(".svg"), light.as_bytes())?;
        output_file::write(&file("-dark.svg"), dark.as_bytes())?;
        output_file::write(&file(".png"), &picture.chart.png(Theme::Light)?)?;
        output_file::write(&file("-dark.png"), &picture.chart.png(Theme::Dark)?)?;
        inline.push((picture, light, dark));
    }
    let page = folder.join("index.html");
    let markup = page_of(scenario, evaluated, &sweeps, calibration, &inline);
    output_file::write(&page, markup.into_string().as_bytes())?;
    Ok(page)
}

/// What every report varies, unless its user varied it already.
fn usual_sweeps(scenario: &Scenario) -> Vec<Sweep> {
    let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let precisions = Widths::NAMES
        .into_iter()
        .filter(|name| Widths::named(name).is_ok_and(|widths| scenario.device.peak(widths.products).is_ok()))
        .map(str::to_owned)
        .collect();
    vec![
        Sweep { axis: Axis::Cameras, values: values(&["1", "2", "3", "4"]) },
        Sweep { axis: Axis::Precision, values: precisions },
        Sweep { axis: Axis::Batch, values: values(&["1", "2", "4", "8"]) },
        Sweep { axis: Axis::Bandwidth, values: values(&["0.25", "0.5", "1", "2"]) },
        Sweep { axis: Axis::Fusion, values: values(&["operations", "blocks", "layers"]) },
    ]
    .into_iter()
    // More pictures than fit a count are no failure of a report that nobody asked them of.
    .filter(|sweep| {
        sweep.values.iter().all(|value| {
            sweep.apply(scenario, value).is_ok_and(|varied| {
                varied.workload.batch.saturating_mul(varied.workload.cameras) <= MOST_IMAGES
            })
        })
    })
    .collect()
}

fn page_of(
    scenario: &Scenario,
    evaluated: &Evaluated,
    sweeps: &[(Sweep, Vec<Point>)],
    calibration: Option<&Calibration>,
    pictures: &[(&Picture, String, String)],
) -> Markup {
    let title = format!("{} on {}", scenario.model, scenario.device.title);
    let of = |name: &str| {
        let of = pictures.iter().filter(|(picture, _, _)| picture.name.starts_with(name));
        of.collect::<Vec<_>>()
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Cost: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    p.lead { (summary(evaluated)) "." }
                    p { (scenario.describe_workload()) "; prefix of " (evaluated.trace.prefix_tokens) " tokens." br;
                        (scenario.describe_widths()) "." br; (scenario.describe_execution()) "." }
                    p.warning { "Times are modelled, not measured." }
                    (glossary())
                }
                @if let Some(message) = calibration.and_then(above_roof) {
                    p.error { (message) }
                }
                section {
                    h2 { "Time" }
                    @for picture in of("waterfall") { (figure(picture)) }
                    (table(&views::parts(&evaluated.cost)))
                }
                section {
                    h2 { "Rooflines" }
                    @for picture in of("roofline") { (figure(picture)) }
                }
                @if let Some(calibration) = calibration {
                    section {
                        h2 { "Measured" }
                        @for picture in of("measured") { (figure(picture)) }
                        (table(&views::calibration(calibration)))
                        ul { @for note in views::calibration_notes(calibration) { li { (note) } } }
                    }
                }
                section {
                    h2 { "What if" }
                    @for (sweep, points) in sweeps {
                        @for picture in of(&format!("sweep-{}", sweep.axis.name())) { (figure(picture)) }
                        (table(&views::sweep(sweep, points)))
                        @let notes: Vec<String> = views::refusals(sweep, points)
                            .into_iter()
                            .chain(points.iter().flat_map(|point| point.notes.clone()))
                            .collect();
                        @if !notes.is_empty() { ul { @for note in notes { li { (note) } } } }
                    }
                }
                section {
                    h2 { "Operations" }
                    (table(&views::kernels(&evaluated.cost)))
                }
                section {
                    h2 { "Storage" }
                    (table(&views::storage(&evaluated.storage)))
                    (table(&views::working_memory(&evaluated.storage)))
                }
                section {
                    h2 { "The device" }
                    ul { @for note in scenario.notes(evaluated) { li { (note) } } }
                    (sources(scenario))
                }
                footer { "smolvla " (env!("CARGO_PKG_VERSION")) ". 1 MAC = 2 operations; MB = 10⁶ bytes." }
            }
        }
    }
}

/// What the words mean, for those who get the page alone.
fn glossary() -> Markup {
    let words = [
        (
            "component",
            "vision tower; connector to image tokens; text: prefix and language model; cross_kv: the expert's projections \
             of the prefix's keys and values (K/V), once a chunk; expert: all denoising steps",
        ),
        (
            "kernel",
            "what the device computes in one go, reading its operands from memory and writing its results there",
        ),
        ("time", "of each kernel the longest of compute, elementwise, bandwidth and floor"),
        (
            "compute",
            "matrix products, padded to the device's array, at the share of its peak that large products reach",
        ),
        (
            "elementwise",
            "all other arithmetic: softmax, norms, activations, rotary embeddings; in tables “other GOP”",
        ),
        (
            "bandwidth",
            "bytes through off-chip memory at the share of its bandwidth that long transfers reach",
        ),
        ("floor", "the least time of any kernel, from its start to that of the next"),
        ("bound by", "the shares of the time that pass in kernels of which that is the longest, from 5 %"),
        (
            "roof",
            "products and traffic of each kernel at the device's peaks, without padding, floors and other arithmetic",
        ),
    ];
    html! {
        details {
            summary { "What the words mean" }
            dl { @for (word, meaning) in words { dt { (word) } dd { (meaning) } } }
        }
    }
}

fn figure((picture, light, dark): &(&Picture, String, String)) -> Markup {
    html! {
        figure role="img" aria-label=(picture.description) {
            div.light { (PreEscaped(inlined(light))) }
            div.dark { (PreEscaped(inlined(dark))) }
        }
    }
}

/// An SVG file as part of a page: without what may only stand at the beginning of a file.
fn inlined(svg: &str) -> &str {
    svg.find("<svg").map_or(svg, |start| &svg[start..])
}

fn table(table: &Table) -> Markup {
    html! {
        h3 { (table.title) }
        div.scroll {
            table {
                thead { tr {
                    @for (index, column) in table.columns.iter().enumerate() {
                        th.number[table.is_right_aligned(index)] { (column.name) }
                    }
                } }
                tbody {
                    @for (row_index, row) in table.rows.iter().enumerate() {
                        tr.total[table.has_total && row_index + 1 == table.rows.len()] {
                            @for (index, cell) in row.iter().enumerate() {
                                td.number[table.is_right_aligned(index)] { (cell.shown()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every number of the device with its source.
fn sources(scenario: &Scenario) -> Markup {
    let device = &scenario.device;
    let said = |source: &str| if source.is_empty() { "not stated".to_owned() } else { source.to_owned() };
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for (format, peak) in &device.peaks {
        rows.push((format!("peak {format}"), format!("{} TOP/s", peak.tops), said(&peak.source)));
        rows.push((
            format!("of which attained, {format}"),
            peak.attained.to_string(),
            said(&peak.attained_source),
        ));
    }
    let memory = &device.memory;
    rows.push((
        "memory".to_owned(),
        format!("{} GB/s, {} GB", memory.gb_s, memory.capacity_gb),
        said(&memory.source),
    ));
    rows.push((
        "of which attained, memory".to_owned(),
        memory.attained.to_string(),
        said(&memory.attained_source),
    ));
    if let Some(on_chip) = &device.on_chip {
        let rate = on_chip.gb_s.map_or_else(String::new, |rate| format!(", {rate} GB/s"));
        rows.push(("on chip".to_owned(), format!("{} MB{rate}", on_chip.mb), said(&on_chip.source)));
    }
    if let Some(launch) = &device.launch {
        rows.push(("floor of a kernel".to_owned(), format!("{} µs", launch.us), said(&launch.source)));
    }
    if let Some(vector) = &device.elementwise {
        rows.push(("elementwise".to_owned(), format!("{} GOP/s", vector.gops), said(&vector.source)));
    }
    if let Some(array) = &device.array {
        let shape = format!("{} rows × {} columns × {} deep", array.rows, array.columns, array.depth);
        rows.push(("padded to".to_owned(), shape, said(&array.source)));
    }
    html! {
        div.scroll {
            table.sources {
                thead { tr { th { "figure" } th { "value" } th { "source" } } }
                tbody { @for (what, value, source) in &rows { tr { td { (what) } td { (value) } td { (source) } } } }
            }
        }
    }
}

use image::Rgb;

use super::*;

const BOTH: [Theme; 2] = [Theme::Light, Theme::Dark];

fn ceiling(label: &str, ops_per_s: f64, in_use: bool) -> Ceiling {
    Ceiling { label: label.to_owned(), ops_per_s, in_use }
}

fn point(label: &str, group: usize, ops_per_byte: f64, ops_per_s: f64, share: f64) -> Point {
    let label = label.to_owned();
    Point { label, group, ops_per_byte, ops_per_s, share, measured: false, above_roof: false }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// An Alveo U280 in int8: all kernels reach the roof.
fn u280() -> Roofline {
    let kernels = [
        ("patch embedding", 0, 410.0, 0.012),
        ("vision qkv", 0, 640.0, 0.17),
        ("vision attention", 0, 128.0, 0.09),
        ("vision out", 0, 512.0, 0.06),
        ("vision fc1", 0, 870.0, 0.24),
        ("vision fc2", 0, 875.0, 0.23),
        ("connector", 1, 2450.0, 0.01),
        ("text qkv", 2, 190.0, 0.02),
        ("text attention", 2, 104.0, 0.006),
        ("text gate and up", 2, 196.0, 0.05),
        ("text down", 2, 198.0, 0.025),
        ("expert qkv", 3, 101.0, 0.03),
        ("expert cross-attention", 3, 99.0, 0.02),
        ("expert gate, up and down", 3, 100.0, 0.037),
    ];
    let mut points: Vec<_> = kernels
        .map(|(label, group, x, share)| point(label, group, x, 8.6e12_f64.min(460e9 * x), share))
        .into();
    points.push(Point { measured: true, ..point("whole chunk, measured", 0, 420.0, 5.1e12, 0.0) });
    Roofline {
        title: "SmolVLA on an Alveo U280 at int8".to_owned(),
        subtitle: "simulated · 3 cameras, 10 denoising steps · 48.2 ms a chunk".to_owned(),
        bandwidth: 460e9,
        ceilings: vec![ceiling("int8", 8.6e12, true), ceiling("bf16", 2.1e12, false)],
        groups: names(&["vision", "connector", "text", "expert"]),
        points,
    }
}

/// An H200 with its five precisions, most kernels below the roof.
fn h200() -> Roofline {
    let kernels = [
        ("patch embedding", 0, 210.0, 21e12, 0.01),
        ("vision qkv", 0, 330.0, 310e12, 0.09),
        ("vision attention", 0, 96.0, 120e12, 0.16),
        ("vision out", 0, 280.0, 260e12, 0.05),
        ("vision fc1", 0, 520.0, 420e12, 0.14),
        ("vision fc2", 0, 515.0, 405e12, 0.15),
        ("connector", 1, 610.0, 90e12, 0.01),
        ("text qkv", 2, 88.0, 77e12, 0.03),
        ("text attention", 2, 31.0, 9e12, 0.02),
        ("text gate and up", 2, 97.0, 105e12, 0.06),
        ("text down", 2, 96.0, 98e12, 0.04),
        ("expert qkv", 3, 48.0, 31e12, 0.05),
        ("expert cross-attention", 3, 22.0, 6e12, 0.06),
        ("expert gate and up", 3, 49.0, 44e12, 0.08),
        ("expert down", 3, 47.0, 39e12, 0.05),
        ("action projection", 3, 3.1, 0.4e12, 0.004),
    ];
    let mut points: Vec<_> =
        kernels.map(|(label, group, x, y, share)| point(label, group, x, y, share)).into();
    points[15].measured = true;
    points.push(Point { above_roof: true, ..point("time embedding", 3, 1.2, 9e12, 0.002) });
    Roofline {
        title: "SmolVLA on an H200 at bf16".to_owned(),
        subtitle: "3 cameras, 10 denoising steps · 11.4 ms a chunk".to_owned(),
        bandwidth: 4.8e12,
        ceilings: vec![
            ceiling("fp8", 1979e12, false),
            ceiling("int8", 1979e12, false),
            ceiling("bf16", 989e12, true),
            ceiling("tf32", 494e12, false),
            ceiling("f32", 67e12, false),
        ],
        groups: names(&["vision", "connector", "text", "expert"]),
        points,
    }
}

fn sweep(count: usize) -> Bars {
    let bars = (0..count)
        .map(|step| {
            let growth = 1.0 + step as f64;
            Bar { label: format!("{} steps", step + 1), values: vec![21.4, 1.3, 6.2, 2.9 * growth] }
        })
        .collect();
    Bars {
        title: "Time of a chunk over the denoising steps".to_owned(),
        subtitle: "Alveo U280 at int8, simulated".to_owned(),
        x_label: "denoising steps".to_owned(),
        y_label: "milliseconds".to_owned(),
        series: names(&["vision", "connector", "text", "expert"]),
        bars,
    }
}

fn latency() -> Waterfall {
    let steps = [
        ("upload of the observation", 0.9, "bound by PCIe", 4),
        ("vision: patch embedding", 0.4, "memory-bound", 0),
        ("vision: attention", 6.3, "compute-bound", 0),
        ("vision: feed-forward", 14.7, "compute-bound", 0),
        ("connector", 0.31, "compute-bound", 1),
        ("text: attention", 2.2, "memory-bound", 2),
        ("text: feed-forward", 4.1, "compute-bound", 2),
        ("expert: attention, 10 steps", 9.4, "memory-bound", 3),
        ("expert: feed-forward, 10 steps", 8.8, "memory-bound", 3),
        ("expert: projections, 10 steps", 0.7, "", 3),
        ("download of the chunk", 0.02, "bound by PCIe", 4),
    ];
    Waterfall {
        title: "Where the time of a chunk goes".to_owned(),
        subtitle: "Alveo U280 at int8, simulated · 10 denoising steps".to_owned(),
        unit: "ms".to_owned(),
        groups: names(&["vision", "connector", "text", "expert", "transfer"]),
        steps: steps
            .map(|(label, value, note, group)| Step {
                label: label.to_owned(),
                value,
                note: note.to_owned(),
                group,
            })
            .into(),
    }
}

fn charts() -> [Chart; 4] {
    [Chart::Roofline(u280()), Chart::Roofline(h200()), Chart::Bars(sweep(8)), Chart::Waterfall(latency())]
}

/// Whether each element that is opened is closed, in order, and nothing else looks like one.
fn is_balanced(svg: &str) -> bool {
    let mut open = Vec::new();
    for piece in svg.split('<').skip(1) {
        let Some((tag, text)) = piece.split_once('>') else { return false };
        let name = tag.trim_start_matches('/').split(' ').next().unwrap_or_default();
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return false;
            }
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        let entity =
            |part: &str| ["amp;", "lt;", "gt;", "quot;", "apos;"].iter().any(|e| part.starts_with(e));
        if tag.matches('"').count() % 2 == 1 || text.contains('>') || !text.split('&').skip(1).all(entity) {
            return false;
        }
    }
    open.is_empty()
}

fn error(chart: Chart) -> String {
    let svg = chart.svg(Theme::Light).map(|_| ()).unwrap_err();
    assert_eq!(Err(&svg), chart.png(Theme::Dark).as_ref().map(|_| ()));
    svg.to_string()
}

#[test]
fn png_has_its_size_and_ink_of_every_group() {
    for theme in BOTH {
        let palette = Palette::of(theme);
        for (chart, size, groups) in [
            (Chart::Roofline(u280()), (1200, 760), 4),
            (Chart::Bars(sweep(24)), (1000, 560), 4),
            (Chart::Waterfall(latency()), (1000, 560), 5),
        ] {
            let image = image::load_from_memory(&chart.png(theme).unwrap()).unwrap().to_rgb8();
            assert_eq!(image.dimensions(), size);
            let Rgb(corner) = *image.get_pixel(size.0 - 1, size.1 - 1);
            assert_eq!(corner, [palette.background.0, palette.background.1, palette.background.2]);
            for group in 0..groups {
                let color = palette.group(group);
                let ink = image.pixels().filter(|pixel| **pixel == Rgb([color.0, color.1, color.2])).count();
                assert!(ink > 60, "{ink} pixels of group {group} of “{}”", chart.title());
            }
        }
    }
}

#[test]
fn svg_has_every_label_as_text_and_is_balanced() {
    for theme in BOTH {
        for chart in charts() {
            let svg = chart.svg(theme).unwrap();
            assert!(is_balanced(&svg));
            let labels: Vec<&String> = match &chart {
                Chart::Roofline(chart) => chart
                    .points
                    .iter()
                    .map(|point| &point.label)
                    .chain(&chart.groups)
                    .chain([&chart.title, &chart.subtitle])
                    .collect(),
                Chart::Bars(chart) => chart
                    .bars
                    .iter()
                    .map(|bar| &bar.label)
                    .chain(&chart.series)
                    .chain([&chart.y_label])
                    .collect(),
                Chart::Waterfall(chart) => chart
                    .steps
                    .iter()
                    .flat_map(|step| [&step.label, &step.note])
                    .chain(&chart.groups)
                    .collect(),
            };
            for label in labels {
                assert!(svg.contains(&format!(">\n{label}\n</text>")) || label.is_empty(), "{label}");
            }
        }
    }
}

#[test]
fn roofline_states_what_the_device_can_do() {
    let svg = Chart::Roofline(u280()).svg(Theme::Light).unwrap();
    for label in [
        "memory 460 GB/s",
        "int8 8.6 TOP/s",
        "ridge 18.7 op/byte",
        "1 TOP/s",
        "100 op/byte",
        "hollow: measured",
    ] {
        assert!(svg.contains(label), "{label}");
    }
    assert!(!svg.contains("an error"));
    assert!(Chart::Roofline(h200()).svg(Theme::Light).unwrap().contains("above the roof: an error"));
}

#[test]
fn bars_and_waterfall_state_their_totals() {
    let svg = Chart::Bars(sweep(2)).svg(Theme::Light).unwrap();
    assert!(svg.contains("\n31.8\n") && svg.contains("\n34.7\n"), "{svg}");
    assert!(Chart::Waterfall(latency()).svg(Theme::Light).unwrap().contains("\n47.8 ms\n"));
}

#[test]
fn pictures_are_the_same_each_time_and_differ_between_the_themes() {
    for chart in charts() {
        assert_eq!(chart.svg(Theme::Light).unwrap(), chart.svg(Theme::Light).unwrap());
        assert_ne!(chart.svg(Theme::Light).unwrap(), chart.svg(Theme::Dark).unwrap());
    }
    let chart = Chart::Bars(sweep(3));
    assert_eq!(chart.png(Theme::Dark).unwrap(), chart.png(Theme::Dark).unwrap());
    assert_ne!(chart.png(Theme::Light).unwrap(), chart.png(Theme::Dark).unwrap());
}

#[test]
fn text_is_escaped() {
    let nasty = "a<b & \"c\" 'd' ]]> \u{0}\u{1b}\n";
    let mut roofline = u280();
    roofline.title = nasty.to_owned();
    roofline.groups[0] = nasty.to_owned();
    roofline.ceilings[0].label = nasty.to_owned();
    roofline.points[0].label = nasty.to_owned();
    let mut bars = sweep(2);
    bars.series[1] = nasty.to_owned();
    bars.bars[0].label = nasty.to_owned();
    bars.y_label = nasty.to_owned();
    let mut waterfall = latency();
    waterfall.unit = nasty.to_owned();
    waterfall.steps[0].note = nasty.to_owned();
    for chart in [Chart::Roofline(roofline), Chart::Bars(bars), Chart::Waterfall(waterfall)] {
        let svg = chart.svg(Theme::Light).unwrap();
        assert!(is_balanced(&svg), "{svg}");
        assert!(svg.contains("a&lt;b &amp; &quot;c&quot;"));
        assert!(!svg.contains(['\u{0}', '\u{1b}']));
    }
}

#[test]
fn roofline_draws_extremes() {
    let alone = Roofline { points: Vec::new(), ..u280() };
    let nothing = Roofline { groups: Vec::new(), ..alone.clone() };
    let unused = Roofline { ceilings: vec![ceiling("int8", 8.6e12, false)], ..u280() };
    let mut far = u280();
    far.points[0].ops_per_byte = 1e-299;
    far.points[1].ops_per_byte = 1e299;
    far.points[2].ops_per_s = 1e-299;
    far.points[3].ops_per_s = 1e299;
    far.points[4].label = "very long label ".repeat(100);
    far.title = "very long title ".repeat(100);
    let mut heap = u280();
    heap.points = (0..60).map(|i| point(&format!("kernel number {i}"), i % 4, 100.0, 8.6e12, 0.01)).collect();
    for chart in [alone, nothing, unused, far, heap] {
        let svg = Chart::Roofline(chart).svg(Theme::Light).unwrap();
        assert!(is_balanced(&svg) && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(!svg.contains("without room"));
    }
}

#[test]
fn bars_draw_extremes() {
    let mut bars = sweep(1);
    bars.bars[0].values = vec![0.0; 4];
    let zeros = bars.clone();
    bars.bars = [1e-300, 1e-3, 1.0, 1e6, 1e299]
        .map(|value| Bar { label: "very long label ".repeat(20), values: vec![value, 0.0, value / 3.0, 0.0] })
        .into();
    for chart in [zeros, bars, sweep(1), sweep(24), sweep(MANY)] {
        let svg = Chart::Bars(chart).svg(Theme::Light).unwrap();
        assert!(is_balanced(&svg) && !svg.contains("NaN") && !svg.contains("inf"));
    }
}

const MANY: usize = 100;

#[test]
fn waterfall_draws_extremes() {
    let step =
        |value: f64| Step { label: "long label ".repeat(20), value, note: "long note ".repeat(30), group: 0 };
    for values in [vec![0.0], vec![1.0], vec![1e-300, 1e299, 1.0], vec![3.0; MANY], vec![1.0, 1.0, 1.0]] {
        let chart = Waterfall { steps: values.into_iter().map(step).collect(), ..latency() };
        let svg = Chart::Waterfall(chart).svg(Theme::Light).unwrap();
        assert!(is_balanced(&svg) && !svg.contains("NaN") && !svg.contains("inf"));
    }
}

#[test]
fn roofline_refuses_what_has_no_place_on_its_axes() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 1e-320, f64::MAX] {
        let mut chart = u280();
        chart.points[5].ops_per_s = value;
        assert!(error(Chart::Roofline(chart)).contains("operations per second of “vision fc2”"));
        let mut chart = u280();
        chart.points[5].ops_per_byte = value;
        assert!(error(Chart::Roofline(chart)).contains("operations per byte of “vision fc2”"));
        let mut chart = u280();
        chart.ceilings[1].ops_per_s = value;
        assert!(error(Chart::Roofline(chart)).contains("of “bf16”"));
        assert!(error(Chart::Roofline(Roofline { bandwidth: value, ..u280() })).contains("the bandwidth"));
    }
    for value in [f64::NAN, -0.1, 1.1] {
        let mut chart = u280();
        chart.points[0].share = value;
        assert!(error(Chart::Roofline(chart)).contains("the share of the time of “patch embedding”"));
    }
    let mut chart = u280();
    chart.points[0].group = 4;
    assert!(error(Chart::Roofline(chart)).contains("the group of “patch embedding” is 4"));
    assert!(error(Chart::Roofline(Roofline { ceilings: Vec::new(), ..u280() })).contains("no ceiling"));
    let points = vec![u280().points[0].clone(); 61];
    assert!(error(Chart::Roofline(Roofline { points, ..u280() })).contains("61 points"));
}

#[test]
fn bars_and_waterfall_refuse_what_cannot_be_stacked() {
    for value in [f64::NAN, f64::INFINITY, -1.0, f64::MAX] {
        let mut chart = sweep(3);
        chart.bars[1].values[2] = value;
        assert!(error(Chart::Bars(chart)).contains("the value “text” of “2 steps”"));
        let mut chart = latency();
        chart.steps[4].value = value;
        assert!(error(Chart::Waterfall(chart)).contains("the value of “connector”"));
    }
    assert!(error(Chart::Bars(Bars { bars: Vec::new(), ..sweep(1) })).contains("no bars"));
    assert!(
        error(Chart::Bars(Bars { series: names(&["one"]), ..sweep(1) })).contains("4 values for 1 series")
    );
    assert!(error(Chart::Waterfall(Waterfall { steps: Vec::new(), ..latency() })).contains("no steps"));
    assert!(error(Chart::Waterfall(Waterfall { groups: Vec::new(), ..latency() })).contains("the group of"));
    let mut chart = latency();
    chart.steps.iter_mut().for_each(|step| step.value = 9e299);
    assert!(error(Chart::Waterfall(chart)).contains("total"));
}

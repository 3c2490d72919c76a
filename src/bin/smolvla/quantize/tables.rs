//! What quantising did, for people.

use std::fmt::Write;
use std::path::Path;

use smolvla::quantise::{PolicyError, Report};

/// The layers by their kinds, with the worst of each.
pub(crate) fn layers(report: &Report) -> String {
    let mut text = "relative squared error of the worst layer of a kind\n\n".to_owned();
    let _ = writeln!(
        text,
        "{:<28} {:>6} {:>7} {:>9} {:>9} {:>9}",
        "layers", "count", "16-bit", "W8A8", "W8A16", "chosen"
    );
    for (kind, count, escaped, [w8a8, w8a16, chosen]) in report.families() {
        let escaped = if escaped == 0 { "–".to_owned() } else { escaped.to_string() };
        let _ =
            writeln!(text, "{kind:<28} {count:>6} {escaped:>7} {w8a8:>9.1e} {w8a16:>9.1e} {chosen:>9.1e}");
    }
    text
}

/// The actions joint by joint.
pub(crate) fn actions(policy: &PolicyError) -> String {
    let units = if policy.normalized { "normalised units" } else { "the units of the training data" };
    let mut text = format!("\nactions against the f32 policy's, in {units}: {}\n\n", policy.name);
    let _ = writeln!(text, "{:<16} {:>12} {:>12} {:>10}", "joint", "RMS", "largest", "PCC");
    for joint in &policy.joints {
        let pcc = joint.pcc.map_or_else(|| "–".to_owned(), |pcc| format!("{pcc:.6}"));
        let _ = writeln!(text, "{:<16} {:>12.6} {:>12.6} {pcc:>10}", joint.joint, joint.rms, joint.max);
    }
    text
}

/// What was written, in a few lines.
pub(crate) fn summary(report: &Report, out: &Path) -> String {
    let escaped: Vec<&str> = report.escaped().map(|layer| layer.layer.as_str()).collect();
    let int4 = report.layers.iter().filter(|layer| layer.int4).count();
    let all = report.layers.len();
    let mut text = String::new();
    let percent = 100.0 * report.bytes_after as f64 / report.bytes_before.max(1) as f64;
    let _ = writeln!(
        text,
        "\nweights    {} bytes, {} before: {percent:.0} %",
        report.bytes_after, report.bytes_before
    );
    let _ = writeln!(text, "layers     {all}: {} with 8-bit weights, {int4} with 4-bit weights", all - int4);
    let _ = writeln!(
        text,
        "           {} with 8-bit activations, {} with 16-bit ones{}",
        all - escaped.len(),
        escaped.len(),
        some(&escaped)
    );
    let smallest = report.layers.iter().filter_map(|layer| layer.w4).min_by(f64::total_cmp);
    if let (0, Some(limit), Some(smallest)) = (int4, report.options.int4_below, smallest) {
        let _ = writeln!(
            text,
            "           with 4-bit weights no layer's error is below --int4-below {limit}: the smallest is {smallest:.1e}"
        );
    }
    let _ = writeln!(text, "written    {}", out.display());
    let _ = writeln!(text, "report     {}", out.join("report.md").display());
    text
}

/// The first few of some names.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    match names {
        [] => String::new(),
        names if names.len() <= SHOWN => format!(": {}", names.join(", ")),
        names => format!(": {} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        assert_eq!((some(&[]), some(&["a", "b"])), (String::new(), ": a, b".to_owned()));
        assert_eq!(some(&["a", "b", "c", "d", "e", "f", "g", "h"]), ": a, b, c, d, e, f and 2 more");
    }
}

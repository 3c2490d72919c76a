//! How a prediction came about, for people.

use std::fmt::Write;
use std::time::Duration;

use smolvla::backend::Execution;
use smolvla::policy::PolicyInfo;

use crate::memory;
use crate::prediction::Prediction;

/// What ran, and how long each stage took.
pub(crate) fn summary(prediction: &Prediction) -> String {
    let mut text = ran_on(&prediction.info);
    let mut line = |name: &str, value: &str| write_line(&mut text, name, value);
    line(
        "prediction",
        &format!(
            "{} denoising steps over {} prefix tokens",
            prediction.chunk.steps, prediction.chunk.prefix_tokens
        ),
    );
    line("load", &duration(prediction.load));
    for timing in &prediction.chunk.timings {
        line(timing.stage, &duration(timing.elapsed));
    }
    line("total", &format!("{} without load", duration(prediction.total())));
    if let Some(bytes) = memory::peak_bytes() {
        line("peak memory", &memory::gigabytes(bytes));
    }
    text
}

/// The backend and the precision, and whether a device ran or something in its place.
fn ran_on(info: &PolicyInfo) -> String {
    let mut text = device_and_precision(info);
    for rule in info.precision.rules().iter().filter(|rule| !rule.reason.is_empty()) {
        write_line(&mut text, "", &format!("{} for {}: {}", rule.precision, rule.layers, rule.reason));
    }
    text
}

/// The same without the plan's reasons, which are about policies of the published size.
pub(crate) fn device_and_precision(info: &PolicyInfo) -> String {
    let execution = match &info.capabilities.execution {
        Execution::Native => "native".to_owned(),
        Execution::Emulated(by) => format!("EMULATED by {by}; timings say nothing about the device"),
        _ => "of an unknown kind".to_owned(),
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| write_line(&mut text, name, value);
    line("backend", &format!("{} ({}), {execution}", info.capabilities.backend, info.capabilities.device));
    line("precision", &info.precision.to_string());
    text
}

/// A time in the column of times.
pub(crate) fn duration(elapsed: Duration) -> String {
    format!("{:>10.1} ms", elapsed.as_secs_f64() * 1e3)
}

fn write_line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<11} {value}");
}

#[cfg(test)]
mod tests {
    use smolvla::{Precision, PrecisionPlan};

    use super::*;
    use crate::output::sample;

    #[test]
    fn reasons_of_a_plan_stand_below_it() {
        let mut prediction = sample::prediction(3);
        prediction.info.precision = PrecisionPlan::new("mine", Precision::Bf16)
            .with_rule("expert.*", Precision::F32, "it is small")
            .with_rule("state", Precision::F32, "");
        let text = summary(&prediction);
        let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("precision")).take(3).collect();
        assert_eq!(lines[0], "precision   mine (bf16, f32 for expert.* and state)");
        assert_eq!(lines[1].trim_start(), "f32 for expert.*: it is small");
        assert!(lines[2].starts_with("prediction"), "{text}");
    }

    #[test]
    fn summary_says_what_ran_and_how_long_it_took() {
        let text = summary(&sample::prediction(3));
        assert!(text.contains("reference (") && text.contains(", native"), "{text}");
        assert!(text.contains("f32"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("vision") && line.ends_with("1500.0 ms")), "{text}");
    }
}

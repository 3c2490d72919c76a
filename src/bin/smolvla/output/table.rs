//! A chunk as a table for people.

use std::fmt::Write;

use crate::prediction::Prediction;

/// Narrowest column; joint names may ask for more.
const WIDTH: usize = 10;

/// All actions, one a line, under the names of the joints.
pub(crate) fn table(prediction: &Prediction) -> String {
    let mut text = header(prediction);
    for step in 0..prediction.chunk.chunk_size {
        row(&mut text, prediction, step);
    }
    text
}

/// The first and last few actions.
pub(crate) fn excerpt(prediction: &Prediction, ends: usize) -> String {
    let count = prediction.chunk.chunk_size;
    if count <= 2 * ends + 1 {
        return table(prediction);
    }
    let mut text = header(prediction);
    for step in 0..ends {
        row(&mut text, prediction, step);
    }
    text.push_str("   …\n");
    for step in count - ends..count {
        row(&mut text, prediction, step);
    }
    text
}

fn header(prediction: &Prediction) -> String {
    let mut text = format!("{} actions, {}\n\n step", prediction.chunk.chunk_size, prediction.units());
    for joint in &prediction.joints {
        let _ = write!(text, "  {joint:>WIDTH$}");
    }
    text.push('\n');
    text
}

fn row(text: &mut String, prediction: &Prediction, step: usize) {
    let _ = write!(text, "{step:>5}");
    for (joint, value) in prediction.joints.iter().zip(prediction.action(step)) {
        let width = joint.chars().count().max(WIDTH);
        let _ = write!(text, "  {value:>width$.4}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;

    #[test]
    fn table_has_a_line_for_every_action_in_aligned_columns() {
        let text = table(&sample::prediction(3));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "3 actions, in the units of the training data");
        assert_eq!(lines.len(), 6);
        assert!(lines[2..].iter().all(|line| line.chars().count() == lines[2].chars().count()), "{text}");
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["0", "-1.0000", "-0.5000"]);
        assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["2", "1.0000", "1.5000"]);
    }

    #[test]
    fn excerpt_leaves_out_the_middle() {
        let text = excerpt(&sample::prediction(10), 2);
        let steps: Vec<_> = text.lines().skip(3).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(steps, ["0", "1", "…", "8", "9"]);
        assert_eq!(excerpt(&sample::prediction(5), 2), table(&sample::prediction(5)));
    }
}

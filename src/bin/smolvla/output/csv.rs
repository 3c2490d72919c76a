//! A chunk as comma-separated values (RFC 4180, lines end in LF).

use std::borrow::Cow;
use std::fmt::Write;

use crate::prediction::Prediction;

/// One line of names, then one line an action.
pub(crate) fn csv(prediction: &Prediction) -> String {
    let mut text = "step".to_owned();
    for joint in &prediction.joints {
        let _ = write!(text, ",{}", quoted(joint));
    }
    text.push('\n');
    for step in 0..prediction.chunk.chunk_size {
        let _ = write!(text, "{step}");
        for value in prediction.action(step) {
            let _ = write!(text, ",{value}");
        }
        text.push('\n');
    }
    text
}

/// A field as RFC 4180 wants it.
pub(crate) fn quoted(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", field.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;

    #[test]
    fn csv_quotes_names_and_keeps_every_digit() {
        let text = csv(&sample::prediction(2));
        assert_eq!(text, "step,pan,\"lift, \"\"fast\"\"\"\n0,-1,-0.5\n1,0,0.5\n");
    }
}

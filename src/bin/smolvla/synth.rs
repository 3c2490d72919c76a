//! `smolvla synth`: a complete checkpoint with random weights.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::Value;
use smolvla::synth::{Size, SynthOptions, SynthReport};

use crate::console::{Console, Unit};
use crate::failure::Failure;

const AFTER_HELP: &str = "\
Examples:
  smolvla synth --size tiny --out ./tiny_policy
  smolvla synth --size base --seed 7 --out ./base_policy --set num_steps=5 --set empty_cameras=1

The folder has the layout, names, shapes and number formats of a real checkpoint, and LeRobot
loads it. Its motion means nothing.";

/// Write a checkpoint with random weights, for tests and measurements.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// base: as the published policies, 907 MB; tiny: a miniature.
    #[arg(long, default_value = "base", value_parser = sizes())]
    size: Size,
    /// The same seed gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The folder to make.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Replace a key of config.json by a JSON value; can be repeated.
    #[arg(long = "set", value_name = "KEY=JSON", value_parser = assignment)]
    overrides: Vec<(String, Value)>,
}

pub(crate) fn perform(console: Console, args: &Args) -> Result<(), Failure> {
    let overrides = args.overrides.iter().cloned().collect();
    let options = SynthOptions { size: args.size, seed: args.seed, overrides };
    let report = write(console, &options, &args.out)?;
    let out = args.out.display();
    let did = if report.reused { "already there" } else { "written" };
    console.result(&format!("{did}: {out}\n"))?;
    console.remark(&format!(
        "{} tensors, {} parameters, model.safetensors of {} bytes; look at it with `smolvla inspect {out}`\n",
        report.tensors, report.parameters, report.file_size_bytes,
    ))
}

/// Writes a checkpoint and shows how far it is.
pub(crate) fn write(console: Console, options: &SynthOptions, out: &Path) -> Result<SynthReport, Failure> {
    let task = console.task(format!("writing {}", out.display()), Unit::Bytes);
    let report = smolvla::synth::write(options, out, &mut |done, total| task.set(done, total))?;
    task.finish();
    Ok(report)
}

/// Takes the name of a size; for clap.
pub(crate) fn sizes() -> impl TypedValueParser<Value = Size> {
    const ALL: [Size; 2] = [Size::Base, Size::Tiny];
    PossibleValuesParser::new(ALL.map(Size::name))
        .map(|name| ALL.into_iter().find(|size| size.name() == name).unwrap_or_default())
}

/// Splits `KEY=JSON`; for clap.
fn assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=JSON, such as num_steps=5")?;
    if key.is_empty() {
        return Err("expected KEY=JSON, such as num_steps=5".to_owned());
    }
    let value = serde_json::from_str(value)
        .map_err(|error| format!("`{value}` is not JSON ({error}); texts need quotes: '{key}=\"text\"'"))?;
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignment_takes_json_values_only() {
        assert_eq!(assignment("num_steps=5"), Ok(("num_steps".to_owned(), 5.into())));
        assert_eq!(assignment("a=[1,null]"), Ok(("a".to_owned(), serde_json::json!([1, null]))));
        for (text, culprit) in
            [("num_steps", "KEY=JSON"), ("=5", "KEY=JSON"), ("a=longest", "texts need quotes")]
        {
            assert!(assignment(text).unwrap_err().contains(culprit), "{text}");
        }
    }
}

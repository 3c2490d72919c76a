//! The engines that people have today, run by `tools/reference/peers.py`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::machine::root;

/// What ratios are taken against: LeRobot as it runs the file's bfloat16.
pub(crate) const BASELINE: &str = "lerobot-mixed";

/// Where the other side of the protocol lies.
pub(crate) const SCRIPT: &str = "tools/reference/peers.py";

/// Names the Python to run it with.
const PYTHON: &str = "SMOLVLA_REFERENCE_PYTHON";

/// All that the script knows, with the precision they run in.
const ENGINES: [(&str, &str); 9] = [
    ("lerobot-fp32", "f32"),
    (BASELINE, "bf16"),
    ("lerobot-compile", "bf16"),
    ("lerobot-int8", "int8"),
    ("openvino-f32", "f32"),
    ("openvino-bf16", "bf16"),
    ("openvino-int8", "int8"),
    ("onnxruntime-f32", "f32"),
    ("onnxruntime-int8", "int8"),
];

/// Engines to compare with.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    python: PathBuf,
    pub(crate) engines: Vec<String>,
}

impl Peers {
    /// The engines named, or all; the baseline is always among them.
    ///
    /// # Errors
    /// For a name that does not exist, or where Python or the script is missing, with what to do.
    pub(crate) fn new(named: &[String]) -> Result<Self> {
        let engines = chosen(named)?;
        let default = root().join("tools/reference/.venv/bin/python");
        let python = env::var_os(PYTHON).map_or(default, PathBuf::from);
        if !python.is_file() {
            return Err(format!(
                "--peers: {} is missing: run tools/reference/setup.sh --peers, or name a Python that has LeRobot in {PYTHON}",
                python.display()
            ));
        }
        let script = root().join(SCRIPT);
        if !script.is_file() {
            return Err(format!("--peers: {} is missing", script.display()));
        }
        Ok(Self { python, engines })
    }

    /// The process of one engine.
    pub(crate) fn command(
        &self,
        engine: &str,
        checkpoint: &Path,
        threads: usize,
        cameras: usize,
        batch: usize,
    ) -> Command {
        let script = root().join(SCRIPT);
        let mut command = Command::new(&self.python);
        command.current_dir(script.parent().unwrap_or(Path::new(".")));
        command.arg(&script).args(["--engine", engine]).arg("--checkpoint").arg(checkpoint);
        command.args(["--threads", &threads.to_string(), "--cameras", &cameras.to_string()]);
        command.args(["--batch", &batch.to_string()]);
        command
    }
}

/// The precision that an engine runs in.
pub(crate) fn precision(engine: &str) -> &'static str {
    ENGINES.iter().find(|(name, _)| *name == engine).map_or("", |(_, precision)| precision)
}

fn chosen(named: &[String]) -> Result<Vec<String>> {
    let all = || ENGINES.iter().map(|(name, _)| *name);
    if let Some(unknown) = named.iter().find(|name| !all().any(|known| known == *name)) {
        let known: Vec<&str> = all().collect();
        return Err(format!("--peers {unknown}: there is no such engine; expected {}", known.join(", ")));
    }
    // In the table's order, each once.
    let wanted =
        |engine: &&str| named.is_empty() || *engine == BASELINE || named.iter().any(|name| name == engine);
    Ok(all().filter(wanted).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_is_always_compared_with() {
        assert_eq!(chosen(&["lerobot-fp32".to_owned()]).unwrap(), ["lerobot-fp32", BASELINE]);
        assert_eq!(chosen(&[]).unwrap().len(), ENGINES.len());
    }

    #[test]
    fn unknown_engines_are_refused_with_the_known() {
        let message = chosen(&["tensorrt".to_owned()]).unwrap_err();
        assert!(message.starts_with("--peers tensorrt: there is no such engine; expected lerobot-fp32"));
    }
}

//! `cargo xtask mini`: the small policy of assets/mini, from demonstrations to a checkpoint.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::command::{self, cargo, root};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    step: Step,
}

#[derive(clap::Subcommand)]
enum Step {
    /// Record the expert's demonstrations: a few minutes, 2.6 GB
    Data(Data),
    /// Write observations of the task, for `smolvla quantize --calibrate`
    Observations(Observations),
    /// Train LeRobot's SmolVLA on the demonstrations: about 45 minutes (needs `mini data` and tools/reference/setup.sh to have been run)
    Train(Train),
}

#[derive(clap::Args)]
struct Data {
    /// Episodes to record
    #[arg(long, value_name = "N", default_value_t = 6000)]
    episodes: u64,
    /// Folder to write into [default: mini/data in the build's target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Observations {
    /// How many, each of another episode
    #[arg(long, value_name = "N", default_value_t = 64)]
    count: u64,
    /// Folder to make [default: mini/observations in the build's target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Train {
    /// What `mini data` wrote [default: mini/data in the build's target folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder for the checkpoint, training.csv and loss.png [default: mini/checkpoint in the build's target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of the initial weights and of the order of the samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The Python that runs LeRobot [default: tools/reference/.venv/bin/python]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Further arguments of tools/reference/train_mini.py, after `--`
    #[arg(last = true, value_name = "ARGUMENT")]
    further: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result {
    match &arguments.step {
        Step::Data(data) => record(data),
        Step::Observations(observations) => observe(observations),
        Step::Train(train) => train_policy(train),
    }
}

fn record(data: &Data) -> Result {
    let out = data.out.clone().map_or_else(|| folder("data"), Ok)?;
    command::run(recorder()?.arg("--out").arg(out).arg("--episodes").arg(data.episodes.to_string()))
}

fn observe(observations: &Observations) -> Result {
    let out = observations.out.clone().map_or_else(|| folder("observations"), Ok)?;
    command::run(recorder()?.arg("--out").arg(out).arg("--observations").arg(observations.count.to_string()))
}

fn recorder() -> Result<Command> {
    command::run(&mut build_of_recorder())?;
    Ok(Command::new(command::built("tabletop-record")?))
}

/// Of that package alone: the rest of the workspace takes far longer to build, and recording needs none of it.
fn build_of_recorder() -> Command {
    const PACKAGE: &str = "smolvla-tabletop";
    let mut build =
        cargo(["build", "--release", "--locked", "--package", PACKAGE, "--bin", "tabletop-record"]);
    build.args(command::features(&[PACKAGE.to_owned()]));
    build
}

fn train_policy(train: &Train) -> Result {
    let reference = root().join("tools/reference");
    let python = train.python.clone().unwrap_or_else(|| reference.join(".venv/bin/python"));
    if !python.is_file() {
        return Err(format!(
            "{} is missing: run tools/reference/setup.sh, or name one with --python",
            python.display()
        ));
    }
    let data = train.data.clone().map_or_else(|| folder("data"), Ok)?;
    if !data.join("dataset.json").is_file() {
        return Err(format!("{} holds no demonstrations: run `cargo xtask mini data`", data.display()));
    }
    let out = train.out.clone().map_or_else(|| folder("checkpoint"), Ok)?;
    let mut trainer = Command::new(python);
    trainer.arg(reference.join("train_mini.py")).arg("--data").arg(data).arg("--out").arg(out);
    command::run(trainer.arg("--seed").arg(train.seed.to_string()).args(&train.further))
}

/// `mini/NAME` in the build's target folder, wherever that is.
fn folder(name: &str) -> Result<PathBuf> {
    let task = command::built("xtask")?;
    // target/release/xtask
    let target = task.ancestors().nth(2).ok_or("cannot find the target folder")?;
    Ok(target.join("mini").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_is_built_with_the_features_it_requires() {
        let output = cargo(["metadata", "--no-deps", "--format-version", "1"]).output().unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap().iter();
        let recorder = packages
            .flat_map(|package| package["targets"].as_array().unwrap())
            .find(|target| target["name"] == "tabletop-record")
            .unwrap();
        let build = build_of_recorder();
        let features = build.get_args().last().unwrap().to_str().unwrap();
        for required in recorder["required-features"].as_array().unwrap() {
            let feature = format!("smolvla-tabletop/{}", required.as_str().unwrap());
            assert!(features.split(',').any(|given| given == feature), "{feature} is not in {features}");
        }
    }
}

//! Records demonstrations of the tabletop task; `cargo xtask mini data` runs it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks through its output")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Record demonstrations of the tabletop task, for training the mini policy.
#[derive(Parser)]
#[command(name = "tabletop-record", disable_version_flag = true)]
struct Arguments {
    /// Folder to write into; it is created where it is absent, and a recording there is replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Episodes; about 18 samples and 430 kB each
    #[arg(long, value_name = "N", default_value_t = 6000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    episodes: u64,
    /// Instead write one observation of each of the first N episodes, as `smolvla quantize --calibrate` takes them
    #[arg(long, value_name = "N", conflicts_with = "episodes", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    observations: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(count) = arguments.observations {
        return match smolvla_tabletop::observe(&arguments.out, count) {
            Ok(()) => {
                println!("{count} observations in {}", arguments.out.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let bar = ProgressBar::new(arguments.episodes);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} episodes, {eta} left") {
        bar.set_style(style);
    }
    match smolvla_tabletop::record(&arguments.out, arguments.episodes, &mut |done| bar.set_position(done)) {
        Ok(recorded) => {
            bar.finish_and_clear();
            println!(
                "{} episodes, {} samples in {}",
                recorded.episodes,
                recorded.samples,
                arguments.out.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            bar.abandon();
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

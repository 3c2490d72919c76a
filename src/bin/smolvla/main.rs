//! The command `smolvla`: runs, inspects and writes SmolVLA checkpoints. One file a verb.
#![forbid(unsafe_code)]

mod cache;
mod cameras;
mod charts;
mod checkpoint_args;
mod console;
mod cost;
mod demo;
mod doctor;
mod failure;
mod inspect;
mod joints;
mod memory;
mod observation;
mod output;
mod output_file;
mod precision;
mod prediction;
mod quantize;
mod run;
mod synth;
mod warmup;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use console::Console;
use failure::Failure;

const AFTER_HELP: &str = "\
Start with:
  smolvla demo                     a small trained policy does a task, no network needed
  smolvla doctor                   what this machine and this build can do
  smolvla run --help               how to run a real checkpoint
  smolvla cost --device h200       what the model costs on a device

Exit codes:
  0  success
  1  a device, or this program, failed
  2  something given is wrong or missing: an argument, a file, a checkpoint

Results go to standard output; progress, notes, logs and errors to standard error.
RUST_LOG sets the logs in detail, for example RUST_LOG=smolvla_core=debug.";

/// Runs SmolVLA robot policies from LeRobot checkpoints.
///
/// A policy takes camera images, joint positions and an instruction, and returns a chunk of actions.
#[derive(Parser)]
#[command(name = "smolvla", version, after_help = AFTER_HELP)]
struct Cli {
    /// Print only results and errors.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log more; twice for even more.
    #[arg(long, short, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Demo(demo::Args),
    Inspect(inspect::Args),
    Synth(synth::Args),
    Quantize(Box<quantize::Args>),
    Warmup(Box<warmup::Args>),
    Cost(Box<cost::Args>),
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too, for standard output; a closed pipe is nobody's concern here.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let console = Console { quiet: cli.quiet };
    log_to_stderr(console, cli.verbose);
    match perform(console, cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.failure(&failure);
            failure.exit_code()
        }
    }
}

fn perform(console: Console, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Run(args) => run::perform(console, *args),
        Verb::Demo(args) => demo::perform(console, &args),
        Verb::Inspect(args) => inspect::perform(console, args),
        Verb::Synth(args) => synth::perform(console, &args),
        Verb::Quantize(args) => quantize::perform(console, &args),
        Verb::Warmup(args) => warmup::perform(console, *args),
        Verb::Cost(args) => cost::perform(console, &args),
        Verb::Doctor(args) => doctor::perform(console, &args),
    }
}

fn log_to_stderr(console: Console, verbose: u8) {
    let default = match (console.quiet, verbose) {
        // Others' errors come back to us as errors; their logs would only say the same twice.
        (true, _) => "off,smolvla=error",
        (_, 0) => "off,smolvla=warn",
        (_, 1) => "warn,smolvla=info",
        _ => "info,smolvla=debug",
    };
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives).unwrap_or_else(|error| {
            console.note(&format!("RUST_LOG is ignored: {error}"));
            EnvFilter::new(default)
        }),
        _ => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_do_not_contradict_one_another() {
        Cli::command().debug_assert();
    }
}

//! `smolvla inspect`: what a checkpoint holds, and what would be refused about it.

use smolvla::checkpoint::Inspection;

use crate::checkpoint_args::{CheckpointOptions, Downloads};
use crate::console::{Console, Unit};
use crate::failure::Failure;
use crate::output::to_json;

const AFTER_HELP: &str = "\
Examples:
  smolvla inspect ./my_policy
  smolvla inspect OWNER/NAME@main --json | jq .components

Exits with 2 when the checkpoint would be refused at load.";

/// Show configuration, features, statistics and parameters of a checkpoint, and what would be refused.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// A folder that LeRobot wrote, or a Hub repository.
    #[arg(value_name = "FOLDER|OWNER/NAME[@REVISION]")]
    checkpoint: String,
    #[command(flatten)]
    options: CheckpointOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn perform(console: Console, args: Args) -> Result<(), Failure> {
    let (source, options) = args.options.resolve(&args.checkpoint)?;
    let mut downloads = Downloads::new(console);
    let folder = source.fetch(&options, &mut |progress| downloads.show(progress))?;
    drop(downloads);

    let task = console.task("reading the weights", Unit::Unknown);
    let inspection = Inspection::of(&folder, &options.load)?;
    task.finish();
    console.result(&if args.json { to_json(&inspection)? } else { inspection.to_string() })?;
    match inspection.refusals.len() {
        0 => Ok(()),
        1 => Err(Failure::input(format!("{}: would be refused, see above", args.checkpoint))),
        count => Err(Failure::input(format!(
            "{}: would be refused for {count} reasons, see above",
            args.checkpoint
        ))),
    }
}

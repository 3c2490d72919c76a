//! The arguments that say which checkpoint, and what to make of it.

use std::path::PathBuf;

use smolvla::checkpoint::{Checkpoint, LoadOptions, StatisticsChoice};
use smolvla::{CheckpointSource, OpenOptions, OpenProgress};

use crate::console::{Console, Task, Unit};
use crate::failure::Failure;

/// Which checkpoint to run.
#[derive(clap::Args)]
#[command(next_help_heading = "Checkpoint")]
pub(crate) struct CheckpointArgs {
    /// A folder that LeRobot wrote, or a Hub repository.
    #[arg(long, value_name = "FOLDER|OWNER/NAME[@REVISION]")]
    checkpoint: String,
    #[command(flatten)]
    options: CheckpointOptions,
}

/// What to make of a checkpoint.
#[derive(clap::Args)]
#[command(next_help_heading = "Checkpoint")]
pub(crate) struct CheckpointOptions {
    /// Branch, tag or commit of the Hub repository.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Use only what is on this machine (as HF_HUB_OFFLINE=1).
    #[arg(long)]
    offline: bool,
    /// Normalise with the statistics of this robot, where the checkpoint has several.
    #[arg(long, value_name = "ROBOT", conflicts_with = "raw_actions")]
    stats: Option<String>,
    /// Use no statistics: state and actions are in the network's own normalised units.
    #[arg(long)]
    raw_actions: bool,
    /// A tokenizer.json in the place of the one the checkpoint names.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Folder with the vision-language model's config.json and tokenizer, in the place of the one named.
    #[arg(long, value_name = "FOLDER")]
    vlm: Option<PathBuf>,
    /// Ignore tensors that are not SmolVLA's rather than refuse them.
    #[arg(long)]
    allow_unknown: bool,
}

impl CheckpointArgs {
    /// The checkpoint as the user named it.
    pub(crate) fn name(&self) -> String {
        self.checkpoint.clone()
    }

    /// Finds, fetches and opens the checkpoint.
    pub(crate) fn open(&self, console: Console) -> Result<Checkpoint, Failure> {
        let (source, options) = self.options.resolve(&self.checkpoint)?;
        open(console, &source, &options)
    }
}

impl CheckpointOptions {
    /// Where the checkpoint called `name` is, and how to open it.
    pub(crate) fn resolve(&self, name: &str) -> Result<(CheckpointSource, OpenOptions), Failure> {
        let source = CheckpointSource::parse(name);
        let options = self.open_options()?;
        if let CheckpointSource::Folder(folder) = &source
            && !folder.exists()
        {
            return Err(Failure::input(format!("checkpoint {name}: there is no such folder"))
                .hint("a folder that LeRobot wrote, OWNER/NAME on the Hub, or try `smolvla demo`"));
        }
        if let (CheckpointSource::Folder(_), Some(revision)) = (&source, &self.revision) {
            return Err(Failure::input(format!(
                "--revision {revision}: {name} is a folder; only repositories on the Hub have revisions"
            )));
        }
        if let (CheckpointSource::Hub { revision: Some(revision), .. }, Some(other)) =
            (&source, &self.revision)
        {
            return Err(Failure::input(format!(
                "--revision {other}: `{name}` already names the revision {revision}"
            )));
        }
        Ok((source, options))
    }

    fn open_options(&self) -> Result<OpenOptions, Failure> {
        let mut options = OpenOptions::from_env();
        options.load = LoadOptions {
            allow_unknown: self.allow_unknown,
            statistics: match (&self.stats, self.raw_actions) {
                (Some(robot), _) => StatisticsChoice::Named(robot.clone()),
                (None, true) => StatisticsChoice::Raw,
                (None, false) => StatisticsChoice::Auto,
            },
            vlm: self.vlm.clone(),
            tokenizer: self.tokenizer.clone(),
        };
        #[cfg(feature = "hub")]
        {
            options.hub.revision.clone_from(&self.revision);
            options.hub.offline |= self.offline;
        }
        #[cfg(not(feature = "hub"))]
        if self.revision.is_some() {
            return Err(Failure::input("--revision: this build cannot reach the Hub"));
        }
        Ok(options)
    }
}

/// Opens a checkpoint and shows what is downloaded for it.
pub(crate) fn open(
    console: Console,
    source: &CheckpointSource,
    options: &OpenOptions,
) -> Result<Checkpoint, Failure> {
    let mut downloads = Downloads::new(console);
    let folder = source.fetch(options, &mut |progress| downloads.show(progress))?;
    drop(downloads);
    let task = console.task("checking the checkpoint", Unit::Unknown);
    let source = CheckpointSource::Folder(folder);
    let checkpoint = smolvla::open(&source, options, &mut |progress| {
        task.describe(format!("downloading {}", progress.file));
    })?;
    task.finish();
    Ok(checkpoint)
}

/// A bar for each file in turn.
pub(crate) struct Downloads {
    console: Console,
    current: Option<(String, Task)>,
}

impl Downloads {
    /// Nothing downloaded yet.
    pub(crate) fn new(console: Console) -> Self {
        Self { console, current: None }
    }

    /// How far a file is.
    pub(crate) fn show(&mut self, progress: OpenProgress<'_>) {
        let current = self.current.take().filter(|(file, _)| file == progress.file);
        let (file, task) = current.unwrap_or_else(|| {
            (
                progress.file.to_owned(),
                self.console.task(format!("downloading {}", progress.file), Unit::Bytes),
            )
        });
        task.set(progress.bytes_done, progress.bytes_total);
        self.current = Some((file, task));
    }
}

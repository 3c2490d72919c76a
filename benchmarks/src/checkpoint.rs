//! The checkpoint that is measured.

use std::path::{Path, PathBuf};

use smolvla::checkpoint::{Checkpoint, LoadOptions};
use smolvla::synth::{self, Size, SynthOptions};

use crate::Result;
use crate::machine::scratch;
use crate::progress::Progress;

/// The folder named, or a synthetic checkpoint of the published size, made once and kept in the target folder.
///
/// # Errors
/// What is wrong with it, or that it knows fewer than `cameras`.
pub(crate) fn open(named: Option<&Path>, cameras: usize) -> Result<(PathBuf, Checkpoint)> {
    let folder = match named {
        // Engines run in folders of their own.
        Some(folder) => std::path::absolute(folder)
            .map_err(|error| format!("--checkpoint {}: {error}", folder.display()))?,
        None => synthetic()?,
    };
    let checkpoint = Checkpoint::open(&folder, &LoadOptions::default())
        .map_err(|error| format!("--checkpoint: {error}"))?;
    let known = checkpoint.config.cameras().count();
    if cameras > known {
        return Err(format!("--cameras {cameras}: {} knows {known}", folder.display()));
    }
    Ok((folder, checkpoint))
}

fn synthetic() -> Result<PathBuf> {
    let folder = scratch().join("base");
    let options = SynthOptions { size: Size::Base, ..SynthOptions::default() };
    let mut progress: Option<Progress> = None;
    synth::write(&options, &folder, &mut |done, total| {
        let bar = progress.get_or_insert_with(|| Progress::new(total));
        bar.reach(done, "making a synthetic checkpoint of the published size");
    })
    .map_err(|error| error.to_string())?;
    if let Some(bar) = progress {
        bar.finish();
    }
    Ok(folder)
}

//! Observations as files, for calibrating quantised copies of a checkpoint.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::{ExtendedColorType, ImageFormat};

use crate::episode::{Episode, Split};
use crate::render::{Camera, SIDE, render};
use crate::{expert, files};

/// The latest period at which an episode is looked at.
const LATEST: u64 = 40;

/// Observations that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct ObserveError {
    path: PathBuf,
    source: io::Error,
}

/// Writes what the cameras see, the state and the instruction at one moment in each of the first `count` training episodes:
/// folders of `top.png`, `wrist.png`, `state.txt` and `task.txt`, as `smolvla quantize --calibrate` takes them.
///
/// # Errors
/// Where `folder` exists already or something in it cannot be written; the error names it. `folder` is complete or not
/// there.
pub fn observe(folder: &Path, count: u64) -> Result<(), ObserveError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ObserveError { path, source }
    };
    if folder.exists() {
        let reason = "it exists already; name another folder, or remove it";
        return Err(failed(folder)(io::Error::new(io::ErrorKind::AlreadyExists, reason)));
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let aside = files::folder_in(parent).map_err(failed(parent))?;
    for seed in 0..count {
        let own = aside.path().join(format!("{seed:04}"));
        write(&own, seed).map_err(failed(&own))?;
    }
    fs::rename(aside.path(), folder).map_err(failed(folder))?;
    // It is where it belongs: nothing is left to clean up.
    let _ = aside.keep();
    Ok(())
}

fn write(folder: &Path, seed: u64) -> io::Result<()> {
    let Episode { mut world, instruction, .. } = Episode::new(Split::Training, seed);
    // Every period comes up, in an order that has nothing to do with the scenes.
    for _ in 0..(seed * 7) % LATEST {
        world.step(&expert::act(&world, instruction.goal)).map_err(io::Error::other)?;
    }
    fs::create_dir(folder)?;
    for camera in Camera::ALL {
        let path = folder.join(format!("{}.png", camera.feature()));
        let (picture, side) = (render(&world, camera, SIDE), SIDE as u32);
        image::save_buffer_with_format(path, &picture, side, side, ExtendedColorType::Rgb8, ImageFormat::Png)
            .map_err(io::Error::other)?;
    }
    let state = world.state().map(|value| value.to_string()).join(", ");
    fs::write(folder.join("state.txt"), format!("{state}\n"))?;
    fs::write(folder.join("task.txt"), format!("{instruction}\n"))
}

#[cfg(test)]
mod tests {
    use smolvla_core::processor::Image;

    use super::*;

    #[test]
    fn an_observation_is_what_the_policy_would_be_given() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("observations");
        observe(&folder, 2).unwrap();
        let episode = Episode::new(Split::Training, 0);
        let picture = Image::open(folder.join("0000/top.png")).unwrap();
        let path = folder.join("0000/top.png").display().to_string();
        let expected = render(&episode.world, Camera::Top, SIDE);
        assert_eq!(picture, Image::from_rgb8(path, SIDE, SIDE, expected).unwrap());
        let task = fs::read_to_string(folder.join("0000/task.txt")).unwrap();
        assert_eq!(task.trim(), episode.instruction.text);
        assert!(folder.join("0001/wrist.png").is_file());
        assert!(observe(&folder, 2).unwrap_err().to_string().contains("exists"));
    }
}

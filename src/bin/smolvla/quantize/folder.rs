//! Observations in folders.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use smolvla::policy::Observation;
use smolvla::processor::Image;

use crate::failure::Failure;
use crate::observation::number;

const STATE: &str = "state.txt";
const TASK: &str = "task.txt";
const HINT: &str = "`smolvla quantize --help` shows what a folder of observations looks like";

/// Refuses a folder without observations, before time is spent on the checkpoint.
pub(crate) fn check(folder: &Path) -> Result<(), Failure> {
    folders(folder).map(drop)
}

/// Every observation in a folder, in the order of their names.
pub(crate) fn read(folder: &Path) -> Result<Vec<Observation>, Failure> {
    let shared = text(&folder.join(TASK))?;
    folders(folder)?.iter().map(|one| observation(one, shared.as_deref())).collect()
}

/// The folders of the observations: those in `folder`, or itself where it is one.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    if folder.join(STATE).is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut folders: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    for path in &folders {
        let has_image = entries(path)?.iter().any(|file| is_image(file));
        if has_image && !path.join(STATE).is_file() {
            let problem = format!("{}: there is no {STATE} beside its images", path.display());
            return Err(Failure::input(problem).hint(HINT));
        }
    }
    folders.retain(|path| path.join(STATE).is_file());
    if folders.is_empty() {
        return Err(Failure::input(format!(
            "--calibrate {}: there are no observations: no folder in it has a {STATE}",
            folder.display()
        ))
        .hint(HINT));
    }
    Ok(folders)
}

fn observation(folder: &Path, shared_task: Option<&str>) -> Result<Observation, Failure> {
    let mut images = Vec::new();
    for path in entries(folder)? {
        if !is_image(&path) {
            continue;
        }
        if let Some(camera) = path.file_stem().and_then(|stem| stem.to_str()) {
            images.push((camera.to_owned(), Image::open(&path)?));
        }
    }
    if images.is_empty() {
        let folder = folder.display();
        return Err(Failure::input(format!("{folder}: there is no image, such as camera1.png")).hint(HINT));
    }
    let file = folder.join(STATE);
    let what = file.display().to_string();
    let state = text(&file)?.unwrap_or_default();
    let fields = state.split(|c: char| c == ',' || c.is_whitespace()).filter(|field| !field.is_empty());
    let state =
        fields.enumerate().map(|(index, field)| number(&what, index, field)).collect::<Result<_, _>>()?;
    let own = text(&folder.join(TASK))?;
    let Some(task) = own.as_deref().or(shared_task) else {
        return Err(
            Failure::input(format!("{}: there is no instruction, no {TASK}", folder.display())).hint(HINT)
        );
    };
    Ok(Observation { images, state, task: task.to_owned() })
}

fn is_image(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failure =
        |error: std::io::Error| Failure::input(format!("cannot read {}: {error}", folder.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failure)? {
        paths.push(entry.map_err(failure)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// A text without the white space around it; `None` where there is no such file.
fn text(file: &Path) -> Result<Option<String>, Failure> {
    let failure = |reason: String| Failure::input(format!("{}: {reason}", file.display()));
    match fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => Err(failure("is empty".to_owned())),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(format!("cannot read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, files: &[(&str, &[u8])]) {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, bytes) in files {
            fs::write(folder.join(file), bytes).unwrap();
        }
    }

    #[test]
    fn observations_are_folders_with_images_a_state_and_an_instruction() {
        let root = tempfile::tempdir().unwrap();
        let png = include_bytes!("../../../../assets/top.png");
        write(root.path(), "b", &[("camera1.png", png), ("wrist.PNG", png), ("state.txt", b"1, 2\n-3.5\n")]);
        write(root.path(), "a", &[("camera1.png", png), ("state.txt", b"0 0 0"), ("task.txt", b" fold \n")]);
        write(root.path(), "notes", &[("read.me", b"no observation")]);
        let refused = |folder: &Path| read(folder).unwrap_err().to_string();
        assert!(refused(root.path()).contains("there is no instruction"));
        fs::write(root.path().join(TASK), "stack").unwrap();
        let observations = read(root.path()).unwrap();
        assert_eq!(observations.len(), 2);
        assert_eq!((observations[0].task.as_str(), observations[1].task.as_str()), ("fold", "stack"));
        assert_eq!(observations[1].state, [1.0, 2.0, -3.5]);
        let cameras: Vec<&str> = observations[1].images.iter().map(|(camera, _)| camera.as_str()).collect();
        assert_eq!(cameras, ["camera1", "wrist"]);
        assert_eq!(read(&root.path().join("a")).unwrap().len(), 1);

        assert!(refused(&root.path().join("notes")).contains("there are no observations"));
        write(root.path(), "d", &[("camera1.png", png), ("State.txt", b"1 2 3")]);
        assert!(refused(root.path()).contains("there is no state.txt beside its images"));
        write(root.path(), "c", &[("state.txt", b"1 x")]);
        assert!(refused(&root.path().join("c")).contains("there is no image"));
        write(root.path(), "c", &[("camera1.png", png)]);
        assert!(refused(&root.path().join("c")).contains("number 2 is `x`"));
        write(root.path(), "c", &[("state.txt", b" ")]);
        assert!(refused(&root.path().join("c")).contains("is empty"));
    }
}

//! Reports: `report.json`, `report.md` and `report.html`.
//!
//! [`Report`] is what a run found. [`Report::write`] turns it into files; everything they show is worked out from
//! that one value, by functions that know nothing of how it is drawn (`summary`).

mod behaviour;
mod format;
mod html;
mod json;
mod markdown;
mod model;
mod summary;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use behaviour::{
    ActionErrors, BEHAVIOUR_FORMAT, BEHAVIOUR_KIND, Behaviour, BehaviourRow, Condition, Distribution,
    LeRobotRun, OtherCheckpoint, Pairs, Rate,
};
pub use model::{
    BackendReport, CaseReport, CheckReport, FORMAT, Kill, Machine, MutantReport, MutantsReport, Presence,
    Report, Status, Tier,
};

pub(crate) use format::pcc as describe_pcc;
pub(crate) use summary::HEADLINES;

#[cfg(feature = "rollout")]
pub(crate) use behaviour::SWAPPED_AT_MOST;

/// Where [`Report::write`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Everything, for programs.
    pub json: PathBuf,
    /// The facts in compact tables, for terminals and code review.
    pub markdown: PathBuf,
    /// One self-contained page with the heat maps and the action traces, for people.
    pub html: PathBuf,
}

/// A file or folder of a report that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct WriteError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Report {
    /// Writes `report.json`, `report.md` and `report.html` into `folder`, which is created where it is absent.
    ///
    /// Each file is written aside and then renamed: a reader finds the earlier report or this one, never a half.
    ///
    /// # Errors
    ///
    /// Where the folder or a file cannot be written; the error names it.
    pub fn write(&self, folder: &Path) -> Result<Files, WriteError> {
        fs::create_dir_all(folder).map_err(|source| WriteError { path: folder.to_owned(), source })?;
        let files = Files {
            json: folder.join("report.json"),
            markdown: folder.join("report.md"),
            html: folder.join("report.html"),
        };
        let json = json::bytes(self).map_err(|source| WriteError { path: files.json.clone(), source })?;
        replace(&files.json, &json)?;
        replace(&files.markdown, markdown::page(self).as_bytes())?;
        replace(&files.html, html::page(self).as_bytes())?;
        Ok(files)
    }
}

impl Behaviour {
    /// `rollout.json`, as [`Behaviour::open`] reads it.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_json(&self) -> io::Result<Vec<u8>> {
        json::behaviour(self)
    }

    /// `rollout.md`: the same as a table, with how to read it.
    pub fn to_markdown(&self) -> String {
        markdown::behaviour_page(self)
    }
}

/// Puts `contents` at `path` in one step.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<(), WriteError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.partial", std::process::id()));
    let aside = PathBuf::from(aside);
    fs::write(&aside, contents).and_then(|()| fs::rename(&aside, path)).map_err(|source| {
        // What is left over is of no use; that it cannot be removed either is not the error to tell.
        let _ = fs::remove_file(&aside);
        WriteError { path: path.to_owned(), source }
    })
}

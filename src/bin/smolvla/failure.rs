//! How the command fails: one line, a hint where there is one, and an exit code.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use smolvla::Error;
use smolvla::backend::BackendErrorKind;

/// A device or this program failed.
const DEVICE: u8 = 1;
/// What the user gave is wrong, missing or not to be had.
const INPUT: u8 = 2;

/// Why the command stops.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// Something the user gave is not acceptable.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: INPUT }
    }

    /// A device or this program failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: DEVICE }
    }

    /// A file could not be written.
    pub(crate) fn write(path: &Path, source: &io::Error) -> Self {
        Self::input(format!("cannot write {}: {source}", path.display()))
    }

    /// Standard output is closed: whoever read it has seen enough, which is no failure.
    pub(crate) fn closed_pipe() -> Self {
        Self { message: String::new(), hint: None, code: 0 }
    }

    /// The same failure with advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// Whether there is anything to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.code == 0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Backend(_) => DEVICE,
            _ => INPUT,
        };
        Self { message: chain(&error), hint: advice(&error).map(str::to_owned), code }
    }
}

/// The error and its causes in one line, leaving out a cause that the text before it already repeats.
fn chain(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    // One line, whatever a library puts into its message.
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Backend(error) => match error.kind {
            BackendErrorKind::Unavailable => Some("`smolvla doctor` lists the backends of this build"),
            BackendErrorKind::OutOfMemory => Some("`smolvla doctor` shows how much memory there is"),
            _ => None,
        },
        Error::Config { .. } | Error::Corrupt { .. } | Error::Tensor { .. } => {
            Some("`smolvla inspect CHECKPOINT` shows what the checkpoint holds and what is wrong with it")
        }
        Error::Input { field, .. } if field == "state" => Some(
            "--state takes the joint positions, separated by commas; `smolvla inspect CHECKPOINT` shows how many",
        ),
        Error::Hub { reason, .. } if reason.contains("and offline") => {
            Some(if std::env::var_os("HF_HUB_OFFLINE").is_some() {
                "unset HF_HUB_OFFLINE to have it downloaded"
            } else {
                "leave out --offline to have it downloaded"
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use smolvla::BackendError;

    use super::*;

    #[test]
    fn failure_of_a_device_exits_with_1_and_bad_input_with_2() {
        let device = BackendError::new("cpu", "linear", BackendErrorKind::DeviceLost, "gone");
        assert_eq!(Failure::from(Error::Backend(device)).code, 1);
        assert_eq!(Failure::from(Error::input("state", "is empty")).code, 2);
    }

    #[test]
    fn causes_are_appended_once_and_on_one_line() {
        let source = io::Error::other("disk on\nfire");
        let error = Error::Io { action: "read", path: "a.png".into(), source };
        assert_eq!(chain(&error), "cannot read a.png: disk on fire");
        let mut error = BackendError::new("cpu", "open", BackendErrorKind::Other, "no device");
        error.source = Some("driver asleep".into());
        assert_eq!(chain(&Error::Backend(error)), "cpu: open: no device: driver asleep");
    }

    #[test]
    fn hint_stands_on_its_own_line() {
        let failure = Failure::input("bad").hint("do better");
        assert_eq!(failure.to_string(), "error: bad\n hint: do better");
    }
}

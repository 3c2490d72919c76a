//! An engine in a process of its own that computes a chunk when it is told to.
//!
//! The process prints one line of JSON when it is [`Ready`], then one [`Sample`] for every line `run` on its
//! standard input, and ends at `quit`. In between it waits for input, so that only one engine works at a time.
//! `tools/reference/peers.py` speaks the same protocol.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;

/// What an engine says once it has loaded, or cannot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Whether it can run; otherwise `reason` says why not.
    pub(crate) ready: bool,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Versions of its libraries, by name.
    #[serde(default)]
    pub(crate) versions: BTreeMap<String, String>,
    /// Seconds from the start of loading to the first line.
    #[serde(default)]
    pub(crate) load_s: f64,
    /// What a reader of its numbers should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// The instruction set it runs, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) isa: Option<String>,
    /// The device and engine, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
}

/// One chunk: milliseconds of its stages, where they can be told apart, and of the whole, and the process's peak memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) preprocess_ms: f64,
    pub(crate) vision_ms: Option<f64>,
    pub(crate) prefill_ms: Option<f64>,
    pub(crate) denoise_ms: Option<f64>,
    pub(crate) total_ms: f64,
    /// Of this project's engine, the peak since the process started; of a peer, since it was loaded (its note has the
    /// peak while loading).
    pub(crate) peak_memory_mb: f64,
    /// Tokens of the prefix as computed, where the engine says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix_tokens: Option<usize>,
}

/// A running engine. Dropped, its process is ended.
#[derive(Debug)]
pub(crate) struct Engine {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    log: PathBuf,
}

/// Exporting and compiling a model may take minutes.
const LONGEST_LOAD: Duration = Duration::from_secs(30 * 60);
/// A chunk of the slowest engine takes seconds.
const LONGEST_RUN: Duration = Duration::from_secs(10 * 60);
/// How long a process may take to end by itself.
const LONGEST_QUIT: Duration = Duration::from_secs(5);

impl Engine {
    /// Starts a process; what it writes to standard error goes to the file `log`.
    ///
    /// # Errors
    /// Names the program that cannot be started or the file that cannot be written.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = create(log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{name}: cannot start {program}: {error}"))?;
        let stdin = child.stdin.take().expect("standard input was piped above");
        let stdout = child.stdout.take().expect("standard output was piped above");
        let (sender, lines) = channel();
        thread::spawn(move || {
            // Bytes, not `lines()`: a library may print what is not UTF-8. The receiver is gone once nobody listens.
            for line in BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, lines, log: log.to_owned() })
    }

    /// Waits until it has loaded.
    ///
    /// # Errors
    /// Its own reason where it cannot run here.
    pub(crate) fn ready(&mut self) -> Result<Ready> {
        let ready: Ready = self.answer("load", LONGEST_LOAD)?;
        if ready.ready {
            return Ok(ready);
        }
        let reason = ready.reason.unwrap_or_else(|| "it gives no reason".to_owned());
        Err(format!("{}: {reason}", self.name))
    }

    /// Has it compute one chunk, or one kernel.
    ///
    /// # Errors
    /// When it dies, takes longer than any engine should, or answers something else.
    pub(crate) fn run<T: DeserializeOwned>(&mut self) -> Result<T> {
        if writeln!(self.stdin, "run").and_then(|()| self.stdin.flush()).is_err() {
            return Err(self.died("run"));
        }
        self.answer("run", LONGEST_RUN)
    }

    /// The next line that it prints as JSON; anything else it prints is a library's remark.
    fn answer<T: DeserializeOwned>(&mut self, to: &str, patience: Duration) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with('{') => {
                    return serde_json::from_str(&line)
                        .map_err(|error| format!("{}: answered `{line}` to `{to}`: {error}", self.name));
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = patience.as_secs();
                    return Err(format!(
                        "{}: no answer to `{to}` in {seconds} s; {}",
                        self.name,
                        self.see_log()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.died(to)),
            }
        }
    }

    fn died(&mut self, during: &str) -> String {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("{}: ended during `{during}` ({status}); {}", self.name, self.see_log())
    }

    /// The last line of its log, and where the others are.
    fn see_log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        match text.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!("its last words: {} (all in {})", line.trim(), self.log.display()),
            None => format!("it said nothing ({} is empty)", self.log.display()),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = writeln!(self.stdin, "quit").and_then(|()| self.stdin.flush());
        let deadline = Instant::now() + LONGEST_QUIT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn create(log: &Path) -> Result<File> {
    let parent = log.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| File::create(log))
        .map_err(|error| format!("cannot write {}: {error}", log.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(folder: &tempfile::TempDir, script: &str) -> Engine {
        let log = folder.path().join("engine.log");
        Engine::start("fake", Command::new("sh").args(["-c", script]), &log).unwrap()
    }

    const SAMPLE: &str = r#"{"preprocess_ms":1,"vision_ms":2,"prefill_ms":null,"denoise_ms":4,"total_ms":10,"peak_memory_mb":5}"#;

    #[test]
    fn an_engine_runs_whenever_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            r#"echo remark; echo '{{"ready":true,"load_s":1.5,"versions":{{"torch":"2"}}}}'
               while read line; do [ "$line" = quit ] && exit; echo '{SAMPLE}'; done"#
        );
        let mut engine = shell(&folder, &script);
        let ready = engine.ready().unwrap();
        assert_eq!((ready.load_s, ready.versions["torch"].as_str()), (1.5, "2"));
        for _ in 0..3 {
            let sample: Sample = engine.run().unwrap();
            assert_eq!((sample.denoise_ms, sample.prefill_ms, sample.prefix_tokens), (Some(4.0), None, None));
        }
    }

    #[test]
    fn an_engine_that_cannot_run_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = shell(&folder, r#"echo '{"ready":false,"reason":"no such package"}'"#);
        assert_eq!(engine.ready().unwrap_err(), "fake: no such package");
    }

    #[test]
    fn an_engine_that_dies_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = shell(&folder, "echo trouble >&2; exit 3");
        let message = engine.ready().unwrap_err();
        assert!(message.starts_with("fake: ended during `load`"), "{message}");
        assert!(message.contains("its last words: trouble") && message.contains("engine.log"), "{message}");
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = shell(&folder, r#"echo '{"ready":true}'; read line; echo '{"total_ms":1}'"#);
        engine.ready().unwrap();
        let message = engine.run::<Sample>().unwrap_err();
        assert!(message.contains("answered `{\"total_ms\":1}` to `run`"), "{message}");
    }

    #[test]
    fn an_absent_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("engine.log");
        let message = Engine::start("fake", &mut Command::new("/nowhere/python"), &log).unwrap_err();
        assert!(message.starts_with("fake: cannot start /nowhere/python"), "{message}");
    }
}

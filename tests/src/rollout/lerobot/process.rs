//! A program behind pipes: whatever it does, waiting for it and listening to it have an end.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of the program's own complaints that an error repeats, and bytes of each.
const LINES_KEPT: usize = 12;
const LINE_BYTES: u64 = 1 << 12;

/// How long a program that said something wrong may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that are read of the program at once, and how many such pieces may wait to be looked at.
const PIECE_BYTES: usize = 1 << 16;
const PIECES: usize = 16;

/// A running program. Ends with this value.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    requests: Option<Sender<Vec<u8>>>,
    pieces: Receiver<Vec<u8>>,
    /// What was read and not yet taken.
    read: VecDeque<u8>,
    silence: Duration,
    complaints: Arc<Mutex<VecDeque<String>>>,
    complaints_end: Receiver<()>,
}

/// Why bytes did not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoBytes {
    /// The program ended or closed its output.
    End,
    /// It said nothing for too long.
    Silence,
    /// More than expected.
    TooMany,
}

impl Process {
    /// Starts a program that may be silent for `silence` at a time.
    pub(super) fn spawn(command: &mut Command, silence: Duration) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("LeRobot: cannot start {name}: {error}"))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("LeRobot: {name} has no pipes"));
        };
        // A thread for each pipe: a full or an empty one keeps nobody else waiting.
        let (requests, to_write) = mpsc::channel();
        std::thread::spawn(move || write_all(stdin, &to_write));
        let (found, pieces) = mpsc::sync_channel(PIECES);
        std::thread::spawn(move || read_all(stdout, &found));
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let (ended, complaints_end) = mpsc::channel();
        let kept = Arc::clone(&complaints);
        std::thread::spawn(move || {
            keep_last_lines(stderr, &kept);
            // Nobody listens any more where nothing went wrong.
            let _ = ended.send(());
        });
        let requests = Some(requests);
        Ok(Self { child, requests, pieces, read: VecDeque::new(), silence, complaints, complaints_end })
    }

    /// Hands bytes to the program. That it does not take them shows in what it says next: the reason, or nothing more.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        if let Some(requests) = &self.requests {
            // As above: its end is found on reading.
            let _ = requests.send(bytes);
        }
    }

    /// The next bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<Vec<u8>, NoBytes> {
        while self.read.len() < count {
            self.wait()?;
        }
        Ok(self.read.drain(..count).collect())
    }

    /// The next bytes up to a newline, which is not among them, or up to the program's end; `most` of them at most.
    pub(super) fn take_line(&mut self, most: usize) -> Result<Vec<u8>, NoBytes> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.read.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.read.len() > most {
                return Err(NoBytes::TooMany);
            }
            match self.wait() {
                Err(NoBytes::End) if !self.read.is_empty() => return Ok(self.read.drain(..).collect()),
                other => other?,
            }
        }
    }

    fn wait(&mut self) -> Result<(), NoBytes> {
        let piece = self.pieces.recv_timeout(self.silence).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoBytes::Silence,
            RecvTimeoutError::Disconnected => NoBytes::End,
        })?;
        self.read.extend(piece);
        Ok(())
    }

    /// Ends the program and says what went wrong, with how it ended and what it complained of.
    pub(super) fn broken(&mut self, what: &str, why: Option<&NoBytes>) -> String {
        // It ends when nothing more can come; one that does not is ended.
        self.requests = None;
        let started = Instant::now();
        let mut status = None;
        while status.is_none() && started.elapsed() < PATIENCE {
            status = self.child.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut text = format!("LeRobot: the program {what}");
        if why == Some(&NoBytes::Silence) {
            text += &format!(" within {} s", self.silence.as_secs_f32());
        }
        match status {
            Some(status) => text += &format!(" ({status})"),
            None => drop(self.child.kill()),
        }
        let _ = self.complaints_end.recv_timeout(PATIENCE);
        for line in self.complaints.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text += "\n  ";
            text += line;
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.requests = None;
        // One that has ended already cannot be ended; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Until there is nothing more to write, or nobody takes it.
fn write_all(mut pipe: ChildStdin, requests: &Receiver<Vec<u8>>) {
    while let Ok(bytes) = requests.recv() {
        if pipe.write_all(&bytes).and_then(|()| pipe.flush()).is_err() {
            return;
        }
    }
}

/// Until the pipe's end, or until nobody listens.
fn read_all(mut pipe: impl Read, found: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match pipe.read(&mut buffer) {
            Ok(count @ 1..) if found.send(buffer[..count].to_vec()).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

fn keep_last_lines(pipe: impl Read, kept: &Mutex<VecDeque<String>>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    // What is longer counts as several.
    while let Ok(1..) = pipe.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

//! LeRobot itself behind a pipe: `tools/reference/serve_policy.py`, as a policy like any other.
//!
//! Numbers are little-endian. The program first writes a line of JSON, [`Hello`]. A request is the length of a JSON
//! header (u32), the header, then for each observation its pictures as RGB bytes, its state and its noise as f32. A
//! reply is 0 (u32) and the actions as f32, or the length of a message and the message.

mod process;
mod protocol;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use smolvla_tabletop::{Moment, Predictor};

use self::process::{NoBytes, Process};
use self::protocol::Hello;
pub(super) use self::protocol::pixels;
use super::Failure;
use crate::report::LeRobotRun;

/// How long the program may say nothing: while it loads, and for a request.
const SILENCE: Duration = Duration::from_secs(600);

/// Observations of a request.
pub(super) const BATCH: usize = 50;

/// A longer line or message than this is none: something else than the program is at the other end.
const LONGEST_LINE: usize = 1 << 16;
const LONGEST_MESSAGE: usize = 1 << 20;

/// A running LeRobot. Ends with this value.
#[derive(Debug)]
pub struct LeRobot {
    process: Process,
    hello: Hello,
}

impl LeRobot {
    /// Has `python` run LeRobot's own policy on the checkpoint, in f32.
    ///
    /// # Errors
    /// When it does not start within minutes, or the policy is not made for the table.
    pub fn start(python: &Path, checkpoint: &Path, threads: usize) -> Result<Self, String> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/reference/serve_policy.py");
        let mut command = Command::new(python);
        command.arg(program).arg("--checkpoint").arg(checkpoint).args(["--reference", "fp32", "--threads"]);
        command.arg(threads.to_string());
        Self::spawn(&mut command, SILENCE)
    }

    fn spawn(command: &mut Command, silence: Duration) -> Result<Self, String> {
        let mut process = Process::spawn(command, silence)?;
        let hello = greeting(&mut process)?;
        Ok(Self { process, hello })
    }

    /// Who it is.
    pub fn versions(&self) -> LeRobotRun {
        let Hello { lerobot, torch, .. } = &self.hello;
        LeRobotRun { lerobot: lerobot.clone(), torch: torch.clone(), recorded: false, threads: None }
    }

    fn ask(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, String> {
        let request = self.hello.request(moments)?;
        self.process.send(request);
        let length = self.process.take(4).map_err(|why| self.process.broken("gave no answer", Some(&why)))?;
        let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length > LONGEST_MESSAGE {
            return Err(self.process.broken("gave an answer of an impossible length", None));
        }
        let expected = if length == 0 { protocol::reply_len_bytes(moments.len()) } else { length };
        let broke_off =
            |process: &mut Process, why: &NoBytes| process.broken("broke off in its answer", Some(why));
        let bytes = self.process.take(expected).map_err(|why| broke_off(&mut self.process, &why))?;
        if length > 0 {
            return Err(format!("LeRobot: {}", String::from_utf8_lossy(&bytes)));
        }
        Ok(protocol::chunks(&bytes))
    }
}

fn greeting(process: &mut Process) -> Result<Hello, String> {
    let line = match process.take_line(LONGEST_LINE) {
        Ok(line) => line,
        Err(NoBytes::TooMany) => return Err(process.broken("began with a line without an end", None)),
        Err(NoBytes::End) => return Err(process.broken("ended before it was ready", None)),
        Err(NoBytes::Silence) => return Err(process.broken("was not ready", Some(&NoBytes::Silence))),
    };
    let hello: Hello = serde_json::from_slice(&line).map_err(|error| {
        let line: String = String::from_utf8_lossy(&line).trim_end().chars().take(200).collect();
        process.broken(&format!("began with {line:?}: {error}"), None)
    })?;
    hello.check()?;
    Ok(hello)
}

impl Predictor for LeRobot {
    type Error = Failure;

    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, Failure> {
        let mut chunks = Vec::with_capacity(moments.len());
        for group in moments.chunks(BATCH) {
            chunks.extend(self.ask(group)?);
        }
        Ok(chunks)
    }

    fn noise_len(&self) -> usize {
        self.hello.noise_len()
    }

    fn n_action_steps(&self) -> usize {
        self.hello.n_action_steps
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Instant;

    use smolvla_core::policy::Observation;
    use smolvla_core::processor::Image;
    use smolvla_tabletop::{ACTION_DIM, CHUNK, Camera, Episode, SIDE, Split, render};

    use super::*;

    const HELLO: &str = r#"echo '{"lerobot":"0.6.1","torch":"2.8.0","chunk":16,"action_dim":3,"max_action_dim":4,"n_action_steps":8,"cameras":["top","wrist"],"state_dim":5,"parameters":1}'"#;

    fn program(script: &str) -> Result<LeRobot, String> {
        LeRobot::spawn(Command::new("sh").arg("-c").arg(script), Duration::from_secs(20))
    }

    fn predict(script: &str) -> Result<Vec<Vec<f32>>, String> {
        let mut served = program(&format!("{HELLO}; {script}"))?;
        let episode = Episode::new(Split::Evaluation, 0);
        let image = |camera: Camera| {
            let bytes = render(&episode.world, camera, SIDE);
            (camera.feature().to_owned(), Image::from_rgb8(camera.feature(), SIDE, SIDE, bytes).unwrap())
        };
        let observation = Observation {
            images: Camera::ALL.into_iter().map(image).collect(),
            state: episode.world.state().to_vec(),
            task: episode.instruction.text.clone(),
        };
        let noise = episode.noise(0, served.noise_len());
        served.ask(&[Moment { episode: 0, chunk: 0, period: 0, observation, noise, world: &episode.world }])
    }

    #[test]
    fn programs_that_do_not_greet_are_refused() {
        let error = LeRobot::spawn(&mut Command::new("/nowhere/python"), SILENCE).unwrap_err();
        assert!(error.contains("cannot start /nowhere/python"), "{error}");
        let error = program("echo no module named lerobot >&2; exit 3").unwrap_err();
        assert!(error.contains("ended before it was ready (exit status: 3)"), "{error}");
        assert!(error.contains("no module named lerobot"), "{error}");
        let error = program("echo hello").unwrap_err();
        assert!(error.contains("began with \"hello\""), "{error}");
        let error = program(&HELLO.replace("\"chunk\":16", "\"chunk\":50")).unwrap_err();
        assert_eq!(error, "LeRobot: the policy's chunk is 50; the table's is 16");
    }

    #[test]
    fn programs_that_end_or_break_off_are_errors() {
        let error = predict("echo out of memory >&2; exit 1").unwrap_err();
        assert!(error.contains("out of memory"), "{error}");
        let error = predict("head -c 24000 >/dev/null; printf '\\000\\000\\000\\000abc'").unwrap_err();
        assert!(error.contains("broke off in its answer"), "{error}");
    }

    #[test]
    fn programs_that_say_nothing_or_too_much_are_given_up() {
        let started = Instant::now();
        let silent =
            |script: &str, silence| LeRobot::spawn(Command::new("sh").arg("-c").arg(script), silence);
        let error = silent("exec sleep 600", Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("was not ready within 0.1 s"), "{error}");
        let error = program("exec cat /dev/zero").unwrap_err();
        assert!(error.contains("a line without an end"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }

    #[test]
    fn reasons_of_a_program_that_takes_no_more_are_told() {
        let error = predict("exec <&-; printf '\\005\\000\\000\\000why?!'; exec sleep 5").unwrap_err();
        assert_eq!(error, "LeRobot: why?!");
    }

    #[test]
    fn messages_and_actions_arrive() {
        let error =
            predict("head -c 24000 >/dev/null; printf '\\005\\000\\000\\000oops!'; sleep 5").unwrap_err();
        assert_eq!(error, "LeRobot: oops!");
        let zeros = "head -c 24000 >/dev/null; head -c 196 /dev/zero; sleep 5";
        assert_eq!(predict(zeros).unwrap(), [vec![0.0; CHUNK * ACTION_DIM]]);
    }
}

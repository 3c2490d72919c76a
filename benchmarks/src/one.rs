//! The other side of [`crate::engine`]: one configuration of this project's CPU engine in a process of its own.
//!
//! Threads and instruction set come from the environment variables that the engine reads when it is opened, and peak
//! memory is that of one configuration.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use std::{env, iter};

use clap::{Parser, ValueEnum};
use serde::Serialize;
use smolvla::checkpoint::{Checkpoint, LoadOptions};
use smolvla::policy::{ActionChunk, Observation, Policy, PolicyOptions};
use smolvla::processor::Image;
use smolvla::{Backend, Capabilities, Device};
use smolvla_backend_cpu::Isa;

use crate::Result;
use crate::engine::{Ready, Sample};
use crate::kernels::{self, Subject};
use crate::machine::{peak_memory_mb, root};
use crate::precision::Choice;

/// The first argument that makes the program one configuration.
pub(crate) const FLAG: &str = "--one";

/// Pictures of the cameras, the same that the peers see.
pub(crate) const PICTURES: [&str; 3] = ["assets/top.png", "assets/wrist.png", "assets/side.png"];

const TASK: &str = "pick up the red block and put it in the bin";

/// What one process is to measure.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "bench --one", disable_version_flag = true)]
pub(crate) struct One {
    /// Chunks of the policy, or kernels.
    #[arg(value_enum)]
    pub(crate) what: What,
    #[arg(long, value_name = "DIR", required_if_eq("what", "policy"))]
    pub(crate) checkpoint: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    pub(crate) cameras: usize,
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    #[arg(long)]
    pub(crate) precision: String,
    /// Device of the policy; kernels are those of `cpu`.
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Policy,
    Kernels,
}

impl One {
    /// This program as that process, with so many threads and, where one is named, that instruction set.
    ///
    /// # Errors
    /// When this program cannot find itself.
    pub(crate) fn command(&self, threads: usize, isa: Option<&str>) -> Result<Command> {
        let program = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let mut command = Command::new(program);
        command.arg(FLAG).arg(self.what.to_possible_value().expect("no variant is skipped").get_name());
        if let Some(folder) = &self.checkpoint {
            command.arg("--checkpoint").arg(folder);
        }
        command.args(["--cameras", &self.cameras.to_string(), "--batch", &self.batch.to_string()]);
        command.args(["--precision", &self.precision, "--backend", &self.backend]);
        // The second is the ndarray engine's.
        for variable in ["SMOLVLA_CPU_THREADS", "RAYON_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        if let Some(isa) = isa {
            command.env("SMOLVLA_CPU_ISA", isa);
        }
        Ok(command)
    }
}

/// Answers on standard output until standard input ends or says `quit`.
///
/// # Errors
/// When the arguments do not fit, a chunk cannot be computed, or nobody reads the answers.
pub(crate) fn main() -> Result {
    // The program's own name takes the flag's place.
    let one = One::parse_from(iter::once("bench --one".into()).chain(env::args_os().skip(2)));
    match one.what {
        What::Policy => policy(&one),
        What::Kernels => measure_kernels(&one),
    }
}

/// The instruction set that an engine says it runs; `None` where it runs what its compiler chose.
fn isa(capabilities: &Capabilities) -> Option<String> {
    let said: Vec<&str> = capabilities.device.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    Isa::ALL.iter().map(|isa| isa.name()).find(|isa| said.contains(isa)).map(str::to_owned)
}

fn policy(one: &One) -> Result {
    let started = Instant::now();
    let folder = one.checkpoint.as_deref().ok_or("--checkpoint is missing")?;
    let checkpoint = Checkpoint::open(folder, &LoadOptions::default()).map_err(|error| error.to_string())?;
    let device = Device::open(&one.backend).map_err(|error| error.to_string())?;
    let capabilities = device.capabilities();
    let options = PolicyOptions {
        precision: Choice::new(&one.precision, &capabilities)?.plan,
        ..PolicyOptions::default()
    };
    let mut policy = device.load(&checkpoint, &options, &mut |_| ()).map_err(|error| error.to_string())?;
    let load_s = started.elapsed().as_secs_f64();

    let observations = vec![observation(policy.as_ref(), one.cameras)?; one.batch];
    drop(checkpoint);
    answer(&ready(&capabilities, load_s))?;
    serve(|| {
        let started = Instant::now();
        let chunk = policy.predict(&observations).map_err(|error| error.to_string())?;
        Ok(sample(&chunk, 1e3 * started.elapsed().as_secs_f64()))
    })
}

fn measure_kernels(one: &One) -> Result {
    let backend = smolvla_backend_cpu::open().map_err(|error| error.to_string())?;
    let capabilities = backend.capabilities();
    let precision = Choice::new(&one.precision, &capabilities)?.of_kernels();
    answer(&ready(&capabilities, 0.0))?;
    let mut subjects = Subject::all().into_iter();
    serve(|| {
        let subject = subjects.next().ok_or("there are no more kernels")?;
        kernels::measure(&backend, &subject, precision).map_err(|error| error.to_string())
    })
}

fn ready(capabilities: &Capabilities, load_s: f64) -> Ready {
    Ready {
        ready: true,
        load_s,
        isa: isa(capabilities),
        device: Some(capabilities.device.clone()),
        versions: [("smolvla".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        ..Ready::default()
    }
}

/// Answers each line `run` with what `run` returns.
fn serve<T: Serialize>(mut run: impl FnMut() -> Result<T>) -> Result {
    for line in io::stdin().lock().lines() {
        match line.map_err(|error| format!("cannot read standard input: {error}"))?.trim() {
            "run" => answer(&run()?)?,
            "quit" => break,
            other => return Err(format!("`{other}` on standard input; expected `run` or `quit`")),
        }
    }
    Ok(())
}

fn answer(value: &impl Serialize) -> Result {
    let line = serde_json::to_string(value).map_err(|error| error.to_string())?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| format!("nobody reads: {error}"))
}

fn observation(policy: &dyn Policy, cameras: usize) -> Result<Observation> {
    let info = policy.info();
    if cameras > info.cameras.len().min(PICTURES.len()) {
        return Err(format!("--cameras {cameras}: this checkpoint has {}", info.cameras.len()));
    }
    let images = info.cameras[..cameras].iter().zip(PICTURES).map(|(camera, picture)| {
        let image = Image::open(root().join(picture)).map_err(|error| error.to_string())?;
        Ok((camera.clone(), image))
    });
    Ok(Observation {
        images: images.collect::<Result<_>>()?,
        state: vec![0.5; info.state_dim],
        task: TASK.to_owned(),
    })
}

fn sample(chunk: &ActionChunk, total_ms: f64) -> Sample {
    let stage = |name: &str| {
        let elapsed = chunk.timings.iter().filter(|timing| timing.stage == name);
        elapsed.map(|timing| 1e3 * timing.elapsed.as_secs_f64()).reduce(|sum, part| sum + part)
    };
    Sample {
        preprocess_ms: stage("preprocess").unwrap_or(0.0),
        vision_ms: stage("vision"),
        prefill_ms: stage("prefill"),
        denoise_ms: stage("denoise"),
        total_ms,
        peak_memory_mb: peak_memory_mb(),
        prefix_tokens: Some(chunk.prefix_tokens),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        <One as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_command_is_read_back_as_what_it_was_made_from() {
        let one = One {
            what: What::Policy,
            checkpoint: Some("a folder".into()),
            cameras: 3,
            batch: 4,
            precision: "bf16".to_owned(),
            backend: "ndarray".to_owned(),
        };
        let command = one.command(2, Some("avx2")).unwrap();
        let words = iter::once("bench".as_ref()).chain(command.get_args().skip(1));
        assert_eq!(One::try_parse_from(words).unwrap(), one);
        let variable = |name: &str| {
            command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value?.to_str())
        };
        assert_eq!(variable("SMOLVLA_CPU_THREADS"), Some("2"));
        assert_eq!(variable("SMOLVLA_CPU_ISA"), Some("avx2"));
    }

    #[test]
    fn instruction_sets_are_found_in_what_an_engine_says() {
        let said = |device: &str| isa(&Capabilities::new("cpu", device, []));
        let best = Isa::detect().name();
        assert_eq!(said(&format!("2 threads, native engine, {best} instructions")).as_deref(), Some(best));
        assert_eq!(said("x86_64 with 2 threads, Burn ndarray engine"), None);
        // The engine itself names one.
        assert!(isa(&smolvla_backend_cpu::open().unwrap().capabilities()).is_some());
    }
}

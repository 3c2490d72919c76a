//! A policy's own programs, without a device to run them.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smolvla_core::Capabilities;
use smolvla_core::backend::Execution;

use crate::device::{Given, Granularity, Readable, TtDevice};
use crate::error::DeviceError;
use crate::program::{Op, Program};
use crate::tensix::Format;

/// A device that computes nothing and remembers which programs it was given. There are no numbers in it: whatever is
/// read from it is zeros.
///
/// Run a policy on it for a chunk, and its programs are those that a card would be given, to count, to price or to
/// compile:
///
/// ```
/// use smolvla_backend_tt::{Collector, TtBackend};
/// use smolvla_core::{Backend, backend::Activation};
///
/// let collector = Collector::default();
/// let backend = TtBackend::new(collector.clone());
/// let x = backend.upload(&[1.0, 2.0], 1, 2)?;
/// let y = backend.activate(&x, Activation::Silu)?;
/// assert_eq!(backend.download(&y)?, [0.0, 0.0]);
/// assert_eq!(collector.collected()[0].program.instructions.len(), 1);
/// # Ok::<(), smolvla_core::BackendError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Collector {
    collected: Arc<Mutex<Vec<Collected>>>,
}

/// A program that a [`Collector`] was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// What it is of a policy: [`stage`], with a number after the first of one name.
    pub name: String,
    /// The program.
    pub program: Program,
    /// How often it was run.
    pub runs: usize,
}

/// An array of a [`Collector`]: how many zeros it has.
#[derive(Debug)]
pub struct Blank(usize);

/// A program of a [`Collector`]: which of the collected it is.
#[derive(Debug)]
pub struct Place(usize);

/// What a program is of a policy, by what it does: `denoise`, which is given the noisy actions; `prefix`, which attends;
/// or else `time`, the time embeddings.
pub fn stage(program: &Program) -> &'static str {
    let attends = || program.instructions.iter().any(|step| matches!(step.op, Op::Attention { .. }));
    if !program.donated.is_empty() {
        "denoise"
    } else if attends() {
        "prefix"
    } else {
        "time"
    }
}

impl Collector {
    /// The programs so far, in the order in which they were compiled. Those of one structure are one.
    pub fn collected(&self) -> Vec<Collected> {
        self.lock().clone()
    }

    /// The first program of this name.
    pub fn named(&self, name: &str) -> Option<Program> {
        self.lock().iter().find(|collected| collected.name == name).map(|found| found.program.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Collected>> {
        // Entries are added whole.
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TtDevice for Collector {
    type Buffer = Blank;
    type Executable = Place;

    fn granularity(&self) -> Granularity {
        Granularity::Stage
    }

    fn upload(
        &self,
        values: &[f32],
        _rows: usize,
        _cols: usize,
        _format: Format,
    ) -> Result<Blank, DeviceError> {
        Ok(Blank(values.len()))
    }

    fn upload_weight(
        &self,
        values: &[f32],
        _outputs: usize,
        _inputs: usize,
        _format: Format,
    ) -> Result<Blank, DeviceError> {
        Ok(Blank(values.len()))
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        _batch: usize,
        _queries: usize,
        _keys: usize,
    ) -> Result<Blank, DeviceError> {
        Ok(Blank(allowed.len()))
    }

    fn compile(&self, program: &Program) -> Result<Place, DeviceError> {
        let mut collected = self.lock();
        let stage = stage(program);
        let before = collected.iter().filter(|other| self::stage(&other.program) == stage).count();
        let name = if before == 0 { stage.to_owned() } else { format!("{stage}_{}", before + 1) };
        collected.push(Collected { name, program: program.clone(), runs: 0 });
        Ok(Place(collected.len() - 1))
    }

    fn execute(
        &self,
        executable: &Place,
        _arguments: Vec<Given<'_, Blank>>,
    ) -> Result<Vec<Blank>, DeviceError> {
        let mut collected = self.lock();
        let Some(Collected { program, runs, .. }) = collected.get_mut(executable.0) else {
            return Err(crate::record::lost());
        };
        *runs += 1;
        let size = |value| program.tensor_type(value).map_or(0, |tensor| tensor.rows * tensor.cols);
        Ok(program.results.iter().map(|value| Blank(size(*value))).collect())
    }
}

impl Readable for Collector {
    /// Zeros.
    fn download(&self, buffer: &Blank) -> Result<Vec<f32>, DeviceError> {
        Ok(vec![0.0; buffer.0])
    }

    fn capabilities(&self) -> Capabilities {
        let plans = ["balanced", "accurate", "fast", "float"];
        let mut capabilities = crate::capabilities("nothing: programs are collected, not run", &plans);
        capabilities.execution =
            Execution::Emulated("nothing: every number that comes out is zero".to_owned());
        capabilities.static_shapes = true;
        capabilities
    }
}

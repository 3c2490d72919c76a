//! Operations that are asked for, gathered into programs.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use smolvla_core::backend::BackendErrorKind;

use crate::device::{Given, Granularity, TtDevice};
use crate::error::DeviceError;
use crate::program::{Argument, Op, Program, TensorType, Value};
use crate::tensix::Format;

/// A matrix that is on the host, on the device, or still to be computed.
pub(crate) struct Node<D: TtDevice> {
    pub(crate) tensor: TensorType,
    /// Numbers on the host, for what was uploaded.
    host: Option<Vec<f32>>,
    /// Where it lies on the device, once it does.
    buffer: OnceLock<D::Buffer>,
    /// How to compute it, until that has been done.
    pending: Mutex<Option<Pending<D>>>,
}

struct Pending<D: TtDevice> {
    op: Op,
    operands: Vec<Operand<D>>,
}

/// What an operation reads.
pub(crate) enum Operand<D: TtDevice> {
    Tensor(Arc<Node<D>>),
    /// A weight or a mask, with what a program calls it.
    Fixed(Arc<Fixed<D>>),
}

/// Something on the device that no program computes.
pub(crate) struct Fixed<D: TtDevice> {
    pub(crate) argument: Argument,
    pub(crate) buffer: D::Buffer,
}

impl<D: TtDevice> Clone for Operand<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Tensor(node) => Self::Tensor(Arc::clone(node)),
            Self::Fixed(fixed) => Self::Fixed(Arc::clone(fixed)),
        }
    }
}

/// A node that somebody outside may still ask for. What only other operations read is no result of a program.
pub(crate) struct Handle<D: TtDevice> {
    pub(crate) node: Arc<Node<D>>,
}

impl<D: TtDevice> Node<D> {
    /// The numbers on the host, for what was uploaded.
    pub(crate) fn host(&self) -> Option<&[f32]> {
        self.host.as_deref()
    }

    /// Where it lies on the device; `None` before it has been uploaded or computed.
    pub(crate) fn buffer(&self) -> Option<&D::Buffer> {
        self.buffer.get()
    }

    fn is_pending(&self) -> bool {
        lock(&self.pending).is_some()
    }
}

/// Gathers operations and runs them as programs.
pub(crate) struct Recorder<D: TtDevice> {
    pub(crate) device: D,
    /// Handles of what has not been computed yet, in the order in which it was asked for.
    unfinished: Mutex<Vec<Weak<Handle<D>>>>,
    /// Programs compiled so far, by their text.
    compiled: Mutex<HashMap<String, Arc<D::Executable>>>,
    /// One thread at a time makes programs: two would compute the same things.
    running: Mutex<()>,
}

/// Programs that are kept: a policy has three for each length of its prefix. Beyond it all are compiled anew, so that
/// observations of ever new sizes do not fill the device.
const MOST_PROGRAMS: usize = 256;

impl<D: TtDevice> Drop for Node<D> {
    /// Without recursion: what was asked for and never computed may be a chain of thousands.
    fn drop(&mut self) {
        let mut rest: Vec<Operand<D>> = Vec::new();
        let take = |pending: &mut Mutex<Option<Pending<D>>>, rest: &mut Vec<Operand<D>>| {
            let pending = pending.get_mut().unwrap_or_else(PoisonError::into_inner);
            rest.extend(pending.take().into_iter().flat_map(|pending| pending.operands));
        };
        take(&mut self.pending, &mut rest);
        while let Some(operand) = rest.pop() {
            if let Operand::Tensor(node) = operand
                && let Some(mut node) = Arc::into_inner(node)
            {
                take(&mut node.pending, &mut rest);
            }
        }
    }
}

/// A panic elsewhere cannot leave these half-written: each is changed in one go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: TtDevice> Recorder<D> {
    pub(crate) fn new(device: D) -> Self {
        Self { device, unfinished: Mutex::default(), compiled: Mutex::default(), running: Mutex::default() }
    }

    /// A matrix on the host; it goes to the device when an operation reads it.
    pub(crate) fn host(&self, values: Vec<f32>, rows: usize, cols: usize) -> Arc<Handle<D>> {
        let tensor = TensorType { rows, cols, format: Format::F32 };
        let (buffer, pending) = (OnceLock::new(), Mutex::new(None));
        Arc::new(Handle { node: Arc::new(Node { tensor, host: Some(values), buffer, pending }) })
    }

    /// Asks for an operation. Where the device takes operations one by one it is run at once.
    pub(crate) fn record(
        &self,
        op: Op,
        operands: Vec<Operand<D>>,
        tensor: TensorType,
    ) -> Result<Arc<Handle<D>>, DeviceError> {
        let pending = Mutex::new(Some(Pending { op, operands }));
        let node = Arc::new(Node { tensor, host: None, buffer: OnceLock::new(), pending });
        let handle = Arc::new(Handle { node });
        match self.device.granularity() {
            // Not under `running`: its operands are there already, and a device that computes on threads of a pool may
            // come back here on one that waits.
            Granularity::Operation => self.compute(&[Arc::clone(&handle.node)], None)?,
            Granularity::Stage => lock(&self.unfinished).push(Arc::downgrade(&handle)),
        }
        Ok(handle)
    }

    /// Computes everything that was asked for and that somebody may still read, as one program.
    ///
    /// `donated`: a matrix on the host that is not read on the device again.
    pub(crate) fn flush(&self, donated: Option<&Arc<Node<D>>>) -> Result<(), DeviceError> {
        let _running = lock(&self.running);
        let unfinished = std::mem::take(&mut *lock(&self.unfinished));
        let mut wanted: Vec<Arc<Node<D>>> = Vec::new();
        for handle in unfinished.iter().filter_map(Weak::upgrade) {
            if handle.node.is_pending() && !wanted.iter().any(|node| Arc::ptr_eq(node, &handle.node)) {
                wanted.push(Arc::clone(&handle.node));
            }
        }
        let computed = self.compute(&wanted, donated);
        if computed.is_err() {
            lock(&self.unfinished).extend(unfinished);
        }
        computed
    }

    /// Computes one result and what it needs, as a program of its own; everything else waits as before.
    pub(crate) fn finish(&self, handle: &Handle<D>) -> Result<(), DeviceError> {
        let _running = lock(&self.running);
        if !handle.node.is_pending() {
            return Ok(());
        }
        self.compute(&[Arc::clone(&handle.node)], None)
    }

    /// Makes sure that `node` lies on the device.
    pub(crate) fn settle(&self, node: &Arc<Node<D>>) -> Result<(), DeviceError> {
        if node.is_pending() { self.flush(None) } else { Ok(()) }
    }

    fn compute(&self, wanted: &[Arc<Node<D>>], donated: Option<&Arc<Node<D>>>) -> Result<(), DeviceError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let plan = Assembly::new(wanted, donated);
        let executable = match self.device.granularity() {
            // Making it ready costs nothing there.
            Granularity::Operation => Arc::new(self.device.compile(&plan.program)?),
            Granularity::Stage => self.compiled(&plan.program)?,
        };
        let given = plan.arguments.iter().map(|source| self.given(source)).collect::<Result<_, _>>()?;
        let results = self.device.execute(&executable, given)?;
        if results.len() != wanted.len() {
            let message = format!("the device returned {} results of {}", results.len(), wanted.len());
            return Err(DeviceError::new(BackendErrorKind::Other, message));
        }
        for (node, buffer) in wanted.iter().zip(results) {
            // Pending nodes have none, and nobody else computes this one.
            let _ = node.buffer.set(buffer);
            // Dropped after the lock is given back: it may hold the last of many others.
            let _done = lock(&node.pending).take();
        }
        Ok(())
    }

    fn given<'a>(&self, source: &'a Source<D>) -> Result<Given<'a, D::Buffer>, DeviceError> {
        match source {
            Source::Fixed(fixed) => Ok(Given::Lent(&fixed.buffer)),
            Source::Donated(node) => Ok(Given::Donated(self.upload(node)?)),
            Source::Tensor(node) => {
                if node.buffer().is_none() {
                    let _ = node.buffer.set(self.upload(node)?);
                }
                node.buffer().map(Given::Lent).ok_or_else(lost)
            }
        }
    }

    fn upload(&self, node: &Node<D>) -> Result<D::Buffer, DeviceError> {
        let TensorType { rows, cols, format } = node.tensor;
        self.device.upload(node.host().ok_or_else(lost)?, rows, cols, format)
    }

    fn compiled(&self, program: &Program) -> Result<Arc<D::Executable>, DeviceError> {
        // A program's debug form says everything that it is.
        let key = format!("{program:?}");
        if let Some(executable) = lock(&self.compiled).get(&key) {
            return Ok(Arc::clone(executable));
        }
        let executable = Arc::new(self.device.compile(program)?);
        let mut compiled = lock(&self.compiled);
        if compiled.len() >= MOST_PROGRAMS {
            compiled.clear();
        }
        compiled.insert(key, Arc::clone(&executable));
        Ok(executable)
    }
}

/// A matrix that is neither anywhere nor being computed: an earlier program failed.
pub(crate) fn lost() -> DeviceError {
    DeviceError::new(BackendErrorKind::Other, "a value was never computed: an earlier operation failed")
}

/// Where an argument of a program comes from.
enum Source<D: TtDevice> {
    Tensor(Arc<Node<D>>),
    Donated(Arc<Node<D>>),
    Fixed(Arc<Fixed<D>>),
}

/// A program, and where its arguments come from.
struct Assembly<D: TtDevice> {
    program: Program,
    arguments: Vec<Source<D>>,
}

impl<D: TtDevice> Assembly<D> {
    fn new(wanted: &[Arc<Node<D>>], donated: Option<&Arc<Node<D>>>) -> Self {
        let mut order = Order { steps: Vec::new(), leaves: Vec::new(), seen: HashSet::new() };
        for node in wanted {
            order.visit(node);
        }
        let mut program = Program::default();
        let mut arguments = Vec::with_capacity(order.leaves.len());
        let mut values: HashMap<usize, Value> = HashMap::new();
        for (index, leaf) in order.leaves.into_iter().enumerate() {
            let value = match &leaf {
                Operand::Tensor(node) => program.argument(Argument::Tensor(node.tensor)),
                Operand::Fixed(fixed) => program.argument(fixed.argument),
            };
            values.insert(identity(&leaf), value);
            arguments.push(match leaf {
                Operand::Tensor(node)
                    if donated.is_some_and(|donated| Arc::ptr_eq(donated, &node))
                        && node.buffer().is_none() =>
                {
                    program.donated.push(index);
                    Source::Donated(node)
                }
                Operand::Tensor(node) => Source::Tensor(node),
                Operand::Fixed(fixed) => Source::Fixed(fixed),
            });
        }
        for Step { node, op, operands } in order.steps {
            let operands = operands.iter().map(|operand| values[&identity(operand)]).collect();
            let value = program.push(op, operands, node.tensor);
            values.insert(address(&node), value);
        }
        program.results = wanted.iter().map(|node| values[&address(node)]).collect();
        Self { program, arguments }
    }
}

/// What must be computed, operands first, and what is read from outside.
struct Order<D: TtDevice> {
    steps: Vec<Step<D>>,
    leaves: Vec<Operand<D>>,
    seen: HashSet<usize>,
}

impl<D: TtDevice> Order<D> {
    /// Depth first, on a stack of our own: a prefix is thousands of operations deep.
    fn visit(&mut self, root: &Arc<Node<D>>) {
        let mut stack = vec![Visit::Enter(Operand::Tensor(Arc::clone(root)))];
        while let Some(visit) = stack.pop() {
            match visit {
                Visit::Leave(step) => self.steps.push(step),
                Visit::Enter(operand) => {
                    if !self.seen.insert(identity(&operand)) {
                        continue;
                    }
                    let Operand::Tensor(node) = &operand else {
                        self.leaves.push(operand);
                        continue;
                    };
                    let pending = lock(&node.pending);
                    match &*pending {
                        None => {
                            drop(pending);
                            self.leaves.push(operand);
                        }
                        Some(Pending { op, operands }) => {
                            let (node, op, operands) = (Arc::clone(node), op.clone(), operands.clone());
                            // The first operand is entered first.
                            let next: Vec<_> = operands.iter().rev().cloned().map(Visit::Enter).collect();
                            stack.push(Visit::Leave(Step { node, op, operands }));
                            stack.extend(next);
                        }
                    }
                }
            }
        }
    }
}

enum Visit<D: TtDevice> {
    Enter(Operand<D>),
    Leave(Step<D>),
}

/// An operation to be done, with the node it computes.
struct Step<D: TtDevice> {
    node: Arc<Node<D>>,
    op: Op,
    operands: Vec<Operand<D>>,
}

/// What tells operands apart while a program is assembled.
fn identity<D: TtDevice>(operand: &Operand<D>) -> usize {
    match operand {
        Operand::Tensor(node) => address(node),
        Operand::Fixed(fixed) => Arc::as_ptr(fixed).addr(),
    }
}

fn address<T>(node: &Arc<T>) -> usize {
    Arc::as_ptr(node).addr()
}

impl<D: TtDevice> fmt::Debug for Recorder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("unfinished", &lock(&self.unfinished).len()).finish_non_exhaustive()
    }
}

//! Compiled programs.

use std::ptr;

use super::buffer::{Buffer, ElementType};
use super::client::{Client, Handle, Mode, report};
use super::error::PjrtError;
use super::ffi;

/// An input of a program: lent, or given away.
///
/// A program may write its outputs over inputs that it is given, where it says so (`tf.aliasing_output` or
/// `jax.buffer_donor` at its parameter). Whatever it says, an input that is lent stays as it is.
#[derive(Debug)]
pub enum Argument<'a, M: Mode> {
    /// Read, and left as it is.
    Lent(&'a Buffer<M>),
    /// Consumed: its memory may become an output's.
    Given(Buffer<M>),
}

impl<'a, M: Mode> From<&'a Buffer<M>> for Argument<'a, M> {
    fn from(buffer: &'a Buffer<M>) -> Self {
        Self::Lent(buffer)
    }
}

impl<M: Mode> From<Buffer<M>> for Argument<'_, M> {
    fn from(buffer: Buffer<M>) -> Self {
        Self::Given(buffer)
    }
}

impl<M: Mode> Argument<'_, M> {
    fn buffer(&self) -> &Buffer<M> {
        match self {
            Self::Lent(buffer) => buffer,
            Self::Given(buffer) => buffer,
        }
    }
}

/// A compiled program, loaded on its client's device.
#[derive(Debug)]
pub struct Executable<M: Mode> {
    raw: Handle<ffi::LoadedExecutable>,
    client: Client<M>,
    inputs: Option<Vec<(ElementType, Vec<usize>)>>,
    outputs: usize,
}

impl<M: Mode> Executable<M> {
    /// Takes over what a compilation made, and asks how many outputs it has.
    pub(super) fn adopt(client: &Client<M>, raw: Handle<ffi::LoadedExecutable>) -> Result<Self, PjrtError> {
        // Owned before anything can fail, so that it is freed.
        let mut executable = Self { raw, client: client.clone(), inputs: None, outputs: 0 };
        let inner = &*client.inner;
        let mut get = ffi::LoadedExecutableGetExecutable::new();
        get.loaded_executable = executable.raw.get();
        // SAFETY: the executable is alive.
        unsafe {
            inner.call(
                "PJRT_LoadedExecutable_GetExecutable",
                |api| api.loaded_executable_get_executable,
                &mut get,
            )?;
        }
        let program = Handle::new(get.executable, "PJRT_LoadedExecutable_GetExecutable")?;
        let mut count = ffi::ExecutableNumOutputs::new();
        count.executable = program.get();
        // SAFETY: the program is alive until it is freed below.
        let counted =
            unsafe { inner.call("PJRT_Executable_NumOutputs", |api| api.executable_num_outputs, &mut count) };
        let mut destroy = ffi::ExecutableDestroy::new();
        destroy.executable = program.get();
        // SAFETY: nothing uses the program afterwards.
        report(unsafe { inner.call("PJRT_Executable_Destroy", |api| api.executable_destroy, &mut destroy) });
        counted?;
        executable.outputs = count.num_outputs;
        Ok(executable)
    }

    /// Checks inputs against these types and sizes from now on. XLA's plugins check them; Tenstorrent's counts them, and
    /// runs on whatever their sizes are.
    #[must_use]
    pub fn expecting(mut self, inputs: impl IntoIterator<Item = (ElementType, Vec<usize>)>) -> Self {
        self.inputs = Some(inputs.into_iter().collect());
        self
    }

    /// Whether inputs are those that [`Self::expecting`] named, if it did.
    fn check(&self, arguments: &[Argument<'_, M>]) -> Result<(), PjrtError> {
        let refused = |text| Err(PjrtError::InvalidArgument(text));
        let inner = &self.client.inner;
        if let Some(index) = arguments.iter().position(|argument| !argument.buffer().belongs_to(inner)) {
            return refused(format!("input {index} is of another client"));
        }
        let Some(expected) = &self.inputs else { return Ok(()) };
        if arguments.len() != expected.len() {
            return refused(format!("{} inputs are given, and {} expected", arguments.len(), expected.len()));
        }
        for (index, (argument, (element, sizes))) in arguments.iter().zip(expected).enumerate() {
            let (given, given_sizes) = (argument.buffer().element_type(), argument.buffer().dimensions());
            if given != *element || given_sizes != sizes {
                let text = format!(
                    "input {index} is {given_sizes:?} of {given}, and {sizes:?} of {element} expected"
                );
                return refused(text);
            }
        }
        Ok(())
    }

    /// How many arrays the program returns.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Runs the program, or lets it be run: outputs may still be on their way. A buffer that is [`Argument::Given`] is
    /// gone afterwards, also where this fails.
    ///
    /// # Errors
    /// [`PjrtError::InvalidArgument`] where an input is another connection's, or not what [`Self::expecting`] named; else the plugin's, for example where
    /// there are too few inputs. What goes wrong later, reading an output reports.
    pub fn execute<'a>(
        &self,
        arguments: impl IntoIterator<Item = Argument<'a, M>>,
    ) -> Result<Vec<Buffer<M>>, PjrtError> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        self.check(&arguments)?;
        let inner = &self.client.inner;
        let inputs: Vec<_> = arguments.iter().map(|argument| argument.buffer().raw()).collect();
        let lent: Vec<i64> = (0_i64..)
            .zip(&arguments)
            .filter_map(|(index, argument)| matches!(argument, Argument::Lent(_)).then_some(index))
            .collect();
        let mut outputs = vec![ptr::null_mut::<ffi::Buffer>(); self.outputs];
        let input_lists = [inputs.as_ptr()];
        let output_lists = [outputs.as_mut_ptr()];
        let mut options = ffi::ExecuteOptions::new();
        options.non_donatable_input_indices = lent.as_ptr();
        options.num_non_donatable_input_indices = lent.len();
        let mut call = ffi::LoadedExecutableExecute::new();
        call.executable = self.raw.get();
        call.options = &raw mut options;
        call.argument_lists = input_lists.as_ptr();
        call.num_devices = input_lists.len();
        call.num_args = inputs.len();
        call.output_lists = output_lists.as_ptr();
        // SAFETY: executable and inputs are alive; the lists are as long as the executable and the counts say, and
        // outlive the call, which is all that is asked. Inputs whose memory the program may take over are owned by
        // `arguments`, which are dropped below and reach nobody.
        unsafe {
            inner.call("PJRT_LoadedExecutable_Execute", |api| api.loaded_executable_execute, &mut call)?;
        }
        // All are owned before any is asked what it is, so that all are freed.
        let adopt = |raw| {
            Handle::new(raw, "PJRT_LoadedExecutable_Execute").map(|raw| Buffer::adopt(&self.client, raw))
        };
        let outputs: Vec<_> = outputs.into_iter().map(adopt).collect();
        outputs.into_iter().map(|output| output?.describe()).collect()
    }
}

impl<M: Mode> Drop for Executable<M> {
    fn drop(&mut self) {
        let mut arguments = ffi::LoadedExecutableDestroy::new();
        arguments.executable = self.raw.get();
        let inner = &self.client.inner;
        // SAFETY: nothing uses the executable afterwards; runs that are under way hold it by themselves.
        report(unsafe {
            inner.call("PJRT_LoadedExecutable_Destroy", |api| api.loaded_executable_destroy, &mut arguments)
        });
    }
}

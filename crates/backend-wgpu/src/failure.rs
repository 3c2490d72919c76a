//! Failures of the device, which wgpu reports on threads of its own, and panics of the libraries above it.

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use burn_wgpu::wgpu;
use smolvla_core::BackendError;
use smolvla_core::backend::BackendErrorKind;

use crate::NAME;

/// What went wrong on one device, in the order it was told.
///
/// A number that was computed around a failure is worthless, and nothing says which were. So a failure spoils every
/// [`Handle`] that was there when it happened, for good; one that is taken later only where the device was lost, which
/// wgpu tells once and Burn cannot mend.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    list: Mutex<Vec<Failure>>,
    /// Why the device is gone, if it is.
    lost: OnceLock<Failure>,
    /// The device, once it is watched.
    device: OnceLock<wgpu::Device>,
}

#[derive(Clone, Debug)]
struct Failure {
    kind: BackendErrorKind,
    message: String,
}

impl Failures {
    fn list(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets wgpu say what it has not said yet. It reports operations on a lost device as mistakes of the caller before
    /// it reports the loss.
    fn listen(&self) {
        if let Some(device) = self.device.get() {
            // Whether all work is done is not asked here; what is reported meanwhile is in the list.
            let _ = catch_unwind(AssertUnwindSafe(|| device.poll(wgpu::PollType::Poll)));
        }
    }

    fn push(&self, kind: BackendErrorKind, message: String) {
        tracing::error!("{NAME}: {message}");
        self.list().push(Failure { kind, message });
    }

    /// Takes what wgpu reports when nobody asks for it. By CubeCL's default that is a panic, with its text on standard
    /// error; CubeCL counts on the unwinding, to take a kernel for failed and an allocation for not made.
    pub(crate) fn watch(self: &Arc<Self>, device: &wgpu::Device) {
        let failures = Arc::clone(self);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let kind = match error {
                wgpu::Error::OutOfMemory { .. } => BackendErrorKind::OutOfMemory,
                _ => BackendErrorKind::Other,
            };
            let text = explained(kind, &error.to_string());
            failures.push(kind, text.clone());
            if failures.lost.get().is_none() {
                // Without a word: it has been recorded.
                resume_unwind(Box::new(text));
            }
        }));
        // In the place of CubeCL's own, which has later calls fail; every call here asks for it first.
        let failures = Arc::clone(self);
        device.set_device_lost_callback(move |reason, message| {
            let text = format!("{reason:?}: {message}");
            // wgpu gives a device up that is out of memory.
            let kind = match kind_of(&message) {
                BackendErrorKind::OutOfMemory => BackendErrorKind::OutOfMemory,
                _ => BackendErrorKind::DeviceLost,
            };
            let message = explained(kind, &text);
            tracing::error!("{NAME}: {message}");
            let _ = failures.lost.set(Failure { kind, message });
        });
        let _ = self.device.set(device.clone());
    }

    /// A handle that fails with what happens from now on.
    pub(crate) fn handle(self: &Arc<Self>) -> Handle {
        Handle { seen: self.list().len(), failures: Arc::clone(self) }
    }
}

/// One user's view of a device's failures.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    failures: Arc<Failures>,
    /// Failures before this handle was taken.
    seen: usize,
}

impl Handle {
    /// Fails with the loss of the device, whenever that was, else with what first went wrong since this handle was taken.
    pub(crate) fn check(&self, op: &'static str) -> Result<(), BackendError> {
        let first = || self.failures.list().get(self.seen).cloned();
        let known = self.failures.lost.get().cloned().or_else(|| {
            first().map(|failure| {
                self.failures.listen();
                self.failures.lost.get().cloned().unwrap_or(failure)
            })
        });
        match known {
            None => Ok(()),
            Some(Failure { kind, message }) => Err(BackendError::new(NAME, op, kind, message)),
        }
    }

    /// Runs device work. A panic in it becomes a failure, as an error does.
    pub(crate) fn run<T, E: Error + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, BackendError> {
        self.check(op)?;
        // Burn's tensors are only handles here; the device's own state is guarded by its library.
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // The cause, where wgpu told it meanwhile, says more than what followed from it.
        self.check(op)?;
        let text = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => chain(&error),
            Err(payload) => said(payload.as_ref()),
        };
        let kind = kind_of(&text);
        self.failures.push(kind, explained(kind, &text));
        self.check(op)?;
        Err(BackendError::new(NAME, op, kind, text))
    }
}

/// An error with what caused it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What a panic said.
fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("the GPU library panicked").to_owned()
}

/// What kind of failure a library's text is about: its types do not reach us.
fn kind_of(text: &str) -> BackendErrorKind {
    let text = text.to_lowercase();
    // wgpu's own; CubeCL's for an allocation that failed, and for one larger than the device allows.
    let memory =
        ["out of memory", "out of device memory", "not enough memory", "can't allocate buffer of size"];
    if memory.iter().any(|part| text.contains(part)) {
        BackendErrorKind::OutOfMemory
    } else if text.contains("device is lost") || text.contains("device lost") {
        BackendErrorKind::DeviceLost
    } else {
        BackendErrorKind::Other
    }
}

/// A library's text with what to do.
fn explained(kind: BackendErrorKind, text: &str) -> String {
    let text = text.trim();
    match kind {
        BackendErrorKind::OutOfMemory => format!(
            "the device's memory is full ({text}); use --precision f16 where the adapter has it, a smaller batch, \
             fewer cameras, or close what else uses the device"
        ),
        BackendErrorKind::DeviceLost => format!(
            "the device was lost ({text}): its driver was reset or it was taken away; start the program again"
        ),
        _ => format!("the device failed: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_stays() {
        let failures = Arc::new(Failures::default());
        let handle = failures.handle();
        let error = handle.run("linear", || -> Result<(), io::Error> { panic!("boom {}", 7) }).unwrap_err();
        assert_eq!((error.op, error.kind), ("linear", BackendErrorKind::Other));
        assert!(error.message.contains("boom 7"), "{error}");
        let again = handle.run("scale", || Ok::<_, io::Error>(1)).unwrap_err();
        assert_eq!((again.op, again.message), ("scale", error.message));
        assert_eq!(failures.handle().run("scale", || Ok::<_, io::Error>(1)).unwrap(), 1);
    }

    #[test]
    fn a_lost_device_is_lost_for_handles_to_come() {
        let failures = Arc::new(Failures::default());
        let lost = Failure { kind: BackendErrorKind::DeviceLost, message: "gone".to_owned() };
        failures.lost.set(lost).unwrap();
        let error = failures.handle().check("upload").unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (BackendErrorKind::DeviceLost, "gone"));
    }

    #[test]
    fn what_the_device_reports_comes_before_what_followed_from_it() {
        let failures = Arc::new(Failures::default());
        let handle = failures.handle();
        let error = handle
            .run("download", || {
                failures.push(BackendErrorKind::OutOfMemory, "full".to_owned());
                Err::<(), _>(io::Error::other("cannot map"))
            })
            .unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (BackendErrorKind::OutOfMemory, "full"));
    }

    #[test]
    fn texts_of_the_libraries_are_told_apart() {
        for (text, kind) in [
            ("Parent device is lost", BackendErrorKind::DeviceLost),
            ("Out of Memory", BackendErrorKind::OutOfMemory),
            ("out of device memory allocating 4096 bytes", BackendErrorKind::OutOfMemory),
            ("can't allocate buffer of size: 4096", BackendErrorKind::OutOfMemory),
            ("poisoned lock: another task failed inside", BackendErrorKind::Other),
        ] {
            assert_eq!(kind_of(text), kind, "{text}");
        }
    }
}

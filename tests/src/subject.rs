//! A backend under test, its type erased.

use smolvla_core::checkpoint::Checkpoint;
use smolvla_core::policy::{Policy, PolicyOptions, SmolVla};
use smolvla_core::{Backend, Capabilities, Checked, Precision, Result};

use crate::evidence::{Evidence, Stop};
use crate::ops::OpCase;

/// What checks need of a backend. Every backend is one; so is a backend with a defect put into it
/// ([`crate::mutants`]).
pub trait Subject: Send + Sync {
    /// What the device is and can do.
    fn capabilities(&self) -> Capabilities;

    /// Runs one operation case.
    fn check_op(&self, case: &OpCase, precision: Precision) -> Evidence;

    /// Loads a checkpoint.
    ///
    /// # Errors
    /// As [`SmolVla::open`].
    fn load(&self, checkpoint: &Checkpoint, options: &PolicyOptions) -> Result<Box<dyn Policy>>;
}

impl<B: Backend + Clone> Subject for B {
    fn capabilities(&self) -> Capabilities {
        Backend::capabilities(self)
    }

    fn check_op(&self, case: &OpCase, precision: Precision) -> Evidence {
        match self.clone().with_plan(&precision.into()) {
            Ok(backend) => case.check(&Checked::new(backend), precision),
            Err(error) => Evidence::from(Stop::from(error)),
        }
    }

    fn load(&self, checkpoint: &Checkpoint, options: &PolicyOptions) -> Result<Box<dyn Policy>> {
        Ok(Box::new(SmolVla::open(self.clone(), checkpoint, options, &mut |_| ())?))
    }
}

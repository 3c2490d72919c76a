//! Defects around the network: what it is given and what becomes of its actions.

use smolvla_core::checkpoint::Checkpoint;
use smolvla_core::graph::Observer;
use smolvla_core::policy::{ActionChunk, ChunkRequest, Observation, Policy, PolicyInfo, PolicyOptions};
use smolvla_core::reference::Reference;
use smolvla_core::{Capabilities, Precision, Result};

use super::Mutant;
use crate::evidence::Evidence;
use crate::ops::OpCase;
use crate::subject::Subject;

pub(super) fn mutants() -> Vec<Mutant> {
    let observing =
        |name, defect, observe| Mutant::new(name, defect, Wrapped { observe, act: |_, chunk| chunk });
    let acting = |name, defect, act| Mutant::new(name, defect, Wrapped { observe: |_| (), act });
    vec![
        observing("swapped_cameras", "the first two cameras are swapped", |observation| {
            if let [(_, first), (_, second), ..] = observation.images.as_mut_slice() {
                std::mem::swap(first, second);
            }
        }),
        observing("instruction_ignored", "every instruction is read as the same", |observation| {
            observation.task = "pick up the cube".to_owned();
        }),
        observing("state_ignored", "the state is always zero", |observation| observation.state.fill(0.0)),
        observing("first_camera_repeated", "the first camera's picture stands for all", |observation| {
            if let Some((_, first)) = observation.images.first().cloned() {
                observation.images.iter_mut().for_each(|(_, image)| *image = first.clone());
            }
        }),
        acting("scaled_by_1.3", "actions are 1.3 times too large", |_, mut chunk| {
            chunk.actions.iter_mut().for_each(|value| *value *= 1.3);
            chunk
        }),
        acting("offset_of_15", "15 units are added to every joint", |_, mut chunk| {
            chunk.actions.iter_mut().for_each(|value| *value += 15.0);
            chunk
        }),
        acting("joint_in_radians", "one joint is given in radians, not degrees", |_, mut chunk| {
            let joints = chunk.action_dim;
            for value in chunk.actions.iter_mut().skip(joints - 1).step_by(joints) {
                *value = value.to_radians();
            }
            chunk
        }),
        acting("reversed_joint", "one joint turns the other way about its mean", |_, mut chunk| {
            let joints = chunk.action_dim;
            for values in [&mut chunk.actions, &mut chunk.normalized] {
                let count = (values.len() / joints).max(1);
                let mean = values.iter().skip(joints - 1).step_by(joints).sum::<f32>() / count as f32;
                for value in values.iter_mut().skip(joints - 1).step_by(joints) {
                    *value = 2.0 * mean - *value;
                }
            }
            chunk
        }),
        acting("reversed_motion", "the actions of a chunk come in reverse order", |_, mut chunk| {
            let size = chunk.chunk_size * chunk.action_dim;
            for values in [&mut chunk.actions, &mut chunk.normalized] {
                for actions in values.chunks_mut(size) {
                    let reversed: Vec<f32> =
                        actions.chunks(chunk.action_dim).rev().flatten().copied().collect();
                    actions.copy_from_slice(&reversed);
                }
            }
            chunk
        }),
        acting("frozen", "every action of a chunk is its first", |_, mut chunk| {
            let size = chunk.chunk_size * chunk.action_dim;
            for values in [&mut chunk.actions, &mut chunk.normalized] {
                for actions in values.chunks_mut(size) {
                    let first = actions[..chunk.action_dim].repeat(chunk.chunk_size);
                    actions.copy_from_slice(&first);
                }
            }
            chunk
        }),
        acting("one_chunk_late", "the actions are those of the observation before", |previous, chunk| {
            let late = previous.take().filter(|previous| previous.actions.len() == chunk.actions.len());
            *previous = Some(chunk.clone());
            late.unwrap_or(chunk)
        }),
        acting("one_action_late", "each action is held for one step more", |_, mut chunk| {
            let size = chunk.chunk_size * chunk.action_dim;
            for values in [&mut chunk.actions, &mut chunk.normalized] {
                for actions in values.chunks_mut(size) {
                    actions.copy_within(..size - chunk.action_dim, chunk.action_dim);
                }
            }
            chunk
        }),
    ]
}

/// The plain-loop backend's policy with something done to its observations or actions.
struct Wrapped {
    observe: fn(&mut Observation),
    /// Gets the chunk before, where it may also leave one.
    act: fn(&mut Option<ActionChunk>, ActionChunk) -> ActionChunk,
}

impl Subject for Wrapped {
    fn capabilities(&self) -> Capabilities {
        Subject::capabilities(&Reference)
    }

    fn check_op(&self, case: &OpCase, precision: Precision) -> Evidence {
        Reference.check_op(case, precision)
    }

    fn load(&self, checkpoint: &Checkpoint, options: &PolicyOptions) -> Result<Box<dyn Policy>> {
        Ok(Box::new(WrappedPolicy {
            inner: Reference.load(checkpoint, options)?,
            observe: self.observe,
            act: self.act,
            previous: None,
        }))
    }
}

struct WrappedPolicy {
    inner: Box<dyn Policy>,
    observe: fn(&mut Observation),
    act: fn(&mut Option<ActionChunk>, ActionChunk) -> ActionChunk,
    previous: Option<ActionChunk>,
}

impl Policy for WrappedPolicy {
    fn info(&self) -> &PolicyInfo {
        self.inner.info()
    }

    fn reset(&mut self) {
        self.inner.reset();
    }

    fn predict_action_chunk(
        &mut self,
        observations: &[Observation],
        request: &ChunkRequest,
        observer: &mut dyn Observer,
    ) -> Result<ActionChunk> {
        let mut observations = observations.to_vec();
        observations.iter_mut().for_each(self.observe);
        let chunk = self.inner.predict_action_chunk(&observations, request, observer)?;
        Ok((self.act)(&mut self.previous, chunk))
    }

    fn select_action(&mut self, observations: &[Observation]) -> Result<Vec<Vec<f32>>> {
        self.inner.select_action(observations)
    }
}

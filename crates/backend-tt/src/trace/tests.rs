//! What a whole policy comes to.

use smolvla_core::Precision;
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::config::{Architecture, ExpertAttention};
use smolvla_core::policy::{PolicyOptions, SmolVla, WarmUp};
use smolvla_core::synth::{self, Size, SynthOptions};

use super::*;
use crate::backend::TtBackend;
use crate::program::{Argument, TensorType};

const CHUNKS: usize = 2;

/// The programs of two chunks of a tiny policy, with its sizes and the steps of a chunk.
fn policy() -> (Vec<Collected>, Architecture, usize) {
    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions { size: Size::Tiny, seed: 7, ..SynthOptions::default() };
    let path = folder.path().join("policy");
    synth::write(&options, &path, &mut |_, _| ()).unwrap();
    let checkpoint = Checkpoint::open(&path, &LoadOptions::default()).unwrap();
    let collector = Collector::default();
    let options = PolicyOptions { precision: Precision::Bfp8.into(), ..PolicyOptions::default() };
    let mut policy =
        SmolVla::open(TtBackend::new(collector.clone()), &checkpoint, &options, &mut |_| ()).unwrap();
    let mut chunks = WarmUp::new(1);
    chunks.repeats = CHUNKS - 1;
    chunks.run(&mut policy).unwrap();
    let steps = policy.pipeline().config().num_steps;
    (collector.collected(), policy.model().architecture().clone(), steps)
}

#[test]
fn a_chunk_is_two_programs_and_the_second_compiles_nothing() {
    let (collected, architecture, steps) = policy();
    let names: Vec<_> = collected.iter().map(|one| (one.name.as_str(), one.runs)).collect();
    // The time embeddings are there from the first chunk on, one run for each step.
    assert_eq!(names, [("time", steps), ("prefix", CHUNKS), ("denoise", CHUNKS * steps)]);
    let [time, prefix, denoise] = &collected[..] else { unreachable!() };
    assert_eq!((time.program.instructions.len(), time.program.results.len()), (1, 1));
    // Keys and values for each of the expert's layers, and nothing else, go from the one to the other.
    assert_eq!(prefix.program.results.len(), 2 * architecture.expert.layers);
    assert!(prefix.program.donated.is_empty());

    // A step makes a velocity out of noisy actions, which it is given.
    let Program { arguments, instructions, results, donated } = &denoise.program;
    assert_eq!(results.len(), 1);
    let actions =
        TensorType { rows: architecture.chunk_size, cols: architecture.max_action_dim, format: Format::F32 };
    let velocity = denoise.program.tensor_type(results[0]).unwrap();
    assert_eq!((velocity.rows, velocity.cols), (actions.rows, actions.cols));
    let [given] = donated[..] else { panic!("{donated:?} are given away") };
    assert_eq!(arguments[given], Argument::Tensor(actions));
    assert_eq!(instructions[0].operands[0].0, given, "noisy actions are read first");

    // It computes no key and value of the prefix: cross-attention reads both as they come in, self-attention its first
    // segment.
    let mut cross = 0;
    for step in instructions {
        let Op::Attention { segments, .. } = step.op else { continue };
        cross += usize::from(segments == 1);
        for operand in &step.operands[1..3] {
            let Some(Argument::Tensor(tensor)) = arguments.get(operand.0) else {
                panic!("{operand:?} of attention is computed in the step");
            };
            assert!(tensor.rows > actions.rows, "{tensor} is no prefix");
        }
    }
    let is_cross = |kind: ExpertAttention| kind == ExpertAttention::CrossAttention;
    let expected = architecture.expert.schedule.iter().flatten().filter(|slot| is_cross(slot.kind)).count();
    assert!(expected > 0);
    assert_eq!(cross, expected);
}

#[test]
fn stages_are_told_by_what_they_do() {
    assert_eq!(stage(&Program::default()), "time");
    assert_eq!(stage(&Program { donated: vec![0], ..Program::default() }), "denoise");
}

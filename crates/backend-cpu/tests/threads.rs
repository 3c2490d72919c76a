//! A chunk of actions is the same, bit for bit, on any number of threads.

use smolvla_backend_cpu::{CpuBackend, Isa, Options};
use smolvla_core::Backend;
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::graph::Silent;
use smolvla_core::policy::{ChunkRequest, Noise, Observation, Policy, PolicyOptions, SmolVla};
use smolvla_core::precision::PrecisionPlan;
use smolvla_core::processor::Image;
use smolvla_core::synth::{Size, SynthOptions, write};

#[test]
fn actions_do_not_depend_on_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions { size: Size::Tiny, ..SynthOptions::default() };
    write(&options, folder.path(), &mut |_, _| ()).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), &LoadOptions::default()).unwrap();
    let pixels = (0..40 * 30 * 3).map(|index| (index * 37 % 251) as u8).collect();
    let observation = Observation {
        images: vec![("camera1".into(), Image::from_rgb8("camera1", 40, 30, pixels).unwrap())],
        state: vec![0.5, -1.0, 2.0, 0.0, 1.5, -0.25],
        task: "pick up the cube".into(),
    };
    let batch = [observation.clone(), Observation { task: "push it away".into(), ..observation }];
    let request = ChunkRequest { noise: Some(Noise::Seed(3)), steps: None };
    for isa in Isa::available() {
        for name in ["f32", "bf16", "int8", "int8w"] {
            let run = |threads| {
                let mut options = Options::default();
                (options.isa, options.threads) = (Some(isa), Some(threads));
                let backend = CpuBackend::new(options).unwrap();
                let precision = PrecisionPlan::resolve(name, &backend.capabilities()).unwrap();
                let options = PolicyOptions { precision, ..PolicyOptions::default() };
                let mut policy = SmolVla::open(backend, &checkpoint, &options, &mut |_| ()).unwrap();
                policy.predict_action_chunk(&batch, &request, &mut Silent).unwrap().actions
            };
            let one = run(1);
            for threads in [2, 3, 5] {
                assert_eq!(run(threads), one, "{isa} {name}, {threads} threads");
            }
        }
    }
}

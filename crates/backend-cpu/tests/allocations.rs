//! What the engine allocates while it runs: nothing, once it has run.
//!
//! A program of its own, because it counts every allocation of the process.
#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use smolvla_backend_cpu::{CpuBackend, Options};
use smolvla_core::Backend;
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::graph::{Observer, Site};
use smolvla_core::policy::{ChunkRequest, Noise, Observation, Policy, PolicyOptions, SmolVla};
use smolvla_core::precision::PrecisionPlan;
use smolvla_core::processor::Image;
use smolvla_core::synth::{Size, SynthOptions, write};

/// Counts while `COUNTING`.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNTED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts from one site on to another.
struct Between {
    from: fn(Site) -> bool,
    to: fn(Site) -> bool,
}

impl Observer for Between {
    fn reached(&mut self, site: Site) {
        if (self.from)(site) {
            COUNTING.store(true, Ordering::Relaxed);
            COUNTED.store(true, Ordering::Relaxed);
        }
        if (self.to)(site) {
            COUNTING.store(false, Ordering::Relaxed);
        }
    }
}

#[test]
fn layers_and_denoising_steps_allocate_nothing_once_they_have_run() {
    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions { size: Size::Tiny, ..SynthOptions::default() };
    write(&options, folder.path(), &mut |_, _| ()).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), &LoadOptions::default()).unwrap();
    let observation = [Observation {
        images: vec![("camera1".into(), Image::from_rgb8("camera1", 8, 8, vec![90; 8 * 8 * 3]).unwrap())],
        state: vec![0.0; 6],
        task: "pick up the cube".into(),
    }];
    let parts: [(&str, Between); 3] = [
        (
            "vision layers",
            Between { from: |site| site == Site::VisionEmbeddings, to: |site| site == Site::VisionOutput },
        ),
        (
            "language-model layers",
            Between { from: |site| site == Site::TextLayer(0), to: |site| site == Site::TextLayer(2) },
        ),
        (
            "denoising steps",
            Between {
                from: |site| site == Site::Velocity { step: 0 },
                to: |site| matches!(site, Site::Actions { step: 10 }),
            },
        ),
    ];
    for name in ["f32", "bf16", "int8", "int8w"] {
        let mut engine = Options::default();
        engine.threads = Some(2);
        let backend = CpuBackend::new(engine).unwrap();
        let precision = PrecisionPlan::resolve(name, &backend.capabilities()).unwrap();
        let options = PolicyOptions { precision, ..PolicyOptions::default() };
        let mut policy = SmolVla::open(backend, &checkpoint, &options, &mut |_| ()).unwrap();
        let request = ChunkRequest { noise: Some(Noise::Seed(0)), steps: None };
        // The first chunk allocates, and is seen to.
        policy.predict_action_chunk(&observation, &request, &mut Between { ..parts[0].1 }).unwrap();
        assert_ne!(ALLOCATIONS.load(Ordering::Relaxed), 0, "{name}");
        policy.predict(&observation).unwrap();
        for (part, between) in &parts {
            let mut between = Between { ..*between };
            ALLOCATIONS.store(0, Ordering::Relaxed);
            policy.predict_action_chunk(&observation, &request, &mut between).unwrap();
            assert!(COUNTED.swap(false, Ordering::Relaxed), "the {part} were not reached");
            assert!(!COUNTING.swap(false, Ordering::Relaxed), "the end of the {part} was not reached");
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "{name}: {part}");
        }
    }
}

//! Every operation of every backend against the plain loops.

use libtest_mimic::{Arguments, Failed, Trial};
use smolvla_conformance::ops::CASES;
use smolvla_core::Backend;

fn main() {
    let mut trials = Vec::new();
    trials.extend(cases("cpu", smolvla_backend_cpu::open()));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn cases<B: Backend + Clone>(name: &str, backend: B) -> Vec<Trial> {
    CASES
        .iter()
        .map(|case| {
            let backend = backend.clone();
            Trial::test(format!("{name}::{}", case.name), move || case.check(backend).map_err(Failed::from))
        })
        .collect()
}

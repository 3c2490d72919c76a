//! Every mutant must be found by some check, and the backend they are made from by none.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use smolvla_conformance::checks::Context;
use smolvla_conformance::fixtures::Fixtures;
use smolvla_conformance::mutants::{all, examine, faced};
use smolvla_core::Precision;
use smolvla_core::reference::Reference;

fn main() -> ExitCode {
    let fixtures = Arc::new(Fixtures::open().expect("the package's own fixtures"));
    let faced = Arc::new(faced(&fixtures).expect("the cases that mutants face"));
    let mut trials: Vec<Trial> = all()
        .into_iter()
        .map(|mutant| {
            let (fixtures, faced) = (Arc::clone(&fixtures), Arc::clone(&faced));
            Trial::test(format!("killed::{}", mutant.name), move || {
                let report = examine(&mutant, &faced, &fixtures);
                if report.killed_by.is_empty() {
                    return Err(Failed::from(format!("no check finds it: {}", mutant.defect)));
                }
                Ok(())
            })
        })
        .collect();
    trials.push(Trial::test("unaltered_backend_survives", move || {
        let context = Context { subject: &Reference, precision: Precision::F32, fixtures: &fixtures };
        for check in &*faced {
            let evidence = check.run(&context);
            if !evidence.holds() {
                return Err(Failed::from(format!("{check:?}: {:?}", evidence.failures)));
            }
        }
        Ok(())
    }));
    trials.push(Trial::test("there_are_enough", || {
        let names: Vec<_> = all().iter().map(|mutant| mutant.name).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() == names.len() && names.len() >= 15 {
            Ok(())
        } else {
            Err(Failed::from(names.join(", ")))
        }
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

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
    trials.push(Trial::test("readme_says_how_many", || {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let said = format!("- {} known defects are put into the reference backend", all().len());
        if std::fs::read_to_string(readme)?.contains(&said) { Ok(()) } else { Err(Failed::from(said)) }
    }));
    trials.push(Trial::test("names_are_unique", || {
        let mut names: Vec<_> = all().iter().map(|mutant| mutant.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        if names.len() == count { Ok(()) } else { Err(Failed::from(names.join(", "))) }
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

//! Counts tests by reading what the test programs print.
//!
//! Programs of Rust's own harness, of `libtest-mimic` and documentation tests print the same lines:
//! `running 2 tests`, `test NAME ... ok`, `test NAME ... FAILED`, `test NAME ... ignored, REASON` and at last
//! `test result: ok. 1 passed; 0 failed; 1 ignored; …`. The last gives the counts, the others the names.

use std::fmt;

/// What all test programs together came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<Outcome>,
    skips: Vec<Outcome>,
    programs: usize,
    /// The program whose tests are being read.
    current: Option<Program>,
}

/// One test and why it failed or was skipped; empty where nothing says.
#[derive(Debug, PartialEq)]
struct Outcome {
    test: String,
    reason: String,
}

/// What is known so far of the test program now running.
#[derive(Debug, Default)]
struct Program {
    announced: usize,
    failures: Vec<Outcome>,
    skips: Vec<Outcome>,
    /// The failure whose output is being read.
    explained: Option<usize>,
}

/// How many lines of what a failed test printed are repeated in the summary.
const LINES_OF_A_FAILURE: usize = 12;

impl Tally {
    /// Takes the next line that `cargo test` printed.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(announced) = announced(line) {
            self.finish();
            self.current = Some(Program { announced, ..Program::default() });
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.close(counts);
        } else if let Some(program) = &mut self.current {
            program.line(line);
        }
    }

    /// Ends the reading. A program that announced tests and gave no result died: that counts as a failure.
    pub(crate) fn finish(&mut self) {
        if let Some(program) = self.current.take() {
            self.programs += 1;
            let reason = format!("its {} tests have no result: the program died", program.announced);
            self.fail("a test program", &reason);
        }
    }

    /// Adds a failure that no test program printed.
    pub(crate) fn fail(&mut self, what: &str, reason: &str) {
        self.failures.push(Outcome { test: what.to_owned(), reason: reason.to_owned() });
    }

    /// Whether no test program ran to the point of announcing its tests.
    pub(crate) fn is_empty(&self) -> bool {
        self.programs == 0
    }

    /// How many tests failed.
    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Whether nothing failed and every skip says why.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.skips.iter().all(|skip| !skip.reason.is_empty())
    }

    /// Adds a program's result. Its counts are believed; a failure or skip that no line named gets a stand-in.
    fn close(&mut self, counts: &str) {
        let program = self.current.take().unwrap_or_default();
        self.programs += 1;
        self.passed += count(counts, "passed");
        let unnamed = |total: usize, named: usize| total.saturating_sub(named);
        let failed_unnamed = unnamed(count(counts, "failed"), program.failures.len());
        let skipped_unnamed = unnamed(count(counts, "ignored"), program.skips.len());
        self.failures.extend(program.failures);
        for _ in 0..failed_unnamed {
            self.fail("a test whose name was not printed", "");
        }
        self.skips.extend(program.skips);
        for _ in 0..skipped_unnamed {
            let test = "a test whose name was not printed".to_owned();
            self.skips.push(Outcome { test, reason: String::new() });
        }
    }
}

impl Program {
    fn line(&mut self, line: &str) {
        if let Some(failure) = self.explained {
            if line == "failures:" {
                self.explained = None;
            } else if !self.begins(line) {
                self.failures[failure].explain(line);
            }
            return;
        }
        if self.begins(line) {
            return;
        }
        // The name may hold ` ... `; the outcome does not begin with it.
        let Some((test, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        let test = test.trim().to_owned();
        if outcome.starts_with("FAILED") {
            self.failures.push(Outcome { test, reason: String::new() });
        } else if let Some(rest) = outcome.strip_prefix("ignored") {
            // `, reason` from Rust's harness, ` (reason)` from libtest-mimic.
            let reason = rest.trim_start_matches([',', ' ', '(']).trim_end_matches(')').to_owned();
            self.skips.push(Outcome { test, reason });
        }
    }

    /// Whether `line` opens what a failed test printed: `---- a::b stdout ----`, or without `stdout`.
    fn begins(&mut self, line: &str) -> bool {
        let Some(title) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) else {
            return false;
        };
        let name = title.strip_suffix(" stdout").unwrap_or(title).trim();
        let found = self.failures.iter().position(|failure| failure.test == name);
        self.explained = found.or(self.explained);
        found.is_some()
    }
}

impl Outcome {
    fn explain(&mut self, line: &str) {
        let kept = self.reason.matches('\n').count();
        if kept < LINES_OF_A_FAILURE && !line.trim().is_empty() {
            self.reason.push('\n');
            self.reason.push_str("           ");
            self.reason.push_str(line.trim_end());
        } else if kept == LINES_OF_A_FAILURE && !line.trim().is_empty() {
            self.reason.push_str("\n           …");
        }
    }
}

/// The whole summary; its last line is `N passed, N failed, N skipped`. The failures stand directly above it, where
/// whoever has only the end of a log finds them.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs = self.programs;
        writeln!(f, "Summary of {programs} test program{}:", if programs == 1 { "" } else { "s" })?;
        for Outcome { test, reason } in &self.skips {
            let reason = if reason.is_empty() { "NO REASON GIVEN, which is an error" } else { reason };
            writeln!(f, "  skipped  {test}: {reason}")?;
        }
        for Outcome { test, reason } in &self.failures {
            let separator = if reason.is_empty() || reason.starts_with('\n') { "" } else { ": " };
            writeln!(f, "  failed   {test}{separator}{reason}")?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failures.len(), self.skips.len())
    }
}

/// The number in `running 3 tests`.
fn announced(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("running ")?;
    let number = rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test"))?;
    number.parse().ok()
}

/// The number before `what` in `ok. 3 passed; 1 failed; …`.
fn count(counts: &str, what: &str) -> usize {
    let words: Vec<&str> = counts.split([' ', ';']).collect();
    let number = words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.line(line));
        tally.finish();
        tally
    }

    fn last_line(tally: &Tally) -> String {
        tally.to_string().lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn tally_adds_up_several_programs() {
        let tally = tally(
            "\nrunning 2 tests\ntest a::b ... ok\ntest c ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
             running 1 test\ntest src/lib.rs - open (line 12) ... ok\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.20s\n",
        );
        assert_eq!(last_line(&tally), "3 passed, 0 failed, 0 skipped");
        assert!(tally.is_clean() && !tally.is_empty());
    }

    #[test]
    fn tally_names_failures() {
        let tally = tally(
            "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nboom\n\n\
             failures:\n    b\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert!(!tally.is_clean());
        assert!(tally.to_string().contains("  failed   b\n           boom\n"), "{tally}");
        assert_eq!(last_line(&tally), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn tally_ends_with_the_failures_and_what_they_printed() {
        let long: String = (0..40).map(|line| format!("line {line}\n")).collect();
        let tally = tally(&format!(
            "running 3 tests\ntest  a ... FAILED\ntest  b ... FAILED\ntest c ... ignored, needs a card\n\n\
             failures:\n\n---- a ----\ntest d ... FAILED\n---- elsewhere ----\n\n---- b ----\n{long}\n\
             failures:\n    a\n    b\n\n\
             test result: FAILED. 0 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        ));
        let summary = tally.to_string();
        let (_, end) = summary.split_once("  skipped  c: needs a card\n").expect("skips come first");
        let expected =
            "  failed   a\n           test d ... FAILED\n           ---- elsewhere ----\n  failed   b\n";
        assert!(end.starts_with(expected), "{summary}");
        assert!(end.contains("line 11\n           …\n0 passed"), "{summary}");
        assert_eq!(tally.failed(), 2);
    }

    #[test]
    fn tally_takes_the_reason_of_a_skip_from_either_harness() {
        let tally = tally(
            "running 2 tests\ntest slow ... ignored, needs 8 GiB of memory\n\
             test wgpu   ... ignored (no GPU here)\n\
             test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert!(tally.is_clean());
        assert!(tally.to_string().contains("  skipped  slow: needs 8 GiB of memory\n"), "{tally}");
        assert!(tally.to_string().contains("  skipped  wgpu: no GPU here\n"), "{tally}");
        assert_eq!(last_line(&tally), "0 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn tally_refuses_a_skip_without_a_reason() {
        for line in ["test quiet ... ignored\n", "test src/lib.rs - (line 3) ... ignored\n", ""] {
            let tally = tally(&format!(
                "running 1 test\n{line}\
                 test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            ));
            assert!(!tally.is_clean(), "{line:?}");
            assert_eq!(last_line(&tally), "0 passed, 0 failed, 1 skipped", "{line:?}");
        }
    }

    #[test]
    fn tally_counts_a_program_that_died_as_a_failure() {
        for after in ["", "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured"] {
            let tally = tally(&format!("running 3 tests\ntest a ... ok\n{after}"));
            assert!(!tally.is_clean(), "{after:?}");
            assert_eq!(last_line(&tally), "0 passed, 1 failed, 0 skipped", "{after:?}");
        }
    }

    #[test]
    fn tally_is_empty_when_nothing_was_built() {
        assert!(tally("error: could not compile `smolvla-core`\n").is_empty());
    }

    #[test]
    fn tally_ignores_what_tests_print() {
        let tally = tally(
            "test outside of any program ... FAILED\nrunning fast\nrunning 1 test\nrunning late\n\
             test name with ... dots ... ok\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(last_line(&tally), "1 passed, 0 failed, 0 skipped");
    }
}

//! A run's stages: each does one thing, counts what passed and failed, and takes its time.

use std::time::{Duration, Instant};

use anyhow::Result;

/// What a stage found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Checks or tests that passed.
    pub passed: u64,
    /// Checks or tests that failed.
    pub failed: u64,
    /// What was left out, each with its reason and remedy.
    pub skipped: Vec<String>,
}

impl Outcome {
    /// One check, passed or not.
    #[must_use]
    pub fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), skipped: Vec::new() }
    }

    /// Left out, and why.
    #[must_use]
    pub fn skipped(reason: &str) -> Self {
        Self { skipped: vec![reason.to_owned()], ..Self::default() }
    }
}

/// All stages of one run.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<(&'static str, Outcome, Duration)>,
}

impl Stages {
    /// Runs one stage. A stage that cannot be run has failed once; the run goes on, so that one look shows all that is
    /// wrong.
    pub fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<Outcome>) -> bool {
        let started = Instant::now();
        self.count(name, stage, || started.elapsed())
    }

    /// Counts one that took its time elsewhere.
    pub fn ran(&mut self, name: &'static str, took: Duration, stage: impl FnOnce() -> Result<Outcome>) -> bool {
        self.count(name, stage, || took)
    }

    fn count(
        &mut self,
        name: &'static str,
        stage: impl FnOnce() -> Result<Outcome>,
        took: impl FnOnce() -> Duration,
    ) -> bool {
        println!("== {name}");
        let outcome = stage().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Outcome::one(false)
        });
        for reason in &outcome.skipped {
            println!("  skipped: {reason}");
        }
        let good = outcome.failed == 0;
        self.done.push((name, outcome, took()));
        good
    }

    /// Prints the table and the closing line; true if nothing failed.
    pub fn close(&self) -> bool {
        println!("\n{:<36} {:>7} {:>7} {:>7} {:>8}", "stage", "passed", "failed", "skipped", "time");
        for (name, outcome, time) in &self.done {
            let Outcome { passed, failed, skipped } = outcome;
            println!("{name:<36} {passed:>7} {failed:>7} {:>7} {:>6} s", skipped.len(), time.as_secs());
        }
        let (passed, failed) = self.totals();
        println!("\n{passed} passed, {failed} failed");
        failed == 0
    }

    pub(crate) fn totals(&self) -> (u64, u64) {
        self.done
            .iter()
            .fold((0, 0), |(passed, failed), (_, outcome, _)| (passed + outcome.passed, failed + outcome.failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_cannot_run_has_failed() {
        let mut stages = Stages::default();
        assert!(stages.run("good", || Ok(Outcome { passed: 3, ..Outcome::default() })));
        assert!(!stages.run("broken", || anyhow::bail!("no compiler")));
        assert!(stages.run("absent", || Ok(Outcome::skipped("no broker"))));
        assert_eq!(stages.totals(), (3, 1));
        assert!(!stages.close());
    }
}

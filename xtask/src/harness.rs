//! Reads what `cargo test` prints: how many passed and failed, what failed and why, what was skipped, how many rounds the
//! randomized suites reached.

/// What was read so far; feed it line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// `skipped: …` lines that tests printed, and ignored tests.
    pub skipped: Vec<String>,
    /// `trial NAME: seed …, rounds …` lines.
    pub trials: Vec<String>,
    /// `note …` lines: what else a test has to tell of what it did.
    pub notes: Vec<String>,
    suite: String,
    block: Vec<String>,
}

/// What a line means for a person who watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// How far a long suite is.
    Progress(String),
    /// A suite ended well.
    Suite(String),
    /// A suite failed: everything that it printed.
    Failure(Vec<String>),
}

impl Tally {
    /// Takes one line of standard output or error.
    pub fn line(&mut self, line: &str) -> Shown {
        let text = line.trim();
        if let Some(name) = text.strip_prefix("Running ").or(text.strip_prefix("Doc-tests ").map(|_| text)) {
            name.clone_into(&mut self.suite);
            self.block.clear();
            return Shown::Nothing;
        }
        if let Some(progress) = text.strip_prefix("progress ") {
            return Shown::Progress(progress.to_owned());
        }
        self.block.push(line.to_owned());
        // What a test shows of another run's lines it indents.
        if let Some(reason) = line.strip_prefix("skipped: ") {
            self.note_skip(reason.trim_end());
        } else if let Some(trial) = line.strip_prefix("trial ") {
            self.trials.push(trial.trim_end().to_owned());
        } else if let Some(note) = line.strip_prefix("note ") {
            self.notes.push(note.trim_end().to_owned());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            return self.result(result);
        } else if let Some((name, _)) = text.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored")) {
            self.note_skip(&format!("{name} is ignored"));
        }
        Shown::Nothing
    }

    /// Output of a suite that ended without a result, because it was killed or aborted; ends the reading.
    pub fn unfinished(&mut self) -> Vec<String> {
        let started = self.block.iter().any(|line| line.starts_with("running "));
        if started { std::mem::take(&mut self.block) } else { Vec::new() }
    }

    /// The suite that runs.
    #[must_use]
    pub fn suite(&self) -> &str {
        &self.suite
    }

    fn note_skip(&mut self, reason: &str) {
        if !self.skipped.iter().any(|known| known == reason) {
            self.skipped.push(reason.to_owned());
        }
    }

    /// `ok. 3 passed; 0 failed; 0 ignored; …`
    fn result(&mut self, result: &str) -> Shown {
        let words: Vec<&str> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        let count = |what: &str| {
            words
                .iter()
                .zip(words.iter().skip(1))
                .find_map(|(number, word)| number.parse().ok().filter(|_| *word == what))
        };
        let (passed, failed) = (count("passed").unwrap_or(0), count("failed").unwrap_or(0));
        self.passed += passed;
        self.failed += failed;
        let block = std::mem::take(&mut self.block);
        if failed > 0 || !result.starts_with("ok") {
            return Shown::Failure(block);
        }
        if passed == 0 { Shown::Nothing } else { Shown::Suite(format!("{passed:>4} passed  {}", self.suite)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/depin_log-1)

running 2 tests
test torn ... ok
progress segments: 20 of 42 rounds, 15 s
test slow ... ignored, needs an hour
trial segments: seed 1, rounds 42, 1.0 s
note segments: 7 torn
skipped: mosquitto is missing

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.05s

     Running tests/crash.rs (target/debug/deps/crash-2)

running 2 tests
test keeps ... ok
    test result: FAILED. 9 passed; 9 failed
  skipped: what another run left out
test loses ... FAILED

failures:

---- loses stdout ----
one reading is gone

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.05s

   Doc-tests depin_log

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn sums_up_and_keeps_what_matters() {
        let mut tally = Tally::default();
        let shown: Vec<Shown> =
            OUTPUT.lines().map(|line| tally.line(line)).filter(|shown| *shown != Shown::Nothing).collect();
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert_eq!(tally.skipped, ["slow is ignored", "mosquitto is missing"]);
        assert_eq!(tally.trials, ["segments: seed 1, rounds 42, 1.0 s"]);
        assert_eq!(tally.notes, ["segments: 7 torn"]);
        let [Shown::Progress(progress), Shown::Suite(suite), Shown::Failure(block)] = shown.as_slice() else {
            panic!("{shown:?}")
        };
        assert_eq!(progress, "segments: 20 of 42 rounds, 15 s");
        assert!(suite.contains("src/lib.rs"), "{suite}");
        assert!(block.iter().any(|line| line == "one reading is gone"));
        assert!(!block.iter().any(|line| line.contains("torn")), "only the failed suite's output");
    }

    #[test]
    fn a_killed_suite_shows_what_it_printed() {
        let mut tally = Tally::default();
        for line in OUTPUT.lines().take(4) {
            tally.line(line);
        }
        assert_eq!(tally.unfinished().last().map(String::as_str), Some("test torn ... ok"));
    }
}

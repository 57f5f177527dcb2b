//! The workspace's test programs, several at a time: most of their time they wait for a clock, a disk or each other's processes.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    cargo::Cargo,
    harness::{Shown, Tally},
};

/// One test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// As cargo names it: the source file, beside its package.
    name: String,
    program: PathBuf,
    /// The package's folder, in which cargo would run it.
    folder: PathBuf,
}

/// All test programs as they are built now, those with processes of their own, which take longest, first.
///
/// # Errors
/// When cargo does not tell.
pub fn built(cargo: &Cargo) -> Result<Vec<Suite>> {
    let mut command = cargo.command(&["test", "--workspace", "--no-run", "--message-format", "json"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let told = String::from_utf8_lossy(&output.stdout);
    let mut suites: Vec<Suite> = told.lines().filter_map(|line| suite(&serde_json::from_str(line).ok()?)).collect();
    if suites.is_empty() {
        bail!("cargo names no test program");
    }
    suites.sort_by_key(|suite| !suite.folder.ends_with("tests"));
    Ok(suites)
}

/// The test program that a message of cargo tells of.
fn suite(message: &Value) -> Option<Suite> {
    let program = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_path_buf();
    let source = PathBuf::from(message["target"]["src_path"].as_str()?);
    let source = source.strip_prefix(&folder).unwrap_or(&source).display().to_string();
    let package = folder.file_name()?.to_string_lossy();
    Some(Suite { name: format!("{package}/{source}"), program: program.into(), folder })
}

/// Runs all `suites`, `workers` at a time, each with `variables`; shows each as it ends, a failed one in full.
///
/// # Errors
/// When one cannot be started.
pub fn run(suites: Vec<Suite>, workers: usize, variables: &[(&str, String)]) -> Result<Tally> {
    let queue = Mutex::new(VecDeque::from(suites));
    let tally = Mutex::new(Tally::default());
    let outcome: Result<Vec<()>> = thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(suite) = { locked(&queue).pop_front() } {
                let (lines, ended_well) = suite.run(variables)?;
                show(&mut locked(&tally), &suite.name, &lines, ended_well);
            }
            Ok(())
        };
        let running: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("a thread that runs tests failed"))).collect()
    });
    outcome?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn show(tally: &mut Tally, name: &str, lines: &[String], ended_well: bool) {
    let failed = tally.failed;
    tally.line(&format!("Running {name}"));
    for line in lines {
        match tally.line(line) {
            Shown::Nothing | Shown::Progress(_) => {}
            Shown::Suite(summary) => println!("{summary}"),
            Shown::Failure(block) => {
                println!("FAILED  {name}");
                block.iter().for_each(|line| println!("    {line}"));
            }
        }
    }
    // One that was killed reports no failed test.
    if !ended_well && tally.failed == failed {
        tally.failed += 1;
        println!("ENDED WITHOUT RESULT  {name}");
        tally.unfinished().iter().for_each(|line| println!("    {line}"));
    }
}

impl Suite {
    /// As cargo names it: the source file, beside its package.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything that it prints, and whether it ended well. Its progress is shown at once.
    fn run(&self, variables: &[(&str, String)]) -> Result<(Vec<String>, bool)> {
        let mut command = Command::new(&self.program);
        command.args(["--show-output", "--color", "never"]).current_dir(&self.folder);
        command.env("CARGO_MANIFEST_DIR", &self.folder).envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let errors = child.stderr.take().map(|pipe| thread::spawn(move || read(pipe)));
        let mut lines = child.stdout.take().map(read).unwrap_or_default();
        if let Some(Ok(errors)) = errors.map(thread::JoinHandle::join) {
            lines.extend(errors);
        }
        Ok((lines, child.wait()?.success()))
    }
}

fn read(pipe: impl std::io::Read) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.trim().strip_prefix("progress ") {
            Some(progress) => println!("      … {progress}"),
            None => lines.push(line),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shell(name: &str, script: &str) -> (tempfile::TempDir, Suite) {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let suite = Suite { name: name.to_owned(), program, folder: folder.path().to_path_buf() };
        (folder, suite)
    }

    #[test]
    fn suites_run_beside_each_other_and_all_are_counted() {
        let result = |passed, failed| {
            let word = if failed == 0 { "ok" } else { "FAILED" };
            format!("echo 'test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured'")
        };
        // Each waits for a file that the other one makes.
        let meet = tempfile::tempdir().unwrap();
        let wait = |mine: &str, other: &str| {
            let (mine, other) = (meet.path().join(mine), meet.path().join(other));
            format!("touch {}; until [ -e {} ]; do sleep 0.01; done", mine.display(), other.display())
        };
        let suites = [
            shell("one", &format!("{}; echo 'trial a: seed $SEED, rounds 1, 1.0 s'; {}", wait("a", "b"), result(2, 0))),
            shell("two", &format!("{}; echo \"skipped: $REASON\" >&2; {}", wait("b", "a"), result(3, 0))),
            shell("three", &format!("{}; exit 101", result(1, 1))),
            shell("four", "echo running 1 test; kill -9 $$"),
        ];
        let variables = [("REASON", "no broker".to_owned())];
        let tally = run(suites.iter().map(|(_, suite)| suite.clone()).collect(), 2, &variables).unwrap();
        assert_eq!((tally.passed, tally.failed), (6, 2));
        assert_eq!(tally.skipped, ["no broker"]);
        assert_eq!(tally.trials.len(), 1);
    }

    #[test]
    fn only_test_programs_are_suites() {
        let message = |test: bool| {
            json!({
                "reason": "compiler-artifact", "manifest_path": "/w/log/Cargo.toml", "executable": "/t/model-1",
                "target": {"src_path": "/w/log/tests/model.rs"}, "profile": {"test": test},
            })
        };
        assert_eq!(suite(&message(true)).map(|suite| suite.name), Some("log/tests/model.rs".to_owned()));
        assert_eq!(suite(&message(false)), None);
        assert_eq!(suite(&json!({"reason": "build-finished"})), None);
    }
}

//! `cargo xtask test`: everything that CI runs, in one command with one closing line.
//!
//! Cheap checks come first; all stages run even when one fails, so that one run shows all that is wrong.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    beside::{Beside, Running},
    cargo::Cargo,
    demo, documents, generate,
    harness::{Shown, Tally},
    licences, nodes, packages,
    stages::{Outcome, Stages},
    suites, tools, unused,
};

/// Time for all randomized suites together, in seconds; each gets an equal slice.
const TRIALS_SECONDS: u64 = 180;
/// No suite gets more than this, however few there are.
const TRIAL_SECONDS_MAX: u64 = 10;
/// Test programs that run at once, whatever the machine: they mostly wait.
const SUITES_AT_ONCE: usize = 2;
/// Time for each fuzz target.
const FUZZ_SECONDS: &str = "5";

/// What to leave out.
#[derive(Args, Debug)]
pub struct Options {
    /// Leave out lints and licences: only what runs the code
    #[arg(long)]
    pub quick: bool,
}

/// Runs all stages.
///
/// # Errors
/// When not even the target directory can be chosen.
pub fn run(options: &Options) -> Result<ExitCode> {
    let cargo = Cargo::find()?;
    println!("build outputs: {}", cargo.target().display());
    let mut stages = Stages::default();
    stages.run("format", || succeeds(&mut cargo.command(&["fmt", "--all", "--check"])));
    stages.run("unused dependencies", || unused::check(&cargo));
    stages.run("documents", || documents::check(&crate::workspace()));
    stages.run("packages of second implementations", node_packages);
    stages.run("tools", || {
        for package in [packages::PYTHON, packages::COMPILER, packages::POSTGRESQL] {
            package.prepare();
        }
        tools::prepare().map(|_| Outcome::one(true))
    });
    // Programs and the generator first: a build of tests leaves out the programs that no test of their own package runs.
    let built = stages.run("programs", || cargo.build_programs().map(|()| Outcome::one(true)))
        && stages.run("build", || succeeds(&mut cargo.command(&["test", "--workspace", "--all-targets", "--no-run"])));
    let beside = Running::new(compiled_beside(&cargo, options, built)?);
    if built {
        stages.run("generated files", || generate::check(&cargo));
        stages.run("tests", || tests(&cargo, || beside.begin()));
        stages.run("demo", || demo::rehearsal::rehearse(&cargo));
        stages.run("real cluster", || nodes::test(&cargo));
    }
    beside.join(&mut stages);
    if !options.quick {
        stages.run("licences and sources", || licences::check(&cargo));
    }
    Ok(if stages.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What compiles for itself: beside the tests, which mostly wait for clocks, and begun once cargo has let its lock go.
fn compiled_beside(cargo: &Cargo, options: &Options, built: bool) -> Result<Vec<Beside>> {
    let mut beside = Vec::new();
    if !options.quick {
        let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        beside.push(Beside::run("lints", &cargo.command(&lints)));
    }
    if built {
        beside.push(fuzz(cargo));
    }
    if !options.quick
        && let Some(command) = licences::building(cargo)?
    {
        beside.push(Beside::run("cargo-deny, built once", &command));
    }
    Ok(beside)
}

fn succeeds(command: &mut Command) -> Result<Outcome> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(Outcome::one(status.success()))
}

/// All tests of the workspace, doc tests too. `started` is called when cargo has built them.
fn tests(cargo: &Cargo, started: impl FnOnce()) -> Result<Outcome> {
    let slice = match std::env::var("DEPIN_TRIAL_SECONDS") {
        Ok(seconds) => seconds,
        Err(_) => trial_seconds(&crate::workspace())?.to_string(),
    };
    println!("randomized suites: {slice} s each (DEPIN_TRIAL_SECONDS); `cargo xtask soak` runs the full counts");
    let mut suites = suites::built(cargo)?;
    suites.retain(|suite| suite.name() != nodes::SUITE);
    started();
    let mut tally = suites::run(suites, SUITES_AT_ONCE, &[("DEPIN_TRIAL_SECONDS", slice)])?;
    let (documents, success) = follow(&mut cargo.command(&["test", "--workspace", "--doc", "--color", "never"]))?;
    tally.passed += documents.passed;
    tally.failed += if success { documents.failed } else { documents.failed.max(1) };
    for trial in &tally.trials {
        println!("trial {trial}");
    }
    Ok(Outcome { passed: tally.passed, failed: tally.failed, skipped: tally.skipped })
}

/// Runs the harness and shows each suite as it ends, a failed one in full.
pub(crate) fn follow(command: &mut Command) -> Result<(Tally, bool)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run cargo")?;
    let (sender, lines) = mpsc::channel();
    let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    let readers: Vec<_> = outputs.into_iter().flatten().map(|pipe| reader(pipe, sender.clone())).collect();
    drop(sender);
    let mut tally = Tally::default();
    for line in lines {
        match tally.line(&line) {
            Shown::Nothing => {}
            Shown::Progress(progress) => println!("      … {progress}"),
            Shown::Suite(summary) => println!("{summary}"),
            Shown::Failure(block) => {
                println!("FAILED  {}", tally.suite());
                block.iter().for_each(|line| println!("    {line}"));
            }
        }
    }
    for reader in readers {
        if reader.join().is_err() {
            anyhow::bail!("the reader of cargo's output failed");
        }
    }
    let success = child.wait()?.success();
    if !success {
        let rest = tally.unfinished();
        if !rest.is_empty() {
            println!("ENDED WITHOUT RESULT  {}", tally.suite());
            rest.iter().for_each(|line| println!("    {line}"));
        }
    }
    Ok((tally, success))
}

fn reader(pipe: Box<dyn std::io::Read + Send>, lines: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    })
}

/// An equal share of [`TRIALS_SECONDS`] for each use of the trials' runner in the tree.
fn trial_seconds(workspace: &Path) -> Result<u64> {
    let mut suites = 0;
    let mut folders = vec![workspace.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden && !path.ends_with("target") && !path.ends_with("node_modules") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                suites += fs::read_to_string(&path)?.matches("trials::run(").count() as u64;
            }
        }
    }
    Ok((TRIALS_SECONDS / suites.max(1)).clamp(1, TRIAL_SECONDS_MAX))
}

/// Packages that second implementations need; without them their tests say that they are skipped.
pub(crate) fn node_packages() -> Result<Outcome> {
    let folder = crate::workspace().join("tools/merkle");
    // npm writes this file last: what an interrupted run left is made anew.
    if folder.join("node_modules/.package-lock.json").is_file() {
        return Ok(Outcome::one(true));
    }
    let mut command = Command::new("npm");
    command.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder).stdin(Stdio::null());
    match command.output() {
        Err(_) => Ok(Outcome::skipped("npm is missing: install Node to compare Merkle trees with OpenZeppelin's")),
        Ok(output) if output.status.success() => Ok(Outcome::one(true)),
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.lines().next().unwrap_or_default();
            Ok(Outcome::skipped(&format!("npm ci in tools/merkle failed ({reason}): is a package registry reachable?")))
        }
    }
}

/// Fuzz targets, each for a moment: enough to see that they build and that what was found before stays mended.
fn fuzz(cargo: &Cargo) -> Beside {
    const NAME: &str = "fuzz targets";
    if packages::COMPILER.find().is_none() {
        return Beside::skip(NAME, &packages::COMPILER.remedy());
    }
    let mut command = Command::new(crate::workspace().join("fuzz/run"));
    command.arg(FUZZ_SECONDS).env("FUZZ_TARGET_DIR", cargo.target().join("fuzz")).env_remove("CARGO_TARGET_DIR");
    Beside::run(NAME, &command)
}

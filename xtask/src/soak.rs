//! `cargo xtask soak`: the randomized suites with full counts of rounds, and a report that is committed.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo::Cargo, test::follow, tools};

/// How much to run.
#[derive(Args, Debug)]
pub struct Options {
    /// Rounds of each randomized suite
    #[arg(long, env = "DEPIN_TRIAL_ROUNDS", default_value_t = 1000)]
    pub rounds: u64,
    /// The seed that all rounds come from
    #[arg(long, env = "DEPIN_TRIAL_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Only tests whose name contains this
    #[arg(long)]
    pub only: Option<String>,
}

/// Runs the suites and writes `docs/reliability/soak-COMMIT.md`.
///
/// # Errors
/// When cargo or git cannot be run, or the report not be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let cargo = Cargo::find()?;
    tools::prepare()?;
    let started = Instant::now();
    let mut command = cargo.command(&["test", "--workspace", "--no-fail-fast", "--color", "never"]);
    command.args(["--", "--show-output"]).args(&options.only);
    command.env("DEPIN_TRIAL_ROUNDS", options.rounds.to_string()).env("DEPIN_TRIAL_SEED", options.seed.to_string());
    let (tally, success) = follow(&mut command)?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let mut report = format!("# Soak of {commit}{}\n\n", if changed { " with uncommitted changes" } else { "" });
    writeln!(
        report,
        "Seed {}, {} rounds of each suite, {} s in all.",
        options.seed,
        options.rounds,
        started.elapsed().as_secs()
    )?;
    writeln!(report, "{} passed, {} failed.\n", tally.passed, tally.failed)?;
    for trial in &tally.trials {
        writeln!(report, "- {trial}")?;
    }
    for skipped in &tally.skipped {
        writeln!(report, "- skipped: {skipped}")?;
    }
    let folder = crate::workspace().join("docs/reliability");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("soak-{commit}.md"));
    fs::write(&path, report).with_context(|| format!("cannot write {}", path.display()))?;
    println!("report: {}\n{} passed, {} failed", path.display(), tally.passed, tally.failed);
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).current_dir(crate::workspace()).output();
    let output = output.context("cannot run git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

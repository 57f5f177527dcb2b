//! `cargo xtask soak`: the randomized suites with full counts of rounds, and a report that is committed.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    before,
    cargo::Cargo,
    harness::Tally,
    nodes::{self, RealCluster},
    packages,
    test::{follow, node_packages},
    tools,
};

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
    /// Only this file or folder of a package's tests/, like `kills`: builds less
    #[arg(long, value_name = "TARGET")]
    pub suite: Option<String>,
}

/// Runs the suites and writes `docs/reliability/soak-COMMIT.md`; with `--only` or `--suite`, a report of its own beside it.
///
/// # Errors
/// When cargo or git cannot be run, or the report not be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    // What is built now is what runs, whatever is committed meanwhile.
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let cargo = Cargo::find()?;
    // A suite that is skipped is not a soak.
    for package in [packages::PYTHON, packages::POSTGRESQL] {
        package.prepare().with_context(|| package.remedy())?;
    }
    if let Some(missing) = node_packages()?.skipped.first() {
        bail!("{missing}");
    }
    tools::prepare()?;
    cargo.build_programs()?;
    let images = match RealCluster::impossible_here() {
        None => {
            before::prepare()?;
            Some(nodes::prepare(&cargo)?)
        }
        Some(reason) => {
            println!("skipped: {reason}");
            None
        }
    };
    let started = Instant::now();
    let mut command = cargo.command(&["test", "--workspace", "--no-fail-fast", "--color", "never"]);
    match &options.suite {
        Some(suite) => command.args(["--test", suite]),
        None => command.arg("--tests"),
    };
    command.args(["--", "--show-output"]).args(&options.only);
    command.env("DEPIN_TRIAL_ROUNDS", options.rounds.to_string()).env("DEPIN_TRIAL_SEED", options.seed.to_string());
    command.envs(images.map(|images| (nodes::IMAGES, images)));
    let (tally, success) = follow(&mut command)?;
    if tally.passed + tally.failed == 0 {
        bail!("no test came to its end: there is nothing to report");
    }
    let title = format!("{commit}{}", if changed { " with uncommitted changes" } else { "" });
    let part: Vec<&str> = [&options.suite, &options.only].into_iter().flatten().map(String::as_str).collect();
    let path = write_report(&commit, &report(&title, options, &tally, started.elapsed())?, &part.join("-"))?;
    println!("report: {}\n{} passed, {} failed", path.display(), tally.passed, tally.failed);
    let short = short(&tally, options.rounds);
    for trial in &short {
        println!("not all rounds: {trial}");
    }
    Ok(if success && short.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Suites that did not come to the end of their rounds.
fn short(tally: &Tally, rounds: u64) -> Vec<&String> {
    let whole = |trial: &&String| {
        Trial::parse(trial).is_some_and(|trial| trial.rounds.parse::<u64>().is_ok_and(|reached| reached >= rounds))
    };
    tally.trials.iter().filter(|trial| !whole(trial)).collect()
}

/// A run of a part does not overwrite the report of the whole.
fn write_report(commit: &str, report: &str, part: &str) -> Result<PathBuf> {
    let folder = crate::workspace().join("docs/reliability");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
    let name: String = format!("soak-{commit}-{part}").trim_end_matches('-').chars().map(plain).collect();
    let path = folder.join(format!("{name}.md"));
    fs::write(&path, report).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn report(title: &str, options: &Options, tally: &Tally, time: Duration) -> Result<String, std::fmt::Error> {
    let mut report = format!("# Soak of {title}\n\n");
    let suite = options.suite.as_ref().map(|suite| format!(" in `{suite}`")).unwrap_or_default();
    let only = options.only.as_ref().map(|only| format!(" of tests named like `{only}`")).unwrap_or_default();
    writeln!(
        report,
        "Seed {}, {} rounds of each suite{suite}{only}, {} s in all.",
        options.seed,
        options.rounds,
        time.as_secs()
    )?;
    writeln!(report, "{} passed, {} failed.\n", tally.passed, tally.failed)?;
    report.push_str("| Suite | Seed | Rounds | Seconds |\n|---|---:|---:|---:|\n");
    for trial in &tally.trials {
        match Trial::parse(trial) {
            Some(Trial { name, seed, rounds, seconds }) => {
                writeln!(report, "| {name} | {seed} | {rounds} | {seconds} |")?;
            }
            None => writeln!(report, "| **{trial}** | | | |")?,
        }
    }
    if !tally.skipped.is_empty() || !tally.notes.is_empty() {
        report.push('\n');
    }
    for note in &tally.notes {
        writeln!(report, "- {note}")?;
    }
    for skipped in &tally.skipped {
        writeln!(report, "- skipped: {skipped}")?;
    }
    Ok(report)
}

/// `NAME: seed S, rounds N, T s`, as the trials' runner prints it.
#[derive(Debug, PartialEq, Eq)]
struct Trial<'a> {
    name: &'a str,
    seed: &'a str,
    rounds: &'a str,
    seconds: &'a str,
}

impl<'a> Trial<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.rsplit_once(": seed ")?;
        let mut parts = rest.split(", ");
        let seed = parts.next()?;
        let rounds = parts.next()?.strip_prefix("rounds ")?;
        let seconds = parts.next()?.strip_suffix(" s")?;
        Some(Self { name, seed, rounds, seconds })
    }
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).current_dir(crate::workspace()).output();
    let output = output.context("cannot run git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_tells_each_suite_and_what_failed() {
        let mut tally = Tally::default();
        for line in [
            "trial spool model: seed 7, rounds 1000, 12.5 s",
            "trial ledger: failed; repeat with DEPIN_TRIAL_SEED=7 DEPIN_TRIAL_FIRST=3 DEPIN_TRIAL_ROUNDS=1",
            "note ledger: 12 kills",
            "skipped: no broker",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            tally.line(line);
        }
        let options = Options { rounds: 1000, seed: 7, only: None, suite: None };
        let report = report("abc", &options, &tally, Duration::from_secs(60)).unwrap();
        assert!(report.contains("| spool model | 7 | 1000 | 12.5 |"), "{report}");
        assert!(report.contains("| **ledger: failed; repeat with"), "{report}");
        assert!(report.contains("2 passed, 1 failed") && report.contains("- skipped: no broker"), "{report}");
        assert!(report.contains("- ledger: 12 kills"), "{report}");
    }

    #[test]
    fn a_suite_that_stopped_before_its_last_round_is_told() {
        let mut tally = Tally::default();
        for line in
            ["trial whole: seed 1, rounds 1000, 1.0 s", "trial cut: seed 1, rounds 999, 1.0 s", "trial odd: failed"]
        {
            tally.line(line);
        }
        assert_eq!(short(&tally, 1000), ["cut: seed 1, rounds 999, 1.0 s", "odd: failed"]);
    }
}

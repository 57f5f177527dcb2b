//! `cargo xtask bench`: how fast the product is on this machine, with peers beside it where they can be had.
//!
//! Release programs, real files and sockets on loopback, several runs of everything; medians and spread go to `docs/benchmarks/` as tables,
//! JSON and plots. A number decides nothing: what misses its target is told with by how much.

pub mod engines;
pub mod figures;
pub mod machine;
pub mod peers;
pub mod pipeline;
pub mod plot;
pub mod report;
pub mod scale;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{cargo::Cargo, demo::Interrupt, workspace};
use figures::Runs;
use machine::Machine;

/// The release programs that are measured and that measure.
const PACKAGES: [&str; 4] = ["depin-agent", "depin-gateway", "depin-operator", "depin-bench"];

/// How long a machine may take to become quiet before it is measured as it is.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Runs of each measurement
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Only measurements whose name contains one of these
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Small amounts, to see that everything works: the numbers mean nothing and are written nowhere
    #[arg(long)]
    pub quick: bool,
    /// Measure the release programs as they are, without building them
    #[arg(long)]
    pub no_build: bool,
    /// The harness of peers; what of it cannot be built here is skipped, and says why
    #[arg(long, env = "DEPIN_BENCH_PEERS", value_name = "DIR", default_value = "../shared/peers")]
    pub peers: PathBuf,
    /// Build the peers that are not built yet, which takes minutes each
    #[arg(long)]
    pub build_peers: bool,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    pub out: PathBuf,
    /// Write the tables and plots of results.json anew without measuring
    #[arg(long)]
    pub report_only: bool,
}

impl Options {
    /// Whether this measurement is wanted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// An amount, or a hundredth of it to try.
    #[must_use]
    pub fn amount(&self, full: u64) -> u64 {
        if self.quick { (full / 100).max(1) } else { full }
    }
}

/// What a measurement works with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// As asked for.
    pub options: &'a Options,
    /// Folder of the release programs.
    pub programs: PathBuf,
    /// Folder for data, on the disk that the build uses.
    pub work: PathBuf,
    interrupt: Interrupt,
}

impl Bench<'_> {
    /// An empty folder for one run.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.work.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Fails once somebody asked for the end.
    ///
    /// # Errors
    /// Then.
    pub fn go_on(&self) -> Result<()> {
        if self.interrupt.came() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// Builds, measures, reports.
///
/// # Errors
/// When something cannot be built or a measurement does not work: a lost reading is an error, a slow one is not.
pub fn run(options: &Options) -> Result<ExitCode> {
    let out = workspace().join(&options.out);
    if options.report_only {
        let (machine, runs) = report::read(&out)?;
        return report::write(&out, &machine, &runs).map(|()| ExitCode::SUCCESS);
    }
    let cargo = Cargo::find()?.optimised();
    if !options.no_build {
        build(&cargo)?;
    }
    let work = cargo.target().join("bench-data");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let bench = Bench { options, programs: cargo.programs(), work: work.clone(), interrupt: Interrupt::install()? };
    if !options.quick {
        machine::settle(SETTLE_LIMIT, || bench.go_on())?;
    }
    let mut machine = Machine::look(&work)?;
    machine.peers(&peers::versions(&workspace().join(&options.peers)));
    println!("{machine}");
    let (before, mut runs) = if options.only.is_empty() { Default::default() } else { earlier(&out) };
    runs.stamp(&machine.0, &before.0);
    let mut left_out = Vec::new();
    let measured = measure(&bench, &mut runs, &mut left_out);
    machine.leave_out(&left_out);
    // What was measured is kept, whatever ended it.
    if !options.quick && !runs.is_empty() {
        report::write(&out, &machine, &runs)?;
        println!("results: {}", out.display());
    }
    drop(fs::remove_dir_all(&work));
    measured.map(|()| ExitCode::SUCCESS)
}

/// With `--only`, other measurements keep the results that they had, and say of which code.
fn earlier(out: &Path) -> (Machine, Runs) {
    report::read(out).unwrap_or_default()
}

fn build(cargo: &Cargo) -> Result<()> {
    let mut command = cargo.command(&["build", "--release"]);
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    if !command.status().context("cannot run cargo")?.success() {
        bail!("the programs do not build");
    }
    Ok(())
}

fn measure(bench: &Bench<'_>, runs: &mut Runs, left_out: &mut Vec<String>) -> Result<()> {
    engines::measure(bench, runs)?;
    pipeline::measure(bench, runs)?;
    scale::measure(bench, runs)?;
    peers::measure(bench, runs, left_out)
}

//! The demo as a user runs it, looked at from outside: what it reports, how it ends, and that it leaves nothing behind.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{networks::Networks, report::items};
use crate::{cargo::Cargo, cluster::Cluster, money, packages, process::Process, stages::Outcome, workspace};

/// Three epochs on a machine that also does other things.
const SHOW_LIMIT: Duration = Duration::from_secs(600);
/// Until a demo that was asked to end has ended.
const END_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
/// What it says once everything runs.
const RUNS: &str = "everything runs after";

/// Runs the demo to its end and reads its report; then plays a recording and interrupts it.
///
/// # Errors
/// When one does not end as it should, or leaves something behind.
pub fn rehearse(cargo: &Cargo) -> Result<Outcome> {
    if packages::PYTHON.find().is_none() {
        return Ok(Outcome::skipped(&packages::PYTHON.remedy()));
    }
    // Not the one that runs: what was built meanwhile may have taken its place.
    let program = cargo.program("xtask");
    shown_and_reported(&program).context("cargo xtask demo --exit --report FILE")?;
    interrupted(&program)
        .context("cargo xtask demo --use-cluster --replay examples/recordings/village, interrupted")?;
    Ok(Outcome { passed: 2, ..Outcome::default() })
}

/// A demo whose files, all of them, go to a directory of its own.
struct Rehearsal {
    files: tempfile::TempDir,
    demo: Process,
}

impl Rehearsal {
    fn start(program: &Path, arguments: &[&str], variables: &[(&str, &OsStr)]) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let scratch = files.path().join("scratch");
        fs::create_dir(&scratch)?;
        let mut command = Command::new(program);
        command.arg("demo").args(arguments).current_dir(workspace()).env("TMPDIR", &scratch);
        command.envs(variables.iter().copied());
        let demo = Process::start("demo", &mut command, &files.path().join("demo.log"))?;
        Ok(Self { files, demo })
    }

    /// Where the demo makes its temporary directory.
    fn scratch(&self) -> PathBuf {
        self.files.path().join("scratch")
    }

    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&mut Process) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !holds(&mut self.demo)? {
            if Instant::now() >= deadline {
                bail!("{what} did not come within {limit:?}:\n{}", self.demo.log_end());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end with status 0, after which no file and no process of it may be left.
    fn end(mut self, limit: Duration) -> Result<String> {
        self.until("the end", limit, |demo| Ok(demo.exited()?.is_some()))?;
        let said = fs::read_to_string(self.demo.log())?;
        let status = self.demo.exited()?.context("it runs on")?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.demo.log_end());
        let left: Vec<_> =
            fs::read_dir(self.scratch())?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        ensure!(left.is_empty(), "it left {left:?}");
        let scratch = self.scratch();
        self.until("the end of its processes", END_LIMIT, |_| Ok(naming(&scratch)?.is_empty()))?;
        Ok(said)
    }
}

/// Processes whose command line names `path`.
fn naming(path: &Path) -> Result<Vec<u32>> {
    let name = path.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended while we looked names nothing.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&*name) {
            found.push(id);
        }
    }
    Ok(found)
}

fn shown_and_reported(program: &Path) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    let said = Rehearsal::start(program, &["--exit", "--report", &path], &[])?.end(SHOW_LIMIT)?;
    let report: Value = serde_json::from_slice(&fs::read(file.path())?).context("the report is no JSON")?;
    let readings = &report["readings"];
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let judged: u64 = count(&readings["accepted"])
        + readings["rejected"].as_object().into_iter().flatten().map(|(_, value)| count(value)).sum::<u64>();
    ensure!(count(&readings["acknowledged"]) > 0, "nothing was acknowledged: {readings}");
    ensure!(judged == count(&readings["acknowledged"]), "acknowledged and judged differ: {readings}");
    ensure!(items(&report["devices"]).count() > 10, "devices are missing: {}", report["devices"]);
    let epochs: Vec<&Value> = items(&report["epochs"]).collect();
    for program in super::networks::PROGRAMS {
        let own: Vec<_> = epochs.iter().filter(|epoch| epoch["program"] == program).collect();
        ensure!(own.len() >= super::EPOCHS, "{program} has {} epochs", own.len());
        ensure!(own.iter().any(|epoch| epoch["root"].is_string()), "nobody was paid by {program}");
    }
    for epoch in epochs {
        ensure!(money::check(epoch)?, "python3 is gone");
        let root = epoch["root"].as_str().unwrap_or_default();
        ensure!(root.is_empty() || said.contains(root), "the showcase does not show {root}");
    }
    Ok(())
}

/// Ctrl-C while recordings play, in a cluster that is somebody else's.
fn interrupted(program: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = Cluster::start(dir.path())?;
    let definitions = || cluster.kubectl(&["get", "customresourcedefinitions", "-o", "name"]);
    let before = Networks::before(&cluster)?;
    let own: OsString = cluster.kubeconfig().into();
    let arguments = ["--use-cluster", "--replay", "examples/recordings/village"];
    let mut rehearsal = Rehearsal::start(program, &arguments, &[("KUBECONFIG", &own)])?;
    rehearsal.until("the start of everything", SHOW_LIMIT, |demo| {
        ensure!(demo.exited()?.is_none(), "it ended by itself:\n{}", demo.log_end());
        Ok(fs::read_to_string(demo.log())?.contains(RUNS))
    })?;
    ensure!(definitions()?.contains("edgedevices.depin.dev"), "the cluster is not the one that KUBECONFIG names");
    rehearsal.demo.signal(Signal::INT)?;
    let said = rehearsal.end(END_LIMIT)?;
    ensure!(said.contains("nothing is left behind"), "{said}");
    let left = definitions()?;
    ensure!(!left.contains("depin.dev"), "the cluster still has {left}");
    // As one that was interrupted while it applied the definitions.
    cluster.kubectl(&["apply", "-f", "crds/yaml/depin.dev_edgefleets.yaml"])?;
    before.remove(&cluster)?;
    cluster.kubectl(&["wait", "--for=delete", "--timeout=60s", "crd/edgefleets.depin.dev"])?;
    Ok(())
}

//! Prepares what a bare machine lacks: control plane programs from their pins, and mosquitto as a Debian package.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead as _, BufReader, IsTerminal as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    packages,
    pins::{HELM, KUBERNETES, NODE_PINS, NodeTools, PINS, Pin, Tools},
    workspace,
};

/// The estimates in the pins were measured on two cores.
const MEASURED_CORES: u64 = 2;
/// Lines of a failed build that are shown.
const SHOWN_LINES: usize = 40;

/// Builds what is missing and says where everything is.
///
/// # Errors
/// When Go is missing or a build fails.
pub fn prepare() -> Result<Tools> {
    build(&PINS)?;
    packages::MOSQUITTO.prepare();
    Tools::find()
}

/// The same for what a real cluster needs beside.
///
/// # Errors
/// When Go is missing or a build fails.
pub fn prepare_nodes() -> Result<NodeTools> {
    build(&NODE_PINS)?;
    for package in [packages::NFT, packages::IP, packages::RUNC] {
        package.prepare();
    }
    NodeTools::find()
}

fn build(pins: &[&'static Pin]) -> Result<()> {
    let workspace = workspace();
    let mut missing = Vec::new();
    for pin in pins {
        let directory = pin.directory(&workspace)?;
        for ((program, package), seconds) in pin.programs.iter().zip(pin.seconds) {
            if !directory.join(program).is_file() {
                missing.push(Missing { pin, program, package, seconds: *seconds });
            }
        }
    }
    if !missing.is_empty() {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let seconds: u64 = missing.iter().map(|missing| u64::from(missing.seconds)).sum();
        let minutes = (seconds * MEASURED_CORES / cores.max(1)).div_ceil(60);
        let names: Vec<&str> = missing.iter().map(|missing| missing.program).collect();
        eprintln!(
            "Building {} from source, once: about {minutes} min on this machine's {cores} cores, plus the download.",
            names.join(", ")
        );
        check_go()?;
        for one in &missing {
            one.build(&workspace)?;
        }
    }
    for pin in pins {
        eprintln!("{} {}: {}", pin.name, pin.version(&workspace)?, pin.directory(&workspace)?.display());
    }
    Ok(())
}

#[derive(Debug)]
struct Missing {
    pin: &'static Pin,
    program: &'static str,
    package: &'static str,
    seconds: u32,
}

impl Missing {
    /// Builds into a temporary name and renames, so that an interrupted build is never taken for a program. A lock makes
    /// a second process wait instead of building the same.
    fn build(&self, workspace: &Path) -> Result<()> {
        let directory = self.pin.directory(workspace)?;
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let lock = File::create(directory.join(".lock")).context("cannot create the build's lock")?;
        lock.lock().context("cannot wait for another build")?;
        let done = directory.join(self.program);
        if done.is_file() {
            return Ok(());
        }
        let started = Instant::now();
        let temporary = directory.join(format!(".{}.{}", self.program, std::process::id()));
        let built = self.compile(workspace, &temporary);
        if let Err(error) = built {
            drop(fs::remove_file(&temporary));
            return Err(error);
        }
        fs::rename(&temporary, &done).with_context(|| format!("cannot rename to {}", done.display()))?;
        eprintln!("{} built in {} s", self.program, started.elapsed().as_secs());
        Ok(())
    }

    fn compile(&self, workspace: &Path, output: &Path) -> Result<()> {
        let total = self.packages(workspace)?;
        let bar = progress(self.program, total);
        let mut command = self.go(workspace);
        command.args(["build", "-v", "-trimpath", "-ldflags", &self.linker_flags(workspace)?, "-o"]).arg(output);
        command.arg(self.package).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run go")?;
        let mut last = VecDeque::with_capacity(SHOWN_LINES);
        let lines = child.stderr.take().map(BufReader::new).context("no output of go")?;
        for line in lines.lines() {
            let line = line?;
            bar.inc(1);
            bar.set_message(line.rsplit('/').next().unwrap_or_default().to_owned());
            if last.len() == SHOWN_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        bar.finish_and_clear();
        if !child.wait()?.success() {
            let lines: Vec<String> = last.into();
            bail!("{} does not build:\n{}", self.program, lines.join("\n"));
        }
        Ok(())
    }

    /// How many packages the program consists of; the first use of a pin downloads its modules here.
    fn packages(&self, workspace: &Path) -> Result<u64> {
        let output = self.go(workspace).args(["list", "-deps", self.package]).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("go cannot list the packages of {}; is a module proxy reachable (GOPROXY)?", self.package);
        }
        Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    fn go(&self, workspace: &Path) -> Command {
        let mut command = Command::new("go");
        command
            .current_dir(workspace.join("tools").join(self.pin.name))
            .envs([("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOFLAGS", "-mod=readonly")])
            .stdin(Stdio::null());
        command
    }

    /// Without these, clients see a nonsense server version.
    fn linker_flags(&self, workspace: &Path) -> Result<String> {
        let version = self.pin.version(workspace)?;
        let mut flags = "-s -w".to_owned();
        if self.pin.name == KUBERNETES.name {
            let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
            let [major, minor, ..] = numbers.as_slice() else { bail!("{version} is not a version") };
            for (name, value) in [("gitVersion", version.as_str()), ("gitMajor", major), ("gitMinor", minor)] {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
            }
        }
        if self.pin.name == HELM.name {
            flags.push_str(&format!(" -X helm.sh/helm/v4/internal/version.version={version}"));
        }
        Ok(flags)
    }
}

fn check_go() -> Result<()> {
    match Command::new("go").arg("version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!("the Go toolchain is missing; install it from your distribution or go.dev/dl, then try again"),
    }
}

fn progress(program: &str, total: u64) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{prefix:>16} [{bar:30}] {pos}/{len} packages, {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(program.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

//! Licences, duplicate versions and sources of all dependencies, by cargo-deny as `deny.toml` says.
//!
//! Advisories are not looked up here: their database is a download that an offline machine cannot make.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{cargo::Cargo, pins::cache_dir, stages::Outcome};

/// Pinned, so that a new release cannot turn CI red.
const VERSION: &str = "0.20.2";

/// Runs the check with the tool that [`building`] made.
///
/// # Errors
/// When the tool is not there.
pub fn check(cargo: &Cargo) -> Result<Outcome> {
    let program = program()?;
    if !program.is_file() {
        bail!("cargo-deny is not built; is the package registry reachable?");
    }
    // All platforms' crates, which no build here needed, so that the check itself needs no network.
    if !cargo.command(&["fetch", "--quiet", "--locked"]).status().context("cannot run cargo")?.success() {
        bail!("the dependencies cannot be fetched; is the package registry reachable?");
    }
    let checks = ["bans", "licenses", "sources"];
    let mut outcome = Outcome::default();
    for check in checks {
        let mut command = Command::new(&program);
        command.args(["--offline", "--color", "never", "--log-level", "error"]);
        let status = command.args(["check", check]).current_dir(crate::workspace()).status()?;
        outcome.passed += u64::from(status.success());
        outcome.failed += u64::from(!status.success());
    }
    Ok(outcome)
}

/// What builds the tool into the cache; none: it is there. It takes about five minutes of two cores.
///
/// # Errors
/// When there is no cache.
pub fn building(cargo: &Cargo) -> Result<Option<Command>> {
    if program()?.is_file() {
        return Ok(None);
    }
    let root = root()?;
    let mut command = cargo.command(&["install", "--quiet", "--locked", "--no-default-features", "--debug"]);
    command.arg("--root").arg(&root).arg(format!("cargo-deny@{VERSION}"));
    command.env("CARGO_TARGET_DIR", cargo.target().join("cargo-deny")).env("CARGO_PROFILE_DEV_DEBUG", "false");
    Ok(Some(command))
}

fn root() -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools").join(format!("cargo-deny-{VERSION}")))
}

fn program() -> Result<PathBuf> {
    Ok(root()?.join("bin/cargo-deny"))
}

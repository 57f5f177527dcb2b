//! Licences, duplicate versions and sources of all dependencies, by cargo-deny as `deny.toml` says.
//!
//! Advisories are not looked up here: their database is a download that an offline machine cannot make.

use std::{fs, path::PathBuf, process::Command};

use crate::pins::cache_dir;
use anyhow::{Context as _, Result, bail};

use crate::{cargo::Cargo, stages::Outcome};

/// Pinned, so that a new release cannot turn CI red.
const VERSION: &str = "0.20.2";

/// Runs the check; builds the tool into the cache first if it is not there.
///
/// # Errors
/// When the tool can neither be found nor built.
pub fn check(cargo: &Cargo) -> Result<Outcome> {
    let program = prepare(cargo)?;
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

fn prepare(cargo: &Cargo) -> Result<PathBuf> {
    let root = cache_dir()?.join("tools").join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    println!("building cargo-deny {VERSION} from source, once: about 6 min on two cores");
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let mut command = cargo.command(&["install", "--quiet", "--locked", "--no-default-features", "--debug"]);
    let version = format!("cargo-deny@{VERSION}");
    command.arg("--root").arg(&root).arg(version).env("CARGO_TARGET_DIR", root.join("build"));
    let status = command.status().context("cannot run cargo install")?;
    drop(fs::remove_dir_all(root.join("build")));
    if !status.success() {
        bail!("cargo-deny does not build; is the package registry reachable?");
    }
    Ok(program)
}

//! The version before this one, as its users have it: what an upgrade begins with.
//!
//! Its chart is kept packaged beside the cluster's tests; its images are built once from its commit, by its own recipe, and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{cargo::forget_package, images::PRODUCT, pins::cache_dir, workspace};

/// Its number.
pub const VERSION: &str = "0.1.0";
/// What it was made of.
const COMMIT: &str = "89ea6c8f381467118853e34720d757cb660778e9";

/// Its packaged chart.
#[must_use]
pub fn chart() -> PathBuf {
    workspace().join("tests/tests/cluster/before").join(format!("depin-operator-{VERSION}.tgz"))
}

/// The archives of its images, if they are there.
///
/// # Errors
/// When there is no cache.
pub fn images() -> Result<Option<Vec<PathBuf>>> {
    let folder = folder()?;
    let archives = PRODUCT.map(|(name, _)| folder.join(format!("{name}.tar")));
    Ok(archives.iter().all(|archive| archive.is_file()).then(|| archives.to_vec()))
}

/// Why there is nothing to upgrade from, and what to do.
#[must_use]
pub fn missing() -> String {
    format!(
        "images of version {VERSION} are not in the cache: `cargo xtask soak` builds them once, in about a quarter of an hour"
    )
}

/// Builds the images, unless they are there.
///
/// # Errors
/// When the commit is not in this clone, or does not build.
pub fn prepare() -> Result<()> {
    if images()?.is_some() {
        return Ok(());
    }
    println!("building the images of version {VERSION} from {COMMIT}, once");
    let target = folder()?;
    let parent = target.parent().context("the cache has no folder")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let work = tempfile::Builder::new().prefix("building-").tempdir_in(parent)?;
    let source = work.path().join("source");
    fs::create_dir(&source)?;
    extract(&source)?;
    let made = work.path().join("images");
    let mut command = Command::new("cargo");
    command.args(["xtask", "images", "--out"]).arg(&made).current_dir(&source);
    command.env("CARGO_TARGET_DIR", work.path().join("target"));
    forget_package(&mut command);
    if !command.status().context("cannot run cargo")?.success() {
        bail!("the images of version {VERSION} do not build");
    }
    match fs::rename(&made, &target) {
        // Another run was faster.
        Err(_) if images()?.is_some() => Ok(()),
        moved => moved.with_context(|| format!("cannot make {}", target.display())),
    }
}

fn folder() -> Result<PathBuf> {
    Ok(cache_dir()?.join("before").join(format!("{VERSION}-{}", COMMIT.get(..12).unwrap_or(COMMIT))))
}

/// The tree of the commit.
fn extract(into: &Path) -> Result<()> {
    let mut archive = Command::new("git")
        .args(["archive", "--format=tar", COMMIT])
        .current_dir(workspace())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run git")?;
    let stream = archive.stdout.take().context("git has no output")?;
    tar::Archive::new(stream).unpack(into).with_context(|| format!("cannot unpack {COMMIT}"))?;
    if !archive.wait()?.success() {
        bail!("{COMMIT} is not in this clone: fetch its whole history");
    }
    Ok(())
}

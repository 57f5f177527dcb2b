//! The tests on a real cluster, as a stage of `cargo xtask test`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::RealCluster;
use crate::{cargo::Cargo, images, stages::Outcome, suites, tools};

/// The test program; it runs alone, since its cluster needs the machine for itself.
pub const SUITE: &str = "tests/tests/cluster/main.rs";
/// Where the test program looks for images.
pub const IMAGES: &str = "DEPIN_IMAGES";

/// Builds what is missing and runs it once.
///
/// # Errors
/// When something does not build, or cargo does not name the test.
pub fn test(cargo: &Cargo) -> Result<Outcome> {
    if let Some(reason) = RealCluster::impossible_here() {
        return Ok(Outcome::skipped(&reason));
    }
    let archives = prepare(cargo)?;
    let suites = suites::built(cargo)?;
    let suite = suites.into_iter().find(|suite| suite.name() == SUITE).context("the cluster's tests are not built")?;
    let tally = suites::run(vec![suite], 1, &[(IMAGES, archives.display().to_string())])?;
    Ok(Outcome { passed: tally.passed, failed: tally.failed, skipped: tally.skipped })
}

/// Builds the nodes' programs and the images, and says where these are.
///
/// # Errors
/// When something does not build.
pub fn prepare(cargo: &Cargo) -> Result<PathBuf> {
    tools::prepare_nodes()?;
    let archives = cargo.target().join("images");
    images::build(cargo, &archives)?;
    Ok(archives)
}

//! `cargo xtask images`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser;

use super::{Image, PRODUCT, Written, product, sbom, write};
use crate::{cargo::Cargo, workspace};

/// How to build them.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Where archives and the bill of materials go
    #[arg(long, default_value = "target/images", value_name = "DIR")]
    pub out: PathBuf,
    /// Optimise as for a release: slower to build, smaller, faster
    #[arg(long)]
    pub release: bool,
    /// What to build for, like aarch64-unknown-linux-gnu; its compiler must be installed. Default: this machine
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<String>,
}

/// Builds static programs and writes an archive of each image.
///
/// # Errors
/// When they do not build.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut cargo = Cargo::find()?;
    if options.release {
        cargo = cargo.optimised();
    }
    if let Some(triple) = &options.target {
        cargo = cargo.target_triple(triple);
    }
    for (image, path, written) in build(&cargo, &workspace().join(&options.out))? {
        println!(
            "{:<40} {:>6.1} MB  {}  {}",
            image.reference,
            written.size as f64 / 1e6,
            written.digest,
            path.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs of `cargo`, which links statically, and writes archives and bill of materials to `out`.
///
/// # Errors
/// When they do not build.
pub fn build(cargo: &Cargo, out: &Path) -> Result<Vec<(Image, PathBuf, Written)>> {
    if cargo.is_optimised() {
        cargo.build_some(&PRODUCT.map(|(_, program)| program))?;
    } else {
        // What tests and demo run, built once: other programs would have other features of shared dependencies, and everything be compiled again.
        cargo.build_programs()?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let bill = out.join("sbom.spdx.json");
    fs::write(&bill, sbom::write(cargo, cargo.triple())?)?;
    let images = product(cargo, env!("CARGO_PKG_VERSION"), &bill)?;
    let written = write(&images, out)?;
    Ok(images.into_iter().zip(written).map(|(image, (path, written))| (image, path, written)).collect())
}

//! Runs the generator (`examples/generate`), which needs the project's own types and is built with the workspace.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo::Cargo, stages::Outcome};

/// What to do with what is generated.
#[derive(Args, Debug)]
pub struct Options {
    /// Change nothing; fail if a file in the tree differs from what would be written
    #[arg(long)]
    pub check: bool,
}

/// Builds the generator and runs it.
///
/// # Errors
/// When it cannot be built or started.
pub fn run(options: &Options) -> Result<ExitCode> {
    let cargo = Cargo::find()?;
    cargo.build_programs()?;
    let good = generator(&cargo, options.check)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One check: no file differs. The generator must be built.
///
/// # Errors
/// When it cannot be started.
pub fn check(cargo: &Cargo) -> Result<Outcome> {
    generator(cargo, true).map(Outcome::one)
}

fn generator(cargo: &Cargo, check: bool) -> Result<bool> {
    let program = cargo.program("examples/generate-tree");
    let mut command = std::process::Command::new(&program);
    command.current_dir(crate::workspace());
    if check {
        command.arg("--check");
    }
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(status.success())
}

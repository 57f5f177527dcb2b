//! The project's commands: what a person or CI runs in a clone. Each is one module.

pub mod cargo;
pub mod documents;
pub mod generate;
pub mod harness;
pub mod licences;
pub mod soak;
pub mod stages;
pub mod test;
pub mod tools;
pub mod unused;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything that CI runs; the last line is `N passed, N failed`
    Test(test::Options),
    /// Build the pinned control plane programs into the cache, if they are not there
    Tools,
    /// Write what is generated: CRD YAML, the API reference, the list of reasons
    Generate(generate::Options),
    /// Run the randomized suites for their full number of rounds and write a report to docs/reliability/
    Soak(soak::Options),
}

/// Runs one command.
///
/// # Errors
/// When it cannot be run at all; a command that ran and found something wrong says so by its exit code.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Test(options) => test::run(&options),
        Command::Tools => tools::prepare().map(|_| ExitCode::SUCCESS),
        Command::Generate(options) => generate::run(&options),
        Command::Soak(options) => soak::run(&options),
    }
}

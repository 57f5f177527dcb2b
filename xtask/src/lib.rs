//! The project's commands: what a person or CI runs in a clone. Each is one module.

pub mod admin;
pub mod bench;
pub mod beside;
pub mod cargo;
pub mod cluster;
pub mod control_plane;
pub mod demo;
pub mod documents;
pub mod generate;
pub mod harness;
pub mod invitation;
pub mod licences;
pub mod money;
pub mod packages;
pub mod pins;
pub mod process;
pub mod soak;
pub mod stack;
pub mod stages;
pub mod suites;
pub mod test;
pub mod tools;
pub mod unused;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    /// Show the whole product on this machine: from virtual hardware to who earned what and why
    Demo(demo::Options),
    /// Run everything that CI runs; the last line is `N passed, N failed`
    Test(test::Options),
    /// Build the pinned control plane programs into the cache, if they are not there
    Tools,
    /// Write what is generated: CRD YAML, the API reference, the list of reasons
    Generate(generate::Options),
    /// Run the randomized suites for their full number of rounds and write a report to docs/reliability/
    Soak(soak::Options),
    /// Measure how fast the product is on this machine and write docs/benchmarks/
    Bench(bench::Options),
}

/// Runs one command.
///
/// # Errors
/// When it cannot be run at all; a command that ran and found something wrong says so by its exit code.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Tools => tools::prepare().map(|_| ExitCode::SUCCESS),
        Command::Generate(options) => generate::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Bench(options) => bench::run(&options),
    }
}

/// The workspace's root directory.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// A TCP port on loopback that was free a moment ago. Whoever starts a program on it must be ready to try another.
///
/// # Errors
/// When loopback has no free port.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Writes a file that only its owner may read: keys, tokens and what holds them.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};

    use anyhow::Context as _;
    let file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

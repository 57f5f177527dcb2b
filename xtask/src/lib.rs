//! The project's commands: what a person or CI runs in a clone. Each is one module.

pub mod admin;
pub mod before;
pub mod bench;
pub mod beside;
pub mod cargo;
pub mod cluster;
pub mod control_plane;
pub mod demo;
pub mod documents;
pub mod generate;
pub mod harness;
pub mod images;
pub mod invitation;
pub mod krew;
pub mod licences;
pub mod money;
pub mod nodes;
pub mod package;
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
    /// Build the pinned programs of demo and tests into the cache, if they are not there
    Tools,
    /// A real cluster on this machine: a control plane and two edge nodes in namespaces of their own
    Cluster(nodes::Options),
    /// Build the product's container images, without a daemon
    Images(images::Options),
    /// Write what is generated: CRD YAML, the API reference, the list of reasons
    Generate(generate::Options),
    /// Pack the kubectl plugin for krew: an archive for each platform, and the manifest with their digests
    Krew(krew::Options),
    /// Run the randomized suites for their full number of rounds and write a report to docs/reliability/
    Soak(soak::Options),
    /// Make the agent's package for boxes outside a cluster: a Debian package and an archive
    Package(package::Options),
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
        Command::Tools => {
            tools::prepare()?;
            match nodes::RealCluster::impossible_here() {
                None => tools::prepare_nodes().map(drop)?,
                Some(reason) => eprintln!("The programs of a real cluster's nodes are not built: {reason}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster(options) => nodes::run(&options),
        Command::Images(options) => images::run(&options),
        Command::Generate(options) => generate::run(&options),
        Command::Krew(options) => krew::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Package(options) => package::run(&options),
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

/// 128 random bits: a new key's digest is the nearest source of them.
///
/// # Errors
/// When the system has no randomness.
pub(crate) fn random() -> anyhow::Result<[u8; 16]> {
    use anyhow::Context as _;
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(rcgen::KeyPair::generate()?.serialize_der());
    digest.first_chunk().copied().context("a digest is too short")
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

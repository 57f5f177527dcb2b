//! `cargo xtask cluster`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};

use super::{HUB, Lifetime, RealCluster, State, state::Ended};
use crate::{pins::cache_dir, tools};

/// What to do with the cluster.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Where its files and logs are. Default: `cluster` in the cache
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// The actions.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Start it; it runs until `down`
    Up,
    /// End it and remove everything of it
    Down,
    /// Load image archives into every node
    Load {
        /// Archives, as `cargo xtask images` writes them
        #[arg(required = true, value_name = "FILE")]
        archives: Vec<PathBuf>,
    },
    /// Run a program in the network of a node, as the administrator: `cargo xtask cluster run kubectl get nodes`
    Run {
        /// Whose network
        #[arg(long, default_value = HUB, value_name = "NAME")]
        node: String,
        /// Program and arguments; kubectl and helm are found
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Cut an edge's line to the hub, as a lost mobile link would
    Cut {
        /// The edge
        node: String,
    },
    /// Mend it
    Mend {
        /// The edge
        node: String,
    },
}

/// Does it.
///
/// # Errors
/// When it cannot be done.
pub fn run(options: &Options) -> Result<ExitCode> {
    let dir = options.dir.clone().map_or_else(|| cache_dir().map(|cache| cache.join("cluster")), Ok)?;
    match &options.action {
        Action::Up => up(&dir)?,
        Action::Down => down(&dir)?,
        Action::Load { archives } => {
            let cluster = RealCluster::attach(&dir)?;
            archives.iter().try_for_each(|archive| cluster.load_image(archive))?;
        }
        Action::Run { node, command } => return run_inside(&RealCluster::attach(&dir)?, node, command),
        Action::Cut { node } => RealCluster::attach(&dir)?.cut(node)?,
        Action::Mend { node } => RealCluster::attach(&dir)?.mend(node)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(dir: &Path) -> Result<()> {
    ensure!(
        !dir.join("cluster.json").exists(),
        "there is a cluster in {} already; `cargo xtask cluster down` ends it",
        dir.display()
    );
    if let Some(reason) = RealCluster::impossible_here() {
        bail!(reason);
    }
    tools::prepare()?;
    tools::prepare_nodes()?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    eprintln!("Starting a control plane and three nodes…");
    let cluster = RealCluster::start_in(dir, Lifetime::Down)?;
    print!("{}", cluster.handle()?.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("\nNext:\n  cargo xtask images && cargo xtask cluster load target/images/*.tar");
    println!("  cargo xtask cluster run helm install depin charts/depin-operator -n depin-system --create-namespace");
    println!("  cargo xtask cluster run kubectl get pods -A\n  cargo xtask cluster down");
    Ok(())
}

fn down(dir: &Path) -> Result<()> {
    if !dir.exists() {
        println!("There is no cluster in {}.", dir.display());
        return Ok(());
    }
    if let Ended::Left(left) = State::read(dir)?.end()? {
        bail!("not gone: {}", left.join(", "));
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    println!("The cluster is gone.");
    Ok(())
}

fn run_inside(cluster: &RealCluster, node: &str, command: &[String]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command")?;
    let path = cluster.tool(program).unwrap_or_else(|| program.into());
    let status = cluster.command(node, &path)?.args(arguments).stdin(std::process::Stdio::inherit()).status()?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1).into())
}

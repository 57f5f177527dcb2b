//! What the system tests stand on: a real control plane, the real programs as processes that never outlive whoever started
//! them, and an observer of the ledger.
//!
//! Everything listens on loopback, keeps its files in a directory of its own, and is ended by its process id.

pub mod observer;

use std::path::{Path, PathBuf};

pub use observer::Observer;
pub use xtask::{
    cluster::Cluster,
    control_plane::{self, ControlPlane},
    free_port, pins as tools,
    process::{self, Process},
    stack::Stack,
    workspace,
};

/// Where cargo puts the programs of the workspace: beside the test that asks.
///
/// # Errors
/// When the test's own place is not known.
pub fn programs() -> std::io::Result<PathBuf> {
    let test = std::env::current_exe()?;
    Ok(test.ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf())
}

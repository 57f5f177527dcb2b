//! What the system tests stand on: a real control plane, the real programs as processes that never outlive whoever started
//! them, and an observer of the ledger.
//!
//! Everything listens on loopback, keeps its files in a directory of its own, and is ended by its process id.

pub mod center;
pub mod money;
pub mod observer;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub use center::Center;
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

/// Looks again and again until `condition` holds.
///
/// # Panics
/// When it does not within `limit`.
#[allow(clippy::panic, reason = "a test ends where it cannot go on")]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come within {limit:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

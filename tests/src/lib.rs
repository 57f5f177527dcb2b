//! What the system tests stand on: a real control plane, the real programs as processes that never outlive whoever started
//! them, and an observer of the ledger.
//!
//! Everything listens on loopback, keeps its files in a directory of its own, and is ended by its process id.

pub mod center;
pub mod money;
pub mod observer;
pub mod promised;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub use center::Center;
pub use observer::Observer;
use xtask::demo::networks;
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

/// A control plane with operator, gateway and the fleets of the example networks. All parts send their traces to `collector`, if there is
/// one.
///
/// # Errors
/// When a part does not come up.
pub fn start_fleets(dir: &Path, collector: Option<String>) -> anyhow::Result<(Cluster, Stack)> {
    let files = dir.join("control-plane");
    std::fs::create_dir_all(&files)?;
    let cluster = Cluster::start(&files)?;
    let mut stack = Stack::new(dir, &programs()?)?;
    stack.collector = collector;
    stack.start_center(&cluster)?;
    networks::apply_fleets(&cluster)?;
    Ok((cluster, stack))
}

/// [`start_fleets`] and the example networks' two agents: `home` with a listener of its own, `field` behind a broker where there is one.
/// No devices or programs yet.
///
/// # Errors
/// When a part does not come up.
pub fn start_networks(dir: &Path) -> anyhow::Result<(Cluster, Stack)> {
    let (cluster, mut stack) = start_fleets(dir, None)?;
    let broker = stack.start_broker()?;
    if !broker {
        println!("skipped: mosquitto is missing (apt-get install mosquitto): both agents have listeners of their own");
    }
    stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false)?;
    stack.start_agent(&cluster, "weather", "field", &["stations"], broker)?;
    Ok((cluster, stack))
}

/// Unix milliseconds by this machine's clock.
///
/// # Panics
/// When it is before 1970.
#[must_use]
#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
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

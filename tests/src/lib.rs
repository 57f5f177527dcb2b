//! What the system tests and the project's commands stand on: a real control plane, and processes that never outlive
//! whoever started them.
//!
//! Everything listens on loopback, keeps its files in a directory of its own, and is ended by its process id.

pub mod control_plane;
pub mod process;
pub mod tools;

use std::path::{Path, PathBuf};

pub use control_plane::ControlPlane;
pub use process::Process;

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

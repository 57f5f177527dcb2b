//! What the system tests stand on: a real control plane, the real programs as processes that never outlive whoever started
//! them, and an observer of the ledger.
//!
//! Everything listens on loopback, keeps its files in a directory of its own, and is ended by its process id.

pub mod observer;

pub use observer::Observer;
pub use xtask::{
    control_plane::{self, ControlPlane},
    free_port, pins as tools,
    process::{self, Process},
    workspace,
};

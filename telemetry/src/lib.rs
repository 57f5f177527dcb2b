//! What every program of the project shows of itself: logs, traces, metrics and health.
//!
//! A program calls [`init`] first in `main` and keeps the [`TelemetryGuard`] until its last line; it builds one metrics
//! registry, one [`Health`], and serves both with an [`AdminServer`]. Nothing here knows a domain type, and no label may
//! name a single device.

pub mod admin;
pub mod health;
pub mod options;
pub mod service_manager;
pub mod shutdown;
pub mod trace_context;
pub mod watchdog;

mod error;
mod setup;

pub use admin::AdminServer;
pub use error::TelemetryError;
pub use health::{Check, Health};
pub use options::{LogFormat, TelemetryOptions};
pub use service_manager::ServiceManager;
pub use setup::{TelemetryGuard, init};
pub use shutdown::shutdown_signal;

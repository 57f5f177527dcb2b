//! The gateway: the only part that faces the outside. It lets agents in, tells them what they must know, takes their
//! proofs, and answers with signed receipts once what it judged is durable.
//!
//! It holds no cluster credentials and no CA key: what it knows is the registry in the ledger, what it learns goes into the
//! ledger's inbox. Everything from outside has a limit; beyond it the answer is an outcome or a status, never memory.

pub mod backup;
pub mod clock;
pub mod keeping;
pub mod limits;
pub mod options;
pub mod recovery;
pub mod retention;
pub mod server;
pub mod store;

mod configuration;
mod descriptors;
mod enrollment;
mod listener;
mod metrics;
mod peer;
mod presence;
mod proofs;
mod rate;
mod record;
mod tls_files;
mod trouble;

pub use backup::{BackupControl, BackupOptions, Backups};
pub use clock::Clock;
pub use keeping::{LedgerOptions, run_ledger};
pub use limits::Limits;
pub use options::{Options, run};
pub use recovery::RecoveryOptions;
pub use retention::RetentionOptions;
pub use server::{Gateway, Running};
pub use store::PostgresqlOptions;

/// All metrics of the program with a value for each label, so that a text of them names everything that there is: for the reference.
#[must_use]
pub fn described_metrics() -> prometheus_client::registry::Registry {
    let mut registry = prometheus_client::registry::Registry::default();
    metrics::Metrics::register(&mut registry).describe();
    trouble::gauge(&mut registry);
    backup::Counted::register(&mut registry);
    retention::Counted::register(&mut registry);
    registry
}

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
pub mod retention;
pub mod server;

mod configuration;
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

pub use backup::BackupOptions;
pub use clock::Clock;
pub use keeping::{LedgerOptions, run_ledger};
pub use limits::Limits;
pub use options::{Options, run};
pub use retention::RetentionOptions;
pub use server::{Gateway, Running};

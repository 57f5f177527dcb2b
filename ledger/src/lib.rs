//! The durable record: judged proofs, registry, inbox, epochs; behind one trait, [`Ledger`].
//!
//! [`EmbeddedLedger`] keeps everything in one segmented log, the only durable write; heads, marks, statistics, registry and inbox are
//! memory, rebuilt from a checkpoint and the log. Nothing is answered before it is durable, and the chain's head, the de-duplication and the
//! append are one step of one thread.
//!
//! [`PostgresqlLedger`] keeps the same in a database, for any number of gateways. Both decide by the same core.

pub mod api;
mod chains;
mod control;
mod core;
mod embedded;
mod epochs;
mod error;
mod export;
mod files;
mod hold;
mod inbox;
mod lateness;
mod level;
mod open_time;
mod postgresql;
mod published;
mod reading;
mod record;
mod settings;
mod snapshot;
mod state;
mod verify;

pub use api::{
    Answer, Confirmation, EpochRecord, Export, FileStream, Head, InboxRequest, Info, Ledger, OpenChain, Outcome,
    Posted, ProofFilter, ProofPage, RegistrySnapshot, StoredProof, Submission,
};
pub use embedded::{
    Compaction, EmbeddedLedger, LedgerFile, Restoration, Restored, Snapshot, is_empty, release, verify,
};
pub use error::LedgerError;
pub use level::FEATURE_LEVEL;
pub use postgresql::{Board, CheckSignatures, GatewayId, Heard, Migration, Note, PostgresqlLedger, Server, migrate};
pub use settings::{Clock, Settings};
pub use verify::{CheckSignature, Equivocation, Verification};

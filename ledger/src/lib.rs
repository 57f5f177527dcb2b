//! The durable record: judged proofs, registry, inbox, epochs; behind one trait, [`Ledger`].
//!
//! [`EmbeddedLedger`] keeps everything in one segmented log, the only durable write; heads, marks, statistics, registry and inbox are
//! memory, rebuilt from a checkpoint and the log. Nothing is answered before it is durable, and the chain's head, the de-duplication and the
//! append are one step of one thread.

pub mod api;
mod backup;
mod chains;
mod checkpoints;
mod compact;
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
mod loading;
mod open_time;
mod reading;
mod recall;
mod record;
mod settings;
mod snapshot;
mod state;
mod verify;
mod writer;

pub use api::{
    Answer, Confirmation, EpochRecord, Export, FileStream, Head, InboxRequest, Info, Ledger, OpenChain, Outcome,
    Posted, ProofFilter, ProofPage, RegistrySnapshot, StoredProof, Submission,
};
pub use backup::{BackupFile, BackupManifest, read_manifest, release, restore};
pub use compact::Compaction;
pub use embedded::EmbeddedLedger;
pub use error::LedgerError;
pub use settings::{Clock, Settings};
pub use verify::{CheckSignature, Equivocation, Verification, verify};

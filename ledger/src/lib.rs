//! The durable record: judged proofs, registry, inbox, epochs; behind one trait, [`Ledger`].
//!
//! [`EmbeddedLedger`] keeps everything in one segmented log, the only durable write; heads, marks, statistics, registry and inbox are
//! memory, rebuilt from a checkpoint and the log. Nothing is answered before it is durable, and the chain's head, the de-duplication and the
//! append are one step of one thread.

pub mod api;
mod error;

pub use api::{
    Answer, Confirmation, EpochRecord, Export, FileStream, Head, Info, InboxRequest, Ledger, OpenChain, Outcome, Posted,
    ProofFilter, RegistrySnapshot, StoredProof, Submission,
};
pub use error::LedgerError;

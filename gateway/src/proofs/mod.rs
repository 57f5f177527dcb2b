//! Proofs.Submit: from a stream of sealed proofs to signed receipts.
//!
//! screen (pure: sizes, format, keys) → verify (signatures of all streams together) → ledger (judged, de-duplicated, durable) →
//! receipt. Nothing of this module is acknowledged before the ledger says that it is durable.

mod answer;
mod keys;
mod receipts;
mod screen;
mod service;
mod stream;
mod verifier;

pub(crate) use answer::rejected_by;
pub(crate) use keys::KeyCache;
pub(crate) use receipts::{ReceiptSigner, sign as sign_receipt};
pub(crate) use service::{Parts, ProofsService};
pub(crate) use verifier::Verifier;

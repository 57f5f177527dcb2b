//! The file in which judged proofs are handed over: what `kubectl depin proofs --out` and `depin-agent receipts` write and
//! `kubectl depin verify` reads.
//!
//! Its head is one line of JSON, then comes a line for each record: hexadecimal protobuf (`ProofRecord`).

use depin_domain::ids::PublicKey;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::v1::ProofRecord;

/// What the head names as its format.
pub const FORMAT: &str = "depin.proofs.v1";

/// First line of the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: String,
    /// Every key that signed a proof or a receipt in the file.
    pub keys: Vec<PublicKey>,
}

/// The head as it stands in the file, with the line's end.
///
/// # Errors
/// Never in practice: it has only texts.
pub fn head_line(mut keys: Vec<PublicKey>) -> Result<String, serde_json::Error> {
    keys.sort_unstable();
    keys.dedup();
    Ok(serde_json::to_string(&Head { format: FORMAT.into(), keys })? + "\n")
}

/// A record as it stands in the file, with the line's end.
#[must_use]
pub fn record_line(record: &ProofRecord) -> String {
    hex::encode(record.encode_to_vec()) + "\n"
}

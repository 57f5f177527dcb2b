//! A receipt's body: what the gateway signs once a proof is judged and durable.

use depin_domain::{
    ids::{Digest, KeyId},
    time::Timestamp,
};

use super::{error::EnvelopeError, reader::Reader};

const MAGIC: &[u8; 4] = b"DPR1";
const SIZE: usize = 4 + 32 + 32 + 8 + 8 + 32 + 8 + 8 + 8 + 8 + 8 + 32 + 1 + 1;

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptBody {
    /// The gateway's key, which signs.
    pub gateway: KeyId,
    /// The proof's chain.
    pub key: KeyId,
    /// The chain's incarnation.
    pub incarnation: u64,
    /// The proof's sequence.
    pub sequence: u64,
    /// SHA-256 of the proof's header bytes.
    pub digest: Digest,
    /// Incarnation of the ledger that holds it.
    pub ledger_incarnation: u64,
    /// Where it stands in that ledger.
    pub position: u64,
    /// When it arrived, the gateway's clock.
    pub received_at: Timestamp,
    /// Readings that count.
    pub accepted: u64,
    /// Readings that do not.
    pub rejected: u64,
    /// SHA-256 of the verdict's canonical bytes.
    pub verdict: Digest,
    /// On the ledger's disk.
    pub durable: bool,
    /// In a backup.
    pub archived: bool,
}

/// The receipt body's bytes.
#[must_use]
pub fn encode_receipt(receipt: &ReceiptBody) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIZE);
    out.extend(MAGIC);
    out.extend(receipt.gateway.0);
    out.extend(receipt.key.0);
    out.extend(receipt.incarnation.to_be_bytes());
    out.extend(receipt.sequence.to_be_bytes());
    out.extend(receipt.digest.0);
    out.extend(receipt.ledger_incarnation.to_be_bytes());
    out.extend(receipt.position.to_be_bytes());
    out.extend(receipt.received_at.0.to_be_bytes());
    out.extend(receipt.accepted.to_be_bytes());
    out.extend(receipt.rejected.to_be_bytes());
    out.extend(receipt.verdict.0);
    out.push(receipt.durable.into());
    out.push(receipt.archived.into());
    out
}

/// Reads a receipt's body.
///
/// # Errors
/// Naming the first field that is not as the format says.
pub fn decode_receipt(bytes: &[u8]) -> Result<ReceiptBody, EnvelopeError> {
    let mut reader = Reader::new(bytes, MAGIC, "receipt.magic")?;
    let receipt = ReceiptBody {
        gateway: KeyId(reader.array("receipt.gateway key")?),
        key: KeyId(reader.array("receipt.chain key")?),
        incarnation: reader.u64("receipt.incarnation")?,
        sequence: reader.u64("receipt.sequence")?,
        digest: Digest(reader.array("receipt.header digest")?),
        ledger_incarnation: reader.u64("receipt.ledger incarnation")?,
        position: reader.u64("receipt.ledger position")?,
        received_at: Timestamp(reader.i64("receipt.received at")?),
        accepted: reader.u64("receipt.accepted")?,
        rejected: reader.u64("receipt.rejected")?,
        verdict: Digest(reader.array("receipt.verdict digest")?),
        durable: reader.flag("receipt.durable")?,
        archived: reader.flag("receipt.archived")?,
    };
    reader.end("receipt")?;
    Ok(receipt)
}

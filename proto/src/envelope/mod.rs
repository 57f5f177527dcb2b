//! The signed envelope, byte by byte as docs/envelope.md says.
//!
//! Decoding is strict: one value has one encoding, so whatever decodes encodes to the same bytes again. It never panics and
//! never allocates more than a small multiple of its input; errors name the field.

mod body;
mod error;
mod header;
mod limits;
mod proof;
mod reader;
mod receipt;
mod section;
mod verdict;

pub use body::{Path, body_root, leaf_digest, section_path};
pub use error::{EnvelopeError, Problem};
pub use header::{decode_header, encode_header};
pub use limits::{MAX_DETAIL, MAX_DROPS, MAX_NAME, MAX_REJECTIONS, MAX_SECTION_READINGS, MAX_SECTIONS, MAX_SERIES};
pub use proof::{OpenError, OpenedProof, open_proof};
pub use receipt::{ReceiptBody, decode_receipt, encode_receipt};
pub use section::{decode_section, encode_section};
pub use verdict::{decode_verdict, encode_verdict, verdict_digest};

/// What a proof's signature covers before the header bytes.
pub const PROOF_DOMAIN: &[u8] = b"depin.v1.Proof\0";

/// What a receipt's signature covers before the body bytes.
pub const RECEIPT_DOMAIN: &[u8] = b"depin.v1.Receipt\0";

/// The bytes that a proof's signature covers.
#[must_use]
pub fn proof_signing_input(header: &[u8]) -> Vec<u8> {
    [PROOF_DOMAIN, header].concat()
}

/// The bytes that a receipt's signature covers.
#[must_use]
pub fn receipt_signing_input(body: &[u8]) -> Vec<u8> {
    [RECEIPT_DOMAIN, body].concat()
}

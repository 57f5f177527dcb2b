//! The wire: protobuf messages and services (`v1`), the signed envelope (`envelope`), and the way from either to the
//! domain's plain types (`convert`).
//!
//! Nothing in here reads a clock, a socket or a key; nobody re-encodes what was signed: signed bytes are carried as they came.

pub mod convert;
pub mod envelope;
pub mod proof_file;

/// Generated from `proto/depin/v1/*.proto`; the documentation is in those files.
#[allow(missing_docs, rustdoc::all, clippy::all, clippy::expect_used, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("depin.v1");
}

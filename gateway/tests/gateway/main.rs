//! The gateway as agents and the operator meet it: real TLS over loopback, a real embedded ledger in a directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backups;
mod configuration;
mod connections;
mod enrollment;
mod limits;
mod network;
mod proofs;
mod record;
mod rotation;
mod trace;

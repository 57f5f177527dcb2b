//! The gateway as agents and the operator meet it: real TLS over loopback, a real embedded ledger in a directory.

mod configuration;
mod enrollment;
mod network;
mod proofs;
mod record;

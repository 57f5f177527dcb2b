//! The operator against a real API server, with a ledger in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

#[macro_use]
mod world;
mod enrollment;
mod events;
mod forged;
mod ledger;
mod loss;
mod objects;
mod presence;
mod programs;
mod query;
mod refusals;
mod registry;
mod rotation;
mod service_account;
mod spine;
mod succession;
mod watched;

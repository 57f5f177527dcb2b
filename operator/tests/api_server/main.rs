//! The operator against a real API server, with a ledger in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

#[macro_use]
mod world;
mod enrollment;
mod events;
mod ledger;
mod loss;
mod objects;
mod presence;
mod programs;
mod refusals;
mod registry;
mod spine;
mod succession;

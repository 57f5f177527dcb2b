//! The rules of the network: what a device is, what a proof may claim, how a reading is judged, what an epoch pays.
//!
//! Nothing in here reads a clock, a file, a socket or a random number; nothing computes money in floating point.
//! Every function of this crate gives the same result on every machine for the same arguments.

pub mod canonical;
pub mod cel;
pub mod ids;
pub mod model;
mod parallel;
pub mod proofs;
pub mod quantity;
pub mod registry;
pub mod rewards;
pub mod statistics;
pub mod time;

#[cfg(test)]
mod fixtures;

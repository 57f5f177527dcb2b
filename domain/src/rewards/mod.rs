//! Rewards: from the statistics of one epoch to exact amounts and a Merkle root.
//!
//! The way: statistics are folded to integer [`features`]; gates and the [`expression`] of a [`spec::ProgramSpec`] make them
//! a weight; [`limits`] decide who counts where places are scarce; [`close`] turns weights into amounts and proves that
//! nothing was made or lost; [`merkle`] commits to what each account may claim. Everything here is a pure function of its
//! arguments: no clock, no I/O, no floating point, and the same result for devices in any order.

pub mod amount;
pub mod assemble;
pub mod close;
pub mod emission;
pub mod error;
pub mod expression;
pub mod features;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod input;
mod late;
mod limits;
pub mod merkle;
mod payouts;
pub mod program;
pub mod public;
pub mod resolve;
pub mod result;
pub mod spec;
pub mod validate;
mod weigh;

pub use amount::{Account, Amount};
pub use assemble::{Assembly, AssemblyError, assemble};
pub use close::{close_epoch, close_resolved};
pub use error::EpochError;
pub use input::{DeviceInput, EpochInput, MaturedInput, Place, Share, Total};
pub use program::Program;
pub use result::{EpochResult, EpochSummary, Line, OpenEpoch, Payout, ProgramState, Zero, ZeroReason};
pub use spec::ProgramSpec;
pub use validate::SpecError;

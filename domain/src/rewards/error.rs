//! Why an epoch cannot be computed: always a fault of what called, never of a device.

use super::validate::SpecError;
use crate::canonical::CanonicalError;

/// The epoch cannot be computed; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// A program that should have been refused long ago.
    #[error("the program of epoch {number} is invalid: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Program {
        /// Which epoch's.
        number: u64,
        /// What is wrong.
        errors: Vec<SpecError>,
    },
    /// The state before is not that of the epoch before.
    #[error("epoch {number} cannot follow {after:?}: compute the epochs in order, without gaps")]
    Order {
        /// Which epoch.
        number: u64,
        /// The one that left the state.
        after: Option<u64>,
    },
    /// Time does not reach this epoch.
    #[error("epoch {number} has no window: its number is beyond representable time")]
    Window {
        /// Which epoch.
        number: u64,
    },
    /// The matured epochs are not those that the state names.
    #[error("epochs {expected:?} mature with this close, but {got:?} were given: read what the close froze")]
    Matured {
        /// By the state.
        expected: Vec<u64>,
        /// In the input.
        got: Vec<u64>,
    },
    /// A matured epoch came with another program than it was closed by.
    #[error("epoch {number} was closed under another version of the program: give the one with its recorded digest")]
    MaturedProgram {
        /// Which epoch.
        number: u64,
    },
    /// A device stands twice in the input.
    #[error("device {device} stands twice in the input of epoch {number}")]
    DuplicateDevice {
        /// Which epoch's.
        number: u64,
        /// Which device.
        device: crate::ids::DeviceId,
    },
    /// An amount beyond 2^128.
    #[error("{what} does not fit 128 bits: the emission or the balances are implausibly large")]
    Overflow {
        /// Which sum.
        what: &'static str,
    },
    /// The conservation equation does not hold: a fault in this code; nothing may be published.
    #[error(
        "not conserved: payouts {payouts} + unallocated {unallocated} + carried out {carried_out} ≠ minted {minted} + carried in {carried_in}"
    )]
    NotConserved {
        /// Σ payouts.
        payouts: u128,
        /// Unallocated.
        unallocated: u128,
        /// Carry, buckets and held amounts after.
        carried_out: u128,
        /// Minted.
        minted: u128,
        /// Carry, buckets and held amounts before.
        carried_in: u128,
    },
    /// A result could not be written as canonical JSON.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

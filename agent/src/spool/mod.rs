//! The spool: what was acknowledged and is not yet sealed, on disk.
//!
//! Each record is one group commit of decoded readings with the stamp of the clocks at that moment. The log itself is `depin-log`;
//! this module knows what stands in a record. Readings name their model by digest, so a model's change never reinterprets them.

mod batch;
mod varint;

pub use batch::{Batch, BatchBuilder, BatchError, Delivery, StoredGroup, StoredReading};

use depin_domain::time::Timestamp;

/// The earliest time that a set clock can show: 2025-01-01. Before it, a clock counts from somewhere else.
pub const CLOCK_FLOOR: Timestamp = Timestamp(1_735_689_600_000);

/// The clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Names the boot of the machine: `uptime` counts from it.
    pub boot: u64,
    /// Milliseconds since that boot, never stepping.
    pub uptime: i64,
    /// What the wall clock shows.
    pub wall: Timestamp,
}

impl Stamp {
    /// Wall clock minus uptime: changes only when the wall clock is set.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.wall.0.saturating_sub(self.uptime)
    }

    /// Whether the wall clock was ever set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.wall >= CLOCK_FLOOR
    }
}

/// What happens when the spool has reached its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum LimitPolicy {
    /// Nothing more is acknowledged until there is room: broker and hardware keep it.
    #[default]
    StopAcknowledging,
    /// The oldest readings are given up; the next sealed header tells how many and from when.
    DropOldest,
}

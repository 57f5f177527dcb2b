//! Everything that an epoch's result depends on, as plain data.
//!
//! [`super::assemble()`] fills it from the registry and frozen statistics; tests and the second implementation fill it by hand.

use serde::{Deserialize, Serialize};

use super::{
    amount::{Account, decimal},
    result::{Line, ProgramState},
    spec::ProgramSpec,
};
use crate::{ids::DeviceId, time::Timestamp};

/// One epoch of one program, ready to be computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EpochInput {
    /// `namespace/name` of the program.
    pub program: String,
    /// Which epoch.
    pub number: u64,
    /// The program in force at its start.
    pub spec: ProgramSpec,
    /// Every device of its fleets at the epoch's start, or approved within it. The order does not matter.
    pub devices: Vec<DeviceInput>,
    /// Earlier epochs whose `lateUntil` has passed at this one's end: exactly those that [`ProgramState::maturing`] names.
    #[serde(default)]
    pub matured: Vec<MaturedInput>,
    /// What the epoch before left.
    pub state: ProgramState,
}

/// An earlier epoch, to be settled for good: its statistics with what came late, beside what was paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MaturedInput {
    /// Which epoch.
    pub number: u64,
    /// The program that was in force in it.
    pub spec: ProgramSpec,
    /// Its devices by the facts of its own time, with statistics that include late readings.
    pub devices: Vec<DeviceInput>,
    /// Its recorded lines.
    pub lines: Vec<Line>,
}

/// A device in an epoch: facts as of the epoch's start or the device's approval within it, and what it measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceInput {
    /// Which.
    pub id: DeviceId,
    /// First sighting: seniority where limits rank.
    pub since: Timestamp,
    /// Suspended as of then: tells why it has no readings.
    #[serde(default)]
    pub suspended: bool,
    /// Who is paid; empty: the amount is held.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Where it stands; absent: limits exclude it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Cadence slots of the whole epoch by the cadence in force at each grain's start: the whole that uptime is a part of.
    pub slots: u64,
    /// What was accepted, one entry a metric; metrics that no feature uses may be absent.
    #[serde(default)]
    pub totals: Vec<Total>,
}

/// A part of a device's reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Share {
    /// Whose.
    pub account: Account,
    /// In 1/10,000; all of a device's sum to at most 10,000; what is missing returns to the carry.
    pub basis_points: u32,
}

/// A place in the two integer forms that limits use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Place {
    /// H3 cell at the resolution of the program's hex limit; 0 where it has none.
    #[serde(with = "decimal")]
    pub cell: u64,
    /// Unit vector × 2^30.
    pub unit: [i64; 3],
}

/// One metric over the whole epoch: the exact merge of its grains' statistics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Total {
    /// The metric.
    pub metric: String,
    /// Readings; never 0.
    pub count: u64,
    /// Sum of the readings.
    #[serde(with = "decimal")]
    pub sum: i128,
    /// Smallest.
    #[serde(with = "decimal")]
    pub min: i64,
    /// Largest.
    #[serde(with = "decimal")]
    pub max: i64,
    /// Latest timestamp.
    pub last_at: Timestamp,
    /// The reading then.
    #[serde(with = "decimal")]
    pub last_value: i64,
    /// Growth of a counter, what follows a reset included where the model says so.
    #[serde(with = "decimal")]
    pub increase: i128,
    /// Cadence slots with a reading.
    pub slots: u64,
}

//! A reward program as its author writes it: plain data, canonical JSON without floats, amounts as decimal strings.
//!
//! The plain form of a RewardProgram's spec. [`super::Program::compile`] checks it; nothing else should read its expression.

use serde::{Deserialize, Serialize};

use super::amount::{Account, Amount};
use crate::{
    canonical::{self, CanonicalError},
    ids::Digest,
    time::{Timestamp, Window},
};

/// What is paid, to whom, for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProgramSpec {
    /// `namespace/name` of the fleets whose devices take part.
    pub fleets: Vec<String>,
    /// What is paid in.
    pub token: Token,
    /// Name of the SettlementChain; absent: roots are computed but not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// How time is cut; immutable.
    pub epoch: EpochGrid,
    /// Time in which the ledger must have accepted proofs after an epoch's end before it closes, in milliseconds.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: i64,
    /// What each epoch mints.
    pub emission: Emission,
    /// Who gets which part of what is minted.
    #[serde(default)]
    pub split: Split,
    /// The integers that a device's epoch is judged by.
    pub features: Vec<Feature>,
    /// What a device must reach to take part at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Where places are scarce, who counts; applied in order, each kind at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// CEL over the features: the device's weight in micro-units, 0 to 10^12. See [`super::expression`].
    pub weight: String,
    /// What is kept for readings that come after the close.
    #[serde(default)]
    pub late: Late,
    /// For how many further epochs the amount of a device without an owner's account is held before it becomes unallocated.
    #[serde(default = "default_hold_epochs")]
    pub hold_epochs: u64,
    /// True: epochs pass, mint nothing and pay nothing new; what was promised before is still settled.
    #[serde(default)]
    pub suspend: bool,
}

fn default_grace_ms() -> i64 {
    300_000
}

fn default_hold_epochs() -> u64 {
    30
}

impl ProgramSpec {
    /// The bytes that the digest is made of.
    pub fn canonical(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical::to_vec(self)
    }

    /// The name under which epochs refer to this version of the program.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest(self)
    }

    /// How long after an epoch's end its late bucket is settled; see [`Late::late_until_ms`].
    #[must_use]
    pub fn late_until(&self, window: Window) -> Timestamp {
        window.end.plus(self.late.late_until_ms)
    }
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Token {
    /// What people call it.
    pub symbol: String,
    /// Decimal digits between its smallest unit, in which every amount is written, and one token.
    pub decimals: u8,
}

/// How time is cut into epochs: number n is `[genesis + n × length, genesis + (n + 1) × length)`, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EpochGrid {
    /// In milliseconds; a multiple of each fleet's grain.
    pub length_ms: i64,
    /// Start of epoch 0; a multiple of each fleet's grain.
    pub genesis: Timestamp,
}

impl EpochGrid {
    /// The window of epoch `number`; none where the length is not positive or time does not reach that far.
    #[must_use]
    pub fn window(&self, number: u64) -> Option<Window> {
        let start = i64::try_from(number).ok()?.checked_mul(self.length_ms)?.checked_add(self.genesis.0)?;
        let end = start.checked_add(self.length_ms)?;
        (start < end).then_some(Window { start: Timestamp(start), end: Timestamp(end) })
    }

    /// The epoch that holds `at`; none before the genesis or where the length is not positive.
    #[must_use]
    pub fn number_at(&self, at: Timestamp) -> Option<u64> {
        let passed = at.0.checked_sub(self.genesis.0)?;
        (self.length_ms > 0 && passed >= 0).then(|| u64::try_from(passed / self.length_ms).ok()).flatten()
    }
}

/// What an epoch mints, by its number. Exact definitions: [`super::emission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Emission {
    /// The same in every epoch.
    Fixed {
        /// Each epoch's.
        amount: Amount,
    },
    /// Halved, rounded down, every so many epochs.
    #[serde(rename_all = "camelCase")]
    Halving {
        /// The first epoch's.
        amount: Amount,
        /// After how many epochs it halves.
        every_epochs: u64,
    },
    /// Multiplied by a part below one, rounded down, every so many epochs.
    #[serde(rename_all = "camelCase")]
    Decay {
        /// The first epoch's.
        amount: Amount,
        /// What remains at each step, in 1/10,000.
        keep_basis_points: u32,
        /// After how many epochs it decays.
        every_epochs: u64,
    },
}

/// Who gets which part of what is minted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Split {
    /// All parts; basis points sum to 10,000; exactly one goes to the devices.
    pub parts: Vec<SplitPart>,
    /// Name of the part that also gets what the others' rounding down leaves.
    pub residual: String,
}

impl Default for Split {
    fn default() -> Self {
        let devices = SplitPart { name: "devices".into(), basis_points: 10_000, to: Recipient::Devices };
        Self { residual: devices.name.clone(), parts: vec![devices] }
    }
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitPart {
    /// What people call it.
    pub name: String,
    /// In 1/10,000 of what is minted.
    pub basis_points: u32,
    /// Who gets it.
    pub to: Recipient,
}

/// Who gets a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Recipient {
    /// The devices by their weights.
    Devices,
    /// Always this account.
    Account(Account),
    /// Nobody: minted on paper only, reported as unallocated.
    Unallocated,
}

/// An integer made of one metric over the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Feature {
    /// `[a-z][a-zA-Z0-9_]{0,62}`, not a word of CEL.
    pub name: String,
    /// The metric.
    pub metric: String,
    /// How readings become one integer.
    pub aggregate: Aggregate,
}

/// How a metric's readings become one integer. All but `Count` and `Uptime` have the metric's unit and decimal scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregate {
    /// Sum of the readings; 0 without one.
    Sum,
    /// Growth of a counter; a reset adds nothing unless the model says that it counts from zero again; 0 without a reading.
    Delta,
    /// `floor(sum / count)`, rounded toward minus infinity; absent without a reading.
    Mean,
    /// Smallest reading; absent without one.
    Min,
    /// Largest reading; absent without one.
    Max,
    /// Reading with the latest timestamp; absent without one.
    Last,
    /// How many readings.
    Count,
    /// `floor(10,000 × slots with a reading / all cadence slots of the epoch)`: basis points.
    Uptime,
}

/// What a device must reach to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gate {
    /// CamelCase name that a line carries when the gate shuts.
    pub reason: String,
    /// The feature; where it is absent the gate shuts.
    pub feature: String,
    /// Smallest value that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// Largest value that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<i64>,
}

/// Who counts where places are scarce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Limit {
    /// At most so many devices in an H3 cell: first by feature (larger first), then by seniority (earlier first), then by id.
    #[serde(rename_all = "camelCase")]
    HexCapacity {
        /// H3 resolution, 0 to 15.
        resolution: u8,
        /// Devices in one cell.
        capacity: u32,
        /// The feature that ranks; absent: seniority alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// No two devices that count are closer than this; ranked as above, each is taken if it is far enough from all before it.
    #[serde(rename_all = "camelCase")]
    MinimumDistance {
        /// Length of the chord on a sphere of 6,371,009 m, in metres.
        metres: u32,
        /// The feature that ranks; absent: seniority alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// What is kept back for readings that are accepted after the close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Late {
    /// Part of an epoch's devices' pool that is kept, in 1/10,000.
    #[serde(default = "default_late_basis_points")]
    pub basis_points: u32,
    /// How long after an epoch's end late readings may still count, in milliseconds.
    #[serde(default = "default_late_until_ms")]
    pub late_until_ms: i64,
}

fn default_late_basis_points() -> u32 {
    500
}

fn default_late_until_ms() -> i64 {
    14 * 86_400_000
}

impl Default for Late {
    fn default() -> Self {
        Self { basis_points: default_late_basis_points(), late_until_ms: default_late_until_ms() }
    }
}

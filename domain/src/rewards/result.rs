//! What an epoch gives: a line for every device, totals, the state that the next epoch starts from.
//!
//! The fields of [`Line`], [`ProgramState`] and what they hold stand in the order of their JSON names, so that writing them plainly
//! writes them canonically: a million of them in a second or two instead of many. A test compares both ways.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    amount::{Account, Amount, decimal},
    input::Share,
};
use crate::{
    canonical::CanonicalError,
    ids::{DeviceId, Digest},
    time::{Timestamp, Window},
};

/// Above this many accounts a summary leaves the payouts to the state, so that it stays small enough for one message.
pub const MAX_SUMMARY_PAYOUTS: usize = 10_000;

/// Everything that closing an epoch gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochResult {
    /// Totals and root.
    pub summary: EpochSummary,
    /// One line a device, ascending by id.
    pub lines: Vec<Line>,
    /// What the next epoch starts from.
    pub state: ProgramState,
    /// Every account with something to claim or that was paid now, ascending; the summary's unless there are too many.
    pub payouts: Vec<Payout>,
}

impl EpochResult {
    /// SHA-256 over the canonical JSON of all lines in order, each followed by a line feed.
    pub fn lines_digest(lines: &[Line]) -> Result<Digest, CanonicalError> {
        let mut hash = Sha256::new();
        let mut text = Vec::new();
        for line in lines {
            text.clear();
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
            hash.update(&text);
        }
        Ok(Digest(hash.finalize().into()))
    }
}

impl Line {
    /// The line's canonical JSON.
    pub fn canonical(&self) -> Result<Vec<u8>, CanonicalError> {
        Ok(serde_json::to_vec(self)?)
    }
}

/// The totals of a computed epoch. `Σ payouts + unallocated + carriedOut = minted + carriedIn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochSummary {
    /// `namespace/name` of the program.
    pub program: String,
    /// Which epoch.
    pub number: u64,
    /// First moment.
    pub start: Timestamp,
    /// First moment after.
    pub end: Timestamp,
    /// SHA-256 of the program's canonical JSON.
    pub program_digest: Digest,
    /// The program was suspended: nothing was minted.
    pub suspended: bool,
    /// What this epoch made.
    pub minted: Amount,
    /// Carry, open late buckets and held amounts before.
    pub carried_in: Amount,
    /// The same after.
    pub carried_out: Amount,
    /// What nobody gets: expired held amounts and the split's unallocated part.
    pub unallocated: Amount,
    /// How the minted amount was split.
    pub split: Vec<SplitAmount>,
    /// What is kept for this epoch's late readings.
    pub bucket: Amount,
    /// What was shared by weights.
    pub pool: Amount,
    /// Σw.
    #[serde(with = "decimal")]
    pub weight_sum: u128,
    /// Of `carriedOut`: free for the next epoch.
    pub carry: Amount,
    /// Of `carriedOut`: kept for devices without an owner's account.
    pub held: Amount,
    /// Earlier corrections that were taken out of these payouts and returned to the carry.
    pub offset: Amount,
    /// Earlier epochs that were settled for good.
    #[serde(default)]
    pub matured: Vec<MaturedSummary>,
    /// Lines by what became of them.
    pub devices: DeviceCounts,
    /// Every account with a cumulative amount, ascending, those that got nothing now included; empty where
    /// `payoutsInState`.
    pub payouts: Vec<Payout>,
    /// True where there are more than [`MAX_SUMMARY_PAYOUTS`] accounts: then the state lists them.
    #[serde(default)]
    pub payouts_in_state: bool,
    /// Root of the Merkle tree over (account, cumulative), `0x` and 64 digits; absent where nobody can claim anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Leaves of that tree.
    pub leaves: u64,
    /// SHA-256 over the lines, see [`EpochResult::lines_digest`].
    pub lines_digest: Digest,
    /// SHA-256 of the state's canonical JSON.
    pub state_digest: Digest,
}

/// One part of the split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitAmount {
    /// The part's name.
    pub name: String,
    /// Its account, if it goes to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// How much.
    pub amount: Amount,
}

/// How many devices were paid, and why others were not. A device with several reasons counts under its first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCounts {
    /// All lines.
    pub total: u64,
    /// With an amount, held ones included.
    pub paid: u64,
    /// Zero lines by reason (for a gate its own reason).
    pub zero: std::collections::BTreeMap<String, u64>,
}

/// What an account gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payout {
    /// Whose.
    pub account: Account,
    /// Now.
    pub amount: Amount,
    /// In all epochs together: what its leaf says.
    pub cumulative: Amount,
    /// What it was paid too much and still owes: taken out of later payouts.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub debt: Amount,
}

/// An earlier epoch, settled for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaturedSummary {
    /// Which epoch.
    pub number: u64,
    /// What was kept for it.
    pub bucket: Amount,
    /// Σ of the dues before scaling.
    pub dues: Amount,
    /// Σ of the dues as paid.
    pub paid: Amount,
    /// What returned to the carry.
    pub returned: Amount,
    /// What was taken back of what devices had been paid too much: out of held amounts at once, from the accounts that got it as debts.
    pub corrections: Amount,
}

/// One device's result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Whether it counted: gates passed, weight above zero, limits passed. Frozen at the close.
    pub admitted: bool,
    /// Which.
    pub device: DeviceId,
    /// In the order of the program's features; null where absent.
    #[serde(with = "decimal::options")]
    pub features: Vec<Option<i64>>,
    /// True: the share waits for an owner's account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Dues and corrections of epochs that matured now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<LateLine>,
    /// Who got of the share; empty while it is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<OwnerAmount>,
    /// What the expression gave; 0 where a gate shut.
    pub raw_weight: u64,
    /// Why there is no amount (or why it is held): all reasons that apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Zero>,
    /// Held amounts of earlier epochs, paid now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
    /// What the owners' rounding down left: returned to the carry.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub residual: Amount,
    /// `floor(pool × weight / Σw)`.
    pub share: Amount,
    /// What it counted with.
    pub weight: u64,
}

/// What an owner got of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerAmount {
    /// Whose.
    pub account: Account,
    /// `floor(share × basisPoints / 10,000)`.
    pub amount: Amount,
    /// Part in 1/10,000.
    pub basis_points: u32,
}

/// Held amounts that found an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// What was held.
    pub amount: Amount,
    /// Who got it.
    pub owners: Vec<OwnerAmount>,
    /// Returned to the carry by rounding.
    pub residual: Amount,
}

/// What an epoch that matured brought a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LateLine {
    /// Part of the room: denominator; `weight = floor(rawWeight × room / claims)`.
    pub claims: u64,
    /// Of the correction: what was taken back, out of what is held or as debts. Less where what was held has expired.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub corrected: Amount,
    /// What was paid too much.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub correction: Amount,
    /// Who owes of what was corrected; the rest of it was still held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub debts: Vec<OwnerAmount>,
    /// What the share would have been, minus what was paid, if positive.
    pub due: Amount,
    /// Features with what came late.
    #[serde(with = "decimal::options")]
    pub features: Vec<Option<i64>>,
    /// Which epoch.
    pub number: u64,
    /// Who got it; empty while it is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<OwnerAmount>,
    /// The due as paid, after scaling to the bucket.
    pub paid: Amount,
    /// Weight before the cell's remaining room was shared.
    pub raw_weight: u64,
    /// Why there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Zero>,
    /// Returned to the carry by rounding.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub residual: Amount,
    /// Part of the room: numerator.
    pub room: u64,
    /// w′.
    pub weight: u64,
}

/// Why a line is zero or held, with what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zero {
    /// The gate's reason; empty else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Why.
    pub reason: ZeroReason,
}

impl From<ZeroReason> for Zero {
    fn from(reason: ZeroReason) -> Self {
        Self { reason, detail: String::new() }
    }
}

impl Zero {
    /// The gate's own reason, or the reason's name.
    #[must_use]
    pub fn label(&self) -> &str {
        if self.detail.is_empty() { self.reason.name() } else { &self.detail }
    }
}

macro_rules! zero_reasons {
    ($($name:ident $meaning:literal $remedy:literal;)*) => {
        /// Why a device gets nothing, or nothing yet: a closed list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ZeroReason {
            $(#[doc = $meaning] $name,)*
        }

        impl ZeroReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// CamelCase name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The reason with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }

            /// What it means, one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do about it, one sentence.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

zero_reasons! {
    ProgramSuspended "The program was suspended in this epoch." "Ask the program's owner; kubectl depin resume.";
    Suspended "The device was suspended at the epoch's start and nothing of it was accepted." "Mend the cause; kubectl depin resume.";
    NoData "Nothing of the device was accepted in this epoch for any metric that the program looks at." "See kubectl depin status for what was rejected and why.";
    GateFailed "A gate of the program shut; the detail is the gate's own reason." "Compare the feature with the gate: kubectl depin explain.";
    WeightError "The weight's expression failed for these features: overflow, division by zero, an absent feature, a negative or too large result." "Correct the program's weight expression.";
    ZeroWeight "The weight's expression gave zero." "See the features: kubectl depin explain.";
    NoLocation "The program limits by place and the device has none." "Set EdgeDevice.spec.location.";
    CellFull "Devices of a higher rank fill the cell's capacity." "Move the device to a cell with room.";
    TooClose "A device of a higher rank is closer than the minimum distance." "Move the device farther away.";
    ZeroShare "The weight's part of the pool rounds down to zero." "None: the part is smaller than the token's smallest unit.";
    NoOwner "The device has no valid owner's account: the amount is held." "Set EdgeDevice.spec.owner before the hold ends.";
    CapacityTaken "Late readings: the cell's room was given away when the epoch closed." "Reconnect the device within its epoch.";
    BucketEmpty "Late readings: what was kept for the epoch does not reach for this due." "Raise the program's late share.";
    NotInProgram "The device is no longer in the program's fleets; the line settles an earlier epoch." "None needed.";
}

/// What one epoch hands to the next: canonical JSON in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProgramState {
    /// What each account may claim and owes, ascending.
    #[serde(default)]
    pub accounts: Vec<AccountState>,
    /// Free for the next epoch.
    pub carry: Amount,
    /// Amounts that wait for an owner's account, ascending by (device, epoch).
    #[serde(default)]
    pub held: Vec<Held>,
    /// The epoch that left it; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Epochs whose late buckets are open, ascending.
    #[serde(default)]
    pub open: Vec<OpenEpoch>,
    /// Who got what was held of epochs whose late buckets are open, ascending by (device, epoch): whom a correction asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<ReleasedHeld>,
}

impl ProgramState {
    /// The state's canonical JSON.
    pub fn canonical(&self) -> Result<Vec<u8>, CanonicalError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// SHA-256 of the state's canonical JSON.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        Ok(Digest::of(&self.canonical()?))
    }

    /// Carry, open buckets and held amounts together; none where the sum does not fit.
    #[must_use]
    pub fn carried(&self) -> Option<Amount> {
        let buckets = self.open.iter().map(|open| open.bucket);
        let held = self.held.iter().map(|held| held.amount);
        buckets.chain(held).try_fold(self.carry, Amount::plus)
    }

    /// The open epochs that are settled by the first close whose epoch ends at `end`.
    pub fn maturing(&self, end: Timestamp) -> impl Iterator<Item = &OpenEpoch> {
        self.open.iter().filter(move |open| open.late_until <= end)
    }
}

/// An epoch whose late bucket is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OpenEpoch {
    /// What is kept.
    pub bucket: Amount,
    /// First moment after it.
    pub end: Timestamp,
    /// When it matures.
    pub late_until: Timestamp,
    /// Which.
    pub number: u64,
    /// What was shared at its close; zero where Σw was.
    pub pool: Amount,
    /// The program in force in it.
    pub program_digest: Digest,
    /// Its first moment.
    pub start: Timestamp,
    /// Σw at its close.
    #[serde(with = "decimal")]
    pub weight_sum: u128,
}

impl OpenEpoch {
    /// Its readings' time.
    #[must_use]
    pub fn window(&self) -> Window {
        Window { start: self.start, end: self.end }
    }
}

/// An amount that waits for an owner's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Held {
    /// How much.
    pub amount: Amount,
    /// Whose.
    pub device: DeviceId,
    /// The epoch at whose close it was set aside.
    pub number: u64,
}

/// A held amount that found an owner before its epoch matured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReleasedHeld {
    /// How much was held.
    pub amount: Amount,
    /// Whose.
    pub device: DeviceId,
    /// The epoch at whose close it was set aside.
    pub number: u64,
    /// Who got it.
    pub shares: Vec<Share>,
}

/// An account over all epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AccountState {
    /// Which.
    pub account: Account,
    /// Everything that it was ever paid.
    pub cumulative: Amount,
    /// What it was paid too much and has not yet been offset.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub debt: Amount,
}

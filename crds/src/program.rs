//! RewardProgram: what an epoch pays to whom, as data.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, Time};

/// What is paid for which work. A change takes effect with the next epoch.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "RewardProgram",
    namespaced,
    shortname = "rp",
    category = "depin",
    status = "RewardProgramStatus",
    derive = "PartialEq",
    cel,
    doc = "What is paid for which work of which fleets.",
    printcolumn(name = "Fleets", type_ = "string", json_path = ".spec.fleets"),
    printcolumn(name = "Token", type_ = "string", json_path = ".spec.token.symbol"),
    printcolumn(name = "Length", type_ = "string", json_path = ".spec.epoch.length"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.epoch"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Root", type_ = "string", json_path = ".status.root", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.token == oldSelf.token", "token is immutable: amounts of two tokens cannot be added; make a new program instead"),
    validation = ("self.epoch == oldSelf.epoch", "epoch is immutable: epochs that were paid cannot be cut anew; make a new program instead"),
    validation = ("!has(oldSelf.chain) || (has(self.chain) && self.chain == oldSelf.chain)", "chain is immutable once set"),
    validation = ("!has(self.gates) || self.gates.all(g, self.features.exists(f, f.name == g.feature))",
        "each gate names a feature of spec.features"),
    validation = ("!has(self.limits) || self.limits.all(l, !has(l.hexCapacity) || !has(l.hexCapacity.by) || self.features.exists(f, f.name == l.hexCapacity.by))",
        "hexCapacity.by names a feature of spec.features"),
    validation = ("!has(self.limits) || self.limits.all(l, !has(l.minimumDistance) || !has(l.minimumDistance.by) || self.features.exists(f, f.name == l.minimumDistance.by))",
        "minimumDistance.by names a feature of spec.features"),
    validation = ("!has(self.limits) || (self.limits.filter(l, has(l.hexCapacity)).size() <= 1 && self.limits.filter(l, has(l.minimumDistance)).size() <= 1)",
        "each kind of limit at most once"),
    validation = ("duration(self.grace) <= duration('168h')", "grace is at most 168h"),
)]
pub struct RewardProgramSpec {
    /// Names of the fleets, in this namespace, whose devices take part.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub fleets: Vec<String>,
    /// What is paid in. Immutable.
    pub token: Token,
    /// Name of the SettlementChain; absent: roots are computed but not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub chain: Option<String>,
    /// How time is cut. Immutable.
    pub epoch: EpochGrid,
    /// How long the ledger must have taken proofs after an epoch's end before it closes.
    #[serde(default = "five_minutes")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,6}(ms|s|m|h)){1,4}$"))]
    pub grace: String,
    /// What each epoch mints.
    pub emission: Emission,
    /// Who gets which part of what is minted; absent: the devices get all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// The integers that a device's epoch is judged by.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".to_owned()]))]
    pub features: Vec<Feature>,
    /// What a device must reach to take part at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub gates: Vec<Gate>,
    /// Where places are scarce, who counts; applied in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub limits: Vec<Limit>,
    /// CEL over the features, integers only: the device's weight in micro-units, 0 to 10^12.
    #[schemars(length(min = 1, max = 2048))]
    pub weight: String,
    /// What is kept for readings that come after the close.
    #[serde(default)]
    pub late: Late,
    /// For how many further epochs the amount of a device without an owner is held before it becomes unallocated.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 100_000))]
    pub hold_epochs: i64,
    /// True: epochs pass, mint nothing and pay nothing new; what was promised before is still settled.
    #[serde(default)]
    pub suspend: bool,
}

fn five_minutes() -> String {
    "5m".to_owned()
}

fn thirty() -> i64 {
    30
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// What people call it.
    #[schemars(length(min = 1, max = 32))]
    pub symbol: String,
    /// Decimal digits between its smallest unit, in which every amount is written, and one token.
    #[serde(default)]
    #[schemars(range(min = 0, max = 36))]
    pub decimals: i32,
}

/// How time is cut into epochs: number n is `[genesis + n × length, genesis + (n + 1) × length)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("duration(self.length) >= duration('1s') && duration(self.length) <= duration('87840h')", "length lies between 1s and ten years")
)]
pub struct EpochGrid {
    /// A multiple of each fleet's grain.
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,6}(ms|s|m|h)){1,4}$"))]
    pub length: String,
    /// Start of epoch 0; a multiple of each fleet's grain since 1970. May lie in the past: the first epoch paid is the one that holds the
    /// program's creation.
    pub genesis: Time,
}

/// What an epoch mints, by its number. Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("[has(self.fixed), has(self.halving), has(self.decay)].filter(x, x).size() == 1", "exactly one of fixed, halving and decay")
)]
pub struct Emission {
    /// The same in every epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Fixed>,
    /// Halved, rounded down, every so many epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halving: Option<Halving>,
    /// Multiplied by a part below one, rounded down, every so many epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
}

/// The same in every epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fixed {
    /// Each epoch's, in the token's smallest unit, decimal text.
    #[schemars(length(max = 31), regex(pattern = r"^[0-9]{1,31}$"))]
    pub amount: String,
}

/// Halved, rounded down, every so many epochs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Halving {
    /// The first epoch's, in the token's smallest unit, decimal text.
    #[schemars(length(max = 31), regex(pattern = r"^[0-9]{1,31}$"))]
    pub amount: String,
    /// After how many epochs it halves.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_epochs: i64,
}

/// Multiplied by a part below one, rounded down, every so many epochs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decay {
    /// The first epoch's, in the token's smallest unit, decimal text.
    #[schemars(length(max = 31), regex(pattern = r"^[0-9]{1,31}$"))]
    pub amount: String,
    /// What remains at each step, in 1/10,000.
    #[schemars(range(min = 0, max = 9999))]
    pub keep_basis_points: i32,
    /// After how many epochs it decays.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_epochs: i64,
}

/// Who gets which part of what is minted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("self.parts.map(p, p.basisPoints).sum() == 10000", "basisPoints of all parts sum to 10000"),
    validation = ("self.parts.filter(p, p.to == 'Devices').size() == 1", "exactly one part goes to Devices"),
    validation = ("self.parts.exists(p, p.name == self.residual)", "residual names a part"),
)]
pub struct Split {
    /// All parts.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".to_owned()]))]
    pub parts: Vec<SplitPart>,
    /// Name of the part that also gets what the others' rounding down leaves.
    #[schemars(length(min = 1, max = 63))]
    pub residual: String,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = ("(self.to == 'Account') == has(self.account)", "account is set with to: Account, and only then"))]
pub struct SplitPart {
    /// What people call it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// In 1/10,000 of what is minted.
    #[schemars(range(min = 0, max = 10000))]
    pub basis_points: i32,
    /// Who gets it.
    pub to: Recipient,
    /// The account of `to: Account`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 42), regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub account: Option<String>,
}

/// Who gets a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Recipient {
    /// The devices by their weights.
    Devices,
    /// Always one account.
    Account,
    /// Nobody: reported as unallocated.
    Unallocated,
}

/// An integer made of one metric over the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// What expressions call it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z][a-zA-Z0-9_]*$"))]
    pub name: String,
    /// The metric.
    #[schemars(length(min = 1, max = 64))]
    pub metric: String,
    /// How readings become one integer.
    pub aggregate: Aggregate,
}

/// How a metric's readings become one integer. All but Count and Uptime have the metric's unit and decimal scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Aggregate {
    /// Sum of the readings.
    Sum,
    /// Growth of a counter.
    Delta,
    /// Sum divided by count, rounded toward minus infinity.
    Mean,
    /// Smallest reading.
    Min,
    /// Largest reading.
    Max,
    /// Reading with the latest timestamp.
    Last,
    /// How many readings.
    Count,
    /// Cadence slots with a reading, in 1/10,000 of all.
    Uptime,
}

/// What a device must reach to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = ("has(self.minimum) || has(self.maximum)", "minimum or maximum, or both"))]
pub struct Gate {
    /// CamelCase name that a line carries when the gate shuts.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// The feature; where it is absent the gate shuts.
    #[schemars(length(min = 1, max = 63))]
    pub feature: String,
    /// Smallest value that passes, at the metric's scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// Largest value that passes, at the metric's scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<i64>,
}

/// Who counts where places are scarce. Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = ("has(self.hexCapacity) != has(self.minimumDistance)", "exactly one of hexCapacity and minimumDistance"))]
pub struct Limit {
    /// At most so many devices in an H3 cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex_capacity: Option<HexCapacity>,
    /// No two devices that count are closer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_distance: Option<MinimumDistance>,
}

/// At most so many devices in an H3 cell: first by feature (larger first), then by seniority, then by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HexCapacity {
    /// H3 resolution.
    #[schemars(range(min = 0, max = 15))]
    pub resolution: i32,
    /// Devices in one cell.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub capacity: i64,
    /// The feature that ranks; absent: seniority alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub by: Option<String>,
}

/// No two devices that count are closer than this; ranked as in a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MinimumDistance {
    /// Length of the chord, in metres.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub metres: i64,
    /// The feature that ranks; absent: seniority alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub by: Option<String>,
}

/// What is kept back for readings that are accepted after the close.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = ("duration(self.until) <= duration('8784h')", "until is at most 8784h (a year)"))]
pub struct Late {
    /// Part of an epoch's devices' pool that is kept, in 1/10,000.
    #[serde(default = "five_percent")]
    #[schemars(range(min = 0, max = 10000))]
    pub basis_points: i32,
    /// How long after an epoch's end late readings may still count.
    #[serde(default = "two_weeks")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,6}(ms|s|m|h)){1,4}$"))]
    pub until: String,
}

impl Default for Late {
    fn default() -> Self {
        Self { basis_points: five_percent(), until: two_weeks() }
    }
}

fn five_percent() -> i32 {
    500
}

fn two_weeks() -> String {
    "336h".to_owned()
}

/// Where a program stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewardProgramStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Digest of the program as registered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// First epoch that the registered program rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_epoch: Option<i64>,
    /// Number of the newest recorded epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// When the epoch after it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_end: Option<Time>,
    /// Merkle root of the newest recorded epoch, 0x and 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66))]
    pub root: Option<String>,
    /// `Ready`: registered, and its epochs are closed in time. `Suspended`: epochs mint nothing. `EpochBlocked`: the next epoch cannot be closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

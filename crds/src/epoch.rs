//! RewardEpoch: a view of what the ledger recorded of an epoch. The ledger is the record; this may be deleted at any time.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, Time};

/// A view of one epoch as the ledger has it. The newest hundred of a program are kept.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "RewardEpoch",
    plural = "rewardepochs",
    namespaced,
    shortname = "re",
    category = "depin",
    status = "RewardEpochStatus",
    derive = "PartialEq",
    cel,
    doc = "A view of one epoch of a reward program as the ledger recorded it.",
    selectable = ".spec.program",
    printcolumn(name = "Program", type_ = "string", json_path = ".spec.program"),
    printcolumn(name = "Number", type_ = "integer", json_path = ".spec.number"),
    printcolumn(name = "End", type_ = "string", json_path = ".spec.end"),
    printcolumn(
        name = "Computed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Computed")].status"#
    ),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.devices"),
    printcolumn(name = "Paid", type_ = "string", json_path = ".status.paid"),
    printcolumn(name = "Root", type_ = "string", json_path = ".status.root", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self == oldSelf", "an epoch is immutable"))]
pub struct RewardEpochSpec {
    /// Name of its program.
    #[schemars(length(min = 1, max = 253))]
    pub program: String,
    /// Its number, from 0 at the program's genesis.
    #[schemars(range(min = 0))]
    pub number: i64,
    /// First moment inside.
    pub start: Time,
    /// First moment after.
    pub end: Time,
    /// Digest of the program that ruled it.
    #[schemars(length(max = 64))]
    pub program_digest: String,
}

/// What the ledger recorded. Amounts are in the token's smallest unit, as decimal text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewardEpochStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the ledger froze it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Time>,
    /// Devices with a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<i64>,
    /// Minted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub minted: Option<String>,
    /// Carried in from epochs before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub carried_in: Option<String>,
    /// Carried out to epochs after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub carried_out: Option<String>,
    /// Given to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub unallocated: Option<String>,
    /// Sum of all payouts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub paid: Option<String>,
    /// Merkle root over cumulative amounts, 0x and 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66))]
    pub root: Option<String>,
    /// Digest of the recorded result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub result_digest: Option<String>,
    /// Transaction that settled the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66))]
    pub transaction: Option<String>,
    /// `Closed`, `Computed`, `Published`, `Settled`; `Ready` once computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

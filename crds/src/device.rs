//! EdgeDevice: an approved device. Its existence is its approval.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, Location, PublicKey, Share, Time};

/// An approved device. What it measures counts from its first sighting on.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "EdgeDevice",
    namespaced,
    shortname = "edev",
    category = "depin",
    status = "EdgeDeviceStatus",
    derive = "PartialEq",
    cel,
    doc = "An approved device: who relays for it, who owns it, where it stands.",
    selectable = ".spec.fleet",
    selectable = ".spec.agent",
    selectable = ".spec.serial",
    printcolumn(name = "Serial", type_ = "string", json_path = ".spec.serial"),
    printcolumn(name = "Fleet", type_ = "string", json_path = ".spec.fleet"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agent"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Online", type_ = "string", json_path = r#".status.conditions[?(@.type=="Online")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Did", type_ = "string", json_path = ".status.did", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!(has(self.owner) && has(self.shares))", "owner or shares, not both"),
    validation = ("!has(self.shares) || self.shares.map(s, s.basisPoints).sum() == 10000", "basisPoints of all shares sum to 10000"),
    validation = ("self.serial == oldSelf.serial", "serial is immutable: another serial is another device"),
    validation = ("!has(self.suspendReason) || self.suspend", "suspendReason needs suspend: true"),
    validation = ("!self.hardwareKey || has(self.publicKey)", "hardwareKey needs publicKey"),
)]
pub struct EdgeDeviceSpec {
    /// Name of its fleet.
    #[schemars(length(min = 1, max = 253))]
    pub fleet: String,
    /// Name of the agent that relays for it.
    #[schemars(length(min = 1, max = 253))]
    pub agent: String,
    /// What its messages call it; unique in its agent. Immutable.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!-~]+$"))]
    pub serial: String,
    /// Its own key, if it signs itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// Whether publicKey is vouched for as unable to leave its hardware.
    #[serde(default)]
    pub hardware_key: bool,
    /// Who is paid: one account. Without owner and shares the fleet's hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 42), regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub owner: Option<String>,
    /// Who is paid: several accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub shares: Option<Vec<Share>>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// True: a person suspended it; nothing that it measures counts.
    #[serde(default)]
    pub suspend: bool,
    /// Why it is suspended, for its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub suspend_reason: Option<String>,
}

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeDeviceStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its decentralized identifier, `did:depin:<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub did: Option<String>,
    /// The agent that relays for it as registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub agent: Option<String>,
    /// From when on what it measures counts: its first sighting, or its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// `Ready`: registered. `Online`: heard of. `Eligible`: can be paid. `Suspended`: nothing counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

//! EdgeAgent: a program at the edge that relays for devices. Its existence is its approval.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, PublicKey, Time};

/// An approved agent. Whoever may create it may admit it; deleting it revokes its key.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "EdgeAgent",
    namespaced,
    shortname = "ea",
    category = "depin",
    status = "EdgeAgentStatus",
    derive = "PartialEq",
    cel,
    doc = "An approved agent at the edge, which relays for devices. Deleting it revokes its key.",
    selectable = ".spec.node",
    printcolumn(name = "Fleets", type_ = "string", json_path = ".spec.fleets"),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.devices"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Gateway", type_ = "string", json_path = ".status.gateway", priority = "1"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Online", type_ = "string", json_path = r#".status.conditions[?(@.type=="Online")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Certificate", type_ = "string", json_path = ".status.certificateExpires", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(oldSelf.publicKey) || (has(self.publicKey) && self.publicKey == oldSelf.publicKey)",
        "publicKey is immutable once set: delete the EdgeAgent and enroll the agent anew")
)]
pub struct EdgeAgentSpec {
    /// Names of the fleets that it serves.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub fleets: Vec<String>,
    /// Node on which it runs, if it runs in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// Its key; absent: the one with which it first enrolls (see status.publicKey).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
}

/// What is known of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeAgentStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The agent's id in proofs and ledger, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub agent_id: Option<String>,
    /// The key in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// The version that it last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// The address by which it last reached the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub gateway: Option<String>,
    /// EdgeDevices assigned to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<i64>,
    /// When its newest certificate expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Time>,
    /// `Ready`: registered. `Online`: heard of. `Confirmed`: goes by the configuration that it was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

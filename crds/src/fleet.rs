//! EdgeFleet: devices of one model in one namespace, and how new ones are let in.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, Geofence, Share};

/// Devices of one model, and how new ones are let in.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "EdgeFleet",
    namespaced,
    shortname = "efleet",
    category = "depin",
    status = "EdgeFleetStatus",
    derive = "PartialEq",
    cel,
    doc = "Devices of one model in one namespace, and how new ones are let in.",
    selectable = ".spec.modelRef.name",
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.modelRef.name"),
    printcolumn(name = "Enrollment", type_ = "string", json_path = ".spec.enrollment.policy"),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.devices"),
    printcolumn(name = "Online", type_ = "integer", json_path = ".status.online"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!(has(self.owner) && has(self.shares))", "owner or shares, not both"),
    validation = ("!has(self.shares) || self.shares.map(s, s.basisPoints).sum() == 10000", "basisPoints of all shares sum to 10000"),
    validation = ("self.grain == oldSelf.grain", "grain is immutable: statistics are kept by it; make a new fleet instead"),
    validation = ("duration(self.grain) >= duration('1s') && duration(self.grain) <= duration('24h')", "grain lies between 1s and 24h"),
)]
pub struct EdgeFleetSpec {
    /// The model of all its devices.
    pub model_ref: ModelRef,
    /// How devices that an agent sees for the first time are let in.
    #[serde(default)]
    pub enrollment: Enrollment,
    /// Width of the statistics that rewards are made of; epochs are multiples of it. Immutable.
    #[serde(default = "hour")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,6}(ms|s|m|h)){1,4}$"))]
    pub grain: String,
    /// Where its devices may stand; absent: anywhere. A device without a location is not let into a fleet that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geofence: Option<Geofence>,
    /// Who is paid for devices that name nobody: one account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 42), regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub owner: Option<String>,
    /// Who is paid for devices that name nobody: several accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub shares: Option<Vec<Share>>,
}

fn hour() -> String {
    "1h".to_owned()
}

/// A reference to an EdgeDeviceModel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How new devices are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("(self.policy == 'AllowList') == has(self.serials)", "serials is set with policy AllowList, and only then")
)]
pub struct Enrollment {
    /// Who decides.
    #[serde(default)]
    pub policy: EnrollmentPolicy,
    /// Serials that are let in under AllowList.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub serials: Option<Vec<String>>,
    /// ServiceAccounts of this cluster whose Pods may bring agents into this fleet by their token; absent: agents join by join tokens alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["namespace".to_owned(), "name".to_owned()]))]
    pub service_accounts: Option<Vec<ServiceAccountRef>>,
}

/// A ServiceAccount of any namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Who decides whether a new device is let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum EnrollmentPolicy {
    /// A person: kubectl depin approve, or an EdgeDevice from version control.
    #[default]
    Manual,
    /// Every device behind an agent that joined this fleet by a token.
    Token,
    /// The serials of the list.
    AllowList,
}

/// What became of a fleet: roll-ups, refreshed at most every ten seconds and only when changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeFleetStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// EdgeDevices of this fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<i64>,
    /// Of these, how many are registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<i64>,
    /// Of these, how many are heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<i64>,
    /// Of these, how many are suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<i64>,
    /// `Ready`: registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

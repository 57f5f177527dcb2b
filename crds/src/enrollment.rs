//! EdgeEnrollment: an invitation by a person (`spec.token`), or what asks to be let in (`spec.request`).

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, Time};

/// An invitation for one agent, or the plea of a device that nobody let in yet.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "EdgeEnrollment",
    namespaced,
    shortname = "ee",
    category = "depin",
    status = "EdgeEnrollmentStatus",
    derive = "PartialEq",
    cel,
    doc = "An invitation for one agent (a join token's hash), or what asks to be let in.",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.request.kind"),
    printcolumn(name = "Serial", type_ = "string", json_path = ".spec.request.serial"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.request.agent"),
    printcolumn(name = "Expires", type_ = "date", json_path = ".spec.token.expiresAt", priority = "1"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.token) != has(self.request)", "exactly one of token and request"),
    validation = ("self == oldSelf", "an enrollment is immutable: delete it and make another"),
)]
pub struct EdgeEnrollmentSpec {
    /// A person's invitation: whoever shows this token becomes an agent of these fleets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// What asks to be let in; made by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// A join token, by its hash only. It admits one agent, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// SHA-256 of the token's secret part, in hexadecimal.
    #[schemars(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// After this it admits nothing.
    pub expires_at: Time,
    /// Fleets that the agent will serve.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub fleets: Vec<String>,
    /// Name of the EdgeAgent that is made; absent: the one that the agent asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub agent: Option<String>,
}

/// What asks to be let in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("self.kind != 'Device' || (has(self.serial) && has(self.agent))", "a device's request has serial and agent")
)]
pub struct Request {
    /// What asks.
    pub kind: RequestKind,
    /// The agent that saw the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub agent: Option<String>,
    /// The device's serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
    /// The fleets whose model fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 253)))]
    pub fleets: Vec<String>,
    /// The MQTT topic on which the device was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub topic: Option<String>,
    /// When it was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
}

/// What asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum RequestKind {
    /// A device behind an agent.
    Device,
}

/// What became of an enrollment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeEnrollmentStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the EdgeAgent or EdgeDevice that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub admitted: Option<String>,
    /// `Ready`: for a token, whether it admits; for a request, whether it was let in. `Denied`: a person said no.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

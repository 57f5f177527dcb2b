//! EdgeDeviceModel: how messages become readings, and which readings are plausible.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, Time};

/// How a kind of device speaks: where its messages come from, what they measure, and which readings are plausible.
///
/// Agents decode and gateways judge by this. A change makes a new digest; the old one stays valid for what was decoded by it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "depin.dev",
    version = "v1alpha1",
    kind = "EdgeDeviceModel",
    shortname = "edm",
    category = "depin",
    status = "EdgeDeviceModelStatus",
    derive = "PartialEq",
    cel,
    doc = "A kind of device: how its messages become readings, and which readings are plausible.",
    printcolumn(name = "Cadence", type_ = "string", json_path = ".spec.cadence"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.sources.all(s, s.fields.all(f, self.metrics.exists(m, m.name == f.metric)))",
        "each field of a source names a metric of spec.metrics"),
    validation = ("duration(self.cadence) >= duration('100ms') && duration(self.cadence) <= duration('24h')",
        "cadence lies between 100ms and 24h"),
    validation = ("duration(self.reorderHorizon) <= duration('24h')", "reorderHorizon is at most 24h"),
    validation = ("oldSelf.metrics.all(o, self.metrics.exists(m, m.name == o.name))",
        "a metric is never removed, so that its name cannot come back with another meaning; make a new model instead"),
)]
pub struct EdgeDeviceModelSpec {
    /// Where messages come from and how they are read.
    #[schemars(length(min = 1, max = 16))]
    pub sources: Vec<Source>,
    /// What is measured. Unit, kind and scale of a metric never change.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".to_owned()]))]
    pub metrics: Vec<Metric>,
    /// Expected distance of readings; the width of the slots that uptime counts. Divides the grain of each fleet of this model.
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,6}(ms|s|m|h)){1,4}$"))]
    pub cadence: String,
    /// How long an agent waits for stragglers before it seals.
    #[serde(default = "no_time")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,6}(ms|s|m|h)){1,4}$"))]
    pub reorder_horizon: String,
    /// Rules beyond range and rate, in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["reason".to_owned()]))]
    pub checks: Vec<Check>,
    /// The weakest attestation that is accepted: only `Agent` for now, since depin-agent does not relay yet what devices sign themselves.
    #[serde(default)]
    pub minimum_attestation: Attestation,
    /// What a device of this model can do, for placement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub capabilities: Vec<String>,
    /// From when on this version of the model holds; absent or past: as soon as it is registered. The first version of a name holds at all
    /// times before, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Time>,
}

fn no_time() -> String {
    "0s".to_owned()
}

/// One kind of message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("self.codec != 'Plain' || size(self.fields) == 1", "a plain payload is one value: exactly one field"),
    validation = ("self.codec != 'Plain' || !has(self.device.payloadPath)",
        "a plain payload cannot name its device: use device.topicSegment or device.constant"),
    validation = ("!has(self.each) || self.codec in ['Json', 'Cbor']", "each applies to the codecs Json and Cbor"),
)]
pub struct Source {
    /// MQTT topic filter; `+` and `#` are allowed.
    #[schemars(length(min = 1, max = 256))]
    pub topic: String,
    /// How the payload is encoded.
    pub codec: Codec,
    /// How a message names its device, by the serial that is unique in its agent.
    pub device: DeviceNaming,
    /// Path of an array in the payload whose elements are read one by one; the fields' paths start in the element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub each: Option<String>,
    /// Where the timestamp is; absent: the time of receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampField>,
    /// Which parts of the payload are which metrics.
    #[schemars(length(min = 1, max = 32))]
    pub fields: Vec<Field>,
}

/// How a payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Codec {
    /// JSON text (RFC 8259).
    Json,
    /// CBOR (RFC 8949).
    Cbor,
    /// The payload is the number, as decimal text.
    Plain,
    /// SenML in JSON (RFC 8428).
    SenmlJson,
    /// SenML in CBOR (RFC 8428).
    SenmlCbor,
}

/// How a message names its device. Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("[has(self.topicSegment), has(self.payloadPath), has(self.constant)].filter(x, x).size() == 1",
        "exactly one of topicSegment, payloadPath and constant")
)]
pub struct DeviceNaming {
    /// The topic's segment with this index, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub topic_segment: Option<i32>,
    /// A text or number at this dotted path of the payload; in SenML `bn`, the base name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub payload_path: Option<String>,
    /// Always this serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub constant: Option<String>,
}

/// Where and how a payload tells the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("(self.format == 'Pattern') == has(self.pattern)", "pattern is set with format Pattern, and only then"),
    validation = ("!has(self.offsetMinutes) || self.format == 'Pattern'", "offsetMinutes applies to format Pattern"),
)]
pub struct TimestampField {
    /// Dotted path; array elements by index (`a.0.b`).
    #[schemars(length(min = 1, max = 128))]
    pub path: String,
    /// How it is written.
    pub format: TimestampFormat,
    /// A strptime pattern for local time without a zone, for example `%Y-%m-%dT%H:%M:%S`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub pattern: Option<String>,
    /// Minutes east of UTC of the local time; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1080, max = 1080))]
    pub offset_minutes: Option<i32>,
}

/// How a timestamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum TimestampFormat {
    /// RFC 3339 text.
    Rfc3339,
    /// Seconds since 1970, as number or text, with or without decimals.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMillis,
    /// Local time by a pattern.
    Pattern,
}

/// One part of a payload that is a metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    /// Dotted path in the payload; in SenML the record's resolved name without the device's part, `#s` behind it for its sum; empty for a plain value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub path: String,
    /// The metric's name.
    #[schemars(length(min = 1, max = 64))]
    pub metric: String,
    /// UCUM unit in which the payload has it; absent: the metric's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub unit: Option<String>,
}

/// One quantity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("self.unit == oldSelf.unit && self.kind == oldSelf.kind && self.scale == oldSelf.scale",
        "unit, kind and scale of a metric never change; add a metric under another name"),
    validation = ("!has(self.resetsToZero) || self.kind == 'Counter'", "resetsToZero applies to kind Counter"),
    validation = ("!has(self.min) || !has(self.max) || quantity(self.min).compareTo(quantity(self.max)) <= 0",
        "min is not greater than max"),
)]
pub struct Metric {
    /// What it is called: a letter, then letters, digits and underscores.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z][a-zA-Z0-9_]*$"))]
    pub name: String,
    /// UCUM unit: `kW.h`, `Cel`, `W`, `1`.
    #[schemars(length(min = 1, max = 32))]
    pub unit: String,
    /// Level or running total.
    pub kind: MetricKind,
    /// For counters: true if it counts from zero after a reset, so that the new value itself is an increase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_to_zero: Option<bool>,
    /// Decimal digits kept, 0 to 9: a reading is the quantity times 10^scale, rounded half to even.
    #[schemars(range(min = 0, max = 9))]
    pub scale: i32,
    /// Smallest plausible value, decimal text in the metric's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^-?[0-9]{1,18}(\.[0-9]{1,9})?$"))]
    pub min: Option<String>,
    /// Largest plausible value, decimal text in the metric's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^-?[0-9]{1,18}(\.[0-9]{1,9})?$"))]
    pub max: Option<String>,
    /// Largest plausible change a second, decimal text in the metric's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^[0-9]{1,18}(\.[0-9]{1,9})?$"))]
    pub max_rate: Option<String>,
    /// True if it tells something about a person: epochs that show it publicly must be at least 24 hours long.
    #[serde(default)]
    pub personal: bool,
}

/// Level or running total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum MetricKind {
    /// A level: temperature, power.
    Gauge,
    /// A running total.
    Counter,
}

/// A rule in CEL that a reading or section must satisfy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// CamelCase name that a rejection carries.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// What it looks at.
    pub scope: CheckScope,
    /// CEL; true means plausible. Scope Reading sees `reading`, `previous` and `device`; scope Section sees `section` and `device`.
    #[schemars(length(min = 1, max = 2048))]
    pub expression: String,
}

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum CheckScope {
    /// Each reading and the one before.
    Reading,
    /// All readings of one device in one proof together.
    Section,
}

/// Who vouches for a reading, from weak to strong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Attestation {
    /// The agent signs for the device.
    #[default]
    Agent,
    /// The device signs with a key of its own.
    Device,
    /// The device signs with a key that cannot leave its hardware.
    Hardware,
}

/// What became of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeDeviceModelStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Digest of the version in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// Digest of the version that takes effect at `effectiveFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub next_digest: Option<String>,
    /// `Ready`: registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

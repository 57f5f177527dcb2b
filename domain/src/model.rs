//! A device model: how messages become readings, and which readings are plausible.
//!
//! The plain form of an EdgeDeviceModel's spec; its canonical JSON is what agents and gateways exchange, its digest is what
//! a section names. All limits are integers at the metric's scale.

pub mod local_time;
pub mod sources;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError},
    ids::Digest,
};

/// What a kind of device sends and what of it may count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Model {
    /// Name of the EdgeDeviceModel.
    pub name: String,
    /// Where its messages come from and how they are read.
    pub sources: Vec<Source>,
    /// What it measures, ascending by name.
    pub metrics: Vec<Metric>,
    /// Expected distance of readings in milliseconds; the width of the slots that uptime counts. Divides the grain.
    pub cadence_ms: i64,
    /// How long the agent waits for stragglers before it seals, in milliseconds.
    pub reorder_horizon_ms: i64,
    /// Rules beyond range and rate, in the order in which they are tried.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The weakest attestation that is accepted.
    #[serde(default)]
    pub minimum_attestation: Attestation,
    /// What a device of this model can do, for placement.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

impl Model {
    /// The bytes that the digest is made of.
    pub fn canonical(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical::to_vec(self)
    }

    /// The name under which sections refer to this model.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest(self)
    }

    /// The metric `name`, if the model has it.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// One kind of message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// MQTT topic filter, `+` and `#` allowed.
    pub topic: String,
    /// How the payload is encoded.
    pub codec: Codec,
    /// How a message names its device.
    pub device: DeviceNaming,
    /// Path of an array in the payload whose elements are read one by one; the fields' paths start in the element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// Where the timestamp is; absent: the time of receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampField>,
    /// Which parts of the payload are which metrics.
    pub fields: Vec<Field>,
}

/// How a payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// How a message names its device: by its serial, unique in the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum DeviceNaming {
    /// The topic's segment with this index, counted from 0.
    TopicSegment(u32),
    /// A text or number in the payload (in SenML: `bn`, a prefix of the record's name, or a path is not needed).
    PayloadPath(String),
    /// Always this serial.
    Constant(String),
}

/// Where and how a payload tells the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TimestampField {
    /// Dotted path; array elements by index (`a.0.b`).
    pub path: String,
    /// How it is written.
    pub format: TimestampFormat,
}

/// How a timestamp is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum TimestampFormat {
    /// RFC 3339 text.
    Rfc3339,
    /// Seconds since 1970, as number or text, with or without decimals.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMillis,
    /// A strptime pattern for local time without a zone, and the offset from UTC in minutes.
    Pattern {
        /// The pattern, for example `%Y-%m-%dT%H:%M:%S`.
        pattern: String,
        /// Minutes east of UTC.
        offset_minutes: i32,
    },
}

/// One part of a payload that is a metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Field {
    /// Dotted path in the payload; in SenML the record's resolved name without the device's part, `#s` behind it for its sum; empty for a plain value.
    pub path: String,
    /// The metric's name.
    pub metric: String,
    /// UCUM unit in which the payload has it; absent: the metric's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// One quantity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metric {
    /// `[a-zA-Z][a-zA-Z0-9_]{0,63}`.
    pub name: String,
    /// UCUM unit.
    pub unit: String,
    /// Level or running total.
    pub kind: MetricKind,
    /// Decimal digits kept: a reading is the quantity × 10^scale, rounded half to even. 0 to 9.
    pub scale: u8,
    /// Smallest plausible reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// Largest plausible reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// Largest plausible change, in scaled units a second, against the reading before; a reset of a counter is no change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<i64>,
    /// Tells something about a person: epochs that show it publicly must be at least 24 hours long.
    #[serde(default)]
    pub personal: bool,
}

impl Metric {
    /// The first of unit, kind, resetsToZero and scale that is not the same: readings of the two are not to be added up.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<MetricDifference> {
        let differs = |part, ours: String, theirs: String| Some(MetricDifference { part, ours, theirs });
        let resets = |kind| match kind {
            MetricKind::Gauge => None,
            MetricKind::Counter { resets_to_zero } => Some(resets_to_zero),
        };
        if self.unit != other.unit {
            differs("unit", self.unit.clone(), other.unit.clone())
        } else if let (Some(ours), Some(theirs)) = (resets(self.kind), resets(other.kind))
            && ours != theirs
        {
            differs("resetsToZero", ours.to_string(), theirs.to_string())
        } else if self.kind != other.kind {
            differs("kind", self.kind.to_string(), other.kind.to_string())
        } else if self.scale != other.scale {
            differs("scale", self.scale.to_string(), other.scale.to_string())
        } else {
            None
        }
    }
}

/// In what two metrics differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricDifference {
    /// `unit`, `kind`, `resetsToZero` or `scale`.
    pub part: &'static str,
    /// The one's.
    pub ours: String,
    /// The other's.
    pub theirs: String,
}

/// Level or running total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MetricKind {
    /// A level: temperature, power.
    Gauge,
    /// A running total; a step down is a reset, after which nothing counts until it has passed the old value or begun anew.
    Counter {
        /// True: after a reset it counts from zero, so the new value itself is an increase. False: a reset adds nothing.
        #[serde(rename = "resetsToZero")]
        resets_to_zero: bool,
    },
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gauge => "Gauge",
            Self::Counter { resets_to_zero: false } => "Counter",
            Self::Counter { resets_to_zero: true } => "Counter with resetsToZero",
        })
    }
}

/// A rule in CEL that a reading or section must satisfy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Check {
    /// CamelCase name that a rejection carries.
    pub reason: String,
    /// What it looks at.
    pub scope: CheckScope,
    /// The part of CEL that [`crate::cel`] takes; true means plausible. Reading scope: `reading` {metric, at, value}, `previous` (the
    /// same or null). Section scope: `section` {metric: {count, first, last, min, max}}, only metrics with an accepted reading.
    /// Both: `device` {namespace, name, fleet, serial}.
    pub expression: String,
}

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckScope {
    /// Each reading and the one before.
    Reading,
    /// All readings of one device in one proof together.
    Section,
}

/// Who vouches for a section, from weak to strong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Attestation {
    /// The agent signs for the device.
    #[default]
    Agent,
    /// The device signs with a key of its own.
    Device,
    /// The device signs with a key that cannot leave its hardware.
    Hardware,
}

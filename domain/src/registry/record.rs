//! The registry's records: what the operator writes, in the form in which it is kept.
//!
//! Each change states the whole wanted state of its object, so that writing it twice changes nothing.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AgentId, DeviceId, Digest, PublicKey},
    model::Model,
    time::Timestamp,
};

/// One appended change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Place in the registry, from 1.
    pub version: u64,
    /// The ledger's clock at the append: when it takes effect.
    pub at: Timestamp,
    /// What changed.
    pub change: Change,
}

/// What changed. Each one states the whole wanted state of its object, so writing it twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A model, in force from `effective_from` on.
    Model(ModelEntry),
    /// The model is no longer for use by new fleets; digests stay known.
    ModelRetired {
        /// Its name.
        name: String,
    },
    /// A fleet.
    Fleet(FleetEntry),
    /// The fleet is gone.
    FleetRemoved {
        /// `namespace/name`.
        id: String,
    },
    /// An approved agent.
    Agent(AgentEntry),
    /// The agent is gone or its key revoked, for ever unless a person says otherwise: judged at arrival.
    AgentRemoved {
        /// Which.
        id: AgentId,
    },
    /// An approved device.
    Device(DeviceEntry),
    /// The device is gone.
    DeviceRemoved {
        /// Which.
        id: DeviceId,
    },
    /// A reward program; changes take effect at the next epoch's start.
    Program(ProgramEntry),
    /// The program is gone: the epoch that holds this record's time and later ones mint nothing; earlier ones are closed and paid.
    ProgramRemoved {
        /// `namespace/name`.
        id: String,
    },
    /// An invitation by join token: what a gateway may take enrollment requests for.
    Invitation(InvitationEntry),
    /// The invitation was used, denied or expired.
    InvitationRemoved {
        /// SHA-256 of the token.
        token: Digest,
    },
}

/// A model in force from a time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelEntry {
    /// SHA-256 of the model's canonical JSON.
    pub digest: Digest,
    /// The model.
    pub model: Model,
    /// From when on readings of its fleets are decoded and judged by it. Not before its record, except of a name's first model: what was
    /// judged and counted stays.
    pub effective_from: Timestamp,
}

/// A fleet of devices of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetEntry {
    /// `namespace/name`.
    pub id: String,
    /// Name of the model.
    pub model: String,
    /// Width of a statistic in milliseconds.
    pub grain_ms: i64,
}

/// An approved agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEntry {
    /// Derived from namespace and name.
    pub id: AgentId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it signs with.
    pub key: PublicKey,
    /// Names of the fleets (in its namespace) that it serves.
    pub fleets: Vec<String>,
    /// A person says that this very key may be used again, although it was revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reinstate_key: bool,
}

/// An approved device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceEntry {
    /// Derived from namespace and name.
    pub id: DeviceId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `namespace/name` of its fleet.
    pub fleet: String,
    /// The agent that relays for it.
    pub agent: AgentId,
    /// Unique in its agent.
    pub serial: String,
    /// Its own key; absent: the agent signs for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// Whether the key is vouched for as unable to leave its hardware.
    #[serde(default)]
    pub hardware_key: bool,
    /// Who is paid; empty: amounts are held.
    #[serde(default)]
    pub shares: Vec<OwnerShare>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Suspended by a person or by a rule.
    #[serde(default)]
    pub suspended: bool,
    /// First sighting, or creation: where its first assignment begins. Later records cannot move it.
    pub since: Timestamp,
}

/// A part of a device's reward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerShare {
    /// EVM address, `0x` and 40 lower-case hexadecimal digits.
    pub account: String,
    /// Part in 1/10,000; all of a device's sum to 10,000.
    pub basis_points: u32,
}

/// A place, made integer once at registration so that no result depends on a CPU's floating point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Degrees × 10^7, as given.
    pub latitude_e7: i64,
    /// Degrees × 10^7, as given.
    pub longitude_e7: i64,
    /// H3 cells that hold it, by resolution 0 to 15, in hexadecimal.
    pub cells: Vec<String>,
    /// Unit vector × 2^30, rounded.
    pub unit: [i64; 3],
}

/// A reward program's spec from its next epoch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramEntry {
    /// `namespace/name`.
    pub id: String,
    /// SHA-256 of the spec's canonical JSON.
    pub digest: Digest,
    /// `rewards::ProgramSpec`, kept as its canonical JSON text so that older readers carry newer fields along.
    pub spec: String,
    /// First epoch that it rules.
    pub from_epoch: u64,
}

/// What a join token admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitationEntry {
    /// SHA-256 of the token.
    pub token: Digest,
    /// Namespace in which the agent will live.
    pub namespace: String,
    /// After this it admits nothing.
    pub expires: Timestamp,
}

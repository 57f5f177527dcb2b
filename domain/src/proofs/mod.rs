//! Proofs as plain data, the closed list of reasons, and how a proof is judged.

pub mod chain;
pub mod checks;
mod facts;
pub mod judge;
pub mod reason;

use crate::{
    ids::{DeviceId, Digest, KeyId},
    model::Attestation,
    time::{Timestamp, Window},
};
pub use judge::{Accounts, AccountsMut, ApplyError, Context, apply, judge};
pub use reason::Reason;

/// The signed part of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The signing key: the chain.
    pub key: KeyId,
    /// Which life of the chain, from 1.
    pub incarnation: u64,
    /// Place in that life, from 1.
    pub sequence: u64,
    /// SHA-256 of the header before; zeros for the first.
    pub previous: Digest,
    /// Incarnation of the ledger whose registry the agent had applied.
    pub registry_incarnation: u64,
    /// Newest registry version that the agent had applied.
    pub registry_version: u64,
    /// The agent's clock when it sealed.
    pub sealed_at: Timestamp,
    /// Holds every reading's timestamp.
    pub window: Window,
    /// What the spool dropped since the header before.
    pub drops: Vec<Drop>,
    /// How many sections follow.
    pub sections: u32,
    /// Merkle root over the sections.
    pub body: Digest,
}

/// Readings that the spool gave up, told in the next header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Why.
    pub reason: DropReason,
    /// How many readings.
    pub count: u64,
    /// Timestamp of the earliest.
    pub first: Timestamp,
    /// Timestamp of the latest.
    pub last: Timestamp,
    /// Ordinal of this record in its chain's incarnation, so that a repeated telling is seen as one.
    pub ordinal: u32,
}

/// Why a spool gave up readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// The spool's limit was reached under the policy that drops the oldest.
    LimitReached = 0,
    /// More than an unapproved device may keep.
    UnapprovedQuota = 1,
    /// Unreadable after a fault of the disk.
    Unreadable = 2,
    /// Its device was not approved within the time that is kept for it.
    NeverApproved = 3,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LimitReached, Self::UnapprovedQuota, Self::Unreadable, Self::NeverApproved];

    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::LimitReached => {
                "Give the agent a larger spool, or the policy that stops acknowledging; mend its line."
            }
            Self::UnapprovedQuota => "Approve or deny the device: kubectl depin approve.",
            Self::Unreadable => "Look at the agent's disk: something on it could not be read back.",
            Self::NeverApproved => "None possible for these; approve devices within a week.",
        }
    }
}

/// What one device measured, as claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Whose readings.
    pub device: DeviceId,
    /// The model that they were decoded by.
    pub model: Digest,
    /// Who vouches.
    pub attestation: Attestation,
    /// Ascending by metric, never empty.
    pub series: Vec<Series>,
}

/// Readings of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The metric's name.
    pub metric: String,
    /// Strictly ascending in time, never empty.
    pub readings: Vec<Reading>,
}

/// One value at one time, at the metric's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// When it was measured.
    pub at: Timestamp,
    /// The quantity × 10^scale.
    pub value: i64,
}

/// The newest judged proof of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// Highest incarnation.
    pub incarnation: u64,
    /// Its newest judged sequence; 0: none yet.
    pub sequence: u64,
    /// SHA-256 of that proof's header; zeros where there is none.
    pub digest: Digest,
}

/// What became of a judged proof. Recorded beside it, so that a scan needs no rule to repeat the result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Readings that count.
    pub accepted: u64,
    /// What does not, and why; ascending by (section, series, first reading).
    pub rejections: Vec<Rejection>,
}

/// A section, a series, or readings of a series that do not count, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Index of the section.
    pub section: u32,
    /// Index of the series; absent: the whole section.
    pub series: Option<u32>,
    /// Indexes of the readings, ascending; empty: all.
    pub readings: Vec<u32>,
    /// Why.
    pub reason: Reason,
    /// Name of the check or metric; at most 255 bytes.
    pub detail: String,
}

impl Rejection {
    /// The reason, with its detail where it has one: `CheckFailed(CounterFell)`.
    #[must_use]
    pub fn label(&self) -> String {
        let name = self.reason.name();
        if self.detail.is_empty() { name.to_owned() } else { format!("{name}({})", self.detail) }
    }
}

impl Verdict {
    /// Why the reading at this place does not count; absent: it does.
    #[must_use]
    pub fn rejection(&self, section: u32, series: u32, reading: u32) -> Option<&Rejection> {
        self.rejections.iter().find(|rejection| {
            rejection.section == section
                && rejection.series.is_none_or(|rejected| rejected == series)
                && (rejection.readings.is_empty() || rejection.readings.contains(&reading))
        })
    }
}

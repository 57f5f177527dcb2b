//! Conditions: built from what is there, so that a time of transition moves only when the status flips.

use depin_crds::Condition;
use depin_domain::time::Timestamp;

use crate::quantities::time;

/// What a condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Say {
    /// Its type.
    pub kind: &'static str,
    /// True, False or Unknown.
    pub status: Status,
    /// CamelCase.
    pub reason: String,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Longest message: Kubernetes' own limit is 32 KiB, people's is lower.
const MAX_MESSAGE: usize = 1024;

impl Say {
    /// A condition of type `kind`.
    pub fn new(
        kind: &'static str,
        status: impl Into<Status>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status: status.into(), reason: reason.into(), message: message.into() }
    }

    /// The condition, keeping the time of transition of the one that `existing` has if the status is the same. The beginning of 1970 is what a
    /// schema's default has for want of a clock.
    #[must_use]
    pub fn over(self, existing: &[Condition], generation: Option<i64>, now: Timestamp) -> Option<Condition> {
        let same = |condition: &&Condition| condition.type_ == self.kind && condition.status == self.status.text();
        let before =
            existing.iter().find(same).filter(|before| before.last_transition_time.0 > jiff::Timestamp::UNIX_EPOCH);
        let last_transition_time =
            before.map_or_else(|| time(now), |before| Some(before.last_transition_time.clone()))?;
        Some(Condition {
            last_transition_time,
            message: self.message.chars().take(MAX_MESSAGE).collect(),
            observed_generation: generation,
            reason: self.reason,
            status: self.status.text().to_owned(),
            type_: self.kind.to_owned(),
        })
    }
}

/// The status of the condition `kind`.
#[must_use]
pub fn status_of<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a str> {
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}

/// Whether the condition `kind` holds.
#[must_use]
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    status_of(conditions, kind) == Some("True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schemas_placeholder_is_no_time_of_transition() {
        let waiting = || Say::new("Ready", Status::Unknown, "Waiting", "for its fleet");
        let placeholder = waiting().over(&[], Some(1), Timestamp(0)).unwrap();
        let first = waiting().over(&[placeholder], Some(1), Timestamp(1_000)).unwrap();
        assert_eq!(Some(first.last_transition_time), time(Timestamp(1_000)));
    }

    #[test]
    fn the_time_of_transition_moves_only_when_the_status_flips() {
        let first =
            Say::new("Ready", false, "Waiting", "for its fleet").over(&[], Some(1), Timestamp(1_000_000)).unwrap();
        let same = Say::new("Ready", false, "Invalid", "serial")
            .over(std::slice::from_ref(&first), Some(2), Timestamp(9_000_000))
            .unwrap();
        assert_eq!(same.last_transition_time, first.last_transition_time);
        assert_eq!((same.reason.as_str(), same.observed_generation), ("Invalid", Some(2)));
        let flipped = Say::new("Ready", true, "Registered", "").over(&[same], Some(2), Timestamp(9_000_000)).unwrap();
        assert_ne!(flipped.last_transition_time, first.last_transition_time);
    }
}

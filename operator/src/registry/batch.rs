//! Which of the wanted changes are written, in one batch. Pure.

use depin_domain::{
    registry::{Change, ChangeError, Record, Registry},
    time::Timestamp,
};

/// What became of a wanted change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The registry says it already.
    Unchanged,
    /// It is written.
    Recorded,
    /// It may not be written.
    Refused(ChangeError),
    /// The ledger does not take it, though nothing here speaks against it: its word.
    RefusedByLedger(String),
}

/// The changes that are worth writing, in order, and the outcome of each wanted one if they are written.
///
/// Each is checked against the registry as it will be after those before it, so that a fleet may follow its model in one batch.
#[must_use]
pub fn assemble(registry: &Registry, wanted: &[Change], now: Timestamp) -> (Vec<Change>, Vec<Outcome>) {
    let mut ahead = registry.clone();
    ahead.advance(now);
    let mut write = Vec::new();
    let outcomes = wanted
        .iter()
        .map(|change| {
            if !ahead.would_change(change) {
                return Outcome::Unchanged;
            }
            if let Err(error) = ahead.check(change) {
                return Outcome::Refused(error);
            }
            let record = Record { version: ahead.version().saturating_add(1), at: now, change: change.clone() };
            // The clone is read in turn by construction; a version that does not follow would only be found out by the ledger.
            if ahead.apply(record).is_ok() {
                write.push(change.clone());
            }
            Outcome::Recorded
        })
        .collect();
    (write, outcomes)
}

#[cfg(test)]
mod tests {
    use depin_domain::{
        ids::Digest,
        registry::{FleetEntry, InvitationEntry},
    };

    use super::*;

    fn invitation(byte: u8) -> Change {
        Change::Invitation(InvitationEntry {
            token: Digest([byte; 32]),
            namespace: "homes".into(),
            expires: Timestamp(9),
        })
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let mut registry = Registry::default();
        registry.apply(Record { version: 1, at: Timestamp(1), change: invitation(1) }).unwrap();
        let (write, outcomes) = assemble(&registry, &[invitation(1), invitation(2), invitation(2)], Timestamp(2));
        assert_eq!(write, [invitation(2)]);
        assert_eq!(outcomes, [Outcome::Unchanged, Outcome::Recorded, Outcome::Unchanged]);
    }

    #[test]
    fn one_that_is_refused_does_not_stop_the_others() {
        let fleet = FleetEntry { id: "homes/meters".into(), model: "absent".into(), grain_ms: 1000 };
        let (write, outcomes) = assemble(&Registry::default(), &[Change::Fleet(fleet), invitation(3)], Timestamp(2));
        assert_eq!(write, [invitation(3)]);
        assert!(matches!(&outcomes[0], Outcome::Refused(ChangeError::Missing { field, .. }) if field == "model"));
        assert_eq!(outcomes[1], Outcome::Recorded);
    }
}

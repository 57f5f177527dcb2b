//! Epochs that cannot be closed: what the program's condition says of it, and when. Pure.

use depin_crds::Condition;
use depin_domain::{rewards::EpochError as ComputeError, time::Timestamp};

use super::epochs::EpochError;
use crate::{
    conditions::{Say, holds},
    status::Transition,
};

/// Type of the condition.
pub const EPOCH_BLOCKED: &str = "EpochBlocked";

/// Why a program's next epoch is not closed, until somebody does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    reason: &'static str,
    message: String,
}

impl Block {
    /// The block that `error` is for epoch `number` (if it is known); none where time alone mends it.
    #[must_use]
    pub fn of(number: Option<u64>, error: &EpochError) -> Option<Self> {
        let (reason, remedy) = ground(error)?;
        let epoch = number.map_or_else(|| "the next epoch".to_owned(), |number| format!("epoch {number}"));
        Some(Self { reason, message: format!("{epoch} cannot be closed: {error}; {remedy}") })
    }
}

/// A CamelCase reason and what to do; none where time alone mends it.
fn ground(error: &EpochError) -> Option<(&'static str, &'static str)> {
    use tonic::Code;
    let report = "report it with the operator's log: nothing was paid for it and nothing is lost";
    Some(match error {
        EpochError::Fenced(_) | EpochError::Interrupted(_) => return None,
        EpochError::Ledger { source, .. } => match source.code() {
            Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::DataLoss | Code::OutOfRange => {
                ("LedgerRefuses", "see kubectl depin status, and compare the program with its closed epochs")
            }
            _ => return None,
        },
        EpochError::Unknown { .. } => ("SpecMissing", "restore the ledger from a backup that has it"),
        EpochError::Spec { .. } | EpochError::Record { .. } | EpochError::Result { .. } => {
            ("Unreadable", "upgrade the operator")
        }
        EpochError::OutOfTurn(_) | EpochError::Statistic(_) => ("LedgerDamaged", "run the ledger's verify"),
        EpochError::Assembly(_) => ("ProgramInvalid", "correct the program: its next version rules later epochs"),
        EpochError::Compute(error) => match error {
            ComputeError::Overflow { .. } => {
                ("Overflow", "lower the emission for later epochs, and ask for help with this one: nothing was paid")
            }
            ComputeError::Order { .. } | ComputeError::Matured { .. } | ComputeError::MaturedProgram { .. } => {
                ("PredecessorUnsettled", "restart the operator; if it lasts, restore the ledger from a backup")
            }
            ComputeError::Program { .. } | ComputeError::Window { .. } => {
                ("ProgramInvalid", "correct the program: its next version rules later epochs")
            }
            ComputeError::DuplicateDevice { .. } | ComputeError::NotConserved { .. } | ComputeError::Canonical(_) => {
                ("NotComputed", report)
            }
        },
        EpochError::Canonical(_) => ("NotComputed", report),
    })
}

/// What is known of a program's epochs in this run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet: what its status says stays.
    #[default]
    Unknown,
    /// They are closed when they are due.
    GoesOn,
    /// The next one is not.
    Blocked(Block),
}

impl Standing {
    /// The condition that the status shall have, and the Event of its change. A program that never was blocked has none.
    #[must_use]
    pub fn condition(
        &self,
        existing: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> (Option<Condition>, Option<Transition>) {
        let known = existing.iter().find(|condition| condition.type_ == EPOCH_BLOCKED);
        let say = match self {
            Self::Unknown => return (known.cloned(), None),
            Self::GoesOn if known.is_none() => return (None, None),
            Self::GoesOn => Say::new(EPOCH_BLOCKED, false, "GoesOn", "epochs are closed when they are due"),
            Self::Blocked(block) => Say::new(EPOCH_BLOCKED, true, block.reason, block.message.clone()),
        };
        let blocked = matches!(self, Self::Blocked(_));
        let told = (holds(existing, EPOCH_BLOCKED) != blocked).then(|| Transition {
            warning: blocked,
            reason: if blocked { EPOCH_BLOCKED } else { "EpochsGoOn" }.to_owned(),
            note: say.message.clone(),
        });
        (say.over(existing, generation, now), told)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

    use super::*;

    fn overflow() -> EpochError {
        ComputeError::Overflow { what: "a device's share" }.into()
    }

    #[test]
    fn a_block_names_epoch_reason_and_remedy_and_time_alone_is_none() {
        let block = Block::of(Some(7), &overflow()).unwrap();
        assert_eq!(block.reason, "Overflow");
        assert!(block.message.starts_with("epoch 7 cannot be closed: a device's share"), "{}", block.message);
        assert!(block.message.contains("lower the emission"), "{}", block.message);
        let order = ComputeError::Order { number: 9, after: Some(7) }.into();
        assert_eq!(Block::of(Some(9), &order).unwrap().reason, "PredecessorUnsettled");
        let refused = EpochError::ledger("CloseEpoch", tonic::Status::invalid_argument("epoch 3 overlaps"));
        assert!(Block::of(Some(4), &refused).unwrap().message.contains("epoch 3 overlaps"));
        let away = EpochError::ledger("CloseEpoch", tonic::Status::unavailable("away"));
        assert_eq!(Block::of(Some(4), &away), None);
    }

    #[test]
    fn it_is_told_once_and_cleared_when_it_goes_on() {
        let now = Timestamp(1_000_000);
        assert_eq!(Standing::GoesOn.condition(&[], Some(1), now), (None, None), "never blocked: no condition");
        let blocked = Standing::Blocked(Block::of(Some(7), &overflow()).unwrap());
        let (condition, told) = blocked.condition(&[], Some(1), now);
        let condition = condition.unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "Overflow"));
        let told = told.unwrap();
        assert!(told.warning && told.reason == "EpochBlocked" && told.note.contains("epoch 7"));

        let existing = [condition];
        assert_eq!(blocked.condition(&existing, Some(1), now).1, None, "one Event, however often it is tried");
        let (kept, told) = Standing::Unknown.condition(&existing, Some(1), now);
        assert_eq!((kept.as_ref(), told), (existing.first(), None), "a restart changes nothing");
        let (cleared, told) = Standing::GoesOn.condition(&existing, Some(1), now);
        assert_eq!(cleared.unwrap().status, "False");
        assert!(!told.unwrap().warning);
    }
}

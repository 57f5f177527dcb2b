//! Feature levels: what may be written so that the version before can still open the ledger.
//!
//! A version that brings new records reads them from the start and writes them only once a person has said that there is no way back
//! (`kubectl depin upgrade finalize`). Until then the version before opens the ledger as if nothing had happened; after it, versions that do not know
//! the level refuse it. The level stands in the log before the first record that needs it, so a refusal comes before anything that is not understood.

use depin_proto::v1;

use crate::{
    core::{Core, Journal},
    error::LedgerError,
    record::{Entry, LevelRecord},
    state::State,
};

/// The highest level whose records this version reads and writes. Level 1: all records so far.
pub const FEATURE_LEVEL: u32 = 1;

impl State {
    /// The level in use: what was finalized, and 1 where nothing was.
    pub(crate) fn level(&self) -> u32 {
        self.finalized.max(1)
    }

    /// Whether a program that knows levels up to `known` may open this ledger.
    pub(crate) fn understood(&self, known: u32) -> Result<(), LedgerError> {
        if self.level() <= known {
            return Ok(());
        }
        Err(LedgerError::Newer(format!("feature level {}; this version knows {known}", self.level())))
    }
}

/// Whether a record of level `needs` may be written at the level in use.
pub(crate) fn may_write(needs: u32, level: u32) -> Result<(), LedgerError> {
    if needs <= level { Ok(()) } else { Err(LedgerError::NotFinalized { needs, level }) }
}

impl<J: Journal> Core<J> {
    /// A person's word that no older version will come back: raises the level in use to what this version knows. Answers with it.
    pub(crate) fn finalize(&mut self, writer: Option<&v1::WriterToken>) -> Result<u32, LedgerError> {
        self.check_writer(writer)?;
        let level = self.settings.feature_level;
        if self.state.level() < level {
            self.put(Entry::Level(LevelRecord { level, at: self.now().0 }))?;
        }
        Ok(self.state.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finalized_is_not_written() {
        assert_eq!((may_write(1, 1), may_write(1, 2), may_write(2, 2)), (Ok(()), Ok(()), Ok(())));
        let refused = may_write(2, 1).unwrap_err();
        assert!(refused.to_string().contains("kubectl depin upgrade finalize"), "{refused}");
    }

    #[test]
    fn a_level_that_is_not_known_is_refused() {
        let state = State { finalized: 2, ..State::default() };
        assert!(state.understood(2).is_ok() && state.understood(3).is_ok());
        let refused = state.understood(1).unwrap_err();
        assert!(refused.to_string().contains("feature level 2; this version knows 1"), "{refused}");
        assert_eq!(State::default().level(), 1);
    }
}

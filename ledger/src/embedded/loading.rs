//! From the disk to memory: checkpoint or base, and the log behind it.

use bytes::Bytes;
use depin_log::{Cursor, Log, LogReader, Storage, checkpoint};

use super::disk::from_log;
use crate::{
    error::LedgerError,
    record::{Entry, TAG},
    snapshot,
    state::State,
};

/// Name of the checkpoints' files.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// Name of the files with the state before the log's front.
pub(crate) const BASE: &str = "base";

/// The state as of the log's end: from the newest whole checkpoint, or from the base, and the log behind it.
pub(crate) fn load_state(root: &dyn Storage, log: &Log, use_checkpoint: bool) -> Result<State, LedgerError> {
    let reader = log.reader();
    let mut state = Latest { root, reader: &reader, use_checkpoint }.start()?;
    let mut cursor = log.read_from(state.applied).map_err(from_log)?;
    while state.read(&mut cursor)? {}
    state.applied = log.end();
    Ok(state)
}

/// Where reading a log begins.
pub(crate) struct Latest<'a> {
    pub(crate) root: &'a dyn Storage,
    pub(crate) reader: &'a LogReader,
    pub(crate) use_checkpoint: bool,
}

impl Latest<'_> {
    /// The newest whole checkpoint, or the base.
    pub(crate) fn start(&self) -> Result<State, LedgerError> {
        let checkpoint = if self.use_checkpoint { self.checkpoint()? } else { None };
        match checkpoint.filter(|state| state.applied >= self.reader.front()) {
            Some(state) => Ok(state),
            None => load_base(self.root, self.reader.front()),
        }
    }

    fn checkpoint(&self) -> Result<Option<State>, LedgerError> {
        let loaded = checkpoint::load(self.root, CHECKPOINT, TAG).map_err(from_log)?;
        for damage in &loaded.damaged {
            tracing::warn!(%damage, "a checkpoint is damaged: reading the log instead");
        }
        let state = loaded.newest.and_then(|(_, bytes)| match snapshot::decode(bytes.into()) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(%error, "a checkpoint cannot be read: reading the log instead");
                None
            }
        });
        let end = self.reader.durable();
        match state {
            Some(ahead) if ahead.applied > end => {
                Err(LedgerError::Damaged(format!("the log ends at {end}, but {} was durable", ahead.applied)))
            }
            state => Ok(state),
        }
    }
}

impl State {
    /// Reads and applies the next record; false: there is none.
    pub(crate) fn read(&mut self, cursor: &mut Cursor) -> Result<bool, LedgerError> {
        let Some(record) = cursor.next_record().map_err(from_log)? else { return Ok(false) };
        let (position, next) = (record.position, record.next);
        let entry = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), position)?;
        self.apply(position, entry)?;
        self.applied = next;
        Ok(true)
    }
}

/// The state before the log's front.
pub(crate) fn load_base(root: &dyn Storage, front: u64) -> Result<State, LedgerError> {
    if front == 0 {
        return Ok(State::default());
    }
    let loaded = checkpoint::load(root, BASE, TAG).map_err(from_log)?;
    let (_, bytes) = loaded.newest.ok_or_else(|| {
        LedgerError::Damaged(format!("the log begins at {front} and the base of what lay before it is missing"))
    })?;
    let state = snapshot::decode(bytes.into())?;
    if state.applied < front {
        return Err(LedgerError::Damaged(format!("the base ends at {}, the log begins at {front}", state.applied)));
    }
    Ok(state)
}

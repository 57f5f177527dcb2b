//! From the disk to memory: checkpoint or base, and the log behind it.

use bytes::Bytes;
use depin_log::{Log, Storage, checkpoint};

use crate::{
    core::from_log,
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
    let mut state = None;
    if use_checkpoint {
        let loaded = checkpoint::load(root, CHECKPOINT, TAG).map_err(from_log)?;
        for damage in &loaded.damaged {
            tracing::warn!(%damage, "a checkpoint is damaged: reading the log instead");
        }
        state = loaded.newest.and_then(|(_, bytes)| match snapshot::decode(bytes.into()) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(%error, "a checkpoint cannot be read: reading the log instead");
                None
            }
        });
        if let Some(ahead) = state.as_ref().filter(|state| state.applied > log.end()) {
            let what = format!("the log ends at {}, but {} was durable", log.end(), ahead.applied);
            return Err(LedgerError::Damaged(what));
        }
    }
    let mut state = match state.filter(|state| state.applied >= log.front()) {
        Some(state) => state,
        None => load_base(root, log.front())?,
    };
    let mut cursor = log.read_from(state.applied).map_err(from_log)?;
    while let Some(record) = cursor.next_record().map_err(from_log)? {
        let entry = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), record.position)?;
        let next = record.next;
        state.apply(record.position, entry)?;
        state.applied = next;
    }
    state.applied = log.end();
    Ok(state)
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

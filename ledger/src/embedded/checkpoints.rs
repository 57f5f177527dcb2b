//! Checkpoints beside the writer, which never waits for one.
//!
//! A thread of its own reads what the writer made durable behind the newest checkpoint, as the next start would, and writes the state that
//! follows: the fold gives the same state as the writer's, so the writer's need be neither copied nor held still. It takes the memory of a
//! second state meanwhile. A reader sees only what is durable, so no checkpoint is ever ahead of the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use depin_log::{LogReader, Storage, checkpoint};

use super::{
    disk::from_log,
    loading::{CHECKPOINT, Latest},
};
use crate::{error::LedgerError, record::TAG, snapshot};

/// A checkpoint that is being written.
#[derive(Debug)]
pub(crate) struct Checkpointing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointing {
    /// Begins one of everything that is durable now.
    pub(crate) fn start(root: Arc<dyn Storage>, reader: LogReader) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            if let Err(error) = write(&*root, &reader, &stopped) {
                // Only time is lost: the next start reads more of the log.
                tracing::warn!(%error, "the checkpoint could not be written");
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Checkpointing {
    /// Two that write at once would write the same file: whoever begins another one waits for this one's end.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes checkpoints had panicked");
        }
    }
}

fn write(root: &dyn Storage, reader: &LogReader, stop: &AtomicBool) -> Result<(), LedgerError> {
    // Whoever stops it waits, so it looks after each long step; what it had done is lost, and the next one does it again.
    let stopped = || stop.load(Ordering::Relaxed);
    let mut state = Latest { root, reader, use_checkpoint: true }.start()?;
    let mut cursor = reader.read_from(state.applied).map_err(from_log)?;
    let until = reader.durable();
    while !stopped() && cursor.position() < until && state.read(&mut cursor)? {}
    if stopped() {
        return Ok(());
    }
    let bytes = snapshot::encode(&state);
    if !stopped() {
        checkpoint::write(root, CHECKPOINT, TAG, &bytes).map_err(from_log)?;
    }
    Ok(())
}

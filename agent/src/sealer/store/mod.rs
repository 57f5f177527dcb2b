//! The two logs together: spool and journal. All I/O of the sealer is here.
//!
//! Order of writes: a batch is synced before anyone is told; a seal's proofs and commit are synced before they are sent; what is
//! dropped is told in the journal before the spool is cut. A crash between any two of these repeats work, never loses or doubles a reading.

mod collect;
mod kept;
mod opening;
mod reached;
mod reserve;

use std::io;

use depin_domain::{ids::Digest, proofs::DropReason, time::Timestamp};
use depin_log::{Cursor, Damage, Log, LogError};

pub use collect::{Collected, Taken};
pub use kept::Answered;
pub use opening::{Found, Left};
use reached::Reached;
use reserve::Reserve;

use super::{
    clock,
    journal::{ENTRY, Entry, GivenUp, PendingDrop, State, add_drop},
};
use crate::spool::{Batch, LimitPolicy, Stamp};

const BATCH: u8 = 1;
const SPOOL_TAG: u32 = u32::from_le_bytes(*b"aspl");
const JOURNAL_TAG: u32 = u32::from_le_bytes(*b"ajrn");
/// What an agent keeps in reserve: a seal and a snapshot of the journal are a few megabytes each, and the journal gives back room by whole
/// files of [`StoreOptions::journal_segment`].
pub const RESERVE: u64 = 16 << 20;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Limit of the spool in bytes.
    pub limit: u64,
    /// What happens there.
    pub policy: LimitPolicy,
    /// Sealed proofs with a receipt but not yet in a backup are kept, the receipt with them, up to this many bytes.
    pub retained: u64,
    /// Readings of unapproved devices that are kept after they left the spool.
    pub parked: usize,
    /// Bytes of one of the journal's files; once more than that is no longer needed, a snapshot is written and the front removed.
    pub journal_segment: u64,
    /// Bytes of the disk that are kept for emptying the spool: [`RESERVE`] in an agent; 0: none.
    pub reserve: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            limit: 1 << 30,
            policy: LimitPolicy::StopAcknowledging,
            retained: 64 << 20,
            parked: 20_000,
            journal_segment: 4 << 20,
            reserve: 0,
        }
    }
}

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The spool's log.
    #[error("spool: {0}")]
    Spool(LogError),
    /// The journal's log.
    #[error("journal: {0}")]
    Journal(LogError),
    /// A record of the journal cannot be read.
    #[error("journal: the record at {position} is unreadable: {what}")]
    Unreadable {
        /// Where.
        position: u64,
        /// Why.
        what: String,
    },
    /// The spool ends before what the journal knows to have been taken from it.
    #[error(
        "the spool ends at {end}, but the journal knows of readings up to {taken}: it was removed or is older than the journal, and what came \
         now would be taken for what was sent; put the spool back, or remove spool and journal together"
    )]
    SpoolBehind {
        /// Where the spool ends.
        end: u64,
        /// Up to where readings were taken.
        taken: u64,
    },
}

/// Spool and journal.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    spool: Log,
    journal: Log,
    state: State,
    given_up: GivenUp,
    waiting: u64,
    oldest: Option<Timestamp>,
    /// Journal position of the newest snapshot.
    snapshot: u64,
    /// How far the spool has been looked through.
    reached: Reached,
    reserve: Reserve,
}

impl Store {
    fn taken(&self, model: &Digest, position: u64) -> bool {
        position < self.state.spool_front || self.state.cursors.get(model).is_some_and(|cursor| position < *cursor)
    }

    /// What the journal says now.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Bytes of the spool on disk.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// What was given up since the start.
    #[must_use]
    pub fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// Readings in the spool, not yet sealed.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// When the oldest waiting reading came.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.oldest.filter(|_| self.waiting > 0)
    }

    /// Whether a batch of this size fits. Under the policy that drops the oldest, it always does in the end; while the reserve of the disk
    /// is used up for emptying the spool, none does.
    #[must_use]
    pub fn has_room(&mut self, bytes: usize) -> bool {
        self.reserve.restore(self.spool.bytes(), self.waiting == 0);
        if self.reserve.is_spent() {
            return false;
        }
        self.options.policy == LimitPolicy::DropOldest || self.spool.bytes() + bytes as u64 <= self.options.limit
    }

    /// Makes a batch durable. After an error nothing of it counts; try [`Store::recover`] and then the same batch again.
    pub fn append(&mut self, record: &[u8], readings: u64, at: Timestamp) -> Result<(), StoreError> {
        if self.options.policy == LimitPolicy::DropOldest {
            self.drop_oldest(record.len() as u64)?;
        }
        self.spool.append(BATCH, record).map_err(StoreError::Spool)?;
        self.spool.sync().map_err(StoreError::Spool)?;
        self.waiting += readings;
        self.oldest = self.oldest().or(Some(at));
        Ok(())
    }

    /// After a failed write or sync: both logs are cut back to what is durable.
    pub fn recover(&mut self) -> Result<(), StoreError> {
        if self.spool.poison().is_some() {
            self.spool.reopen().map_err(StoreError::Spool)?;
        }
        if self.journal.poison().is_some() {
            self.journal.reopen().map_err(StoreError::Journal)?;
            self.state = State::default();
            self.fold(&mut Found::default())?;
            self.reached = Reached::default();
            if self.reserve.is_spent() {
                self.tidy()?;
            }
        }
        Ok(())
    }

    /// The disk is full, and what empties the spool needs room: the reserve is removed. Tells whether it was there.
    pub fn make_room(&mut self) -> bool {
        self.reserve.spend(self.spool.bytes())
    }

    /// A write to the journal; the first one for which there is no room finds more when it is tried again after [`Store::recover`].
    fn journaled<T>(&mut self, write: impl FnOnce(&mut Log) -> Result<T, LogError>) -> Result<T, StoreError> {
        write(&mut self.journal).map_err(|error| {
            if is_full(&error) {
                self.make_room();
            }
            StoreError::Journal(error)
        })
    }

    /// Gives up whole segments from the front until `bytes` fit.
    fn drop_oldest(&mut self, bytes: u64) -> Result<(), StoreError> {
        while self.spool.bytes() + bytes > self.options.limit {
            if self.spool.front() == self.spool.end() {
                return Ok(());
            }
            self.spool.roll().map_err(StoreError::Spool)?;
            let mut drops = Vec::new();
            let (front, lost) = self.first_segment(&mut drops)?;
            let entry = Entry::Dropped { drops, front };
            self.enter(entry)?;
            self.spool.truncate_front(front).map_err(StoreError::Spool)?;
            self.waiting = self.waiting.saturating_sub(lost);
            self.oldest = self.first_waiting()?;
        }
        Ok(())
    }

    /// Counts what waits in a sixteenth of the limit from the front on, and tells where that ends.
    fn first_segment(&mut self, drops: &mut Vec<PendingDrop>) -> Result<(u64, u64), StoreError> {
        let start = self.spool.front().max(self.state.spool_front);
        let mut cursor = self.spool.read_from(start).map_err(StoreError::Spool)?;
        let mut lost = 0;
        let mut end = self.spool.end();
        while let Some((position, batch)) = next_batch(&mut cursor, &mut Vec::new())? {
            if position > start && position - start >= self.options.limit / 16 {
                end = position;
                break;
            }
            for group in &batch.groups {
                if batch.models.get(group.model).is_none_or(|(digest, _)| self.taken(digest, position)) {
                    continue;
                }
                for reading in &group.readings {
                    add_drop(drops, PendingDrop::one(DropReason::LimitReached, reading.at));
                    lost += 1;
                }
            }
        }
        Ok((end, lost))
    }

    fn first_waiting(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut cursor = self.spool.read_from(self.spool.front()).map_err(StoreError::Spool)?;
        Ok(next_batch(&mut cursor, &mut Vec::new())?.map(|(_, batch)| batch.stamp.wall))
    }

    /// The agent's clock agreed with the gateway's.
    pub fn clock_agreed(&mut self, now: &Stamp) -> Result<(), StoreError> {
        let known = self.state.clocks.get(&now.boot);
        if known.is_none_or(|offset| offset.abs_diff(now.offset()) > clock::TOLERANCE_MS.unsigned_abs() / 10) {
            self.enter(Entry::Clock { boot: now.boot, offset: now.offset() })?;
        }
        Ok(())
    }

    /// Makes receipts durable; before the process ends.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.journaled(Log::sync).map(drop)
    }

    fn write(&mut self, entry: &Entry) -> Result<u64, StoreError> {
        let bytes = serde_json::to_vec(entry)
            .map_err(|error| StoreError::Unreadable { position: self.journal.end(), what: error.to_string() })?;
        self.journaled(|journal| journal.append(ENTRY, &bytes))
    }

    /// Writes an entry and takes it. Not synced: what a crash forgets is told again.
    fn note(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.write(&entry)?;
        self.state.apply(entry, &mut Vec::new());
        Ok(())
    }

    /// Writes and syncs an entry, then takes it.
    fn enter(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.write(&entry)?;
        self.sync()?;
        self.note_drops(&entry);
        self.state.apply(entry, &mut Vec::new());
        Ok(())
    }

    fn note_drops(&mut self, entry: &Entry) {
        match entry {
            Entry::Commit(commit) => self.given_up.note(&commit.drops),
            Entry::Dropped { drops, .. } => self.given_up.note(drops),
            _ => {}
        }
    }
}

fn is_full(error: &LogError) -> bool {
    matches!(error, LogError::Io { source, .. } if wants_room(source))
}

/// Whether the disk, or what of it may be used, is full.
pub(crate) fn wants_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The next readable batch and its position. Damaged and unreadable ones are passed over.
fn next_batch(cursor: &mut Cursor, damaged: &mut Vec<Damage>) -> Result<Option<(u64, Batch)>, StoreError> {
    loop {
        match cursor.next_record() {
            Ok(None) => return Ok(None),
            Ok(Some(record)) if record.kind == BATCH => match Batch::read(record.payload) {
                Ok(batch) => return Ok(Some((record.position, batch))),
                Err(error) => tracing::error!(position = record.position, %error, "a spool record is passed over"),
            },
            Ok(Some(record)) => tracing::error!(kind = record.kind, "a spool record of an unknown kind is passed over"),
            Err(LogError::Damaged(damage)) => damaged.push(damage),
            Err(error) => return Err(StoreError::Spool(error)),
        }
    }
}

//! The writer: append into memory, write and sync in groups, roll over segments, remove from the front.

use std::sync::Arc;

use crate::{
    cursor::{Cursor, LogReader, Shared},
    error::LogError,
    recovery::{self, Recovery},
    segment::{self, FRAME, HEADER, MARK},
    storage::{Storage, StorageFile, StorageLock},
};

const LOCK: &str = "lock";
const WRITE_AT: usize = 1 << 20;

/// What to do about damage that is not the torn end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Opening or reading fails with the place: for a record of money.
    Refuse,
    /// What is readable is read; what is not is reported and passed over: for a buffer.
    Skip,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the log is for: one of another tag is not opened.
    pub tag: u32,
    /// A segment is rolled over once it has this many bytes.
    pub segment_size: u64,
    /// The largest payload.
    pub max_record: usize,
    /// What to do about damage.
    pub on_damage: OnDamage,
}

impl Default for Options {
    fn default() -> Self {
        Self { tag: 0, segment_size: 64 << 20, max_record: 16 << 20, on_damage: OnDamage::Refuse }
    }
}

/// A log, open for writing.
#[derive(Debug)]
pub struct Log {
    options: Options,
    shared: Arc<Shared>,
    active: Box<dyn StorageFile>,
    active_base: u64,
    /// Framed, not yet written.
    buffer: Vec<u8>,
    end: u64,
    mark_due: bool,
    poison: Option<String>,
    _lock: Box<dyn StorageLock>,
}

impl Log {
    /// Opens the log in `storage`, making it where there is none, and says what was found.
    pub fn open(storage: Arc<dyn Storage>, options: Options) -> Result<(Self, Recovery), LogError> {
        let lock = storage.lock(LOCK).map_err(LogError::io("lock", LOCK))?;
        let lock = lock.ok_or_else(|| LogError::Locked(LOCK.to_owned()))?;
        let opened = recovery::open(&*storage, &options, None)?;
        let shared = Arc::new(Shared::new(storage, options, opened.segments, opened.recovery.end));
        let log = Self {
            options,
            shared,
            active: opened.active,
            active_base: opened.active_base,
            buffer: Vec::new(),
            end: opened.recovery.end,
            mark_due: true,
            poison: None,
            _lock: lock,
        };
        Ok((log, opened.recovery))
    }

    /// After a failure: cuts the files back to what is durable and goes on. The log stays poisoned where that fails too.
    pub fn reopen(&mut self) -> Result<Recovery, LogError> {
        let opened = recovery::open(self.shared.storage(), &self.options, Some(self.shared.durable()))?;
        self.shared.replace(opened.segments, opened.recovery.end);
        self.active = opened.active;
        self.active_base = opened.active_base;
        self.buffer.clear();
        self.end = opened.recovery.end;
        self.mark_due = true;
        self.poison = None;
        Ok(opened.recovery)
    }

    /// Appends a record and tells its position. It is durable once [`Log::sync`] returned.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<u64, LogError> {
        self.append_with(kind, |buffer| buffer.extend_from_slice(payload))
    }

    /// Appends a record whose payload `encode` appends to the buffer it is given.
    pub fn append_with(&mut self, kind: u8, encode: impl FnOnce(&mut Vec<u8>)) -> Result<u64, LogError> {
        self.check()?;
        if kind == MARK {
            return Err(LogError::ReservedKind);
        }
        let filled = self.end - self.active_base;
        if filled > 0 && filled + HEADER >= self.options.segment_size {
            self.roll()?;
        }
        let before = (self.buffer.len(), self.end, self.mark_due);
        if self.mark_due {
            let durable = self.shared.durable();
            self.frame(MARK, |buffer| buffer.extend_from_slice(&durable.to_le_bytes()));
            self.mark_due = false;
        }
        let position = self.end;
        let bytes = self.frame(kind, encode);
        if bytes > self.options.max_record {
            self.buffer.truncate(before.0);
            (self.end, self.mark_due) = (before.1, before.2);
            return Err(LogError::TooLarge { bytes, limit: self.options.max_record });
        }
        if self.buffer.len() >= WRITE_AT {
            self.write()?;
        }
        Ok(position)
    }

    /// Makes every appended record durable; readers see them from then on.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        self.check()?;
        if self.end > self.shared.durable() {
            self.write()?;
            let name = segment::name(self.active_base);
            let synced = self.active.sync_data().map_err(LogError::io("sync", &name));
            self.or_poison(synced)?;
            self.shared.set_durable(self.end);
            self.mark_due = true;
        }
        Ok(self.end)
    }

    /// Syncs, and writes that everything was: so that the next opening can tell damage from a torn end up to the last byte.
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        if self.mark_due && self.end > self.active_base {
            let durable = self.end;
            self.frame(MARK, |buffer| buffer.extend_from_slice(&durable.to_le_bytes()));
            self.sync()?;
        }
        Ok(())
    }

    /// Ends the active segment, so that [`Log::truncate_front`] may remove it later.
    pub fn roll(&mut self) -> Result<(), LogError> {
        self.sync()?;
        if self.end == self.active_base {
            return Ok(());
        }
        let made = recovery::create(self.shared.storage(), self.options.tag, self.end);
        self.active = self.or_poison(made)?;
        self.active_base = self.end;
        self.shared.add_segment(self.end);
        self.mark_due = true;
        Ok(())
    }

    /// Removes whole segments whose records all lie before `position`; never the active one. Tells where the log begins then.
    pub fn truncate_front(&mut self, position: u64) -> Result<u64, LogError> {
        self.check()?;
        while let Some(base) = self.shared.first_ending_by(position) {
            let name = segment::name(base);
            self.shared.remove_segment(base);
            self.shared.storage().remove(&name).map_err(LogError::io("remove", &name))?;
            // One at a time: a crash must leave no gap.
            self.shared.storage().sync_directory().map_err(LogError::io("sync the directory of", &name))?;
        }
        Ok(self.front())
    }

    /// Position after the last appended record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Position up to which everything is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// Position of the oldest record that is kept.
    #[must_use]
    pub fn front(&self) -> u64 {
        self.shared.front()
    }

    /// Bytes on disk and in the buffer.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end - self.front() + HEADER * self.shared.segment_count()
    }

    /// Why nothing is accepted, if so.
    #[must_use]
    pub fn poison(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// A handle for reading what is durable, from any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// Durable records from `position` on.
    pub fn read_from(&self, position: u64) -> Result<Cursor, LogError> {
        self.reader().read_from(position)
    }

    fn check(&self) -> Result<(), LogError> {
        self.poison.as_ref().map_or(Ok(()), |why| Err(LogError::Poisoned(why.clone())))
    }

    fn frame(&mut self, kind: u8, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = segment::begin_frame(&mut self.buffer, kind);
        encode(&mut self.buffer);
        segment::finish_frame(&mut self.buffer, start, self.end);
        let bytes = self.buffer.len() - start;
        self.end += bytes as u64;
        bytes - FRAME as usize
    }

    fn write(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let name = segment::name(self.active_base);
        let written = self.active.append(&self.buffer).map_err(LogError::io("write", &name));
        self.or_poison(written)?;
        self.buffer.clear();
        Ok(())
    }

    fn or_poison<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poison = Some(error.to_string());
        }
        result
    }
}

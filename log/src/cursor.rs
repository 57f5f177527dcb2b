//! Readers: records in order or at a position, only what is durable.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::{Damage, LogError},
    log::{OnDamage, Options},
    segment::{self, Frame, FrameReader, HEADER, MARK},
    storage::Storage,
};

/// What writer and readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    storage: Arc<dyn Storage>,
    options: Options,
    segments: RwLock<BTreeSet<u64>>,
    durable: AtomicU64,
}

impl Shared {
    pub(crate) fn new(storage: Arc<dyn Storage>, options: Options, segments: Vec<u64>, durable: u64) -> Self {
        let segments = RwLock::new(segments.into_iter().collect());
        Self { storage, options, segments, durable: AtomicU64::new(durable) }
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn set_durable(&self, position: u64) {
        self.durable.store(position, Ordering::Release);
    }

    fn with<T>(&self, read: impl FnOnce(&BTreeSet<u64>) -> T) -> T {
        read(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, write: impl FnOnce(&mut BTreeSet<u64>)) {
        write(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn replace(&self, segments: Vec<u64>, durable: u64) {
        self.change(|known| *known = segments.into_iter().collect());
        self.set_durable(durable);
    }

    pub(crate) fn add_segment(&self, base: u64) {
        self.change(|known| {
            known.insert(base);
        });
    }

    pub(crate) fn remove_segment(&self, base: u64) {
        self.change(|known| {
            known.remove(&base);
        });
    }

    pub(crate) fn front(&self) -> u64 {
        self.with(|known| known.first().copied().unwrap_or(0))
    }

    pub(crate) fn segment_count(&self) -> u64 {
        self.with(|known| known.len() as u64)
    }

    /// The first segment, if it is not the last and ends at or before `position`.
    pub(crate) fn first_ending_by(&self, position: u64) -> Option<u64> {
        self.with(|known| {
            let mut bases = known.iter();
            let (first, second) = (*bases.next()?, *bases.next()?);
            (second <= position).then_some(first)
        })
    }

    /// The segment that holds `position` and where it ends.
    fn holding(&self, position: u64) -> Option<(u64, u64)> {
        self.with(|known| {
            let base = *known.range(..=position).next_back()?;
            let end = known.range(position.saturating_add(1)..).next().copied().unwrap_or(u64::MAX);
            Some((base, end))
        })
    }
}

/// A handle for reading, for any thread, independent of the writer.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Position up to which everything is durable and readable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// Position of the oldest record that is kept.
    #[must_use]
    pub fn front(&self) -> u64 {
        self.shared.front()
    }

    /// Whether [`crate::Log::truncate_front`] at `position` would remove anything.
    #[must_use]
    pub fn ends_segment_by(&self, position: u64) -> bool {
        self.shared.first_ending_by(position).is_some()
    }

    /// Records from `position` on, which must be the position of a record, the front or the end.
    pub fn read_from(&self, position: u64) -> Result<Cursor, LogError> {
        let front = self.front();
        if position < front {
            return Err(LogError::Removed { position, front });
        }
        Ok(Cursor { shared: Arc::clone(&self.shared), position, segment: None })
    }

    /// The record at `position`.
    pub fn read(&self, position: u64) -> Result<Option<Record>, LogError> {
        Ok(self.read_from(position)?.next_record()?.map(|record| record.to_owned()))
    }
}

/// A record, its payload borrowed or owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<P = Vec<u8>> {
    /// Where it stands.
    pub position: u64,
    /// Where the next one stands.
    pub next: u64,
    /// What it is, by the caller's numbering.
    pub kind: u8,
    /// What it holds.
    pub payload: P,
}

impl Record<&[u8]> {
    fn to_owned(self) -> Record {
        Record { position: self.position, next: self.next, kind: self.kind, payload: self.payload.to_vec() }
    }
}

#[derive(Debug)]
struct OpenSegment {
    reader: FrameReader,
    /// Length of the file where the segment is not the active one.
    end: u64,
}

/// Reads records in order. At the end it says `None`, and may be asked again later.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    position: u64,
    segment: Option<OpenSegment>,
}

enum Step {
    End,
    Record(u8, u64),
    Mark(u64),
    Bad(Damage, u64),
}

impl Cursor {
    /// Where the next record is looked for.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next record. Under [`OnDamage::Skip`] the call after a `Damaged` error goes on behind the damage; else it repeats the error.
    pub fn next_record(&mut self) -> Result<Option<Record<&[u8]>>, LogError> {
        loop {
            match self.step()? {
                Step::End => return Ok(None),
                Step::Mark(next) => self.position = next,
                Step::Bad(damage, next) => {
                    if self.shared.options.on_damage == OnDamage::Skip {
                        self.position = next;
                    }
                    return Err(LogError::Damaged(damage));
                }
                Step::Record(kind, next) => {
                    let position = std::mem::replace(&mut self.position, next);
                    return self.payload(position, kind, next).map(Some);
                }
            }
        }
    }

    /// The frame that `step` found valid, from the window that still holds it.
    fn payload(&mut self, position: u64, kind: u8, next: u64) -> Result<Record<&[u8]>, LogError> {
        let Some(segment) = self.segment.as_mut() else { return Err(LogError::Removed { position, front: next }) };
        let base = segment.reader.base();
        let (offset, end) = (position - base + HEADER, next - base + HEADER);
        let payload = segment.reader.payload(offset, end).map_err(LogError::io("read", &segment::name(base)))?;
        Ok(Record { position, next, kind, payload })
    }

    fn step(&mut self) -> Result<Step, LogError> {
        let durable = self.shared.durable();
        if self.position >= durable {
            return Ok(Step::End);
        }
        let front = self.shared.front();
        let Some((base, segment_end)) = self.shared.holding(self.position) else {
            return Err(LogError::Removed { position: self.position, front });
        };
        let name = segment::name(base);
        if self.segment.as_ref().is_none_or(|open| open.reader.base() != base) {
            let file = self.shared.storage.open_read(&name).map_err(LogError::io("open", &name))?;
            let end = if segment_end == u64::MAX {
                u64::MAX
            } else {
                file.length().map_err(LogError::io("measure", &name))?
            };
            self.segment = Some(OpenSegment { reader: FrameReader::new(file, base), end });
        }
        let Some(open) = self.segment.as_mut() else { return Ok(Step::End) };
        let limit = (segment_end.min(durable) - base + HEADER).min(open.end);
        let offset = self.position - base + HEADER;
        let max_record = self.shared.options.max_record;
        let next = |end: u64| base + end - HEADER;
        let what = if offset >= limit {
            "the segment ends before the next one begins"
        } else {
            match open.reader.frame(offset, limit, max_record).map_err(LogError::io("read", &name))? {
                Frame::Valid { kind: MARK, end, .. } => return Ok(Step::Mark(next(end))),
                Frame::Valid { kind, end, .. } => return Ok(Step::Record(kind, next(end))),
                Frame::Invalid(what) => what,
            }
        };
        let behind = open.reader.resynchronize(offset, limit, max_record).map_err(LogError::io("read", &name))?;
        // Nothing valid follows in this segment: the next one is next.
        let resume = if behind >= limit { segment_end.min(durable) } else { next(behind) };
        let bytes = resume - self.position;
        let damage = Damage { file: name, offset, bytes, position: self.position, synced: true, what };
        Ok(Step::Bad(damage, resume))
    }
}

impl Iterator for Cursor {
    type Item = Result<Record, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().map(|record| record.map(Record::to_owned)).transpose()
    }
}

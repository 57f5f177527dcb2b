//! What opening a log finds: which segments there are, where the last valid record ends, what was cut off.

use std::collections::BTreeMap;

use crate::{
    error::{Damage, LogError},
    log::{OnDamage, Options},
    segment::{self, Frame, FrameReader, HEADER, HeaderCheck, MARK},
    storage::{Storage, StorageFile},
};

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Where the log begins now.
    pub front: u64,
    /// Where the next record goes.
    pub end: u64,
    /// The torn end that was cut off.
    pub cut_off: Option<Damage>,
    /// Damage that was found and left where it is (only under [`OnDamage::Skip`]).
    pub damaged: Vec<Damage>,
}

/// The state of the files after opening.
pub(crate) struct Opened {
    /// Bases of all segments.
    pub(crate) segments: Vec<u64>,
    pub(crate) active: Box<dyn StorageFile>,
    pub(crate) active_base: u64,
    pub(crate) recovery: Recovery,
}

/// Opens the files: checks headers and lengths of all segments, reads the last one wholly, cuts its torn end.
/// `durable`: what the caller knows to be durable, after a failed sync; later bytes are cut off then.
pub(crate) fn open(storage: &dyn Storage, options: &Options, durable: Option<u64>) -> Result<Opened, LogError> {
    let names = storage.list().map_err(LogError::io("list", "directory"))?;
    let mut lengths = BTreeMap::new();
    for base in names.iter().filter_map(|name| segment::base_of(name)) {
        let name = segment::name(base);
        let file = storage.open_read(&name).map_err(LogError::io("open", &name))?;
        lengths.insert(base, file.length().map_err(LogError::io("measure", &name))?);
    }
    remove_never_begun(storage, options, &mut lengths)?;
    let mut recovery = Recovery::default();
    let segments: Vec<u64> = lengths.keys().copied().collect();
    check_sealed(storage, options, &lengths, &mut recovery)?;
    let Some((&base, &length)) = lengths.last_key_value() else {
        let active = create(storage, options.tag, 0)?;
        return Ok(Opened { segments: vec![0], active, active_base: 0, recovery });
    };
    let tail = scan_tail(storage, options, base, length, &mut recovery)?;
    let active = settle(storage, options, base, length, tail, durable, &mut recovery)?;
    recovery.front = segments[0];
    Ok(Opened { segments, active, active_base: base, recovery })
}

/// Makes the segment that begins at `base`, durable with its header before any record goes in.
pub(crate) fn create(storage: &dyn Storage, tag: u32, base: u64) -> Result<Box<dyn StorageFile>, LogError> {
    let name = segment::name(base);
    let mut file = storage.create(&name).map_err(LogError::io("create", &name))?;
    file.append(&segment::header(tag, base)).map_err(LogError::io("write", &name))?;
    file.sync_data().map_err(LogError::io("sync", &name))?;
    storage.sync_directory().map_err(LogError::io("sync the directory of", &name))?;
    Ok(file)
}

/// A last segment that holds no record and no whole header was being made when the crash came.
fn remove_never_begun(
    storage: &dyn Storage,
    options: &Options,
    lengths: &mut BTreeMap<u64, u64>,
) -> Result<(), LogError> {
    let Some((&base, &length)) = lengths.last_key_value() else { return Ok(()) };
    if length > HEADER || read_header(storage, base)?.is_good(options.tag, base) {
        return Ok(());
    }
    let name = segment::name(base);
    storage.remove(&name).map_err(LogError::io("remove", &name))?;
    storage.sync_directory().map_err(LogError::io("sync the directory of", &name))?;
    lengths.remove(&base);
    Ok(())
}

struct HeaderBytes(Vec<u8>);

impl HeaderBytes {
    fn is_good(&self, tag: u32, base: u64) -> bool {
        segment::check_header(&self.0, tag, base) == HeaderCheck::Good
    }
}

fn read_header(storage: &dyn Storage, base: u64) -> Result<HeaderBytes, LogError> {
    let name = segment::name(base);
    let file = storage.open_read(&name).map_err(LogError::io("open", &name))?;
    let mut bytes = vec![0; HEADER as usize];
    let read = file.read_at(0, &mut bytes).map_err(LogError::io("read", &name))?;
    bytes.truncate(read);
    Ok(HeaderBytes(bytes))
}

fn found(options: &Options, recovery: &mut Recovery, damage: Damage) -> Result<(), LogError> {
    match options.on_damage {
        OnDamage::Refuse => Err(LogError::Damaged(damage)),
        OnDamage::Skip => {
            recovery.damaged.push(damage);
            Ok(())
        }
    }
}

/// Headers of all segments, and that each one ends where the next begins.
fn check_sealed(
    storage: &dyn Storage,
    options: &Options,
    lengths: &BTreeMap<u64, u64>,
    recovery: &mut Recovery,
) -> Result<(), LogError> {
    let mut expected: Option<(u64, u64)> = None;
    for (&base, &length) in lengths {
        let file = segment::name(base);
        match segment::check_header(&read_header(storage, base)?.0, options.tag, base) {
            HeaderCheck::Good => {}
            HeaderCheck::Foreign(what) => return Err(LogError::Foreign { file, what }),
            HeaderCheck::Damaged => {
                let what = "the segment's header does not fit its checksum";
                found(
                    options,
                    recovery,
                    Damage { file, offset: 0, bytes: HEADER, position: base, synced: true, what },
                )?;
            }
        }
        if let Some((before, end)) = expected.filter(|(_, end)| *end != base) {
            let what = "the segment does not end where the next one begins";
            let damage = Damage {
                file: segment::name(before),
                offset: end - before + HEADER,
                bytes: base.abs_diff(end),
                position: end,
                synced: true,
                what,
            };
            found(options, recovery, damage)?;
        }
        expected = Some((base, base + length.saturating_sub(HEADER)));
    }
    Ok(())
}

/// Offsets in the last segment.
struct Tail {
    /// After the last valid frame that may be kept.
    end: u64,
    /// Up to which everything was synced once, as its own marks tell; 0 where there is none: not even the header may be durable.
    marked: u64,
}

fn scan_tail(
    storage: &dyn Storage,
    options: &Options,
    base: u64,
    length: u64,
    recovery: &mut Recovery,
) -> Result<Tail, LogError> {
    let name = segment::name(base);
    let file = storage.open_read(&name).map_err(LogError::io("open", &name))?;
    let mut reader = FrameReader::new(file, base);
    let mut tail = Tail { end: HEADER, marked: 0 };
    let mut bad: Vec<(u64, u64, &'static str)> = Vec::new();
    let mut at = HEADER;
    while at < length {
        match reader.frame(at, length, options.max_record).map_err(LogError::io("read", &name))? {
            Frame::Valid { kind, payload, end } => {
                if kind == MARK {
                    tail.marked = tail.marked.max(segment::le64(payload).saturating_sub(base) + HEADER);
                }
                (at, tail.end) = (end, end);
            }
            Frame::Invalid(what) => {
                let next = reader.resynchronize(at, length, options.max_record).map_err(LogError::io("read", &name))?;
                bad.push((at, next, what));
                at = next;
            }
        }
    }
    for (offset, next, what) in bad {
        let synced = offset < tail.marked;
        let damage =
            Damage { file: name.clone(), offset, bytes: next - offset, position: base + offset - HEADER, synced, what };
        if synced || (options.on_damage == OnDamage::Skip && next < length) {
            found(options, recovery, damage)?;
        } else {
            // Nothing behind it was ever acknowledged: without a mark it is the end of the last, unsynced write.
            tail.end = offset;
            recovery.cut_off = Some(Damage { bytes: length - offset, ..damage });
            break;
        }
    }
    Ok(tail)
}

/// Cuts what is not kept and makes durable what is.
fn settle(
    storage: &dyn Storage,
    options: &Options,
    base: u64,
    length: u64,
    mut tail: Tail,
    durable: Option<u64>,
    recovery: &mut Recovery,
) -> Result<Box<dyn StorageFile>, LogError> {
    let name = segment::name(base);
    let mut file = storage.open(&name).map_err(LogError::io("open", &name))?;
    if length < HEADER {
        // Only under `Skip`: the header itself is gone.
        file.append(&vec![0; (HEADER - length) as usize]).map_err(LogError::io("write", &name))?;
    }
    if let Some(known) = durable.map(|known| known.saturating_sub(base) + HEADER) {
        if tail.end < known {
            let what = "the log ends before what was durable";
            let position = base + tail.end - HEADER;
            let damage =
                Damage { file: name.clone(), offset: tail.end, bytes: known - tail.end, position, synced: true, what };
            found(options, recovery, damage)?;
        }
        tail.end = tail.end.min(known);
    }
    if tail.end < length {
        file.truncate(tail.end).map_err(LogError::io("truncate", &name))?;
    }
    // Rewritten, because a sync that an earlier process saw fail may have left these bytes in memory only.
    let mut at = tail.marked.min(tail.end);
    let mut buffer = vec![0; 64 << 10];
    while at < tail.end {
        let want = buffer.len().min((tail.end - at) as usize);
        let read = file.read_at(at, &mut buffer[..want]).map_err(LogError::io("read", &name))?;
        if read == 0 {
            break;
        }
        file.rewrite(at, &buffer[..read]).map_err(LogError::io("write", &name))?;
        at += read as u64;
    }
    file.sync_data().map_err(LogError::io("sync", &name))?;
    storage.sync_directory().map_err(LogError::io("sync the directory of", &name))?;
    recovery.end = base + tail.end - HEADER;
    Ok(file)
}

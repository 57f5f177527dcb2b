//! A snapshot of memory in two alternating files: whichever is newest and whole wins, so a crash while writing one loses nothing.
//!
//! File `<name>.0` or `<name>.1` (format version 1), little-endian: magic `depinchk`, version u32, tag u32, generation u64, payload length u64,
//! CRC-32 of the payload u32, CRC-32 of the 36 bytes before u32, payload. Written to `<name>.tmp`, synced, renamed, directory synced.

use crate::{
    error::{Damage, LogError},
    segment::{le32, le64},
    storage::{self, Storage},
};

const MAGIC: &[u8; 8] = b"depinchk";
const VERSION: u32 = 1;
const HEADER: usize = 40;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The newest whole checkpoint: generation and payload.
    pub newest: Option<(u64, Vec<u8>)>,
    /// Files that are not whole.
    pub damaged: Vec<Damage>,
}

/// Writes `payload` as the next generation, over the older of the two files. Returns its generation.
pub fn write(storage: &dyn Storage, name: &str, tag: u32, payload: &[u8]) -> Result<u64, LogError> {
    let generations = [0, 1].map(|slot| generation(storage, &file_name(name, slot), tag));
    let newest = generations.iter().flatten().max().copied().unwrap_or(0);
    let slot = usize::from(generations[0].unwrap_or(0) > generations[1].unwrap_or(0));
    let mut header = Vec::with_capacity(HEADER);
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(tag.to_le_bytes());
    header.extend((newest + 1).to_le_bytes());
    header.extend((payload.len() as u64).to_le_bytes());
    header.extend(crc32fast::hash(payload).to_le_bytes());
    header.extend(crc32fast::hash(&header).to_le_bytes());
    replace(storage, &file_name(name, slot), &[&header, payload])?;
    Ok(newest + 1)
}

/// Writes a whole file so that it is either not there (or the old one), or complete.
pub fn replace(storage: &dyn Storage, name: &str, parts: &[&[u8]]) -> Result<(), LogError> {
    let temporary = format!("{name}.tmp");
    let exists = storage.list().map_err(LogError::io("list the directory of", name))?.contains(&temporary);
    if exists {
        storage.remove(&temporary).map_err(LogError::io("remove", &temporary))?;
    }
    let mut file = storage.create(&temporary).map_err(LogError::io("create", &temporary))?;
    for part in parts {
        file.append(part).map_err(LogError::io("write", &temporary))?;
    }
    file.sync_data().map_err(LogError::io("sync", &temporary))?;
    storage.rename(&temporary, name).map_err(LogError::io("rename", &temporary))?;
    storage.sync_directory().map_err(LogError::io("sync the directory of", name))
}

/// The newest whole checkpoint, and which files are not whole.
pub fn load(storage: &dyn Storage, name: &str, tag: u32) -> Result<Loaded, LogError> {
    let mut loaded = Loaded::default();
    let names = storage.list().map_err(LogError::io("list the directory of", name))?;
    for slot in [0, 1] {
        let file = file_name(name, slot);
        if !names.contains(&file) {
            continue;
        }
        let mut bytes = storage::read_all(storage, &file).map_err(LogError::io("read", &file))?;
        match parse(&bytes, tag) {
            Ok(generation) => {
                if loaded.newest.as_ref().is_none_or(|(newest, _)| *newest < generation) {
                    bytes.drain(..HEADER);
                    loaded.newest = Some((generation, bytes));
                }
            }
            Err(what) => {
                let bytes = bytes.len() as u64;
                loaded.damaged.push(Damage { file, offset: 0, bytes, position: 0, synced: true, what });
            }
        }
    }
    Ok(loaded)
}

fn file_name(name: &str, slot: usize) -> String {
    format!("{name}.{slot}")
}

fn generation(storage: &dyn Storage, file: &str, tag: u32) -> Option<u64> {
    parse(&storage::read_all(storage, file).ok()?, tag).ok()
}

fn parse(bytes: &[u8], tag: u32) -> Result<u64, &'static str> {
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err("the checkpoint's header is not whole");
    }
    if crc32fast::hash(&bytes[..36]) != le32(&bytes[36..]) {
        return Err("the checkpoint's header does not fit its checksum");
    }
    if le32(&bytes[8..]) != VERSION || le32(&bytes[12..]) != tag {
        return Err("the checkpoint is of another version or purpose");
    }
    let payload = &bytes[HEADER..];
    if le64(&bytes[24..]) != payload.len() as u64 || crc32fast::hash(payload) != le32(&bytes[32..]) {
        return Err("the checkpoint's payload does not fit its checksum");
    }
    Ok(le64(&bytes[16..]))
}

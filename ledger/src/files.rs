//! Immutable files beside the log: frozen statistics and epochs' results.
//!
//! Format: magic (8 bytes), version u32 little-endian, then frames of length u32, CRC-32 u32 and that many bytes. The log's record names
//! the file's SHA-256; the checksums let a reader stream without reading it twice. Version 2 is that of a result whose state takes several frames.

use std::sync::Arc;

use bytes::Bytes;
use depin_domain::ids::Digest;
use depin_log::{Storage, StorageFile};
use sha2::{Digest as _, Sha256};

use crate::{error::LedgerError, record::FileRecord};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pages of `StatisticsPage`.
    Statistics,
    /// Summary, state, then pages of `EpochLines`.
    Result,
    /// A result whose state is larger than a frame: summary, how many frames the state has (u32), these, then pages of `EpochLines`.
    LongResult,
    /// `ThinProof`s of removed segments.
    Thin,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Statistics => b"depinsta",
            Self::Result | Self::LongResult => b"depinres",
            Self::Thin => b"depinthn",
        }
    }

    fn version(self) -> u32 {
        if self == Self::LongResult { 2 } else { 1 }
    }
}

const HEADER: usize = 12;
const FRAME: usize = 8;
/// Most bytes of a frame: none larger is written, and none is read, so that damage does not take all memory.
pub(crate) const MAX_FRAME: usize = 64 << 20;
const WRITE_AT: usize = 1 << 20;

/// Where a program's files stand: names that any file system takes, whatever the program is called.
pub(crate) fn name(program: &str, number: u64, what: &str) -> String {
    let digest = Digest::of(program.as_bytes()).to_string();
    format!("{}-{number:010}-{what}", &digest[..16])
}

/// Writes a file frame by frame under a temporary name.
#[derive(Debug)]
pub(crate) struct Writer {
    storage: Arc<dyn Storage>,
    name: String,
    /// Absent: only the digest is wanted.
    file: Option<Box<dyn StorageFile>>,
    buffer: Vec<u8>,
    hash: Sha256,
    bytes: u64,
}

fn failed(operation: &str, name: &str, error: &std::io::Error) -> LedgerError {
    LedgerError::Unavailable(format!("{operation} {name}: {error}"))
}

impl Writer {
    pub(crate) fn create(storage: Arc<dyn Storage>, name: String, kind: Kind) -> Result<Self, LedgerError> {
        let temporary = format!("{name}.tmp");
        let names = storage.list().map_err(|error| failed("list for", &name, &error))?;
        if names.contains(&temporary) {
            storage.remove(&temporary).map_err(|error| failed("remove", &temporary, &error))?;
        }
        let file = storage.create(&temporary).map_err(|error| failed("create", &temporary, &error))?;
        Ok(Self { file: Some(file), ..Self::dry(storage, name, kind) })
    }

    /// Writes nothing and gives the same digest.
    pub(crate) fn dry(storage: Arc<dyn Storage>, name: String, kind: Kind) -> Self {
        let mut buffer = kind.magic().to_vec();
        buffer.extend(kind.version().to_le_bytes());
        Self { storage, name, file: None, buffer, hash: Sha256::new(), bytes: 0 }
    }

    pub(crate) fn frame(&mut self, payload: &[u8]) -> Result<(), LedgerError> {
        if payload.len() > MAX_FRAME {
            let (name, bytes) = (&self.name, payload.len());
            let message = format!("{name} would have a part of {bytes} bytes; {MAX_FRAME} can be read back");
            return Err(LedgerError::Invalid { field: "size", message });
        }
        self.buffer.extend((payload.len() as u32).to_le_bytes());
        self.buffer.extend(crc32fast::hash(payload).to_le_bytes());
        self.buffer.extend_from_slice(payload);
        if self.buffer.len() >= WRITE_AT { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LedgerError> {
        self.hash.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        if let Some(file) = &mut self.file {
            file.append(&self.buffer).map_err(|error| failed("write", &self.name, &error))?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Makes the file durable under its name.
    pub(crate) fn finish(mut self, number: u64) -> Result<FileRecord, LedgerError> {
        self.flush()?;
        if let Some(file) = &mut self.file {
            file.sync_data().map_err(|error| failed("sync", &self.name, &error))?;
            let temporary = format!("{}.tmp", self.name);
            self.storage.rename(&temporary, &self.name).map_err(|error| failed("rename", &temporary, &error))?;
            self.storage.sync_directory().map_err(|error| failed("sync the directory of", &self.name, &error))?;
        }
        let digest = Bytes::copy_from_slice(&self.hash.finalize());
        Ok(FileRecord { number, name: self.name, digest, bytes: self.bytes })
    }
}

/// Reads a file frame by frame.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Box<dyn StorageFile>,
    name: String,
    offset: u64,
    length: u64,
    hash: Sha256,
    /// What the file says that it holds: a long result is asked for as a result.
    pub(crate) kind: Kind,
}

impl Reader {
    pub(crate) fn open(storage: &dyn Storage, record: &FileRecord, kind: Kind) -> Result<Self, LedgerError> {
        let name = record.name.clone();
        let damaged = |what: &str| LedgerError::Damaged(format!("{name}: {what}"));
        let file = storage.open_read(&name).map_err(|error| damaged(&error.to_string()))?;
        let length = file.length().map_err(|error| damaged(&error.to_string()))?;
        if length != record.bytes {
            return Err(damaged(&format!("has {length} bytes, {} were written", record.bytes)));
        }
        let mut reader = Self { file, name: record.name.clone(), offset: 0, length, hash: Sha256::new(), kind };
        let header = reader.take(HEADER)?;
        let fits = |kind: Kind| header[..8] == kind.magic()[..] && header[8..] == kind.version().to_le_bytes();
        if kind == Kind::Result && fits(Kind::LongResult) {
            reader.kind = Kind::LongResult;
        } else if !fits(kind) {
            return Err(damaged("is of another kind or version"));
        }
        Ok(reader)
    }

    fn damaged(&self, what: &str) -> LedgerError {
        LedgerError::Damaged(format!("{} at offset {}: {what}", self.name, self.offset))
    }

    fn take(&mut self, want: usize) -> Result<Vec<u8>, LedgerError> {
        let mut bytes = vec![0; want];
        let read = self.file.read_at(self.offset, &mut bytes).map_err(|error| self.damaged(&error.to_string()))?;
        if read < want {
            return Err(self.damaged("is cut off"));
        }
        self.offset += want as u64;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    /// The next frame; `None` at the end.
    pub(crate) fn frame(&mut self) -> Result<Option<Bytes>, LedgerError> {
        if self.offset == self.length {
            return Ok(None);
        }
        let head = self.take(FRAME)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, crc) = (word(0) as usize, word(4));
        if length > MAX_FRAME {
            return Err(self.damaged("a frame's length is beyond the limit"));
        }
        let payload = self.take(length)?;
        if crc32fast::hash(&payload) != crc {
            return Err(self.damaged("a frame's checksum does not fit"));
        }
        Ok(Some(payload.into()))
    }

    /// Reads to the end and compares the digest.
    pub(crate) fn verify(mut self, record: &FileRecord) -> Result<(), LedgerError> {
        while self.frame()?.is_some() {}
        if self.hash.clone().finalize()[..] != record.digest[..] {
            return Err(self.damaged("has another digest than recorded"));
        }
        Ok(())
    }
}

//! Room on the disk that is kept for emptying the spool.
//!
//! To leave the spool a reading must first enter the journal, and both are on one disk, which the spool can fill. A file as large as sealing
//! needs is kept beside the journal: it is removed once there is no room for the journal, and made again once the spool has been
//! cut. While it is away the spool takes nothing, so that the room goes where it is meant to go.

use std::{io, sync::Arc};

use depin_log::Storage;

const NAME: &str = "reserve";
/// Written at once.
const PIECE: usize = 64 << 10;

/// The file, and whether it is there.
#[derive(Debug)]
pub(super) struct Reserve {
    storage: Arc<dyn Storage>,
    size: u64,
    /// Removed, or never made: then how large the spool was.
    spent_at: Option<u64>,
}

impl Reserve {
    /// A reserve of `size` bytes that is not there yet; with 0 none is kept, and whatever is on the disk is left as it is.
    pub(super) fn new(storage: Arc<dyn Storage>, size: u64) -> Self {
        Self { storage, size, spent_at: None }
    }

    /// Whether the spool must take nothing.
    pub(super) fn is_spent(&self) -> bool {
        self.spent_at.is_some()
    }

    /// Gives the room to whoever needs it now; tells whether there was any.
    pub(super) fn spend(&mut self, spool_bytes: u64) -> bool {
        if self.size == 0 || self.spent_at.is_some() {
            return false;
        }
        self.spent_at = Some(spool_bytes);
        match self.remove() {
            Ok(()) => tracing::warn!(
                bytes = self.size,
                "the disk is full: the reserve is given to emptying the spool, and nothing is acknowledged until it is back"
            ),
            Err(error) => tracing::error!(%error, "the disk is full, and the reserve cannot be removed"),
        }
        true
    }

    /// Makes it again once that leaves enough room: the spool is empty, or the reserve would fit twice, because the spool became so much
    /// shorter or because others gave room back.
    pub(super) fn restore(&mut self, spool_bytes: u64, spool_is_empty: bool) {
        let Some(then) = self.spent_at else { return };
        let shorter = spool_bytes + 2 * self.size <= then;
        let given_back = || self.storage.available().is_ok_and(|available| available >= 2 * self.size);
        if (spool_is_empty || shorter || given_back()) && self.make(spool_bytes).is_ok() {
            tracing::info!(bytes = self.size, "the reserve for emptying the spool is back");
        }
    }

    /// Makes the file, or what is missing of it. Where that fails nothing of it stays, and it counts as spent.
    pub(super) fn make(&mut self, spool_bytes: u64) -> io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        let made = self.write();
        self.spent_at = match &made {
            Ok(()) => None,
            Err(_) => {
                // What cannot be removed either is tried again with the rest.
                let _ = self.remove();
                Some(self.spent_at.unwrap_or(spool_bytes))
            }
        };
        made
    }

    fn write(&self) -> io::Result<()> {
        let mut file = match self.storage.create(NAME) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.storage.open(NAME)?,
            made => made?,
        };
        let mut length = file.length()?;
        let mut noise = Noise(length | 1);
        while length < self.size {
            let piece = noise.bytes(PIECE.min(usize::try_from(self.size - length).unwrap_or(PIECE)));
            file.append(&piece)?;
            length += piece.len() as u64;
        }
        file.sync_data()?;
        self.storage.sync_directory()
    }

    fn remove(&self) -> io::Result<()> {
        match self.storage.remove(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            // Many file systems give the blocks back only with this.
            Ok(()) => self.storage.sync_directory(),
        }
    }
}

/// Bytes that no file system compresses away (xorshift64).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

//! What the log asks of a disk: so that tests can take the disk away at any moment.

use std::{fmt, io, sync::Arc};

/// A directory of append-mostly files.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Names of the files in it, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new file; an existing one is an error.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Opens an existing file for reading and appending.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Opens an existing file for reading only.
    fn open_read(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Bytes that may still be written, as far as the file system tells.
    fn available(&self) -> io::Result<u64>;
    /// Takes the lock file `name`; `None` where another process holds it.
    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn StorageLock>>>;
    /// A directory within this one, made durably if it is not there.
    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>>;
}

/// Held until dropped.
pub trait StorageLock: Send + Sync + fmt::Debug {}

/// One file.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` after the file's end. After an error any part of it may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes over bytes that are there.
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn sync_data(&mut self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// The whole content of a file.
pub(crate) fn read_all(storage: &dyn Storage, name: &str) -> io::Result<Vec<u8>> {
    let file = storage.open_read(name)?;
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

//! Frozen statistics and results as files in the database, behind the storage that the rest of the ledger knows.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use depin_log::{Storage, StorageFile, StorageLock};
use tokio::runtime::Handle;

use super::connection::{Pool, failed};
use crate::error::LedgerError;

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "files of the database are written once and read")
}

/// A file in memory.
#[derive(Debug)]
struct Content {
    bytes: Arc<Vec<u8>>,
}

impl StorageFile for Content {
    fn append(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Err(unsupported())
    }

    fn rewrite(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(unsupported())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, _length: u64) -> io::Result<()> {
        Err(unsupported())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let length = buffer.len().min(self.bytes.len() - from);
        buffer[..length].copy_from_slice(&self.bytes[from..from + length]);
        Ok(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }
}

/// Files that a transaction makes, until it writes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Held {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // A poisoned lock still holds whole files or their beginnings; nobody reads them then.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them; none is held any more.
    pub(super) fn take(&self) -> BTreeMap<String, Vec<u8>> {
        std::mem::take(&mut *self.files())
    }
}

/// A file that is being made.
#[derive(Debug)]
struct Growing {
    held: Held,
    name: String,
}

impl StorageFile for Growing {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.held.files().entry(self.name.clone()).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn rewrite(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(unsupported())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, _length: u64) -> io::Result<()> {
        Err(unsupported())
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(unsupported())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.held.files().get(&self.name).map_or(0, |bytes| bytes.len() as u64))
    }
}

impl Storage for Held {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.files().insert(name.to_owned(), Vec::new());
        Ok(Box::new(Growing { held: self.clone(), name: name.to_owned() }))
    }

    fn open(&self, _name: &str) -> io::Result<Box<dyn StorageFile>> {
        Err(unsupported())
    }

    fn open_read(&self, _name: &str) -> io::Result<Box<dyn StorageFile>> {
        Err(unsupported())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let bytes = files.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, _name: &str) -> io::Result<Option<Box<dyn StorageLock>>> {
        Err(unsupported())
    }

    fn directory(&self, _name: &str) -> io::Result<Arc<dyn Storage>> {
        Err(unsupported())
    }
}

/// The files that are in the database. Reading blocks: it is for threads that may.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) runtime: Handle,
    pub(super) pool: Arc<Pool>,
}

impl Stored {
    /// A file's bytes.
    pub(super) async fn read(pool: &Pool, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        pool.with(async |client| {
            let known = client.query_opt("SELECT bytes FROM files WHERE name = $1", &[&name]).await;
            let Some(row) = known.map_err(|error| failed("look for a file", &error))? else { return Ok(None) };
            let mut bytes = Vec::with_capacity(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0));
            for number in 0_i32.. {
                let sql = "SELECT data FROM file_chunks WHERE name = $1 AND number = $2";
                let chunk = client.query_opt(sql, &[&name, &number]).await;
                match chunk.map_err(|error| failed("read a file", &error))? {
                    Some(row) => bytes.extend_from_slice(row.get(0)),
                    None => break,
                }
            }
            Ok(Some(bytes))
        })
        .await
    }
}

impl Storage for Stored {
    fn list(&self) -> io::Result<Vec<String>> {
        Err(unsupported())
    }

    fn create(&self, _name: &str) -> io::Result<Box<dyn StorageFile>> {
        Err(unsupported())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.open_read(name)
    }

    fn open_read(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let read = self.runtime.block_on(Self::read(&self.pool, name)).map_err(io::Error::other)?;
        let bytes = read.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Box::new(Content { bytes: Arc::new(bytes) }))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(unsupported())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(unsupported())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, _name: &str) -> io::Result<Option<Box<dyn StorageLock>>> {
        Err(unsupported())
    }

    fn directory(&self, _name: &str) -> io::Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

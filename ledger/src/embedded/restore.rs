//! A ledger made of copied files: the way back from a backup.
//!
//! A restore raises the ledger's incarnation, which fences every writer and tells agents to compare heads. A mark stands in the directory
//! from before its first file until the new incarnation is durable, and no ledger opens beside it: what a crash left half restored is no
//! older ledger.

use std::sync::Arc;

use depin_log::{Log, Storage, StorageFile, checkpoint};

use super::{
    EmbeddedLedger,
    backup::{DIRECTORIES, directory, unavailable},
    disk::{Core, from_log, log_options},
    loading::load_state,
};
use crate::{
    error::LedgerError,
    record::{Entry, IncarnationRecord},
    settings::{Clock, Settings},
};

/// Stands in a directory into which a restore has begun and has not ended.
const RESTORING: &str = "restoring";
/// Stands in a directory whose ledger was copied into a database.
const MIGRATED: &str = "migrated";

/// Refuses a directory in which a restore was cut short, and one whose ledger goes on in a database.
pub(crate) fn check_whole(root: &dyn Storage) -> Result<(), LedgerError> {
    let names = root.list().map_err(unavailable("list"))?;
    if names.iter().any(|name| name == MIGRATED) {
        return Err(LedgerError::Migrated);
    }
    if names.iter().any(|name| name == RESTORING) { Err(LedgerError::HalfRestored) } else { Ok(()) }
}

/// Says that the ledger in a directory goes on in a database: it is not opened any more.
pub(crate) fn mark_migrated(root: &dyn Storage) -> Result<(), LedgerError> {
    checkpoint::replace(root, MIGRATED, &[b"depin-gateway ledger migrate\n"]).map_err(from_log)
}

/// Whether there is no ledger in `root`, or only what a restore left that was cut short.
///
/// # Errors
/// Where it cannot be read.
pub fn is_empty(root: &Arc<dyn Storage>) -> Result<bool, LedgerError> {
    if check_whole(&**root) == Err(LedgerError::HalfRestored) {
        return Ok(true);
    }
    let names = directory(root, "log")?.list().map_err(unavailable("list log"))?;
    Ok(!names.iter().any(|name| name.ends_with(".seg")))
}

/// A restore under way: files are put into it, then it is finished.
#[derive(Debug)]
pub struct Restoration {
    target: Arc<dyn Storage>,
}

impl Restoration {
    /// Begins in `target`, which must be empty, or hold what an earlier restore left that was cut short: that is done anew.
    ///
    /// # Errors
    /// Where it holds a ledger, or cannot be written.
    pub fn begin(target: &Arc<dyn Storage>) -> Result<Self, LedgerError> {
        match check_whole(&**target) {
            Err(LedgerError::HalfRestored) => clear(target)?,
            whole => {
                whole?;
                if !is_empty(target)? {
                    let message = "holds a ledger: restore into an empty directory, and keep the old one".into();
                    return Err(LedgerError::Invalid { field: "target", message });
                }
                checkpoint::replace(&**target, RESTORING, &[b"depin-gateway ledger restore\n"]).map_err(from_log)?;
            }
        }
        Ok(Self { target: Arc::clone(target) })
    }

    /// A new file of the ledger.
    ///
    /// # Errors
    /// Where the directory is none of a ledger's, the name none of a file, or it cannot be made.
    pub fn create(&self, folder: &str, name: &str) -> Result<Restored, LedgerError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !DIRECTORIES.contains(&folder) || name.starts_with('.') || name.is_empty() || !name.bytes().all(safe) {
            return Err(LedgerError::Damaged(format!("{folder}/{name} of the backup is no file of a ledger")));
        }
        let storage = directory(&self.target, folder)?;
        let file = storage.create(name).map_err(unavailable(name))?;
        Ok(Restored { storage, file, name: name.to_owned() })
    }

    /// Reads the log up to `position`, which the files must reach, and begins the next incarnation, at least `floor`. Returns it.
    ///
    /// Every record's checksum is checked. Closing is held until every known chain has reported its head, or
    /// [`release`] says that those which are missing will not come.
    ///
    /// # Errors
    /// Where the files are no whole ledger, or it cannot be written.
    pub fn finish(self, position: u64, floor: u64, settings: &Settings, clock: &Clock) -> Result<u64, LedgerError> {
        let (mut log, _) = Log::open(directory(&self.target, "log")?, log_options(settings)).map_err(from_log)?;
        if log.end() < position {
            return Err(LedgerError::Damaged(format!("the backup's log ends at {}, not {position}", log.end())));
        }
        let state = load_state(&*self.target, &log, false)?;
        let now = clock.now().0;
        // The time in seconds makes two restores of one backup differ.
        let incarnation = (state.incarnation + 1).max(floor).max(u64::try_from(now / 1_000).unwrap_or(0));
        let entry = Entry::Incarnation(IncarnationRecord { incarnation, hold: true, at: now });
        log.append_with(entry.kind(), |buffer| entry.encode(buffer)).map_err(from_log)?;
        log.sync().map_err(from_log)?;
        log.close().map_err(from_log)?;
        self.target.remove(RESTORING).map_err(unavailable(RESTORING))?;
        self.target.sync_directory().map_err(unavailable("sync"))?;
        Ok(incarnation)
    }
}

/// A file that is being restored.
#[derive(Debug)]
pub struct Restored {
    storage: Arc<dyn Storage>,
    file: Box<dyn StorageFile>,
    name: String,
}

impl Restored {
    /// Writes what comes next.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), LedgerError> {
        self.file.append(bytes).map_err(unavailable(&self.name))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn finish(mut self) -> Result<(), LedgerError> {
        self.file.sync_data().map_err(unavailable(&self.name))?;
        self.storage.sync_directory().map_err(unavailable(&self.name))
    }
}

/// Removes what a restore that was cut short left; its mark stays.
fn clear(target: &Arc<dyn Storage>) -> Result<(), LedgerError> {
    for name in DIRECTORIES {
        let directory = directory(target, name)?;
        let ours = |file: &String| match name {
            "log" => file.contains(".seg"),
            "" => file.starts_with("base.") || file.starts_with("checkpoint."),
            _ => true,
        };
        for file in directory.list().map_err(unavailable("list"))?.iter().filter(|file| ours(file)) {
            directory.remove(file).map_err(unavailable(file))?;
        }
        directory.sync_directory().map_err(unavailable("sync"))?;
    }
    Ok(())
}

/// A person says that closing may go on after a restore, although not every chain has reported. The ledger in `storage` must be closed.
pub async fn release(storage: Arc<dyn Storage>, settings: Settings, clock: Clock) -> Result<u64, LedgerError> {
    let ledger = EmbeddedLedger::open(storage, settings, clock)?;
    let unreported = ledger.call(Core::release_held).await?;
    ledger.close();
    Ok(unreported)
}

//! What a backup copies, and how the ledger learns that it was copied. Where to and in what form is not the ledger's business.
//!
//! A snapshot names the log up to a position at which it was rolled over, and every file that records before that position name. All of
//! these but the base are immutable: a name is one content, as long as the ledger's incarnation stays.

use std::{collections::BTreeMap, sync::Arc};

use depin_log::Storage;

use super::{
    EmbeddedLedger,
    disk::{Core, from_log},
};
use crate::{
    error::LedgerError,
    record::{BackupRecord, Entry},
    state::State,
};

/// Everything before a position of a ledger that goes on meanwhile. No file of it goes away while this lives.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// When the ledger was made: tells it from another one.
    pub created: Option<i64>,
    /// Incarnation of the ledger.
    pub incarnation: u64,
    /// Everything before this position is in it.
    pub position: u64,
    /// The ledger's clock when the snapshot was taken.
    pub at: i64,
    /// All files, ascending.
    pub files: Vec<LedgerFile>,
    /// The ledger's directory.
    pub root: Arc<dyn Storage>,
    /// A backup or a compaction at a time.
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

/// A file of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerFile {
    /// Directory: `log`, `epochs`, `thin`, or empty for the ledger's own.
    pub directory: &'static str,
    /// Its name there.
    pub name: String,
}

impl LedgerFile {
    /// Whether its name has one content only, within an incarnation. The base is written again and again.
    #[must_use]
    pub fn is_immutable(&self) -> bool {
        !self.directory.is_empty()
    }
}

/// Directories of a ledger's files.
pub(crate) const DIRECTORIES: [&str; 4] = ["log", "epochs", "thin", ""];

pub(crate) fn unavailable(what: &str) -> impl Fn(std::io::Error) -> LedgerError {
    move |error| LedgerError::Unavailable(format!("{what}: {error}"))
}

pub(crate) fn directory(root: &Arc<dyn Storage>, name: &str) -> Result<Arc<dyn Storage>, LedgerError> {
    if name.is_empty() { Ok(Arc::clone(root)) } else { root.directory(name).map_err(unavailable(name)) }
}

impl EmbeddedLedger {
    /// What there is now, to be copied while the ledger goes on.
    pub async fn snapshot(&self) -> Result<Snapshot<'_>, LedgerError> {
        let _alone = self.upkeep().await;
        let (root, begun) = self.call(|core| Ok((Arc::clone(&core.journal.root), core.begin_backup()?))).await?;
        let Begun { created, incarnation, position, at, files } = begun;
        Ok(Snapshot { created, incarnation, position, at, files, root, _alone })
    }

    /// Everything before `position` lies in a backup, durably: it is archived.
    pub async fn backed_up(&self, position: u64) -> Result<(), LedgerError> {
        self.call(move |core| {
            let at = core.now().0;
            core.put(Entry::Backup(BackupRecord { position, at })).map(|_| ())
        })
        .await
    }
}

struct Begun {
    created: Option<i64>,
    incarnation: u64,
    position: u64,
    at: i64,
    files: Vec<LedgerFile>,
}

impl Core {
    /// Marks where the backup ends, and lists what is in it.
    fn begin_backup(&mut self) -> Result<Begun, LedgerError> {
        let at = self.now().0;
        self.put(Entry::Backup(BackupRecord { position: 0, at }))?;
        self.journal.log.roll().map_err(from_log)?;
        let position = self.journal.log.end();
        let mut files = Vec::new();
        let mut add = |directory, name| files.push(LedgerFile { directory, name });
        for name in self.journal.root.list().map_err(unavailable("list"))? {
            if self.journal.log.front() > 0 && name.starts_with("base.") && !name.ends_with(".tmp") {
                add("", name);
            }
        }
        for name in directory(&self.journal.root, "log")?.list().map_err(unavailable("list log"))? {
            let base = name.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok());
            if base.is_some_and(|base| base < position) {
                add("log", name);
            }
        }
        for name in directory(&self.journal.root, "thin")?.list().map_err(unavailable("list thin"))? {
            if !name.ends_with(".tmp") {
                add("thin", name);
            }
        }
        for epoch in self.state.epochs.values().flat_map(BTreeMap::values) {
            let result = epoch.result.as_ref().and_then(|result| result.file.as_ref());
            epoch.closed.frozen.iter().chain(result).for_each(|file| add("epochs", file.name.clone()));
        }
        files.sort();
        let State { incarnation, created, .. } = self.state;
        Ok(Begun { created, incarnation, position, at, files })
    }
}

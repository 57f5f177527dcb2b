//! Making a generation: objects first, the manifest last.
//!
//! What an earlier generation of the same ledger has is not written again. Which earlier one that is, nobody guesses: it is the newest of
//! this incarnation, or, right after a restore, the one that was restored. A store that holds another ledger, or more than this ledger
//! does (its disk was lost and nothing restored), is left as it is.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use depin_domain::{ids::Digest, time::Timestamp};
use depin_ledger::{EmbeddedLedger, LedgerError, LedgerFile, Snapshot};
use depin_log::Storage;
use depin_sealing::{Recipients, SealError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    generations::Generation,
    manifest::{File, Manifest, Part, SealedAuthority, Tip},
    pruning::Pruner,
    restoring::restored_from,
    store::{Store, StoreError},
};

/// A file is cut into objects of so many bytes: one is sent again whole, and held in memory whole.
const PART: usize = 16 << 20;
/// From so many files on that are new, what is written is noted in between, so that a first backup goes on where it was cut short.
const NOTED: usize = 32;

/// A backup cannot be made or restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The encryption.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store holds something that is not an earlier state of this ledger.
    #[error("{store} {why}: back up to another place (directory or prefix), or restore the ledger from this one")]
    Foreign {
        /// Which store.
        store: String,
        /// What it holds.
        why: String,
    },
}

/// The certificate authorities as the operator sealed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// An age file.
    pub sealed: Bytes,
    /// Tells contents apart: the operator's digest of what is public of them.
    pub content: Digest,
    /// To whom it is encrypted.
    pub recipients: Vec<String>,
}

/// What a backup did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which generation it made.
    pub generation: Generation,
    /// Files of the ledger.
    pub files: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes in the store of all that the generation names.
    pub stored: u64,
    /// Which authorities are in it.
    pub authority: Option<Digest>,
    /// Generations that were removed.
    pub pruned: u64,
    /// Why old generations could not be removed; they only take room.
    pub pruning: Option<StoreError>,
}

/// Makes generations in one store, one after the other.
#[derive(Debug)]
pub struct Backups {
    store: Arc<dyn Store>,
    recipients: Recipients,
    keep_ms: i64,
    part: usize,
    /// The newest generation that this process made.
    last: Option<Manifest>,
    pruner: Pruner,
}

/// Files that an interrupted backup had written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    created: Option<i64>,
    files: Vec<File>,
}

impl Backups {
    /// Encrypts to `recipients`; generations older than `keep_ms` are removed.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, recipients: Recipients, keep_ms: i64) -> Self {
        Self { store, recipients, keep_ms, part: PART, last: None, pruner: Pruner::default() }
    }

    /// With objects of at most so many bytes, for tests with small files.
    #[must_use]
    pub fn with_parts(mut self, bytes: usize) -> Self {
        self.part = bytes.max(1);
        self
    }

    /// Where to.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Makes a generation of all that the ledger has now, which is archived then.
    ///
    /// # Errors
    /// Where the store is another ledger's, or something fails: then what was there before is whole, and the next try goes on.
    pub async fn run(&mut self, ledger: &EmbeddedLedger, authority: Option<&Authority>) -> Result<Done, BackupError> {
        let snapshot = ledger.snapshot().await?;
        let generations = Generation::list(&*self.store).await?;
        let ancestor = self.ancestor(&snapshot, &generations).await?;
        let mut sent = 0;
        let mut manifest = Manifest {
            format: Manifest::format(),
            created: snapshot.created,
            incarnation: snapshot.incarnation,
            position: snapshot.position,
            at: snapshot.at,
            recipients: self.recipients.names().to_vec(),
            tip: tip(&snapshot).await?,
            authority: self.authority(&snapshot, authority, ancestor.as_ref(), &mut sent).await?,
            files: Vec::new(),
        };
        let known = self.known(ancestor, &generations).await?;
        manifest.files = self.files(&snapshot, known.map(|known| known.files).unwrap_or_default(), &mut sent).await?;
        let generation = Generation::of(&manifest);
        sent += self.publish(generation, &manifest).await?;
        ledger.backed_up(manifest.position).await?;
        let progress = self.progress_key(&snapshot);
        drop(snapshot);
        let pruned = self.prune(&manifest, &progress).await;
        let done = Done {
            generation,
            files: manifest.files.len() as u64,
            sent,
            stored: manifest.stored_bytes(),
            authority: manifest.authority.as_ref().map(|authority| authority.content),
            pruned: *pruned.as_ref().unwrap_or(&0),
            pruning: pruned.err(),
        };
        self.last = Some(manifest);
        Ok(done)
    }

    /// The earlier generation of which this ledger is a later state; none: nothing is known of what is there.
    async fn ancestor(
        &self,
        snapshot: &Snapshot<'_>,
        generations: &[Generation],
    ) -> Result<Option<Manifest>, BackupError> {
        let Some(newest) = generations.last() else { return Ok(None) };
        let foreign = |why: String| BackupError::Foreign { store: self.store.describe(), why };
        if (newest.incarnation, newest.position) > (snapshot.incarnation, snapshot.position) {
            return Err(foreign(format!(
                "holds a backup of incarnation {} up to {}, beyond this ledger's {} and {}",
                newest.incarnation, newest.position, snapshot.incarnation, snapshot.position
            )));
        }
        if let Some(last) = self.last.as_ref().filter(|last| Generation::of(last) == *newest) {
            return Ok(Some(last.clone()));
        }
        let manifest = newest.read(&*self.store).await?;
        if manifest.created != snapshot.created {
            return Err(foreign("holds a backup of another ledger".to_owned()));
        }
        let ancestor = if newest.incarnation == snapshot.incarnation {
            Some(manifest)
        } else {
            match restored_from(&snapshot.root)?.filter(|restored| generations.contains(restored)) {
                Some(restored) => Some(restored.read(&*self.store).await?),
                None => None,
            }
        };
        if let Some(tip) = ancestor.as_ref().and_then(|ancestor| Some((ancestor, ancestor.tip.as_ref()?))) {
            let (ancestor, tip) = tip;
            let bytes = ancestor.files.iter().find(|file| file.name == tip.name).map_or(0, |file| file.bytes);
            if !is_beginning(snapshot, tip, bytes).await? {
                return Err(foreign(format!("holds a backup of another ledger: log/{} differs", tip.name)));
            }
        }
        Ok(ancestor)
    }

    fn progress_key(&self, snapshot: &Snapshot<'_>) -> String {
        format!("progress/{:020}.{}.json", snapshot.incarnation, self.recipients.fingerprint())
    }

    /// The generation whose objects are not written again: for the same recipients. Where the ancestor is for others, an earlier one of its
    /// incarnation may be: its objects have the names that ours would have, and must stay as its manifest says.
    async fn known(
        &self,
        ancestor: Option<Manifest>,
        generations: &[Generation],
    ) -> Result<Option<Manifest>, BackupError> {
        let Some(ancestor) = ancestor else { return Ok(None) };
        let same = |manifest: &Manifest| manifest.recipients == self.recipients.names();
        if same(&ancestor) {
            return Ok(Some(ancestor));
        }
        for one in generations.iter().rev().filter(|one| one.incarnation == ancestor.incarnation) {
            match one.read(&*self.store).await {
                Ok(manifest) if same(&manifest) => return Ok(Some(manifest)),
                // One that is damaged names nothing that could be kept.
                Ok(_) | Err(StoreError::Damaged(_) | StoreError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// All files with the objects that hold them; what is new is written.
    async fn files(&self, snapshot: &Snapshot<'_>, known: Vec<File>, sent: &mut u64) -> Result<Vec<File>, BackupError> {
        let mut known: HashMap<_, _> =
            known.into_iter().map(|file| ((file.directory.clone(), file.name.clone()), file)).collect();
        let progress = self.progress_key(snapshot);
        let new = snapshot.files.len().saturating_sub(known.len());
        if new >= NOTED {
            for file in self.read_progress(&progress, snapshot.created).await? {
                known.insert((file.directory.clone(), file.name.clone()), file);
            }
        }
        let (mut files, mut unnoted) = (Vec::with_capacity(snapshot.files.len()), 0);
        for file in &snapshot.files {
            let bytes = length(snapshot, file).await?;
            let known = known.remove(&(file.directory.to_owned(), file.name.clone()));
            if let Some(known) = known.filter(|known| file.is_immutable() && known.bytes == bytes) {
                files.push(known);
                continue;
            }
            files.push(self.write_file(snapshot, file, bytes, sent).await?);
            unnoted += 1;
            if unnoted >= NOTED {
                let noted = Progress { created: snapshot.created, files: files.clone() };
                self.store.put(&progress, json(&noted)?, false).await?;
                unnoted = 0;
            }
        }
        Ok(files)
    }

    async fn read_progress(&self, key: &str, created: Option<i64>) -> Result<Vec<File>, BackupError> {
        let bytes = match self.store.get(key).await {
            Err(StoreError::NotFound(_)) => return Ok(Vec::new()),
            read => read?,
        };
        let noted: Progress =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged(format!("{key}: {error}")))?;
        Ok(if noted.created == created { noted.files } else { Vec::new() })
    }

    async fn write_file(
        &self,
        snapshot: &Snapshot<'_>,
        file: &LedgerFile,
        bytes: u64,
        sent: &mut u64,
    ) -> Result<File, BackupError> {
        let folder = if file.directory.is_empty() { "base" } else { file.directory };
        // What is written again and again has another name each time: a manifest's object stays as it is.
        let version = if file.is_immutable() { String::new() } else { format!(".{:020}", snapshot.position) };
        let incarnation = snapshot.incarnation;
        let stem = format!("data/{incarnation:020}.{}.{folder}.{}{version}", self.recipients.fingerprint(), file.name);
        let mut parts = Vec::new();
        for (number, offset) in (0..bytes).step_by(self.part).enumerate() {
            let wanted = usize::try_from(bytes - offset).unwrap_or(self.part).min(self.part);
            let plain = read(snapshot, file, offset, wanted).await?;
            let recipients = self.recipients.clone();
            let sealed = blocking(move || Ok(recipients.seal(&plain)?)).await?;
            parts.push(self.write_part(format!("{stem}.{number:05}"), sealed, sent).await?);
        }
        Ok(File { directory: file.directory.to_owned(), name: file.name.clone(), bytes, parts })
    }

    async fn write_part(&self, object: String, body: Bytes, sent: &mut u64) -> Result<Part, BackupError> {
        let (bytes, sha256) = (body.len() as u64, Digest::of(&body));
        self.store.put(&object, body, false).await?;
        *sent += bytes;
        Ok(Part { object, bytes, sha256 })
    }

    /// The sealed authority: what the ancestor has, unless the operator handed over another one.
    async fn authority(
        &self,
        snapshot: &Snapshot<'_>,
        given: Option<&Authority>,
        ancestor: Option<&Manifest>,
        sent: &mut u64,
    ) -> Result<Option<SealedAuthority>, BackupError> {
        let known = ancestor.and_then(|ancestor| ancestor.authority.clone());
        let Some(given) = given else { return Ok(known) };
        let same = |known: &SealedAuthority| known.content == given.content && known.recipients == given.recipients;
        if known.as_ref().is_some_and(same) {
            return Ok(known);
        }
        let object = format!("data/{:020}.sealed.authority.{:020}", snapshot.incarnation, snapshot.position);
        let object = self.write_part(object, given.sealed.clone(), sent).await?;
        let (content, recipients) = (given.content, given.recipients.clone());
        Ok(Some(SealedAuthority { object, content, recipients }))
    }

    /// Writes the manifest: with it the generation is there.
    async fn publish(&self, generation: Generation, manifest: &Manifest) -> Result<u64, BackupError> {
        let (key, body) = (generation.key(), Bytes::from(manifest.encode()?));
        match self.store.put(&key, body.clone(), true).await {
            Ok(()) => {}
            // The answer to an earlier try was lost.
            Err(StoreError::Exists(_)) if self.store.get(&key).await? == body => {}
            Err(StoreError::Exists(_)) => {
                let why = format!("holds another {key}: something else writes there");
                return Err(BackupError::Foreign { store: self.store.describe(), why });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(body.len() as u64)
    }

    async fn prune(&mut self, newest: &Manifest, progress: &str) -> Result<u64, StoreError> {
        self.store.remove(progress).await?;
        self.pruner.run(&*self.store, newest, Timestamp(newest.at), self.keep_ms).await
    }
}

fn json<T: Serialize>(value: &T) -> Result<Bytes, StoreError> {
    let bytes = depin_domain::canonical::to_vec(value);
    bytes.map(Bytes::from).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// Runs blocking `work` away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(LedgerError::Unavailable(format!("a backup's thread ended: {error}")).into()))
}

fn unreadable(file: &LedgerFile) -> impl Fn(std::io::Error) -> BackupError + Send + 'static {
    let name = format!("{}/{}", file.directory, file.name);
    move |error| LedgerError::Unavailable(format!("read {name}: {error}")).into()
}

fn folder(root: &Arc<dyn Storage>, name: &str) -> std::io::Result<Arc<dyn Storage>> {
    if name.is_empty() { Ok(Arc::clone(root)) } else { root.directory(name) }
}

async fn length(snapshot: &Snapshot<'_>, file: &LedgerFile) -> Result<u64, BackupError> {
    let (root, file) = (Arc::clone(&snapshot.root), file.clone());
    blocking(move || {
        let read = || folder(&root, file.directory)?.open_read(&file.name)?.length();
        read().map_err(unreadable(&file))
    })
    .await
}

async fn read(snapshot: &Snapshot<'_>, file: &LedgerFile, offset: u64, wanted: usize) -> Result<Vec<u8>, BackupError> {
    let (root, file) = (Arc::clone(&snapshot.root), file.clone());
    blocking(move || {
        let read = || {
            let mut buffer = vec![0; wanted];
            let read = folder(&root, file.directory)?.open_read(&file.name)?.read_at(offset, &mut buffer)?;
            if read < wanted { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(buffer) }
        };
        read().map_err(unreadable(&file))
    })
    .await
}

/// SHA-256 of the first bytes of a segment; none: it is shorter.
async fn digest(snapshot: &Snapshot<'_>, file: LedgerFile, bytes: u64) -> Result<Option<Digest>, BackupError> {
    if length(snapshot, &file).await? < bytes {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    for offset in (0..bytes).step_by(PART) {
        let wanted = usize::try_from(bytes - offset).unwrap_or(PART).min(PART);
        hash.update(&read(snapshot, &file, offset, wanted).await?);
    }
    Ok(Some(Digest(hash.finalize().into())))
}

async fn tip(snapshot: &Snapshot<'_>) -> Result<Option<Tip>, BackupError> {
    let Some(newest) = snapshot.files.iter().rfind(|file| file.directory == "log") else { return Ok(None) };
    let bytes = length(snapshot, newest).await?;
    let sha256 = digest(snapshot, newest.clone(), bytes).await?;
    Ok(sha256.map(|sha256| Tip { name: newest.name.clone(), sha256 }))
}

/// Whether the ledger's segment begins with what an earlier generation has of it. One that retention removed tells nothing.
async fn is_beginning(snapshot: &Snapshot<'_>, tip: &Tip, bytes: u64) -> Result<bool, BackupError> {
    let same = |file: &&LedgerFile| file.directory == "log" && file.name == tip.name;
    let Some(file) = snapshot.files.iter().find(same) else { return Ok(true) };
    Ok(digest(snapshot, file.clone(), bytes).await? == Some(tip.sha256))
}

//! Copies of the ledger in another directory, and the way back.
//!
//! A backup holds the log up to a position at which it was rolled over, and every file that records before that position name. Files are
//! immutable, so a later backup into the same directory copies only what is new. `manifest.json`, written last, lists all with digests:
//! without it there is no backup. A directory that holds more than this ledger does, or another ledger, is left alone. A restore raises the
//! ledger's incarnation, which fences every writer and tells agents to compare heads; a mark stands in the directory from before its first
//! file until the new incarnation is durable, and no ledger opens beside it: what a crash left half restored is no older ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use depin_domain::{canonical, ids::Digest};
use depin_log::{Log, Storage, checkpoint};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    core::{Core, from_log, log_options},
    embedded::EmbeddedLedger,
    error::LedgerError,
    loading::load_state,
    record::{BackupRecord, Entry, IncarnationRecord},
    settings::{Clock, Settings},
    state::State,
};

const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "depin.v1.LedgerBackup";
const COPY: usize = 1 << 20;
/// Stands in a directory into which a restore has begun and has not ended.
const RESTORING: &str = "restoring";

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupManifest {
    /// `depin.v1.LedgerBackup`.
    pub format: String,
    /// Incarnation of the ledger.
    pub incarnation: u64,
    /// When the ledger was made: tells it from another one.
    pub created: Option<i64>,
    /// Everything before this position is in it.
    pub position: u64,
    /// The ledger's clock when the backup began.
    pub at: i64,
    /// All files, ascending by directory and name.
    pub files: Vec<BackupFile>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupFile {
    /// Directory: `log`, `epochs`, `thin`, or empty.
    pub directory: String,
    /// Its name there.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: Digest,
}

fn unavailable(what: &str) -> impl Fn(std::io::Error) -> LedgerError {
    move |error| LedgerError::Unavailable(format!("{what}: {error}"))
}

fn directory(root: &Arc<dyn Storage>, name: &str) -> Result<Arc<dyn Storage>, LedgerError> {
    if name.is_empty() { Ok(Arc::clone(root)) } else { root.directory(name).map_err(unavailable(name)) }
}

impl EmbeddedLedger {
    /// Copies everything up to now into `target` while the ledger goes on. What it then holds is archived.
    pub async fn backup(&self, target: Arc<dyn Storage>) -> Result<BackupManifest, LedgerError> {
        let _alone = self.upkeep().await;
        let (root, begun) = self.call(|core| Ok((Arc::clone(&core.root), core.begin_backup()?))).await?;
        let copied = tokio::task::spawn_blocking(move || copy(&root, &target, begun)).await;
        let manifest =
            copied.map_err(|error| LedgerError::Unavailable(format!("the copying thread ended: {error}")))??;
        let position = manifest.position;
        self.call(move |core| {
            let at = core.now().0;
            core.put(Entry::Backup(BackupRecord { position, at })).map(|_| ())
        })
        .await?;
        Ok(manifest)
    }
}

impl Core {
    /// Marks where the backup ends, and lists what is in it (without digests).
    fn begin_backup(&mut self) -> Result<BackupManifest, LedgerError> {
        let at = self.now().0;
        self.put(Entry::Backup(BackupRecord { position: 0, at }))?;
        self.log.roll().map_err(from_log)?;
        let position = self.log.end();
        let mut files = Vec::new();
        let mut add = |directory: &str, name: String| {
            files.push(BackupFile { directory: directory.into(), name, bytes: 0, sha256: Digest::default() });
        };
        for name in self.root.list().map_err(unavailable("list"))? {
            if self.log.front() > 0 && name.starts_with("base.") && !name.ends_with(".tmp") {
                add("", name);
            }
        }
        for name in directory(&self.root, "log")?.list().map_err(unavailable("list log"))? {
            let base = name.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok());
            if base.is_some_and(|base| base < position) {
                add("log", name);
            }
        }
        for name in directory(&self.root, "thin")?.list().map_err(unavailable("list thin"))? {
            if !name.ends_with(".tmp") {
                add("thin", name);
            }
        }
        for epoch in self.state.epochs.values().flat_map(BTreeMap::values) {
            let result = epoch.result.as_ref().and_then(|result| result.file.as_ref());
            epoch.closed.frozen.iter().chain(result).for_each(|file| add("epochs", file.name.clone()));
        }
        files.sort_by(|a, b| (&a.directory, &a.name).cmp(&(&b.directory, &b.name)));
        let State { incarnation, created, .. } = self.state;
        Ok(BackupManifest { format: FORMAT.into(), incarnation, created, position, at, files })
    }
}

fn copy(
    root: &Arc<dyn Storage>,
    target: &Arc<dyn Storage>,
    mut manifest: BackupManifest,
) -> Result<BackupManifest, LedgerError> {
    let before = match read_manifest(target) {
        Ok(before) => Some(before),
        Err(LedgerError::NotFound(_)) => None,
        Err(error) => return Err(error),
    };
    if let Some(before) = &before {
        check_origin(root, before, &manifest)?;
    }
    for file in &mut manifest.files {
        let (from, to) = (directory(root, &file.directory)?, directory(target, &file.directory)?);
        let source = from.open_read(&file.name).map_err(unavailable(&file.name))?;
        file.bytes = source.length().map_err(unavailable(&file.name))?;
        let mut known = before.iter().flat_map(|before| &before.files);
        let known = known.find(|known| {
            (&known.directory, &known.name, known.bytes) == (&file.directory, &file.name, file.bytes)
                && !file.directory.is_empty()
        });
        file.sha256 = match known {
            Some(known) => known.sha256,
            None => copy_file(&*from, &*to, &file.name)?,
        };
    }
    let bytes = canonical::to_vec(&manifest).map_err(|error| LedgerError::Unavailable(error.to_string()))?;
    checkpoint::replace(&**target, MANIFEST, &[&bytes]).map_err(from_log)?;
    if let Some(before) = &before {
        remove_old(target, before, &manifest);
    }
    Ok(manifest)
}

/// The earlier backup in the target is one of this ledger: nothing that it holds is overwritten by something else.
fn check_origin(root: &Arc<dyn Storage>, before: &BackupManifest, now: &BackupManifest) -> Result<(), LedgerError> {
    let foreign = |why: String| LedgerError::Invalid {
        field: "target",
        message: format!("{why}: back up into another directory, or restore the ledger from this one"),
    };
    if before.position > now.position || before.incarnation > now.incarnation {
        return Err(foreign(format!(
            "holds a backup of incarnation {} up to {}, beyond this ledger's {} and {}",
            before.incarnation, before.position, now.incarnation, now.position
        )));
    }
    if before.created != now.created {
        return Err(foreign("holds a backup of another ledger".to_owned()));
    }
    let listed = |file: &&BackupFile| {
        let same = |other: &BackupFile| (&other.directory, &other.name) == (&file.directory, &file.name);
        file.directory == "log" && now.files.iter().any(same)
    };
    if let Some(file) = before.files.iter().find(listed)
        && digest_of(&*directory(root, &file.directory)?, &file.name)? != file.sha256
    {
        return Err(foreign(format!("holds a backup of another ledger: log/{} differs", file.name)));
    }
    Ok(())
}

/// Removes what retention removed from the ledger too; what cannot be removed now only takes room.
fn remove_old(target: &Arc<dyn Storage>, before: &BackupManifest, now: &BackupManifest) {
    let kept: BTreeSet<_> = now.files.iter().map(|file| (&file.directory, &file.name)).collect();
    for file in before.files.iter().filter(|file| !kept.contains(&(&file.directory, &file.name))) {
        let removed = directory(target, &file.directory)
            .and_then(|directory| directory.remove(&file.name).map_err(unavailable(&file.name)));
        if let Err(error) = removed {
            tracing::warn!(%error, "a file that the backup no longer needs could not be removed");
        }
    }
}

fn digest_of(storage: &dyn Storage, name: &str) -> Result<Digest, LedgerError> {
    let fail = unavailable(name);
    let source = storage.open_read(name).map_err(&fail)?;
    let (mut hash, mut buffer, mut offset) = (Sha256::new(), vec![0; COPY], 0);
    loop {
        let read = source.read_at(offset, &mut buffer).map_err(&fail)?;
        if read == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        hash.update(&buffer[..read]);
        offset += read as u64;
    }
}

fn copy_file(from: &dyn Storage, to: &dyn Storage, name: &str) -> Result<Digest, LedgerError> {
    let fail = unavailable(name);
    let source = from.open_read(name).map_err(&fail)?;
    let temporary = format!("{name}.tmp");
    if to.list().map_err(&fail)?.contains(&temporary) {
        to.remove(&temporary).map_err(&fail)?;
    }
    let mut copy = to.create(&temporary).map_err(&fail)?;
    let (mut hash, mut buffer, mut offset) = (Sha256::new(), vec![0; COPY], 0);
    loop {
        let read = source.read_at(offset, &mut buffer).map_err(&fail)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        copy.append(&buffer[..read]).map_err(&fail)?;
        offset += read as u64;
    }
    copy.sync_data().map_err(&fail)?;
    to.rename(&temporary, name).map_err(&fail)?;
    to.sync_directory().map_err(&fail)?;
    Ok(Digest(hash.finalize().into()))
}

/// What the backup in `source` holds.
pub fn read_manifest(source: &Arc<dyn Storage>) -> Result<BackupManifest, LedgerError> {
    let unreadable = unavailable(MANIFEST);
    let file = source.open_read(MANIFEST).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => LedgerError::NotFound(format!("{MANIFEST} of a backup ({error})")),
        _ => unreadable(error),
    })?;
    let length = usize::try_from(file.length().map_err(&unreadable)?).unwrap_or(0);
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes).map_err(&unreadable)?;
    let manifest: BackupManifest =
        serde_json::from_slice(&bytes).map_err(|error| LedgerError::Damaged(format!("{MANIFEST}: {error}")))?;
    if manifest.format != FORMAT {
        return Err(LedgerError::Damaged(format!("{MANIFEST}: format {:?} is not {FORMAT:?}", manifest.format)));
    }
    Ok(manifest)
}

/// Refuses a directory in which a restore was cut short.
pub(crate) fn check_whole(root: &dyn Storage) -> Result<(), LedgerError> {
    let names = root.list().map_err(unavailable("list"))?;
    if names.iter().any(|name| name == RESTORING) { Err(LedgerError::HalfRestored) } else { Ok(()) }
}

/// Makes a ledger in `target` of the backup in `source`. Returns its new incarnation. `target` must be empty, or hold what an earlier restore
/// left that was cut short: that is done anew.
///
/// Every file's digest and every record's checksum is checked. Closing is held until every known chain has reported its head, or
/// [`release`] says that those which are missing will not come.
pub fn restore(
    source: &Arc<dyn Storage>,
    target: &Arc<dyn Storage>,
    settings: &Settings,
    clock: &Clock,
) -> Result<u64, LedgerError> {
    let manifest = read_manifest(source)?;
    match check_whole(&**target) {
        Err(LedgerError::HalfRestored) => clear(target)?,
        whole => {
            whole?;
            check_empty(target)?;
            checkpoint::replace(&**target, RESTORING, &[b"depin-gateway ledger restore\n"]).map_err(from_log)?;
        }
    }
    for file in &manifest.files {
        let (from, to) = (directory(source, &file.directory)?, directory(target, &file.directory)?);
        if copy_file(&*from, &*to, &file.name)? != file.sha256 {
            return Err(LedgerError::Damaged(format!(
                "{}/{} of the backup: another digest",
                file.directory, file.name
            )));
        }
    }
    let incarnation = incarnate(target, &manifest, settings, clock)?;
    target.remove(RESTORING).map_err(unavailable(RESTORING))?;
    target.sync_directory().map_err(unavailable("sync"))?;
    Ok(incarnation)
}

fn check_empty(target: &Arc<dyn Storage>) -> Result<(), LedgerError> {
    let names = directory(target, "log")?.list().map_err(unavailable("list log"))?;
    if names.iter().any(|name| name.ends_with(".seg")) {
        let message = "holds a ledger: restore into an empty directory, and keep the old one".into();
        return Err(LedgerError::Invalid { field: "target", message });
    }
    Ok(())
}

/// Removes what a restore that was cut short left; its mark stays.
fn clear(target: &Arc<dyn Storage>) -> Result<(), LedgerError> {
    for name in ["log", "epochs", "thin", ""] {
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

/// The copied ledger's next incarnation, which holds closing.
fn incarnate(
    target: &Arc<dyn Storage>,
    manifest: &BackupManifest,
    settings: &Settings,
    clock: &Clock,
) -> Result<u64, LedgerError> {
    let (mut log, _) = Log::open(directory(target, "log")?, log_options(settings)).map_err(from_log)?;
    if log.end() < manifest.position {
        return Err(LedgerError::Damaged(format!("the backup's log ends at {}, not {}", log.end(), manifest.position)));
    }
    let state = load_state(&**target, &log, false)?;
    let now = clock.now().0;
    // The time in seconds makes two restores of one backup differ.
    let incarnation = (state.incarnation + 1).max(u64::try_from(now / 1_000).unwrap_or(0));
    let entry = Entry::Incarnation(IncarnationRecord { incarnation, hold: true, at: now });
    log.append_with(entry.kind(), |buffer| entry.encode(buffer)).map_err(from_log)?;
    log.sync().map_err(from_log)?;
    log.close().map_err(from_log)?;
    Ok(incarnation)
}

/// A person says that closing may go on after a restore, although not every chain has reported. The ledger in `storage` must be closed.
pub async fn release(storage: Arc<dyn Storage>, settings: Settings, clock: Clock) -> Result<u64, LedgerError> {
    let ledger = EmbeddedLedger::open(storage, settings, clock)?;
    let unreported = ledger.call(Core::release_held).await?;
    ledger.close();
    Ok(unreported)
}

//! The way back: a ledger made of a generation, in an empty directory.

use std::sync::Arc;

use bytes::Bytes;
use depin_domain::ids::Digest;
use depin_ledger::{Clock, LedgerError, Restoration, Settings};
use depin_log::{Storage, checkpoint};
use depin_sealing::{AuthorityBundle, Identities};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    generations::Generation,
    manifest::{File, Manifest, Part},
    store::{Store, StoreError},
    writing::{BackupError, blocking},
};

/// Names the generation of which a ledger was made, in its directory.
const RESTORED: &str = "restored-from";
/// Files that are fetched at once: many are small, and the way to the store may be long.
pub(crate) const AT_ONCE: usize = 4;

/// What a restore made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Of which generation.
    pub generation: Generation,
    /// The ledger's new incarnation.
    pub incarnation: u64,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Makes a ledger in `target` of a generation. `target` must be empty, or hold what an earlier restore left that was cut short: that is done
/// anew.
///
/// Every object's digest, every file's length and every record's checksum is checked.
///
/// # Errors
/// Where the generation is not whole, no identity opens it, `target` holds a ledger, or cannot be written.
pub async fn restore(
    store: &dyn Store,
    generation: Generation,
    identities: &Identities,
    target: &Arc<dyn Storage>,
    settings: &Settings,
    clock: &Clock,
) -> Result<Restored, BackupError> {
    let newest = Generation::list(store).await?.last().map_or(0, |newest| newest.incarnation);
    let manifest = generation.read(store).await?;
    // Before anything is touched: can it be read at all?
    if let Some(part) = manifest.files.iter().flat_map(|file| &file.parts).min_by_key(|part| part.bytes) {
        open(store, part, &manifest.recipients, identities).await?;
    }
    let begun = Arc::clone(target);
    let restoration = Arc::new(blocking(move || Ok(Restoration::begin(&begun)?)).await?);
    let files = stream::iter(manifest.files.iter().cloned());
    let fetched = files.map(|file| fetch(store, file, &manifest, identities, Arc::clone(&restoration)));
    let bytes = fetched.buffer_unordered(AT_ONCE).try_fold(0, async |sum, bytes| Ok(sum + bytes)).await?;
    let (target, settings, clock) = (Arc::clone(target), settings.clone(), clock.clone());
    let position = manifest.position;
    let incarnation = blocking(move || {
        let name = generation.key();
        checkpoint::replace(&*target, RESTORED, &[name.as_bytes()])
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let restoration = Arc::into_inner(restoration)
            .ok_or_else(|| LedgerError::Unavailable("a file is still being fetched".to_owned()))?;
        Ok(restoration.finish(position, newest + 1, &settings, &clock)?)
    })
    .await?;
    Ok(Restored { generation, incarnation, files: manifest.files.len() as u64, bytes })
}

async fn fetch(
    store: &dyn Store,
    file: File,
    manifest: &Manifest,
    identities: &Identities,
    restoration: Arc<Restoration>,
) -> Result<u64, BackupError> {
    let (directory, name) = (file.directory.clone(), file.name.clone());
    let mut copy = blocking(move || Ok(restoration.create(&directory, &name)?)).await?;
    let mut bytes = 0;
    for part in &file.parts {
        let plain = open(store, part, &manifest.recipients, identities).await?;
        bytes += plain.len() as u64;
        copy = blocking(move || {
            copy.append(&plain)?;
            Ok(copy)
        })
        .await?;
    }
    if bytes != file.bytes {
        let what = format!("{}/{} has {bytes} bytes, not {}", file.directory, file.name, file.bytes);
        return Err(StoreError::Damaged(what).into());
    }
    blocking(move || Ok(copy.finish()?)).await?;
    Ok(bytes)
}

/// An object, as it was stored.
pub(crate) async fn stored(store: &dyn Store, part: &Part) -> Result<Bytes, StoreError> {
    let body = store.get(&part.object).await?;
    if body.len() as u64 != part.bytes || Digest::of(&body) != part.sha256 {
        return Err(StoreError::Damaged(format!("{} has another digest", part.object)));
    }
    Ok(body)
}

pub(crate) async fn open(
    store: &dyn Store,
    part: &Part,
    recipients: &[String],
    identities: &Identities,
) -> Result<Bytes, BackupError> {
    let body = stored(store, part).await?;
    if recipients.is_empty() {
        return Ok(body);
    }
    let (what, recipients, identities) = (part.object.clone(), recipients.to_vec(), identities.clone());
    blocking(move || Ok(identities.open(&what, &body, &recipients).map(|plain| Bytes::copy_from_slice(&plain))?)).await
}

/// The generation of which the ledger in `root` was made; none: of none that it knows.
///
/// # Errors
/// Where the directory cannot be read.
pub fn restored_from(root: &Arc<dyn Storage>) -> Result<Option<Generation>, LedgerError> {
    let unreadable = |error: std::io::Error| LedgerError::Unavailable(format!("{RESTORED}: {error}"));
    let file = match root.open_read(RESTORED) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut bytes = vec![0; 1_024];
    let read = file.read_at(0, &mut bytes).map_err(unreadable)?;
    bytes.truncate(read);
    Ok(std::str::from_utf8(&bytes).ok().and_then(Generation::parse))
}

/// The certificate authorities that a generation has.
///
/// # Errors
/// Where it has none, or no identity opens it.
pub async fn unseal_authority(
    store: &dyn Store,
    generation: Generation,
    identities: &Identities,
) -> Result<AuthorityBundle, BackupError> {
    let manifest = generation.read(store).await?;
    let Some(authority) = &manifest.authority else {
        let what = "the certificate authority (the operator had no --backup-recipient then)".to_owned();
        return Err(StoreError::NotFound(what).into());
    };
    let sealed = stored(store, &authority.object).await?;
    Ok(AuthorityBundle::open(&sealed, &authority.recipients, identities)?)
}

//! Whether a generation would come back: all of it is read, and nothing is written.

use depin_sealing::Identities;
use futures::{StreamExt as _, stream};

use crate::{
    generations::Generation,
    manifest::{File, Manifest},
    restoring::{AT_ONCE, open, stored, unseal_authority},
    store::{Store, StoreError},
    writing::BackupError,
};

/// What was read, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects.
    pub objects: u64,
    /// Their bytes in the store.
    pub bytes: u64,
    /// Whether contents were looked into: nothing is encrypted, or an identity opens it.
    pub opened: bool,
    /// Whether the certificate authorities are in it.
    pub authority: bool,
    /// What is wrong, by object.
    pub findings: Vec<String>,
}

/// Reads every object of a generation and compares its digest. With identities, or where nothing is encrypted, files are put together and
/// their lengths compared, and the authorities opened.
///
/// # Errors
/// Where the store does not answer, the manifest cannot be read, or none of the given identities opens the generation.
pub async fn verify(
    store: &dyn Store,
    generation: Generation,
    identities: Option<&Identities>,
) -> Result<Verified, BackupError> {
    let manifest = generation.read(store).await?;
    let plain = Identities::default();
    let keys = if manifest.recipients.is_empty() { Some(&plain) } else { identities };
    let objects = manifest.objects().count() as u64;
    let authority = manifest.authority.is_some();
    let bytes = manifest.stored_bytes();
    let mut verified = Verified { objects, bytes, opened: keys.is_some(), authority, findings: Vec::new() };
    let looked = stream::iter(&manifest.files).map(|file| look(store, &manifest, file, keys));
    let mut looked = looked.buffered(AT_ONCE);
    while let Some(outcome) = looked.next().await {
        verified.note(outcome)?;
    }
    drop(looked);
    if let Some(authority) = &manifest.authority {
        verified.note(match identities {
            Some(identities) => unseal_authority(store, generation, identities).await.map(drop),
            None => stored(store, &authority.object).await.map(drop).map_err(BackupError::from),
        })?;
    }
    Ok(verified)
}

impl Verified {
    /// Damage is found; what keeps from looking ends it.
    fn note(&mut self, outcome: Result<(), BackupError>) -> Result<(), BackupError> {
        match outcome {
            Err(BackupError::Store(StoreError::Damaged(why) | StoreError::NotFound(why))) => self.findings.push(why),
            Err(BackupError::Seal(error @ depin_sealing::SealError::Damaged(..))) => {
                self.findings.push(error.to_string());
            }
            outcome => outcome?,
        }
        Ok(())
    }
}

async fn look(
    store: &dyn Store,
    manifest: &Manifest,
    file: &File,
    identities: Option<&Identities>,
) -> Result<(), BackupError> {
    let mut bytes = 0;
    for part in &file.parts {
        match identities {
            Some(identities) => bytes += open(store, part, &manifest.recipients, identities).await?.len() as u64,
            None => drop(stored(store, part).await?),
        }
    }
    if identities.is_some() && bytes != file.bytes {
        let what = format!("{}/{} has {bytes} bytes, not {}", file.directory, file.name, file.bytes);
        return Err(StoreError::Damaged(what).into());
    }
    Ok(())
}

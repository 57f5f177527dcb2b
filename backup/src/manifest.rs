//! What a generation holds. In clear: names, sizes, times, and digests of the objects as they are stored; never of what is in them.

use depin_domain::{canonical, ids::Digest};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// Format of a manifest.
const FORMAT: &str = "depin.v1.Backup";

/// A generation: everything of a ledger before a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// `depin.v1.Backup`.
    pub format: String,
    /// When the ledger was made: tells it from another one.
    pub created: Option<i64>,
    /// Incarnation of the ledger.
    pub incarnation: u64,
    /// Everything before this position is in it.
    pub position: u64,
    /// The ledger's clock when it began, milliseconds.
    pub at: i64,
    /// To whom objects are encrypted: `age1…`; none: they are not.
    pub recipients: Vec<String>,
    /// The newest whole segment, by which a copy that went its own way is told.
    pub tip: Option<Tip>,
    /// The certificate authorities, sealed by the operator.
    pub authority: Option<SealedAuthority>,
    /// All files of the ledger, ascending by directory and name.
    pub files: Vec<File>,
}

/// A file of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Directory: `log`, `epochs`, `thin`, or empty.
    pub directory: String,
    /// Its name there.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Objects whose contents, one after the other, are the file.
    pub parts: Vec<Part>,
}

/// An object as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its key.
    pub object: String,
    /// Its length as it is stored.
    pub bytes: u64,
    /// SHA-256 as it is stored.
    pub sha256: Digest,
}

/// A segment of the ledger's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tip {
    /// Its name.
    pub name: String,
    /// SHA-256 of its content.
    pub sha256: Digest,
}

/// The certificate authorities with their keys, as an age file: nobody who writes backups can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedAuthority {
    /// The age file.
    pub object: Part,
    /// Tells contents apart, and nothing else: the operator's digest of what is public of them.
    pub content: Digest,
    /// To whom it is encrypted.
    pub recipients: Vec<String>,
}

impl Manifest {
    /// An empty one of this format.
    pub(crate) fn format() -> String {
        FORMAT.to_owned()
    }

    /// Canonical JSON.
    ///
    /// # Errors
    /// Where it cannot be written, which does not happen.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        canonical::to_vec(self).map_err(|error| StoreError::Damaged(format!("manifest: {error}")))
    }

    /// Reads one.
    ///
    /// # Errors
    /// Where it is none, or of another format.
    pub(crate) fn decode(key: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| StoreError::Damaged(format!("{key}: {error}")))?;
        if manifest.format != FORMAT {
            return Err(StoreError::Damaged(format!("{key}: format {:?} is not {FORMAT:?}", manifest.format)));
        }
        Ok(manifest)
    }

    /// All objects that it names.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Part> {
        let parts = self.files.iter().flat_map(|file| &file.parts);
        parts.chain(self.authority.iter().map(|authority| &authority.object))
    }

    /// Bytes in the store of all that it names.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.objects().map(|part| part.bytes).sum()
    }
}

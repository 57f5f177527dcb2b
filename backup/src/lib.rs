//! Backups of the ledger: where they are kept, in what form, and the way back.
//!
//! A backup is a *generation*: a manifest that names objects. Objects are written first, never over one that a manifest names; the manifest
//! last, under a name of its own: what has no manifest is no backup, and a crash anywhere leaves the generations before as they were.
//! With recipients every object is an age file: whoever writes backups cannot read them. Names, sizes and times are in clear, contents are
//! not.

mod generations;
mod manifest;
mod options;
mod pruning;
mod restoring;
pub mod store;
mod verifying;
mod writing;

pub use depin_sealing::{AuthorityBundle, Identities, Recipients, SealError, is_sealed};
pub use generations::{Generation, choose};
pub use manifest::{File, Manifest, Part, SealedAuthority, Tip};
pub use options::{StoreOptions, duration, moment};
pub use restoring::{Restored, restore, restored_from, unseal_authority};
pub use store::{Store, StoreError, directory::DirectoryStore, faulty::FaultyStore};
pub use verifying::{Verified, verify};
pub use writing::{Authority, BackupError, Backups, Done};

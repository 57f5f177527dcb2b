//! A segmented append-only log that survives crashes and tells what it lost: the agent's spool and the ledger are made of it.
//!
//! # Promises
//! - What [`Log::sync`] returned for is read back after any crash, in order and unchanged, or the damage is reported with file and offset.
//! - What was appended but not synced may be there after a crash, wholly or up to some record; it is never there torn.
//! - After a failed write or sync the log is *poisoned*: everything that was not durable is given up, every further call fails until
//!   [`Log::reopen`], which cuts the file back to what is known to be durable. A failed sync is never retried in place, because the kernel may
//!   have dropped the pages and report success the next time.
//! - One writer: a lock file is held as long as the [`Log`] lives. Any number of [`LogReader`]s see what is durable, never more.
//!
//! # Files (format version 1)
//! A log is a directory of segments `<base, 20 digits>.seg`. A *position* is the count of frame bytes before a record since the log was made:
//! it grows, survives reopening, and leads to the record without an index. Integers are little-endian.
//!
//! Segment header, 32 bytes: magic `depinlog`, version u32, tag u32 (what the log is for), base position u64, zero u32, CRC-32 of the
//! 28 bytes before. It is synced, and its directory entry too, before the first record is written: a damaged header before records is damage,
//! a short one is a segment that was never begun.
//!
//! Frame, 9 bytes and the payload: payload length u32, CRC-32 u32 over (position u64, length, kind, payload), kind u8, payload. The position in
//! the checksum makes a frame valid at one place only. Kind 0 is a *mark*, written before the first record after a sync: payload u64, the position
//! up to which everything had been synced. An invalid frame that lies before a later mark's position is damage; one after every mark is
//! the torn end of the last, unsynced write, which is cut off (and told in [`Recovery`]).
//!
//! Only the last segment can be torn, because a segment is synced before its successor is made; a segment that ends before the base of the
//! next is damaged. What lies after the last mark when a log is opened is rewritten in place and synced, so that it is durable whatever
//! an earlier process had been told about it.

pub mod checkpoint;
mod cursor;
mod disk;
mod error;
mod log;
mod recovery;
mod segment;
pub mod simulated;
mod storage;

pub use cursor::{Cursor, LogReader, Record};
pub use disk::DiskStorage;
pub use error::{Damage, LogError};
pub use log::{Log, OnDamage, Options};
pub use recovery::Recovery;
pub use storage::{Storage, StorageFile, StorageLock};

//! What can go wrong with a log, each with file and place.

use std::{fmt, io};

/// Bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, by name in the log's directory.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes are unreadable from there on.
    pub bytes: u64,
    /// The position that stood there.
    pub position: u64,
    /// Whether these bytes had certainly been synced. False: they may as well be the torn end of a write that never was acknowledged.
    pub synced: bool,
    /// What is wrong with them.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at offset {}: {} ({} bytes, position {})",
            self.file, self.offset, self.what, self.bytes, self.position
        )
    }
}

/// An operation on a log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The storage failed.
    #[error("{operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes are damaged.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// The log is for something else, or of another version.
    #[error("{file}: {what}")]
    Foreign {
        /// The file.
        file: String,
        /// What it is and what was expected.
        what: String,
    },
    /// An earlier write or sync failed; nothing is accepted until the log is reopened.
    #[error("poisoned by an earlier failure ({0}); reopen it")]
    Poisoned(String),
    /// Another process has the log open.
    #[error("the log is in use by another process (lock file {0})")]
    Locked(String),
    /// A record is larger than the log takes.
    #[error("a record of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// The record's size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The kind is reserved for the log itself.
    #[error("kind 0 is reserved for the log itself")]
    ReservedKind,
    /// The position was removed from the front.
    #[error("position {position} was removed; the log begins at {front}")]
    Removed {
        /// What was asked for.
        position: u64,
        /// What is there.
        front: u64,
    },
}

impl LogError {
    pub(crate) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { operation, file, source }
    }
}

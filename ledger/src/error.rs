//! Why the ledger does not do what it was asked, each with what to do about it.

use depin_domain::time::Timestamp;

/// The ledger refuses or fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// It takes no writes now: disk full, read-only, failing, shutting down. Nothing of the request was recorded; try again.
    #[error("the ledger takes no writes now: {0}")]
    Unavailable(String),
    /// More is waiting than it can hold; try again.
    #[error("the ledger has more waiting than it can hold; try again")]
    Overloaded,
    /// Another writer has taken a newer token.
    #[error(
        "writer token {incarnation}/{token} is not the newest ({newest_incarnation}/{newest}): another operator leads"
    )]
    Fenced {
        /// Of the token that was shown.
        incarnation: u64,
        /// The token that was shown.
        token: u64,
        /// The ledger's incarnation.
        newest_incarnation: u64,
        /// The newest token.
        newest: u64,
    },
    /// The registry has gone on since the writer read it.
    #[error("the registry is at version {newest}, not {expected}: read it again")]
    VersionConflict {
        /// What the writer expected.
        expected: u64,
        /// What it is.
        newest: u64,
    },
    /// A registry change breaks a rule; none of the request's changes was written.
    #[error("changes[{index}]: {message}")]
    InvalidChange {
        /// Which of the request's changes.
        index: usize,
        /// Field, reason and remedy.
        message: String,
    },
    /// A field of the request is not what it must be.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Reason and remedy.
        message: String,
    },
    /// The epoch's end plus grace has not come, counted in time in which the ledger took proofs.
    #[error("epoch {program} {number} may be closed in {remaining_ms} ms of open time (end {}, grace {grace_ms} ms)", end.0)]
    TooEarly {
        /// The program.
        program: String,
        /// The epoch.
        number: u64,
        /// Its end.
        end: Timestamp,
        /// What was asked for.
        grace_ms: i64,
        /// How much longer the ledger must take proofs.
        remaining_ms: i64,
    },
    /// After a restore not every known chain has reported its head.
    #[error(
        "closing is held after a restore: {missing} known chains have not reported their heads; wait, or release it"
    )]
    ClosingHeld {
        /// How many have not.
        missing: u64,
    },
    /// It is not there.
    #[error("{0} is not in the ledger")]
    NotFound(String),
    /// Something else stands there already.
    #[error("{what} was recorded before with another result ({recorded}); the first one stands")]
    Conflict {
        /// What.
        what: String,
        /// Digest of what stands.
        recorded: String,
    },
    /// The inbox holds as many entries as it may.
    #[error("the inbox is full ({0}); try again later")]
    InboxFull(&'static str),
    /// A restore into the directory was cut short: what is there is no ledger, however much of one it looks.
    #[error("a restore into this directory was cut short: run the same `ledger restore` again, it begins anew")]
    HalfRestored,
    /// A newer version wrote it, and a person has finalized the upgrade: there is no way back to this one.
    #[error(
        "the ledger holds {0}: a newer version wrote it and its upgrade was finalized; run that version, or a newer one"
    )]
    Newer(String),
    /// A newer record is not written before the upgrade is finalized.
    #[error(
        "this needs feature level {needs}, the ledger is at {level}: run kubectl depin upgrade finalize once no older version is to come back"
    )]
    NotFinalized {
        /// What it needs.
        needs: u32,
        /// The level in use.
        level: u32,
    },
    /// The ledger of this directory goes on in a database: two of them would drift apart.
    #[error(
        "this ledger was migrated to PostgreSQL and goes on there: start the gateway with --postgresql-url-file; to give that up, remove the file `migrated`"
    )]
    Migrated,
    /// Bytes on the disk are not what was written.
    #[error("the ledger is damaged: {0}; restore it from a backup")]
    Damaged(String),
}

impl LedgerError {
    /// Whoever does its work has ended.
    pub(crate) fn stopped() -> Self {
        Self::Unavailable("the ledger is shutting down".into())
    }
}

//! How a ledger is kept, and whose clock it goes by.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use depin_domain::time::Timestamp;

use crate::level::FEATURE_LEVEL;

/// How an embedded ledger is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// Largest record: a proof as the gateway takes it, and some.
    pub max_record: usize,
    /// A checkpoint is written after so many bytes of log.
    pub checkpoint_bytes: u64,
    /// How far a reading may lie beyond the time of sealing.
    pub max_skew_ms: i64,
    /// True: only what is in a backup is told to be archived. False: what is durable is.
    pub backup_configured: bool,
    /// How long before its fleet's newest reading a reading still counts, and its statistics are kept, where no program pays for the fleet.
    pub unclaimed_ms: i64,
    /// At most so many bytes of the log are read for one page of proofs.
    pub scan_bytes: u64,
    /// How many requests may wait for the writer; more are told to come back.
    pub queue: usize,
    /// Idle time after which it is recorded that the ledger still takes proofs.
    pub idle_tick_ms: u64,
    /// Highest feature level that may be finalized, and be found in a ledger that is opened.
    pub feature_level: u32,
    /// A longer time between two such records is none in which proofs were taken: the machine slept, the disk hung, or the clock was set.
    pub max_pause_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            max_record: 32 << 20,
            checkpoint_bytes: 256 << 20,
            max_skew_ms: 60_000,
            backup_configured: false,
            unclaimed_ms: 14 * 24 * 3_600_000,
            scan_bytes: 64 << 20,
            queue: 4_096,
            idle_tick_ms: 5_000,
            feature_level: FEATURE_LEVEL,
            max_pause_ms: 15_000,
        }
    }
}

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock of the caller's making.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

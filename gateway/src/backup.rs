//! Backups of the running ledger, at the start and then again and again.
//!
//! What a backup holds is archived: receipts and chain heads say so, and agents forget it. A backup that fails is told, counted and tried
//! again sooner; proofs are taken meanwhile, and agents keep what is not archived.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use depin_ledger::{EmbeddedLedger, LedgerError};
use depin_log::{DiskStorage, Storage};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// A failed backup is tried again after so long, or after the usual time if that is shorter.
const RETRY: Duration = Duration::from_secs(60);

/// Where and how often the running ledger is backed up.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Backup")]
pub struct BackupOptions {
    /// Directory of the backup, on another disk. With it only what is backed up counts as archived; without it, what is durable does
    #[arg(long, env = "DEPIN_BACKUP_DIR", value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// How often: a number with s, m, h or d
    #[arg(long, env = "DEPIN_BACKUP_EVERY", default_value = "15m", value_name = "DURATION", value_parser = duration)]
    pub backup_every: Duration,
}

/// A number with its unit of time.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    match total {
        Some(total @ 1..=31_536_000) => Ok(Duration::from_secs(total)),
        _ => Err("is no duration from 1s to 365d: write a number with s, m, h or d, as in 15m".to_owned()),
    }
}

/// What is counted of backups.
#[derive(Clone, Debug, Default)]
struct Counted {
    newest: Gauge,
    position: Gauge,
    failures: Counter,
}

/// The task that backs up.
#[derive(Debug)]
pub(crate) struct Backups {
    ledger: Arc<EmbeddedLedger>,
    directory: PathBuf,
    every: Duration,
    clock: Clock,
    counted: Counted,
}

impl Backups {
    /// None: no backup is configured.
    pub(crate) fn new(
        ledger: &Arc<EmbeddedLedger>,
        options: &BackupOptions,
        clock: &Clock,
        metrics: &mut Registry,
    ) -> Option<Self> {
        let directory = options.backup_dir.clone()?;
        let counted = Counted::default();
        metrics.register(
            "depin_backup_newest_timestamp_seconds",
            "When the newest complete backup of this run began; 0: none yet",
            counted.newest.clone(),
        );
        metrics.register(
            "depin_backup_position",
            "Position in the log up to which the newest backup holds everything",
            counted.position.clone(),
        );
        metrics.register("depin_backup_failures", "Backups that failed", counted.failures.clone());
        let (ledger, clock) = (Arc::clone(ledger), clock.clone());
        Some(Self { ledger, directory, every: options.backup_every, clock, counted })
    }

    /// Backs up until `stop`; what is under way is finished first.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let pause = match self.once().await {
                Ok(position) => {
                    tracing::debug!(position, "the ledger was backed up");
                    self.every
                }
                Err(error) => {
                    self.counted.failures.inc();
                    let directory = self.directory.display();
                    tracing::error!(%error, %directory, "the ledger could not be backed up: nothing new is archived");
                    self.every.min(RETRY)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn once(&self) -> Result<u64, LedgerError> {
        let directory = self.directory.clone();
        let opened = tokio::task::spawn_blocking(move || DiskStorage::open(&directory)).await;
        let unavailable = |what: String| LedgerError::Unavailable(format!("open the backup's directory: {what}"));
        let target = opened.map_err(|error| unavailable(error.to_string()))?;
        let target: Arc<dyn Storage> = Arc::new(target.map_err(|error| unavailable(error.to_string()))?);
        let began = self.clock.now().0 / 1_000;
        let position = self.ledger.backup(target).await?.position;
        self.counted.newest.set(began);
        self.counted.position.set(i64::try_from(position).unwrap_or(i64::MAX));
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use depin_ledger::{Ledger as _, read_manifest};

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(std::time::Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn the_running_ledger_is_backed_up_again_and_again_and_a_failure_is_counted_and_mended() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("backup");
        // Something else stands where the backup shall go.
        std::fs::write(&target, "in the way").unwrap();
        let storage = Arc::new(DiskStorage::open(directory.path().join("data")).unwrap());
        let settings = depin_ledger::Settings { backup_configured: true, ..depin_ledger::Settings::default() };
        let ledger = EmbeddedLedger::open(storage, settings, depin_ledger::Clock::system()).unwrap();
        let ledger = Arc::new(ledger);
        let options = BackupOptions { backup_dir: Some(target.clone()), backup_every: Duration::from_millis(50) };
        let backups = Backups::new(&ledger, &options, &Clock::system(), &mut Registry::default()).unwrap();
        let (counted, stop) = (backups.counted.clone(), CancellationToken::new());
        let running = tokio::spawn(backups.run(stop.clone()));
        until("a failure is counted", || counted.failures.get() > 0).await;
        assert_eq!(counted.newest.get(), 0);
        std::fs::remove_file(&target).unwrap();
        until("a backup is made", || counted.position.get() > 0).await;
        let first = counted.position.get();
        ledger.acquire_writer("test".into()).await.unwrap();
        until("another backup is made", || counted.position.get() > first).await;
        stop.cancel();
        running.await.unwrap();
        let copy: Arc<dyn Storage> = Arc::new(DiskStorage::open(&target).unwrap());
        assert_eq!(i64::try_from(read_manifest(&copy).unwrap().position), Ok(counted.position.get()));
    }

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("1h", 3_600), ("1d", 86_400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0s", "5", "m", "1w", "-1s", "1.5h", "366d", "99999999999999999999d"] {
            assert!(duration(text).unwrap_err().contains("as in 15m"), "{text}");
        }
    }
}

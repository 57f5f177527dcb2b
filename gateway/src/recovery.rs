//! What a gateway does that starts with an empty data directory while a backup is configured.
//!
//! An empty volume beside an existing backup means that a volume was lost, or that the wrong one is mounted. A fresh ledger would take the
//! place of the one that was paid from, so it is never begun: the gateway restores where it was told to, and refuses else. Where the store
//! does not answer nobody knows, so it waits.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use depin_backup::{BackupError, Generation, Identities, Restored, Store, StoreError, choose, restore};
use depin_domain::time::Timestamp;
use depin_log::Storage;
use depin_telemetry::Check;
use tokio_util::sync::CancellationToken;

/// Pause before a store that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// What to do where the data directory is empty and a backup exists.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Restore")]
pub struct RecoveryOptions {
    /// Where the data directory is empty and there is a backup: restore it and start. Without this flag the gateway refuses to start then
    #[arg(long, env = "DEPIN_RESTORE_IF_EMPTY")]
    pub restore_if_empty: bool,
    /// File with the age identity that opens an encrypted backup; only needed for a restore
    #[arg(long, env = "DEPIN_RESTORE_IDENTITY", value_name = "FILE")]
    pub restore_identity: Option<PathBuf>,
    /// Restore the newest backup that is not younger, like 2026-11-23T08:00:00Z; default: the newest
    #[arg(long, env = "DEPIN_RESTORE_AT", value_name = "TIME", value_parser = depin_backup::moment)]
    pub restore_at: Option<Timestamp>,
}

impl RecoveryOptions {
    /// The keys that open a backup, where there are any.
    ///
    /// # Errors
    /// Where the file holds none.
    pub fn identities(&self) -> anyhow::Result<Identities> {
        Ok(self.restore_identity.as_deref().map(Identities::read).transpose()?.unwrap_or_default())
    }
}

/// Restores, or finds that there is nothing to restore. None: begin a fresh ledger, or stopped.
///
/// # Errors
/// Where there is a backup and it is not to be restored, or cannot be.
pub async fn recover(
    store: &dyn Store,
    data: &Arc<dyn Storage>,
    settings: &depin_ledger::Settings,
    options: &RecoveryOptions,
    ready: &Check,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Restored>> {
    loop {
        let tried = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            tried = attempt(store, data, settings, options, ready) => tried,
        };
        match tried {
            Ok(restored) => return Ok(restored),
            Err(Obstacle::Passing(error)) => {
                tracing::error!(%error, "the data directory is empty and nobody knows whether there is a backup: waiting");
                ready.fail(format!("the backup's store: {error}"));
            }
            Err(Obstacle::Final(error)) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

enum Obstacle {
    /// Another try may help.
    Passing(BackupError),
    Final(anyhow::Error),
}

impl From<BackupError> for Obstacle {
    fn from(error: BackupError) -> Self {
        match error {
            // Credentials, buckets and clocks are corrected outside, too, and the gateway need not be started anew for it.
            BackupError::Store(StoreError::Unavailable(_) | StoreError::Refused(_)) => Self::Passing(error),
            error => Self::Final(anyhow::Error::new(error).context("restore the backup")),
        }
    }
}

async fn attempt(
    store: &dyn Store,
    data: &Arc<dyn Storage>,
    settings: &depin_ledger::Settings,
    options: &RecoveryOptions,
    ready: &Check,
) -> Result<Option<Restored>, Obstacle> {
    let generations = Generation::list(store).await.map_err(BackupError::from)?;
    if generations.is_empty() {
        return Ok(None);
    }
    refuse_unasked(store, generations.len(), options).map_err(Obstacle::Final)?;
    let generation = choose(&generations, options.restore_at).map_err(BackupError::from)?;
    let identities = options.identities().map_err(Obstacle::Final)?;
    tracing::warn!(
        position = generation.position,
        at = generation.at.0,
        "the data directory is empty: restoring the backup"
    );
    ready.fail("restoring the backup");
    let clock = depin_ledger::Clock::system();
    let restored = restore(store, generation, &identities, data, settings, &clock).await?;
    tracing::warn!(
        incarnation = restored.incarnation,
        bytes = restored.bytes,
        "the backup is restored; agents resend what it lacks"
    );
    Ok(Some(restored))
}

fn refuse_unasked(store: &dyn Store, generations: usize, options: &RecoveryOptions) -> anyhow::Result<()> {
    if options.restore_if_empty {
        return Ok(());
    }
    bail!(
        "the data directory is empty, but {} holds {generations} backups of a ledger: a fresh one is not begun beside them. If the volume is \
         lost, start with --restore-if-empty (and --restore-identity FILE where backups are encrypted); if another volume was meant, mount \
         that; for a new network name another place for its backups",
        store.describe()
    )
}

/// Whether `data` has no ledger, or a restore into it was cut short.
///
/// # Errors
/// Where it cannot be read.
pub fn is_empty(data: &Arc<dyn Storage>) -> anyhow::Result<bool> {
    depin_ledger::is_empty(data).context("read --data-dir")
}

#[cfg(test)]
mod tests {
    use super::*;

    use depin_backup::{Backups, FaultyStore, Recipients};
    use depin_ledger::{Clock, EmbeddedLedger, Ledger as _, Settings};
    use depin_log::simulated::SimulatedStorage;
    use depin_telemetry::Health;

    async fn backed_up() -> (FaultyStore, u64) {
        let ledger =
            EmbeddedLedger::open(Arc::new(SimulatedStorage::new()), Settings::default(), Clock::system()).unwrap();
        ledger.acquire_writer("test".into()).await.unwrap();
        let store = FaultyStore::default();
        let done =
            Backups::new(Arc::new(store.clone()), Recipients::default(), i64::MAX).run(&ledger, None).await.unwrap();
        ledger.close();
        (store, done.generation.position)
    }

    async fn start(
        store: &FaultyStore,
        options: &RecoveryOptions,
    ) -> (Arc<dyn Storage>, anyhow::Result<Option<Restored>>) {
        let data: Arc<dyn Storage> = Arc::new(SimulatedStorage::new());
        assert!(is_empty(&data).unwrap());
        let (ready, stop) = (Health::new().readiness("restore"), CancellationToken::new());
        let outcome = recover(store, &data, &Settings::default(), options, &ready, &stop).await;
        (data, outcome)
    }

    #[tokio::test]
    async fn an_empty_directory_beside_a_backup_is_restored_or_refused_and_never_a_fresh_ledger() {
        let (store, position) = backed_up().await;
        let (data, refused) = start(&store, &RecoveryOptions::default()).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("--restore-if-empty") && refused.contains("fake store"), "{refused}");
        assert!(is_empty(&data).unwrap(), "nothing was written");
        let options = RecoveryOptions { restore_if_empty: true, ..RecoveryOptions::default() };
        let (data, restored) = start(&store, &options).await;
        assert_eq!(restored.unwrap().unwrap().generation.position, position);
        assert!(!is_empty(&data).unwrap());
        let early = RecoveryOptions { restore_at: Some(Timestamp(1)), ..options };
        assert!(format!("{:#}", start(&store, &early).await.1.unwrap_err()).contains("the oldest"));
        let (_, fresh) = start(&FaultyStore::default(), &RecoveryOptions::default()).await;
        assert_eq!(fresh.unwrap(), None, "there is no backup: a new network");
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_waited_for() {
        let (store, _) = backed_up().await;
        store.fail_at(0, false);
        let data: Arc<dyn Storage> = Arc::new(SimulatedStorage::new());
        // A change must have failed before reads fail.
        store.remove("data/none").await.unwrap_err();
        let health = Health::new();
        let (ready, stop) = (health.readiness("restore"), CancellationToken::new());
        let (settings, options) = (Settings::default(), RecoveryOptions::default());
        let waiting = recover(&store, &data, &settings, &options, &ready, &stop);
        tokio::pin!(waiting);
        tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.unwrap_err();
        assert!(format!("{:?}", health.ready()).contains("does not answer"));
        stop.cancel();
        assert_eq!(waiting.await.unwrap(), None);
    }
}

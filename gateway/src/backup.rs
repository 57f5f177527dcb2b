//! Backups of the running ledger, at the start, then again and again, and when somebody asks.
//!
//! What a backup holds is archived: receipts and chain heads say so, and agents forget it. A backup that fails is told, counted and tried
//! again sooner; proofs are taken meanwhile, and agents keep what is not archived.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Args;
use depin_backup::{Authority, BackupError, Done, Generation, Recipients, Store, StoreError, StoreOptions};
use depin_ledger::EmbeddedLedger;
use depin_proto::v1;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A failed backup is tried again after so long, or after the usual time if that is shorter.
const RETRY: Duration = Duration::from_secs(60);

/// Where, how often and for whom the running ledger is backed up.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Backup")]
pub struct BackupOptions {
    /// Where
    #[command(flatten)]
    pub store: StoreOptions,
    /// How often: a number with s, m, h or d
    #[arg(long, env = "DEPIN_BACKUP_EVERY", default_value = "15m", value_name = "DURATION", value_parser = depin_backup::duration)]
    pub backup_every: Duration,
    /// For how long generations are kept: all of the last day, then the last one of each day; the newest always
    #[arg(long, env = "DEPIN_BACKUP_KEEP", default_value = "30d", value_name = "DURATION", value_parser = depin_backup::duration)]
    pub backup_keep: Duration,
    /// Encrypt backups to this age public key (age1…); repeat it, or separate several by commas. The secret key stays out of the cluster
    #[arg(long, env = "DEPIN_BACKUP_RECIPIENT", value_delimiter = ',', value_name = "KEY")]
    pub backup_recipient: Vec<String>,
}

/// What is counted of backups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    newest: Gauge,
    position: Gauge,
    failures: Counter,
    stored: Gauge,
    sent: Counter,
    seconds: Gauge,
    authority: Gauge,
    pruning_failures: Counter,
}

impl Counted {
    /// Under their names in `metrics`.
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let counted = Self::default();
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
        metrics.register(
            "depin_backup_stored_bytes",
            "Bytes in the store of all that the newest backup names",
            counted.stored.clone(),
        );
        metrics.register("depin_backup_sent_bytes", "Bytes that backups sent to the store", counted.sent.clone());
        metrics.register("depin_backup_duration_seconds", "How long the newest backup took", counted.seconds.clone());
        metrics.register(
            "depin_backup_authority",
            "1 where the newest backup of this run has the certificate authority, encrypted",
            counted.authority.clone(),
        );
        metrics.register(
            "depin_backup_pruning_failures",
            "Times that old generations could not be removed from the store",
            counted.pruning_failures.clone(),
        );
        counted
    }

    fn done(&self, done: &Done, took: Duration) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.newest.set(done.generation.at.0 / 1_000);
        self.position.set(gauge(done.generation.position));
        self.stored.set(gauge(done.stored));
        self.sent.inc_by(done.sent);
        self.seconds.set(gauge(took.as_secs()));
        self.authority.set(i64::from(done.authority.is_some()));
    }
}

/// How backups go.
#[derive(Clone, Debug, Default)]
struct Progress {
    running: bool,
    /// The newest request for one that was served, whatever came of it.
    served: u64,
    newest: Option<(Done, Duration)>,
    /// Of the newest try.
    failure: Option<String>,
    failures: u64,
}

struct Shared {
    store: Arc<dyn Store>,
    recipients: Vec<String>,
    every: Duration,
    /// Requests for a backup so far.
    asked: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    authority: Mutex<Option<Authority>>,
}

/// Who backs the ledger up.
#[derive(Clone, Debug)]
pub enum Backups {
    /// Nobody: what is durable counts as archived.
    None,
    /// This gateway.
    Made(BackupControl),
    /// The database's own tools.
    OfDatabase,
}

/// Asks for backups, and tells how they go; clones share it.
#[derive(Clone)]
pub struct BackupControl(Arc<Shared>);

impl fmt::Debug for BackupControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackupControl").field(&self.0.store).finish()
    }
}

impl BackupControl {
    /// How backups go.
    #[must_use]
    pub fn status(&self) -> v1::BackupStatus {
        let progress = self.0.progress.borrow().clone();
        let authority = self.0.authority.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (authority, sealed_to) = match (authority, &progress.newest) {
            (Some(given), _) => (given.content.0.to_vec(), given.recipients),
            (None, Some((done, _))) => (done.authority.map(|digest| digest.0.to_vec()).unwrap_or_default(), Vec::new()),
            (None, None) => Default::default(),
        };
        v1::BackupStatus {
            configured: true,
            target: self.0.store.describe(),
            recipients: self.0.recipients.clone(),
            every_ms: i64::try_from(self.0.every.as_millis()).unwrap_or(i64::MAX),
            newest: progress.newest.map(|(done, took)| v1::BackupGeneration {
                files: done.files,
                stored_bytes: done.stored,
                sent_bytes: done.sent,
                took_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
                ..told(&done.generation)
            }),
            failure: progress.failure.unwrap_or_default(),
            failures: progress.failures,
            running: progress.running,
            authority_sha256: authority.into(),
            authority_recipients: sealed_to,
            position: 0,
            generations: Vec::new(),
            of_database: false,
        }
    }

    /// All generations that the store holds, oldest first.
    ///
    /// # Errors
    /// Where the store does not tell.
    pub async fn generations(&self) -> Result<Vec<v1::BackupGeneration>, StoreError> {
        Ok(Generation::list(&*self.0.store).await?.iter().map(told).collect())
    }

    /// Asks for a backup; what is under way does not count. With `wait` resolves when it is made.
    ///
    /// # Errors
    /// Why it could not be made.
    pub async fn request(&self, wait: bool) -> Result<(), String> {
        let mut mine = 0;
        self.0.asked.send_modify(|asked| {
            *asked += 1;
            mine = *asked;
        });
        if !wait {
            return Ok(());
        }
        let mut progress = self.0.progress.subscribe();
        let served = progress.wait_for(|progress| progress.served >= mine).await;
        let failure = served.map_err(|_| "the gateway stops".to_owned())?.failure.clone();
        failure.map_or(Ok(()), Err)
    }

    /// Puts the sealed authority into every backup from now on.
    pub fn keep(&self, authority: Authority) {
        *self.0.authority.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority);
    }
}

fn told(generation: &Generation) -> v1::BackupGeneration {
    v1::BackupGeneration {
        incarnation: generation.incarnation,
        position: generation.position,
        at: generation.at.0,
        ..Default::default()
    }
}

/// The task that backs up.
#[derive(Debug)]
pub struct BackupTask {
    ledger: Arc<EmbeddedLedger>,
    backups: depin_backup::Backups,
    control: BackupControl,
    counted: Counted,
}

impl BackupTask {
    /// Backs `ledger` up to `store`.
    ///
    /// # Errors
    /// Where a recipient is none.
    pub fn new(
        ledger: &Arc<EmbeddedLedger>,
        store: Arc<dyn Store>,
        options: &BackupOptions,
        metrics: &mut Registry,
    ) -> Result<Self, BackupError> {
        let recipients = Recipients::parse(&options.backup_recipient)?;
        let keep = i64::try_from(options.backup_keep.as_millis()).unwrap_or(i64::MAX);
        let shared = Shared {
            store: Arc::clone(&store),
            recipients: recipients.names().to_vec(),
            every: options.backup_every,
            asked: watch::Sender::new(0),
            progress: watch::Sender::new(Progress::default()),
            authority: Mutex::default(),
        };
        Ok(Self {
            ledger: Arc::clone(ledger),
            backups: depin_backup::Backups::new(store, recipients, keep),
            control: BackupControl(Arc::new(shared)),
            counted: Counted::register(metrics),
        })
    }

    /// What asks it.
    #[must_use]
    pub fn control(&self) -> BackupControl {
        self.control.clone()
    }

    /// Backs up until `stop`; what is under way is given up, and goes on with the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.control.0);
        let mut asked = shared.asked.subscribe();
        loop {
            let request = *asked.borrow_and_update();
            shared.progress.send_modify(|progress| progress.running = true);
            let went = tokio::select! {
                () = stop.cancelled() => return,
                went = self.once(request) => went,
            };
            let pause = if went { shared.every } else { shared.every.min(RETRY) };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                changed = asked.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One backup, for the requests up to this one. Whether it was made.
    async fn once(&mut self, request: u64) -> bool {
        let began = Instant::now();
        let authority = self.control.0.authority.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let made = self.backups.run(&self.ledger, authority.as_ref()).await;
        let went = made.is_ok();
        let mut progress = self.control.0.progress.borrow().clone();
        progress.running = false;
        progress.served = request;
        match made {
            Ok(done) => {
                let took = began.elapsed();
                self.counted.done(&done, took);
                if let Some(error) = &done.pruning {
                    self.counted.pruning_failures.inc();
                    tracing::warn!(%error, "old backups could not be removed: they take room");
                }
                tracing::debug!(position = done.generation.position, sent = done.sent, "the ledger was backed up");
                progress.newest = Some((done, took));
                progress.failure = None;
            }
            Err(error) => {
                self.counted.failures.inc();
                let target = self.backups.store().describe();
                tracing::error!(%error, target, "the ledger could not be backed up: nothing new is archived");
                progress.failures += 1;
                progress.failure = Some(error.to_string());
            }
        }
        self.control.0.progress.send_replace(progress);
        went
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use depin_backup::FaultyStore;
    use depin_domain::ids::Digest;
    use depin_ledger::Ledger as _;
    use depin_log::DiskStorage;

    fn task(directory: &std::path::Path, store: &FaultyStore, every: Duration) -> (Arc<EmbeddedLedger>, BackupTask) {
        let storage = Arc::new(DiskStorage::open(directory.join("data")).unwrap());
        let settings = depin_ledger::Settings { backup_configured: true, ..depin_ledger::Settings::default() };
        let ledger = EmbeddedLedger::open(storage, settings, depin_ledger::Clock::system()).unwrap();
        let ledger = Arc::new(ledger);
        let options = BackupOptions {
            store: StoreOptions::default(),
            backup_every: every,
            backup_keep: Duration::from_secs(86_400),
            backup_recipient: Vec::new(),
        };
        let task = BackupTask::new(&ledger, Arc::new(store.clone()), &options, &mut Registry::default()).unwrap();
        (ledger, task)
    }

    #[tokio::test]
    async fn the_running_ledger_is_backed_up_again_and_again_and_a_failure_is_counted_and_mended() {
        let directory = tempfile::tempdir().unwrap();
        let store = FaultyStore::default();
        store.fail_at(0, false);
        let (ledger, task) = task(directory.path(), &store, Duration::from_millis(50));
        let (control, counted, stop) = (task.control(), task.counted.clone(), CancellationToken::new());
        let mut progress = control.0.progress.subscribe();
        let running = tokio::spawn(task.run(stop.clone()));
        progress.wait_for(|progress| progress.failures > 0).await.unwrap();
        assert_eq!((counted.newest.get(), counted.failures.get() > 0), (0, true));
        assert!(control.status().failure.contains("does not answer") && control.status().newest.is_none());
        store.mend();
        progress.wait_for(|progress| progress.newest.is_some()).await.unwrap();
        let first = counted.position.get();
        assert!(first > 0 && counted.newest.get() > 0 && counted.stored.get() > 0);
        assert_eq!(control.status().failure, "");
        ledger.acquire_writer("test".into()).await.unwrap();
        progress
            .wait_for(|progress| {
                progress.newest.as_ref().is_some_and(|(done, _)| done.generation.position > first as u64)
            })
            .await
            .unwrap();
        stop.cancel();
        running.await.unwrap();
        let newest = Generation::list(&store).await.unwrap().last().copied().unwrap();
        assert_eq!(i64::try_from(newest.position), Ok(counted.position.get()));
    }

    #[tokio::test]
    async fn whoever_asks_gets_a_backup_that_began_after_the_question() {
        let directory = tempfile::tempdir().unwrap();
        let store = FaultyStore::default();
        let (ledger, task) = task(directory.path(), &store, Duration::from_secs(86_400));
        let (control, stop) = (task.control(), CancellationToken::new());
        let running = tokio::spawn(task.run(stop.clone()));
        control.request(true).await.unwrap();
        ledger.acquire_writer("test".into()).await.unwrap();
        let position = ledger.info().await.unwrap().position;
        let authority =
            Authority { sealed: b"sealed".to_vec().into(), content: Digest([7; 32]), recipients: vec!["to".into()] };
        control.keep(authority);
        control.request(true).await.unwrap();
        let status = control.status();
        assert!(status.newest.as_ref().unwrap().position >= position);
        assert_eq!(
            (status.authority_sha256.to_vec(), status.authority_recipients),
            (vec![7; 32], vec!["to".to_owned()])
        );
        assert!(control.generations().await.unwrap().len() >= 2);
        store.fail_at(store.changes(), false);
        assert!(control.request(true).await.unwrap_err().contains("does not answer"));
        stop.cancel();
        running.await.unwrap();
    }
}

//! The agent as a whole: its tasks, and how they start and end.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use depin_log::{DiskStorage, Storage};
use depin_telemetry::{Health, watchdog};
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinHandle, time};

use crate::{
    clock::{Clock, SystemClock},
    committer::{self, SharedStore},
    configuration::{Configuration, ConfigurationError},
    intake::Intake,
    listener::Listener,
    metrics::Metrics,
    sealer::{Store, StoreError},
    settings::AgentOptions,
    source,
    uplink::{self, CredentialError, Credentials},
};

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error("state directory {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Spool or journal.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Key or certificate.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The listener's address.
    #[error("listener.address {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its health checks.
    pub health: Health,
    /// Its metrics, for the admin server.
    pub registry: Arc<Registry>,
    /// The same, for reading them.
    pub metrics: Metrics,
    /// Where the own listener listens.
    pub listener: Option<SocketAddr>,
    intake: Arc<Intake>,
    store: SharedStore,
    stop_sources: watch::Sender<bool>,
    stop_committer: watch::Sender<bool>,
    stop_uplink: watch::Sender<bool>,
    sources: Vec<JoinHandle<()>>,
    committer: JoinHandle<()>,
    uplink: JoinHandle<()>,
    watchdog: JoinHandle<()>,
}

impl Agent {
    /// Starts all tasks on the present runtime.
    pub async fn start(options: AgentOptions) -> Result<Self, StartError> {
        Self::start_with_clock(options, SystemClock::new()).await
    }

    /// The same with another clock, for tests.
    pub async fn start_with_clock(options: AgentOptions, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let health = Health::new();
        let (metrics, registry) = Metrics::registered();
        let state = directory(&options.state_dir)?;
        let credentials = Arc::new(Credentials::open(&options.state_dir)?);
        let (spool, journal) =
            (inner(&*state, &options.state_dir, "spool")?, inner(&*state, &options.state_dir, "journal")?);
        let (store, found) = Store::open(spool, journal, options.store)?;
        for damage in &found.damaged {
            tracing::error!(%damage, "damage on the disk; what is readable goes on");
        }
        tracing::info!(
            waiting = store.waiting(),
            unanswered = store.state().unanswered(),
            incarnation = store.state().incarnation,
            "spool and journal are open"
        );
        let configuration = match Configuration::load(&*state) {
            Ok(configuration) => configuration.unwrap_or_default(),
            Err(
                error @ (ConfigurationError::Unreadable(_)
                | ConfigurationError::Disk(_)
                | ConfigurationError::Malformed { .. }),
            ) => {
                tracing::error!(%error, "the kept configuration is not used");
                Configuration::default()
            }
        };
        let intake = Intake::new(options.limits, options.quota, Arc::clone(&clock), metrics.clone(), &found);
        let store = Arc::new(Mutex::new(store));
        let filters = Arc::new(watch::Sender::new(Vec::new()));
        let context = uplink::Context {
            options: Arc::new(options.uplink),
            credentials,
            store: Arc::clone(&store),
            state,
            intake: Arc::clone(&intake),
            clock,
            metrics: metrics.clone(),
            configuration: Arc::new(RwLock::new(configuration.clone())),
            filters: Arc::clone(&filters),
            configured: health.readiness("configuration"),
        };
        context.put_into_use(&configuration);

        let (stop_sources, stopping) = watch::channel(false);
        let (stop_committer, committer_stops) = watch::channel(false);
        let (stop_uplink, uplink_stops) = watch::channel(false);
        let mut sources = Vec::new();
        let mut listening = None;
        if let Some((address, settings)) = options.listener {
            let at = |source| StartError::Listen { address, source };
            let listener = Listener::bind(address, settings).await.map_err(at)?.keeping(Arc::clone(&context.state));
            let bound = listener.address().map_err(at)?;
            tracing::info!(address = %bound, "MQTT listener listens");
            listening = Some(bound);
            let listens = listener.run(Arc::clone(&intake), metrics.clone(), stopping.clone());
            sources.push(spawn(health.liveness("listener"), &stopping, listens));
        }
        if let Some(broker) = options.broker {
            let check = health.readiness("broker");
            let (intake, metrics, filters) = (Arc::clone(&intake), metrics.clone(), filters.subscribe());
            let subscribed = source::run(broker, intake, metrics, filters, check, stopping.clone());
            sources.push(spawn(health.liveness("broker"), &stopping, subscribed));
        }
        let spool_check = health.readiness("spool");
        let watched = Arc::clone(&store);
        let watchdog = watchdog::watch(health.liveness("store"), watchdog::PATIENCE, move || {
            let store = Arc::clone(&watched);
            async move { committer::with_store(&store, |_| ()).await }
        });
        let (taking, kept) = (Arc::clone(&intake), Arc::clone(&store));
        let commits = committer::run(taking, kept, metrics.clone(), spool_check, committer_stops.clone());
        let committer = spawn(health.liveness("committer"), &committer_stops, commits);
        let uplink = spawn(health.liveness("uplink"), &uplink_stops, uplink::run(context, uplink_stops.clone()));
        let registry = Arc::new(registry);
        Ok(Self {
            health,
            registry,
            metrics,
            listener: listening,
            intake,
            store,
            stop_sources,
            stop_committer,
            stop_uplink,
            sources,
            committer,
            uplink,
            watchdog: tokio::spawn(watchdog),
        })
    }

    /// Drains and ends: nothing more is taken, what was taken is made durable and acknowledged, answers under way are awaited shortly.
    pub async fn stop(self) {
        self.watchdog.abort();
        self.intake.close();
        self.stop_sources.send_replace(true);
        for source in self.sources {
            ended("source", time::timeout(Duration::from_secs(5), source).await);
        }
        self.stop_committer.send_replace(true);
        ended("committer", time::timeout(Duration::from_secs(5), self.committer).await);
        self.stop_uplink.send_replace(true);
        ended("uplink", time::timeout(Duration::from_secs(5), self.uplink).await);
        // What a task left to a blocking thread still holds the store, and with it the lock on its directory.
        let deadline = time::Instant::now() + Duration::from_secs(5);
        while Arc::strong_count(&self.store) > 1 && time::Instant::now() < deadline {
            time::sleep(Duration::from_millis(5)).await;
        }
        if !self.intake.drained() {
            tracing::warn!("some messages were not made durable; they were not acknowledged and will be sent again");
        }
    }
}

/// A task that goes on until `stopping`; ending before is told by its liveness.
fn spawn(
    check: depin_telemetry::Check,
    stopping: &watch::Receiver<bool>,
    work: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let stopping = stopping.clone();
    tokio::spawn(watchdog::guard(check, move || *stopping.borrow(), work))
}

fn ended(task: &str, outcome: Result<Result<(), tokio::task::JoinError>, time::error::Elapsed>) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(task, %error, "a task ended unexpectedly"),
        Err(_) => tracing::warn!(task, "a task did not end in time"),
    }
}

fn directory(path: &Path) -> Result<Arc<dyn Storage>, StartError> {
    let opened = std::fs::create_dir_all(path).and_then(|()| DiskStorage::open(path));
    Ok(Arc::new(opened.map_err(|source| StartError::Directory { path: path.to_owned(), source })?))
}

fn inner(state: &dyn Storage, path: &Path, name: &str) -> Result<Arc<dyn Storage>, StartError> {
    state.directory(name).map_err(|source| StartError::Directory { path: path.join(name), source })
}

//! The operator's life: wait to lead, prepare, work until told to stop or the leadership is lost.

use std::{future::Future, sync::Arc, time::Duration};

use depin_crds::EdgeDeviceModel;
use depin_sealing::Recipients;
use depin_telemetry::{AdminServer, Check, Health, TelemetryError};
use kube::{
    Api, Client,
    api::ListParams,
    runtime::events::{Recorder, Reporter},
};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{
    authority_backup,
    backoff::Backoff,
    certificates::{CertificatesError, authorities::Authorities, keeper::Keeper},
    clock::Clock,
    cluster,
    context::Context,
    controllers::Controllers,
    enrollments, fleets,
    leader::{Election, LeadershipLost},
    ledger::Ledger,
    metrics::Metrics,
    options::Options,
    presence::{self, judge::Thresholds},
    query::{QueryError, QueryServer, Reviews, Views},
    registry::{RegistryError, RegistryWriter, evidence},
    rewards,
    status::{self, StatusHandle},
    watched::Watched,
};

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No cluster.
    #[error("no cluster: {0}; set KUBECONFIG, or run in a cluster")]
    Kubeconfig(#[source] Box<kube::Error>),
    /// Telemetry failed.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Certificates failed.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// The leadership is lost.
    #[error(transparent)]
    Leadership(#[from] LeadershipLost),
    /// The query service failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A part ended that must not.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// A recipient of backups is none.
    #[error("--backup-recipient: {0}")]
    Recipient(#[from] depin_sealing::SealError),
}

/// Pause between attempts to reach what is not up yet.
const RETRY: Duration = Duration::from_secs(1);
/// How long controllers may finish what they do after a signal.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs until `stop` is ready.
///
/// # Errors
/// When it cannot work or loses the leadership: the process shall end and be started anew.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), OperatorError> {
    let config = cluster::infer().await.map_err(kube::Error::InferConfig);
    let client = config.and_then(Client::try_from).map_err(|error| OperatorError::Kubeconfig(Box::new(error)))?;
    run_with(client, Clock::system(), options, None, stop).await
}

/// As [`run`], against `client`'s cluster, with this clock, and over `channel` to the ledger instead of an own one.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    client: Client,
    clock: Clock,
    options: Options,
    channel: Option<Channel>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), OperatorError> {
    let (stopping, stopped) = watch::channel(false);
    tokio::spawn(async move {
        stop.await;
        stopping.send_replace(true);
    });
    let recipients = Recipients::parse(&options.backup_recipient)?;
    let metrics = Metrics::default();
    let mut exported = prometheus_client::registry::Registry::default();
    metrics.register(&mut exported);
    let health = Health::new();
    let admin = AdminServer::bind(options.telemetry.admin_listen, Arc::new(exported), health.clone()).await?;
    let mut admin = tokio::spawn(admin.run(until(stopped.clone())));
    let views = match &channel {
        Some(channel) => Views::given(channel.clone()),
        None => Views::new(client.clone(), &options, clock),
    };
    let questions =
        QueryServer::bind(options.query_listen, Reviews::new(client.clone()), views, metrics.clone()).await?;
    let answering = health.readiness("query");
    let asked = stopped.clone();
    let mut questions = tokio::spawn(async move { questions.run(&answering, until(asked)).await });
    let mut stop = stopped.clone();
    let me = options.identity.clone().unwrap_or_else(identity);
    let led = lead(Life { client, clock, options, recipients, me, channel, metrics, health, stopped });
    tokio::select! {
        outcome = led => outcome,
        _ = &mut admin => if *stop.borrow_and_update() { Ok(()) } else { Err(OperatorError::Ended("the admin server")) },
        ended = &mut questions => match ended {
            Ok(Err(error)) => Err(error.into()),
            _ if *stop.borrow_and_update() => Ok(()),
            _ => Err(OperatorError::Ended("the query service")),
        },
    }
}

pub(crate) async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same: nobody is left to say more.
    let _gone = stopped.wait_for(|stopped| *stopped).await.is_err();
}

/// What an operator's life is made of.
struct Life {
    client: Client,
    clock: Clock,
    options: Options,
    recipients: Recipients,
    me: String,
    channel: Option<Channel>,
    metrics: Metrics,
    health: Health,
    stopped: watch::Receiver<bool>,
}

async fn lead(life: Life) -> Result<(), OperatorError> {
    let leading = life.health.readiness("leader");
    let elect = life.options.leader_elect;
    let mut election = Election::new(life.client.clone(), &life.options.namespace, life.me.clone(), life.clock);
    if elect {
        // One that waits is ready: to take over.
        leading.pass();
        tracing::info!(me = life.me, "waiting to lead");
        tokio::select! {
            () = election.win() => {}
            () = until(life.stopped.clone()) => return Ok(()),
        }
    }
    leading.pass();
    life.metrics.set_leader(true);
    tracing::info!(me = life.me, "leading");
    let outcome = if elect {
        tokio::select! {
            outcome = work(&life) => outcome,
            lost = election.keep() => return Err(lost.into()),
        }
    } else {
        work(&life).await
    };
    if elect && outcome.is_ok() {
        election.release().await;
    }
    outcome
}

fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "operator" } else { host }, std::process::id())
}

/// What a leader does.
async fn work(life: &Life) -> Result<(), OperatorError> {
    let Life { client, clock, options, me, stopped, .. } = life;
    let clock = *clock;
    let keeper = Keeper::new(client, options, clock, &life.metrics);
    let authorities = tokio::select! {
        authorities = prepare(&keeper, options) => authorities?,
        () = until(stopped.clone()) => return Ok(()),
    };
    let channel = match &life.channel {
        Some(channel) => channel.clone(),
        None => keeper.channel(&authorities)?,
    };
    let (channel, channels) = watch::channel(channel);
    let (authorities, _) = watch::channel(Arc::new(authorities));
    let ledger = Ledger::new(channels);
    let reachable = life.health.readiness("ledger");
    let takes = life.health.readiness("registry");
    let (writer, registry) = tokio::select! {
        opened = open(&ledger, me, clock, &reachable, &takes) => opened?,
        () = until(stopped.clone()) => return Ok(()),
    };
    let status = StatusHandle::new(life.metrics.clone());
    let watched = Watched::of(&options.watch_namespace);
    let controllers = Controllers::new(client, &watched, stopped);
    let context = Arc::new(Context {
        client: client.clone(),
        stores: controllers.stores(),
        watched,
        ledger: ledger.clone(),
        registry,
        status: status.clone(),
        backoff: Backoff::default(),
        metrics: life.metrics.clone(),
        clock,
        renewal_grace_ms: options.renewal_grace,
        token_audience: options.token_audience.clone(),
    });
    let reporter = Reporter { controller: "depin-operator".into(), instance: Some(me.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    tokio::select! {
        written = writer.run() => written.map_err(Into::into).and(Err(OperatorError::Ended("the registry writer"))),
        decided = decide(life, &context, authorities.subscribe()) => decided,
        () = authority_backup::run(&ledger, authorities.subscribe(), &life.recipients, &life.metrics) => {
            Err(OperatorError::Ended("the keeping of the authorities"))
        }
        () = ledger.watch(&reachable) => Err(OperatorError::Ended("the look at the ledger")),
        () = status::run(status, client.clone(), recorder, clock) => Err(OperatorError::Ended("the status writer")),
        kept = keep(&keeper, &authorities, &channel, life.channel.is_some()) => kept,
        () = drained(controllers.run(&context), stopped.clone()) => Ok(()),
    }
}

/// What is decided from views as a whole: nothing of it before every kind was listed once.
async fn decide(
    life: &Life,
    context: &Arc<Context>,
    authorities: watch::Receiver<Arc<Authorities>>,
) -> Result<(), OperatorError> {
    let synced = life.health.readiness("resources");
    listed(life, context, &synced).await?;
    synced.pass();
    tracing::info!("resources are listed; answering the inbox and closing epochs");
    tokio::select! {
        answered = enrollments::inbox::run(Arc::clone(context), authorities) => answered.map_err(Into::into),
        closed = rewards::epochs::run(Arc::clone(context)) => closed.map_err(Into::into),
        () = evidence::run(Arc::clone(context), &life.options.namespace) => Err(OperatorError::Ended("the watch of deletions")),
        () = presence::run(Arc::clone(context), thresholds(&life.options)) => Err(OperatorError::Ended("presence")),
        () = enrollments::sweep(Arc::clone(context)) => Err(OperatorError::Ended("the sweep of invitations")),
        () = fleets::rollup::run(Arc::clone(context)) => Err(OperatorError::Ended("the roll-up")),
    }
}

/// Waits until every kind was listed once; what keeps it from that is told.
async fn listed(life: &Life, context: &Context, synced: &Check) -> Result<(), OperatorError> {
    let ready = context.stores.ready();
    tokio::pin!(ready);
    loop {
        tokio::select! {
            ended = &mut ready => return ended.map_err(|_| OperatorError::Ended("a watch")),
            () = tokio::time::sleep(RETRY) => {}
        }
        // A watch that is refused tries for ever; a list tells why.
        let models: Api<EdgeDeviceModel> = Api::all(life.client.clone());
        let one = ListParams::default().limit(1);
        synced.fail(match models.list_metadata(&one).await {
            Ok(_) => "not every kind is listed yet; see the log for what the API server refuses".to_owned(),
            Err(error) => format!(
                "EdgeDeviceModels cannot be listed: {error}; they lie in no namespace: the operator needs a ClusterRole for them also with \
                 --watch-namespace"
            ),
        });
    }
}

fn thresholds(options: &Options) -> Thresholds {
    Thresholds {
        agent_ms: i64::from(options.agent_silence) * 1000,
        device_ms: i64::from(options.device_silence) * 1000,
        absence_ms: i64::from(options.long_absence) * 1000,
        ..Thresholds::default()
    }
}

/// The authorities and the gateway's certificate, tried until the API server takes them.
async fn prepare(keeper: &Keeper<'_>, options: &Options) -> Result<Authorities, CertificatesError> {
    loop {
        match keeper.prepare().await {
            Ok(authorities) => return Ok(authorities),
            Err(error @ CertificatesError::Api { .. }) => {
                tracing::warn!(%error, namespace = options.namespace, "certificates cannot be kept yet; does the namespace exist?");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes the writer token and reads the registry, tried until the ledger answers.
async fn open(
    ledger: &Ledger,
    me: &str,
    clock: Clock,
    reachable: &Check,
    takes: &Check,
) -> Result<(RegistryWriter, crate::registry::RegistryHandle), OperatorError> {
    loop {
        let taken =
            ledger.acquire_writer(me).await.map_err(|status| format!("{}: {}", status.code(), status.message()));
        let opened = match taken {
            Ok(_) => RegistryWriter::open(ledger.clone(), clock, takes.clone()).await.map_err(|error| match error {
                RegistryError::Unreadable { .. } => Err(error),
                error => Ok(error.to_string()),
            }),
            Err(problem) => Err(Ok(problem)),
        };
        match opened {
            Ok(opened) => {
                reachable.pass();
                return Ok(opened);
            }
            Err(Err(error)) => return Err(error.into()),
            Err(Ok(problem)) => {
                tracing::info!(problem, "waiting for the ledger");
                reachable.fail(problem);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Looks after the certificates; over a channel that was given, that one stays.
async fn keep(
    keeper: &Keeper<'_>,
    authorities: &watch::Sender<Arc<Authorities>>,
    channel: &watch::Sender<Channel>,
    given: bool,
) -> Result<(), OperatorError> {
    let (unused, _) = watch::channel(channel.borrow().clone());
    let kept = keeper.run(authorities, if given { &unused } else { channel }).await;
    kept.map(|never| match never {}).map_err(Into::into)
}

/// The end of the controllers, or some time after a signal.
async fn drained(running: impl Future<Output = ()>, stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = running => {}
        () = async {
            until(stopped).await;
            tokio::time::sleep(DRAIN).await;
        } => tracing::warn!("controllers did not finish in time"),
    }
}

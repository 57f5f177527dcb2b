//! The operator's life: wait to lead, prepare, work until told to stop or the leadership is lost.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use depin_crds::{Condition, EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardProgram};
use depin_identity::CertificateAuthority;
use depin_telemetry::{AdminServer, Check, Health, TelemetryError};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        Controller,
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{
    agents,
    backoff::Backoff,
    certificates::{self, CertificatesError, validity},
    clock::Clock,
    cluster,
    conditions::holds,
    context::{Context, Stores},
    controller::drive,
    devices, enrollments, fleets,
    leader::{Election, LeadershipLost},
    ledger::Ledger,
    metrics::Metrics,
    models,
    options::Options,
    presence::{self, judge::Thresholds},
    registry::{RegistryError, RegistryWriter, evidence},
    rewards,
    status::{self, StatusHandle},
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
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A part ended that must not.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
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
    let metrics = Metrics::default();
    let mut exported = prometheus_client::registry::Registry::default();
    metrics.register(&mut exported);
    let health = Health::new();
    let admin = AdminServer::bind(options.telemetry.admin_listen, Arc::new(exported), health.clone()).await?;
    let mut admin = tokio::spawn(admin.run(until(stopped.clone())));
    let mut stop = stopped.clone();
    let me = options.identity.clone().unwrap_or_else(identity);
    let led = lead(Life { client, clock, options, me, channel, metrics, health, stopped });
    tokio::select! {
        outcome = led => outcome,
        _ = &mut admin => if *stop.borrow_and_update() { Ok(()) } else { Err(OperatorError::Ended("the admin server")) },
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same: nobody is left to say more.
    let _gone = stopped.wait_for(|stopped| *stopped).await.is_err();
}

/// What an operator's life is made of.
struct Life {
    client: Client,
    clock: Clock,
    options: Options,
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
    let authority = tokio::select! {
        authority = prepare(client, options, clock) => Arc::new(authority?),
        () = until(stopped.clone()) => return Ok(()),
    };
    let channel = match &life.channel {
        Some(channel) => channel.clone(),
        None => certificates::ledger_channel(&authority, &options.ledger, clock.now())?,
    };
    let (channel, channels) = watch::channel(channel);
    let ledger = Ledger::new(channels);
    let reachable = life.health.readiness("ledger");
    let takes = life.health.readiness("registry");
    let (writer, registry) = tokio::select! {
        opened = open(&ledger, me, clock, &reachable, &takes) => opened?,
        () = until(stopped.clone()) => return Ok(()),
    };
    let status = StatusHandle::new(life.metrics.clone());
    let controllers = Controllers::new(client, stopped);
    let context = Arc::new(Context {
        client: client.clone(),
        stores: controllers.stores(),
        ledger: ledger.clone(),
        registry,
        status: status.clone(),
        backoff: Backoff::default(),
        metrics: life.metrics.clone(),
        clock,
        renewal_grace_ms: options.renewal_grace,
    });
    let reporter = Reporter { controller: "depin-operator".into(), instance: Some(me.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    tokio::select! {
        written = writer.run() => written.map_err(Into::into).and(Err(OperatorError::Ended("the registry writer"))),
        decided = decide(life, &context, &authority) => decided,
        () = ledger.watch(&reachable) => Err(OperatorError::Ended("the look at the ledger")),
        () = status::run(status, client.clone(), recorder, clock) => Err(OperatorError::Ended("the status writer")),
        renewed = renew(client, options, &authority, clock, channel) => renewed,
        () = drained(controllers.run(&context), stopped.clone()) => Ok(()),
    }
}

/// What is decided from views as a whole: nothing of it before every kind was listed once.
async fn decide(
    life: &Life,
    context: &Arc<Context>,
    authority: &Arc<CertificateAuthority>,
) -> Result<(), OperatorError> {
    let synced = life.health.readiness("resources");
    if context.stores.ready().await.is_err() {
        return Err(OperatorError::Ended("a watch"));
    }
    synced.pass();
    tracing::info!("resources are listed; answering the inbox and closing epochs");
    tokio::select! {
        answered = enrollments::inbox::run(Arc::clone(context), Arc::clone(authority)) => answered.map_err(Into::into),
        closed = rewards::epochs::run(Arc::clone(context)) => closed.map_err(Into::into),
        () = evidence::run(Arc::clone(context), &life.options.namespace) => Err(OperatorError::Ended("the watch of deletions")),
        () = presence::run(Arc::clone(context), thresholds(&life.options)) => Err(OperatorError::Ended("presence")),
        () = enrollments::sweep(Arc::clone(context)) => Err(OperatorError::Ended("the sweep of invitations")),
        () = fleets::rollup::run(Arc::clone(context)) => Err(OperatorError::Ended("the roll-up")),
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

/// The authority and the gateway's certificate, tried until the API server takes them.
async fn prepare(client: &Client, options: &Options, clock: Clock) -> Result<CertificateAuthority, CertificatesError> {
    loop {
        match try_prepare(client, options, clock).await {
            Ok(authority) => return Ok(authority),
            Err(error @ CertificatesError::Api { .. }) => {
                tracing::warn!(%error, namespace = options.namespace, "certificates cannot be kept yet; does the namespace exist?");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn try_prepare(
    client: &Client,
    options: &Options,
    clock: Clock,
) -> Result<CertificateAuthority, CertificatesError> {
    let authority = certificates::ensure_authority(client, &options.namespace, clock.now()).await?;
    certificates::publish_authority(client, &options.namespace, &authority).await?;
    if certificates::ensure_gateway(client, &options.namespace, &authority, &options.gateway_name, clock.now()).await? {
        tracing::info!(hosts = ?options.gateway_name, "the gateway's certificate is in Secret {}", certificates::GATEWAY);
    }
    Ok(authority)
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

/// Looks after the gateway's certificate and the operator's own.
async fn renew(
    client: &Client,
    options: &Options,
    authority: &CertificateAuthority,
    clock: Clock,
    channel: watch::Sender<Channel>,
) -> Result<(), OperatorError> {
    let mut made = clock.now();
    loop {
        tokio::time::sleep(validity::LOOK).await;
        let now = clock.now();
        if let Err(error) = certificates::keep_authority(client, &options.namespace, authority).await {
            tracing::warn!(%error, "the CA's Secret could not be looked after");
        }
        match certificates::ensure_gateway(client, &options.namespace, authority, &options.gateway_name, now).await {
            Ok(true) => tracing::info!("the gateway's certificate is renewed"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the gateway's certificate could not be looked after"),
        }
        if now.since(made) >= validity::OWN_RENEWAL_MS {
            channel.send_replace(certificates::ledger_channel(authority, &options.ledger, now)?);
            made = now;
        }
    }
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

struct Controllers {
    models: Controller<EdgeDeviceModel>,
    fleets: Controller<EdgeFleet>,
    agents: Controller<EdgeAgent>,
    devices: Controller<EdgeDevice>,
    enrollments: Controller<EdgeEnrollment>,
    programs: Controller<RewardProgram>,
}

fn controller<K>(client: &Client, stopped: &watch::Receiver<bool>) -> Controller<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    Controller::new(api, watcher::Config::default()).graceful_shutdown_on(until(stopped.clone()))
}

impl Controllers {
    fn new(client: &Client, stopped: &watch::Receiver<bool>) -> Self {
        let any = watcher::Config::default;
        let devices = controller::<EdgeDevice>(client, stopped);
        let (of_fleet, of_agent) = (by_fleet(devices.store()), by_agent(devices.store()));
        let fleets = controller::<EdgeFleet>(client, stopped);
        let of_model = by_model(fleets.store());
        let programs = controller::<RewardProgram>(client, stopped);
        let pays = programs_of(programs.store());
        Self {
            models: controller(client, stopped),
            fleets: fleets.watches(Api::<EdgeDeviceModel>::all(client.clone()), any(), of_model),
            agents: controller(client, stopped),
            devices: devices.watches(Api::<EdgeFleet>::all(client.clone()), any(), of_fleet).watches(
                Api::<EdgeAgent>::all(client.clone()),
                any(),
                of_agent,
            ),
            enrollments: controller(client, stopped),
            programs: programs.watches(Api::<EdgeFleet>::all(client.clone()), any(), pays),
        }
    }

    fn stores(&self) -> Stores {
        Stores {
            models: self.models.store(),
            fleets: self.fleets.store(),
            agents: self.agents.store(),
            devices: self.devices.store(),
            enrollments: self.enrollments.store(),
            programs: self.programs.store(),
        }
    }

    fn run(self, context: &Arc<Context>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let context = || Arc::clone(context);
        let models = drive("models", self.models, 4, context(), models::reconcile);
        let fleets = drive("fleets", self.fleets, 8, context(), fleets::reconcile);
        let agents = drive("agents", self.agents, 64, context(), agents::reconcile);
        // Many wait for one batch of the registry writer together.
        let devices = drive("devices", self.devices, 1024, context(), devices::reconcile);
        let enrollments = drive("enrollments", self.enrollments, 16, context(), enrollments::reconcile);
        let programs = drive("programs", self.programs, 8, context(), rewards::reconcile);
        Box::pin(async move {
            tokio::join!(models, fleets, agents, devices, enrollments, programs);
        })
    }
}

/// Whether an object's spec or its condition `Ready` is another than when it was last seen. Other parts of a status change often and
/// concern no other object.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, (i64, bool)>>);

impl Turns {
    fn turned<K: kube::Resource>(&self, object: &K, conditions: &[Condition]) -> bool {
        let state = (object.meta().generation.unwrap_or_default(), holds(conditions, "Ready"));
        let uid = object.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, state) != Some(state)
    }
}

/// Devices whose entry may change, or no longer waits, because their fleet turned.
fn by_fleet(devices: Store<EdgeDevice>) -> impl Fn(EdgeFleet) -> Vec<ObjectRef<EdgeDevice>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |fleet| {
        if !turns.turned(&fleet, fleet.status.as_ref().map_or(&[], |status| &status.conditions)) {
            return Vec::new();
        }
        let (namespace, name) = (fleet.namespace(), fleet.name_any());
        select(&devices, |device| device.namespace() == namespace && device.spec.fleet == name)
    }
}

/// Devices that no longer wait because their agent turned.
fn by_agent(devices: Store<EdgeDevice>) -> impl Fn(EdgeAgent) -> Vec<ObjectRef<EdgeDevice>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |agent| {
        if !turns.turned(&agent, agent.status.as_ref().map_or(&[], |status| &status.conditions)) {
            return Vec::new();
        }
        let (namespace, name) = (agent.namespace(), agent.name_any());
        select(&devices, |device| device.namespace() == namespace && device.spec.agent == name)
    }
}

/// Fleets that no longer wait because their model turned.
fn by_model(fleets: Store<EdgeFleet>) -> impl Fn(EdgeDeviceModel) -> Vec<ObjectRef<EdgeFleet>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |model| {
        if !turns.turned(&model, model.status.as_ref().map_or(&[], |status| &status.conditions)) {
            return Vec::new();
        }
        select(&fleets, |fleet| fleet.spec.model_ref.name == model.name_any())
    }
}

/// Programs that no longer wait, or no longer fit, because a fleet turned.
fn programs_of(
    programs: Store<RewardProgram>,
) -> impl Fn(EdgeFleet) -> Vec<ObjectRef<RewardProgram>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |fleet| {
        if !turns.turned(&fleet, fleet.status.as_ref().map_or(&[], |status| &status.conditions)) {
            return Vec::new();
        }
        select(&programs, |program| {
            program.namespace() == fleet.namespace() && program.spec.fleets.contains(&fleet.name_any())
        })
    }
}

fn select<K>(store: &Store<K>, wanted: impl Fn(&K) -> bool) -> Vec<ObjectRef<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let all = store.state();
    all.iter().filter(|object| wanted(object.as_ref())).map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

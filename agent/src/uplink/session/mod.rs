//! One connection to the gateway: the configuration comes down, proofs go up, answers come back.

mod answers;
mod renewal;
mod reporter;
mod sending;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError},
    time::Duration,
};

use depin_domain::{ids::KeyId, time::Timestamp};
use depin_identity::{Route, channel::ServerKey};
use depin_proto::{
    convert,
    v1::{
        self, SignedProof, SubmitRequest, WatchConfigurationRequest, configuration_client::ConfigurationClient,
        proofs_client::ProofsClient,
    },
};
use reporter::Reporter;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    Certified, Context, CredentialError,
    flow::{Flow, Window},
    seal::{BUDGET, SealError, Sealing},
};
use crate::{
    committer::with_store,
    configuration::{Configuration, ConfigurationError},
    sealer::{Store, StoreError, clock},
    stop::stopped,
};

const MAX_MESSAGE: usize = 16 << 20;
/// How long a gateway may take until its answer to a call begins.
const ANSWER: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);
const TIDY: Duration = Duration::from_secs(5);
/// Proofs in one message.
const BATCH_PROOFS: usize = 16;
/// A message is closed once it has this many bytes: with one more proof it still is what every gateway takes.
const BATCH_BYTES: u64 = 1 << 20;
/// However much the gateway allows: what is under way is in memory too, on a small box.
const OWN_WINDOW: Window = Window { proofs: 64, bytes: 4 << 20 };
/// Openings under way at once: one of the chain, one that only confirms. A few more do no harm.
const OPENINGS: usize = 4;
/// Window until the gateway tells one.
const FIRST_WINDOW: Window = Window { proofs: 8, bytes: 4 << 20 };

/// A session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("{0}")]
    Gateway(Box<tonic::Status>),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the gateway's answer: {0}")]
    Answer(#[from] convert::FieldError),
    #[error("the gateway's receipt for proof {incarnation}/{sequence}: {what}")]
    Receipt { incarnation: u64, sequence: u64, what: String },
    #[error("the gateway does not take this agent's key ({0}); see the EdgeAgent's conditions")]
    Barred(&'static str),
    #[error("more is on its way to the gateway than its window allows; the connection is begun anew")]
    Flooded,
    #[error("the gateway took the connection and did not answer for {0} seconds")]
    Silent(u64),
    #[error("a task of the uplink ended unexpectedly")]
    Lost,
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Gateway(Box::new(status))
    }
}

/// Refusals that outlive a connection.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// A proof of the present incarnation was refused.
    refused: bool,
    /// How often in a row, without a receipt between.
    in_a_row: u32,
    /// Proofs are made smaller by this many halvings.
    halvings: u32,
}

impl Refusals {
    /// Before the next attempt: what is refused for a fault of ours must not become a storm.
    fn patience(&self) -> Duration {
        if self.in_a_row < 3 { Duration::ZERO } else { Duration::from_secs(1 << self.in_a_row.min(9)) }
    }
}

struct Session<'a> {
    context: &'a Context,
    key: KeyId,
    server_key: ServerKey,
    up: mpsc::Sender<SubmitRequest>,
    flow: Flow,
    /// Sealed in this session and not sent yet.
    fresh: HashMap<(u64, u64), SignedProof>,
    /// For each opening under way: whether it named the chain.
    openings: VecDeque<bool>,
    /// The configuration changed while a confirmation was under way: it is to be confirmed once more.
    confirm_again: bool,
    open: bool,
    clock_agrees: bool,
    open_at: Option<Instant>,
    next_seal: Instant,
    /// When another version of a model comes into force.
    model_change: Option<Timestamp>,
    refusals: &'a mut Refusals,
}

/// Runs until the connection breaks or there is a newer certificate.
pub(super) async fn run(
    context: &Context,
    certified: &Certified,
    route: &Route,
    channel: Channel,
    server_key: ServerKey,
    refusals: &mut Refusals,
    mut stop: watch::Receiver<bool>,
) -> Result<(), SessionError> {
    let configuration = context.configuration();
    let mut configurations = ConfigurationClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let request = WatchConfigurationRequest {
        registry_incarnation: configuration.registry_incarnation,
        registry_version: configuration.registry_version,
        ca_digest: certified.ca_digest().0.to_vec().into(),
    };
    let mut updates = within(ANSWER, configurations.watch(request)).await?.into_inner();
    // It holds whatever may be unanswered, so sending never waits: a gateway that waits for its answers to be read is not waited for.
    let (up, proofs) = mpsc::channel(OWN_WINDOW.proofs + OPENINGS);
    let mut session = Session::new(context, &configuration, server_key, up, refusals);
    let patience = session.refusals.patience();
    if patience > Duration::ZERO {
        time::sleep(patience).await;
    }
    // The first message must be on its way before the gateway answers at all.
    session.send_open(true).await?;
    let mut submitting = ProofsClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut answers = within(ANSWER, submitting.submit(ReceiverStream::new(proofs))).await?.into_inner();
    context.metrics.connected(route);
    tracing::info!(gateway = route.address, identity = %certified.identity(), "connected to the gateway");
    let reporter = Reporter { context: context.clone(), channel: channel.clone(), gateway: route.address.clone() };
    let (clocks, mut gateway_clock) = mpsc::channel(4);
    let reporting = AbortOnDrop(tokio::spawn(reporter.run(clocks)));
    // It holds nothing of the store: that is free as soon as the session has ended.
    let (credentials, clock) = (Arc::clone(&context.credentials), Arc::clone(&context.clock));
    let renewed = renewal::renewed(credentials, clock, certified.clone(), channel.clone());
    let mut renewing = AbortOnDrop(tokio::spawn(renewed));
    let mut tick = time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidied = Instant::now();
    loop {
        tokio::select! {
            update = updates.message() => match update? {
                Some(update) => session.configure(update).await?,
                // A connection that is old is ended in order: what is under way is still answered.
                None => break,
            },
            answer = answers.message() => match answer? {
                Some(answer) => session.answer(answer).await?,
                None => break,
            },
            Some(now) = gateway_clock.recv() => session.compare_clocks(now).await?,
            _ = tick.tick() => {
                session.tick().await?;
                if tidied.elapsed() > TIDY {
                    tidied = Instant::now();
                    on_store(context, |store| store.tidy()).await??;
                }
            }
            renewed = &mut renewing.0 => {
                renewed.map_err(|_| SessionError::Lost)?;
                // The next connection shows it.
                break;
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(reporting);
    session.finish(&mut answers).await
}

/// The answer, if it begins in time: a connection may stand while nobody is behind it.
async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, SessionError> {
    match time::timeout(limit, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(SessionError::Silent(limit.as_secs())),
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn on_store<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce(&mut Store) -> T + Send + 'static,
) -> Result<T, SessionError> {
    with_store(&context.store, work).await.ok_or(SessionError::Lost)
}

impl<'a> Session<'a> {
    fn new(
        context: &'a Context,
        configuration: &Configuration,
        server_key: ServerKey,
        up: mpsc::Sender<SubmitRequest>,
        refusals: &'a mut Refusals,
    ) -> Self {
        Self {
            context,
            key: context.credentials.key.id(),
            server_key,
            up,
            flow: Flow::default(),
            fresh: HashMap::new(),
            openings: VecDeque::new(),
            confirm_again: false,
            open: false,
            clock_agrees: false,
            open_at: None,
            next_seal: Instant::now(),
            model_change: configuration.next_change(context.clock.now().wall),
            refusals,
        }
    }
}

impl Session<'_> {
    fn sealing(&self) -> Sealing {
        let configuration = self.context.configuration.read().unwrap_or_else(PoisonError::into_inner);
        let mut limits = configuration.proof_limits();
        limits.bytes = (limits.bytes >> self.refusals.halvings.min(8)).max(4096);
        Sealing {
            key: self.context.credentials.key.clone(),
            registry: (configuration.registry_incarnation, configuration.registry_version),
            limits,
            budget: BUDGET,
            keep_parked_ms: i64::try_from(self.context.options.keep_unapproved.as_millis()).unwrap_or(i64::MAX),
        }
    }

    async fn configure(&mut self, update: v1::ConfigurationUpdate) -> Result<(), SessionError> {
        if !update.ca.is_empty() {
            let context = self.context;
            context.credentials.adopt(&context.options, &update.ca, &update.ca_vouchers, context.clock.now().wall)?;
        }
        let mut configuration = self.context.configuration();
        configuration.apply(&update)?;
        let (kept, state) = (configuration.clone(), self.context.state.clone());
        let written = tokio::task::spawn_blocking(move || kept.keep(&*state)).await;
        written.map_err(|_| SessionError::Lost)??;
        *self.context.configuration.write().unwrap_or_else(PoisonError::into_inner) = configuration.clone();
        self.context.put_into_use(&configuration);
        self.model_change = configuration.next_change(self.context.clock.now().wall);
        tracing::info!(
            registry = configuration.registry_version,
            models = configuration.names.len(),
            devices = configuration.devices.len(),
            "configuration applied"
        );
        if update.now > 0 {
            self.compare_clocks(update.now).await?;
        }
        self.send_open(false).await
    }

    async fn compare_clocks(&mut self, gateway: i64) -> Result<(), SessionError> {
        let own = self.context.clock.now();
        let skew = self.context.configuration.read().unwrap_or_else(PoisonError::into_inner).max_skew_ms();
        let agrees = clock::agrees(&own, gateway, skew);
        if agrees {
            on_store(self.context, move |store| store.clock_agreed(&own)).await??;
        } else if self.clock_agrees || !self.open {
            tracing::error!(
                own = own.wall.0,
                gateway,
                max_skew_ms = skew,
                "the clock differs from the gateway's; nothing is sealed until it is set"
            );
        }
        self.clock_agrees = agrees;
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), SessionError> {
        if self.open_at.is_some_and(|at| Instant::now() >= at) {
            self.open_at = None;
            return self.send_open(true).await;
        }
        let now = self.context.clock.now();
        if self.model_change.is_some_and(|change| now.wall >= change) {
            let configuration = self.context.configuration();
            self.context.put_into_use(&configuration);
            self.model_change = configuration.next_change(now.wall);
            self.send_open(false).await?;
        }
        let may_seal = self.open && self.clock_agrees;
        self.context.metrics.sealing.set(i64::from(may_seal));
        if may_seal && self.flow.hungry() && Instant::now() >= self.next_seal {
            self.seal().await?;
        }
        Ok(())
    }
}

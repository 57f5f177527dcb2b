//! One connection to the gateway: the configuration comes down, proofs go up, answers come back.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use depin_domain::{ids::KeyId, proofs::Reason, time::Timestamp};
use depin_identity::{channel::ServerKey, keys::VerifyingKey};
use depin_proto::{
    convert, envelope,
    v1::{
        self, AgentStatus, DropCount, OpenChain, OpenChains, Outcome, ProofBatch, SightingsRequest, SignedProof,
        SubmitRequest, SubmitResponse, WatchConfigurationRequest, configuration_client::ConfigurationClient, outcome,
        proofs_client::ProofsClient, submit_request, submit_response,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    Certified, Context, CredentialError,
    flow::{Flow, Place, Said, Step, Window},
    seal::{Opened, SealError, Sealing},
};
use crate::{
    committer::with_store,
    configuration::ConfigurationError,
    metrics::ReasonLabel,
    sealer::{Store, StoreError, clock, journal::Held},
    stop::stopped,
};

const MAX_MESSAGE: usize = 16 << 20;
const TICK: Duration = Duration::from_millis(50);
const TIDY: Duration = Duration::from_secs(5);
/// Proofs in one message.
const BATCH_PROOFS: usize = 16;
/// A message is closed once it has this many bytes: with one more proof it still is what every gateway takes.
const BATCH_BYTES: u64 = 1 << 20;
/// However much the gateway allows: what is under way is in memory too, on a small box.
const OWN_WINDOW: Window = Window { proofs: 64, bytes: 4 << 20 };
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
    #[error("the store's task ended unexpectedly")]
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
    openings: std::collections::VecDeque<bool>,
    open: bool,
    clock_agrees: bool,
    open_at: Option<Instant>,
    next_seal: Instant,
    /// When another version of a model comes into force.
    model_change: Option<Timestamp>,
    refusals: &'a mut Refusals,
}

/// Runs until the connection breaks or the certificate is due.
pub(super) async fn run(
    context: &Context,
    certified: &Certified,
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
    };
    let mut updates = configurations.watch(request).await?.into_inner();
    let (up, proofs) = mpsc::channel(16);
    let mut session = Session {
        context,
        key: context.credentials.key.id(),
        server_key,
        up,
        flow: Flow::default(),
        fresh: HashMap::new(),
        openings: std::collections::VecDeque::new(),
        open: false,
        clock_agrees: false,
        open_at: None,
        next_seal: Instant::now(),
        model_change: configuration.next_change(context.clock.now().wall),
        refusals,
    };
    let patience = session.refusals.patience();
    if patience > Duration::ZERO {
        time::sleep(patience).await;
    }
    // The first message must be on its way before the gateway answers at all.
    session.send_open(true).await?;
    let mut submitting = ProofsClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut answers = submitting.submit(ReceiverStream::new(proofs)).await?.into_inner();
    context.metrics.connected.set(1);
    tracing::info!(gateway = context.options.gateway, identity = %certified.identity(), "connected to the gateway");
    let reporter = Reporter { context: context.clone(), channel: channel.clone() };
    let (clocks, mut gateway_clock) = mpsc::channel(4);
    let reporting = AbortOnDrop(tokio::spawn(reporter.run(clocks)));
    let mut tick = time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidied = Instant::now();
    loop {
        tokio::select! {
            update = updates.message() => match update? {
                Some(update) => session.configure(update).await?,
                None => return Ok(()),
            },
            answer = answers.message() => match answer? {
                Some(answer) => session.answer(answer).await?,
                None => return Ok(()),
            },
            Some(now) = gateway_clock.recv() => session.compare_clocks(now).await?,
            _ = tick.tick() => {
                session.tick().await?;
                if tidied.elapsed() > TIDY {
                    tidied = Instant::now();
                    on_store(context, |store| store.tidy()).await??;
                    let now = context.clock.now().wall;
                    if now >= certified.info.renewal() {
                        context.credentials.renew(channel.clone(), &context.clock).await?;
                        return Ok(());
                    }
                }
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(reporting);
    session.finish(&mut answers).await
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

impl Session<'_> {
    fn sealing(&self) -> Sealing {
        let configuration = self.context.configuration.read().unwrap_or_else(PoisonError::into_inner);
        let mut limits = configuration.proof_limits();
        limits.bytes = (limits.bytes >> self.refusals.halvings.min(8)).max(4096);
        Sealing {
            key: self.context.credentials.key.clone(),
            registry: (configuration.registry_incarnation, configuration.registry_version),
            limits,
            keep_parked_ms: i64::try_from(self.context.options.keep_unapproved.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Opens the chain, or with `chain` false only confirms the configuration.
    async fn send_open(&mut self, chain: bool) -> Result<(), SessionError> {
        let configuration = self.context.configuration();
        let chains = if chain {
            let (incarnation, next_sequence, sealed_sequence) = on_store(self.context, |store| {
                let state = store.state();
                (state.incarnation, crate::sealer::chain::declared(state), state.next_sequence.saturating_sub(1))
            })
            .await?;
            vec![OpenChain { key_id: self.key.0.to_vec().into(), incarnation, next_sequence, sealed_sequence }]
        } else {
            Vec::new()
        };
        let now = self.context.clock.now().wall;
        let open = OpenChains {
            chains,
            confirmed_registry_incarnation: configuration.registry_incarnation,
            confirmed_registry_version: configuration.registry_version,
            confirmed_models: configuration.in_force(now).iter().map(|(digest, _)| digest.0.to_vec().into()).collect(),
        };
        self.openings.push_back(chain);
        self.send(submit_request::Message::Open(open)).await
    }

    async fn send(&mut self, message: submit_request::Message) -> Result<(), SessionError> {
        let sent = self.up.send(SubmitRequest { message: Some(message) }).await;
        sent.map_err(|_| tonic::Status::unavailable("the stream of proofs is closed").into())
    }

    async fn configure(&mut self, update: v1::ConfigurationUpdate) -> Result<(), SessionError> {
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

    async fn answer(&mut self, answer: SubmitResponse) -> Result<(), SessionError> {
        match answer.message {
            Some(submit_response::Message::Opened(opened)) => self.opened(opened).await,
            Some(submit_response::Message::Outcomes(batch)) => {
                for outcome in batch.outcomes {
                    self.outcome(outcome).await?;
                }
                self.pump().await
            }
            Some(submit_response::Message::Window(window)) => {
                self.flow.set_window(window_of(&window));
                self.pump().await
            }
            None => Ok(()),
        }
    }

    async fn opened(&mut self, opened: v1::ChainsOpened) -> Result<(), SessionError> {
        self.compare_clocks(opened.now).await?;
        let own = opened.heads.iter().find(|head| head.key_id == self.key.0.as_slice());
        let named = self.openings.pop_front().unwrap_or(true);
        if let Some(window) = &opened.window {
            self.flow.set_window(window_of(window));
        }
        if !named {
            return Ok(());
        }
        let head =
            own.map(convert::head_from_proto).transpose()?.map(|(_, head)| head).filter(|head| head.incarnation > 0);
        let archived = own.map_or(0, |head| head.archived_sequence);
        let (sealing, now, refused) = (self.sealing(), self.context.clock.now(), self.refusals.refused);
        let result = on_store(self.context, move |store| {
            if let Some(head) = &head {
                store.archived(head.incarnation, archived)?;
            }
            sealing.open(store, head.as_ref(), refused, &now)
        });
        let Opened { held, reopened } = result.await??;
        self.refusals.refused = false;
        self.fresh.clear();
        if reopened {
            // The gateway must know of the new incarnation before its first proof.
            self.flow.close();
            self.open = false;
            return self.send_open(true).await;
        }
        let window = opened.window.as_ref().map_or(FIRST_WINDOW, window_of);
        self.flow.open(Some(window), held.iter().map(place_of));
        self.open = true;
        self.open_at = None;
        self.pump().await
    }

    /// Sends what the window allows.
    async fn pump(&mut self) -> Result<(), SessionError> {
        if !self.open {
            return Ok(());
        }
        loop {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH_PROOFS && bytes < BATCH_BYTES {
                let Some(place) = self.flow.next_to_send() else { break };
                bytes += place.bytes;
                batch.push(self.load(place).await?);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.send(submit_request::Message::Proofs(ProofBatch { proofs: batch })).await?;
        }
    }

    async fn load(&mut self, place: Place) -> Result<SignedProof, SessionError> {
        if let Some(proof) = self.fresh.remove(&(place.incarnation, place.sequence)) {
            return Ok(proof);
        }
        let found = on_store(self.context, move |store| {
            let held = store
                .state()
                .held
                .iter()
                .find(|held| (held.incarnation, held.sequence) == (place.incarnation, place.sequence));
            held.copied().map(|held| store.proof(&held))
        });
        match found.await? {
            Some(proof) => Ok(proof?),
            None => Err(SessionError::Lost),
        }
    }

    async fn outcome(&mut self, outcome: Outcome) -> Result<(), SessionError> {
        let digest = convert::digest("outcome.digest", &outcome.digest)?;
        let (incarnation, sequence) = (outcome.incarnation, outcome.sequence);
        let said = match &outcome.result {
            Some(outcome::Result::Judged(_)) => Said::Judged,
            Some(outcome::Result::Deferred(deferred)) => {
                Said::Deferred { reason: deferred.reason, after_ms: deferred.retry_after_ms }
            }
            Some(outcome::Result::Refused(refused)) => Said::Refused { reason: refused.reason },
            None => return Ok(()),
        };
        match self.flow.answer(incarnation, sequence, &digest, said) {
            Step::GoOn => Ok(()),
            Step::Receipt(place) => match outcome.result {
                Some(outcome::Result::Judged(judged)) => self.receipt(place, &judged).await,
                _ => Ok(()),
            },
            Step::OpenAgain { after_ms, reason } => {
                tracing::info!(
                    sequence,
                    reason = reason.map_or("unknown", Reason::name),
                    after_ms,
                    "the gateway defers"
                );
                self.flow.close();
                self.fresh.clear();
                self.open = false;
                self.open_at = Some(Instant::now() + Duration::from_millis(after_ms));
                Ok(())
            }
            Step::NewIncarnation { smaller, reason } => {
                let reason = reason.map_or("unknown", Reason::name);
                tracing::warn!(
                    incarnation,
                    sequence,
                    reason,
                    "the gateway refused a proof; its readings are sealed anew"
                );
                self.refusals.refused = true;
                self.refusals.in_a_row += 1;
                self.refusals.halvings += u32::from(smaller);
                self.flow.close();
                self.fresh.clear();
                self.open = false;
                self.open_at = Some(Instant::now() + self.refusals.patience());
                Ok(())
            }
            Step::Barred(reason) => Err(SessionError::Barred(reason.map_or("unknown", Reason::name))),
        }
    }

    async fn receipt(&mut self, place: Place, judged: &v1::Judged) -> Result<(), SessionError> {
        let wrong =
            |what: String| SessionError::Receipt { incarnation: place.incarnation, sequence: place.sequence, what };
        let receipt = judged.receipt.as_ref().ok_or_else(|| wrong("is missing".to_owned()))?;
        let body = envelope::decode_receipt(&receipt.body).map_err(|error| wrong(error.to_string()))?;
        let ours = body.key == self.key
            && (body.incarnation, body.sequence) == (place.incarnation, place.sequence)
            && body.digest == place.digest;
        if !ours || !body.durable {
            return Err(wrong("is for something else, or not durable".to_owned()));
        }
        let signer =
            self.server_key.borrow().clone().ok_or_else(|| wrong("the gateway's key is not known".to_owned()))?;
        let signer = VerifyingKey::new(&signer).map_err(|error| wrong(error.to_string()))?;
        // Several gateways share one certificate's key; another one's receipt is not taken over this connection.
        if signer.id() != body.gateway || !signer.verify(envelope::RECEIPT_DOMAIN, &receipt.body, &receipt.signature) {
            return Err(wrong("is not signed by the gateway's key".to_owned()));
        }
        self.refusals.in_a_row = 0;
        let metrics = &self.context.metrics;
        metrics.receipts.inc();
        if !judged.repeated {
            metrics.accepted.inc_by(body.accepted);
            for rejection in judged.verdict.iter().flat_map(|verdict| &verdict.rejections) {
                let reason =
                    u16::try_from(rejection.reason).ok().and_then(Reason::from_code).map_or("unknown", Reason::name);
                let count = (rejection.readings.len() as u64).max(1);
                metrics.judged.get_or_create(&ReasonLabel { reason }).inc_by(count);
            }
        }
        let unanswered = on_store(self.context, move |store| {
            store.receipt(place.incarnation, place.sequence, body.archived)?;
            Ok::<_, StoreError>(store.state().unanswered())
        });
        metrics.unanswered.set(i64::try_from(unanswered.await??).unwrap_or(i64::MAX));
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

    async fn seal(&mut self) -> Result<(), SessionError> {
        // In a backlog one seal follows the other as long as the window takes them.
        while self.flow.hungry() {
            let (sealing, now) = (self.sealing(), self.context.clock.now());
            let view = self.context.configuration.read().unwrap_or_else(PoisonError::into_inner).view();
            let made = on_store(self.context, move |store| {
                let made = sealing.ripe(store, &view, &now);
                (made, store.given_up(), store.waiting(), store.spool_bytes(), store.state().unanswered())
            });
            let (made, given_up, waiting, bytes, unanswered) = made.await?;
            let made = made?;
            let metrics = &self.context.metrics;
            metrics.spool_readings.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            metrics.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            metrics.unanswered.set(i64::try_from(unanswered).unwrap_or(i64::MAX));
            metrics.follow_given_up(&given_up);
            self.next_seal = Instant::now() + self.context.options.seal_interval;
            for mut sealed in made.proofs {
                // One trace follows the proof to the ledger; sampled, and beside the signed bytes.
                let span = tracing::info_span!("seal", sequence = sealed.sequence, readings = sealed.readings);
                self.context.intake.followed().lend(&span);
                sealed.proof.traceparent = depin_telemetry::trace_context::traceparent(&span).unwrap_or_default();
                metrics.sealed.inc_by(sealed.readings);
                let bytes = sealed.proof.sections.iter().map(|section| section.len() as u64).sum::<u64>()
                    + sealed.proof.header.len() as u64
                    + 128;
                let incarnation = envelope::decode_header(&sealed.proof.header).map_err(SealError::from)?.incarnation;
                self.flow.push(Place { incarnation, sequence: sealed.sequence, digest: sealed.digest, bytes });
                self.fresh.insert((incarnation, sealed.sequence), sealed.proof);
            }
            self.pump().await?;
            if !made.more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits a little for the answers that are under way, then makes the receipts durable.
    async fn finish(mut self, answers: &mut Streaming<SubmitResponse>) -> Result<(), SessionError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.flow.unanswered() > 0 {
            match time::timeout_at(deadline, answers.message()).await {
                Ok(Ok(Some(SubmitResponse { message: Some(submit_response::Message::Outcomes(batch)) }))) => {
                    for outcome in batch.outcomes {
                        self.outcome(outcome).await?;
                    }
                }
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        on_store(self.context, |store| store.sync()).await??;
        Ok(())
    }
}

fn window_of(window: &v1::Window) -> Window {
    Window {
        proofs: usize::try_from(window.proofs).unwrap_or(OWN_WINDOW.proofs).clamp(1, OWN_WINDOW.proofs),
        bytes: window.bytes.clamp(1, OWN_WINDOW.bytes),
    }
}

fn place_of(held: &Held) -> Place {
    Place { incarnation: held.incarnation, sequence: held.sequence, digest: held.digest, bytes: held.bytes }
}

/// Reports sightings and status beside the stream of proofs, so that a slow answer holds up nothing.
struct Reporter {
    context: Context,
    channel: Channel,
}

impl Reporter {
    async fn run(self, clocks: mpsc::Sender<i64>) {
        let mut client = ConfigurationClient::new(self.channel.clone());
        let mut status_due = Instant::now();
        let mut tick = time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let sightings = self.context.intake.take_sightings();
            for sightings in sightings.chunks(256) {
                let reported = sightings.iter().map(|sighted| v1::Sighting {
                    model: sighted.model.clone(),
                    serial: sighted.serial.clone(),
                    first_seen: sighted.first_seen.0,
                    topic: sighted.topic.clone(),
                });
                let request = SightingsRequest { sightings: reported.collect() };
                if let Err(status) = client.report_sightings(request).await {
                    tracing::warn!(%status, "sightings of unknown devices could not be reported; they are tried again");
                    self.context.intake.return_sightings(sightings);
                }
            }
            if Instant::now() >= status_due {
                status_due = Instant::now() + self.context.options.status_interval;
                let Some(status) = self.status().await else { return };
                match client.report_status(status).await {
                    // The session ended: so does the reporter.
                    Ok(answer) => {
                        if clocks.send(answer.into_inner().now).await.is_err() {
                            return;
                        }
                    }
                    Err(status) => tracing::warn!(%status, "the status could not be reported"),
                }
            }
        }
    }

    async fn status(&self) -> Option<AgentStatus> {
        let (bytes, waiting, oldest, drops) = with_store(&self.context.store, |store| {
            let drops: Vec<_> = store
                .state()
                .drops
                .iter()
                .map(|drop| DropCount { reason: drop.reason.into(), count: drop.count })
                .collect();
            (store.spool_bytes(), store.waiting(), store.oldest(), drops)
        })
        .await?;
        let active = self.context.intake.take_active();
        let configuration = self.context.configuration();
        let ids =
            configuration.devices.values().filter(|device| device.until.is_none() && active.contains(&device.serial));
        let now = self.context.clock.now();
        Some(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spool_bytes: bytes,
            spool_readings: waiting,
            oldest_reading: oldest.map_or(0, |oldest| oldest.0),
            drops,
            active_devices: ids.map(|device| device.id.0.to_vec().into()).collect(),
            rejected: self
                .context
                .intake
                .rejections()
                .into_iter()
                .map(|(reason, count)| DropCount { reason: reason.code().into(), count })
                .collect(),
            clock: now.wall.0,
            clock_set: now.is_set(),
        })
    }
}

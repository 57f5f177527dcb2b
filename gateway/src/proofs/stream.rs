//! One agent's stream of proofs.
//!
//! Batches enter the ledger in the order in which they came, several at a time, and are answered in that order. The stream
//! stops reading while its window is full, so HTTP/2's flow control holds the agent back; what is unanswered holds a share of
//! the room that all streams have.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use depin_domain::{ids::KeyId, proofs::Reason};
use depin_identity::SigningKey;
use depin_ledger::{Confirmation, LedgerError, OpenChain, Outcome, Submission};
use depin_proto::{
    convert::{digest, head_to_proto, key_id},
    envelope::OpenedProof,
    v1::{self, submit_request::Message, submit_response},
};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesOrdered};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Code, Status, Streaming};

use super::{
    answer::{self, deferred, outcome, refused},
    screen::{Screened, Subject, screen, size, subject},
    service::{Place, Shared},
    verifier::Signed,
};
use crate::peer::AgentPeer;

/// How often a quiet stream is looked at for revocation and expiry: within a minute, with room to spare.
const RECHECK: Duration = Duration::from_secs(20);
/// Chains of one message, and models that it confirms.
const MAX_CHAINS: usize = 10_000;
/// Chains that a stream remembers as declared.
const MAX_DECLARED: usize = 100_000;

type Answers = mpsc::Sender<Result<v1::SubmitResponse, Status>>;
type Pending = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// A proof's place in a batch.
enum Slot {
    /// Decided without the ledger.
    Decided(v1::Outcome),
    /// Waits for the ledger; a sampled one has a span that ends with it.
    Submitted(Subject, Box<OpenedProof>, Option<tracing::Span>),
}

/// A batch that is answered.
struct Answered {
    outcomes: Vec<v1::Outcome>,
    proofs: u32,
    bytes: u64,
}

/// What is known of the stream.
pub(super) struct Session {
    shared: Arc<Shared>,
    agent: AgentPeer,
    place: Place,
    /// The next sequence that the agent declared for a chain's incarnation.
    declared: HashMap<(KeyId, u64), u64>,
    unanswered_proofs: u32,
    unanswered_bytes: u64,
    /// The window that the agent was told; none before it opened a chain.
    window: Option<v1::Window>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, agent: AgentPeer, place: Place) -> Self {
        Self { shared, agent, place, declared: HashMap::new(), unanswered_proofs: 0, unanswered_bytes: 0, window: None }
    }

    pub(super) async fn run(mut self, mut inbound: Streaming<v1::SubmitRequest>, answers: Answers) {
        let ended = self.serve(&mut inbound, &answers).await;
        self.shared.metrics.stream_ended(ended.as_ref().map_or("status", |end| end.name()));
        if let Err(status) = ended {
            tracing::debug!(agent = %self.agent.id, %status, "a stream of proofs ends");
            // The agent may be gone already.
            let _unheard = answers.send(Err(status)).await;
        }
    }

    /// Until the agent closes its side, the gateway drains, the connection is old, or the agent may not go on. What is under way is answered
    /// first.
    async fn serve(
        &mut self,
        inbound: &mut Streaming<v1::SubmitRequest>,
        answers: &Answers,
    ) -> Result<InOrder, Status> {
        let stop = self.shared.stop.clone();
        let mut pending: FuturesOrdered<Pending> = FuturesOrdered::new();
        let mut recheck = tokio::time::interval(RECHECK);
        let mut registry = self.shared.ledger.registry();
        let mut reading = true;
        let mut ended = Ok(InOrder::Closed);
        let agent = self.agent.clone();
        let aged = agent.aged(Duration::ZERO);
        tokio::pin!(aged);
        while reading || !pending.is_empty() {
            let room = self.has_room();
            tokio::select! {
                biased;
                Some(answered) = pending.next() => self.answer(answered, answers).await?,
                () = stop.cancelled(), if reading => (reading, ended) = (false, Ok(InOrder::Stopped)),
                () = &mut aged, if reading => (reading, ended) = (false, Ok(InOrder::Age)),
                _ = recheck.tick(), if reading => {
                    let now = self.shared.clock.now();
                    if let Err(status) = self.agent.admit(&registry.borrow_and_update().registry, now) {
                        (reading, ended) = (false, Err(status));
                    }
                }
                message = inbound.message(), if reading && room => match self.take(message, answers).await {
                    Ok(Some(mut batch)) => {
                        // The first poll hands the batch to the ledger: batches enter it in the order of the stream.
                        match futures::poll!(&mut batch) {
                            std::task::Poll::Ready(answered) => {
                                pending.push_back(std::future::ready(answered).boxed());
                            }
                            std::task::Poll::Pending => pending.push_back(batch),
                        }
                    }
                    Ok(None) if answers.is_closed() => return Ok(InOrder::Closed),
                    Ok(None) => {}
                    Err(End::Closed) => reading = false,
                    Err(End::Status(status)) => (reading, ended) = (false, Err(*status)),
                },
            }
        }
        ended
    }

    fn has_room(&self) -> bool {
        let limits = &self.shared.limits;
        self.unanswered_proofs < limits.window_proofs && self.unanswered_bytes < limits.window_bytes
    }

    async fn answer(&mut self, answered: Answered, answers: &Answers) -> Result<(), Status> {
        self.unanswered_proofs = self.unanswered_proofs.saturating_sub(answered.proofs);
        self.unanswered_bytes = self.unanswered_bytes.saturating_sub(answered.bytes);
        let batch = v1::OutcomeBatch { outcomes: answered.outcomes };
        respond(answers, submit_response::Message::Outcomes(batch)).await?;
        self.tell_window(answers).await
    }

    /// Tells the agent another window where the room that all streams share fills, or is ample again.
    async fn tell_window(&mut self, answers: &Answers) -> Result<(), Status> {
        let free = self.shared.room.available_permits();
        let Some(window) = self.window.as_ref().and_then(|told| self.shared.limits.window_after(told, free)) else {
            return Ok(());
        };
        self.window = Some(window);
        respond(answers, submit_response::Message::Window(window)).await
    }

    /// One message: answered at once, or a batch that is under way.
    async fn take(
        &mut self,
        message: Result<Option<v1::SubmitRequest>, Status>,
        answers: &Answers,
    ) -> Result<Option<Pending>, End> {
        let request = message.map_err(too_large)?.ok_or(End::Closed)?;
        let now = self.shared.clock.now();
        self.agent.admit(&self.shared.ledger.registry().borrow().registry, now)?;
        self.shared.presence.heard(self.agent.id, now);
        match request.message {
            Some(Message::Open(open)) => {
                let opened = self.open(open).await?;
                respond(answers, submit_response::Message::Opened(opened)).await?;
                Ok(None)
            }
            Some(Message::Proofs(batch)) => {
                let pending = self.batch(batch.proofs).await?;
                self.tell_window(answers).await?;
                Ok(Some(pending))
            }
            None => Err(Status::invalid_argument("SubmitRequest.message: is neither open nor proofs").into()),
        }
    }

    /// Opens chains: their heads, after the ledger knows what the agent has confirmed.
    async fn open(&mut self, open: v1::OpenChains) -> Result<v1::ChainsOpened, Status> {
        if open.chains.len() > MAX_CHAINS || open.confirmed_models.len() > MAX_CHAINS {
            return Err(Status::invalid_argument(format!("OpenChains: more than {MAX_CHAINS} chains or models")));
        }
        let ledger = &self.shared.ledger;
        let invalid = |error: depin_proto::convert::FieldError| Status::invalid_argument(error.to_string());
        let mut models = Vec::with_capacity(open.confirmed_models.len());
        for model in &open.confirmed_models {
            models.push(digest("open.confirmed_models", model).map_err(invalid)?);
        }
        let snapshot = Arc::clone(&ledger.registry().borrow());
        let mut chains = Vec::with_capacity(open.chains.len());
        for chain in &open.chains {
            let key = key_id("open.chains.key_id", &chain.key_id).map_err(invalid)?;
            // Chains that are none of this agent's are left out: it learns nothing of them.
            if key != self.agent.key && !snapshot.registry.may_relay(&self.agent.id, &key) {
                continue;
            }
            let v1::OpenChain { incarnation, next_sequence, sealed_sequence, .. } = *chain;
            chains.push(OpenChain { key, incarnation, next_sequence, sealed_sequence });
        }
        if open.confirmed_registry_version > 0 || !models.is_empty() {
            let version = open.confirmed_registry_version;
            let registry_incarnation = open.confirmed_registry_incarnation;
            let agent = self.agent.id;
            ledger
                .confirm(Confirmation { agent, registry_incarnation, registry_version: version, models })
                .await
                .map_err(unavailable)?;
            // A version of a lost incarnation is none of this registry's.
            if registry_incarnation == snapshot.incarnation {
                self.shared.presence.confirmed(agent, version);
            }
        }
        if self.declared.len() + chains.len() > MAX_DECLARED {
            return Err(Status::resource_exhausted("the stream opened too many chains; begin a new one"));
        }
        self.declared.extend(chains.iter().map(|chain| ((chain.key, chain.incarnation), chain.next_sequence)));
        let heads = ledger.open_chains(chains).await.map_err(unavailable)?;
        let window = self.shared.limits.window(self.shared.room.available_permits());
        self.window = Some(window);
        Ok(v1::ChainsOpened {
            heads: heads.iter().map(|head| head_to_proto(head.key, &head.head, head.archived_sequence)).collect(),
            now: self.shared.clock.now().0,
            window: Some(window),
        })
    }

    /// Screens and verifies a batch and prepares its way into the ledger.
    async fn batch(&mut self, proofs: Vec<v1::SignedProof>) -> Result<Pending, Status> {
        let arrived = Instant::now();
        let limits = &self.shared.limits;
        if proofs.len() > limits.max_batch_proofs {
            let (count, most) = (proofs.len(), limits.max_batch_proofs);
            return Err(Status::resource_exhausted(format!("ProofBatch.proofs: {count} proofs; at most {most}")));
        }
        let bytes: usize = proofs.iter().map(size).sum();
        let count = u32::try_from(proofs.len()).unwrap_or(u32::MAX);
        self.unanswered_proofs = self.unanswered_proofs.saturating_add(count);
        self.unanswered_bytes = self.unanswered_bytes.saturating_add(bytes as u64);
        let overload = self.overload(count, bytes);
        let (slots, submissions, room) = match overload {
            Err(message) => (self.defer_all(&proofs, &message), Vec::new(), None),
            Ok(room) => {
                let (slots, submissions) = self.admit(proofs).await?;
                (slots, submissions, Some(room))
            }
        };
        let (shared, key) = (Arc::clone(&self.shared), Arc::clone(&self.agent.receipts));
        Ok(Box::pin(async move {
            let outcomes = settle(&shared, &key, slots, submissions, arrived).await;
            drop(room);
            Answered { outcomes, proofs: count, bytes: bytes as u64 }
        }))
    }

    /// Room for these bytes, or why there is none.
    fn overload(&self, count: u32, bytes: usize) -> Result<OwnedSemaphorePermit, String> {
        let limits = &self.shared.limits;
        // A full window may be exceeded by the message that fills it, not by another one's worth.
        if self.unanswered_proofs > limits.window_proofs.saturating_mul(2)
            || self.unanswered_bytes > limits.window_bytes.saturating_add(limits.max_message_bytes as u64)
        {
            return Err("more is unanswered on this stream than its window allows".to_owned());
        }
        let mut bucket = self.place.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if !bucket.take(count.into(), self.shared.clock.now()) {
            return Err(format!("the agent sends more than {} proofs a second", limits.agent_proofs_per_second));
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.shared.room)
            .try_acquire_many_owned(permits)
            .map_err(|_| "the gateway has as much unanswered as it can hold".to_owned())
    }

    fn defer_all(&self, proofs: &[v1::SignedProof], message: &str) -> Vec<Slot> {
        let defer = |proof| {
            self.shared.metrics.deferred(Reason::Overloaded);
            Slot::Decided(outcome(subject(proof), deferred(Reason::Overloaded, message.to_owned())))
        };
        proofs.iter().map(defer).collect()
    }

    /// Decides what needs no ledger, and verifies the signatures of the rest.
    async fn admit(&self, proofs: Vec<v1::SignedProof>) -> Result<(Vec<Slot>, Vec<Submission>), Status> {
        let snapshot = Arc::clone(&self.shared.ledger.registry().borrow());
        let mut screened = Vec::with_capacity(proofs.len());
        let mut signed = Vec::new();
        for proof in &proofs {
            let mut decision = screen(proof, &self.agent, &snapshot, &self.shared.limits);
            if let Screened::Candidate(opened, public) = &decision {
                match self.shared.keys.get(public, opened.header.key) {
                    Ok(key) => {
                        signed.push(Signed { key, header: proof.header.clone(), signature: proof.signature.clone() });
                    }
                    Err(error) => decision = Screened::Refused(Reason::BadSignature, error.to_string()),
                }
            }
            screened.push(decision);
        }
        let verified = self.shared.verifier.verify(signed).await;
        let mut good = verified.map_err(|error| Status::unavailable(error.to_string()))?.into_iter();
        let mut slots = Vec::with_capacity(proofs.len());
        let mut submissions = Vec::new();
        for (proof, decision) in proofs.into_iter().zip(screened) {
            let slot = match decision {
                Screened::Deferred(reason, message) => self.defer(&proof, reason, message),
                Screened::Refused(reason, message) => self.refuse(&proof, reason, message),
                Screened::Candidate(opened, _) if good.next() == Some(true) => {
                    let span = sampled(&proof);
                    let key = opened.header.key;
                    submissions.push(Submission {
                        proof,
                        opened: (*opened).clone(),
                        agent: self.agent.id,
                        declared: self.declared.get(&(key, opened.header.incarnation)).copied(),
                    });
                    Slot::Submitted(answer::subject_of(key, &opened), opened, span)
                }
                Screened::Candidate(..) => {
                    self.refuse(&proof, Reason::BadSignature, "the signature does not verify".to_owned())
                }
            };
            slots.push(slot);
        }
        Ok((slots, submissions))
    }

    fn defer(&self, proof: &v1::SignedProof, reason: Reason, message: String) -> Slot {
        self.shared.metrics.deferred(reason);
        Slot::Decided(outcome(subject(proof), deferred(reason, message)))
    }

    fn refuse(&self, proof: &v1::SignedProof, reason: Reason, message: String) -> Slot {
        self.shared.metrics.refused(reason);
        tracing::debug!(agent = %self.agent.id, reason = reason.name(), %message, "a proof is refused");
        Slot::Decided(outcome(subject(proof), refused(reason, message)))
    }
}

/// A message beyond the limit is an overload like any other.
fn too_large(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => Status::resource_exhausted(status.message()),
        _ => status,
    }
}

/// How a stream ended with nothing wrong.
#[derive(Clone, Copy, Debug)]
enum InOrder {
    /// The agent closed its side.
    Closed,
    /// The gateway stops.
    Stopped,
    /// The connection is old.
    Age,
}

impl InOrder {
    /// As a label.
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stopped => "stopped",
            Self::Age => "age",
        }
    }
}

/// Why no further message is read.
enum End {
    /// The agent closed its side.
    Closed,
    /// The stream ends with this status.
    Status(Box<Status>),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn unavailable(error: LedgerError) -> Status {
    crate::record::status(error)
}

async fn respond(answers: &Answers, message: submit_response::Message) -> Result<(), Status> {
    let sent = answers.send(Ok(v1::SubmitResponse { message: Some(message) })).await;
    sent.map_err(|_| Status::cancelled("the agent is gone"))
}

/// A span of the trace that the agent began, for the few proofs that carry one.
fn sampled(proof: &v1::SignedProof) -> Option<tracing::Span> {
    if proof.traceparent.is_empty() {
        return None;
    }
    let span = tracing::info_span!("judge proof");
    if depin_telemetry::trace_context::continue_trace(&span, &proof.traceparent).is_err() {
        tracing::debug!("a proof's traceparent is malformed; it is judged without a trace");
        return None;
    }
    Some(span)
}

/// Hands the submissions to the ledger and turns its outcomes into answers, in the order of the batch.
async fn settle(
    shared: &Shared,
    key: &SigningKey,
    slots: Vec<Slot>,
    submissions: Vec<Submission>,
    arrived: Instant,
) -> Vec<v1::Outcome> {
    // The trace ends with the durable append: the last span that a sampled reading gets.
    let append = |slot: &Slot| match slot {
        Slot::Submitted(_, _, Some(span)) => Some(tracing::info_span!(parent: span, "append")),
        Slot::Submitted(..) | Slot::Decided(_) => None,
    };
    let appending: Vec<tracing::Span> = slots.iter().filter_map(append).collect();
    let judged = if submissions.is_empty() { Ok(Vec::new()) } else { shared.ledger.append(submissions).await };
    drop(appending);
    let failure = judged.as_ref().err().map(|error| match error {
        LedgerError::Overloaded => (Reason::Overloaded, error.to_string()),
        other => (Reason::LedgerUnavailable, other.to_string()),
    });
    let mut judged = judged.unwrap_or_default().into_iter();
    let missing = || (Reason::LedgerUnavailable, "the ledger did not answer for this proof".to_owned());
    let mut outcomes = Vec::with_capacity(slots.len());
    for slot in slots {
        outcomes.push(match slot {
            Slot::Decided(outcome) => outcome,
            Slot::Submitted(subject, proof, span) => {
                let result = judged.next().unwrap_or_else(|| {
                    let (reason, message) = failure.clone().unwrap_or_else(missing);
                    Outcome::Deferred { reason, message }
                });
                count(shared, &result, &proof, arrived.elapsed());
                drop(span);
                let answer = answer::from_ledger(&result, &proof, key).unwrap_or_else(|error| {
                    // The ledger's own verdicts always encode; the proof is recorded and will be answered when resent.
                    tracing::error!(%error, "a verdict cannot be encoded");
                    deferred(Reason::LedgerUnavailable, error.to_string())
                });
                outcome(subject, answer)
            }
        });
    }
    outcomes
}

fn count(shared: &Shared, outcome: &Outcome, proof: &OpenedProof, latency: Duration) {
    match outcome {
        Outcome::Refused { reason, .. } => shared.metrics.refused(*reason),
        Outcome::Deferred { reason, .. } => shared.metrics.deferred(*reason),
        Outcome::Judged { verdict, received_at, repeated, .. } => {
            shared.metrics.judged(*repeated, latency);
            if *repeated {
                return;
            }
            shared.metrics.accepted_readings(verdict.accepted);
            for rejection in &verdict.rejections {
                if let Some(section) = proof.sections.get(rejection.section as usize) {
                    shared.metrics.rejected_readings(rejection.reason, answer::rejected_by(section, rejection));
                }
            }
            let snapshot = Arc::clone(&shared.ledger.registry().borrow());
            let known = |device: &_| snapshot.registry.device(device).is_some();
            shared.presence.judged(&proof.sections, verdict, *received_at, known);
        }
    }
}

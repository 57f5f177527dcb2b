//! The Proofs service: admits streams, at most so many, and gives each a task.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use depin_domain::ids::AgentId;
use depin_ledger::Ledger;
use depin_proto::v1::{self, proofs_server::Proofs};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{KeyCache, Verifier, stream::Session};
use crate::{
    clock::Clock,
    limits::Limits,
    metrics::{Held, Metrics},
    peer,
    presence::Presence,
    rate::Bucket,
};

/// Answers that may wait for a slow reader; then its stream stops reading too.
const ANSWERS: usize = 8;

/// What every stream shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) verifier: Verifier,
    pub(crate) keys: KeyCache,
    /// Bytes that may still be taken in, over all streams.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
    open: Mutex<HashMap<AgentId, Streams>>,
}

/// An agent's streams and its rate, which they share.
#[derive(Debug)]
struct Streams {
    count: usize,
    bucket: Arc<Mutex<Bucket>>,
}

/// The parts that a service is made of.
pub(crate) struct Parts {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) verifier: Verifier,
    pub(crate) stop: CancellationToken,
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct ProofsService {
    shared: Arc<Shared>,
}

impl ProofsService {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { ledger, limits, clock, metrics, presence, verifier, stop } = parts;
        let room = Arc::new(Semaphore::new(limits.max_unanswered_bytes.min(Semaphore::MAX_PERMITS)));
        let keys = KeyCache::default();
        let open = Mutex::default();
        let shared = Shared { ledger, limits, clock, metrics, presence, verifier, keys, room, stop, open };
        Self { shared: Arc::new(shared) }
    }
}

/// A stream's place among the limited many; given back when it is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    agent: AgentId,
    /// The agent's rate over all its streams.
    pub(super) bucket: Arc<Mutex<Bucket>>,
    _counted: Held,
}

impl Place {
    fn take(shared: &Arc<Shared>, agent: AgentId) -> Result<Self, Status> {
        let now = shared.clock.now();
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = shared.limits.streams;
        // Buckets of agents without a stream stay, so that reconnecting refills nothing; they are few bytes each,
        // and as many as there are approved agents.
        if open.values().map(|streams| streams.count).sum::<usize>() >= total {
            return Err(Status::resource_exhausted(format!("{total} streams are open; try again later")));
        }
        let per_second = shared.limits.agent_proofs_per_second;
        let streams = open
            .entry(agent)
            .or_insert_with(|| Streams { count: 0, bucket: Arc::new(Mutex::new(Bucket::new(per_second, 4, now))) });
        if streams.count >= shared.limits.agent_streams {
            let most = shared.limits.agent_streams;
            return Err(Status::resource_exhausted(format!("the agent has {most} streams open; end one first")));
        }
        streams.count += 1;
        let bucket = Arc::clone(&streams.bucket);
        drop(open);
        shared.presence.connected(agent, now);
        Ok(Self { shared: Arc::clone(shared), agent, bucket, _counted: Held::new(&shared.metrics.streams) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streams) = open.get_mut(&self.agent) {
            streams.count = streams.count.saturating_sub(1);
        }
        drop(open);
        self.shared.presence.disconnected(self.agent);
    }
}

#[tonic::async_trait]
impl Proofs for ProofsService {
    type SubmitStream = ReceiverStream<Result<v1::SubmitResponse, Status>>;

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let agent = peer::agent(&request, now)?;
        agent.admit(&shared.ledger.registry().borrow().registry, now)?;
        let place = Place::take(shared, agent.id)?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        let session = Session::new(Arc::clone(shared), agent, place);
        tokio::spawn(session.run(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

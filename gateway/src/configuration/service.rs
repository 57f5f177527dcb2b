//! The Configuration service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use depin_domain::ids::AgentId;
use depin_ledger::{InboxRequest, Ledger, RegistrySnapshot};
use depin_proto::v1::{self, configuration_server::Configuration};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::view::View;
use crate::{
    clock::Clock,
    limits::Limits,
    metrics::{Held, Metrics},
    peer::{self, AgentPeer},
    presence::Presence,
    rate::Bucket,
    tls_files::Trusted,
};

/// How often a quiet watch is looked at for revocation and expiry.
const RECHECK: Duration = Duration::from_secs(20);
/// So long after the streams of proofs of an old connection ends its watch.
const AFTER_PROOFS: Duration = Duration::from_secs(5);
/// Sightings of one request.
const MAX_SIGHTINGS: usize = 256;
/// Bytes of a serial, model name, version or topic that an agent reports.
const MAX_TEXT: usize = 253;
const MAX_TOPIC: usize = 1_024;
/// Entries of each list of a status.
const MAX_STATUS_LIST: usize = 100_000;

/// What the service needs.
#[derive(Clone, Debug)]
pub(crate) struct ConfigurationService {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) stop: CancellationToken,
    /// Each agent's allowance of sightings; as many as there are approved agents.
    pub(crate) sightings: Arc<Mutex<HashMap<AgentId, Bucket>>>,
    /// The authorities that agents trust.
    pub(crate) trusted: watch::Receiver<Arc<Trusted>>,
}

#[tonic::async_trait]
impl Configuration for ConfigurationService {
    type WatchStream = ReceiverStream<Result<v1::ConfigurationUpdate, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchConfigurationRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let now = self.clock.now();
        let agent = peer::agent(&request, now)?;
        agent.admit(&self.ledger.registry().borrow().registry, now)?;
        let held = request.into_inner();
        let (updates, stream) = mpsc::channel(2);
        let service = self.clone();
        tokio::spawn(async move {
            let _counted = Held::new(&service.metrics.watches);
            service.presence.connected(agent.id, now);
            if let Err(status) = service.follow(&agent, &held, &updates).await {
                // The agent may be gone already.
                let _unheard = updates.send(Err(status)).await;
            }
            service.presence.disconnected(agent.id);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn report_sightings(
        &self,
        request: Request<v1::SightingsRequest>,
    ) -> Result<Response<v1::SightingsResponse>, Status> {
        let now = self.clock.now();
        let agent = self.known_agent(&request)?;
        let sightings = request.into_inner().sightings;
        check_sightings(&sightings)?;
        let per_minute = self.limits.agent_sightings_per_minute;
        // The bucket counts in seconds: one holds a minute's worth and refills in about a minute.
        let per_second = per_minute.div_ceil(60);
        let allowed = {
            let mut buckets = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
            let bucket = buckets.entry(agent.id).or_insert_with(|| Bucket::new(per_second, 60, now));
            bucket.take(sightings.len() as u64, now)
        };
        if !allowed {
            self.metrics.inbox("sightings", "limited");
            return Err(Status::resource_exhausted(format!("more than {per_minute} sightings a minute; report later")));
        }
        let posted = self.ledger.post_inbox(InboxRequest::Sightings { agent: agent.id, sightings }).await;
        let posted = posted.map_err(crate::record::status)?;
        self.metrics.inbox("sightings", "posted");
        Ok(Response::new(v1::SightingsResponse { recorded: posted.recorded }))
    }

    async fn report_status(
        &self,
        request: Request<v1::AgentStatus>,
    ) -> Result<Response<v1::AgentStatusResponse>, Status> {
        let now = self.clock.now();
        let agent = self.known_agent(&request)?;
        let status = request.into_inner();
        let lists = [status.drops.len(), status.rejected.len(), status.active_devices.len()];
        let too_long = status.version.len() > MAX_TEXT || status.gateway.len() > MAX_TOPIC;
        if lists.iter().any(|length| *length > MAX_STATUS_LIST) || too_long {
            return Err(Status::invalid_argument("AgentStatus: a list, the version or the gateway is too long"));
        }
        self.presence.status(agent.id, status, now);
        Ok(Response::new(v1::AgentStatusResponse { now: now.0 }))
    }
}

impl ConfigurationService {
    /// The calling agent, which the registry must know: what it reports is kept.
    fn known_agent<T>(&self, request: &Request<T>) -> Result<AgentPeer, Status> {
        let now = self.clock.now();
        let agent = peer::agent(request, now)?;
        let registry = self.ledger.registry();
        let snapshot = registry.borrow();
        agent.admit(&snapshot.registry, now)?;
        if snapshot.registry.agent(&agent.id).is_none() {
            return Err(Status::failed_precondition("the registry does not know the agent yet; try again later"));
        }
        Ok(agent)
    }

    /// Sends what the agent lacks, then changes, until it leaves, may not stay, or the gateway drains.
    async fn follow(
        &self,
        agent: &AgentPeer,
        held: &v1::WatchConfigurationRequest,
        updates: &mpsc::Sender<Result<v1::ConfigurationUpdate, Status>>,
    ) -> Result<(), Status> {
        let mut registry = self.ledger.registry();
        let first = Arc::clone(&registry.borrow_and_update());
        let mut view = View::of(&first.registry, &agent.id, self.clock.now());
        let current =
            (held.registry_incarnation, held.registry_version) == (first.incarnation, first.registry.version());
        let mut trusted = self.trusted.clone();
        if !current && !self.send(agent, view.snapshot(), &first, updates).await? {
            return Ok(());
        }
        // An agent of an earlier version tells none: it would not hear either.
        let listens = !held.ca_digest.is_empty();
        let authorities = Arc::clone(&trusted.borrow_and_update());
        let differs = held.ca_digest != authorities.digest.as_ref();
        if listens && differs && !self.send(agent, Ok(told(&authorities)), &first, updates).await? {
            return Ok(());
        }
        let mut recheck = tokio::time::interval(RECHECK);
        // The stream of proofs ends first: with its end the agent leaves the connection by itself.
        let aged = agent.aged(AFTER_PROOFS);
        tokio::pin!(aged);
        loop {
            let mut news = false;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = updates.closed() => return Ok(()),
                () = &mut aged => return Ok(()),
                _ = recheck.tick() => {}
                changed = registry.changed() => if changed.is_err() { return Ok(()) },
                // No sender: the gateway stops.
                Ok(()) = trusted.changed(), if listens => news = true,
            }
            let snapshot = Arc::clone(&registry.borrow_and_update());
            let now = self.clock.now();
            agent.admit(&snapshot.registry, now)?;
            let newer = View::of(&snapshot.registry, &agent.id, now);
            if let Some(update) = view.change_to(&newer).transpose()
                && !self.send(agent, update, &snapshot, updates).await?
            {
                return Ok(());
            }
            view = newer;
            if news {
                let authorities = Arc::clone(&trusted.borrow_and_update());
                if !self.send(agent, Ok(told(&authorities)), &snapshot, updates).await? {
                    return Ok(());
                }
            }
        }
    }

    /// False: the agent is gone.
    async fn send(
        &self,
        agent: &AgentPeer,
        update: Result<v1::ConfigurationUpdate, depin_domain::canonical::CanonicalError>,
        snapshot: &RegistrySnapshot,
        updates: &mpsc::Sender<Result<v1::ConfigurationUpdate, Status>>,
    ) -> Result<bool, Status> {
        let update = update.map_err(|error| Status::internal(format!("a model has no canonical form: {error}")))?;
        let update = v1::ConfigurationUpdate {
            registry_incarnation: snapshot.incarnation,
            registry_version: snapshot.registry.version(),
            limits: Some(self.limits.for_agents()),
            now: self.clock.now().0,
            ..update
        };
        // Before the wait: an agent that takes nothing confirms nothing either.
        self.presence.sent(agent.id, update.registry_version);
        Ok(updates.send(Ok(update)).await.is_ok())
    }
}

/// What an agent is told of the authorities.
fn told(trusted: &Trusted) -> v1::ConfigurationUpdate {
    v1::ConfigurationUpdate {
        ca: trusted.ca.clone(),
        ca_vouchers: trusted.vouchers.clone(),
        ..v1::ConfigurationUpdate::default()
    }
}

fn check_sightings(sightings: &[v1::Sighting]) -> Result<(), Status> {
    if sightings.len() > MAX_SIGHTINGS {
        return Err(Status::invalid_argument(format!("sightings: more than {MAX_SIGHTINGS} at once")));
    }
    for sighting in sightings {
        if sighting.serial.is_empty() || sighting.serial.len() > MAX_TEXT {
            return Err(Status::invalid_argument(format!("sightings.serial: must have 1 to {MAX_TEXT} bytes")));
        }
        if sighting.model.len() > MAX_TEXT || sighting.topic.len() > MAX_TOPIC {
            return Err(Status::invalid_argument("sightings: model or topic is too long"));
        }
    }
    Ok(())
}

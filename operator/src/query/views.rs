//! The way to the ledger for each view: a connection under a certificate that shows no more than the view.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use depin_domain::time::Timestamp;
use depin_identity::PeerIdentity;
use kube::Client;
use tonic::{Status, transport::Channel};

use super::View;
use crate::{
    certificates::{self, keeper::gateway_authorities, validity},
    clock::Clock,
    options::Options,
};

/// Connections that are kept; the oldest goes for a new one.
const KEPT: usize = 64;

/// Connections to the ledger by view.
pub struct Views(Source);

enum Source {
    Issued(Box<Issued>),
    /// One for every view.
    Given(Channel),
}

struct Issued {
    client: Client,
    namespace: String,
    ledger: String,
    gateway_ca_file: Option<PathBuf>,
    clock: Clock,
    kept: Mutex<HashMap<View, (Channel, Timestamp)>>,
}

impl Views {
    /// To the ledger that the options name, by certificates of the authority in the operator's namespace.
    #[must_use]
    pub fn new(client: Client, options: &Options, clock: Clock) -> Self {
        let Options { namespace, ledger, gateway_ca_file, .. } = options;
        let (namespace, ledger, gateway_ca_file) = (namespace.clone(), ledger.clone(), gateway_ca_file.clone());
        let kept = Mutex::default();
        Self(Source::Issued(Box::new(Issued { client, namespace, ledger, gateway_ca_file, clock, kept })))
    }

    /// Over one channel, whatever is asked: what it shows is up to its other end.
    #[must_use]
    pub fn given(channel: Channel) -> Self {
        Self(Source::Given(channel))
    }

    /// The channel that shows `view` and nothing else.
    pub(super) async fn channel(&self, view: &View) -> Result<Channel, Status> {
        match &self.0 {
            Source::Given(channel) => Ok(channel.clone()),
            Source::Issued(issued) => issued.channel(view).await,
        }
    }
}

impl Issued {
    async fn channel(&self, view: &View) -> Result<Channel, Status> {
        let now = self.clock.now();
        if let Some(channel) = self.known(view, now) {
            return Ok(channel);
        }
        // Read anew for each connection: another authority takes effect without a word to this replica.
        let authorities =
            certificates::existing_authorities(&self.client, &self.namespace, now).await.map_err(|error| {
                tracing::warn!(%error, "no certificate for a question to the ledger");
                Status::unavailable("the network's CA cannot be read yet; is an operator leading?")
            })?;
        let peer = match view {
            View::Namespace(namespace) => PeerIdentity::Viewer { namespace: namespace.clone() },
            View::All => PeerIdentity::Operator,
        };
        let made = gateway_authorities(self.gateway_ca_file.as_deref())
            .and_then(|more| certificates::channel(&authorities, more, &peer, validity::query(now), &self.ledger));
        let channel = made.map_err(|error| {
            tracing::error!(%error, "no connection for a question to the ledger");
            Status::internal("no connection to the ledger can be made; see the operator's log")
        })?;
        self.keep(view, &channel, now);
        Ok(channel)
    }

    fn known(&self, view: &View, now: Timestamp) -> Option<Channel> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (channel, made) = kept.get(view)?;
        (now.since(*made) < validity::QUERY_RENEWAL_MS).then(|| channel.clone())
    }

    fn keep(&self, view: &View, channel: &Channel, now: Timestamp) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            let oldest = kept.iter().min_by_key(|(_, (_, made))| *made).map(|(view, _)| view.clone());
            oldest.map(|view| kept.remove(&view));
        }
        kept.insert(view.clone(), (channel.clone(), now));
    }
}

//! Leader election: takes the Lease, keeps it, and says when it is lost.
//!
//! A Lease alone does not fence: what the leader writes to the ledger carries the ledger's writer token, which the next leader
//! takes away. Losing the Lease ends the process, so that nothing of the old leadership lives on.

pub mod lease;

use std::time::Duration;

use depin_domain::time::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use crate::clock::Clock;
use lease::{GIVE_UP, RENEW, Seen, Step, evaluate_lease, released};

/// Name of the Lease.
const NAME: &str = "depin-operator";

/// The leadership is lost; the process must end.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipLost {
    /// Another took it.
    #[error("another operator leads now")]
    Taken,
    /// It could not be renewed.
    #[error("the Lease could not be renewed in time: {0}")]
    NotRenewed(String),
}

/// A candidate and, once [`Election::win`] returns, the leader.
pub struct Election {
    leases: Api<Lease>,
    me: String,
    clock: Clock,
    seen: Option<Seen>,
}

impl Election {
    /// A candidate called `me` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, me: String, clock: Clock) -> Self {
        Self { leases: Api::namespaced(client, namespace), me, clock, seen: None }
    }

    /// Waits until this operator leads.
    pub async fn win(&mut self) {
        loop {
            match self.look().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the Lease cannot be read or written; trying again"),
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    /// Renews until the leadership is lost.
    pub async fn keep(&mut self) -> LeadershipLost {
        let mut renewed = self.clock.now();
        loop {
            tokio::time::sleep(RENEW).await;
            let look = tokio::time::timeout(RENEW, self.look()).await;
            let problem = match look {
                Ok(Ok(true)) => {
                    renewed = self.clock.now();
                    continue;
                }
                Ok(Ok(false)) => return LeadershipLost::Taken,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server does not answer".to_owned(),
            };
            tracing::warn!(problem, "the Lease was not renewed");
            if since(renewed, self.clock.now()) >= GIVE_UP {
                return LeadershipLost::NotRenewed(problem);
            }
        }
    }

    /// Gives the Lease back, so that the next leader need not wait.
    pub async fn release(&self) {
        let given_back = async {
            let lease = self.leases.get(NAME).await?;
            let mine = lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.me));
            match lease.spec.clone().filter(|_| mine) {
                Some(spec) => self.write(Some(&lease), released(&spec)).await,
                None => Ok(false),
            }
        };
        if let Err(error) = given_back.await {
            tracing::warn!(%error, "the Lease could not be given back; the next leader waits until it expires");
        }
    }

    /// One look; true if this operator leads after it.
    async fn look(&mut self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(NAME).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        match evaluate_lease(spec, &mut self.seen, &self.me, self.clock.now()) {
            Step::Renew(spec) | Step::Take(spec) => self.write(lease.as_ref(), spec).await,
            Step::Wait => Ok(false),
        }
    }

    /// Writes `spec` over the Lease that was seen; false if someone else was faster (the resourceVersion guards it).
    async fn write(&self, seen: Option<&Lease>, spec: LeaseSpec) -> Result<bool, kube::Error> {
        let written = match seen {
            Some(lease) => {
                let replaced = Lease { spec: Some(spec), ..lease.clone() };
                self.leases.replace(NAME, &PostParams::default(), &replaced).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                self.leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(now.since(earlier)).unwrap_or(0))
}

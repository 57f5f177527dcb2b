//! What every controller works with.

use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardProgram};
use kube::{Client, runtime::reflector::ObjectRef};
use std::{sync::Arc, time::Duration};

use crate::{
    backoff::Backoff,
    clock::Clock,
    invalid::NotReady,
    ledger::Ledger,
    metrics::Metrics,
    registry::{RegistryError, RegistryHandle},
    status::StatusHandle,
    watched::{View, Watched},
};

/// The objects as the API server last told them.
#[derive(Clone)]
pub struct Stores {
    /// EdgeDeviceModels.
    pub models: View<EdgeDeviceModel>,
    /// EdgeFleets.
    pub fleets: View<EdgeFleet>,
    /// EdgeAgents.
    pub agents: View<EdgeAgent>,
    /// EdgeDevices.
    pub devices: View<EdgeDevice>,
    /// EdgeEnrollments.
    pub enrollments: View<EdgeEnrollment>,
    /// RewardPrograms.
    pub programs: View<RewardProgram>,
}

impl Stores {
    /// The fleet `namespace/name`.
    #[must_use]
    pub fn fleet(&self, namespace: &str, name: &str) -> Option<Arc<EdgeFleet>> {
        self.fleets.get(&ObjectRef::new(name).within(namespace))
    }

    /// The agent `namespace/name`.
    #[must_use]
    pub fn agent(&self, namespace: &str, name: &str) -> Option<Arc<EdgeAgent>> {
        self.agents.get(&ObjectRef::new(name).within(namespace))
    }

    /// The device `namespace/name`.
    #[must_use]
    pub fn device(&self, namespace: &str, name: &str) -> Option<Arc<EdgeDevice>> {
        self.devices.get(&ObjectRef::new(name).within(namespace))
    }

    /// Waits until every kind was listed once. Nothing may be concluded from absence before.
    ///
    /// # Errors
    /// When a watch ended for good.
    pub async fn ready(&self) -> Result<(), kube::runtime::reflector::store::WriterDropped> {
        self.models.wait_until_ready().await?;
        self.fleets.wait_until_ready().await?;
        self.agents.wait_until_ready().await?;
        self.devices.wait_until_ready().await?;
        self.enrollments.wait_until_ready().await?;
        self.programs.wait_until_ready().await
    }
}

/// What every controller works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The objects as last told.
    pub stores: Stores,
    /// The namespaces that are watched.
    pub watched: Watched,
    /// The ledger.
    pub ledger: Ledger,
    /// The registry writer.
    pub registry: RegistryHandle,
    /// The status writer.
    pub status: StatusHandle,
    /// Failures by object.
    pub backoff: Backoff,
    /// Counters.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
    /// How long after its end a certificate is still renewed.
    pub renewal_grace_ms: i64,
    /// Audience of the ServiceAccounts' tokens that agents show.
    pub token_audience: String,
}

/// A reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The registry cannot be written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The API server says no.
    #[error("API server: {0}")]
    Api(#[from] kube::Error),
}

/// What became of a reconcile: in the registry, or why not.
pub type Verdict<T> = Result<T, NotReady>;

impl Context {
    /// When an object with this verdict is looked at again: one that waits soon, others now and then, which heals what an event
    /// that was lost left behind.
    #[must_use]
    pub fn next_look<T>(&self, uid: &str, verdict: &Verdict<T>) -> Duration {
        if verdict.as_ref().is_err_and(NotReady::is_waiting) {
            return self.backoff.failed(uid);
        }
        self.backoff.forget(uid);
        resync(uid)
    }
}

/// Ten minutes and up to five more, by the object, so that all of them spread.
fn resync(uid: &str) -> Duration {
    let spread = uid.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Duration::from_secs(600 + spread % 300)
}

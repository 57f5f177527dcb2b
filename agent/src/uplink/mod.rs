//! The uplink: everything that is said with the gateway.
//!
//! Enrolls, keeps the certificate fresh, follows the configuration, reports sightings and status, and submits proofs. Loses nothing when the
//! connection breaks, because nothing is kept here: the store is.

mod credentials;
pub mod endpoints;
pub mod flow;
mod joining;
pub mod seal;
mod session;

use std::{
    error::Error,
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

pub use credentials::{Asked, Certified, CredentialError, Credentials};
use depin_identity::Route;
use depin_log::Storage;
use endpoints::{Ended, Endpoints};
pub use joining::{Joining, ServiceAccount};
use tokio::{sync::watch, time};

use crate::{
    clock::Clock,
    committer::{SharedStore, with_store},
    configuration::Configuration,
    intake::{Intake, jitter},
    metrics::{EndpointLabel, Metrics, PeerLabel},
    sealer::{Store, wants_room},
    stop::stopped,
};

const GOODBYE: Duration = Duration::from_secs(3);

/// Where the gateways are and who the agent wants to be.
#[derive(Clone, Debug)]
pub struct UplinkOptions {
    /// The ways to the gateways, the preferred one first; at least one.
    pub gateways: Vec<Route>,
    /// Wanted name of the EdgeAgent.
    pub name: String,
    /// What it shows on its first start.
    pub joining: Joining,
    /// Between two seals while there is little to seal.
    pub seal_interval: Duration,
    /// Between two status reports.
    pub status_interval: Duration,
    /// How long readings of unapproved devices are kept.
    pub keep_unapproved: Duration,
}

/// What the uplink works with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) options: Arc<UplinkOptions>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) store: SharedStore,
    pub(crate) state: Arc<dyn Storage>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) configuration: Arc<RwLock<Configuration>>,
    pub(crate) filters: Arc<watch::Sender<Vec<String>>>,
    pub(crate) configured: depin_telemetry::Check,
}

impl Context {
    /// A copy of what the gateway told.
    pub(crate) fn configuration(&self) -> Configuration {
        self.configuration.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts models and devices into use.
    pub(crate) fn put_into_use(&self, configuration: &Configuration) {
        let now = self.clock.now().wall;
        let (problems, filters) = self.intake.configure(&configuration.in_force(now), &configuration.view());
        for problem in &problems {
            tracing::error!(%problem, "a source of a model cannot be used; the others are");
        }
        if configuration.names.is_empty() {
            self.configured.fail("the gateway told no model yet: is the agent in a fleet?");
        } else {
            self.configured.pass();
        }
        self.filters.send_if_modified(|known| {
            let changed = *known != filters;
            *known = filters;
            changed
        });
    }
}

/// Runs until `stop`.
pub(crate) async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let began = time::Instant::now();
    let mut endpoints = Endpoints::new(context.options.gateways.len());
    let mut refusals = session::Refusals::default();
    let mut again = false;
    while !*stop.borrow() {
        let (index, wait) = endpoints.next(began.elapsed());
        tokio::select! {
            () = time::sleep(wait), if !wait.is_zero() => {}
            () = stopped(&mut stop), if !wait.is_zero() => break,
            else => {}
        }
        let Some(route) = context.options.gateways.get(index) else { break };
        if std::mem::replace(&mut again, true) {
            context.metrics.reconnects.get_or_create(&PeerLabel { peer: "gateway" }).inc();
        }
        let started = began.elapsed();
        let outcome = {
            let session = connect(&context, route, &mut refusals, stop.clone());
            tokio::pin!(session);
            tokio::select! {
                outcome = &mut session => outcome,
                () = stopped(&mut stop) => {
                    // A session says goodbye by itself; enrollment is simply given up.
                    if let Ok(Err(error)) = time::timeout(GOODBYE, session).await {
                        tracing::debug!(%error, "the session ended while stopping");
                    }
                    break;
                }
            }
        };
        let how = match outcome {
            Ok(()) => {
                tracing::debug!(gateway = route.address, "the connection to the gateway ended in order");
                Ended::InOrder
            }
            Err(error) => {
                tracing::warn!(%error, gateway = route.address, "no connection to the gateway; readings wait in the spool");
                context.metrics.gateway_failures.get_or_create(&EndpointLabel::of(route)).inc();
                // What the gateway tells must be kept before anything is sealed, and a certificate before anything is sent.
                if lacks_room(&error) {
                    with_store(&context.store, Store::make_room).await;
                }
                Ended::Broken
            }
        };
        context.metrics.disconnected(route);
        let now = began.elapsed();
        endpoints.ended(index, how, now.saturating_sub(started), now, jitter);
    }
}

/// Whether the disk is full.
fn lacks_room(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(wants_room) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// One connection: enroll or renew where needed, then a session.
async fn connect(
    context: &Context,
    route: &Route,
    refusals: &mut session::Refusals,
    stop: watch::Receiver<bool>,
) -> Result<(), session::SessionError> {
    let Context { options, credentials, clock, .. } = context;
    // A journal whose disk failed is opened again before anything is sealed into it.
    with_store(&context.store, Store::recover).await.ok_or(session::SessionError::Lost)??;
    let certified = match credentials.certified()? {
        Some(certified) => certified,
        None => credentials.enroll(route, options, clock).await?,
    };
    let now = clock.now().wall;
    let certified = if certified.info.expired(now) {
        credentials.renew_ended(route, options, &certified, clock).await?
    } else {
        certified
    };
    let (channel, server_key) = credentials.channel(route, options, &certified, now)?;
    session::run(context, &certified, route, channel, server_key, refusals, stop).await
}

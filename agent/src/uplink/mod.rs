//! The uplink: everything that is said with the gateway.
//!
//! Enrolls, keeps the certificate fresh, follows the configuration, reports sightings and status, and submits proofs. Loses nothing when the
//! connection breaks, because nothing is kept here: the store is.

mod credentials;
pub mod flow;
pub mod seal;
mod session;

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

pub use credentials::{Asked, Certified, CredentialError, Credentials};
use depin_log::Storage;
use tokio::{sync::watch, time};

use crate::{
    clock::Clock,
    committer::{SharedStore, with_store},
    configuration::Configuration,
    intake::{Intake, jitter},
    metrics::{Metrics, PeerLabel},
    sealer::{Store, wants_room},
    stop::stopped,
};

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const GOODBYE: Duration = Duration::from_secs(3);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Where the gateway is and who the agent wants to be.
#[derive(Clone, Debug)]
pub struct UplinkOptions {
    /// `https://host:port`.
    pub gateway: String,
    /// Wanted name of the EdgeAgent.
    pub name: String,
    /// File with the join token, for the first start.
    pub join_token_file: Option<PathBuf>,
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
    let mut backoff = FIRST_BACKOFF;
    let mut refusals = session::Refusals::default();
    let mut again = false;
    while !*stop.borrow() {
        let started = time::Instant::now();
        let outcome = {
            let session = connect(&context, &mut refusals, stop.clone());
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
        match outcome {
            Ok(()) => tracing::debug!("the gateway's stream ended"),
            Err(error) => {
                tracing::warn!(%error, gateway = context.options.gateway, "no connection to the gateway; readings wait in the spool");
                // What the gateway tells must be kept before anything is sealed, and a certificate before anything is sent.
                if lacks_room(&error) {
                    with_store(&context.store, Store::make_room).await;
                }
            }
        }
        context.metrics.connected.set(0);
        context.metrics.sealing.set(0);
        if std::mem::replace(&mut again, true) {
            context.metrics.reconnects.get_or_create(&PeerLabel { peer: "gateway" }).inc();
        }
        // A connection that held for a while begins anew at the shortest wait.
        if started.elapsed() > LONGEST_BACKOFF {
            backoff = FIRST_BACKOFF;
        }
        let spread = u64::try_from(backoff.as_millis() / 2).unwrap_or(0) + 1;
        let wait = backoff + Duration::from_millis(jitter(spread));
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        tokio::select! {
            () = time::sleep(wait) => {}
            () = stopped(&mut stop) => break,
        }
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
    refusals: &mut session::Refusals,
    stop: watch::Receiver<bool>,
) -> Result<(), session::SessionError> {
    let Context { options, credentials, clock, .. } = context;
    // A journal whose disk failed is opened again before anything is sealed into it.
    with_store(&context.store, Store::recover).await.ok_or(session::SessionError::Lost)??;
    let certified = match credentials.certified()? {
        Some(certified) => certified,
        None => credentials.enroll(&options.gateway, &options.name, options.join_token_file.as_deref(), clock).await?,
    };
    let now = clock.now().wall;
    let token = options.join_token_file.as_deref();
    let certified = if certified.info.expired(now) {
        credentials.renew_ended(&options.gateway, &certified, &options.name, token, clock).await?
    } else {
        certified
    };
    let (channel, server_key) = credentials.channel(&options.gateway, &certified, now)?;
    session::run(context, &certified, channel, server_key, refusals, stop).await
}

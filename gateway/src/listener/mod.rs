//! Accepts TLS connections and says who is on the other side.
//!
//! Each connection uses the TLS settings that are newest when it comes, so rotated files need no restart. Handshakes run beside
//! each other, in order, and have time limits. Who has shown no certificate competes with its like only: neither a flood of silent
//! connections nor one of strangers takes a place from an agent.

mod age;
mod connection;
mod crowd;
mod handshake;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub(crate) use age::oldest;
use connection::Held;
pub(crate) use connection::{Asked, Connection};
use crowd::{Crowd, Member};
use depin_identity::CertificateInfo;
use handshake::Handshakes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{limits::Limits, metrics::Metrics, peer::Peer, tls_files::Served};

/// How long a place may take to become free.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors): others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Callers that are remembered at least before those without a connection are forgotten.
const SWEEP: usize = 1_024;

/// Why a connection was ended, or never became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The TLS handshake failed.
    HandshakeFailed,
    /// It took too long.
    HandshakeSlow,
    /// Others came while it was under way or waiting, more than there may be.
    HandshakesCrowded,
    /// It gave up while it waited for its turn.
    HandshakeGivenUp,
    /// No place among those who showed a certificate became free in time.
    NoPlace,
    /// Nothing was asked.
    NoRequest,
    /// The same caller opened newer ones, more than it may have.
    CallerCrowded,
    /// Newer strangers came, more than there may be.
    StrangersCrowded,
    /// A stranger stayed too long.
    StrangerAge,
}

impl Ending {
    /// As a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeSlow => "handshake_slow",
            Self::HandshakesCrowded => "handshakes_crowded",
            Self::HandshakeGivenUp => "handshake_given_up",
            Self::NoPlace => "no_place",
            Self::NoRequest => "no_request",
            Self::CallerCrowded => "caller_crowded",
            Self::StrangersCrowded => "strangers_crowded",
            Self::StrangerAge => "stranger_age",
        }
    }
}

/// What one port's connections share.
struct Port {
    handshakes: Handshakes,
    /// For those who showed a certificate.
    places: Arc<Semaphore>,
    strangers: Crowd,
    callers: Mutex<Callers>,
    terms: Terms,
    metrics: Arc<Metrics>,
}

/// What a port grants each of its callers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Most of one caller; a newer one displaces the oldest.
    pub(crate) connections: usize,
    /// How old one becomes; zero: any age.
    pub(crate) max_age: Duration,
}

/// Each caller's own connections, by its identity.
#[derive(Default)]
struct Callers {
    crowds: HashMap<String, Crowd>,
    /// So many are remembered before those without a connection are forgotten: as often as their number doubles.
    sweep_at: usize,
}

/// Accepts until `stop`, within these limits.
pub(crate) fn accept(
    listener: TcpListener,
    settings: watch::Receiver<Served>,
    limits: &Limits,
    terms: Terms,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, stream) = mpsc::channel(16);
    let port = Port {
        handshakes: Handshakes::new(settings, limits.handshakes, metrics.handshakes.clone()),
        places: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        strangers: Crowd::new(limits.stranger_connections, metrics.strangers.clone()),
        callers: Mutex::default(),
        terms,
        metrics,
    };
    tokio::spawn(async move {
        let _ended = stop.run_until_cancelled(accept_all(listener, Arc::new(port), accepted)).await;
    });
    ReceiverStream::new(stream)
}

async fn accept_all(listener: TcpListener, port: Arc<Port>, accepted: mpsc::Sender<io::Result<Connection>>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (port, accepted, silent) = (Arc::clone(&port), accepted.clone(), port.handshakes.enter());
        tokio::spawn(async move {
            match port.admit(stream, address, silent).await {
                // A closed channel: the server stops.
                Ok(connection) => drop(accepted.send(Ok(connection)).await),
                Err(ending) => {
                    tracing::debug!(%address, reason = ending.name(), "a connection is not taken");
                    port.metrics.connection_ended(ending);
                }
            }
        });
        // Whoever has spoken already is heard before the next one comes: a rush of callers displaces none of them as silent.
        tokio::task::yield_now().await;
    }
}

impl Port {
    /// The handshake, then a place.
    async fn admit(&self, stream: TcpStream, address: SocketAddr, silent: Member) -> Result<Connection, Ending> {
        let (stream, shown) = self.handshakes.shake(stream, address, silent).await?;
        let der = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = der.map(|der| CertificateInfo::from_der(der).map(Arc::new)).transpose().map_err(|error| {
            tracing::debug!(%address, %error, "a certificate cannot be read");
            Ending::HandshakeFailed
        })?;
        let held = match &certificate {
            None => Held::Stranger(self.strangers.enter()),
            Some(certificate) => {
                Held::Known { _place: self.place().await?, caller: self.caller(certificate.identity.to_string()) }
            }
        };
        let ends = age::age(self.terms.max_age, random()).map(|age| Instant::now() + age);
        let peer = Peer { address, certificate, shown, asked: Asked::default(), ends };
        Ok(Connection::new(stream, peer, held, Arc::clone(&self.metrics)))
    }

    /// One of the places for those who showed a certificate: others must end first where all are taken.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Ending> {
        let waiting = tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&self.places).acquire_owned());
        // Never closed.
        waiting.await.ok().and_then(Result::ok).ok_or(Ending::NoPlace)
    }

    fn caller(&self, identity: String) -> Member {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.crowds.len() >= callers.sweep_at.max(SWEEP) {
            callers.crowds.retain(|_, crowd| !crowd.is_empty());
            callers.sweep_at = callers.crowds.len() * 2;
        }
        let crowd = callers.crowds.entry(identity);
        crowd.or_insert_with(|| Crowd::new(self.terms.connections, Gauge::default())).enter()
    }
}

/// Where the system has no randomness, the time in nanoseconds spreads ages well enough.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_nanos()).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

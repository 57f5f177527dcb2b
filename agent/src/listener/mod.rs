//! An MQTT listener for hardware: CONNECT, PUBLISH with QoS 0 and 1, PINGREQ. There is nothing to subscribe to.
//!
//! A PUBACK follows `fdatasync`. Buffers are bounded by the packet limit and the window; backpressure is not reading. A message beyond the
//! limit is passed over as it comes, counted, and acknowledged too: else its sender would send it for ever.

mod connection;
pub mod packet;
mod sessions;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use depin_domain::ids::Digest;
use depin_log::Storage;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use crate::{intake::Intake, metrics::Metrics, stop::stopped};
use sessions::Sessions;

/// A stranger's TLS handshake must be done within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Who may connect, and how much.
#[derive(Clone)]
pub struct ListenerOptions {
    /// Largest packet in bytes that is read; a larger message is passed over and counted.
    pub max_packet: usize,
    /// Most connections.
    pub max_connections: usize,
    /// User name and SHA-256 of the password; none: everybody may connect.
    pub credentials: Option<(String, Digest)>,
    /// TLS settings; none: plain TCP.
    pub tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for ListenerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerOptions")
            .field("max_packet", &self.max_packet)
            .field("max_connections", &self.max_connections)
            .field("credentials", &self.credentials.is_some())
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self { max_packet: 300 * 1024, max_connections: 4_096, credentials: None, tls: None }
    }
}

impl ListenerOptions {
    fn admits(&self, user: Option<&str>, password: Option<&[u8]>) -> bool {
        self.credentials.as_ref().is_none_or(|(name, hash)| {
            // Digests are compared, so the time taken tells nothing of the password.
            user == Some(name) && password.is_some_and(|password| Digest::of(password) == *hash)
        })
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    options: Arc<ListenerOptions>,
    storage: Option<Arc<dyn Storage>>,
}

impl Listener {
    /// Binds the address.
    pub async fn bind(address: SocketAddr, options: ListenerOptions) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, options: Arc::new(options), storage: None })
    }

    /// Keeps clients' sessions there.
    #[must_use]
    pub fn keeping(self, storage: Arc<dyn Storage>) -> Self {
        Self { storage: Some(storage), ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`, and then until every connection has said goodbye.
    pub async fn run(self, intake: Arc<Intake>, metrics: Metrics, mut stop: watch::Receiver<bool>) {
        let sessions = self.storage.as_ref().map(|storage| Sessions::load(&**storage, Instant::now()));
        let sessions = Arc::new(sessions.unwrap_or_default());
        let keeping = self.storage.map(|storage| tokio::spawn(Arc::clone(&sessions).keep(storage, stop.clone())));
        let shared = connection::Shared { intake, options: Arc::clone(&self.options), sessions };
        let places = Arc::new(Semaphore::new(self.options.max_connections));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stopped(&mut stop) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: give others time to close theirs.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(%peer, limit = self.options.max_connections, "too many MQTT connections; raise listener.maxConnections");
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%peer, %error, "no TCP_NODELAY");
            }
            let (shared, stop, metrics) = (shared.clone(), stop.clone(), metrics.clone());
            tokio::spawn(async move {
                metrics.connections.inc();
                let ended = match shared.options.tls.clone() {
                    None => connection::serve(stream, shared, stop).await,
                    // In a box: what TLS needs is no part of every connection that has none.
                    Some(acceptor) => Box::pin(secured(acceptor, stream, shared, stop)).await,
                };
                metrics.connections.dec();
                match ended {
                    connection::Ended::Closed => tracing::debug!(%peer, "MQTT connection closed"),
                    other => tracing::info!(%peer, reason = %other, "MQTT connection ended"),
                }
                drop(place);
            });
        }
        if let Some(keeping) = keeping
            && keeping.await.is_err()
        {
            tracing::error!("the task that keeps MQTT sessions ended unexpectedly");
        }
        let all = u32::try_from(self.options.max_connections).unwrap_or(u32::MAX);
        // Closed only when the process ends anyway.
        let _ = tokio::time::timeout(Duration::from_secs(3), places.acquire_many(all)).await;
    }
}

/// Serves a connection behind TLS until it ends.
async fn secured(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    shared: connection::Shared,
    stop: watch::Receiver<bool>,
) -> connection::Ended {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => connection::serve(stream, shared, stop).await,
        Ok(Err(error)) => connection::Ended::Io(error),
        Err(_) => connection::Ended::KeepAlive,
    }
}

//! gRPC channels over these TLS settings: tonic's own settings know neither a pinned CA nor the server's key.

use std::{io, sync::Arc, time::Duration};

use depin_domain::ids::PublicKey;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::{certificates::key_of, proxy::Proxy};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Half-open connections are found by pings: an uplink that goes dark says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The address is no `https://host[:port]`.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address of the form https://host:port: {reason}")]
pub struct InvalidAddress {
    address: String,
    reason: String,
}

/// One way to a server.
#[derive(Clone, Debug)]
pub struct Route {
    /// `https://host:port`; the certificate must be valid for this host, whatever the way to it.
    pub address: String,
    /// The proxy that opens the tunnel to it; none: directly.
    pub proxy: Option<Proxy>,
    /// How long connecting may take, with the proxy's answer and the TLS handshake.
    pub connect_timeout: Duration,
    /// Between two pings that find a connection dead and keep the tables of NATs and proxies warm.
    pub keep_alive: Duration,
}

impl Route {
    /// Directly to `address`, with the usual times.
    #[must_use]
    pub fn direct(address: &str) -> Self {
        Self { address: address.to_owned(), proxy: None, connect_timeout: CONNECT_TIMEOUT, keep_alive: KEEP_ALIVE }
    }
}

/// The key that the server showed in its certificate on the newest connection; none before the first. Receipts are
/// verified with it.
pub type ServerKey = watch::Receiver<Option<PublicKey>>;

/// A channel that connects when it is first used, and again when the connection breaks.
///
/// # Errors
/// Where `address` is no `https://host[:port]`.
pub fn connect_lazy(address: &str, config: Arc<ClientConfig>) -> Result<(Channel, ServerKey), InvalidAddress> {
    connect_by(&Route::direct(address), config)
}

/// The same by this route.
///
/// # Errors
/// Where its address is no `https://host[:port]`.
pub fn connect_by(route: &Route, config: Arc<ClientConfig>) -> Result<(Channel, ServerKey), InvalidAddress> {
    let invalid = |reason: String| InvalidAddress { address: route.address.clone(), reason };
    let (uri, target) = target(&route.address)?;
    let server = ServerName::try_from(target.0.clone()).map_err(|error| invalid(error.to_string()))?;
    // tonic refuses https without its own TLS settings; the connector below always speaks TLS.
    let endpoint = Endpoint::from_shared(format!("http://{}:{}", uri.host().unwrap_or_default(), target.1))
        .map_err(|error| invalid(error.to_string()))?
        .origin(uri)
        .connect_timeout(route.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(route.keep_alive)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true);
    let (told, key) = watch::channel(None);
    let told = Arc::new(told);
    let (proxy, patience) = (route.proxy.clone(), route.connect_timeout);
    let connector = tower::service_fn(move |_: Uri| {
        let (target, server, config, told) = (target.clone(), server.clone(), Arc::clone(&config), Arc::clone(&told));
        let (proxy, deadline) = (proxy.clone(), Instant::now() + patience);
        async move {
            let stream = open(&target, proxy.as_ref(), deadline, server, config).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            told.send_replace(shown.and_then(|certificate| key_of(certificate).ok()));
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Ok((endpoint.connect_with_connector_lazy(connector), key))
}

/// The address as a URI, and its host without brackets and port.
///
/// # Errors
/// Where it is no `https://host[:port]`.
pub fn target(address: &str) -> Result<(Uri, (String, u16)), InvalidAddress> {
    let invalid = |reason: String| InvalidAddress { address: address.to_owned(), reason };
    let uri: Uri = address.parse().map_err(|error: http::uri::InvalidUri| invalid(error.to_string()))?;
    if uri.scheme_str() != Some("https") {
        return Err(invalid("the scheme is not https".to_owned()));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("the host is missing".to_owned()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);
    Ok((uri, (host, port)))
}

async fn open(
    target: &(String, u16),
    proxy: Option<&Proxy>,
    deadline: Instant,
    server: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = match proxy {
        None => reach((&target.0, target.1), deadline).await?,
        Some(proxy) => {
            let mut stream = reach(proxy.address(), deadline).await?;
            proxy.tunnel(&mut stream, &target.0, target.1).await?;
            stream
        }
    };
    TlsConnector::from(config).connect(server, stream).await
}

/// A connection to the first of the name's addresses that answers. Each has its share of the time that is left: one that is silent
/// keeps nobody from the next.
async fn reach(target: (&str, u16), deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host(target).await?.collect();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", target.0));
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(addresses.len() - index).map_or(left, |count| left / count);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = io::Error::new(error.kind(), format!("connect to {address}: {error}")),
            Err(_) => {
                failed = io::Error::new(io::ErrorKind::TimedOut, format!("connect to {address}: no answer in time"));
            }
        }
    }
    Err(failed)
}

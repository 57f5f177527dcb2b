//! gRPC channels over these TLS settings: tonic's own settings know neither a pinned CA nor the server's key.

use std::{io, sync::Arc, time::Duration};

use depin_domain::ids::PublicKey;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::certificates::key_of;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Half-open connections are found by pings: an uplink that goes dark says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The address is no `https://host[:port]`.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address of the form https://host:port: {reason}")]
pub struct InvalidAddress {
    address: String,
    reason: String,
}

/// The key that the server showed in its certificate on the newest connection; none before the first. Receipts are
/// verified with it.
pub type ServerKey = watch::Receiver<Option<PublicKey>>;

/// A channel that connects when it is first used, and again when the connection breaks.
///
/// # Errors
/// Where `address` is no `https://host[:port]`.
pub fn connect_lazy(address: &str, config: Arc<ClientConfig>) -> Result<(Channel, ServerKey), InvalidAddress> {
    let invalid = |reason: String| InvalidAddress { address: address.to_owned(), reason };
    let uri: Uri = address.parse().map_err(|error: http::uri::InvalidUri| invalid(error.to_string()))?;
    if uri.scheme_str() != Some("https") {
        return Err(invalid("the scheme is not https".to_owned()));
    }
    let host = uri.host().ok_or_else(|| invalid("the host is missing".to_owned()))?.to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server = ServerName::try_from(name).map_err(|error| invalid(error.to_string()))?;
    // tonic refuses https without its own TLS settings; the connector below always speaks TLS.
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
        .map_err(|error| invalid(error.to_string()))?
        .origin(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(CONNECT_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true);
    let (told, key) = watch::channel(None);
    let told = Arc::new(told);
    let target = (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port);
    let connector = tower::service_fn(move |_: Uri| {
        let (target, server, config, told) = (target.clone(), server.clone(), Arc::clone(&config), Arc::clone(&told));
        async move {
            let stream = open(&target, server, config).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            told.send_replace(shown.and_then(|certificate| key_of(certificate).ok()));
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Ok((endpoint.connect_with_connector_lazy(connector), key))
}

async fn open(
    target: &(String, u16),
    server: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect((target.0.as_str(), target.1)).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(server, stream).await
}

//! Answers people's questions to the ledger: who shows a ServiceAccount's token sees what RBAC lets it see.
//!
//! The service is the ledger's own, on a loopback address of the Pod: only a port-forward through the API server reaches it, and that is
//! encrypted and allowed by RBAC. Every replica answers, whether it leads or not. A caller's token is reviewed for each call; what the
//! caller may see is decided by the ledger, to which the call goes on under a certificate for just that: a viewer's of one namespace, or
//! the operator's own for all of them. Nothing that the operator writes can be written through here.

mod access;
mod forward;
mod permission;
mod views;

use std::{io, net::SocketAddr, time::Duration};

use depin_telemetry::Check;
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use crate::metrics::Metrics;
pub use access::Reviews;
use forward::Forward;
pub use permission::{GROUP, RESOURCE, VERB_BACKUP, VERB_FINALIZE, VERB_QUERY, VERB_RELEASE, View};
pub use views::Views;

/// Audience that a token must be made for: it is good for nothing else, and no other token is good here.
pub const AUDIENCE: &str = "depin-operator";
/// Metadata in which a caller names the namespace that it asks about; `*` for all.
pub const NAMESPACE_HEADER: &str = "depin-namespace";
/// Where the port-forward finds it in the Pod.
pub const PORT: u16 = 8445;

/// Half-open connections are found by pings.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Calls of one connection.
const STREAMS: u32 = 32;

/// The query service cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Tokens would go over the network in the clear.
    #[error(
        "--query-listen {0}: is no loopback address, and the port is not encrypted; a port-forward reaches 127.0.0.1 in the Pod"
    )]
    Exposed(SocketAddr),
    /// The port cannot be bound.
    #[error("--query-listen {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The server ended with an error.
    #[error("query service: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// The query service, bound and not serving yet.
pub struct QueryServer {
    listener: TcpListener,
    forward: Forward,
}

impl QueryServer {
    /// Binds `address`, which must be a loopback one.
    ///
    /// # Errors
    /// When it is not, or is taken.
    pub async fn bind(
        address: SocketAddr,
        reviews: Reviews,
        views: Views,
        metrics: Metrics,
    ) -> Result<Self, QueryError> {
        if !address.ip().is_loopback() {
            return Err(QueryError::Exposed(address));
        }
        let listener = TcpListener::bind(address).await.map_err(|error| QueryError::Bind(address, error))?;
        Ok(Self { listener, forward: Forward::new(reviews, views, metrics) })
    }

    /// Serves until `stop`; `serving` tells that it does.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn run(self, serving: &Check, stop: impl Future<Output = ()>) -> Result<(), QueryError> {
        serving.pass();
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .max_concurrent_streams(STREAMS)
            .add_service(self.forward)
            .serve_with_incoming_shutdown(incoming, stop)
            .await?;
        Ok(())
    }
}

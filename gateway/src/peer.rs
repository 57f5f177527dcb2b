//! Who calls: what TLS verified about the other side, and what it may do.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use depin_domain::{
    ids::{AgentId, KeyId},
    registry::{Holder, Registry},
    time::Timestamp,
};
use depin_identity::{CertificateInfo, PeerIdentity, SigningKey};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::listener::Asked;

/// The other side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it calls from.
    pub(crate) address: SocketAddr,
    /// Its verified certificate, if it showed one.
    pub(crate) certificate: Option<Arc<CertificateInfo>>,
    /// The key of the certificate that it was shown: it verifies receipts with it for as long as it stays, whatever came since.
    pub(crate) shown: Arc<SigningKey>,
    /// Whether it asked for anything on this connection.
    pub(crate) asked: Asked,
    /// When the connection is old enough that its streams end in order; none: never.
    pub(crate) ends: Option<Instant>,
}

/// An agent that TLS vouches for.
#[derive(Clone, Debug)]
pub(crate) struct AgentPeer {
    pub(crate) id: AgentId,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Of its certificate's key.
    pub(crate) key: KeyId,
    /// With which its receipts are signed.
    pub(crate) receipts: Arc<SigningKey>,
    /// When its certificate ends: long connections outlive it.
    expires: Timestamp,
    /// When its connection is old enough.
    ends: Option<Instant>,
}

/// A caller of the ledger's service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Reads and writes everything.
    Operator,
    /// Reads what belongs to its namespace.
    Viewer(String),
}

pub(crate) fn of<T>(request: &Request<T>) -> Result<&Peer, Status> {
    let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("the connection has no peer"))?;
    peer.asked.note();
    Ok(peer)
}

fn certificate(peer: &Peer, now: Timestamp) -> Result<&CertificateInfo, Status> {
    let certificate = peer
        .certificate
        .as_deref()
        .ok_or_else(|| Status::unauthenticated("a client certificate is needed; enroll first"))?;
    if certificate.expired(now) {
        return Err(Status::unauthenticated("the client certificate has expired; renew it and connect anew"));
    }
    Ok(certificate)
}

/// The agent that calls.
pub(crate) fn agent<T>(request: &Request<T>, now: Timestamp) -> Result<AgentPeer, Status> {
    let peer = of(request)?;
    let certificate = certificate(peer, now)?;
    match &certificate.identity {
        PeerIdentity::Agent { namespace, name } => Ok(AgentPeer {
            id: AgentId::of(namespace, name),
            namespace: namespace.clone(),
            name: name.clone(),
            key: certificate.key.id(),
            receipts: Arc::clone(&peer.shown),
            expires: certificate.validity.end,
            ends: peer.ends,
        }),
        other => Err(Status::permission_denied(format!("{other} is no agent"))),
    }
}

/// Operator or viewer.
pub(crate) fn reader<T>(request: &Request<T>, now: Timestamp) -> Result<Reader, Status> {
    match &certificate(of(request)?, now)?.identity {
        PeerIdentity::Operator => Ok(Reader::Operator),
        PeerIdentity::Viewer { namespace } => Ok(Reader::Viewer(namespace.clone())),
        other => Err(Status::permission_denied(format!("{other} may not read the ledger"))),
    }
}

impl AgentPeer {
    /// Returns so long after the connection became old enough; never, if it may live on.
    pub(crate) async fn aged(&self, after: Duration) {
        match self.ends {
            Some(ends) => tokio::time::sleep_until(ends + after).await,
            None => std::future::pending().await,
        }
    }

    /// Whether the agent may go on: its certificate lives, and neither its key was revoked nor is it another's.
    ///
    /// A key that the registry does not know at all is no reason to part: after a restore it may lack what it had.
    pub(crate) fn admit(&self, registry: &Registry, now: Timestamp) -> Result<(), Status> {
        if now >= self.expires {
            return Err(Status::unauthenticated("the client certificate has expired; renew it and connect anew"));
        }
        match registry.signer(&self.key).map(|signer| &signer.holder) {
            None => Ok(()),
            Some(Holder::Agent(id)) if *id == self.id => Ok(()),
            Some(_) => {
                Err(Status::permission_denied("KeyRevoked: the agent was removed or has another key; enroll anew"))
            }
        }
    }
}

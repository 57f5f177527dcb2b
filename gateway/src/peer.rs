//! Who calls: what TLS verified about the other side, and what it may do.

use std::{net::SocketAddr, sync::Arc};

use depin_domain::{
    ids::{AgentId, KeyId},
    registry::{Holder, Registry},
    time::Timestamp,
};
use depin_identity::{CertificateInfo, PeerIdentity};
use tonic::{Request, Status};

/// The other side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it calls from.
    pub(crate) address: SocketAddr,
    /// Its verified certificate, if it showed one.
    pub(crate) certificate: Option<Arc<CertificateInfo>>,
}

/// An agent that TLS vouches for.
#[derive(Clone, Debug)]
pub(crate) struct AgentPeer {
    pub(crate) id: AgentId,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Of its certificate's key.
    pub(crate) key: KeyId,
    /// When its certificate ends: long connections outlive it.
    expires: Timestamp,
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
    request.extensions().get::<Peer>().ok_or_else(|| Status::internal("the connection has no peer"))
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
    let certificate = certificate(of(request)?, now)?;
    match &certificate.identity {
        PeerIdentity::Agent { namespace, name } => Ok(AgentPeer {
            id: AgentId::of(namespace, name),
            namespace: namespace.clone(),
            name: name.clone(),
            key: certificate.key.id(),
            expires: certificate.validity.end,
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

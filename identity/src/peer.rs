//! Who a certificate is for, told by its one URI name.

use std::{fmt, str::FromStr};

use depin_domain::ids::AgentId;

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerIdentity {
    /// `spiffe://depin/agent/<namespace>/<name>`
    Agent {
        /// Namespace of the EdgeAgent.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `spiffe://depin/gateway`
    Gateway,
    /// `spiffe://depin/operator`
    Operator,
    /// `spiffe://depin/viewer/<namespace>`: may read what belongs to the namespace.
    Viewer {
        /// Which namespace.
        namespace: String,
    },
}

/// A URI name is none of those in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("URI name {0:?} is not spiffe://depin/(gateway|operator|agent/<namespace>/<name>|viewer/<namespace>)")]
pub struct UnknownPeer(pub String);

const PREFIX: &str = "spiffe://depin/";

impl PeerIdentity {
    /// The agent's id; none for others.
    #[must_use]
    pub fn agent_id(&self) -> Option<AgentId> {
        match self {
            Self::Agent { namespace, name } => Some(AgentId::of(namespace, name)),
            _ => None,
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::Agent { namespace, name } => write!(f, "agent/{namespace}/{name}"),
            Self::Gateway => f.write_str("gateway"),
            Self::Operator => f.write_str("operator"),
            Self::Viewer { namespace } => write!(f, "viewer/{namespace}"),
        }
    }
}

impl FromStr for PeerIdentity {
    type Err = UnknownPeer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownPeer(text.chars().take(300).collect());
        let path = text.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["gateway"] => Ok(Self::Gateway),
            ["operator"] => Ok(Self::Operator),
            ["agent", namespace, name] if is_label(namespace) && is_subdomain(name) => {
                Ok(Self::Agent { namespace: (*namespace).to_owned(), name: (*name).to_owned() })
            }
            ["viewer", namespace] if is_label(namespace) => Ok(Self::Viewer { namespace: (*namespace).to_owned() }),
            _ => Err(unknown()),
        }
    }
}

/// Whether `text` is an RFC 1123 label, as the name of a namespace.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// Whether `text` is an RFC 1123 subdomain, as the name of an EdgeAgent.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

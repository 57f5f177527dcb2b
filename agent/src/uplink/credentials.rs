//! The agent's key and certificate on disk, and how it gets them: enrollment by join token, renewal at two thirds.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use depin_domain::time::Timestamp;
use depin_identity::{
    certificates::{CertificateError, CertificateInfo, CertificateRequest, certificates},
    channel::{InvalidAddress, ServerKey, connect_lazy},
    keys::{KeyError, SigningKey, write_private},
    peer::PeerIdentity,
    tls::{KeyAndChain, TlsError, Trust, client_config},
    token::{InvalidToken, JoinToken},
};
use depin_proto::v1::{
    AgentFacts, EnrollRequest, EnrollResponse, RenewRequest, enroll_response::Result as Answer,
    enrollment_client::EnrollmentClient,
};
use tonic::transport::Channel;

use crate::clock::Clock;

/// Between two questions whether the operator has answered.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The agent cannot show who it is.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS settings.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The gateway's address.
    #[error("gateway: {0}")]
    Address(#[from] InvalidAddress),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token's text.
    #[error("{path}: {source}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: InvalidToken,
    },
    /// Neither certificate nor token.
    #[error(
        "not enrolled yet, and no join token: make one with `kubectl depin token create` and name its file with --join-token-file"
    )]
    NoToken,
    /// The operator said no.
    #[error("enrollment denied ({reason}): {message}")]
    Denied {
        /// CamelCase.
        reason: String,
        /// For a person.
        message: String,
    },
    /// The gateway cannot be reached or does not answer as it should.
    #[error("gateway: {0}")]
    Gateway(Box<tonic::Status>),
    /// An answer without content.
    #[error("the gateway's answer holds neither certificate nor refusal; update it")]
    Empty,
}

impl From<tonic::Status> for CredentialError {
    fn from(status: tonic::Status) -> Self {
        Self::Gateway(Box::new(status))
    }
}

/// Where key and certificates are.
#[derive(Clone, Debug)]
pub struct Credentials {
    directory: PathBuf,
    /// The agent's key: for TLS and for its chain.
    pub key: SigningKey,
}

/// Who the agent is, as certified.
#[derive(Clone, Debug)]
pub struct Certified {
    /// From the certificate.
    pub info: CertificateInfo,
    chain: String,
    ca: String,
}

/// What became of a question for a certificate.
#[derive(Debug)]
pub enum Asked {
    /// It is on disk.
    Certified(Box<Certified>),
    /// The operator has not answered; ask again after this time.
    Pending(Duration),
}

impl Credentials {
    /// Reads the key, or makes one.
    pub fn open(directory: &Path) -> Result<Self, CredentialError> {
        let key = SigningKey::load_or_create(&directory.join("agent.key"))?;
        Ok(Self { directory: directory.to_owned(), key })
    }

    /// What is on disk, if the agent is enrolled.
    pub fn certified(&self) -> Result<Option<Certified>, CredentialError> {
        let Some(chain) = self.read("agent.crt")? else { return Ok(None) };
        let Some(ca) = self.read("ca.crt")? else { return Ok(None) };
        let info = CertificateInfo::from_pem(&chain)?;
        // A key that was replaced by hand has no certificate yet.
        Ok((info.key == *self.key.public()).then_some(Certified { info, chain, ca }))
    }

    fn read(&self, name: &str) -> Result<Option<String>, CredentialError> {
        let path = self.directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialError::File { path, source }),
        }
    }

    fn keep(&self, name: &str, text: &str) -> Result<(), CredentialError> {
        let path = self.directory.join(name);
        write_private(&path, text.as_bytes()).map_err(|source| CredentialError::File { path, source })
    }

    /// A channel that shows the certificate, unless it is expired.
    pub fn channel(
        &self,
        gateway: &str,
        certified: &Certified,
        now: Timestamp,
    ) -> Result<(Channel, ServerKey), CredentialError> {
        let trust = Trust::Bundle(certificates(&certified.ca)?);
        let identity = KeyAndChain { key: self.key.clone(), chain: certificates(&certified.chain)? };
        let identity = (!certified.info.expired(now)).then_some(&identity);
        Ok(connect_lazy(gateway, client_config(&trust, identity)?)?)
    }

    /// Enrolls with the join token in the file; waits as long as the operator has not answered.
    pub async fn enroll(
        &self,
        gateway: &str,
        name: &str,
        token: Option<&Path>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Certified, CredentialError> {
        let path = token.ok_or(CredentialError::NoToken)?;
        let text =
            fs::read_to_string(path).map_err(|source| CredentialError::File { path: path.to_owned(), source })?;
        let token: JoinToken =
            text.parse().map_err(|source| CredentialError::Token { path: path.to_owned(), source })?;
        let (channel, _) = connect_lazy(gateway, client_config(&Trust::Pin(token.ca()), None)?)?;
        let request = EnrollRequest {
            token: token.secret().to_vec().into(),
            csr: CertificateRequest::make(&self.key)?.into(),
            name: name.to_owned(),
            facts: Some(facts()),
        };
        let mut client = EnrollmentClient::new(channel);
        loop {
            let response = client.enroll(request.clone()).await?.into_inner();
            match self.answered(response, clock.now().wall)? {
                Asked::Certified(certified) => return Ok(*certified),
                Asked::Pending(wait) => {
                    tracing::info!("enrollment waits for the operator");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Asks for the certificate after this one, for the same key. The same question each time, until there is an answer.
    pub async fn ask_renewal(
        &self,
        channel: Channel,
        certified: &Certified,
        now: Timestamp,
    ) -> Result<Asked, CredentialError> {
        let csr = CertificateRequest::make_renewal(&self.key, certified.info.validity.end)?;
        let request = RenewRequest { csr: csr.into(), facts: Some(facts()) };
        let response = EnrollmentClient::new(channel).renew(request).await?.into_inner();
        self.answered(response, now)
    }

    /// A certificate has ended: nothing can be done before there is another. Where it is too late for that, a join token that was put in place
    /// helps.
    pub async fn renew_ended(
        &self,
        gateway: &str,
        certified: &Certified,
        name: &str,
        token: Option<&Path>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Certified, CredentialError> {
        let (channel, _) = self.channel(gateway, certified, clock.now().wall)?;
        loop {
            match self.ask_renewal(channel.clone(), certified, clock.now().wall).await {
                Ok(Asked::Certified(certified)) => return Ok(*certified),
                Ok(Asked::Pending(wait)) => {
                    tracing::info!("the renewal of the ended certificate waits for the operator");
                    tokio::time::sleep(wait).await;
                }
                Err(error @ CredentialError::Denied { .. }) if token.is_some_and(Path::exists) => {
                    tracing::warn!(%error, "the certificate ended and is not renewed; the join token is tried");
                    return self.enroll(gateway, name, token, clock).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn answered(&self, response: EnrollResponse, now: Timestamp) -> Result<Asked, CredentialError> {
        match response.result.ok_or(CredentialError::Empty)? {
            Answer::Issued(issued) => {
                let info = CertificateInfo::from_pem(&issued.chain)?;
                // The certificate last: with it the agent counts as enrolled.
                self.keep("ca.crt", &issued.ca)?;
                self.keep("agent.crt", &issued.chain)?;
                tracing::info!(identity = %info.identity, until = info.validity.end.0, now = now.0, "certificate received");
                Ok(Asked::Certified(Box::new(Certified { info, chain: issued.chain, ca: issued.ca })))
            }
            Answer::Pending(pending) => {
                let wait = Duration::from_millis(pending.retry_after_ms.into());
                Ok(Asked::Pending(wait.clamp(Duration::from_millis(100), ASK_AGAIN * 15)))
            }
            Answer::Denied(denied) => Err(CredentialError::Denied { reason: denied.reason, message: denied.message }),
        }
    }
}

impl Certified {
    /// `namespace/name` as certified.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.info.identity
    }
}

fn facts() -> AgentFacts {
    let hostname =
        fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default();
    AgentFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname,
        node: std::env::var("NODE_NAME").unwrap_or_default(),
        architecture: std::env::consts::ARCH.to_owned(),
    }
}

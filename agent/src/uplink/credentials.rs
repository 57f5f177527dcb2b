//! The agent's key and certificate on disk, and how it gets them: enrollment by join token or by its ServiceAccount's token, renewal at two
//! thirds.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use depin_domain::{ids::Digest, time::Timestamp};
use depin_identity::{
    certificates::{CertificateError, CertificateInfo, CertificateRequest, certificates, pem},
    channel::{InvalidAddress, Route, ServerKey, connect_by},
    keys::{KeyError, SigningKey, write_private},
    pass::Pass,
    peer::PeerIdentity,
    seal::SealError,
    tls::{KeyAndChain, TlsError, Trust, client_config},
    token::{InvalidToken, JoinToken},
    trust::adopt,
};
use depin_proto::v1::{
    AgentFacts, EnrollRequest, EnrollResponse, RenewRequest, ServiceAccountPass, TermsRequest,
    enroll_response::Result as Answer, enrollment_client::EnrollmentClient,
};
use rustls_pki_types::CertificateDer;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::{Joining, ServiceAccount, UplinkOptions};
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
    /// The gateway's CAs.
    #[error("--gateway-ca-file {path}: {source}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CertificateError,
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
        "not enrolled yet, and no join token: make one with `kubectl depin token create` and name its file with --join-token-file; in a cluster \
         use --service-account-token-file"
    )]
    NoToken,
    /// The ServiceAccount's token cannot be sealed to the operator.
    #[error("the ServiceAccount's token: {0}")]
    Seal(#[from] SealError),
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

    /// Takes the authorities that the gateway tells: those that the agent trusts, and those that one of these vouches for. The next connection
    /// believes them.
    pub fn adopt(
        &self,
        options: &UplinkOptions,
        ca: &str,
        vouchers: &str,
        now: Timestamp,
    ) -> Result<(), CredentialError> {
        let known = self.read("ca.crt")?.unwrap_or_default();
        let mut trusted = certificates(&known)?;
        if let Some(Ok(more)) = options.joining.gateway_ca_file.as_deref().map(bundle) {
            trusted.extend(more);
        }
        let vouchers = if vouchers.is_empty() { Vec::new() } else { certificates(vouchers)? };
        let offered = certificates(ca)?;
        let taken = adopt(&trusted, &offered, &vouchers, now);
        if taken.is_empty() {
            tracing::error!(
                "the gateway tells of authorities for which none that is trusted vouches; the known ones stay"
            );
            return Ok(());
        }
        if taken.len() < offered.len() {
            tracing::warn!("the gateway tells of an authority for which none that is trusted vouches; it is left out");
        }
        let text = if taken == offered {
            ca.to_owned()
        } else {
            taken.iter().map(|authority| pem("CERTIFICATE", authority)).collect()
        };
        if text != known {
            self.keep("ca.crt", &text)?;
            tracing::info!(trusted = taken.len(), "the authorities that are trusted changed");
        }
        Ok(())
    }

    /// A channel that shows the certificate, unless it is expired.
    pub fn channel(
        &self,
        route: &Route,
        options: &UplinkOptions,
        certified: &Certified,
        now: Timestamp,
    ) -> Result<(Channel, ServerKey), CredentialError> {
        let mut trusted = certificates(&certified.ca)?;
        if let Some(path) = &options.joining.gateway_ca_file {
            // It may be gone by now: what the agent was given is enough for a gateway of the operator's making.
            match bundle(path) {
                Ok(more) => trusted.extend(more),
                Err(error) => tracing::warn!(%error, "--gateway-ca-file is left out"),
            }
        }
        let identity = KeyAndChain { key: self.key.clone(), chain: certificates(&certified.chain)? };
        let identity = (!certified.info.expired(now)).then_some(&identity);
        Ok(connect_by(route, client_config(&Trust::Bundle(trusted), identity)?)?)
    }

    /// Enrolls with what the agent was given to show; waits as long as the operator has not answered.
    pub async fn enroll(
        &self,
        route: &Route,
        options: &UplinkOptions,
        clock: &Arc<dyn Clock>,
    ) -> Result<Certified, CredentialError> {
        let (mut client, request) = match &options.joining.service_account {
            Some(account) => self.ask_by_account(route, options, account).await?,
            None => self.ask_by_token(route, options)?,
        };
        loop {
            let response = client.enroll(request.clone()).await?.into_inner();
            match self.answered(response, None, clock.now().wall)? {
                Asked::Certified(certified) => return Ok(*certified),
                Asked::Pending(wait) => {
                    tracing::info!("enrollment waits for the operator");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn ask_by_token(
        &self,
        route: &Route,
        options: &UplinkOptions,
    ) -> Result<(EnrollmentClient<Channel>, EnrollRequest), CredentialError> {
        let path = options.joining.join_token_file.as_deref().ok_or(CredentialError::NoToken)?;
        let token: JoinToken =
            secret(path)?.parse().map_err(|source| CredentialError::Token { path: path.to_owned(), source })?;
        let trust = match &options.joining.gateway_ca_file {
            Some(path) => Trust::Bundle(bundle(path)?),
            None => Trust::Pin(token.ca()),
        };
        let (channel, _) = connect_by(route, client_config(&trust, None)?)?;
        let request = EnrollRequest {
            token: token.secret().to_vec().into(),
            csr: CertificateRequest::make(&self.key)?.into(),
            name: options.name.clone(),
            facts: Some(facts()),
            service_account: None,
        };
        Ok((EnrollmentClient::new(channel), request))
    }

    async fn ask_by_account(
        &self,
        route: &Route,
        options: &UplinkOptions,
        account: &ServiceAccount,
    ) -> Result<(EnrollmentClient<Channel>, EnrollRequest), CredentialError> {
        let path = options.joining.gateway_ca_file.as_deref().ok_or(CredentialError::NoToken)?;
        let (channel, _) = connect_by(route, client_config(&Trust::Bundle(bundle(path)?), None)?)?;
        let mut client = EnrollmentClient::new(channel);
        let csr = CertificateRequest::make(&self.key)?;
        let ServiceAccount { token_file, name, namespace, fleets } = account;
        let key = client.terms(TermsRequest {}).await?.into_inner().sealing_key;
        let token = secret(token_file)?;
        let sealed = Pass { csr: &csr, name, namespace, fleets }.seal(&key, token.trim())?;
        let (namespace, fleets) = (namespace.clone(), fleets.clone());
        let request = EnrollRequest {
            csr: csr.into(),
            name: name.clone(),
            facts: Some(facts()),
            service_account: Some(ServiceAccountPass { namespace, fleets, sealed_token: sealed.into() }),
            ..EnrollRequest::default()
        };
        Ok((client, request))
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
        self.answered(response, Some(certified), now)
    }

    /// A certificate has ended: nothing can be done before there is another. Where it is too late for that, a token that is in place helps.
    pub async fn renew_ended(
        &self,
        route: &Route,
        options: &UplinkOptions,
        certified: &Certified,
        clock: &Arc<dyn Clock>,
    ) -> Result<Certified, CredentialError> {
        let (channel, _) = self.channel(route, options, certified, clock.now().wall)?;
        let Joining { join_token_file, service_account, .. } = &options.joining;
        loop {
            match self.ask_renewal(channel.clone(), certified, clock.now().wall).await {
                Ok(Asked::Certified(certified)) => return Ok(*certified),
                Ok(Asked::Pending(wait)) => {
                    tracing::info!("the renewal of the ended certificate waits for the operator");
                    tokio::time::sleep(wait).await;
                }
                Err(error @ CredentialError::Denied { .. })
                    if service_account.is_some() || join_token_file.as_deref().is_some_and(Path::exists) =>
                {
                    tracing::warn!(%error, "the certificate ended and is not renewed; the token is tried");
                    return self.enroll(route, options, clock).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// `before`: who was certified already learns of other authorities over the configuration's stream alone, which vouches for them.
    fn answered(
        &self,
        response: EnrollResponse,
        before: Option<&Certified>,
        now: Timestamp,
    ) -> Result<Asked, CredentialError> {
        match response.result.ok_or(CredentialError::Empty)? {
            Answer::Issued(issued) => {
                let info = CertificateInfo::from_pem(&issued.chain)?;
                let ca = match before {
                    None => issued.ca,
                    Some(before) => self.read("ca.crt")?.unwrap_or_else(|| before.ca.clone()),
                };
                // The certificate last: with it the agent counts as enrolled.
                self.keep("ca.crt", &ca)?;
                self.keep("agent.crt", &issued.chain)?;
                tracing::info!(identity = %info.identity, until = info.validity.end.0, now = now.0, "certificate received");
                Ok(Asked::Certified(Box::new(Certified { info, chain: issued.chain, ca })))
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
    /// SHA-256 of the authorities that the agent trusts, as they were told.
    #[must_use]
    pub fn ca_digest(&self) -> Digest {
        Digest::of(self.ca.as_bytes())
    }

    /// `namespace/name` as certified.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.info.identity
    }
}

fn secret(path: &Path) -> Result<Zeroizing<String>, CredentialError> {
    let text = fs::read_to_string(path).map_err(|source| CredentialError::File { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(text))
}

fn bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let text = fs::read_to_string(path).map_err(|source| CredentialError::File { path: path.to_owned(), source })?;
    certificates(&text).map_err(|source| CredentialError::Bundle { path: path.to_owned(), source })
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

//! The certificate authorities in Secret depin-ca, and the gateway's certificate in Secret depin-gateway-tls.
//!
//! An authority is made once, or brought by a person, and never lost: that would lock every agent out. Its key leaves this process only
//! into that Secret, and another one takes its place only beside it.

pub mod authorities;
pub mod gateway;
pub mod keeper;
pub mod kept;
pub mod publish;
pub mod validity;

use std::collections::BTreeMap;

use depin_domain::time::{Timestamp, Window};
use depin_identity::{CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rustls_pki_types::CertificateDer;
use tonic::transport::Channel;

use crate::annotations::{MANAGED_BY, OPERATOR};
use authorities::{Authorities, Step, Terms, Word};

/// Secret (certificate and key) and ConfigMap (certificate alone) of the authority.
pub const CA: &str = "depin-ca";
/// Secret of the gateway's certificate.
pub const GATEWAY: &str = "depin-gateway-tls";
/// Fields by which gateways and agents learn of the authorities.
const BUNDLE: &str = "ca.crt";
const VOUCHERS: &str = "vouchers.crt";
const SEALING: &str = "sealing.pub";
const MANAGER: &str = "depin-operator/certificates";

/// Certificates cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The API server says no.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// A certificate cannot be made or read.
    #[error("{what}: {source}; if the Secret was edited, restore it from a backup")]
    Certificate {
        /// Which.
        what: &'static str,
        /// Why.
        source: depin_identity::certificates::CertificateError,
    },
    /// A Secret lacks a field.
    #[error(
        "Secret {secret} has no field {field}; restore it from a backup (deleting it makes every agent enroll anew)"
    )]
    Missing {
        /// Which Secret.
        secret: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A key cannot be made.
    #[error("key: {0}")]
    Key(#[from] depin_identity::keys::KeyError),
    /// TLS settings cannot be made.
    #[error("{0}")]
    Tls(#[from] depin_identity::tls::TlsError),
    /// The gateway's CAs cannot be read.
    #[error("--gateway-ca-file {path}: {what}")]
    GatewayCa {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The ledger's address is none.
    #[error("--ledger: {0}")]
    Address(#[from] depin_identity::channel::InvalidAddress),
}

impl CertificatesError {
    fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { what, source: Box::new(source) }
    }

    fn certificate(what: &'static str) -> impl FnOnce(depin_identity::certificates::CertificateError) -> Self {
        move |source| Self::Certificate { what, source }
    }
}

/// What is known of the authorities, and the Secret where it is kept; made if there is none. Only a leader may call this.
///
/// # Errors
/// When the API server refuses or the Secret is damaged.
pub async fn ensure_authorities(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<Authorities, CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Some(secret) = secrets.get_opt(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))? {
        return kept::read(&secret, now);
    }
    let authority = CertificateAuthority::create(validity::authority(now))
        .map_err(CertificatesError::certificate("make the CA"))?;
    let authorities = Authorities::of(authority);
    match secrets.create(&PostParams::default(), &kept::write(tls_secret(CA), &authorities)).await {
        Ok(_) => Ok(authorities),
        // Someone was faster: theirs it is.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            kept::read(&secrets.get(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))?, now)
        }
        Err(error) => Err(CertificatesError::api("create Secret depin-ca")(error)),
    }
}

/// The authorities as a leader keeps them; a Secret that is not there yet is an error of the API server's.
///
/// # Errors
/// When it cannot be read or is damaged.
pub async fn existing_authorities(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<Authorities, CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    kept::read(&secrets.get(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))?, now)
}

/// Looks after the authorities: hears a person's word, does what is due, and puts them back from memory where the Secret is gone (a cluster
/// that lost its store): new ones would lock every agent out.
///
/// # Errors
/// When the API server refuses, also because somebody else changed the Secret meanwhile, or the Secret is damaged.
pub async fn look_after(
    client: &Client,
    namespace: &str,
    known: &Authorities,
    terms: Terms,
    now: Timestamp,
) -> Result<Authorities, CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let Some(secret) = secrets.get_opt(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))? else {
        match secrets.create(&PostParams::default(), &kept::write(tls_secret(CA), known)).await {
            Ok(_) => tracing::warn!("Secret depin-ca was gone and is restored from memory; keep a backup of it"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(CertificatesError::api("restore Secret depin-ca")(error)),
        }
        return Ok(known.clone());
    };
    let failed = CertificatesError::certificate("Secret depin-ca");
    let mut state = known.succeeded_by(kept::read(&secret, now)?, now).map_err(failed)?;
    let mut word = kept::word(&secret);
    let asked = word != Word::default();
    loop {
        let stepped = state.step(word, terms, now, CertificateAuthority::create);
        let Some((after, step)) = stepped.map_err(CertificatesError::certificate("a new CA"))? else { break };
        tell(step, &after, terms);
        if step == Step::Introduced {
            word.rotate = false;
        }
        state = after;
    }
    let wanted = kept::write(secret.clone(), &state);
    if asked || wanted != secret {
        secrets
            .replace(CA, &PostParams::default(), &wanted)
            .await
            .map_err(CertificatesError::api("write Secret depin-ca"))?;
    }
    Ok(state)
}

fn tell(step: Step, state: &Authorities, terms: Terms) {
    let issuing = state.issuing.hash();
    match step {
        Step::Introduced => tracing::warn!(
            next = %state.next.as_ref().map(|next| next.authority.hash().to_string()).unwrap_or_default(),
            seconds = terms.introduction_ms / 1000,
            "a new certificate authority is made known; it issues after that time"
        ),
        Step::Switched => tracing::warn!(%issuing, "another certificate authority issues from now on"),
        Step::Dropped => {
            tracing::warn!(%issuing, trusted = state.trusted().len(), "retired authorities are trusted no more")
        }
    }
}

fn text(secret: &Secret, name: &'static str, field: &'static str) -> Result<String, CertificatesError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(field));
    bytes
        .and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        .ok_or(CertificatesError::Missing { secret: name, field })
}

fn tls_secret(name: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), OPERATOR.to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    }
}

/// A channel to the ledger under a new certificate of the operator's own, which never leaves this process. `more`: CAs that the gateway's
/// certificate may come from beside the authorities.
///
/// # Errors
/// When the certificate cannot be made or the address is none.
pub fn ledger_channel(
    authorities: &Authorities,
    more: Vec<CertificateDer<'static>>,
    address: &str,
    now: Timestamp,
) -> Result<Channel, CertificatesError> {
    channel(authorities, more, &PeerIdentity::Operator, validity::operator(now), address)
}

/// The same as `peer`.
///
/// # Errors
/// As [`ledger_channel`].
pub fn channel(
    authorities: &Authorities,
    more: Vec<CertificateDer<'static>>,
    peer: &PeerIdentity,
    validity: Window,
    address: &str,
) -> Result<Channel, CertificatesError> {
    let failed = CertificatesError::certificate;
    let key = SigningKey::generate()?;
    let request = CertificateRequest::make(&key)
        .and_then(|der| CertificateRequest::from_der(&der))
        .map_err(failed("operator's request"))?;
    let leaf = authorities.issuing.issue(&request, peer, &[], validity).map_err(failed("operator's certificate"))?;
    let chain = depin_identity::certificates::certificates(&leaf).map_err(failed("operator's certificate"))?;
    let trust = Trust::Bundle(authorities.trusted().into_iter().chain(more).collect());
    let config = depin_identity::client_config(&trust, Some(&KeyAndChain { key, chain }))?;
    Ok(depin_identity::connect_lazy(address, config)?.0)
}

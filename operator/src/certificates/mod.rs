//! The certificate authority in Secret depin-ca, and the gateway's certificate in Secret depin-gateway-tls.
//!
//! The authority is made once and never overwritten: losing it would lock every agent out. Its key leaves this process only
//! into that Secret.

pub mod validity;

use std::collections::BTreeMap;

use depin_domain::time::Timestamp;
use depin_identity::{
    CertificateAuthority, CertificateInfo, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use tonic::transport::Channel;

use crate::annotations::{HOSTS, MANAGED_BY, OPERATOR};

/// Secret (certificate and key) and ConfigMap (certificate alone) of the authority.
pub const CA: &str = "depin-ca";
/// Secret of the gateway's certificate.
pub const GATEWAY: &str = "depin-gateway-tls";
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

/// The authority, made if there is none. Only a leader may call this.
///
/// # Errors
/// When the API server refuses or the Secret is damaged.
pub async fn ensure_authority(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<CertificateAuthority, CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Some(secret) = secrets.get_opt(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))? {
        return read_authority(&secret);
    }
    let authority = CertificateAuthority::create(validity::authority(now))
        .map_err(CertificatesError::certificate("make the CA"))?;
    match secrets.create(&PostParams::default(), &authority_secret(&authority)).await {
        Ok(_) => Ok(authority),
        // Someone was faster: theirs it is.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            read_authority(&secrets.get(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))?)
        }
        Err(error) => Err(CertificatesError::api("create Secret depin-ca")(error)),
    }
}

/// Puts the authority that this process works with back into its Secret where that is gone (a cluster that lost its store): a new one
/// would lock every agent out. An existing Secret is not touched.
///
/// # Errors
/// When the API server refuses.
pub async fn keep_authority(
    client: &Client,
    namespace: &str,
    authority: &CertificateAuthority,
) -> Result<(), CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let missing = secrets.get_opt(CA).await.map_err(CertificatesError::api("read Secret depin-ca"))?.is_none();
    if !missing {
        return Ok(());
    }
    match secrets.create(&PostParams::default(), &authority_secret(authority)).await {
        Ok(_) => {
            tracing::warn!("Secret depin-ca was gone and is restored from memory; keep a backup of it");
            publish_authority(client, namespace, authority).await
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(CertificatesError::api("restore Secret depin-ca")(error)),
    }
}

fn authority_secret(authority: &CertificateAuthority) -> Secret {
    let data = [
        ("tls.crt", authority.certificate_pem().into_bytes()),
        ("tls.key", authority.key_pem().as_bytes().to_vec()),
        ("ca.crt", authority.certificate_pem().into_bytes()),
    ];
    tls_secret(CA, data, BTreeMap::new())
}

fn read_authority(secret: &Secret) -> Result<CertificateAuthority, CertificatesError> {
    CertificateAuthority::from_pem(&text(secret, CA, "tls.crt")?, &text(secret, CA, "tls.key")?)
        .map_err(CertificatesError::certificate("Secret depin-ca"))
}

fn text(secret: &Secret, name: &'static str, field: &'static str) -> Result<String, CertificatesError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(field));
    bytes
        .and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        .ok_or(CertificatesError::Missing { secret: name, field })
}

fn tls_secret<const N: usize>(name: &str, data: [(&str, Vec<u8>); N], annotations: BTreeMap<String, String>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), OPERATOR.to_owned())])),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into_iter().map(|(field, bytes)| (field.to_owned(), ByteString(bytes))).collect()),
        ..Secret::default()
    }
}

/// Publishes the authority's certificate in ConfigMap depin-ca, where tokens and viewers find it without reading Secrets.
///
/// # Errors
/// When the API server refuses.
pub async fn publish_authority(
    client: &Client,
    namespace: &str,
    authority: &CertificateAuthority,
) -> Result<(), CertificatesError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(CA.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([
            ("ca.crt".to_owned(), authority.certificate_pem()),
            ("sha256".to_owned(), authority.hash().to_string()),
        ])),
        ..ConfigMap::default()
    };
    maps.patch(CA, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map))
        .await
        .map(drop)
        .map_err(CertificatesError::api("apply ConfigMap depin-ca"))
}

/// Makes or renews the gateway's certificate if it is missing, due, of another authority, or for other names. True if it wrote one.
///
/// # Errors
/// When the API server refuses or the certificate cannot be made.
pub async fn ensure_gateway(
    client: &Client,
    namespace: &str,
    authority: &CertificateAuthority,
    hosts: &[String],
    now: Timestamp,
) -> Result<bool, CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let existing = secrets.get_opt(GATEWAY).await.map_err(CertificatesError::api("read Secret depin-gateway-tls"))?;
    if existing.is_some_and(|secret| is_good(&secret, authority, hosts, now)) {
        return Ok(false);
    }
    let failed = CertificatesError::certificate;
    let key = SigningKey::generate()?;
    let request = CertificateRequest::make(&key)
        .and_then(|der| CertificateRequest::from_der(&der))
        .map_err(failed("gateway's request"))?;
    let leaf = authority
        .issue(&request, &PeerIdentity::Gateway, hosts, validity::gateway(now))
        .map_err(failed("gateway's certificate; correct --gateway-name"))?;
    let data = [
        ("tls.crt", leaf.into_bytes()),
        ("tls.key", key.to_pem().as_bytes().to_vec()),
        ("ca.crt", authority.certificate_pem().into_bytes()),
    ];
    let secret = tls_secret(GATEWAY, data, BTreeMap::from([(HOSTS.to_owned(), hosts.join(","))]));
    secrets
        .patch(GATEWAY, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&secret))
        .await
        .map_err(CertificatesError::api("apply Secret depin-gateway-tls"))?;
    Ok(true)
}

fn is_good(secret: &Secret, authority: &CertificateAuthority, hosts: &[String], now: Timestamp) -> bool {
    let named = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(HOSTS));
    let trusts = text(secret, GATEWAY, "ca.crt").is_ok_and(|bundle| bundle.contains(&authority.certificate_pem()));
    let leaf = text(secret, GATEWAY, "tls.crt").ok().and_then(|pem| CertificateInfo::from_pem(&pem).ok());
    let fresh = leaf.is_some_and(|leaf| now < leaf.renewal());
    named == Some(&hosts.join(",")) && trusts && fresh && text(secret, GATEWAY, "tls.key").is_ok()
}

/// A channel to the ledger under a new certificate of the operator's own, which never leaves this process.
///
/// # Errors
/// When the certificate cannot be made or the address is none.
pub fn ledger_channel(
    authority: &CertificateAuthority,
    address: &str,
    now: Timestamp,
) -> Result<Channel, CertificatesError> {
    let failed = CertificatesError::certificate;
    let key = SigningKey::generate()?;
    let request = CertificateRequest::make(&key)
        .and_then(|der| CertificateRequest::from_der(&der))
        .map_err(failed("operator's request"))?;
    let leaf = authority
        .issue(&request, &PeerIdentity::Operator, &[], validity::operator(now))
        .map_err(failed("operator's certificate"))?;
    let chain = depin_identity::certificates::certificates(&leaf).map_err(failed("operator's certificate"))?;
    let trust = Trust::Bundle(vec![authority.certificate().clone()]);
    let config = depin_identity::client_config(&trust, Some(&KeyAndChain { key, chain }))?;
    Ok(depin_identity::connect_lazy(address, config)?.0)
}

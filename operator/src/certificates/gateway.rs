//! The gateway's certificate in Secret depin-gateway-tls, with all that a gateway must know of the authorities.

use std::collections::BTreeMap;

use depin_domain::time::Timestamp;
use depin_identity::{
    CertificateInfo, CertificateRequest, PeerIdentity, SigningKey,
    certificates::{certificates, is_signed_by},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};

use super::{
    BUNDLE, CertificatesError, GATEWAY, MANAGER, SEALING, VOUCHERS, authorities::Authorities, text, tls_secret,
    validity,
};
use crate::annotations::HOSTS;

/// Makes or renews the gateway's certificate if it is missing, due, of another authority, or for other names, and tells the gateway what
/// became of the authorities. True if the certificate is a new one.
///
/// # Errors
/// When the API server refuses or the certificate cannot be made.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    authorities: &Authorities,
    hosts: &[String],
    now: Timestamp,
) -> Result<bool, CertificatesError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let existing = secrets.get_opt(GATEWAY).await.map_err(CertificatesError::api("read Secret depin-gateway-tls"))?;
    let good = existing.as_ref().and_then(|secret| certificate(secret, authorities, hosts, now));
    let told = told(authorities);
    let renewed = good.is_none();
    if let (Some(_), Some(secret)) = (&good, &existing) {
        let field = |name: &'static str| text(secret, GATEWAY, name).unwrap_or_default();
        if told.iter().all(|(name, text)| field(name) == *text) {
            return Ok(false);
        }
    }
    // The same certificate and key go on where they are good: only what is told beside them is new.
    let (chain, key) = match good {
        Some(good) => good,
        None => made(authorities, hosts, now)?,
    };
    let mut secret = tls_secret(GATEWAY);
    secret.annotations_mut().insert(HOSTS.to_owned(), hosts.join(","));
    let fields = told.into_iter().chain([("tls.crt", chain), ("tls.key", key)]);
    secret.data = Some(fields.map(|(field, text)| (field.to_owned(), ByteString(text.into_bytes()))).collect());
    secrets
        .patch(GATEWAY, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&secret))
        .await
        .map_err(CertificatesError::api("apply Secret depin-gateway-tls"))?;
    Ok(renewed)
}

fn told(authorities: &Authorities) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (BUNDLE, authorities.bundle()),
        (VOUCHERS, authorities.vouchers_text()),
        (SEALING, hex::encode(authorities.issuing.sealing().public())),
    ])
}

/// Chain and key of a new certificate.
fn made(authorities: &Authorities, hosts: &[String], now: Timestamp) -> Result<(String, String), CertificatesError> {
    let failed = CertificatesError::certificate;
    let key = SigningKey::generate()?;
    let request = CertificateRequest::make(&key)
        .and_then(|der| CertificateRequest::from_der(&der))
        .map_err(failed("gateway's request"))?;
    let leaf = authorities
        .issuing
        .issue(&request, &PeerIdentity::Gateway, hosts, validity::gateway(now))
        .map_err(failed("gateway's certificate; correct --gateway-name"))?;
    Ok((leaf + &authorities.issuing.above_pem(), key.to_pem().to_string()))
}

/// Chain and key of the certificate that is there, if it is good.
fn certificate(
    secret: &Secret,
    authorities: &Authorities,
    hosts: &[String],
    now: Timestamp,
) -> Option<(String, String)> {
    let (chain, key) = (text(secret, GATEWAY, "tls.crt").ok()?, text(secret, GATEWAY, "tls.key").ok()?);
    let leaf = certificates(&chain).ok()?.into_iter().next()?;
    let fresh = CertificateInfo::from_der(&leaf).is_ok_and(|leaf| now < leaf.renewal());
    let good = fresh
        && secret.annotations().get(HOSTS) == Some(&hosts.join(","))
        && is_signed_by(&leaf, authorities.issuing.certificate());
    good.then_some((chain, key))
}

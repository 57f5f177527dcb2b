//! Who asks the ledger: a viewer by the files that were given, or an administrator, who may read the network's CA and so needs no files.
//!
//! Whoever may read Secret `depin-ca` could act as anyone anyway; RBAC decides it. The certificate that such a person makes
//! lives an hour and only in memory.

use depin_domain::time::{Timestamp, Window};
use depin_identity::{
    CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust, certificates::certificates,
};
use depin_operator::certificates::{CA, authorities::Authorities, kept};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls_pki_types::CertificateDer;

use crate::{
    args::{Arguments, LedgerFlags},
    cluster::Cluster,
    fault::Fault,
};

/// How long an administrator's certificate lives, and how far clocks may differ.
const HOUR_MS: i64 = 3_600_000;

/// A client's identity and whom it believes.
pub(crate) struct Credentials {
    pub(crate) identity: KeyAndChain,
    pub(crate) trust: Trust,
}

/// From files where --cert and --key are given, else from the cluster.
pub(crate) async fn find(arguments: &Arguments) -> Result<Credentials, Fault> {
    let flags = &arguments.ledger;
    match (&flags.cert, &flags.key) {
        (None, None) => issued(arguments).await,
        _ => from_files(flags),
    }
}

fn from_files(flags: &LedgerFlags) -> Result<Credentials, Fault> {
    let (Some(cert), Some(key), Some(ca)) = (&flags.cert, &flags.key, &flags.ca) else {
        return Err(Fault::failed(
            "--cert, --key and --ca belong together",
            "give all three (or DEPIN_LEDGER_CERT, _KEY, _CA), or neither --cert nor --key as an administrator of the cluster",
        ));
    };
    let read = |path: &std::path::PathBuf| std::fs::read_to_string(path).map_err(|error| Fault::file(path, error));
    let chain = certificates(&read(cert)?).map_err(|error| Fault::file(cert, error))?;
    let signing = SigningKey::from_pem(&read(key)?, "--key").map_err(|error| Fault::file(key, error))?;
    let bundle = certificates(&read(ca)?).map_err(|error| Fault::file(ca, error))?;
    Ok(Credentials { identity: KeyAndChain { key: signing, chain }, trust: Trust::Bundle(bundle) })
}

async fn issued(arguments: &Arguments) -> Result<Credentials, Fault> {
    let authorities = authorities(arguments).await?;
    // Of a gateway whose certificate somebody else keeps.
    let more = match &arguments.ledger.ca {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
            certificates(&text).map_err(|error| Fault::file(path, error))?
        }
    };
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    issue(&authorities, more, now).map_err(refused)
}

fn refused(why: impl std::fmt::Display) -> Fault {
    Fault::failed(
        format!("no certificate for the ledger: {why}"),
        "give --cert, --key and --ca; or read Secret depin-ca in --operator-namespace as an administrator",
    )
}

/// The network's authorities, for whoever may read them.
pub(crate) async fn authorities(arguments: &Arguments) -> Result<Authorities, Fault> {
    let namespace = &arguments.cluster.operator_namespace;
    let cluster = Cluster::connect(&arguments.cluster).await.map_err(|fault| refused(fault.message))?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client, namespace);
    let secret = secrets.get(CA).await.map_err(|error| refused(Fault::from(error).message))?;
    kept::read(&secret, Timestamp(jiff::Timestamp::now().as_millisecond())).map_err(refused)
}

fn issue(authorities: &Authorities, more: Vec<CertificateDer<'static>>, now: Timestamp) -> Result<Credentials, String> {
    let validity = Window { start: now.plus(-HOUR_MS), end: now.plus(HOUR_MS) };
    let (key, pem) = certify(&authorities.issuing, &PeerIdentity::Operator, validity)?;
    let chain = certificates(&pem).map_err(|error| error.to_string())?;
    let trust = Trust::Bundle(authorities.trusted().into_iter().chain(more).collect());
    Ok(Credentials { identity: KeyAndChain { key, chain }, trust })
}

/// A new key with its certificate in PEM.
pub(crate) fn certify(
    authority: &CertificateAuthority,
    peer: &PeerIdentity,
    validity: Window,
) -> Result<(SigningKey, String), String> {
    let key = SigningKey::generate().map_err(|error| error.to_string())?;
    let request = CertificateRequest::make(&key).and_then(|der| CertificateRequest::from_der(&der));
    let request = request.map_err(|error| error.to_string())?;
    let pem = authority.issue(&request, peer, &[], validity).map_err(|error| error.to_string())?;
    Ok((key, pem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_needs_no_files() {
        let now = Timestamp(1_800_000_000_000);
        let validity = Window { start: now.plus(-HOUR_MS), end: now.plus(1_000 * HOUR_MS) };
        let authority = CertificateAuthority::create(validity).unwrap();
        let credentials = issue(&Authorities::of(authority), Vec::new(), now).unwrap();
        assert!(depin_identity::client_config(&credentials.trust, Some(&credentials.identity)).is_ok());
    }
}

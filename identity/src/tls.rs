//! TLS settings: version 1.3 only, HTTP/2 only, ring's cryptography named explicitly.
//!
//! No session tickets: a resumed session would outlive the removal of its certificate's authority.

use std::sync::Arc;

use depin_domain::ids::Digest;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::keys::SigningKey;

/// TLS settings cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refuses key, chain or trust.
    #[error("TLS settings: {0}")]
    Rustls(#[from] rustls::Error),
    /// No trusted certificate in the bundle.
    #[error("ca.crt: no usable CA certificate: {0}")]
    Bundle(String),
}

/// A key and the certificates that show whose it is, leaf first.
#[derive(Clone, Debug)]
pub struct KeyAndChain {
    /// The leaf's key.
    pub key: SigningKey,
    /// Leaf first. A gateway appends the CAs, so that an agent can compare their hash on first contact.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Whom a client believes.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Servers whose certificate one of these CAs issued.
    Bundle(Vec<CertificateDer<'static>>),
    /// First contact: servers that send along the CA certificate with this SHA-256, which issued theirs.
    Pin(Digest),
}

/// Whether a server asks for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Taken and verified if there is one: `Enrollment` works without.
    Optional,
    /// Nothing without one.
    Required,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(bundle: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in bundle {
        store.add(certificate.clone()).map_err(|error| TlsError::Bundle(error.to_string()))?;
    }
    if store.is_empty() { Err(TlsError::Bundle("it is empty".to_owned())) } else { Ok(Arc::new(store)) }
}

/// Settings of a server with this identity, which believes clients that one of `clients` issued. To reload, make new settings
/// and use them for the next connection.
///
/// # Errors
/// Where key and chain do not belong together or the bundle is empty.
pub fn server_config(
    identity: &KeyAndChain,
    clients: &[CertificateDer<'static>],
    auth: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots(clients)?, provider());
    if auth == ClientAuth::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(|error| TlsError::Bundle(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.to_tls())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Settings of a client; without `identity` it shows no certificate.
///
/// # Errors
/// Where key and chain do not belong together or the bundle is empty.
pub fn client_config(trust: &Trust, identity: Option<&KeyAndChain>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match trust {
        Trust::Bundle(bundle) => builder.with_root_certificates(roots(bundle)?),
        Trust::Pin(hash) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(PinnedAuthority { hash: *hash }))
        }
    };
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.to_tls())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Believes the CA with one hash, and through it, with all of the usual checks, the server's certificate.
#[derive(Debug)]
struct PinnedAuthority {
    hash: Digest,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority =
            intermediates.iter().find(|certificate| Digest::of(certificate) == self.hash).ok_or_else(|| {
                rustls::Error::General(
                "the gateway shows no CA with the join token's hash: wrong gateway, or a token of another installation"
                    .to_owned(),
            )
            })?;
        let mut store = RootCertStore::empty();
        store.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            // What the CA vouches for leads to it too: after a rotation the certificate is by its successor.
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not in use".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = provider();
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

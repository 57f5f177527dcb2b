//! Certificates and requests as the project reads them: one URI name, one key, one span of validity.

use depin_domain::{
    ids::{Algorithm, PublicKey},
    time::{Timestamp, Window},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, X509CertificationRequest},
    x509::SubjectPublicKeyInfo,
};

use crate::{
    keys::SigningKey,
    peer::{PeerIdentity, UnknownPeer},
};

const ED25519_OID: &str = "1.3.101.112";
const EC_PUBLIC_KEY_OID: &str = "1.2.840.10045.2.1";
/// No request or certificate of ours is larger; strangers may send some.
const MAX_DER: usize = 16 * 1024;

/// A certificate or request cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not DER or PEM of what was expected.
    #[error("{0} is not a well-formed {1}")]
    Malformed(&'static str, &'static str),
    /// Larger than anything of ours.
    #[error("{0} is longer than {MAX_DER} bytes")]
    TooLarge(&'static str),
    /// The public key is of a kind that is not used here.
    #[error("the public key is neither Ed25519 nor P-256")]
    UnknownKey,
    /// The certificate's URI names are not exactly one.
    #[error("the certificate has {0} URI names instead of one")]
    Names(usize),
    /// The URI name is none of ours.
    #[error(transparent)]
    UnknownPeer(#[from] UnknownPeer),
    /// The request is not signed by the key that it is for.
    #[error("the request is not signed by its own key: {0}")]
    Unproven(rcgen::Error),
    /// Making it failed.
    #[error("making the certificate failed: {0}")]
    Making(#[from] rcgen::Error),
    /// A DNS name or address cannot stand in a certificate.
    #[error("{0:?} is neither a DNS name nor an address")]
    BadName(String),
    /// A time cannot stand in a certificate.
    #[error("{0} ms cannot stand in a certificate")]
    BadTime(i64),
    /// A certificate authority's key cannot be used.
    #[error(
        "the authority's key is no PKCS#8 PEM of an Ed25519, ECDSA P-256 or P-384, or RSA key; convert it with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    UnusableAuthorityKey,
    /// A certificate is no authority's.
    #[error(
        "the certificate may not sign others (basicConstraints CA:TRUE is missing); take an authority's, or an intermediate's"
    )]
    NoAuthority,
    /// Certificate and key of an authority do not belong together.
    #[error("certificate and key do not belong together; the first certificate must be the one of this key")]
    OtherKey,
    /// A certificate authority's key or certificate.
    #[error("the certificate authority's key: {0}")]
    AuthorityKey(#[from] crate::keys::KeyError),
}

/// What the project reads of a certificate. Whether it is trusted is for TLS to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whom it names.
    pub identity: PeerIdentity,
    /// Whose key.
    pub key: PublicKey,
    /// From when to when.
    pub validity: Window,
}

impl CertificateInfo {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// Where it is malformed, has not exactly one URI name of ours, or a key of another kind.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| CertificateError::Malformed("subjectAltName", "extension"))?
            .map_or(&[][..], |extension| &extension.value.general_names);
        let uris: Vec<&str> =
            names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
        let [uri] = uris.as_slice() else { return Err(CertificateError::Names(uris.len())) };
        Ok(Self {
            identity: uri.parse()?,
            key: public_key(certificate.public_key())?,
            validity: validity(&certificate),
        })
    }

    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// As `from_der`.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let first = certificates(pem)?.into_iter().next();
        Self::from_der(&first.ok_or(CertificateError::Malformed("certificate", "PEM text"))?)
    }

    /// When it should be renewed: after two thirds of its life.
    #[must_use]
    pub fn renewal(&self) -> Timestamp {
        let Window { start, end } = self.validity;
        start.plus(end.since(start) / 3 * 2)
    }

    /// Whether it is no longer valid.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> bool {
        now >= self.validity.end
    }
}

/// From when to when the certificates of a PEM text are valid, at least one of them: authorities overlap while one takes over from another.
///
/// # Errors
/// Where one is malformed, or there is none.
pub fn validity_of(pem: &str) -> Result<Window, CertificateError> {
    let mut whole: Option<Window> = None;
    for der in certificates(pem)? {
        let validity = validity(&parse(&der)?);
        whole = Some(whole.map_or(validity, |known| Window {
            start: known.start.min(validity.start),
            end: known.end.max(validity.end),
        }));
    }
    whole.ok_or(CertificateError::Malformed("certificate", "PEM text"))
}

/// The public key of any certificate, whatever its names.
///
/// # Errors
/// Where it is malformed or its key is of another kind.
pub fn key_of(der: &[u8]) -> Result<PublicKey, CertificateError> {
    public_key(parse(der)?.public_key())
}

/// Whether the key of the certificate `issuer` signed the certificate `subject`; false where either is malformed.
#[must_use]
pub fn is_signed_by(subject: &[u8], issuer: &[u8]) -> bool {
    let (Ok(subject), Ok(issuer)) = (parse(subject), parse(issuer)) else { return false };
    subject.issuer() == issuer.subject() && subject.verify_signature(Some(issuer.public_key())).is_ok()
}

/// Whether both certificates name the same authority: one name, one key.
#[must_use]
pub fn is_same_authority(one: &[u8], other: &[u8]) -> bool {
    let (Ok(one), Ok(other)) = (parse(one), parse(other)) else { return false };
    one.subject() == other.subject() && one.public_key() == other.public_key()
}

pub(crate) fn validity(certificate: &X509Certificate<'_>) -> Window {
    let validity = certificate.validity();
    Window {
        start: seconds(validity.not_before.timestamp()),
        // A certificate is valid through its last second.
        end: seconds(validity.not_after.timestamp()).plus(1000),
    }
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > MAX_DER {
        return Err(CertificateError::TooLarge("certificate"));
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed("certificate", "X.509 certificate")),
    }
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp(seconds.saturating_mul(1000))
}

fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, CertificateError> {
    let bytes = &info.subject_public_key.data;
    match info.algorithm.algorithm.to_id_string().as_str() {
        ED25519_OID if bytes.len() == 32 => Ok(PublicKey { algorithm: Algorithm::Ed25519, bytes: bytes.to_vec() }),
        EC_PUBLIC_KEY_OID => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).map_err(|_| CertificateError::UnknownKey)?;
            Ok(PublicKey { algorithm: Algorithm::P256, bytes: key.to_sec1_point(true).as_bytes().to_vec() })
        }
        _ => Err(CertificateError::UnknownKey),
    }
}

/// A request for a certificate that proves possession of its key. Names and extensions that it asks for are not looked at:
/// whoever issues decides them.
pub struct CertificateRequest {
    pub(crate) subject: rcgen::SubjectPublicKeyInfo,
    /// The key that signed the request.
    pub key: PublicKey,
}

impl CertificateRequest {
    /// Makes a request, PKCS#10 in DER. The same key always gives the same bytes: asking again is one request.
    ///
    /// # Errors
    /// Where the library cannot.
    pub fn make(key: &SigningKey) -> Result<Vec<u8>, CertificateError> {
        Self::make_for(key, "enrollment")
    }

    /// Makes a request to renew the certificate that ends at `expires`. Another certificate, other bytes: the answer to an
    /// earlier renewal is not taken for this one's.
    ///
    /// # Errors
    /// Where the library cannot.
    pub fn make_renewal(key: &SigningKey, expires: Timestamp) -> Result<Vec<u8>, CertificateError> {
        Self::make_for(key, &format!("renewal {}", expires.0))
    }

    fn make_for(key: &SigningKey, occasion: &str) -> Result<Vec<u8>, CertificateError> {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, occasion);
        Ok(parameters.serialize_request(&key.to_rcgen()?)?.der().to_vec())
    }

    /// Reads a request and verifies that its own key signed it.
    ///
    /// # Errors
    /// Where it is malformed, of another kind of key, or not signed by it.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_DER {
            return Err(CertificateError::TooLarge("csr"));
        }
        let malformed = || CertificateError::Malformed("csr", "PKCS#10 request");
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(malformed()) };
        let info = &request.certification_request_info.subject_pki;
        let key = public_key(info)?;
        rcgen::CertificateSigningRequestParams::from_der(&der.into()).map_err(CertificateError::Unproven)?;
        let subject = rcgen::SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| malformed())?;
        Ok(Self { subject, key })
    }
}

/// The certificates of a PEM text, in order.
///
/// # Errors
/// Where the text is not PEM or holds no certificate.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let malformed = || CertificateError::Malformed("certificate", "PEM text");
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| malformed())?;
    if certificates.is_empty() { Err(malformed()) } else { Ok(certificates) }
}

/// PEM text (RFC 7468) of DER bytes, under this label.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let mut bits = [0_u8; 4];
            bits[1..=group.len()].copy_from_slice(group);
            let word = u32::from_be_bytes(bits);
            for place in 0..4 {
                let digit = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
                out.push(if place <= group.len() { digit.into() } else { '=' });
            }
        }
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

//! The certificate authority: made by the operator's leader, or brought by whoever runs it; it issues short-lived certificates with one
//! URI name. Its own key may be Ed25519, ECDSA (P-256, P-384) or RSA; those that it certifies are not RSA.

use std::net::IpAddr;

use depin_domain::{
    ids::Digest,
    time::{Timestamp, Window},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{asn1_rs::Tag, certificate::X509Certificate, extensions::ParsedExtension};
use zeroize::Zeroizing;

use crate::{
    certificates::{CertificateError, CertificateRequest, certificates, parse, pem, validity},
    keys::{KeyError, SigningKey},
    peer::PeerIdentity,
    seal::SealingKey,
};

/// A certificate with the key that signs others.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    /// What leads from the certificate to a root that others trust: intermediates, as they came with it.
    above: Vec<CertificateDer<'static>>,
    validity: Window,
    key_pem: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
    sealing: SealingKey,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority({})", self.hash())
    }
}

impl CertificateAuthority {
    /// Makes a new authority, valid in `validity`.
    ///
    /// # Errors
    /// Where the system gives no random numbers or a time is out of range.
    pub fn create(validity: Window) -> Result<Self, CertificateError> {
        let key = SigningKey::generate()?;
        let mut parameters = parameters("depin CA", validity)?;
        // Each has a name of its own, so that a chain over two of them can be told apart by everyone's software.
        let name = format!("depin CA {}", key.id().to_string().chars().take(8).collect::<String>());
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key.to_rcgen()?)?;
        Self::from_pem(&certificate.pem(), &key.to_pem())
    }

    /// The authority whose certificate and key were kept as PEM: first its own certificate, then what leads to a root, if it is an
    /// intermediate. The key is PKCS#8.
    ///
    /// # Errors
    /// Where either is malformed, they do not belong together, or the certificate may not sign others.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let mut chain = certificates(certificate)?.into_iter();
        let certificate = chain.next().ok_or(CertificateError::Malformed("certificate", "PEM text"))?;
        let pair = KeyPair::from_pem(key).map_err(|_| CertificateError::UnusableAuthorityKey)?;
        let read = parse(&certificate)?;
        if !matches!(read.basic_constraints(), Ok(Some(extension)) if extension.value.ca) {
            return Err(CertificateError::NoAuthority);
        }
        if *read.public_key().subject_public_key.data != *pair.der_bytes() {
            return Err(CertificateError::OtherKey);
        }
        let validity = validity(&read);
        let sealing = SealingKey::derive(pair.serialized_der());
        let issuer = Issuer::from_ca_cert_der(&certificate, pair)?;
        let key_pem = Zeroizing::new(key.to_owned());
        Ok(Self { above: chain.collect(), validity, key_pem, issuer, sealing, certificate })
    }

    /// The certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The certificate in PEM, then those above it, if it is an intermediate.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.certificate_pem() + &self.above_pem()
    }

    /// The certificates above it in PEM.
    #[must_use]
    pub fn above_pem(&self) -> String {
        self.above.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// The key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key_pem.clone()
    }

    /// From when to when its certificate is good.
    #[must_use]
    pub fn validity(&self) -> Window {
        self.validity
    }

    /// What a join token carries of this authority: SHA-256 of the certificate's DER.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// Opens what was sealed to whoever holds this authority's key.
    #[must_use]
    pub fn sealing(&self) -> &SealingKey {
        &self.sealing
    }

    /// Vouches for `other`: a certificate for its name and key by this authority, in PEM. Who trusts this authority alone can verify by it
    /// what the other one issued.
    ///
    /// # Errors
    /// Where `other` cannot be repeated or a time is out of range.
    pub fn vouch(&self, other: &Self) -> Result<String, CertificateError> {
        let read = parse(&other.certificate)?;
        // As long as both: nothing good comes of either alone.
        let validity = Window {
            start: self.validity.start.max(other.validity.start),
            end: self.validity.end.min(other.validity.end),
        };
        let mut vouched = parameters("", validity)?;
        vouched.distinguished_name = name_of(&read)?;
        if let Some(identifier) = key_identifier(&read) {
            vouched.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
        }
        vouched.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        vouched.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        vouched.use_authority_key_identifier_extension = true;
        let key = SubjectPublicKeyInfo::from_der(read.public_key().raw)?;
        Ok(pem("CERTIFICATE", vouched.signed_by(&key, &self.issuer)?.der()))
    }

    /// Issues a certificate for the key of `request`: PEM of the certificate alone, without the authority's.
    ///
    /// `hosts` are DNS names and addresses, for a gateway. Only a gateway's certificate may serve; it may also call,
    /// as all others may.
    ///
    /// # Errors
    /// Where a host is neither a DNS name nor an address, or a time is out of range.
    pub fn issue(
        &self,
        request: &CertificateRequest,
        identity: &PeerIdentity,
        hosts: &[String],
        validity: Window,
    ) -> Result<String, CertificateError> {
        let uri = identity.to_string();
        // Nothing outlives who vouches for it.
        let validity = Window { start: validity.start, end: validity.end.min(self.validity.end) };
        let mut parameters = parameters("depin", validity)?;
        parameters.subject_alt_names = vec![SanType::URI(ia5(&uri)?)];
        for host in hosts {
            parameters.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(ia5(host)?),
            });
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if *identity == PeerIdentity::Gateway {
            parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        parameters.use_authority_key_identifier_extension = true;
        parameters.is_ca = IsCa::ExplicitNoCa;
        Ok(pem("CERTIFICATE", parameters.signed_by(&request.subject, &self.issuer)?.der()))
    }
}

fn parameters(name: &str, validity: Window) -> Result<CertificateParams, CertificateError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(KeyError::Random)?;
    serial[0] &= 0x7f;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.not_before = moment(validity.start)?;
    parameters.not_after = moment(validity.end)?;
    Ok(parameters)
}

/// The subject's name, as the certificate writes it.
fn name_of(certificate: &X509Certificate<'_>) -> Result<DistinguishedName, CertificateError> {
    let mut name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let unusable = || CertificateError::BadName(certificate.subject().to_string().chars().take(300).collect());
        let kind = attribute.attr_type().iter().ok_or_else(unusable)?.collect::<Vec<_>>();
        let text = attribute.as_str().map_err(|_| unusable())?;
        let value = match attribute.attr_value().tag() {
            Tag::PrintableString => DnValue::PrintableString(text.try_into()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into()?),
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            _ => return Err(unusable()),
        };
        name.push(DnType::CustomDnType(kind), value);
    }
    Ok(name)
}

fn key_identifier(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    })
}

fn moment(at: Timestamp) -> Result<OffsetDateTime, CertificateError> {
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1000)).map_err(|_| CertificateError::BadTime(at.0))
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, CertificateError> {
    let bad = || CertificateError::BadName(text.chars().take(300).collect());
    if text.is_empty() || text.len() > 512 {
        return Err(bad());
    }
    text.try_into().map_err(|_| bad())
}

//! The certificate authority: made once by the operator's leader, it issues short-lived certificates with one URI name.

use std::net::IpAddr;

use depin_domain::{
    ids::Digest,
    time::{Timestamp, Window},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    certificates::{CertificateError, CertificateRequest, certificates, pem},
    keys::{KeyError, SigningKey},
    peer::PeerIdentity,
};

/// A certificate with the key that signs others.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    key: SigningKey,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a new authority, valid in `validity`.
    ///
    /// # Errors
    /// Where the system gives no random numbers or a time is out of range.
    pub fn create(validity: Window) -> Result<Self, CertificateError> {
        let key = SigningKey::generate()?;
        let mut parameters = parameters("depin CA", validity)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key.to_rcgen()?)?;
        Self::new(certificate.der().clone(), key)
    }

    /// The authority whose certificate and key were kept as PEM.
    ///
    /// # Errors
    /// Where either is malformed.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let first = certificates(certificate)?.into_iter().next();
        let certificate = first.ok_or(CertificateError::Malformed("certificate", "PEM text"))?;
        Self::new(certificate, SigningKey::from_pem(key, "the CA's key")?)
    }

    fn new(certificate: CertificateDer<'static>, key: SigningKey) -> Result<Self, CertificateError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key.to_rcgen()?)?;
        Ok(Self { certificate, key, issuer })
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

    /// The key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// What a join token carries of this authority: SHA-256 of the certificate's DER.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(&self.certificate)
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

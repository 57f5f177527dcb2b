//! Certificates, tokens, key files, and TLS between the parties over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use depin_domain::{
    ids::Digest,
    time::{Timestamp, Window},
};
use depin_identity::{
    CertificateAuthority, CertificateInfo, CertificateRequest, ClientAuth, JoinToken, KeyAndChain, PeerIdentity,
    SigningKey, Trust, certificates::certificates, client_config, server_config,
};
use rustls_pki_types::CertificateDer;
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const YEAR: i64 = 365 * 24 * 3_600_000;

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis() as i64)
}

fn around_now() -> Window {
    Window { start: now().plus(-3_600_000), end: now().plus(YEAR) }
}

fn agent() -> PeerIdentity {
    PeerIdentity::Agent { namespace: "grid".to_owned(), name: "site-1".to_owned() }
}

fn issue(ca: &CertificateAuthority, identity: &PeerIdentity, validity: Window) -> KeyAndChain {
    let key = SigningKey::generate().unwrap();
    let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
    let hosts = match identity {
        PeerIdentity::Gateway => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        _ => Vec::new(),
    };
    let mut chain = certificates(&ca.issue(&request, identity, &hosts, validity).unwrap()).unwrap();
    if *identity == PeerIdentity::Gateway {
        chain.push(ca.certificate().clone());
    }
    KeyAndChain { key, chain }
}

/// One handshake; the server's view of the client, or what went wrong on the client's side.
async fn meet(
    server: &KeyAndChain,
    clients: &CertificateAuthority,
    auth: ClientAuth,
    trust: &Trust,
    client: Option<&KeyAndChain>,
) -> Result<Option<PeerIdentity>, String> {
    let acceptor = TlsAcceptor::from(server_config(server, &[clients.certificate().clone()], auth).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.map_err(|error| format!("server: {error}"))?;
        let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Ok::<_, String>(peer.map(|der| CertificateInfo::from_der(der).unwrap().identity))
    });
    let config = client_config(trust, client).unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connected = TlsConnector::from(Arc::clone(&config)).connect("127.0.0.1".try_into().unwrap(), stream).await;
    let mut connected = connected.map_err(|error| format!("client: {error}"))?;
    // In TLS 1.3 a client learns of its refusal with its first read.
    let read = connected.read(&mut [0; 1]).await;
    let seen = accepted.await.unwrap()?;
    read.map_err(|error| format!("client: {error}"))
        .or_else(|error| if error.contains("close_notify") { Ok(0) } else { Err(error) })?;
    Ok(seen)
}

#[test]
fn a_certificate_says_whose_it_is_and_when_to_renew_it() {
    let ca = CertificateAuthority::create(around_now()).unwrap();
    let key = SigningKey::generate().unwrap();
    let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
    assert_eq!(request.key, *key.public());
    let validity = Window { start: Timestamp(1_767_225_600_000), end: Timestamp(1_767_225_900_000) };
    let info = CertificateInfo::from_pem(&ca.issue(&request, &agent(), &[], validity).unwrap()).unwrap();
    assert_eq!((&info.identity, &info.key), (&agent(), key.public()));
    assert_eq!(info.validity, Window { start: validity.start, end: validity.end.plus(1000) });
    assert_eq!(info.renewal(), Timestamp(1_767_225_600_000 + 200_666));
    assert!(!info.expired(validity.end) && info.expired(validity.end.plus(1000)));
}

#[test]
fn an_authority_kept_as_pem_is_the_same_authority() {
    let ca = CertificateAuthority::create(around_now()).unwrap();
    let again = CertificateAuthority::from_pem(&ca.certificate_pem(), &ca.key_pem()).unwrap();
    assert_eq!((again.hash(), again.certificate()), (ca.hash(), ca.certificate()));
    assert_eq!(ca.hash(), Digest::of(&certificates(&ca.certificate_pem()).unwrap()[0]));
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let key = SigningKey::from_seed(&[1; 32]);
    let good = CertificateRequest::make(&key).unwrap();
    assert_eq!(CertificateRequest::make(&key).unwrap(), good, "the same key asks with the same bytes");
    let place = good.windows(32).position(|part| part == key.public().bytes).unwrap();
    let mut other = good.clone();
    other[place..place + 32].copy_from_slice(&SigningKey::from_seed(&[2; 32]).public().bytes);
    assert!(CertificateRequest::from_der(&other).err().unwrap().to_string().contains("not signed by its own key"));
    for length in 0..good.len() {
        assert!(CertificateRequest::from_der(&good[..length]).is_err());
    }
    assert!(CertificateRequest::from_der(&vec![0x30; 20_000]).is_err());
}

#[test]
fn names_outside_the_scheme_name_nobody() {
    for good in ["spiffe://depin/agent/grid/site-1.north", "spiffe://depin/gateway", "spiffe://depin/viewer/grid"] {
        assert_eq!(good.parse::<PeerIdentity>().unwrap().to_string(), good);
    }
    for bad in [
        "spiffe://depin/agent/grid",
        "spiffe://other/gateway",
        "spiffe://depin/agent/grid/Site",
        "spiffe://depin/viewer/",
        "spiffe://depin/agent/a/b/c",
        "spiffe://depin/operator/",
        "spiffe://depin/agent//x",
    ] {
        assert!(bad.parse::<PeerIdentity>().is_err(), "{bad}");
    }
}

#[test]
fn a_join_token_keeps_its_secret() {
    let token = JoinToken::new([0xab; 16], Digest([1; 32]));
    let text = token.text();
    assert_eq!(text.as_str(), format!("depin1.{}.{}", "ab".repeat(16), "01".repeat(32)));
    let parsed: JoinToken = format!(" {}\n", text.as_str()).parse().unwrap();
    assert_eq!((parsed.secret(), parsed.ca(), parsed.hash()), (&[0xab; 16], Digest([1; 32]), Digest::of(&[0xab; 16])));
    assert!(!format!("{token:?}").contains("abab"));
    for bad in ["", "depin1", "depin1.ab.01", "depin2.abababababababababababababababab.01"] {
        assert!(bad.parse::<JoinToken>().is_err());
    }
}

#[test]
fn a_key_file_is_private_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let key = SigningKey::load_or_create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(SigningKey::load_or_create(&path).unwrap().id(), key.id());
    std::fs::write(&path, "garbage").unwrap();
    assert!(SigningKey::load_or_create(&path).unwrap_err().to_string().contains("no Ed25519 private key"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "garbage");
}

#[tokio::test]
async fn parties_meet_by_bundle_and_by_pinned_hash() {
    let ca = CertificateAuthority::create(around_now()).unwrap();
    let gateway = issue(&ca, &PeerIdentity::Gateway, around_now());
    let client = issue(&ca, &agent(), around_now());
    let bundle = Trust::Bundle(vec![ca.certificate().clone()]);
    let seen = meet(&gateway, &ca, ClientAuth::Optional, &bundle, Some(&client)).await;
    assert_eq!(seen, Ok(Some(agent())));
    let seen = meet(&gateway, &ca, ClientAuth::Optional, &Trust::Pin(ca.hash()), None).await;
    assert_eq!(seen, Ok(None));
    assert!(meet(&gateway, &ca, ClientAuth::Required, &bundle, None).await.is_err());
}

#[tokio::test]
async fn strangers_are_turned_away_on_both_sides() {
    let ca = CertificateAuthority::create(around_now()).unwrap();
    let other = CertificateAuthority::create(around_now()).unwrap();
    let gateway = issue(&ca, &PeerIdentity::Gateway, around_now());
    let bundle = Trust::Bundle(vec![ca.certificate().clone()]);
    // A client of another authority, and one whose certificate has expired.
    let stranger = issue(&other, &agent(), around_now());
    assert!(meet(&gateway, &ca, ClientAuth::Optional, &bundle, Some(&stranger)).await.is_err());
    let past = Window { start: Timestamp(1_767_225_600_000), end: Timestamp(1_767_225_900_000) };
    let expired = issue(&ca, &agent(), past);
    assert!(meet(&gateway, &ca, ClientAuth::Optional, &bundle, Some(&expired)).await.is_err());
    // A gateway of another authority, by bundle and by hash.
    let impostor = issue(&other, &PeerIdentity::Gateway, around_now());
    assert!(meet(&impostor, &ca, ClientAuth::Optional, &bundle, None).await.is_err());
    let error = meet(&impostor, &ca, ClientAuth::Optional, &Trust::Pin(ca.hash()), None).await.unwrap_err();
    assert!(error.contains("join token's hash"), "{error}");
    // An agent's certificate cannot serve, even with the CA beside it.
    let mut posing = issue(&ca, &agent(), around_now());
    posing.chain.push(ca.certificate().clone());
    assert!(meet(&posing, &ca, ClientAuth::Optional, &bundle, None).await.is_err());
    assert!(meet(&posing, &ca, ClientAuth::Optional, &Trust::Pin(ca.hash()), None).await.is_err());
}

/// An authority of another kind of key, under a root, as a company has it: chain and key in PEM.
fn company(algorithm: &'static rcgen::SignatureAlgorithm, is_ca: bool) -> (String, String, CertificateDer<'static>) {
    let (root_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate_for(algorithm).unwrap());
    let authority = |name: &str| {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
        let name = rcgen::DnValue::PrintableString(name.try_into().unwrap());
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters
    };
    let root = authority("Company root").self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(authority("Company root"), &root_key);
    let mut own = authority("Edge");
    if !is_ca {
        own.is_ca = rcgen::IsCa::ExplicitNoCa;
    }
    let own = own.signed_by(&key, &issuer).unwrap();
    (own.pem() + &root.pem(), key.serialize_pem(), root.der().clone())
}

#[tokio::test]
async fn an_intermediate_that_somebody_brings_issues_and_chains_to_its_root() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let (chain, key, root) = company(algorithm, true);
        let ca = CertificateAuthority::from_pem(&chain, &key).unwrap();
        assert_eq!(ca.chain_pem(), chain);
        let mut gateway = issue(&ca, &PeerIdentity::Gateway, around_now());
        gateway.chain.extend(certificates(&ca.above_pem()).unwrap());
        let client = issue(&ca, &agent(), around_now());
        // By its own certificate, by the company's root, and by the hash in a join token.
        for trust in
            [Trust::Bundle(vec![ca.certificate().clone()]), Trust::Bundle(vec![root.clone()]), Trust::Pin(ca.hash())]
        {
            assert_eq!(meet(&gateway, &ca, ClientAuth::Optional, &trust, Some(&client)).await, Ok(Some(agent())));
        }
    }
}

#[test]
fn what_cannot_be_an_authority_is_told_why() {
    let told = |chain: &str, key: &str| CertificateAuthority::from_pem(chain, key).unwrap_err().to_string();
    let (chain, key, _) = company(&rcgen::PKCS_ECDSA_P256_SHA256, true);
    let (leaf, leaf_key, _) = company(&rcgen::PKCS_ECDSA_P256_SHA256, false);
    assert!(told(&leaf, &leaf_key).contains("CA:TRUE"));
    assert!(told(&chain, &leaf_key).contains("do not belong together"));
    assert!(
        told(&chain, "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n").contains("openssl pkcs8")
    );
    assert!(told("nothing", &key).contains("certificate"));
    assert!(!told(&chain, &key.replacen(&key[30..40], "", 1)).contains(&key[40..60]), "no key in an error");
}

#[tokio::test]
async fn the_word_of_an_authority_leads_from_it_to_what_its_successor_issued() {
    let (old, next) =
        (CertificateAuthority::create(around_now()).unwrap(), CertificateAuthority::create(around_now()).unwrap());
    let bundle = Trust::Bundle(vec![old.certificate().clone()]);
    let mut gateway = issue(&next, &PeerIdentity::Gateway, around_now());
    let client = issue(&old, &agent(), around_now());
    gateway.chain.push(old.certificate().clone());
    for trust in [&bundle, &Trust::Pin(old.hash())] {
        assert!(meet(&gateway, &old, ClientAuth::Optional, trust, Some(&client)).await.is_err());
    }
    gateway.chain.extend(certificates(&old.vouch(&next).unwrap()).unwrap());
    for trust in [&bundle, &Trust::Pin(old.hash()), &Trust::Bundle(vec![next.certificate().clone()])] {
        assert_eq!(meet(&gateway, &old, ClientAuth::Optional, trust, Some(&client)).await, Ok(Some(agent())));
    }
    // A company's authority vouches, and is vouched for, too.
    let (chain, key, _) = company(&rcgen::PKCS_ECDSA_P256_SHA256, true);
    let company = CertificateAuthority::from_pem(&chain, &key).unwrap();
    for (one, other) in [(&old, &company), (&company, &next)] {
        let mut gateway = issue(other, &PeerIdentity::Gateway, around_now());
        gateway.chain.extend(certificates(&one.vouch(other).unwrap()).unwrap());
        let trust = Trust::Bundle(vec![one.certificate().clone()]);
        assert_eq!(meet(&gateway, other, ClientAuth::Optional, &trust, None).await, Ok(None));
    }
}

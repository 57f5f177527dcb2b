//! Certificates and authorities that change under running connections, and agents that slept through it.

use std::time::Duration;

use depin_domain::{ids::Digest, registry::Change};
use depin_identity::{CertificateAuthority, Trust, VerifyingKey, certificates::certificates, trust::adopt};
use depin_proto::{
    envelope::RECEIPT_DOMAIN,
    v1::{
        self, configuration_client::ConfigurationClient, enrollment_client::EnrollmentClient, outcome::Result as Answer,
    },
};
use tonic::Code;

use crate::network::{Agent, Chain, Network, Stream, all_told, lately, now, section, write_tls};

/// Tries until it succeeds: the files are looked at every two seconds, and each try is a new connection.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Some(done) = attempt().await {
            return done;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not come to pass")
}

#[tokio::test]
async fn a_new_certificate_of_the_gateway_ends_no_stream() {
    let mut network = Network::start().await;
    let [agent, other] = network.furnish().await;
    let (channel, shown) = network.channel(Some(&agent.identity));
    let mut stream = Stream::begin(channel).await.unwrap();
    let mut chain = Chain::new(&agent.identity.key);
    assert_eq!(all_told(&stream.submit(&[chain.seal(&[section(1, 60, &[1])])]).await.unwrap()), ["judged 1"]);
    let before = shown.borrow().clone().unwrap();
    write_tls(network.directory.path(), &network.ca, &network.ca.certificate_pem());
    let after = until("the new certificate", || async {
        let (channel, shown) = network.channel(Some(&other.identity));
        drop(Stream::begin(channel).await.ok()?);
        let key = shown.borrow().clone();
        key.filter(|key| *key != before)
    })
    .await;
    // The stream goes on, and its receipts are by the key that it was shown.
    let outcomes = stream.submit(&[chain.seal(&[section(1, 40, &[1])])]).await.unwrap();
    let Some(Answer::Judged(judged)) = &outcomes[0].result else { panic!("{outcomes:?}") };
    let receipt = judged.receipt.as_ref().unwrap();
    let signed_by = |key| VerifyingKey::new(key).unwrap().verify(RECEIPT_DOMAIN, &receipt.body, &receipt.signature);
    assert!(signed_by(&before) && !signed_by(&after));
    network.stop().await;
}

#[tokio::test]
async fn an_agent_that_slept_through_a_rotation_comes_back_and_learns_of_the_new_authority() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let old = network.ca.certificate().clone();
    let next = CertificateAuthority::create(lately()).unwrap();
    let (both, directory) = (next.certificate_pem() + &network.ca.certificate_pem(), network.directory.path());
    let trust = Trust::Bundle(vec![old.clone()]);
    // The new authority's certificate alone is nobody's word.
    write_tls(directory, &next, &both);
    until("the refusal", || async {
        Stream::begin(network.channel_trusting(&trust, Some(&agent.identity)).0).await.err()
    })
    .await;
    std::fs::write(directory.join("vouchers.crt"), network.ca.vouch(&next).unwrap()).unwrap();
    // With the old one's word the agent verifies it, shows what the old one issued, and is let in.
    until("the way back", || async {
        Stream::begin(network.channel_trusting(&trust, Some(&agent.identity)).0).await.ok()
    })
    .await;
    // So is a stranger whose join token has the old one's hash.
    let mut stranger = EnrollmentClient::new(network.channel_trusting(&Trust::Pin(Digest::of(&old)), None).0);
    let answered = stranger.terms(v1::TermsRequest {}).await.unwrap_err();
    assert_eq!(answered.code(), Code::FailedPrecondition, "{answered}");
    // It is told of both, with the word.
    let mut client = ConfigurationClient::new(network.channel_trusting(&trust, Some(&agent.identity)).0);
    let held = |bundle: &str| v1::WatchConfigurationRequest {
        ca_digest: Digest::of(bundle.as_bytes()).0.to_vec().into(),
        ..v1::WatchConfigurationRequest::default()
    };
    let mut updates = client.watch(held(&network.ca.certificate_pem())).await.unwrap().into_inner();
    assert!(updates.message().await.unwrap().unwrap().snapshot);
    let told = updates.message().await.unwrap().unwrap();
    assert_eq!((told.ca.as_str(), told.snapshot, told.models.len()), (both.as_str(), false, 0));
    let offered = certificates(&told.ca).unwrap();
    let vouchers = certificates(&told.ca_vouchers).unwrap();
    assert_eq!(adopt(std::slice::from_ref(&old), &offered, &vouchers, now()), offered);
    // Who has it already hears nothing, and who has it learns of the next change.
    let mut knowing = client.watch(held(&both)).await.unwrap().into_inner();
    assert!(knowing.message().await.unwrap().unwrap().snapshot);
    std::fs::write(directory.join("ca.crt"), next.certificate_pem()).unwrap();
    for updates in [&mut updates, &mut knowing] {
        assert_eq!(updates.message().await.unwrap().unwrap().ca, next.certificate_pem());
    }
    // The old one is trusted no more: what it issued opens nothing.
    let new = Trust::Bundle(vec![next.certificate().clone()]);
    until("the end of the old one", || async {
        Stream::begin(network.channel_trusting(&new, Some(&agent.identity)).0).await.err()
    })
    .await;
    let renewed = Agent { identity: crate::network::issue(&next, &peer(&agent), agent.identity.key.clone()), ..agent };
    Stream::begin(network.channel_trusting(&new, Some(&renewed.identity)).0).await.unwrap();
    drop((updates, knowing));
    network.stop().await;
}

fn peer(agent: &Agent) -> depin_identity::PeerIdentity {
    depin_identity::PeerIdentity::Agent { namespace: "grid".into(), name: agent.name.clone() }
}

#[tokio::test]
async fn a_revoked_agents_idle_streams_end_within_a_minute_and_it_does_not_come_back() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut stream = Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap();
    let mut client = ConfigurationClient::new(network.channel(Some(&agent.identity)).0);
    let mut updates = client.watch(v1::WatchConfigurationRequest::default()).await.unwrap().into_inner();
    assert!(updates.message().await.unwrap().unwrap().snapshot);
    network.write(&[Change::AgentRemoved { id: agent.id }]).await;
    let minute = Duration::from_secs(60);
    let ended = tokio::time::timeout(minute, updates.message()).await.unwrap().unwrap_err();
    assert!(ended.code() == Code::PermissionDenied && ended.message().contains("KeyRevoked"), "{ended}");
    // It says nothing: the gateway ends it all the same.
    let ended = tokio::time::timeout(minute, stream.next()).await.unwrap().unwrap_err();
    assert!(ended.code() == Code::PermissionDenied && ended.message().contains("KeyRevoked"), "{ended}");
    let refused = Stream::begin(network.channel(Some(&agent.identity)).0).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    network.stop().await;
}

#[tokio::test]
async fn somebody_elses_certificate_serves_and_the_authorities_lie_beside_it() {
    // Certificate and key are by a company's authority, as cert-manager keeps them; agents are the network's own.
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let company = CertificateAuthority::create(lately()).unwrap();
    let (tls, ca) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tls(tls.path(), &company, "unused");
    std::fs::write(ca.path().join("ca.crt"), network.ca.certificate_pem()).unwrap();
    let address = network.beside(tls.path(), ca.path()).await;
    let trust = Trust::Bundle(vec![company.certificate().clone()]);
    let connect = |trust: &Trust| {
        let config = depin_identity::client_config(trust, Some(&agent.identity)).unwrap();
        depin_identity::connect_lazy(&address, config).unwrap().0
    };
    Stream::begin(connect(&trust)).await.unwrap();
    assert!(Stream::begin(connect(&Trust::Bundle(vec![network.ca.certificate().clone()]))).await.is_err());
    network.stop().await;
}

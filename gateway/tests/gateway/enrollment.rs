//! Enrollment: from a join token to a certificate, and its renewal.

use depin_domain::{ids::Digest, registry::Change, time::Timestamp};
use depin_identity::{
    CertificateInfo, CertificateRequest, KeyAndChain, Pass, PeerIdentity, SigningKey, Trust,
    certificates::certificates, client_config, connect_lazy,
};
use depin_proto::v1::{
    self, enroll_response::Result as Answer, enrollment_client::EnrollmentClient, inbox_entry::Entry,
};
use tonic::{Code, transport::Channel};

use crate::network::{Agent, Network, Stream, invitation, lately, write_tls};

const SECRET: [u8; 16] = [7; 16];

fn enroll(key: &SigningKey) -> v1::EnrollRequest {
    v1::EnrollRequest {
        token: SECRET.to_vec().into(),
        csr: CertificateRequest::make(key).unwrap().into(),
        name: "site-1".into(),
        facts: None,
        service_account: None,
    }
}

async fn ask(client: &mut EnrollmentClient<Channel>, request: v1::EnrollRequest) -> Answer {
    client.enroll(request).await.unwrap().into_inner().result.unwrap()
}

/// Issues what the entry asks for, as the operator does.
async fn answer(network: &mut Network, entry: &v1::InboxEntry, csr: &[u8]) {
    let peer = PeerIdentity::Agent { namespace: "grid".into(), name: "site-1".into() };
    let request = CertificateRequest::from_der(csr).unwrap();
    let issued = v1::IssuedCertificate {
        chain: network.ca.issue(&request, &peer, &[], lately()).unwrap(),
        ca: network.ca.certificate_pem(),
        namespace: "grid".into(),
        name: "site-1".into(),
        agent_id: peer.agent_id().unwrap().0.to_vec().into(),
    };
    let response = v1::EnrollResponse { result: Some(Answer::Issued(issued)) };
    let request = v1::AnswerInboxRequest { writer: Some(network.writer), id: entry.id, response: Some(response) };
    network.operator.answer_inbox(request).await.unwrap();
}

#[tokio::test]
async fn a_join_token_becomes_a_certificate_that_opens_a_stream() {
    let mut network = Network::start().await;
    let mut inbox = network.operator.watch_inbox(v1::WatchInboxRequest {}).await.unwrap().into_inner();
    let key = SigningKey::generate().unwrap();
    // First contact: all that the agent knows is the CA's hash.
    let config = client_config(&Trust::Pin(network.ca.hash()), None).unwrap();
    let mut client = EnrollmentClient::new(connect_lazy(&network.agents_address(), config).unwrap().0);
    assert!(matches!(ask(&mut client, enroll(&key)).await, Answer::Denied(denied) if denied.reason == "InvalidToken"));
    network.write(&[invitation(&SECRET)]).await;
    assert!(matches!(ask(&mut client, enroll(&key)).await, Answer::Pending(_)));
    assert!(matches!(ask(&mut client, enroll(&key)).await, Answer::Pending(_)));
    let entry = inbox.message().await.unwrap().unwrap();
    let Some(Entry::Enroll(request)) = entry.entry.clone() else { panic!("{entry:?}") };
    assert_eq!(request, enroll(&key));
    // The operator uses up the invitation and answers; the agent that asks again still gets the answer.
    network.write(&[Change::InvitationRemoved { token: Digest::of(&SECRET) }]).await;
    answer(&mut network, &entry, &request.csr).await;
    let Answer::Issued(issued) = ask(&mut client, enroll(&key)).await else { panic!() };
    let chain = certificates(&issued.chain).unwrap();
    assert_eq!(CertificateInfo::from_der(&chain[0]).unwrap().key, *key.public());
    let identity = KeyAndChain { key, chain };
    Stream::begin(network.channel(Some(&identity)).0).await.unwrap();
    // Another stranger gains nothing from the used token.
    let stranger = SigningKey::generate().unwrap();
    assert!(matches!(ask(&mut client, enroll(&stranger)).await, Answer::Denied(_)));
    network.stop().await;
}

#[tokio::test]
async fn a_key_that_was_denied_with_one_token_is_asked_for_with_another() {
    let mut network = Network::start().await;
    let mut inbox = network.operator.watch_inbox(v1::WatchInboxRequest {}).await.unwrap().into_inner();
    network.write(&[invitation(&SECRET), invitation(&[8; 16])]).await;
    let key = SigningKey::generate().unwrap();
    let mut client = EnrollmentClient::new(network.channel(None).0);
    assert!(matches!(ask(&mut client, enroll(&key)).await, Answer::Pending(_)));
    let entry = inbox.message().await.unwrap().unwrap();
    let denied = v1::Denied { reason: "NameTaken".into(), message: "choose another name".into() };
    let response = Some(v1::EnrollResponse { result: Some(Answer::Denied(denied)) });
    let request = v1::AnswerInboxRequest { writer: Some(network.writer), id: entry.id, response };
    network.operator.answer_inbox(request).await.unwrap();
    assert!(matches!(ask(&mut client, enroll(&key)).await, Answer::Denied(denied) if denied.reason == "NameTaken"));
    // A key's certificate request is always the same; the request as a whole is not.
    let another = v1::EnrollRequest { token: vec![8; 16].into(), ..enroll(&key) };
    assert!(matches!(ask(&mut client, another.clone()).await, Answer::Pending(_)));
    let entry = inbox.message().await.unwrap().unwrap();
    answer(&mut network, &entry, &another.csr).await;
    assert!(matches!(ask(&mut client, another).await, Answer::Issued(_)));
    assert!(matches!(ask(&mut client, enroll(&key)).await, Answer::Denied(_)), "and the first one stays what it was");
    network.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_told_what_is_wrong() {
    let mut network = Network::start().await;
    network.write(&[invitation(&SECRET)]).await;
    let mut client = EnrollmentClient::new(network.channel(None).0);
    let good = enroll(&SigningKey::from_seed(&[3; 32]));
    let cases = [
        (v1::EnrollRequest { token: vec![1].into(), ..good.clone() }, "token"),
        (v1::EnrollRequest { csr: vec![0x30, 0].into(), ..good.clone() }, "csr"),
        (v1::EnrollRequest { name: "Site 1".into(), ..good.clone() }, "name"),
        (
            v1::EnrollRequest {
                facts: Some(v1::AgentFacts { hostname: "h".repeat(300), ..Default::default() }),
                ..good
            },
            "facts",
        ),
    ];
    for (request, field) in cases {
        let status = client.enroll(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    network.stop().await;
}

#[tokio::test]
async fn a_known_key_renews_with_or_without_its_certificate_and_no_other_key_does() {
    let mut network = Network::start().await;
    let [agent, other] = network.furnish().await;
    let mut inbox = network.operator.watch_inbox(v1::WatchInboxRequest {}).await.unwrap().into_inner();
    let renewal = |agent: &Agent, expires| v1::RenewRequest {
        csr: CertificateRequest::make_renewal(&agent.identity.key, Timestamp(expires)).unwrap().into(),
        facts: None,
    };
    let mut client = EnrollmentClient::new(network.channel(Some(&agent.identity)).0);
    let pending = client.renew(renewal(&agent, 1)).await.unwrap().into_inner().result.unwrap();
    assert!(matches!(pending, Answer::Pending(_)));
    let entry = inbox.message().await.unwrap().unwrap();
    let Some(Entry::Renew(posted)) = &entry.entry else { panic!("{entry:?}") };
    assert_eq!(posted.agent_id, agent.id.0.as_slice());
    answer(&mut network, &entry, &renewal(&agent, 1).csr).await;
    let issued = client.renew(renewal(&agent, 1)).await.unwrap().into_inner().result.unwrap();
    assert!(matches!(issued, Answer::Issued(_)));
    // The next renewal is another request, also without a certificate.
    let mut bare = EnrollmentClient::new(network.channel(None).0);
    let pending = bare.renew(renewal(&agent, 2)).await.unwrap().into_inner().result.unwrap();
    assert!(matches!(pending, Answer::Pending(_)));
    let status = client.renew(renewal(&other, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let stranger = Agent::new(&network.ca, "site-9");
    let denied = bare.renew(renewal(&stranger, 1)).await.unwrap().into_inner().result.unwrap();
    assert!(matches!(denied, Answer::Denied(denied) if denied.reason == "UnknownKey"));
    network.stop().await;
}

#[tokio::test]
async fn new_certificate_files_are_used_without_a_restart() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let (channel, before) = network.channel(Some(&agent.identity));
    Stream::begin(channel).await.unwrap();
    write_tls(network.directory.path(), &network.ca, &network.ca.certificate_pem());
    // Each try is a new connection; the files are looked at every two seconds.
    loop {
        let (channel, after) = network.channel(Some(&agent.identity));
        if Stream::begin(channel).await.is_ok() && *after.borrow() != *before.borrow() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    network.stop().await;
}

#[tokio::test]
async fn a_pass_goes_to_the_operator_as_it_came_and_only_for_fleets_that_are_there() {
    let mut network = Network::start().await;
    network.furnish().await;
    let mut inbox = network.operator.watch_inbox(v1::WatchInboxRequest {}).await.unwrap().into_inner();
    let mut client = EnrollmentClient::new(network.channel(None).0);
    let none = client.terms(v1::TermsRequest {}).await.unwrap_err();
    assert_eq!(none.code(), Code::FailedPrecondition, "{none}");
    std::fs::write(network.directory.path().join("sealing.pub"), hex(network.ca.sealing().public())).unwrap();
    let key = loop {
        match client.terms(v1::TermsRequest {}).await {
            Ok(terms) => break terms.into_inner().sealing_key,
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(key, network.ca.sealing().public().as_slice());
    let own = SigningKey::from_seed(&[8; 32]);
    let csr = CertificateRequest::make(&own).unwrap();
    let pass = |fleet: &str| {
        let fleets = vec![fleet.to_owned()];
        let bound = Pass { csr: &csr, name: "", namespace: "grid", fleets: &fleets };
        let sealed_token = bound.seal(&key, "a token").unwrap().into();
        let pass = v1::ServiceAccountPass { namespace: "grid".into(), fleets, sealed_token };
        let csr = csr.clone().into();
        v1::EnrollRequest { csr, service_account: Some(pass), ..v1::EnrollRequest::default() }
    };
    assert!(matches!(ask(&mut client, pass("none")).await, Answer::Denied(denied) if denied.reason == "NotAllowed"));
    let sent = pass("meters");
    assert!(matches!(ask(&mut client, sent.clone()).await, Answer::Pending(_)));
    let entry = inbox.message().await.unwrap().unwrap();
    assert_eq!(entry.entry, Some(Entry::Enroll(sent.clone())));
    let shown = sent.service_account.clone().unwrap();
    let bound = Pass { csr: &csr, name: "", namespace: "grid", fleets: &shown.fleets };
    assert_eq!(bound.open(network.ca.sealing(), &shown.sealed_token).unwrap().as_str(), "a token");
    answer(&mut network, &entry, &csr).await;
    // Sealed anew it is the same request.
    assert!(matches!(ask(&mut client, pass("meters")).await, Answer::Issued(_)));
    let changed = |change: &dyn Fn(&mut v1::EnrollRequest)| {
        let mut request = sent.clone();
        change(&mut request);
        request
    };
    for (request, field) in [
        (changed(&|request| request.token = vec![7; 16].into()), "token"),
        (
            changed(&|request| request.service_account.as_mut().unwrap().namespace = "Grid".into()),
            "service_account.namespace",
        ),
        (changed(&|request| request.service_account.as_mut().unwrap().fleets.clear()), "service_account.fleets"),
        (
            changed(&|request| request.service_account.as_mut().unwrap().sealed_token = vec![0; 20_000].into()),
            "service_account.sealed",
        ),
        (changed(&|request| request.name = "a b".into()), "name"),
    ] {
        let status = client.enroll(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    network.stop().await;
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

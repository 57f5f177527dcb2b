//! Every limit on what comes from outside is hit once: the sender is told, and what is within goes on.

use std::time::Duration;

use depin_domain::{registry::Change, time::Timestamp};
use depin_gateway::Limits;
use depin_identity::{CertificateRequest, SigningKey};
use depin_proto::v1::{self, enrollment_client::EnrollmentClient};
use tonic::Code;

use crate::network::{Agent, Chain, Network, Stream, all_told, device, invitation, section, told};

async fn stream(network: &Network, agent: &Agent) -> Stream {
    Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap()
}

#[tokio::test]
async fn a_proof_of_too_many_sections_is_refused() {
    let mut network = Network::start_with(Limits { max_sections: 1, ..Limits::default() }).await;
    let [agent, _] = network.furnish().await;
    network.write(&[Change::Device(device(3, &agent, None))]).await;
    let two = Chain::new(&agent.identity.key).seal(&[section(1, 60, &[1]), section(3, 60, &[1])]);
    let one = Chain::new(&agent.identity.key).seal(&[section(1, 60, &[1])]);
    let outcomes = stream(&network, &agent).await.submit(&[two, one]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["refused Oversize", "judged 1"]);
    network.stop().await;
}

#[tokio::test]
async fn a_message_beyond_its_limit_ends_its_stream_and_no_other() {
    let mut network = Network::start_with(Limits { max_message_bytes: 4_096, ..Limits::default() }).await;
    let [one, two] = network.furnish().await;
    let mut other = stream(&network, &two).await;
    let mut chain = Chain::new(&one.identity.key);
    let large: Vec<_> = (0..40).map(|number| chain.seal(&[section(1, 600 - number, &[1])])).collect();
    let ended = stream(&network, &one).await.submit(&large).await.unwrap_err();
    assert_eq!(ended.code(), Code::ResourceExhausted, "{ended}");
    let small = Chain::new(&two.identity.key).seal(&[section(2, 60, &[1])]);
    assert_eq!(all_told(&other.submit(&[small]).await.unwrap()), ["judged 1"]);
    let again = stream(&network, &one).await.submit(&large[..1]).await.unwrap();
    assert_eq!(all_told(&again), ["judged 1"], "in smaller messages all of it is taken");
    network.stop().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_of_all_agents_are_turned_away_until_one_ends() {
    let mut network = Network::start_with(Limits { streams: 2, ..Limits::default() }).await;
    let [one, two] = network.furnish().await;
    let (first, _second) = (stream(&network, &one).await, stream(&network, &one).await);
    let refused = Stream::begin(network.channel(Some(&two.identity)).0).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while Stream::begin(network.channel(Some(&two.identity)).0).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the ended stream's place is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    network.stop().await;
}

#[tokio::test]
async fn a_full_window_holds_the_agent_back_and_loses_nothing() {
    let limits = Limits { window_proofs: 2, window_bytes: 2_000, ..Limits::default() };
    let mut network = Network::start_with(limits).await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut open = stream(&network, &agent).await;
    let opened = open.open(vec![chain.open(1)]).await.unwrap();
    assert_eq!(opened.window.map(|window| (window.proofs, window.bytes)), Some((2, 2_000)));
    for number in 0..14 {
        let proofs = vec![chain.seal(&[section(1, 600 - number, &[1])])];
        open.send(v1::submit_request::Message::Proofs(v1::ProofBatch { proofs })).await;
    }
    let mut judged = 0;
    while judged < 14 {
        let v1::submit_response::Message::Outcomes(batch) = open.next().await.unwrap() else { panic!() };
        assert!(batch.outcomes.iter().all(|outcome| told(outcome) == "judged 1"), "{:?}", all_told(&batch.outcomes));
        judged += batch.outcomes.len();
    }
    network.stop().await;
}

#[tokio::test]
async fn bad_signatures_of_one_stream_spoil_no_proof_of_many_others() {
    let mut network = Network::start().await;
    let [bad, _] = network.furnish().await;
    let agents: Vec<Agent> = (10..18).map(|number| Agent::new(&network.ca, &format!("site-{number}"))).collect();
    let mut changes: Vec<_> = agents.iter().map(|agent| Change::Agent(agent.entry())).collect();
    changes.extend(agents.iter().zip(10..).map(|(agent, number)| Change::Device(device(number, agent, None))));
    network.write(&changes).await;
    let mut forged = Chain::new(&bad.identity.key).seal(&[section(1, 60, &[1])]);
    let mut signature = forged.signature.to_vec();
    signature[40] ^= 1;
    forged.signature = signature.into();
    let mut hostile = stream(&network, &bad).await;
    let mut streams = Vec::new();
    for (agent, number) in agents.iter().zip(10..) {
        streams.push((stream(&network, agent).await, Chain::new(&agent.identity.key), number));
    }
    for round in 0..4 {
        let batch = v1::ProofBatch { proofs: vec![forged.clone(); 5] };
        hostile.send(v1::submit_request::Message::Proofs(batch)).await;
        for (open, chain, number) in &mut streams {
            let proofs = vec![chain.seal(&[section(*number, 600 - round, &[1])])];
            open.send(v1::submit_request::Message::Proofs(v1::ProofBatch { proofs })).await;
        }
        for (open, ..) in &mut streams {
            let v1::submit_response::Message::Outcomes(batch) = open.next().await.unwrap() else { panic!() };
            assert_eq!(all_told(&batch.outcomes), ["judged 1"]);
        }
        let v1::submit_response::Message::Outcomes(batch) = hostile.next().await.unwrap() else { panic!() };
        assert_eq!(all_told(&batch.outcomes), ["refused BadSignature"; 5]);
    }
    network.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    // One for each port: the operator's takes the ledger's.
    let mut network = Network::start_with(Limits { connections: 1, ..Limits::default() }).await;
    let [one, two] = network.furnish().await;
    let first = stream(&network, &one).await;
    let mut second = tokio::spawn(Stream::begin(network.channel(Some(&two.identity)).0));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut second).await;
    assert!(waited.is_err(), "it has no place yet");
    drop(first);
    let outcome = tokio::time::timeout(Duration::from_secs(30), second).await.unwrap().unwrap();
    assert!(outcome.is_ok(), "the place of the ended connection is taken");
    network.stop().await;
}

/// A request to enroll under the test's invitation.
fn enroll(number: usize) -> v1::EnrollRequest {
    let key = SigningKey::generate().unwrap();
    v1::EnrollRequest {
        token: vec![9; 16].into(),
        csr: CertificateRequest::make(&key).unwrap().into(),
        name: format!("agent-{number}"),
        facts: None,
        service_account: None,
    }
}

#[tokio::test]
async fn an_inbox_takes_so_many_requests_under_one_token() {
    let mut network = Network::start_with(Limits { enrollments_per_second: 1_000, ..Limits::default() }).await;
    network.write(&[invitation(&[9; 16])]).await;
    let mut client = EnrollmentClient::new(network.channel(None).0);
    for number in 0..100 {
        client.enroll(enroll(number)).await.unwrap();
    }
    let full = client.enroll(enroll(100)).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    network.stop().await;
}

#[tokio::test]
async fn strangers_together_have_a_rate() {
    let network = Network::start_with(Limits { enrollments_per_second: 1, ..Limits::default() }).await;
    let mut client = EnrollmentClient::new(network.channel(None).0);
    let mut codes = Vec::new();
    for _ in 0..200 {
        codes.push(client.enroll(v1::EnrollRequest::default()).await.unwrap_err().code());
    }
    assert!(codes[..10].iter().all(|code| *code == Code::InvalidArgument), "a burst of ten seconds' worth: {codes:?}");
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    network.stop().await;
}

#[tokio::test]
async fn a_stream_is_told_a_smaller_window_while_the_room_of_all_fills_and_the_whole_one_afterwards() {
    let sealed = |key: &SigningKey| -> Vec<_> {
        let mut chain = Chain::new(key);
        (0..6).map(|number| chain.seal(&[section(1, 60 + number, &[1])])).collect()
    };
    let size = |proof: &v1::SignedProof| {
        proof.header.len() + proof.signature.len() + proof.sections.iter().map(|section| section.len()).sum::<usize>()
    };
    let bytes: usize = sealed(&SigningKey::generate().unwrap()).iter().map(size).sum();
    // Six proofs leave little of the room.
    let limits = Limits {
        max_unanswered_bytes: bytes + bytes / 10,
        max_proof_bytes: bytes / 6 + 1,
        window_bytes: bytes as u64,
        window_proofs: 8,
        ..Limits::default()
    };
    let mut network = Network::start_with(limits.clone()).await;
    let [agent, _] = network.furnish().await;
    let mut stream = stream(&network, &agent).await;
    let whole = Some(v1::Window { proofs: 8, bytes: bytes as u64 });
    assert_eq!(stream.open(Vec::new()).await.unwrap().window, whole);
    assert_eq!(stream.submit(&sealed(&agent.identity.key)).await.unwrap().len(), 6);
    stream.open(Vec::new()).await.unwrap();
    let least = v1::Window { proofs: 1, bytes: limits.max_proof_bytes as u64 };
    assert_eq!((stream.windows.first(), stream.windows.last()), (Some(&least), whole.as_ref()), "{:?}", stream.windows);
    network.stop().await;
}

#[tokio::test]
async fn a_flood_of_strangers_keeps_no_agent_from_renewing() {
    let mut network = Network::start_with(Limits { enrollments_per_second: 1, ..Limits::default() }).await;
    let [agent, _] = network.furnish().await;
    let renewal = |agent: &Agent| v1::RenewRequest {
        csr: CertificateRequest::make_renewal(&agent.identity.key, Timestamp(1)).unwrap().into(),
        facts: None,
    };
    let mut strangers = EnrollmentClient::new(network.channel(None).0);
    let mut limited = false;
    for _ in 0..1_000 {
        let status = strangers.enroll(v1::EnrollRequest::default()).await.unwrap_err();
        limited |= status.code() == Code::ResourceExhausted;
        // Requests to renew that no agent signed are strangers' too.
        let stranger = Agent::new(&network.ca, "site-9");
        limited |=
            strangers.renew(renewal(&stranger)).await.is_err_and(|status| status.code() == Code::ResourceExhausted);
        if limited {
            break;
        }
    }
    assert!(limited);
    // With its certificate, and without one that may have run out.
    for identity in [Some(&agent.identity), None] {
        let mut client = EnrollmentClient::new(network.channel(identity).0);
        let answer = client.renew(renewal(&agent)).await.unwrap().into_inner().result;
        assert!(matches!(answer, Some(v1::enroll_response::Result::Pending(_))), "{answer:?}");
    }
    // What is no request at all costs nobody a look at signatures beyond its own rate; who shows a certificate is not concerned.
    let garbage = v1::RenewRequest { csr: vec![0x30, 0].into(), facts: None };
    let mut codes = Vec::new();
    while codes.len() < 1_000 && codes.last() != Some(&Code::ResourceExhausted) {
        codes.push(strangers.renew(garbage.clone()).await.unwrap_err().code());
    }
    assert_eq!((codes[0], codes.last()), (Code::InvalidArgument, Some(&Code::ResourceExhausted)), "{codes:?}");
    let mut client = EnrollmentClient::new(network.channel(Some(&agent.identity)).0);
    assert!(client.renew(renewal(&agent)).await.is_ok());
    network.stop().await;
}

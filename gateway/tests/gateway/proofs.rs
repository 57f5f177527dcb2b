//! Proofs: refused, deferred, judged; receipts; limits; who speaks for whom.

use depin_domain::{
    ids::{DeviceId, Digest},
    proofs::Reason,
    registry::Change,
};
use depin_gateway::Limits;
use depin_identity::{SigningKey, VerifyingKey};
use depin_proto::{
    convert::{head_from_proto, verdict_from_proto},
    envelope::{RECEIPT_DOMAIN, decode_receipt, verdict_digest},
    v1,
};
use tonic::Code;

use crate::network::{Agent, Chain, Network, Stream, all_told, device, rejections, section, told};

async fn stream(network: &Network, agent: &Agent) -> Stream {
    Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap()
}

#[tokio::test]
async fn a_good_proof_gets_a_receipt_that_verifies_with_the_gateway_s_key() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let (channel, key) = network.channel(Some(&agent.identity));
    let mut stream = Stream::begin(channel).await.unwrap();
    let mut chain = Chain::new(&agent.identity.key);
    let opened = stream.open(vec![chain.open(1)]).await.unwrap();
    let (_, head) = head_from_proto(&opened.heads[0]).unwrap();
    assert_eq!((head.incarnation, head.sequence), (0, 0));
    assert!(opened.window.unwrap().proofs > 0);

    let proof = chain.seal(&[section(1, 60, &[100, 5_000, 200])]);
    let outcomes = stream.submit(std::slice::from_ref(&proof)).await.unwrap();
    assert_eq!(all_told(&outcomes), ["judged 2"]);
    assert_eq!(rejections(&outcomes[0]), [Reason::OutOfRange.name()]);
    let Some(v1::outcome::Result::Judged(judged)) = &outcomes[0].result else { panic!() };
    let receipt = judged.receipt.as_ref().unwrap();
    let body = decode_receipt(&receipt.body).unwrap();
    let verdict = verdict_from_proto(judged.verdict.as_ref().unwrap()).unwrap();
    assert_eq!((body.digest, body.accepted, body.rejected), (Digest::of(&proof.header), 2, 1));
    assert_eq!((body.verdict, body.durable), (verdict_digest(&verdict).unwrap(), true));
    let shown = key.borrow().clone().unwrap();
    assert_eq!(shown.id(), body.gateway);
    assert!(VerifyingKey::new(&shown).unwrap().verify(RECEIPT_DOMAIN, &receipt.body, &receipt.signature));

    let opened = stream.open(vec![chain.open(2)]).await.unwrap();
    let (_, head) = head_from_proto(&opened.heads[0]).unwrap();
    assert_eq!((head.incarnation, head.sequence, head.digest), (1, 1, Digest::of(&proof.header)));
    network.stop().await;
}

#[tokio::test]
async fn the_same_proof_again_is_answered_with_the_first_verdict() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let proof = chain.seal(&[section(1, 60, &[1, 2])]);
    let mut first = stream(&network, &agent).await;
    let mut second = stream(&network, &agent).await;
    let position = |outcome: &v1::Outcome| {
        let Some(v1::outcome::Result::Judged(judged)) = &outcome.result else { panic!() };
        decode_receipt(&judged.receipt.as_ref().unwrap().body).unwrap().position
    };
    let judged = first.submit(&[proof.clone(), proof.clone()]).await.unwrap();
    assert_eq!(all_told(&judged), ["judged 2", "repeated 2"]);
    let again = second.submit(&[proof]).await.unwrap();
    assert_eq!((all_told(&again), position(&again[0])), (vec!["repeated 2".to_owned()], position(&judged[0])));
    network.stop().await;
}

#[tokio::test]
async fn a_second_proof_at_a_sequence_is_equivocation() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut clone = chain.clone();
    let mut stream = stream(&network, &agent).await;
    let outcomes = stream.submit(&[chain.seal(&[section(1, 60, &[1])])]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["judged 1"]);
    let outcomes = stream.submit(&[clone.seal(&[section(1, 50, &[2])])]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["refused Equivocation"]);
    // The next of the true chain still counts, the next of the clone does not.
    let outcomes = stream.submit(&[clone.seal(&[section(1, 40, &[3])])]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["refused Equivocation"]);
    let outcomes = stream.submit(&[chain.seal(&[section(1, 30, &[4])])]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["judged 1"]);
    network.stop().await;
}

#[tokio::test]
async fn a_gap_waits_until_it_is_declared() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut stream = stream(&network, &agent).await;
    let first = chain.seal(&[section(1, 60, &[1])]);
    let _lost = chain.seal(&[section(1, 50, &[2])]);
    let third = chain.seal(&[section(1, 40, &[3])]);
    let outcomes = stream.submit(&[first, third.clone()]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["judged 1", "deferred SequenceGap"]);
    stream.open(vec![chain.open(3)]).await.unwrap();
    let outcomes = stream.submit(&[third]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["judged 1"]);
    network.stop().await;
}

#[tokio::test]
async fn a_bad_signature_spoils_no_good_one_beside_it() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let keys: Vec<SigningKey> = (10..20).map(|seed| SigningKey::from_seed(&[seed; 32])).collect();
    let devices: Vec<Change> = keys
        .iter()
        .zip(10..)
        .map(|(key, number)| Change::Device(device(number, &agent, Some(key.public().clone()))))
        .collect();
    network.write(&devices).await;
    let mut proofs: Vec<_> = keys
        .iter()
        .zip(10..)
        .map(|(key, number)| {
            let mut section = section(number, 60, &[1, 2, 3]);
            section.attestation = depin_domain::model::Attestation::Device;
            Chain::new(key).seal(&[section])
        })
        .collect();
    let mut signature = proofs[4].signature.to_vec();
    signature[5] ^= 1;
    proofs[4].signature = signature.into();
    let mut body = proofs[7].sections[0].to_vec();
    *body.last_mut().unwrap() ^= 1;
    proofs[7].sections[0] = body.into();
    proofs[8].header = proofs[8].header.slice(1..);
    let outcomes = stream(&network, &agent).await.submit(&proofs).await.unwrap();
    let told = all_told(&outcomes);
    assert_eq!(told[4], "refused BadSignature");
    assert_eq!(told[7], "refused BodyMismatch");
    assert_eq!(told[8], "refused Malformed");
    assert_eq!(outcomes[8].digest, Digest::of(&proofs[8].header).0.as_slice());
    assert_eq!(told.iter().filter(|told| *told == "judged 3").count(), 7, "{told:?}");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &network.metrics).unwrap();
    assert!(text.contains("depin_proofs_total{result=\"refused\",reason=\"BadSignature\"} 1"), "{text}");
    assert!(text.contains("depin_readings_total{result=\"accepted\",reason=\"\"} 21"), "{text}");
    network.stop().await;
}

#[tokio::test]
async fn an_agent_s_certificate_speaks_for_its_own_devices_only() {
    let mut network = Network::start().await;
    let [one, two] = network.furnish().await;
    let mut stream = stream(&network, &two).await;
    let foreign = Chain::new(&one.identity.key).seal(&[section(1, 60, &[1])]);
    assert_eq!(all_told(&stream.submit(&[foreign]).await.unwrap()), ["refused NotYourKey"]);
    let stranger = Chain::new(&SigningKey::from_seed(&[99; 32])).seal(&[section(2, 60, &[1])]);
    assert_eq!(all_told(&stream.submit(&[stranger]).await.unwrap()), ["refused UnknownKey"]);
    // Its own chain with another agent's device: judged, and nothing of that section counts.
    let mixed = Chain::new(&two.identity.key).seal(&[section(2, 60, &[1, 2]), section(1, 60, &[7])]);
    let outcomes = stream.submit(&[mixed]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["judged 2"]);
    assert_eq!(rejections(&outcomes[0]), ["NotYours"]);
    // It learns nothing of chains that are not its own.
    let opened = stream.open(vec![Chain::new(&one.identity.key).open(1)]).await.unwrap();
    assert!(opened.heads.is_empty());
    network.stop().await;
}

#[tokio::test]
async fn a_certified_key_that_the_registry_lacks_is_deferred() {
    let mut network = Network::start().await;
    network.furnish().await;
    let newcomer = Agent::new(&network.ca, "site-9");
    let mut stream = stream(&network, &newcomer).await;
    let mut chain = Chain::new(&newcomer.identity.key);
    let proof = chain.seal(&[section(9, 60, &[1])]);
    assert_eq!(all_told(&stream.submit(std::slice::from_ref(&proof)).await.unwrap()), ["deferred KeyNotYetRegistered"]);
    network.write(&[Change::Agent(newcomer.entry()), Change::Device(device(9, &newcomer, None))]).await;
    assert_eq!(all_told(&stream.submit(&[proof]).await.unwrap()), ["judged 1"]);
    network.stop().await;
}

#[tokio::test]
async fn a_proof_that_names_a_newer_registry_waits_for_it() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let info = network.operator.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
    let mut chain = Chain::new(&agent.identity.key);
    chain.registry = (info.incarnation, info.registry_version + 1);
    let proof = chain.seal(&[section(1, 60, &[1])]);
    let mut stream = stream(&network, &agent).await;
    assert_eq!(all_told(&stream.submit(std::slice::from_ref(&proof)).await.unwrap()), ["deferred RegistryNewer"]);
    network.write(&[Change::Device(device(3, &agent, None))]).await;
    assert_eq!(all_told(&stream.submit(&[proof]).await.unwrap()), ["judged 1"]);
    network.stop().await;
}

#[tokio::test]
async fn a_removed_agent_loses_its_stream_and_cannot_come_back() {
    let mut network = Network::start().await;
    let [agent, other] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut open = stream(&network, &agent).await;
    assert_eq!(all_told(&open.submit(&[chain.seal(&[section(1, 60, &[1])])]).await.unwrap()), ["judged 1"]);
    network.write(&[Change::AgentRemoved { id: agent.id }]).await;
    let ended = open.submit(&[chain.seal(&[section(1, 50, &[1])])]).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("KeyRevoked"), "{ended}");
    let refused = Stream::begin(network.channel(Some(&agent.identity)).0).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Nor does another agent's stream carry what the removed key signs.
    let outcomes = stream(&network, &other).await.submit(&[chain.seal(&[section(1, 40, &[1])])]).await.unwrap();
    assert_eq!(told(&outcomes[0]), "refused KeyRevoked");
    network.stop().await;
}

#[tokio::test]
async fn a_stream_needs_an_agent_s_certificate() {
    let mut network = Network::start().await;
    network.furnish().await;
    let refused = Stream::begin(network.channel(None).0).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    network.stop().await;
}

#[tokio::test]
async fn oversize_proofs_are_refused_and_smaller_ones_taken() {
    let limits = Limits { max_proof_bytes: 600, max_readings: 5, ..Limits::default() };
    let mut network = Network::start_with(limits).await;
    let [agent, _] = network.furnish().await;
    let key = &agent.identity.key;
    let bytes = Chain::new(key).seal(&[section(1, 600, &[500; 400])]);
    let readings = Chain::new(key).seal(&[section(1, 60, &[1; 6])]);
    let fitting = Chain::new(key).seal(&[section(1, 60, &[1; 5])]);
    let outcomes = stream(&network, &agent).await.submit(&[bytes, readings, fitting]).await.unwrap();
    assert_eq!(all_told(&outcomes), ["refused Oversize", "refused Oversize", "judged 5"]);
    network.stop().await;
}

#[tokio::test]
async fn overload_is_deferred_and_streams_beyond_the_limit_are_turned_away() {
    let limits = Limits { agent_proofs_per_second: 1, agent_streams: 1, max_batch_proofs: 8, ..Limits::default() };
    let mut network = Network::start_with(limits).await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let proofs: Vec<_> = (0..6).map(|number| chain.seal(&[section(1, 60 - number, &[1])])).collect();
    let mut open = stream(&network, &agent).await;
    // A burst of four seconds' worth is allowed; six at once are not, and nothing of them is recorded.
    assert_eq!(all_told(&open.submit(&proofs).await.unwrap()), ["deferred Overloaded"; 6]);
    assert_eq!(all_told(&open.submit(&proofs[..1]).await.unwrap()), ["judged 1"]);
    let refused = Stream::begin(network.channel(Some(&agent.identity)).0).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let ended = open.submit(&vec![proofs[0].clone(); 9]).await.unwrap_err();
    assert_eq!(ended.code(), Code::ResourceExhausted);
    network.stop().await;
}

#[tokio::test]
async fn too_much_unanswered_over_all_streams_is_deferred() {
    let mut network = Network::start_with(Limits { max_unanswered_bytes: 100, ..Limits::default() }).await;
    let [agent, _] = network.furnish().await;
    let proof = Chain::new(&agent.identity.key).seal(&[section(1, 60, &[1])]);
    assert_eq!(all_told(&stream(&network, &agent).await.submit(&[proof]).await.unwrap()), ["deferred Overloaded"]);
    network.stop().await;
}

#[tokio::test]
async fn what_was_under_way_is_answered_before_a_drain_ends_the_stream() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut open = stream(&network, &agent).await;
    assert_eq!(all_told(&open.submit(&[chain.seal(&[section(1, 60, &[1])])]).await.unwrap()), ["judged 1"]);
    let stopped = tokio::spawn(network.stop());
    assert!(open.next().await.is_err());
    stopped.await.unwrap();
}

#[tokio::test]
async fn many_proofs_in_many_messages_are_answered_in_order() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut open = stream(&network, &agent).await;
    for message in 0..8 {
        let proofs = (0..4).map(|number| chain.seal(&[section(1, 600 - message * 4 - number, &[1])])).collect();
        open.send(v1::submit_request::Message::Proofs(v1::ProofBatch { proofs })).await;
    }
    let mut sequences = Vec::new();
    while sequences.len() < 32 {
        let v1::submit_response::Message::Outcomes(batch) = open.next().await.unwrap() else { panic!() };
        assert!(batch.outcomes.iter().all(|outcome| told(outcome) == "judged 1"));
        sequences.extend(batch.outcomes.iter().map(|outcome| outcome.sequence));
    }
    assert_eq!(sequences, (1..=32).collect::<Vec<_>>());
    let presence = network.operator.read_presence(v1::ReadPresenceRequest {}).await.unwrap().into_inner();
    let devices = collect(presence).await.into_iter().flat_map(|page| page.devices).collect::<Vec<_>>();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].device_id, DeviceId::of("grid", "meter-1").0.as_slice());
    assert_eq!((devices[0].accepted, devices[0].rejected), (32, 0));
    network.stop().await;
}

async fn collect<T>(mut stream: tonic::Streaming<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        all.push(message);
    }
    all
}

//! The line to the gateway beside the proofs on it: certificates that run out, and a gateway that waits for its answers to be read.

use std::fmt::Write as _;

use depin_identity::{certificates::CertificateRequest, keys::SigningKey};

use super::*;
use crate::gateway::Renewal;

const MQTT: [&str; 2] = ["--mqtt-listen", "127.0.0.1:0"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_does_not_answer_a_renewal_holds_up_no_proof() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    // Two thirds of its life are over.
    gateway.ledger.lock().unwrap().life = Some((-3_600_000, 1_200_000));
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    let address = agent.listener.unwrap();
    gateway.until("the second question", |ledger| ledger.renewals.len() >= 2).await;
    publish(address, "one", 0..100, &["a"]).await;
    gateway.until("what was measured meanwhile", |ledger| complete(ledger, 0..100)).await;
    gateway.look(|ledger| {
        let key = SigningKey::load_or_create(&folder.path().join("state/agent.key")).unwrap();
        let wanted = CertificateRequest::make_renewal(&key, ledger.issued[0]).unwrap();
        assert!(ledger.renewals.iter().all(|request| *request == wanted), "one question, of this certificate");
        assert_eq!((ledger.issued.len(), ledger.shown.len()), (1, 1), "one connection");
    });
    // Now it answers: the next connection shows what it gave.
    {
        let mut ledger = gateway.ledger.lock().unwrap();
        (ledger.renewal, ledger.life) = (Renewal::Issue, None);
    }
    gateway
        .until("the new certificate in use", |ledger| {
            ledger.issued.len() == 2 && ledger.shown.last() == ledger.issued.last()
        })
        .await;
    publish(address, "one", 100..200, &["a"]).await;
    gateway.until("what was measured since", |ledger| complete(ledger, 0..200)).await;
    gateway.look(|ledger| {
        assert!(ledger.readings.values().all(|(_, count)| *count == 1), "nothing twice");
        assert_eq!(ledger.heads.values().next().unwrap().incarnation, 1);
    });
    agent.stop().await;
}

/// The machine's clock, two hours ahead.
#[derive(Debug)]
struct Ahead(std::time::Instant);

impl depin_agent::clock::Clock for Ahead {
    fn now(&self) -> depin_agent::spool::Stamp {
        let uptime = i64::try_from(self.0.elapsed().as_millis()).unwrap();
        depin_agent::spool::Stamp { boot: 8, uptime, wall: Timestamp(gateway::now() + 2 * 3_600_000) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_certificate_that_is_not_renewed_any_more_is_replaced_by_a_join_token() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    agent.stop().await;
    {
        let mut ledger = gateway.ledger.lock().unwrap();
        (ledger.renewal, ledger.life) = (Renewal::Deny, Some((-60_000, 12 * 3_600_000)));
    }
    let clock = std::sync::Arc::new(Ahead(std::time::Instant::now()));
    let agent = Agent::start_with_clock(options(folder.path(), &gateway, &MQTT), clock).await.unwrap();
    gateway
        .until("the new certificate in use", |ledger| {
            ledger.issued.len() == 2 && ledger.shown.last() == ledger.issued.last()
        })
        .await;
    gateway.look(|ledger| assert_eq!(ledger.renewals.len(), 1, "it was asked for first"));
    agent.stop().await;
}

/// Readings of one message of [`publish_list`]: so few that they are one proof.
const LISTED: i64 = 550;

/// Publishes one message with a list of readings, and waits for its acknowledgement. The values are such that they take room.
async fn publish_list(address: SocketAddr, number: i64) {
    let mut options = MqttOptions::new("lists", address.ip().to_string(), address.port());
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 4);
    let mut payload = String::from(r#"{"list":["#);
    for at in number * LISTED..(number + 1) * LISTED {
        let comma = if at % LISTED == 0 { "" } else { "," };
        let value = (at + 1).wrapping_mul(6_364_136_223_846_793_005).rem_euclid(1_000_000_000_000);
        write!(payload, r#"{comma}{{"ts":{},"power":{value}}}"#, START + at).unwrap();
    }
    client.publish("meters/a/state", QoS::AtLeastOnce, false, payload + "]}").await.unwrap();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), events.poll()).await.expect("an acknowledgement");
        if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_reads_nothing_before_its_answers_are_read_is_read_from() {
    const LISTS: i64 = 60;
    let folder = tempfile::tempdir().unwrap();
    let mut listed = model(true);
    listed.sources[0].each = Some("list".to_owned());
    let gateway = Gateway::start(configuration(1, &listed, &["a"])).await;
    gateway.ledger.lock().unwrap().window = 64;
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    gateway.ledger.lock().unwrap().hold = true;
    // The window is not full: however little the gateway reads, the agent goes on, each list a proof of its own.
    for number in 0..LISTS {
        publish_list(agent.listener.unwrap(), number).await;
        let sealed = u64::try_from((number + 1) * LISTED).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while agent.metrics.sealed.get() < sealed {
            assert!(tokio::time::Instant::now() < deadline, "the agent waits for the gateway at list {number}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    gateway.look(|ledger| assert!(ledger.readings.len() < 10 * LISTED as usize, "the gateway reads nothing"));
    // Far more answers than any buffer between holds, and not a word is read before they are.
    {
        let mut ledger = gateway.ledger.lock().unwrap();
        (ledger.hold, ledger.chatter) = (false, 10);
    }
    let all = usize::try_from(LISTS * LISTED).unwrap();
    gateway.until("all lists", |ledger| ledger.readings.len() == all).await;
    gateway.look(|ledger| {
        assert_eq!(ledger.chatter, 0);
        assert!(ledger.readings.values().all(|(_, count)| *count == 1), "nothing twice");
    });
    agent.stop().await;
}

//! The line to the gateway beside the proofs on it: certificates that run out, and a gateway that waits for its answers to be read.

use std::fmt::Write as _;

use depin_identity::{certificates::CertificateRequest, keys::SigningKey};
use depin_proto::v1;

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

/// An agent in a cluster: no join token, but its ServiceAccount's, and a file with the CA.
fn in_cluster(folder: &Path, gateway: &Gateway) -> AgentOptions {
    fs::write(folder.join("account"), "a token\n").unwrap();
    fs::write(folder.join("gateway-ca.crt"), gateway.ca()).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let arguments = [
        ["--gateway", &gateway.url()],
        ["--state-dir", &file("state")],
        ["--service-account-token-file", &file("account")],
        ["--gateway-ca-file", &file("gateway-ca.crt")],
        ["--fleet", "town/homes,town/roofs"],
        MQTT,
    ];
    let arguments = std::iter::once("depin-agent").chain(arguments.iter().flatten().copied());
    AgentOptions::resolve(&Arguments::parse_from(arguments)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_in_a_cluster_shows_its_service_accounts_token_once_and_keeps_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(in_cluster(folder.path(), &gateway)).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    agent.stop().await;
    let shown = ("a token".to_owned(), "town".to_owned(), vec!["homes".to_owned(), "roofs".to_owned()]);
    gateway.look(move |ledger| assert_eq!(ledger.passes, [shown]));
    // Started again it is who it was; neither token nor CA are needed any more.
    fs::remove_file(folder.path().join("account")).unwrap();
    let options = in_cluster(folder.path(), &gateway);
    fs::remove_file(folder.path().join("account")).unwrap();
    fs::remove_file(folder.path().join("gateway-ca.crt")).unwrap();
    let agent = Agent::start(options).await.unwrap();
    gateway.until("the second connection", |ledger| ledger.shown.len() == 2).await;
    agent.stop().await;
    gateway.look(|ledger| assert_eq!((ledger.passes.len(), ledger.issued.len()), (1, 1)));
    // A gateway that the file does not vouch for hears no token.
    let impostor = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut options = in_cluster(elsewhere.path(), &gateway);
    options.uplink.gateways[0].address = impostor.url();
    let agent = Agent::start(options).await.unwrap();
    impostor.until("three attempts", |ledger| ledger.refused >= 3).await;
    agent.stop().await;
    impostor.look(|ledger| assert!(ledger.passes.is_empty() && ledger.issued.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_follows_a_rotation_awake_or_asleep_and_believes_no_strangers_authority() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    let trusted = || fs::read_to_string(folder.path().join("state/ca.crt")).unwrap();
    let first = gateway.ca();
    assert_eq!(trusted(), first);

    // A gateway that was taken over tells of an authority of its own: nobody vouches for it.
    let own = Gateway::start(configuration(1, &model(true), &["a"])).await;
    gateway.configuration.send_replace(v1::ConfigurationUpdate {
        ca: own.ca() + &first,
        registry_version: 2,
        ..configuration(2, &model(true), &["a"])
    });
    gateway.until("the second version", |ledger| ledger.confirmed == 2).await;
    assert_eq!(trusted(), first);

    // It is told while it is awake.
    gateway.rotate(true);
    gateway.configuration.send_replace(v1::ConfigurationUpdate { registry_version: 3, ..gateway.authorities() });
    gateway.until("the third version", |ledger| ledger.confirmed == 3).await;
    let second = gateway.ca();
    assert_eq!(trusted(), second.clone() + &first);
    agent.stop().await;
    gateway.stop().await;
    gateway.restart().await;
    let before = gateway.ledger.lock().unwrap().shown.len();
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    gateway.until("the next connection", |ledger| ledger.shown.len() > before).await;
    agent.stop().await;

    // It sleeps through the next rotation, and comes back by the word of the authority that it knows.
    gateway.stop().await;
    gateway.rotate(true);
    gateway.configuration.send_replace(v1::ConfigurationUpdate { registry_version: 4, ..gateway.authorities() });
    gateway.restart().await;
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    gateway.until("the fourth version", |ledger| ledger.confirmed == 4).await;
    assert_eq!(trusted(), gateway.ca() + &second + &first);
    agent.stop().await;

    // For the last one nobody vouches: it is not believed.
    gateway.stop().await;
    gateway.rotate(false);
    gateway.restart().await;
    let shown = gateway.ledger.lock().unwrap().shown.len();
    let agent = Agent::start(options(folder.path(), &gateway, &MQTT)).await.unwrap();
    let refused = gateway.ledger.lock().unwrap().refused;
    gateway.until("two attempts", |ledger| ledger.refused >= refused + 2).await;
    agent.stop().await;
    gateway.look(|ledger| assert_eq!(ledger.shown.len(), shown, "nothing is shown to it"));
}

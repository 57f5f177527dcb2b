//! The agent as a whole between real MQTT clients and a gateway: what is acknowledged arrives, once, through every interruption.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod brokers;
mod gateway;
mod listened;
mod secured;
mod uplink;
mod ways;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::Parser as _;
use depin_agent::{Agent, AgentOptions, Arguments};
use depin_domain::{
    ids::DeviceId,
    model::{
        Attestation, Codec, DeviceNaming, Field, Metric, MetricKind, Model, Source, TimestampField, TimestampFormat,
    },
    proofs::Reason,
    time::Timestamp,
};
use depin_identity::keys::VerifyingKey;
use depin_proto::{envelope, proof_file, v1::ProofRecord};
use gateway::{Gateway, configuration};
use prost::Message as _;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

fn model(timestamps: bool) -> Model {
    let field = |path: &str, metric: &str| Field { path: path.to_owned(), metric: metric.to_owned(), unit: None };
    let metric = |name: &str, unit: &str, scale| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        kind: MetricKind::Gauge,
        scale,
        min: None,
        max: None,
        max_rate: None,
        personal: false,
    };
    Model {
        name: "meter".to_owned(),
        sources: vec![Source {
            topic: "meters/+/state".to_owned(),
            codec: Codec::Json,
            device: DeviceNaming::TopicSegment(1),
            each: None,
            timestamp: timestamps
                .then(|| TimestampField { path: "ts".to_owned(), format: TimestampFormat::UnixMillis }),
            fields: vec![field("energy.total", "energy"), field("power", "power")],
        }],
        metrics: vec![metric("energy", "kWh", 3), metric("power", "W", 1)],
        cadence_ms: 1_000,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

fn options(folder: &Path, gateway: &Gateway, mqtt: &[&str]) -> AgentOptions {
    options_with(folder, gateway, mqtt, "sealIntervalMs: 20\nstatusIntervalSeconds: 1\n")
}

fn options_with(folder: &Path, gateway: &Gateway, mqtt: &[&str], settings: &str) -> AgentOptions {
    let token = folder.join("token");
    fs::write(&token, &gateway.token).unwrap();
    let config = folder.join("agent.yaml");
    fs::write(&config, settings).unwrap();
    let (state, url) = (folder.join("state"), gateway.url());
    let mut arguments = vec!["depin-agent", "--name", "edge-1", "--gateway", &url];
    arguments.extend(["--state-dir", state.to_str().unwrap(), "--join-token-file", token.to_str().unwrap()]);
    arguments.extend(["--config", config.to_str().unwrap()]);
    arguments.extend(mqtt);
    AgentOptions::resolve(&Arguments::parse_from(arguments)).unwrap()
}

/// Publishes `range` as energy readings of the devices in turn and waits for every acknowledgement.
async fn publish(address: SocketAddr, client: &str, range: std::ops::Range<i64>, serials: &[&str]) {
    let mut options = MqttOptions::new(client, address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 4_096);
    let total = range.clone().count();
    let serials: Vec<String> = serials.iter().map(|serial| (*serial).to_owned()).collect();
    let publishing = tokio::spawn(async move {
        for value in range {
            let serial = &serials[usize::try_from(value).unwrap() % serials.len()];
            let payload = format!(
                r#"{{"id":"{serial}","ts":{},"energy":{{"total":{}.{:03},"unit":"kWh"}},"power":{}.5,"note":"steady"}}"#,
                START + value,
                value / 1000,
                value % 1000,
                value
            );
            client.publish(format!("meters/{serial}/state"), QoS::AtLeastOnce, false, payload).await.unwrap();
        }
        client
    });
    let mut acknowledged = 0;
    while acknowledged < total {
        let event = tokio::time::timeout(Duration::from_secs(30), events.poll()).await.expect("an acknowledgement");
        if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
            acknowledged += 1;
        }
    }
    publishing.await.unwrap();
}

/// A message as it is.
struct Message {
    topic: String,
    retain: bool,
    payload: Vec<u8>,
}

/// Publishes with QoS 1, one connection, and waits for every acknowledgement.
async fn send(address: SocketAddr, client: &str, messages: Vec<Message>) {
    let mut options = MqttOptions::new(client, address.ip().to_string(), address.port());
    options.set_max_packet_size(1 << 20, 64 << 20);
    let (client, mut events) = AsyncClient::new(options, 64);
    let mut left = messages.len();
    let publishing = tokio::spawn(async move {
        for Message { topic, retain, payload } in messages {
            client.publish(topic, QoS::AtLeastOnce, retain, payload).await.unwrap();
        }
        client
    });
    while left > 0 {
        let event = tokio::time::timeout(Duration::from_secs(60), events.poll()).await.expect("an acknowledgement");
        if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
            left -= 1;
        }
    }
    publishing.await.unwrap();
}

const START: i64 = 1_767_225_600_000;

/// Every energy value of `range` is there exactly once, at its time.
fn complete(ledger: &gateway::Ledger, range: std::ops::Range<i64>) -> bool {
    let energy = ledger.readings.iter().filter(|((_, metric, _), _)| metric == "energy");
    let values: BTreeSet<_> = energy.clone().map(|((_, _, at), (value, _))| (*at, *value)).collect();
    values.len() == energy.count() && range.clone().all(|value| values.contains(&(START + value, value)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hardware_was_told_is_kept_arrives_once() {
    let folder = tempfile::tempdir().unwrap();
    let serials = ["a", "b", "c"];
    let mut gateway = Gateway::start(configuration(1, &model(true), &serials)).await;
    let mqtt = ["--mqtt-listen", "127.0.0.1:0"];
    let agent = Agent::start(options(folder.path(), &gateway, &mqtt)).await.unwrap();
    let address = agent.listener.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    publish(address, "one", 0..500, &serials).await;
    gateway.until("the first readings", |ledger| complete(ledger, 0..500)).await;

    // Refused and deferred proofs arrive in the end.
    gateway.ledger.lock().unwrap().defer = 3;
    publish(address, "one", 500..700, &serials).await;
    gateway.until("deferred readings", |ledger| complete(ledger, 0..700)).await;
    gateway.ledger.lock().unwrap().refuse = vec![Reason::Oversize];
    publish(address, "one", 700..800, &serials).await;
    gateway.until("refused readings", |ledger| complete(ledger, 0..800)).await;
    assert_eq!(gateway.ledger.lock().unwrap().heads.values().next().unwrap().incarnation, 2);

    // The gateway is away: hardware is still acknowledged.
    gateway.stop().await;
    publish(address, "one", 800..1_000, &serials).await;
    agent.stop().await;

    // A restart without a connection goes on with what is on disk.
    let agent = Agent::start(options(folder.path(), &gateway, &mqtt)).await.unwrap();
    publish(agent.listener.unwrap(), "one", 1_000..1_100, &serials).await;
    gateway.restart().await;
    gateway.until("what waited", |ledger| complete(ledger, 0..1_100)).await;
    gateway.until("the status", |ledger| ledger.status.as_ref().is_some_and(|status| status.clock_set)).await;
    gateway.look(|ledger| {
        assert!(ledger.readings.values().all(|(_, count)| *count == 1), "nothing twice");
        let head = ledger.heads.values().next().unwrap();
        assert_eq!(head.incarnation, 2, "neither restart nor outage opens a chain anew");
    });
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_devices_are_sighted_and_their_readings_wait() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    publish(agent.listener.unwrap(), "one", 0..20, &["a", "new"]).await;
    gateway.until("the sighting", |ledger| ledger.sightings.iter().any(|sighting| sighting.serial == "new")).await;
    gateway.until("the known device", |ledger| ledger.readings.len() == 20).await;
    gateway.configuration.send_replace(configuration(2, &model(true), &["a", "new"]));
    gateway.until("the approved device", |ledger| complete(ledger, 0..20)).await;
    let new = DeviceId::of("ns", "new");
    gateway.look(|ledger| assert!(ledger.readings.keys().any(|(device, _, _)| *device == new)));
    agent.stop().await;
}

/// Uptime and wall clock are read one after the other, and between the two a busy machine may do something else for a while.
const READ_APART: i64 = 500;

/// The machine's clock with a wall clock that counts from 1970 until it is set.
#[derive(Debug)]
struct LateClock(std::time::Instant, std::sync::atomic::AtomicBool);

impl depin_agent::clock::Clock for LateClock {
    fn now(&self) -> depin_agent::spool::Stamp {
        let uptime = i64::try_from(self.0.elapsed().as_millis()).unwrap();
        let set = self.1.load(std::sync::atomic::Ordering::SeqCst);
        let wall = Timestamp(if set { gateway::now() } else { uptime });
        depin_agent::spool::Stamp { boot: 7, uptime, wall }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_a_restart_made_forgotten_is_told_as_first_heard() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(configuration(1, &model(false), &["a"])).await;
    let mqtt = ["--mqtt-listen", "127.0.0.1:0"];
    let agent = Agent::start(options(folder.path(), &gateway, &mqtt)).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    gateway.stop().await;
    let before = gateway::now();
    publish(agent.listener.unwrap(), "one", 0..6, &["a", "new"]).await;
    agent.stop().await;
    let after = gateway::now();
    // Far enough from the restart to be told apart from it.
    tokio::time::sleep(Duration::from_millis(READ_APART.unsigned_abs() * 2)).await;
    // It says nothing any more, and the agent knows it from its disk alone.
    let agent = Agent::start(options(folder.path(), &gateway, &mqtt)).await.unwrap();
    gateway.restart().await;
    gateway.until("the sighting", |ledger| !ledger.sightings.is_empty()).await;
    gateway.look(|ledger| {
        assert!(ledger.sightings.iter().all(|sighting| sighting.serial == "new"), "{:?}", ledger.sightings);
        assert_eq!(ledger.sightings[0].model, "meter");
        let first_seen = ledger.sightings[0].first_seen;
        let from = before - READ_APART..=after + READ_APART;
        assert!(from.contains(&first_seen), "{first_seen} is not from {before} to {after}");
    });
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_heard_before_the_clock_was_set_is_told_when_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(false), &["a"])).await;
    let clock = std::sync::Arc::new(LateClock(std::time::Instant::now(), false.into()));
    let options = options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"]);
    let agent = Agent::start_with_clock(options, clock.clone()).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    let before = gateway::now();
    publish(agent.listener.unwrap(), "one", 0..1, &["new"]).await;
    let after = gateway::now();
    // Sightings go before the status, so with two more of these the agent had its chance to tell a date of 1970.
    for _ in 0..2 {
        gateway.ledger.lock().unwrap().status = None;
        gateway.until("the status", |ledger| ledger.status.as_ref().is_some_and(|status| !status.clock_set)).await;
    }
    gateway.look(|ledger| assert_eq!(ledger.sightings, []));
    // Far enough from the hearing to be told apart from it.
    tokio::time::sleep(Duration::from_millis(READ_APART.unsigned_abs() * 2)).await;
    clock.1.store(true, std::sync::atomic::Ordering::SeqCst);
    gateway.until("the sighting", |ledger| !ledger.sightings.is_empty()).await;
    gateway.look(|ledger| {
        let first_seen = ledger.sightings[0].first_seen;
        let from = before - READ_APART..=after + READ_APART;
        assert!(from.contains(&first_seen), "{first_seen} is not from {before} to {after}");
    });
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_agent_shows_the_receipts_of_the_proofs_that_it_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    gateway.ledger.lock().unwrap().unarchived = true;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    publish(agent.listener.unwrap(), "one", 0..50, &["a"]).await;
    gateway.until("the readings", |ledger| complete(ledger, 0..50)).await;
    let (state_dir, out) = (folder.path().join("state"), folder.path().join("receipts"));
    let receipts = depin_agent::ReceiptsOptions { state_dir, out: Some(out.clone()) };
    let running = depin_agent::run_receipts(&receipts).unwrap_err();
    assert!(format!("{running:#}").contains("stop the agent first"), "{running:#}");
    agent.stop().await;
    depin_agent::run_receipts(&receipts).unwrap();

    let text = fs::read_to_string(&out).unwrap();
    let (head, lines) = text.split_once('\n').unwrap();
    let head: proof_file::Head = serde_json::from_str(head).unwrap();
    assert_eq!((head.format.as_str(), head.keys.len()), (proof_file::FORMAT, 2));
    let keys: Vec<_> = head.keys.iter().map(|key| VerifyingKey::new(key).unwrap()).collect();
    let signed = |domain: &[u8], message: &[u8], signature: &[u8]| {
        keys.iter().filter(|key| key.verify(domain, message, signature)).count()
    };
    let (mut proofs, mut readings) = (0, 0);
    for line in lines.lines() {
        let record = ProofRecord::decode(hex::decode(line).unwrap().as_slice()).unwrap();
        let (proof, receipt) = (record.proof.unwrap(), record.receipt.unwrap());
        assert_eq!(signed(envelope::PROOF_DOMAIN, &proof.header, &proof.signature), 1);
        assert_eq!(signed(envelope::RECEIPT_DOMAIN, &receipt.body, &receipt.signature), 1);
        let body = envelope::decode_receipt(&receipt.body).unwrap();
        let opened = envelope::open_proof(&proof.header, &proof.sections).unwrap();
        assert_eq!((body.digest, body.accepted), (opened.digest, opened.readings()));
        (proofs, readings) = (proofs + 1, readings + opened.readings());
    }
    gateway.look(|ledger| assert_eq!((proofs, readings), (ledger.judged.len(), ledger.readings.len() as u64)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_5_clients_are_served_and_misuse_is_answered() {
    use rumqttc::v5::{self, mqttbytes::QoS, mqttbytes::v5::Packet};
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(false), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    let address = agent.listener.unwrap();
    let connect = || v5::AsyncClient::new(v5::MqttOptions::new("five", address.ip().to_string(), address.port()), 100);
    let (client, mut events) = connect();
    client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
    client.publish("meters/a/state", QoS::AtLeastOnce, false, r#"{"power":NaN,"energy":{"total":1.5}}"#).await.unwrap();
    client.publish("elsewhere", QoS::AtLeastOnce, false, "{").await.unwrap();
    client.publish("meters/a/state", QoS::AtMostOnce, false, r#"{"power":2}"#).await.unwrap();
    let (mut acknowledged, mut refused) = (0, false);
    while acknowledged < 2 || !refused {
        match tokio::time::timeout(Duration::from_secs(30), events.poll()).await.unwrap() {
            Ok(v5::Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
            Ok(v5::Event::Incoming(Packet::SubAck(suback))) => {
                refused = suback
                    .return_codes
                    .iter()
                    .all(|code| !matches!(code, v5::mqttbytes::v5::SubscribeReasonCode::Success(_)));
            }
            Ok(_) => {}
            // The client library takes a refused subscription for an error.
            Err(v5::ConnectionError::MqttState(_)) => refused = true,
            Err(error) => panic!("{error}"),
        }
    }
    gateway.until("both readings", |ledger| ledger.readings.len() == 2).await;
    let (client, mut events) = connect();
    client.publish("meters/a/state", QoS::ExactlyOnce, false, "{}").await.unwrap();
    let ended = loop {
        match tokio::time::timeout(Duration::from_secs(30), events.poll()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(!ended.to_string().is_empty());
    agent.stop().await;
}

/// A mosquitto of our own, ended with the test.
struct Broker(Child, u16);

impl Broker {
    fn start(folder: &Path, port: Option<u16>) -> Option<Self> {
        Self::start_with(folder, port, "allow_anonymous true\n")
    }

    fn start_with(folder: &Path, port: Option<u16>, settings: &str) -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            println!("skipped: mosquitto is not installed (apt-get install mosquitto)");
            return None;
        };
        let port =
            port.unwrap_or_else(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let config = folder.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\n{settings}persistence true\npersistence_location {}/\nmax_inflight_messages 500\nmax_queued_messages 0\n",
            folder.display()
        );
        fs::write(&config, text).unwrap();
        let child =
            Command::new(program).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self(child, port))
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.1))
    }

    async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(self.address()).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "mosquitto does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn through_broker(version: &str) {
    let folder = tempfile::tempdir().unwrap();
    let store = tempfile::tempdir_in(folder.path()).unwrap();
    let Some(broker) = Broker::start(store.path(), None) else { return };
    broker.ready().await;
    let mut gateway = Gateway::start(configuration(1, &model(true), &["a", "b"])).await;
    let url = format!("mqtt://127.0.0.1:{}", broker.1);
    let mqtt = ["--mqtt-broker", url.as_str()];
    let with_version = |folder: &Path, gateway: &Gateway| {
        let mut options = options(folder, gateway, &mqtt);
        options.broker.as_mut().unwrap().version_5 = version == "5";
        options
    };
    let agent = Agent::start(with_version(folder.path(), &gateway)).await.unwrap();
    let subscribed = async {
        // The subscription stands once a probe comes through.
        let mut probe = 0;
        while !gateway.ledger.lock().unwrap().readings.keys().any(|(_, metric, _)| metric == "energy") {
            publish(broker.address(), "probe", probe..probe + 1, &["a", "b"]).await;
            probe += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), subscribed).await.expect("a subscription");
    publish(broker.address(), "one", 1_000..1_500, &["a", "b"]).await;
    gateway.until("the first readings", |ledger| complete(ledger, 1_000..1_500)).await;

    // While the agent is away, the broker keeps what comes in the agent's session.
    agent.stop().await;
    publish(broker.address(), "one", 1_500..2_000, &["a", "b"]).await;
    gateway.stop().await;
    let agent = Agent::start(with_version(folder.path(), &gateway)).await.unwrap();
    gateway.restart().await;
    gateway.until("what the broker kept", |ledger| complete(ledger, 1_000..2_000)).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_keeps_the_session_of_an_agent_that_is_away() {
    through_broker("3.1.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_mqtt_5() {
    through_broker("5").await;
}

//! The agent's own listener towards standard clients: what is too large, and sessions over a reconnect.

use depin_agent::metrics::ReasonLabel;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_passed_over_on_the_same_connection() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    let large = |bytes| Message { topic: "meters/a/state".to_owned(), retain: false, payload: vec![b'{'; bytes] };
    // Retained means nothing here: it is news like any other.
    let good = |value: i64| Message {
        topic: "meters/a/state".to_owned(),
        retain: true,
        payload: format!(r#"{{"ts":{},"energy":{{"total":0.{value:03}}},"power":1}}"#, START + value).into_bytes(),
    };
    let messages = vec![good(0), large(300 << 10), large(1 << 20), good(1), large(17 << 20), good(2)];
    send(agent.listener.unwrap(), "one", messages).await;
    gateway.until("the good readings", |ledger| complete(ledger, 0..3)).await;
    let label = ReasonLabel { reason: Reason::OversizePayload.name() };
    assert_eq!(agent.metrics.rejected.get_or_create(&label).get(), 3);
    agent.stop().await;
}

/// Polls until an event is wanted.
async fn event(events: &mut rumqttc::EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), events.poll()).await.expect("an event in time");
        if let Event::Incoming(packet) = event.unwrap()
            && wanted(&packet)
        {
            return packet;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_keeps_its_session_sends_again_what_was_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    // Without a configuration nothing is taken, so nothing is acknowledged.
    gateway.stop().await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    let address = agent.listener.unwrap();
    let mut settings = MqttOptions::new("keeps", address.ip().to_string(), address.port());
    settings.set_clean_session(false);
    let (client, mut events) = AsyncClient::new(settings, 100);
    let connected = |packet: &Packet| matches!(packet, Packet::ConnAck(_));
    let first = event(&mut events, connected).await;
    assert!(matches!(first, Packet::ConnAck(answer) if !answer.session_present), "a new session");
    for value in 0..3 {
        let payload = format!(r#"{{"ts":{},"energy":{{"total":0.{value:03}}},"power":1}}"#, START + value);
        client.publish("meters/a/state", QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    for _ in 0..3 {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), events.poll()).await.unwrap().unwrap();
            if matches!(event, Event::Outgoing(rumqttc::Outgoing::Publish(_))) {
                break;
            }
        }
    }
    // The network goes away.
    events.clean();
    let again = event(&mut events, connected).await;
    assert!(matches!(again, Packet::ConnAck(answer) if answer.session_present), "else the client drops what waits");
    gateway.restart().await;
    for _ in 0..3 {
        event(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
    }
    gateway.until("the readings", |ledger| complete(ledger, 0..3)).await;
    gateway.look(|ledger| assert_eq!(ledger.readings.len(), 6));

    // The agent starts anew: the client goes on with the same session.
    agent.stop().await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    let address = agent.listener.unwrap();
    let mut settings = MqttOptions::new("keeps", address.ip().to_string(), address.port());
    settings.set_clean_session(false);
    let (_client, mut events) = AsyncClient::new(settings, 100);
    let after = event(&mut events, connected).await;
    assert!(matches!(after, Packet::ConnAck(answer) if answer.session_present), "over a restart too");

    // Who wants a clean session gets one.
    let mut settings = MqttOptions::new("keeps", address.ip().to_string(), address.port());
    settings.set_clean_session(true);
    let (_client, mut events) = AsyncClient::new(settings, 100);
    let clean = event(&mut events, connected).await;
    assert!(matches!(clean, Packet::ConnAck(answer) if !answer.session_present));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mqtt_5_client_keeps_its_session_for_as_long_as_it_asked() {
    use rumqttc::v5::{self, Event, mqttbytes::v5::Packet};
    async fn present(events: &mut v5::EventLoop) -> bool {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), events.poll()).await.expect("an event in time");
            if let Event::Incoming(Packet::ConnAck(answer)) = event.unwrap() {
                return answer.session_present;
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    let address = agent.listener.unwrap();
    let connect = |expiry| {
        let mut settings = v5::MqttOptions::new("five", address.ip().to_string(), address.port());
        settings.set_clean_start(false).set_session_expiry_interval(Some(expiry));
        v5::AsyncClient::new(settings, 10)
    };
    let (_client, mut events) = connect(3_600);
    assert!(!present(&mut events).await, "a new session");
    events.clean();
    assert!(present(&mut events).await, "the same session");
    drop(events);
    let (_client, mut events) = connect(0);
    assert!(present(&mut events).await, "for the last time");
    events.clean();
    assert!(!present(&mut events).await, "it ended with its connection");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_a_name_get_one_each() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    let mut names = BTreeSet::new();
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(agent.listener.unwrap()).await.unwrap();
        // MQTT 5, clean start, no properties, an empty client identifier.
        stream.write_all(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00").await.unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[0], 0x20);
        let mut answer = vec![0; usize::from(head[1])];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..2], [0, 0], "no session, and success");
        let text = String::from_utf8_lossy(&answer).into_owned();
        names.insert(text[text.find("depin-").expect("an assigned client identifier")..].to_owned());
        connections.push(stream);
    }
    assert_eq!(names.len(), 2, "{names:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_tells_twice_is_counted_as_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    gateway.until("the configuration", |ledger| ledger.confirmed == 1).await;
    // While the gateway is away nothing is sealed, so that both come into one seal.
    agent.stop().await;
    gateway.stop().await;
    let agent = Agent::start(options(folder.path(), &gateway, &["--mqtt-listen", "127.0.0.1:0"])).await.unwrap();
    for _ in 0..2 {
        publish(agent.listener.unwrap(), "one", 0..3, &["a"]).await;
    }
    gateway.restart().await;
    gateway.until("the readings", |ledger| complete(ledger, 0..3)).await;
    gateway.look(|ledger| assert!(ledger.readings.values().all(|(_, count)| *count == 1)));
    let dropped = agent.metrics.dropped.get_or_create(&ReasonLabel { reason: "duplicate" }).get();
    assert_eq!(dropped, 6, "three messages of two metrics");
    agent.stop().await;
}

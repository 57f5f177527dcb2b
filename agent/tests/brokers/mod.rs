//! The agent at a real broker: no message counts twice or with a made-up time, and none stops the others.

use std::iter;

use depin_agent::metrics::{PeerLabel, ReasonLabel};

use super::*;

/// A broker, a gateway, and an agent whose subscriptions stand.
struct Site {
    broker: Broker,
    gateway: Gateway,
    agent: Agent,
    _folders: [tempfile::TempDir; 2],
}

impl Site {
    /// With what `before` publishes before the agent comes. `None`: there is no broker to be had.
    async fn start(version_5: bool, model: &Model, before: Vec<Message>) -> Option<Self> {
        let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let broker = Broker::start(store.path(), None)?;
        broker.ready().await;
        send(broker.address(), "before", before).await;
        let gateway = Gateway::start(configuration(1, model, &["a", "probe"])).await;
        let url = format!("mqtt://127.0.0.1:{}", broker.1);
        let mut options = options(folder.path(), &gateway, &["--mqtt-broker", &url]);
        options.broker.as_mut().unwrap().version_5 = version_5;
        let agent = Agent::start(options).await.unwrap();
        let site = Self { broker, gateway, agent, _folders: [folder, store] };
        site.subscribed().await;
        Some(site)
    }

    /// The subscription stands once a probe comes through.
    async fn subscribed(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.values("probe", "power").is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "no subscription");
            send(self.broker.address(), "probe", vec![live("meters/probe/state", 1)]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The device's values of a metric, in units of the payload, ascending.
    fn values(&self, serial: &str, metric: &str) -> Vec<i64> {
        let device = DeviceId::of("ns", serial);
        let scale = if metric == "energy" { 1_000 } else { 10 };
        let ledger = self.gateway.ledger.lock().unwrap();
        let of = ledger.readings.iter().filter(|((of, name, _), _)| *of == device && name == metric);
        let mut values: Vec<_> = of.map(|(_, (value, _))| value / scale).collect();
        values.sort_unstable();
        values
    }

    async fn until_value(&self, metric: &str, value: i64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !self.values("a", metric).contains(&value) {
            assert!(tokio::time::Instant::now() < deadline, "{metric} {value} did not come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Another client takes the session over and leaves it: the agent comes back to the same one.
    async fn reconnect(&self) {
        let before = self.reconnects();
        let mut options = MqttOptions::new("depin-agent-edge-1", "127.0.0.1", self.broker.1);
        options.set_clean_session(false);
        let (_client, mut events) = AsyncClient::new(options, 10);
        let taken = tokio::time::timeout(Duration::from_secs(30), events.poll()).await.unwrap().unwrap();
        assert!(matches!(&taken, Event::Incoming(Packet::ConnAck(answer)) if answer.session_present), "{taken:?}");
        drop(events);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.reconnects() == before {
            assert!(tokio::time::Instant::now() < deadline, "the agent did not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn rejected(&self, reason: &'static str) -> u64 {
        self.agent.metrics.rejected.get_or_create(&ReasonLabel { reason }).get()
    }

    fn reconnects(&self) -> u64 {
        self.agent.metrics.reconnects.get_or_create(&PeerLabel { peer: "broker" }).get()
    }
}

fn payload(value: i64) -> Vec<u8> {
    format!(r#"{{"energy":{{"total":{value}}},"power":{value}}}"#).into_bytes()
}

fn live(topic: &str, value: i64) -> Message {
    Message { topic: topic.to_owned(), retain: false, payload: payload(value) }
}

/// Two sources that take no time from the payload, and match the topics of the same devices.
fn overlapping() -> Model {
    let mut model = model(false);
    let source = model.sources.remove(0);
    model.sources = ["meters/+/state", "+/a/state", "meters/probe/#"]
        .iter()
        .zip(["energy", "power", "power"])
        .map(|(topic, metric)| {
            let fields = source.fields.iter().filter(|field| field.metric == metric).cloned().collect();
            Source { topic: (*topic).to_owned(), fields, ..source.clone() }
        })
        .collect();
    model
}

async fn filters_that_overlap(version_5: bool) {
    let Some(site) = Site::start(version_5, &overlapping(), Vec::new()).await else { return };
    send(site.broker.address(), "one", (0..20).map(|value| live("meters/a/state", value)).collect()).await;
    // Whatever copies there were of the twenty came before this one.
    send(site.broker.address(), "one", vec![live("meters/a/state", 999)]).await;
    for metric in ["energy", "power"] {
        site.until_value(metric, 999).await;
        let expected: Vec<_> = (0..20).chain([999]).collect();
        assert_eq!(site.values("a", metric), expected, "{metric}");
    }
    site.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_that_overlap_count_nothing_twice() {
    filters_that_overlap(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_that_overlap_count_nothing_twice_over_mqtt_5() {
    filters_that_overlap(true).await;
}

async fn what_the_broker_kept(version_5: bool) {
    // One source that takes the time from the payload, one that does not.
    let mut both = model(true);
    let undated = model(false).sources.remove(0);
    both.sources[0].topic = "dated/+/state".to_owned();
    both.sources.push(undated);
    let dated = format!(r#"{{"ts":{START},"energy":{{"total":7}},"power":7}}"#).into_bytes();
    let kept = [("meters/a/state", payload(5)), ("dated/a/state", dated)];
    let kept = kept.map(|(topic, payload)| Message { topic: topic.to_owned(), retain: true, payload });
    let Some(site) = Site::start(version_5, &both, kept.into()).await else { return };
    site.until_value("energy", 7).await;
    // Of the two fields of one message there is one rejection: nothing of it counts.
    let reason = Reason::RetainedWithoutTime.name();
    assert_eq!(site.rejected(reason), 1);

    // A session that was kept is not subscribed again. Only what was under way unacknowledged comes again, so once of a few times nothing does.
    let mut quiet = false;
    for value in 11..16 {
        let before = site.rejected(reason);
        site.reconnect().await;
        send(site.broker.address(), "one", vec![live("meters/a/state", value)]).await;
        site.until_value("energy", value).await;
        assert_eq!(site.values("a", "energy"), iter::once(7).chain(11..=value).collect::<Vec<_>>());
        quiet |= site.rejected(reason) == before;
    }
    assert!(quiet, "each new connection brought the retained message again");
    site.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_kept_counts_only_with_a_time() {
    what_the_broker_kept(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_kept_counts_only_with_a_time_over_mqtt_5() {
    what_the_broker_kept(true).await;
}

async fn a_message_that_is_too_large(version_5: bool) {
    let Some(site) = Site::start(version_5, &model(false), Vec::new()).await else { return };
    let large = Message { topic: "meters/a/state".to_owned(), retain: false, payload: vec![b' '; 2 << 20] };
    send(site.broker.address(), "one", vec![large, live("meters/a/state", 3)]).await;
    site.until_value("energy", 3).await;
    assert_eq!((site.rejected(Reason::OversizePayload.name()), site.reconnects()), (1, 0));
    // It was acknowledged: it does not come again.
    send(site.broker.address(), "one", vec![live("meters/a/state", 4)]).await;
    site.until_value("energy", 4).await;
    assert_eq!((site.rejected(Reason::OversizePayload.name()), site.reconnects()), (1, 0));
    site.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_counted_and_stops_nothing() {
    a_message_that_is_too_large(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_counted_and_stops_nothing_over_mqtt_5() {
    a_message_that_is_too_large(true).await;
}

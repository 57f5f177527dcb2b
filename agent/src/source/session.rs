//! The session with the broker, once for each protocol version: the client library has the same shapes with other types.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::{BrokerOptions, subscriptions::Subscriptions, waiting::Waiting};
use crate::{
    intake::{Envelope, Intake, Offer},
    metrics::{Metrics, ResultLabel},
};

/// What a session works with.
pub(super) struct Context {
    pub(super) options: Arc<BrokerOptions>,
    pub(super) intake: Arc<Intake>,
    pub(super) metrics: Metrics,
    pub(super) filters: watch::Receiver<Vec<String>>,
    pub(super) health: depin_telemetry::Check,
    pub(super) stop: watch::Receiver<bool>,
}

/// A message that did not fit.
struct Held {
    topic: String,
    payload: Bytes,
    packet: u16,
    duplicate: bool,
    retained: bool,
}

#[derive(Default)]
struct Queues {
    waiting: Waiting,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Acknowledgements that the client has and did not send yet.
    unsent: usize,
    /// More of them wait for room there.
    stalled: bool,
}

/// Between the polling and the acknowledging task.
struct Link {
    queues: Mutex<Queues>,
    changed: Notify,
    intake: Arc<Intake>,
    metrics: Metrics,
    session: u64,
}

impl Link {
    fn new(intake: Arc<Intake>, metrics: Metrics, client: &str) -> Arc<Self> {
        let session = intake.session(client);
        Arc::new(Self { queues: Mutex::default(), changed: Notify::new(), intake, metrics, session })
    }

    /// A panic elsewhere leaves the queues whole.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is gone, or a new one begins: the broker delivers again whatever is not acknowledged, and a packet number may name
    /// another message in its next session.
    fn begin(&self) {
        *self.lock() = Queues::default();
    }

    /// Takes a message or holds it; `false`: it cannot even be held.
    fn take(&self, message: Held) -> bool {
        let mut queues = self.lock();
        if queues.held.is_empty() && self.offer(&mut queues, &message) {
            return true;
        }
        // With QoS 0 nobody waits: what does not fit is lost, as such messages may be.
        if message.packet == 0 {
            self.metrics.messages.get_or_create(&ResultLabel { result: "lost" }).inc();
            return true;
        }
        queues.held_bytes += message.payload.len() + message.topic.len();
        queues.held.push_back(message);
        let fits = queues.held_bytes <= super::HELD_BYTES;
        drop(queues);
        self.changed.notify_one();
        fits
    }

    fn offer(&self, queues: &mut Queues, message: &Held) -> bool {
        let packet = (message.packet != 0).then_some((self.session, message.packet));
        let Held { topic, payload, duplicate, retained, .. } = message;
        let envelope = Envelope { topic, payload, packet, duplicate: *duplicate, retained: *retained };
        let ticket = match self.intake.offer(&envelope) {
            Offer::Full => return false,
            Offer::Ticket(ticket) => ticket,
            Offer::Nothing => queues.waiting.newest().unwrap_or(0),
        };
        if message.packet != 0 {
            if queues.waiting.is_empty() {
                self.changed.notify_one();
            }
            queues.waiting.push(ticket, message.packet);
        }
        true
    }

    /// Offers held messages again and acknowledges what is durable, as long as `send` takes it: under the lock, so that nothing of a
    /// connection is acknowledged after the next one began.
    fn acknowledge(&self, durable: u64, mut send: impl FnMut(u16) -> bool) {
        let mut guard = self.lock();
        let queues = &mut *guard;
        while let Some(message) = queues.held.pop_front() {
            if !self.offer(queues, &message) {
                queues.held.push_front(message);
                break;
            }
            queues.held_bytes = queues.held_bytes.saturating_sub(message.payload.len() + message.topic.len());
        }
        queues.stalled = false;
        while let Some(packet) = queues.waiting.first(durable) {
            if queues.unsent >= UNSENT || !send(packet) {
                queues.stalled = true;
                break;
            }
            queues.waiting.pop();
            queues.unsent += 1;
        }
    }

    /// The client sent an acknowledgement: perhaps there is room for more.
    fn sent(&self) {
        let mut queues = self.lock();
        queues.unsent = queues.unsent.saturating_sub(1);
        if queues.stalled && queues.unsent <= UNSENT / 2 {
            queues.stalled = false;
            self.changed.notify_one();
        }
    }

    fn holds(&self) -> bool {
        !self.lock().held.is_empty()
    }

    fn idle(&self) -> bool {
        let queues = self.lock();
        queues.waiting.is_empty() && queues.held.is_empty()
    }
}

/// Acknowledgements that the client library has at a time. A broker may send a whole backlog without waiting for them: they wait as
/// [`Waiting`], in next to nothing, and not there, in 200 bytes each.
const UNSENT: usize = 1_024;
/// Other requests that the library has room for: a few for every change of what is wanted.
const OTHERS: usize = 256;

/// After this time a refused subscription is tried again.
const SUBSCRIBE_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

macro_rules! session {
    ($version:ident, $library:path, $options:expr, $acknowledgement:expr, $filter:expr, $text:expr) => {
        pub(super) mod $version {
            use std::{sync::Arc, time::Duration};

            use tokio::{sync::watch, time};
            use $library as library;
            use library::{AsyncClient, Event, EventLoop};

            use super::{Context, Held, Link, SUBSCRIBE_AGAIN, OTHERS, Subscriptions, UNSENT, want};
            use crate::{metrics::PeerLabel, source::{FIRST_BACKOFF, next_backoff}, stop::stopped};

            /// Runs until stopped.
            pub(in crate::source) async fn run(mut context: Context) {
                let link = Link::new(Arc::clone(&context.intake), context.metrics.clone(), &context.options.client_id);
                let options = $options(&*context.options);
                let (client, events) = AsyncClient::new(options, UNSENT + OTHERS);
                let acknowledging = tokio::spawn(acknowledge(Arc::clone(&link), client.clone(), context.stop.clone()));
                poll(&mut context, &link, &client, events).await;
                if acknowledging.await.is_err() {
                    tracing::error!("the task that acknowledges to the broker ended unexpectedly");
                }
            }

            async fn poll(context: &mut Context, link: &Arc<Link>, client: &AsyncClient, mut events: EventLoop) {
                let mut backoff = FIRST_BACKOFF;
                let mut connected_before = false;
                let mut stopping = None;
                let mut subscriptions = Subscriptions::default();
                want(context, &mut subscriptions);
                let mut retry: Option<time::Instant> = None;
                loop {
                    let polled = match stopping {
                        None => tokio::select! {
                            biased;
                            () = stopped(&mut context.stop) => {
                                stopping = Some(time::Instant::now() + Duration::from_secs(3));
                                continue;
                            }
                            changed = context.filters.changed() => {
                                if changed.is_ok() {
                                    want(context, &mut subscriptions);
                                    subscribe(client, &mut subscriptions);
                                }
                                continue;
                            }
                            () = time::sleep_until(retry.unwrap_or_else(time::Instant::now)), if retry.is_some() => {
                                retry = None;
                                subscriptions.try_again();
                                subscribe(client, &mut subscriptions);
                                continue;
                            }
                            event = events.poll() => event,
                        },
                        // Acknowledgements of what is durable still go out.
                        Some(deadline) => match time::timeout_at(deadline.min(time::Instant::now() + Duration::from_millis(50)), events.poll()).await {
                            Ok(event) => event,
                            Err(_) if link.idle() || time::Instant::now() >= deadline => return,
                            Err(_) => continue,
                        },
                    };
                    match polled {
                        Ok(Event::Incoming(library::mqttbytes_packet::Packet::Publish(publish))) if stopping.is_none() => {
                            let topic = $text(&publish.topic);
                            let held = Held { topic, payload: publish.payload, packet: publish.pkid, duplicate: publish.dup, retained: publish.retain };
                            if !link.take(held) {
                                tracing::warn!("the spool is full: the broker keeps further messages until there is room");
                                context.health.fail("the spool is full; the broker connection is given up until there is room");
                                link.begin();
                                events.clean();
                                // What was read and not handled yet would be taken for the next connection's.
                                events.state.events.clear();
                                events.pending.clear();
                                subscriptions.disconnected();
                                tokio::select! {
                                    () = context.intake.room() => {}
                                    () = stopped(&mut context.stop) => return,
                                }
                            }
                        }
                        Ok(Event::Incoming(library::mqttbytes_packet::Packet::ConnAck(answer))) => {
                            link.begin();
                            backoff = FIRST_BACKOFF;
                            tracing::info!(host = context.options.host, port = context.options.port, "connected to the MQTT broker");
                            context.health.pass();
                            if std::mem::replace(&mut connected_before, true) {
                                context.metrics.reconnects.get_or_create(&PeerLabel { peer: "broker" }).inc();
                            }
                            retry = None;
                            subscriptions.connected(answer.session_present);
                            subscribe(client, &mut subscriptions);
                        }
                        Ok(Event::Incoming(library::mqttbytes_packet::Packet::SubAck(answer))) => {
                            let granted = |code: &_| matches!(code, library::mqttbytes_packet::SubscribeReasonCode::Success(_));
                            subscriptions.answered(answer.return_codes.iter().map(granted));
                            let refused = subscriptions.refused();
                            if refused.is_empty() {
                                context.health.pass();
                            } else {
                                retry = Some(time::Instant::now() + SUBSCRIBE_AGAIN);
                                tracing::warn!(codes = ?answer.return_codes, filters = ?refused, "the broker refused a subscription: allow it to this user; tried again in a minute");
                                context.health.fail("the broker refused a subscription: its topics do not arrive; allow it to the agent's user");
                            }
                            subscribe(client, &mut subscriptions);
                        }
                        Ok(Event::Incoming(library::mqttbytes_packet::Packet::UnsubAck(_))) => {
                            subscriptions.left();
                            subscribe(client, &mut subscriptions);
                        }
                        Ok(Event::Outgoing(rumqttc::Outgoing::PubAck(_))) => link.sent(),
                        Ok(_) => {}
                        Err(error) => {
                            // Requests are made anew once the connection stands; acknowledgements end with their connection.
                            link.begin();
                            events.clean();
                            // What was read and not handled yet would be taken for the next connection's.
                            events.state.events.clear();
                            events.pending.clear();
                            subscriptions.disconnected();
                            let (wait, next) = next_backoff(backoff);
                            backoff = next;
                            tracing::warn!(%error, host = context.options.host, port = context.options.port, retry_ms = wait.as_millis(), "MQTT broker connection lost");
                            context.health.fail(format!("broker: {error}"));
                            tokio::select! {
                                () = time::sleep(wait) => {}
                                () = stopped(&mut context.stop) => return,
                            }
                        }
                    }
                }
            }

            /// Asks for what is wanted and gives up what is not. Never waits: the polling task must go on.
            fn subscribe(client: &AsyncClient, subscriptions: &mut Subscriptions) {
                let asked = subscriptions.ask();
                if !asked.is_empty()
                    && let Err(error) = client.try_subscribe_many(asked.into_iter().map($filter))
                {
                    tracing::warn!(%error, "could not subscribe; tried again when the models change or the connection is made anew");
                    subscriptions.answered([]);
                }
                for filter in subscriptions.leave() {
                    if let Err(error) = client.try_unsubscribe(filter.clone()) {
                        tracing::warn!(filter, %error, "could not unsubscribe");
                    }
                }
            }

            /// Acknowledges what is durable, and offers again what did not fit.
            async fn acknowledge(link: Arc<Link>, client: AsyncClient, mut stop: watch::Receiver<bool>) {
                let mut durable = link.intake.durable();
                let mut deadline = None;
                loop {
                    let reached = *durable.borrow_and_update();
                    link.acknowledge(reached, |packet| client.try_ack(&$acknowledgement(packet)).is_ok());
                    if deadline.is_some_and(|deadline| link.idle() || time::Instant::now() >= deadline) {
                        return;
                    }
                    let patience = Duration::from_millis(if deadline.is_some() { 20 } else { 60_000 });
                    tokio::select! {
                        changed = durable.changed() => if changed.is_err() { return },
                        () = link.intake.room(), if link.holds() => {}
                        () = link.changed.notified() => {}
                        () = time::sleep(patience) => {}
                        () = stopped(&mut stop), if deadline.is_none() => {
                            deadline = Some(time::Instant::now() + Duration::from_secs(2));
                        }
                    }
                }
            }
        }
    };
}

/// What the settings name, or else the models.
fn want(context: &mut Context, subscriptions: &mut Subscriptions) {
    let models = context.filters.borrow_and_update();
    let named = &context.options.filters;
    let wider = subscriptions.want(if named.is_empty() { &models } else { named });
    if !wider.is_empty() {
        tracing::info!(?wider, "topic filters overlap: these take their place, so that no message comes twice");
    }
}

/// The client library's 3.1.1 half under the names of its MQTT 5 half.
mod four {
    pub(super) use rumqttc::{AsyncClient, Event, EventLoop};
    pub(super) mod mqttbytes_packet {
        pub(in crate::source::session) use rumqttc::{Packet, SubscribeReasonCode};
    }
}

mod five {
    pub(super) use rumqttc::v5::{AsyncClient, Event, EventLoop};
    pub(super) mod mqttbytes_packet {
        pub(in crate::source::session) use rumqttc::v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    }
}

fn options_four(options: &BrokerOptions) -> rumqttc::MqttOptions {
    let mut mqtt = rumqttc::MqttOptions::new(&options.client_id, &options.host, options.port);
    mqtt.set_clean_session(false)
        .set_manual_acks(true)
        .set_inflight(OUTGOING)
        .set_keep_alive(std::time::Duration::from_secs(u64::from(options.keep_alive.max(5))))
        .set_max_packet_size(LARGEST, LARGEST)
        .set_transport(super::transport(options));
    if let Some((user, password)) = &options.credentials {
        mqtt.set_credentials(user, password);
    }
    mqtt
}

/// The largest packet of the protocol. A client that takes less gets a larger message again for ever with 3.1.1, and with MQTT 5 never
/// hears of it; so all are taken, and the intake counts those that are too large. What the broker lets through is the bound.
const LARGEST: usize = 268_435_455 + 5;

/// Publishes of its own that the client keeps slots for. The agent makes none, and the library's default for MQTT 5 is 13 MB of slots.
const OUTGOING: u16 = 16;

/// How long a broker keeps the session of an agent that is away: a site may be dark for weeks.
const SESSION_SECONDS: u32 = 60 * 24 * 3600;

fn options_five(options: &BrokerOptions) -> rumqttc::v5::MqttOptions {
    let mut mqtt = rumqttc::v5::MqttOptions::new(&options.client_id, &options.host, options.port);
    mqtt.set_clean_start(false)
        .set_manual_acks(true)
        .set_outgoing_inflight_upper_limit(OUTGOING)
        .set_keep_alive(std::time::Duration::from_secs(u64::from(options.keep_alive.max(5))))
        .set_session_expiry_interval(Some(SESSION_SECONDS))
        .set_receive_maximum(Some(options.in_flight))
        .set_max_packet_size(Some(u32::try_from(LARGEST).unwrap_or(u32::MAX)))
        .set_transport(super::transport(options));
    if let Some((user, password)) = &options.credentials {
        mqtt.set_credentials(user, password);
    }
    mqtt
}

fn publish_four(packet: u16) -> rumqttc::Publish {
    let mut publish = rumqttc::Publish::new("", rumqttc::QoS::AtLeastOnce, Vec::new());
    publish.pkid = packet;
    publish
}

fn publish_five(packet: u16) -> rumqttc::v5::mqttbytes::v5::Publish {
    let mut publish =
        rumqttc::v5::mqttbytes::v5::Publish::new("", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, Bytes::new(), None);
    publish.pkid = packet;
    publish
}

fn filter_four(filter: String) -> rumqttc::SubscribeFilter {
    rumqttc::SubscribeFilter::new(filter, rumqttc::QoS::AtLeastOnce)
}

/// A subscription that stood already does not bring the retained messages again.
fn filter_five(filter: String) -> rumqttc::v5::mqttbytes::v5::Filter {
    use rumqttc::v5::mqttbytes::{
        QoS,
        v5::{Filter, RetainForwardRule},
    };
    Filter { retain_forward_rule: RetainForwardRule::OnNewSubscribe, ..Filter::new(filter, QoS::AtLeastOnce) }
}

session!(v4, super::four, super::options_four, super::publish_four, super::filter_four, |topic: &String| topic.clone());
session!(v5, super::five, super::options_five, super::publish_five, super::filter_five, |topic: &bytes::Bytes| {
    String::from_utf8_lossy(topic).into_owned()
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, codec::Limits, intake::Quota, sealer::Found};

    fn link() -> Arc<Link> {
        let (metrics, clock) = (Metrics::registered().0, SystemClock::new());
        let intake = Intake::new(Limits::default(), Quota::default(), clock, metrics.clone(), &Found::default());
        Link::new(intake, metrics, "edge")
    }

    fn acknowledged(link: &Link, durable: u64) -> Vec<u16> {
        let mut packets = Vec::new();
        link.acknowledge(durable, |packet| {
            packets.push(packet);
            true
        });
        packets
    }

    #[test]
    fn a_backlog_is_acknowledged_as_the_client_has_room_for_it() {
        let link = link();
        (1..=3_000).for_each(|packet| link.lock().waiting.push(1, packet));
        assert_eq!(acknowledged(&link, 0), [0; 0], "nothing is durable yet");
        assert_eq!(acknowledged(&link, 1), (1..=1_024).collect::<Vec<u16>>());
        assert_eq!(acknowledged(&link, 1), [0; 0], "the client sent nothing yet");
        (0..511).for_each(|_| link.sent());
        assert!(link.lock().stalled);
        link.sent();
        assert!(!link.lock().stalled, "half of the room is free: who acknowledges is woken");
        assert_eq!(acknowledged(&link, 1), (1_025..=1_536).collect::<Vec<u16>>());
        // What the client refuses stays and is tried again.
        link.sent();
        link.acknowledge(1, |_| false);
        assert!(link.lock().stalled);
        assert_eq!(acknowledged(&link, 1), [1_537]);
    }

    #[test]
    fn nothing_of_a_connection_is_acknowledged_in_the_next_one() {
        let link = link();
        link.lock().waiting.push(1, 7);
        link.begin();
        assert_eq!(acknowledged(&link, 1), [0; 0]);
        link.lock().waiting.push(2, 7);
        assert_eq!(acknowledged(&link, 1), [0; 0], "the same number is another message");
        assert_eq!(acknowledged(&link, 2), [7]);
    }
}

//! A site at the edge: the real agent on a directory of its own, with a machine clock, and hardware that speaks MQTT to it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use depin_agent::{
    Agent, AgentOptions,
    clock::Clock,
    codec, intake,
    listener::ListenerOptions,
    sealer::StoreOptions,
    spool::Stamp,
    uplink::{Joining, UplinkOptions},
};
use depin_domain::{registry::Change, time::Timestamp};
use depin_identity::Route;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::{
    link::Link,
    network,
    world::{Time, World, until},
};

/// The clocks of the machine under an agent.
#[derive(Debug)]
pub(crate) struct Machine {
    time: Time,
    boot: AtomicU64,
    booted: AtomicI64,
    /// Its wall clock counts from 1970 until it is set.
    unset: AtomicBool,
}

impl Clock for Machine {
    fn now(&self) -> Stamp {
        let uptime = self.time.now() - self.booted.load(Ordering::SeqCst);
        let wall = if self.unset.load(Ordering::SeqCst) { uptime } else { self.time.now() };
        Stamp { boot: self.boot.load(Ordering::SeqCst), uptime, wall: Timestamp(wall) }
    }
}

impl Machine {
    /// Starts anew; its battery is empty, so the wall clock has to be set.
    pub(crate) fn reboot_unset(&self) {
        self.boot.fetch_add(1, Ordering::SeqCst);
        self.booted.store(self.time.now(), Ordering::SeqCst);
        self.unset.store(true, Ordering::SeqCst);
    }

    pub(crate) fn set_clock(&self) {
        self.unset.store(false, Ordering::SeqCst);
    }
}

/// One message of a meter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Message {
    pub(crate) meter: u8,
    pub(crate) at: Option<i64>,
    pub(crate) energy: Option<i64>,
    pub(crate) power: Option<i64>,
}

impl Message {
    pub(crate) fn power(meter: u8, at: i64, power: i64) -> Self {
        Self { meter, at: Some(at), power: Some(power), energy: None }
    }

    pub(crate) fn energy(meter: u8, at: i64, energy: i64) -> Self {
        Self { meter, at: Some(at), energy: Some(energy), power: None }
    }

    fn payload(&self) -> String {
        let mut text = String::from(r#"{"kind":"meter""#);
        for (name, value) in [("ts", self.at), ("energy", self.energy), ("power", self.power)] {
            if let Some(value) = value {
                write!(text, r#","{name}":{value}"#).unwrap();
            }
        }
        text + "}"
    }
}

/// One reading of energy and one of power at each of these minutes: power 10, energy ten times the minute.
pub(crate) fn measure(meter: u8, minutes: std::ops::Range<i64>) -> Vec<Message> {
    let at = |number| Message { meter, at: Some(network::minute(number)), energy: Some(number * 10), power: Some(10) };
    minutes.map(at).collect()
}

pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) directory: PathBuf,
    pub(crate) machine: Arc<Machine>,
    pub(crate) store: StoreOptions,
    /// Between the agent and the gateway.
    pub(crate) link: Link,
    /// Further ways to it, in their order.
    pub(crate) others: Vec<Link>,
    agent: Option<Agent>,
}

impl Site {
    /// Enrolled, not started; the registry change that approves it comes along.
    pub(crate) async fn new(world: &World, name: &'static str) -> (Self, Change) {
        let directory = world.path(name);
        fs::create_dir_all(&directory).unwrap();
        let key = world.enroll(name, &directory);
        let machine = Machine {
            time: world.time.clone(),
            boot: AtomicU64::new(1),
            booted: AtomicI64::new(world.time.now() - network::HOUR),
            unset: AtomicBool::new(false),
        };
        let site = Self {
            name,
            directory,
            machine: Arc::new(machine),
            store: StoreOptions::default(),
            link: Link::to(world.gateway()).await,
            others: Vec::new(),
            agent: None,
        };
        (site, network::agent(name, key.public()))
    }

    /// A second machine with this one's disk as it is now.
    pub(crate) async fn clone_to(&self, world: &World, directory: &str) -> Self {
        let copy = world.path(directory);
        copy_directory(&self.directory, &copy);
        Self {
            name: self.name,
            directory: copy,
            machine: Arc::clone(&self.machine),
            store: self.store,
            link: Link::to(world.gateway()).await,
            others: Vec::new(),
            agent: None,
        }
    }

    pub(crate) async fn start(&mut self) {
        assert!(self.agent.is_none(), "{} runs", self.name);
        let links = std::iter::once(&self.link).chain(&self.others);
        let options = AgentOptions {
            state_dir: self.directory.clone(),
            uplink: UplinkOptions {
                gateways: links.map(|link| Route::direct(&link.url())).collect(),
                name: self.name.to_owned(),
                joining: Joining::default(),
                seal_interval: Duration::from_millis(20),
                status_interval: Duration::from_secs(1),
                keep_unapproved: Duration::from_secs(7 * 86_400),
            },
            listener: Some(("127.0.0.1:0".parse().unwrap(), ListenerOptions::default())),
            broker: None,
            store: self.store,
            limits: codec::Limits::default(),
            quota: intake::Quota::default(),
        };
        let clock = Arc::clone(&self.machine);
        self.agent = Some(Agent::start_with_clock(options, clock).await.unwrap());
    }

    /// Started and told its models and devices.
    pub(crate) async fn start_configured(&mut self) {
        self.start().await;
        until("the configuration", async || self.agent().health.ready().ok).await;
    }

    pub(crate) async fn stop(&mut self) {
        self.agent.take().unwrap().stop().await;
    }

    /// The line breaks, and the agent has noticed.
    pub(crate) async fn cut(&self) {
        self.link.cut();
        until("the cut", async || self.agent().metrics.connected.get() == 0).await;
    }

    /// Something is sealed and waits for its receipt.
    pub(crate) async fn sealed(&self) {
        until("a sealed proof", async || self.agent().metrics.unanswered.get() > 0).await;
    }

    /// Everything sealed has its receipt.
    pub(crate) async fn answered(&self) {
        until("all receipts", async || self.agent().metrics.unanswered.get() == 0).await;
    }

    /// Restarts without a line, once every receipt is on its disk: what a copy of the disk holds is known from here on.
    pub(crate) async fn restart_cut_off(&mut self) {
        self.answered().await;
        self.stop().await;
        self.link.cut();
        self.start().await;
    }

    pub(crate) async fn connected(&self) {
        until("the connection", async || self.agent().metrics.connected.get() == 1).await;
    }

    /// It knows its chain's head and the gateway's time: what comes next is sealed.
    pub(crate) async fn opened(&self) {
        until("the open chain", async || self.agent().metrics.sealing.get() == 1).await;
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// A connection of hardware.
    pub(crate) fn hardware(&self, client: &str) -> Hardware {
        let address = self.agent().listener.unwrap();
        let mut options = MqttOptions::new(client, address.ip().to_string(), address.port());
        options.set_keep_alive(Duration::from_secs(30));
        let (client, events) = AsyncClient::new(options, 1_024);
        Hardware { client, events }
    }

    /// Publishes and waits for every acknowledgement.
    pub(crate) async fn publish(&self, messages: impl IntoIterator<Item = Message>) -> u64 {
        let messages: Vec<_> = messages.into_iter().collect();
        let count = messages.len() as u64;
        let mut hardware = self.hardware("hardware");
        hardware.send(messages);
        hardware.acknowledged(count).await;
        count
    }
}

/// Hardware that publishes with QoS 1.
pub(crate) struct Hardware {
    client: AsyncClient,
    events: rumqttc::EventLoop,
}

impl Hardware {
    /// Publishes in the background, as fast as acknowledgements allow.
    pub(crate) fn send(&self, messages: Vec<Message>) {
        let client = self.client.clone();
        tokio::spawn(async move {
            for message in messages {
                let topic = format!("meters/{}/state", network::serial(message.meter));
                if client.publish(topic, QoS::AtLeastOnce, false, message.payload()).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Waits for so many acknowledgements.
    pub(crate) async fn acknowledged(&mut self, count: u64) {
        let mut acknowledged = 0;
        while acknowledged < count {
            let event = tokio::time::timeout(Duration::from_secs(60), self.events.poll()).await;
            if let Event::Incoming(Packet::PubAck(_)) = event.expect("an acknowledgement").unwrap() {
                acknowledged += 1;
            }
        }
    }

    /// Acknowledgements until `enough` holds.
    pub(crate) async fn acknowledged_until(&mut self, mut enough: impl FnMut() -> bool) -> u64 {
        let mut acknowledged = 0;
        while !enough() {
            match tokio::time::timeout(Duration::from_millis(20), self.events.poll()).await {
                Ok(event) => {
                    if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
                        acknowledged += 1;
                    }
                }
                Err(_) => continue,
            }
        }
        acknowledged
    }
}

/// Copies a directory with everything in it.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

//! Thousands of devices that vanish and return cost the API server next to nothing, heartbeats nothing at all.
//!
//! Written is counted twice: by the operator's own metric, and by what a watch tells (a write that changes nothing is told to nobody).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use depin_crds::{EdgeAgent, EdgeDevice, EdgeFleet};
use depin_domain::{
    ids::{AgentId, DeviceId},
    time::Timestamp,
};
use depin_operator::clock::Clock;
use depin_proto::v1::{AgentPresence, DevicePresence, PresencePage};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
    core::PartialObjectMeta,
    runtime::watcher,
};

use crate::{
    objects::{FLEET, MODEL, agent, device},
    world::{Running, World, eventually},
};

const DEVICES: u64 = 2000;
/// Short breaks of the uplink.
const ROUNDS: u64 = 1;
/// Milliseconds between looks at the counts of a fleet.
const ROLL_UP_MS: u128 = 10_000;

/// How far the operator's clock is ahead: absences pass in no time.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond() + AHEAD_MS.load(Ordering::Relaxed))
}

/// Changes of the objects of a kind, as a watch tells them.
struct Changes {
    count: Arc<AtomicU64>,
    watch: tokio::task::JoinHandle<()>,
}

impl Changes {
    async fn of<K>(world: &World) -> Self
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(world.client.clone(), "town");
        let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
        while !matches!(events.try_next().await.unwrap(), Some(watcher::Event::InitDone)) {}
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let watch = tokio::spawn(async move {
            while let Ok(Some(event)) = events.try_next().await {
                assert!(matches!(event, watcher::Event::Apply(_)), "the watch began anew");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { count, watch }
    }

    fn get(&self) -> u64 {
        assert!(!self.watch.is_finished(), "the watch ended");
        self.count.load(Ordering::Relaxed)
    }
}

/// The site: one agent and its devices, as the gateway tells of them.
struct Site<'a> {
    world: &'a World,
    operator: &'a Running,
    ids: Vec<Vec<u8>>,
    devices: Changes,
    agents: Changes,
    fleets: Changes,
}

/// What was written so far.
#[derive(Debug)]
struct Written {
    devices: u64,
    agents: u64,
    fleets: u64,
    /// Status writes of devices, those that changed nothing included.
    attempts: u64,
    at: Instant,
}

impl Site<'_> {
    /// The gateway heard all of them at `heard`, and has a stream of the agent or not.
    fn tell(&self, connected: bool, heard: Timestamp) {
        tell(self.world, &self.ids, connected, heard);
    }

    /// As long as they are there, they are heard.
    async fn heard_until(&self, what: &str, done: impl AsyncFn() -> bool) {
        eventually(what, || async {
            self.tell(true, clock());
            done().await.then_some(())
        })
        .await;
    }

    /// The uplink breaks, and the operator has seen it before `ms` pass.
    async fn vanish(&self, ms: i64) {
        self.tell(false, clock());
        let looks = self.world.ledger.presence_reads();
        eventually("a look that sees it", || async { (self.world.ledger.presence_reads() > looks).then_some(()) })
            .await;
        AHEAD_MS.fetch_add(ms, Ordering::Relaxed);
    }

    /// How many devices are online, as the fleet counts.
    async fn online(&self) -> i64 {
        let fleets: Api<EdgeFleet> = self.world.api();
        fleets.get("homes").await.unwrap().status.and_then(|status| status.online).unwrap_or_default()
    }

    async fn agent_is(&self, online: &str) -> bool {
        let agents: Api<EdgeAgent> = self.world.api();
        let conditions = agents.get("roof-1").await.unwrap().status.unwrap_or_default().conditions;
        conditions.iter().any(|condition| condition.type_ == "Online" && condition.status == online)
    }

    /// What was written, once the watches have told of at least so much.
    async fn written(&self, devices: u64, agents: u64) -> Written {
        eventually("the watches' word", || async {
            (self.devices.get() >= devices && self.agents.get() >= agents).then_some(())
        })
        .await;
        let attempts = self.operator.metric("depin_operator_status_writes_total{kind=\"EdgeDevice\"}").await.unwrap();
        let (devices, agents, fleets) = (self.devices.get(), self.agents.get(), self.fleets.get());
        Written { devices, agents, fleets, attempts, at: Instant::now() }
    }

    async fn further_looks(&self) {
        let looks = self.world.ledger.presence_reads();
        self.heard_until("looks at heartbeats", async || self.world.ledger.presence_reads() > looks + 2).await;
    }
}

fn tell(world: &World, ids: &[Vec<u8>], connected: bool, heard: Timestamp) {
    let agent_id = AgentId::of("town", "roof-1").0.to_vec().into();
    let agent = AgentPresence { agent_id, connected, last_heard: heard.0, ..Default::default() };
    let devices = ids.iter().map(|id| DevicePresence {
        device_id: id.clone().into(),
        last_accepted: heard.0,
        accepted: u64::try_from(heard.0).unwrap(),
        ..Default::default()
    });
    world.ledger.set_presence(PresencePage { agents: vec![agent], devices: devices.collect() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_devices_that_vanish_and_return_cost_a_few_status_writes() {
    let world = World::new().await;
    world.apply(MODEL).unwrap();
    world.apply(FLEET).unwrap();
    world.apply(&agent("roof-1", 1)).unwrap();
    let devices: Api<EdgeDevice> = world.api();
    let names: Vec<String> = (0..DEVICES).map(|number| format!("m{number}")).collect();
    let all: Vec<EdgeDevice> =
        names.iter().map(|name| serde_saphyr::from_str(&device(name, "roof-1", "")).unwrap()).collect();
    let parameters = PostParams::default();
    let created = all.iter().map(|device| devices.create(&parameters, device));
    futures::stream::iter(created).buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await.unwrap();
    let ids: Vec<_> = names.iter().map(|name| DeviceId::of("town", name).0.to_vec()).collect();
    let operator = world.start_at("one", Clock::of(clock));
    let fleets: Api<EdgeFleet> = world.api();
    eventually("all online, and counted", || async {
        tell(&world, &ids, true, clock());
        let status = fleets.get("homes").await.unwrap().status?;
        (status.online == Some(2000) && status.ready == Some(2000)).then_some(())
    })
    .await;
    let site = Site {
        world: &world,
        operator: &operator,
        ids,
        devices: Changes::of::<EdgeDevice>(&world).await,
        agents: Changes::of::<EdgeAgent>(&world).await,
        fleets: Changes::of::<EdgeFleet>(&world).await,
    };

    // Heartbeats and counters alone are nobody's write: not a device's, not the agent's, not the fleet's.
    let before = versions(&devices).await;
    site.further_looks().await;
    assert_eq!((site.devices.get(), site.agents.get(), site.fleets.get()), (0, 0, 0));
    assert_eq!(versions(&devices).await, before);

    a_broken_uplink(&site).await;
    assert_eq!(versions(&devices).await, before, "no device was written");
    a_long_absence(&site).await;
    let lost = world.events("roof-1", "AgentLost").await;
    assert_eq!(lost.len(), 1, "a repeated loss is one series: {lost:?}");
    operator.stop().await;
}

async fn versions(devices: &Api<EdgeDevice>) -> BTreeMap<String, Option<String>> {
    let list = devices.list_metadata(&ListParams::default()).await.unwrap();
    list.items.iter().map(|device| (device.name_any(), device.resource_version())).collect()
}

/// Five minutes without an uplink: one write for the agent that goes, one for its return, none for devices and fleets.
async fn a_broken_uplink(site: &Site<'_>) {
    let before = site.written(0, 0).await;
    for round in 1..=ROUNDS {
        site.vanish(300_000).await;
        eventually("the agent is lost", || async { site.agent_is("False").await.then_some(()) }).await;
        site.heard_until("the agent is back", async || site.agent_is("True").await).await;
        let after = site.written(0, 2 * round).await;
        let spent = (after.devices, after.agents, after.fleets, after.attempts - before.attempts);
        assert_eq!(spent, (0, 2 * round, 0, 0), "devices, agents, fleets, attempts after round {round}");
    }
}

/// Longer than `--long-absence`: each device is told once that it is gone and once that it is back, whatever the looks in between.
async fn a_long_absence(site: &Site<'_>) {
    let start = site.written(0, 2 * ROUNDS).await;
    site.vanish(1_000_000).await;
    eventually("all are gone, and counted", || async { (site.online().await == 0).then_some(()) }).await;
    let gone = site.written(DEVICES, 2 * ROUNDS + 1).await;
    assert_eq!((gone.devices, gone.agents), (DEVICES, 2 * ROUNDS + 1));
    site.heard_until("all are back, and counted", async || site.online().await == 2000).await;
    let back = site.written(2 * DEVICES, 2 * ROUNDS + 2).await;
    assert_eq!((back.devices, back.agents), (2 * DEVICES, 2 * ROUNDS + 2));
    // A look that comes before the watch told of a write wishes it again; that this changes nothing is seen above.
    assert!(back.attempts - start.attempts <= 4 * DEVICES, "{start:?} {back:?}");
    // One write of the fleet's counts in ten seconds, however many devices change.
    let looks = (back.at - start.at).as_millis() / ROLL_UP_MS + 1;
    assert!(u128::from(back.fleets) <= looks, "{start:?} {back:?}");
}

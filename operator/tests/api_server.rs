//! The operator against a real API server, with a ledger in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it cannot go on")]

mod support;

use std::{future::Future, path::PathBuf, sync::Mutex, time::Duration};

use clap::Parser as _;
use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardEpoch, RewardProgram};
use depin_domain::{
    ids::{AgentId, DeviceId, Digest},
    registry::Registry,
};
use depin_identity::{CertificateInfo, CertificateRequest, JoinToken, PeerIdentity, SigningKey};
use depin_operator::{Options, clock::Clock, run};
use depin_proto::v1::{
    AgentPresence, DevicePresence, EnrollRequest, GrainStatistic, PresencePage, Sighting, SightingsEntry,
    enroll_response::Result as Answer, inbox_entry::Entry,
};
use depin_tests::ControlPlane;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use support::FakeLedger;
use tokio::sync::oneshot;

/// Far beyond what anything here takes; a machine that also compiles is slow.
const LIMIT: Duration = Duration::from_secs(120);

struct World {
    plane: ControlPlane,
    /// The administrator.
    client: Client,
    /// The operator's ServiceAccount, with what operator/rbac.yaml allows.
    operator: Client,
    ledger: FakeLedger,
    address: std::net::SocketAddr,
    scratch: tempfile::TempDir,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), run::OperatorError>>,
}

impl World {
    async fn new() -> Self {
        let plane = tokio::task::block_in_place(|| ControlPlane::start().unwrap());
        let config = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        config.auth_info.impersonate = Some("system:serviceaccount:depin-system:depin-operator".into());
        let operator = Client::try_from(config).unwrap();
        let (ledger, address) = FakeLedger::serve().await;
        let world = Self { client, operator, plane, ledger, address, scratch: tempfile::tempdir().unwrap() };
        world.install();
        world
    }

    /// Definitions, namespaces and the operator's permissions.
    fn install(&self) {
        tokio::task::block_in_place(|| {
            self.plane.apply_crds().unwrap();
            self.plane.run_kubectl(&["create", "namespace", "depin-system"]).unwrap();
            self.plane.run_kubectl(&["create", "namespace", "town"]).unwrap();
            self.plane.apply(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rbac.yaml")).unwrap();
        });
    }

    fn start(&self, identity: &str) -> Running {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        let options = Options::parse_from([
            "depin-operator",
            "--ledger",
            "https://unused:1",
            "--identity",
            identity,
            "--leader-elect",
            "--agent-silence",
            "1",
        ]);
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { drop(stopped.await) };
        let operator = run::run_with(self.operator.clone(), Clock::system(), options, Some(channel), stopped);
        Running { stop, task: tokio::spawn(operator) }
    }

    /// Applies YAML as a user does; what the API server says if it refuses.
    fn apply(&self, yaml: &str) -> Result<(), String> {
        static COUNT: Mutex<u32> = Mutex::new(0);
        let mut count = COUNT.lock().unwrap();
        *count += 1;
        let path: PathBuf = self.scratch.path().join(format!("{count}.yaml"));
        std::fs::write(&path, yaml).unwrap();
        tokio::task::block_in_place(|| self.plane.apply(&path).map_err(|error| format!("{error:#}")))
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "town")
    }
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until `look` gives something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(found) => found,
        Err(_) => unreachable!("{what} did not come to pass"),
    }
}

macro_rules! condition {
    ($world:expr, $kind:ty, $name:expr, $condition:expr, $status:expr) => {{
        let api: Api<$kind> = $world.api();
        condition!(api $name, $condition, $status)
    }};
    ($api:ident $name:expr, $condition:expr, $status:expr) => {{
        let api = &$api;
        let name: &str = $name;
        eventually(&format!("{} of {name} = {}", $condition, $status), move || async move {
            let object = api.get_opt(name).await.unwrap()?;
            let conditions = object.status.as_ref()?.conditions.clone();
            conditions.into_iter().find(|condition| condition.type_ == $condition && condition.status == $status)
        })
        .await
    }};
}

const MODEL: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeDeviceModel
metadata: {name: meter}
spec:
  sources:
  - topic: meters/+/up
    codec: Json
    device: {topicSegment: 1}
    fields: [{path: kwh, metric: energy}]
  metrics: [{name: energy, unit: kWh, kind: Counter, scale: 3}]
  cadence: 1s
";

const FLEET: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeFleet
metadata: {name: homes, namespace: town}
spec:
  modelRef: {name: meter}
  grain: 1s
  enrollment: {policy: Token}
  owner: '0x00000000000000000000000000000000000000a1'
";

fn enrollment(token: &JoinToken) -> String {
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeEnrollment\nmetadata: {{name: invitation, namespace: town}}\nspec:\n  token:\n    \
         sha256: {}\n    expiresAt: 2099-01-01T00:00:00Z\n    fleets: [homes]\n",
        token.hash()
    )
}

fn agent(name: &str, seed: u8) -> String {
    let key = hex::encode(&SigningKey::from_seed(&[seed; 32]).public().bytes);
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeAgent\nmetadata: {{name: {name}, namespace: town}}\nspec: {{fleets: [homes], \
         publicKey: {{algorithm: Ed25519, key: {key}}}}}\n"
    )
}

const PROGRAM: &str = "
apiVersion: depin.dev/v1alpha1
kind: RewardProgram
metadata: {name: watts, namespace: town}
spec:
  fleets: [homes]
  token: {symbol: WATT, decimals: 6}
  epoch: {length: 2s, genesis: '2026-01-01T00:00:00Z'}
  grace: 0s
  emission: {fixed: {amount: '1000'}}
  features: [{name: energy, metric: energy, aggregate: Delta}]
  weight: energy
  late: {basisPoints: 0, until: 0s}
";

fn device(name: &str, agent: &str, more: &str) -> String {
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeDevice\nmetadata: {{name: {name}, namespace: town}}\nspec: {{fleet: homes, agent: \
         {agent}, serial: {name}{more}}}\n"
    )
}

async fn enroll(world: &World, token: &JoinToken, key: &SigningKey, name: &str) -> Answer {
    let csr = CertificateRequest::make(key).unwrap();
    let request =
        EnrollRequest { token: token.secret().to_vec().into(), csr: csr.into(), name: name.into(), facts: None };
    let id = world.ledger.post(Entry::Enroll(request));
    let answer = eventually("an answer", || async { world.ledger.answer(id) }).await;
    answer.unwrap().result.unwrap()
}

async fn registered(world: &World, what: &str, look: impl Fn(&Registry) -> bool) {
    eventually(what, || async { look(&world.ledger.registry()).then_some(()) }).await;
}

/// A statistic of one grain.
fn grain(device: &str, start: i64, increase: i64) -> GrainStatistic {
    GrainStatistic {
        device_id: DeviceId::of("town", device).0.to_vec().into(),
        metric: "energy".into(),
        grain_start: start,
        grain_ms: 1000,
        count: 1,
        sum: increase.to_string(),
        first_at: start,
        last_at: start,
        increase: increase.to_string(),
        reset_increase: "0".into(),
        slots: vec![1].into(),
        cadence_ms: 1000,
        ..GrainStatistic::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_cluster_without_anything_to_paid_epochs() {
    let world = World::new().await;
    let operator = world.start("one");

    // Certificates: the CA is made once, the gateway's certificate is issued by it.
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let tls = eventually("the gateway's Secret", || async { secrets.get_opt("depin-gateway-tls").await.unwrap() })
        .await
        .data
        .unwrap();
    let leaf = CertificateInfo::from_pem(std::str::from_utf8(&tls["tls.crt"].0).unwrap()).unwrap();
    assert_eq!(leaf.identity, PeerIdentity::Gateway);
    let authority = secrets.get("depin-ca").await.unwrap().data.unwrap()["tls.crt"].0.clone();

    // A device that is applied before everything that it needs waits, and says for what.
    world.apply(&device("early", "roof-1", "")).unwrap();
    let waiting = condition!(world, EdgeDevice, "early", "Ready", "Unknown");
    assert!(waiting.message.contains("EdgeFleet homes"), "{}", waiting.message);
    assert!(waiting.observed_generation.is_some());

    let models: Api<EdgeDeviceModel> = Api::all(world.client.clone());
    world.apply(MODEL).unwrap();
    condition!(models "meter", "Ready", "True");
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");

    // An agent joins by its token; a second key with the same token does not.
    let token = JoinToken::new([7; 16], Digest([0; 32]));
    world.apply(&enrollment(&token)).unwrap();
    condition!(world, EdgeEnrollment, "invitation", "Ready", "True");
    registered(&world, "the invitation", |registry| registry.invitation(&token.hash()).is_some()).await;
    let key = SigningKey::from_seed(&[1; 32]);
    let Answer::Issued(issued) = enroll(&world, &token, &key, "roof-1").await else { unreachable!("not issued") };
    let certificate = CertificateInfo::from_pem(&issued.chain).unwrap();
    assert_eq!(certificate.identity, PeerIdentity::Agent { namespace: "town".into(), name: "roof-1".into() });
    assert_eq!(issued.ca.as_bytes(), authority);
    let Answer::Issued(_) = enroll(&world, &token, &key, "roof-1").await else {
        unreachable!("a repeated request is denied")
    };
    let Answer::Denied(denied) = enroll(&world, &token, &SigningKey::from_seed(&[2; 32]), "roof-2").await else {
        unreachable!("a token admitted two")
    };
    assert_eq!(denied.reason, "TokenUsed");
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    condition!(world, EdgeDevice, "early", "Ready", "True");

    // A sighting under the Token policy becomes a device that counts from then.
    let sighting = Sighting {
        model: "meter".into(),
        serial: "m1".into(),
        first_seen: 1_700_000_000_000,
        topic: "meters/m1/up".into(),
    };
    let agent_id = AgentId::of("town", "roof-1");
    world
        .ledger
        .post(Entry::Sightings(SightingsEntry { agent_id: agent_id.0.to_vec().into(), sightings: vec![sighting] }));
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    let m1 = DeviceId::of("town", "m1");
    registered(&world, "the device", |registry| {
        registry.device(&m1).and_then(|device| device.current()).is_some_and(|entry| entry.since.0 == 1_700_000_000_000)
    })
    .await;

    // Presence: one condition where it flips.
    let now = jiff::Timestamp::now().as_millisecond();
    world.ledger.set_presence(PresencePage {
        agents: vec![AgentPresence {
            agent_id: agent_id.0.to_vec().into(),
            connected: true,
            last_heard: now,
            ..Default::default()
        }],
        devices: vec![DevicePresence { device_id: m1.0.to_vec().into(), last_accepted: now, ..Default::default() }],
    });
    condition!(world, EdgeAgent, "roof-1", "Online", "True");
    condition!(world, EdgeDevice, "m1", "Online", "True");

    // Epochs close by themselves and are paid exactly.
    world.ledger.set_statistics(
        (0..600)
            .flat_map(|second| {
                let start = now.div_euclid(1000) * 1000 + second * 1000;
                [grain("m1", start, 30), grain("early", start, 10)]
            })
            .collect(),
    );
    world.apply(PROGRAM).unwrap();
    condition!(world, RewardProgram, "watts", "Ready", "True");
    eventually("three epochs", || async { (world.ledger.recorded("town/watts").len() >= 3).then_some(()) }).await;
    let recorded = world.ledger.recorded("town/watts");
    let last = world.ledger.summary("town/watts", recorded[2]);
    assert_eq!(last["minted"], "1000");
    assert_eq!(last["payouts"][0]["amount"], "1000", "{last}");
    let epochs: Api<RewardEpoch> = world.api();
    let name = format!("watts-{}", recorded[1]);
    let view = eventually("the epoch's view", || async {
        epochs.get_opt(&name).await.unwrap().filter(|view| view.status.is_some())
    })
    .await;
    let status = view.status.unwrap();
    assert_eq!(
        (status.minted.as_deref(), status.paid.as_deref(), status.devices),
        (Some("1000"), Some("1000"), Some(2))
    );
    assert!(status.root.unwrap().starts_with("0x"));

    // Hand-over: the next leader goes on where the first stopped, no epoch twice, none missing.
    operator.stop().await;
    let before = world.ledger.writer();
    // The first epoch of the second leader is closed, but twice not recorded: what is closed is computed again, from the same record.
    world.ledger.refuse_records(2);
    let operator = world.start("two");
    let stood = *world.ledger.recorded("town/watts").last().unwrap();
    eventually("epochs of the second leader", || async {
        (world.ledger.recorded("town/watts").last().is_some_and(|last| *last > stood + 1)).then_some(())
    })
    .await;
    assert_eq!(world.ledger.writer(), before + 1);
    let all = world.ledger.recorded("town/watts");
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    assert_eq!(secrets.get("depin-ca").await.unwrap().data.unwrap()["tls.crt"].0, authority, "the CA is made once");

    // What says nothing new is not written again.
    let writes = world.ledger.writes();
    let fleets: Api<EdgeFleet> = world.api();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    assert_eq!(world.ledger.writes(), writes);
    assert_eq!(fleets.get("homes").await.unwrap().status.unwrap().devices, Some(2));

    // A token that is deleted admits nobody any more.
    let enrollments: Api<EdgeEnrollment> = world.api();
    enrollments.delete("invitation", &DeleteParams::default()).await.unwrap();
    registered(&world, "the invitation's end", |registry| registry.invitation(&token.hash()).is_none()).await;

    // A deletion that is seen is a removal; nothing else is.
    let devices: Api<EdgeDevice> = world.api();
    devices.delete("early", &DeleteParams::default()).await.unwrap();
    let early = DeviceId::of("town", "early");
    registered(&world, "the removal", |registry| {
        registry.device(&early).is_some_and(|device| device.current().is_none())
    })
    .await;
    assert!(world.ledger.registry().device(&m1).unwrap().current().is_some());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_or_told_and_the_last_good_version_works_on() {
    let world = World::new().await;
    let operator = world.start("one");

    // The API server refuses what the schema can tell.
    let refused = |yaml: &str, message: &str| {
        let error = world.apply(yaml).unwrap_err();
        assert!(error.contains(message), "expected {message:?}, got {error}");
    };
    refused(&MODEL.replace("metric: energy}", "metric: power}"), "names a metric");
    refused(&MODEL.replace("cadence: 1s", "cadence: 1d"), "cadence");
    refused(&MODEL.replace("cadence: 1s", "cadence: 25h"), "between 100ms and 24h");
    refused(&FLEET.replace("{policy: Token}", "{policy: Token, serials: [m1]}"), "serials is set with");
    refused(&device("m1", "roof-1", ", suspendReason: stolen"), "needs suspend");
    refused(&device("m1", "roof-1", ", location: {latitude: '91', longitude: '0'}"), "latitude");

    let models: Api<EdgeDeviceModel> = Api::all(world.client.clone());
    world.apply(MODEL).unwrap();
    condition!(models "meter", "Ready", "True");
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    refused(&MODEL.replace("scale: 3", "scale: 4"), "never change");
    refused(&FLEET.replace("grain: 1s", "grain: 2s"), "grain is immutable");

    // What only the registry can tell is a condition that names field and remedy; the last good model stands.
    world.apply(&MODEL.replace("cadence: 1s", "cadence: 700ms")).unwrap();
    let told = condition!(models "meter", "Ready", "False");
    assert!(told.message.contains("spec.cadence") && told.message.contains("choose"), "{}", told.message);
    let registry = world.ledger.registry();
    assert_eq!(registry.model_chain("meter").unwrap().newest().unwrap().model.cadence_ms, 1000);
    world.apply(MODEL).unwrap();
    condition!(models "meter", "Ready", "True");

    // Two devices with one serial at one agent: the second is told so.
    world.apply(&agent("roof-1", 1)).unwrap();
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    world.apply(&agent("roof-2", 1)).unwrap();
    let told = condition!(world, EdgeAgent, "roof-2", "Ready", "False");
    assert_eq!(told.reason, "DuplicateKey", "{}", told.message);
    world.apply(&device("m1", "roof-1", "")).unwrap();
    condition!(world, EdgeDevice, "m1", "Ready", "True");
    world.apply(&device("m2", "roof-1", "").replace("serial: m2", "serial: m1")).unwrap();
    let told = condition!(world, EdgeDevice, "m2", "Ready", "False");
    assert_eq!(told.reason, "DuplicateSerial", "{}", told.message);

    // Suspended by a person.
    world.apply(&device("m1", "roof-1", ", suspend: true, suspendReason: moved")).unwrap();
    let told = condition!(world, EdgeDevice, "m1", "Suspended", "True");
    assert!(told.message.contains("moved"));
    condition!(world, EdgeDevice, "m1", "Eligible", "False");

    // A program whose feature no model has.
    world
        .apply(
            "
apiVersion: depin.dev/v1alpha1
kind: RewardProgram
metadata: {name: watts, namespace: town}
spec:
  fleets: [homes]
  token: {symbol: WATT}
  epoch: {length: 10s, genesis: '2026-01-01T00:00:00Z'}
  emission: {fixed: {amount: '1000'}}
  features: [{name: power, metric: power, aggregate: Mean}]
  weight: power
",
        )
        .unwrap();
    let told = condition!(world, RewardProgram, "watts", "Ready", "False");
    assert!(
        told.message.contains("spec.features[0].metric") && told.message.contains("name one of"),
        "{}",
        told.message
    );

    // Under the Manual policy a sighting waits for a person.
    world.apply(&FLEET.replace("{policy: Token}", "{policy: Manual}")).unwrap();
    let sighting = Sighting {
        model: "meter".into(),
        serial: "m9".into(),
        first_seen: 1_700_000_000_000,
        topic: "meters/m9/up".into(),
    };
    let agent_id = AgentId::of("town", "roof-1").0.to_vec();
    let post =
        || Entry::Sightings(SightingsEntry { agent_id: agent_id.clone().into(), sightings: vec![sighting.clone()] });
    let enrollments: Api<EdgeEnrollment> = world.api();
    let request = eventually("a request", || async {
        // The policy may not be seen yet: it is asked again as an agent would.
        let id = world.ledger.post(post());
        eventually("an answer", || async { world.ledger.answer(id) }).await;
        enrollments.list(&ListParams::default()).await.unwrap().items.into_iter().next()
    })
    .await;
    assert_eq!(request.spec.request.as_ref().unwrap().serial.as_deref(), Some("m9"));
    condition!(world, EdgeEnrollment, &request.name_any(), "Ready", "False");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_devices_that_vanish_and_return_cost_a_few_status_writes() {
    const DEVICES: usize = 2000;
    let world = World::new().await;
    world.apply(MODEL).unwrap();
    world.apply(FLEET).unwrap();
    world.apply(&agent("roof-1", 1)).unwrap();
    let devices: Api<EdgeDevice> = world.api();
    let all: Vec<EdgeDevice> = (0..DEVICES)
        .map(|number| serde_saphyr::from_str(&device(&format!("m{number}"), "roof-1", "")).unwrap())
        .collect();
    let parameters = PostParams::default();
    let created = all.iter().map(|device| devices.create(&parameters, device));
    futures::stream::iter(created).buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await.unwrap();
    let operator = world.start("one");

    let agent_id = AgentId::of("town", "roof-1").0.to_vec();
    let tell = |connected: bool, silent_ms: i64| {
        let now = jiff::Timestamp::now().as_millisecond();
        let heard = now - silent_ms;
        let agent =
            AgentPresence { agent_id: agent_id.clone().into(), connected, last_heard: heard, ..Default::default() };
        let devices = all.iter().map(|device| DevicePresence {
            device_id: DeviceId::of("town", &device.name_any()).0.to_vec().into(),
            last_accepted: heard,
            accepted: u64::try_from(now).unwrap(),
            ..Default::default()
        });
        world.ledger.set_presence(PresencePage { agents: vec![agent], devices: devices.collect() });
    };
    tell(true, 0);
    let fleets: Api<EdgeFleet> = world.api();
    eventually("all online, and counted", || async {
        tell(true, 0);
        let status = fleets.get("homes").await.unwrap().status?;
        (status.online == Some(2000) && status.ready == Some(2000)).then_some(())
    })
    .await;

    // What changes from here on: resource versions tell.
    let versions = || async {
        let list = devices.list_metadata(&ListParams::default()).await.unwrap();
        list.items
            .iter()
            .map(|device| (device.name_any(), device.resource_version()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = versions().await;
    let agents: Api<EdgeAgent> = world.api();
    for round in 0..2 {
        // The uplink breaks for some minutes, as the gateway tells it, and comes back; heartbeats and counters go on all the time.
        tell(false, 300_000);
        condition!(world, EdgeAgent, "roof-1", "Online", "False");
        let back = agents.get("roof-1").await.unwrap().resource_version();
        tell(true, 0);
        condition!(world, EdgeAgent, "roof-1", "Online", "True");
        assert_ne!(agents.get("roof-1").await.unwrap().resource_version(), back, "round {round}");
    }
    assert_eq!(versions().await, before, "no device was written");
    let events: Api<k8s_openapi::api::events::v1::Event> = world.api();
    let told: Vec<_> = events.list(&ListParams::default()).await.unwrap().items;
    let lost = told.iter().filter(|event| event.reason.as_deref() == Some("AgentLost")).count();
    assert_eq!(lost, 1, "a repeated loss is one series: {}", told.len());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_store_changes_no_amount() {
    let mut world = World::new().await;
    let specs =
        [MODEL.to_owned(), FLEET.to_owned(), agent("roof-1", 1), device("m1", "roof-1", ""), PROGRAM.to_owned()];
    let apply_all = |world: &World| specs.iter().for_each(|spec| world.apply(spec).unwrap());
    apply_all(&world);
    let now = jiff::Timestamp::now().as_millisecond().div_euclid(1000) * 1000;
    world.ledger.set_statistics((0..900).map(|second| grain("m1", now + second * 1000, 30)).collect());
    let operator = world.start("one");
    eventually("two epochs", || async { (world.ledger.recorded("town/watts").len() >= 2).then_some(()) }).await;
    let entry =
        || world.ledger.registry().device(&DeviceId::of("town", "m1")).and_then(|device| device.current().cloned());
    let before = entry().unwrap();

    // Everything in the cluster is gone. The operator cannot lead without a Lease and ends; its successor finds an empty cluster.
    tokio::task::block_in_place(|| world.plane.lose_etcd().unwrap());
    let ended = tokio::time::timeout(LIMIT, operator.task).await.expect("the operator ends without its Lease").unwrap();
    assert!(matches!(ended, Err(run::OperatorError::Leadership(_))), "{ended:?}");
    world.install();
    let operator = world.start("two");
    let stood = world.ledger.recorded("town/watts").last().copied().unwrap();
    eventually("epochs without resources", || async {
        (world.ledger.recorded("town/watts").last().is_some_and(|last| *last > stood + 1)).then_some(())
    })
    .await;
    assert_eq!(entry().as_ref(), Some(&before), "an empty view removes nothing");

    apply_all(&world);
    condition!(world, EdgeDevice, "m1", "Ready", "True");
    condition!(world, RewardProgram, "watts", "Ready", "True");
    assert_eq!(entry().as_ref(), Some(&before), "the same specs change nothing");
    let epochs = world.ledger.recorded("town/watts").len();
    eventually("further epochs", || async { (world.ledger.recorded("town/watts").len() > epochs + 1).then_some(()) })
        .await;
    let all = world.ledger.recorded("town/watts");
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    let paid = |number: u64| world.ledger.summary("town/watts", number)["payouts"][0].clone();
    for pair in all.windows(2).skip(1) {
        assert_eq!(paid(pair[1])["amount"], "1000");
        let cumulative = |number| paid(number)["cumulative"].as_str().unwrap().parse::<u128>().unwrap();
        assert_eq!(cumulative(pair[1]), cumulative(pair[0]) + 1000);
    }
    operator.stop().await;
}

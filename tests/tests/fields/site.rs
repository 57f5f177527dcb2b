//! The live system: an API server, the gateway, the operator and one agent as processes, and one object of each kind to change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use depin_tests::{Cluster, Stack, start_fleets};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{Config, KubeConfigOptions, Kubeconfig},
};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use xtask::admin::{http_get, metric};

use crate::{
    edit::difference,
    ledger::Ledger,
    schema::{Definition, definitions},
    table::Fresh,
};

/// Where all objects are that lie in a namespace.
pub(crate) const NAMESPACE: &str = "energy";
/// Changed again and again, so that it is known when the operator has seen everything before; nobody else's state rests on it.
const MARKER: &str = "marker";
/// Round trips of the marker in which nothing else may be written.
const MARKS: u64 = 3;
/// Looks at objects that one round trip may cost: at the marker, at what was written of it, and at what is looked at by the clock.
const LOOKS_A_MARK: f64 = 6.0;
/// For whatever must come; a machine that also compiles takes long.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// What runs.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) stack: Stack,
    pub(crate) ledger: Ledger,
    client: Client,
    kinds: BTreeMap<String, Definition>,
    marks: u64,
    numbers: u64,
}

/// What the operator counted of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    writes: f64,
    looks: f64,
    marks: u64,
}

impl Counted {
    /// Status writes from `before` to `self`, but those of the marker.
    pub(crate) fn writes_since(&self, before: &Self) -> f64 {
        self.writes - before.writes - (self.marks - before.marks) as f64
    }
}

/// Waits for something, as long as it may take.
pub(crate) struct Patience {
    what: String,
    end: Instant,
}

impl Patience {
    pub(crate) fn for_(what: impl Into<String>) -> Self {
        Self { what: what.into(), end: Instant::now() + LIMIT }
    }

    /// What is lacking is looked at again a little later.
    pub(crate) async fn more(&self, lack: &str) {
        assert!(Instant::now() < self.end, "{} did not come within {LIMIT:?}: {lack}", self.what);
        tokio::time::sleep(POLL).await;
    }
}

impl Site {
    /// Starts everything and waits until every object is looked at and nothing is written any more.
    pub(crate) fn start(dir: &Path, runtime: &Runtime) -> Self {
        let (cluster, mut stack) = start_fleets(dir, None).unwrap();
        stack.start_agent(&cluster, NAMESPACE, "home", &["meters", "inverters"], false).unwrap();
        let _entered = runtime.enter();
        let client = runtime.block_on(client(&cluster));
        let ledger = Ledger::connect(&stack);
        let kinds = definitions().into_iter().map(|definition| (definition.kind.clone(), definition)).collect();
        let mut site = Self { cluster, stack, ledger, client, kinds, marks: 0, numbers: 0 };
        let objects = site.fresh().text(include_str!("site.yaml"));
        site.cluster.apply(&objects).unwrap();
        runtime.block_on(site.until_settled());
        site
    }

    /// What the placeholders of one value stand for.
    pub(crate) fn fresh(&mut self) -> Fresh {
        use depin_domain::ids::{Algorithm, PublicKey};
        use depin_identity::{SigningKey, VerifyingKey};
        self.numbers += 1;
        let random = || SigningKey::generate().unwrap().public().bytes.clone();
        // About every second number is the first coordinate of a point on the curve.
        let points = std::iter::repeat_with(|| [vec![2], random()].concat());
        let is_point = |bytes: &Vec<u8>| {
            VerifyingKey::new(&PublicKey { algorithm: Algorithm::P256, bytes: bytes.clone() }).is_ok()
        };
        let point = points.into_iter().find(is_point).unwrap();
        Fresh(vec![
            ("$N", self.numbers.to_string()),
            ("$KEY", hex::encode(random())),
            ("$P256", hex::encode(point)),
            ("$DIGEST", hex::encode(random())),
        ])
    }

    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        let definition = &self.kinds[kind];
        let resource = resource(definition);
        if definition.namespaced {
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> DynamicObject {
        self.api(kind).get(name).await.unwrap()
    }

    pub(crate) fn definitions(&self) -> Vec<Definition> {
        self.kinds.values().cloned().collect()
    }

    /// Changes the spec of an object from `from` to `to`; gives its new generation.
    pub(crate) async fn change(&self, kind: &str, name: &str, from: &Value, to: &Value) -> Result<i64, kube::Error> {
        let patch = json!({"spec": difference(from, to)});
        let changed = self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(changed.metadata.generation.unwrap_or_default())
    }

    pub(crate) async fn create(&self, kind: &str, name: &str, spec: &Value) -> Result<i64, kube::Error> {
        let object =
            json!({"apiVersion": "depin.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let created = self.api(kind).create(&PostParams::default(), &object).await?;
        Ok(created.metadata.generation.unwrap_or_default())
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        self.api(kind).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// All objects of our kinds but the marker, by kind and name.
    async fn objects(&self) -> BTreeMap<String, DynamicObject> {
        let mut found = BTreeMap::new();
        for definition in self.kinds.values() {
            let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource(definition));
            for object in all.list(&ListParams::default()).await.unwrap() {
                let namespace = object.namespace().unwrap_or_default();
                let name = format!("{} {namespace}/{}", definition.kind, object.name_any());
                if object.name_any() != MARKER {
                    found.insert(name, object);
                }
            }
        }
        found
    }

    /// The state as it can be compared: specs, statuses without times and generations, and what the registry says.
    pub(crate) async fn picture(&mut self) -> Map<String, Value> {
        let mut picture: Map<_, _> = Map::new();
        for (name, object) in self.objects().await {
            let status = comparable_status(object.data["status"].clone());
            picture.insert(name, json!({"spec": object.data["spec"], "status": status}));
        }
        let registry = self.ledger.read().await;
        for (kind, entries) in registry.as_object().unwrap() {
            for (name, entry) in entries.as_object().unwrap() {
                let mut entry = entry.clone();
                if let Some(members) = entry.as_object_mut() {
                    members.remove("effectiveFrom");
                }
                if name != &format!("{NAMESPACE}/{MARKER}") {
                    picture.insert(format!("registry: {kind} {name}"), entry);
                }
            }
        }
        picture
    }

    /// Waits until the state is `wanted`.
    pub(crate) async fn until_as(&mut self, wanted: &Map<String, Value>, after: &str) {
        let patience = Patience::for_(format!("the state before {after}"));
        loop {
            let now = self.picture().await;
            if now == *wanted {
                return;
            }
            self.stack.check_alive().unwrap();
            let names = now.keys().chain(wanted.keys()).filter(|name| now.get(*name) != wanted.get(*name));
            let told = names.map(|name| format!("{name}: {:?}, before: {:?}", now.get(name), wanted.get(name)));
            patience.more(&told.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")).await;
        }
    }

    /// Waits for what comes by the clock after a start: counts and presence. Everything else is there once the marker has gone round.
    async fn until_settled(&mut self) {
        let settled = [
            ("EdgeDevice", MARKER, "/conditions/Ready/status", json!("True")),
            ("EdgeDevice", "spare", "/conditions/Ready/status", json!("True")),
            ("RewardProgram", "daily", "/conditions/Ready/status", json!("True")),
            ("RewardProgram", "shifts", "/conditions/Ready/status", json!("True")),
            ("EdgeFleet", "meters", "/ready", json!(2)),
            ("EdgeFleet", "inverters", "/devices", json!(0)),
            ("EdgeAgent", "home", "/devices", json!(1)),
            ("EdgeAgent", "home", "/conditions/Confirmed/status", json!("True")),
        ];
        for (kind, name, pointer, wanted) in settled {
            let patience = Patience::for_(format!("{pointer} of {kind} {name}"));
            loop {
                let status = by_type(self.get(kind, name).await.data["status"].clone());
                if status.pointer(pointer) == Some(&wanted) {
                    break;
                }
                self.stack.check_alive().unwrap();
                patience.more(&status.to_string()).await;
            }
        }
        self.rest().await;
    }

    /// What the operator counted until now.
    pub(crate) fn counted(&self) -> Counted {
        let text = http_get(&self.stack.operator_admin(), "/metrics").unwrap();
        let failed = metric(&text, "controller_runtime_reconcile_errors_total");
        assert!(failed < 1.0, "{failed} looks failed: {}", self.log());
        Counted {
            writes: metric(&text, "depin_operator_status_writes_total"),
            looks: metric(&text, "controller_runtime_reconcile_total"),
            marks: self.marks,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.stack.operator.as_ref().unwrap().log()).unwrap()
    }

    /// Every process lives, and the operator's log has neither a panic nor a status that the API server refused.
    pub(crate) fn check(&mut self) {
        self.stack.check_alive().unwrap();
        let log = self.log();
        for word in ["panicked at", "refuses this status"] {
            let line = log.lines().find(|line| line.contains(word));
            assert_eq!(line, None, "the operator's log");
        }
    }

    /// Waits until the operator writes nothing more of its own accord: while the marker makes its round trips no other object is
    /// written, and little is looked at.
    pub(crate) async fn rest(&mut self) {
        let patience = Patience::for_("rest");
        loop {
            let (versions, before) = (self.versions().await, self.counted());
            for _ in 0..MARKS {
                self.mark().await;
            }
            let (now, after) = (self.versions().await, self.counted());
            let names = now.keys().chain(versions.keys()).filter(|name| now.get(*name) != versions.get(*name));
            let changed: BTreeSet<_> = names.collect();
            let (writes, looks) = (after.writes_since(&before), after.looks - before.looks);
            if changed.is_empty() && writes < 0.5 && looks <= LOOKS_A_MARK * MARKS as f64 {
                return;
            }
            patience.more(&format!("{writes} status writes of {changed:?}, {looks} looks")).await;
        }
    }

    async fn versions(&self) -> BTreeMap<String, String> {
        let objects = self.objects().await.into_iter();
        objects.map(|(name, object)| (name, object.resource_version().unwrap_or_default())).collect()
    }

    /// One round trip of the marker: what it says now, its condition says.
    async fn mark(&mut self) {
        self.marks += 1;
        let says = format!("mark {}", self.marks);
        let patch = json!({"spec": {"suspendReason": says}});
        self.api("EdgeDevice").patch(MARKER, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        let patience = Patience::for_(says.clone());
        loop {
            let status = by_type(self.get("EdgeDevice", MARKER).await.data["status"].clone());
            let message = status.pointer("/conditions/Suspended/message").and_then(Value::as_str).unwrap_or_default();
            if message.starts_with(&format!("{says};")) {
                return;
            }
            patience.more(&status.to_string()).await;
        }
    }
}

fn resource(definition: &Definition) -> ApiResource {
    ApiResource {
        group: "depin.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "depin.dev/v1alpha1".to_owned(),
        kind: definition.kind.clone(),
        plural: definition.plural.clone(),
    }
}

async fn client(cluster: &Cluster) -> Client {
    let config = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// A status whose conditions are found by their type.
pub(crate) fn by_type(mut status: Value) -> Value {
    let conditions = status.get_mut("conditions").map(Value::take).unwrap_or_default();
    let named = conditions
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|condition| Some((condition.get("type")?.as_str()?.to_owned(), condition.clone())));
    if let Some(members) = status.as_object_mut() {
        members.insert("conditions".to_owned(), Value::Object(named.collect()));
    }
    status
}

/// What of a status is the same whenever the spec is the same.
fn comparable_status(status: Value) -> Value {
    let mut status = by_type(status);
    if let Some(members) = status.as_object_mut() {
        // A program's change rules from the next epoch on, so that changing back does too.
        members.retain(|name, _| !matches!(name.as_str(), "observedGeneration" | "fromEpoch"));
    }
    for condition in status.get_mut("conditions").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(members) = condition.1.as_object_mut() {
            members.retain(|name, _| !matches!(name.as_str(), "observedGeneration" | "lastTransitionTime"));
        }
    }
    status
}

//! The status writer: the one task through which every status goes to the API server.
//!
//! Wishes for the same object and purpose are coalesced, writes have a rate budget, and an Event is told only with a status
//! that was really written. Nothing here depends on how many readings, heartbeats or reconciles there are.

pub mod queue;
mod told;

use std::{fmt, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};

use crate::{clock::Clock, metrics::Metrics, workqueue::STATUS};
use queue::{Budget, Queue};
use told::Told;

/// Status writes a second.
const PER_SECOND: i64 = 200;
/// Status writes at once.
const BURST: i64 = 1000;
/// Writes under way.
const CONCURRENT: usize = 8;
/// Pause after a failure that may pass.
const RETRY: Duration = Duration::from_secs(1);

/// Which status of which object: wishes with the same key replace each other.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    kind: ApiKind,
    namespace: Option<String>,
    name: String,
    uid: String,
    manager: &'static str,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{} by {}",
            self.kind.kind,
            self.namespace.as_deref().unwrap_or_default(),
            self.name,
            self.manager
        )
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ApiKind {
    kind: String,
    plural: String,
}

/// A transition worth telling people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Warning or Normal.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// What happened and what to do.
    pub note: String,
}

/// A status that an object shall have: all that its field manager owns.
#[derive(Clone, Debug)]
pub struct Wish {
    key: Key,
    reference: ObjectReference,
    status: Value,
    transitions: Vec<Transition>,
}

impl Wish {
    /// `status` of `object`, on behalf of `manager`, and what people are told of once it is written.
    pub fn new<K>(
        object: &K,
        manager: &'static str,
        status: Value,
        transitions: impl IntoIterator<Item = Transition>,
    ) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        let transitions = transitions.into_iter().collect();
        Self { key: key(object, manager), reference: object.object_ref(&()), status, transitions }
    }

    /// The server-side apply body.
    #[must_use]
    pub fn patch(&self) -> Value {
        let api_version = format!("{}/{}", depin_crds::GROUP, depin_crds::VERSION);
        json!({
            "apiVersion": api_version,
            "kind": self.key.kind.kind,
            // The uid makes the write fail if the object was deleted and made anew meanwhile.
            "metadata": {"name": self.key.name, "uid": self.key.uid},
            "status": self.status,
        })
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K, manager: &'static str) -> Key {
    Key {
        kind: ApiKind { kind: K::kind(&()).into_owned(), plural: K::plural(&()).into_owned() },
        namespace: object.namespace(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        manager,
    }
}

/// Whether every field of `wanted` stands in `actual` already. Lists are compared as sets by their `type`, since other managers may
/// own further conditions.
#[must_use]
pub fn says(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| actual.get(name).is_some_and(|actual| says(actual, value)))
        }
        (Value::Array(actual), Value::Array(wanted)) if wanted.iter().all(|item| item.get("type").is_some()) => wanted
            .iter()
            .all(|item| actual.iter().any(|other| other.get("type") == item.get("type") && says(other, item))),
        (actual, wanted) => actual == wanted,
    }
}

struct Shared {
    queue: Mutex<Queue<Key, Wish>>,
    arrived: Notify,
    told: Mutex<Told<Key>>,
    metrics: Metrics,
}

/// Where wishes are handed in.
#[derive(Clone)]
pub struct StatusHandle(Arc<Shared>);

impl StatusHandle {
    /// An empty queue.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), arrived: Notify::new(), told: Mutex::default(), metrics }))
    }

    /// Wishes that `object` had `status` (what it has now decides whether anything is to do).
    pub async fn wish<K, S>(
        &self,
        object: &K,
        actual: Option<&S>,
        manager: &'static str,
        status: Value,
        transitions: impl IntoIterator<Item = Transition>,
    ) where
        K: Resource<DynamicType = ()>,
        S: Serialize,
    {
        let said =
            actual.and_then(|actual| serde_json::to_value(actual).ok()).is_some_and(|actual| says(&actual, &status));
        if said {
            self.on_queue(|queue| queue.cancel(&key(object, manager))).await;
            return;
        }
        let wish = Wish::new(object, manager, status, transitions);
        if self.on_queue(|queue| queue.put(wish.key.clone(), wish)).await {
            self.0.metrics.queues().added(STATUS);
        }
        self.0.arrived.notify_one();
    }

    /// `object` says already what it shall: what waits for it on behalf of `manager` is forgotten.
    pub async fn settle<K: Resource<DynamicType = ()>>(&self, object: &K, manager: &'static str) {
        let forget = |queue: &mut Queue<Key, Wish>| {
            if !queue.is_empty() {
                queue.cancel(&key(object, manager));
            }
        };
        self.on_queue(forget).await;
    }

    /// Changes the queue; the metric follows.
    async fn on_queue<T>(&self, change: impl FnOnce(&mut Queue<Key, Wish>) -> T) -> T {
        let mut queue = self.0.queue.lock().await;
        let result = change(&mut queue);
        self.0.metrics.queues().set_depth(STATUS, queue.len());
        result
    }

    /// How many wishes wait.
    pub async fn waiting(&self) -> usize {
        self.0.queue.lock().await.len()
    }
}

/// Writes wishes until it is dropped.
pub async fn run(handle: StatusHandle, client: Client, recorder: Recorder, clock: Clock) {
    let budget = Arc::new(Mutex::new(Budget::new(PER_SECOND, BURST, clock.now().0)));
    let workers = (0..CONCURRENT).map(|_| work(&handle, &client, &recorder, &budget, clock));
    futures::future::join_all(workers).await;
}

async fn work(handle: &StatusHandle, client: &Client, recorder: &Recorder, budget: &Mutex<Budget>, clock: Clock) {
    loop {
        // Registered before the look, so that a wish between the look and the wait is not missed.
        let arrived = handle.0.arrived.notified();
        if handle.0.queue.lock().await.is_empty() {
            arrived.await;
            continue;
        }
        // The budget comes first: what is taken from the queue can no longer be undone.
        let wait = budget.lock().await.take(clock.now().0);
        if let Err(wait) = wait {
            tokio::time::sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(1))).await;
            continue;
        }
        let taken = handle.on_queue(Queue::take).await;
        if let Some((key, wish)) = taken {
            write(handle, client, recorder, key, wish).await;
        }
    }
}

async fn write(handle: &StatusHandle, client: &Client, recorder: &Recorder, key: Key, wish: Wish) {
    let resource = ApiResource {
        group: depin_crds::GROUP.to_owned(),
        version: depin_crds::VERSION.to_owned(),
        api_version: format!("{}/{}", depin_crds::GROUP, depin_crds::VERSION),
        kind: key.kind.kind.clone(),
        plural: key.kind.plural.clone(),
    };
    let api: Api<DynamicObject> = match &key.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply(key.manager).force();
    let started = std::time::Instant::now();
    let written = api.patch_status(&key.name, &parameters, &Patch::Apply(wish.patch())).await;
    handle.0.metrics.queues().worked(STATUS, started.elapsed());
    match written {
        Ok(_) => {
            handle.0.metrics.status_written(&key.kind.kind);
            if handle.0.told.lock().await.is_new(&key, &wish.transitions) {
                for transition in &wish.transitions {
                    tell(recorder, transition, &wish.reference).await;
                }
            }
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            tracing::debug!(?key, code = status.code, "the object is gone or was made anew; its status is moot");
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            tracing::error!(?key, message = status.message, "the API server refuses this status: report it");
        }
        Err(error) => {
            tracing::warn!(?key, %error, "status write failed; it is tried again");
            tokio::time::sleep(RETRY).await;
            handle.on_queue(|queue| queue.put_back(key, wish)).await;
            handle.0.metrics.queues().retried(STATUS);
        }
    }
}

async fn tell(recorder: &Recorder, transition: &Transition, reference: &ObjectReference) {
    let event = Event {
        type_: if transition.warning { EventType::Warning } else { EventType::Normal },
        reason: transition.reason.clone(),
        note: Some(transition.note.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, reference).await {
        tracing::warn!(%error, reason = transition.reason, "an Event could not be told");
    }
}

#[cfg(test)]
mod tests {
    use depin_crds::fleet::Enrollment;
    use depin_crds::{EdgeFleet, EdgeFleetSpec, fleet::ModelRef};

    use super::*;

    fn fleet() -> EdgeFleet {
        let spec = EdgeFleetSpec {
            model_ref: ModelRef { name: "meter".into() },
            enrollment: Enrollment::default(),
            grain: "1h".into(),
            geofence: None,
            owner: None,
            shares: None,
        };
        let mut fleet = EdgeFleet::new("homes", spec);
        fleet.metadata.namespace = Some("town".into());
        fleet.metadata.uid = Some("u1".into());
        fleet
    }

    #[test]
    fn a_wish_becomes_an_apply_of_the_status_alone() {
        let wish = Wish::new(&fleet(), "depin-operator/fleets", json!({"devices": 3}), None);
        assert_eq!(
            wish.patch(),
            json!({
                "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeFleet",
                "metadata": {"name": "homes", "uid": "u1"}, "status": {"devices": 3}
            })
        );
    }

    #[test]
    fn other_managers_conditions_do_not_count() {
        let actual = json!({"did": "x", "conditions": [{"type": "Online", "status": "True"}, {"type": "Ready", "status": "True"}]});
        assert!(says(&actual, &json!({"conditions": [{"type": "Ready", "status": "True"}]})));
        assert!(!says(&actual, &json!({"conditions": [{"type": "Ready", "status": "False"}]})));
        assert!(!says(&actual, &json!({"did": "y"})));
        assert!(!says(&actual, &json!({"since": "2026"})));
    }

    #[tokio::test]
    async fn a_wish_that_the_object_fulfils_again_is_forgotten() {
        let handle = StatusHandle::new(Metrics::default());
        let fleet = fleet();
        let now = json!({"online": 3});
        handle.wish(&fleet, Some(&now), "m", json!({"online": 2}), None).await;
        assert_eq!(handle.waiting().await, 1);
        handle.wish(&fleet, Some(&now), "m", json!({"online": 3}), None).await;
        assert_eq!(handle.waiting().await, 0);
    }
}

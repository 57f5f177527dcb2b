//! Deletions as the API server tells them, and what they mean for the registry.
//!
//! One metadata watch a kind: a deletion that is told is evidence; absence from a list is weighed by [`super::removal`], and is evidence only
//! of a store that held the object at a [roll call](super::roll_call). Of agents it never is: removing one revokes its key for ever.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeFleet, RewardProgram};
use depin_domain::registry::{Change, Registry};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::{NamespaceResourceScope, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

use super::{
    Outcome, as_of,
    removal::{View, decide, needs_confirmation},
    roll_call::{AsOf, RollCall},
};
use crate::context::Context;

/// How often what is registered is compared with what is there.
const EVERY: Duration = Duration::from_secs(2);
/// How long a wave of deletions waits for a second look.
const CONFIRM: Duration = Duration::from_secs(30);
/// Pause between two roll calls of a kind, which bounds what a network that grows costs the API server.
const CALL_EVERY: Duration = Duration::from_secs(10);

/// A kind whose objects stand in the registry.
struct Kind {
    name: &'static str,
    /// Whether a roll call is worth anything: not where a removal cannot be undone.
    called: bool,
    /// Names of its entries now.
    registered: fn(&Registry) -> BTreeSet<String>,
    /// The removal of an entry.
    removal: fn(&Registry, &str) -> Option<Change>,
}

/// Watches all kinds, with roll calls in `namespace`; ends never.
pub async fn run(context: Arc<Context>, namespace: &str) {
    tokio::join!(
        watch::<EdgeDeviceModel>(&context, namespace, models(), everywhere(&context)),
        watch::<EdgeFleet>(&context, namespace, fleets(), where_watched(&context)),
        watch::<EdgeAgent>(&context, namespace, agents(), where_watched(&context)),
        watch::<EdgeDevice>(&context, namespace, devices(), where_watched(&context)),
        watch::<RewardProgram>(&context, namespace, programs(), where_watched(&context)),
    );
}

fn models() -> Kind {
    Kind {
        name: "EdgeDeviceModel",
        called: true,
        registered: |registry| {
            registry
                .model_chains()
                .filter(|(_, chain)| !chain.is_retired())
                .map(|(name, _)| format!("/{name}"))
                .collect()
        },
        removal: |_, name| Some(Change::ModelRetired { name: name.trim_start_matches('/').to_owned() }),
    }
}

fn fleets() -> Kind {
    Kind {
        name: "EdgeFleet",
        called: true,
        registered: |registry| {
            registry.fleets().filter(|(_, fleet)| fleet.current().is_some()).map(|(id, _)| id.clone()).collect()
        },
        removal: |_, id| Some(Change::FleetRemoved { id: id.to_owned() }),
    }
}

fn agents() -> Kind {
    Kind {
        name: "EdgeAgent",
        called: false,
        registered: |registry| registry.agents().map(|agent| format!("{}/{}", agent.namespace, agent.name)).collect(),
        removal: |_, id| {
            let (namespace, name) = id.split_once('/')?;
            Some(Change::AgentRemoved { id: depin_domain::ids::AgentId::of(namespace, name) })
        },
    }
}

fn devices() -> Kind {
    Kind {
        name: "EdgeDevice",
        called: true,
        registered: |registry| {
            let current = registry.devices().filter_map(|(_, device)| device.current());
            current.map(|device| format!("{}/{}", device.namespace, device.name)).collect()
        },
        removal: |_, id| {
            let (namespace, name) = id.split_once('/')?;
            Some(Change::DeviceRemoved { id: depin_domain::ids::DeviceId::of(namespace, name) })
        },
    }
}

fn programs() -> Kind {
    Kind {
        name: "RewardProgram",
        called: true,
        registered: |registry| {
            registry.programs().filter(|(_, program)| !program.is_removed()).map(|(id, _)| id.clone()).collect()
        },
        removal: |_, id| Some(Change::ProgramRemoved { id: id.to_owned() }),
    }
}

/// The APIs of a kind: one for all namespaces, or one for each that is watched.
struct Apis<K> {
    objects: Vec<Api<K>>,
    metadata: Vec<Api<PartialObjectMeta<K>>>,
    /// How the ids of each one's objects begin.
    prefixes: Vec<Option<String>>,
}

fn everywhere<K: Resource<DynamicType = ()>>(context: &Context) -> Apis<K> {
    Apis {
        objects: vec![Api::all(context.client.clone())],
        metadata: vec![Api::all(context.client.clone())],
        prefixes: vec![None],
    }
}

fn where_watched<K>(context: &Context) -> Apis<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let watched = &context.watched;
    Apis {
        objects: watched.apis(&context.client),
        metadata: watched.apis(&context.client),
        prefixes: (0..watched.parts()).map(|part| watched.prefix(part)).collect(),
    }
}

fn id_of(namespace: Option<String>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

/// What the watch knows of one kind.
#[derive(Default)]
struct Known {
    view: View,
    /// Of each API.
    lists: Vec<List>,
    /// Something is registered of namespaces that are not watched.
    partial: bool,
    /// Something was told since the last look.
    news: bool,
    /// The registry's version at the last look.
    looked_at: u64,
    /// The store's word, read after the newest list; none: it is to be read.
    roll_call: Option<RollCall>,
    /// The roll call that `view.held_once` tells of.
    held_as_of: Option<AsOf>,
    /// What was registered at the roll call that this process noted last, and when.
    noted: Option<(BTreeSet<String>, Instant)>,
}

/// A list of one API.
#[derive(Default)]
struct List {
    /// How the ids of its objects begin; none: they are all that there are.
    prefix: Option<String>,
    /// One that is under way.
    listing: BTreeSet<String>,
    /// A whole one was read.
    complete: bool,
}

impl Known {
    fn of(prefixes: Vec<Option<String>>) -> Self {
        let lists = prefixes.into_iter().map(|prefix| List { prefix, ..List::default() }).collect();
        Self { lists, ..Self::default() }
    }

    /// Whether all lists were read.
    fn complete(&self) -> bool {
        self.lists.iter().all(|list| list.complete)
    }

    /// An event of the API with this number.
    fn hear<K: Resource<DynamicType = ()>>(&mut self, part: usize, event: watcher::Event<PartialObjectMeta<K>>) {
        self.news = true;
        let Some(list) = self.lists.get_mut(part) else { return };
        match event {
            watcher::Event::Init => list.listing.clear(),
            watcher::Event::InitApply(object) => {
                list.listing.insert(id_of(object.namespace(), &object.name_any()));
            }
            watcher::Event::InitDone => {
                let of_others = |id: &String| list.prefix.as_ref().is_some_and(|prefix| !id.starts_with(prefix));
                self.view.present.retain(of_others);
                self.view.present.append(&mut list.listing);
                self.view.deleted.retain(|name| !self.view.present.contains(name));
                list.complete = true;
                // It may be the list of another store: what was known of the old one is no longer worth anything.
                (self.roll_call, self.held_as_of, self.noted) = (None, None, None);
                self.view.held_once.clear();
            }
            watcher::Event::Apply(object) => {
                let id = id_of(object.namespace(), &object.name_any());
                self.view.deleted.remove(&id);
                self.view.present.insert(id);
            }
            watcher::Event::Delete(object) => {
                let id = id_of(object.namespace(), &object.name_any());
                self.view.present.remove(&id);
                self.view.deleted.insert(id);
            }
        }
    }
}

/// A kind's watch at work.
struct Watch<'a, K> {
    context: &'a Context,
    namespace: &'a str,
    kind: Kind,
    apis: Vec<Api<K>>,
    known: Known,
}

async fn watch<K>(context: &Arc<Context>, namespace: &str, kind: Kind, apis: Apis<K>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let Apis { objects, metadata, prefixes } = apis;
    let events = metadata.into_iter().enumerate().map(|(part, api)| {
        let events = watcher(api, watcher::Config::default()).default_backoff();
        events.map_ok(move |event| (part, event)).boxed()
    });
    let mut events = futures::stream::select_all(events);
    let mut watch = Watch { context, namespace, kind, apis: objects, known: Known::of(prefixes) };
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some((part, event))) => watch.known.hear(part, event),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(kind = watch.kind.name, %error, "watch of deletions interrupted; it resumes by itself");
                }
            },
            _ = tick.tick() => {
                if watch.known.complete() {
                    watch.look().await;
                }
            }
        }
    }
}

impl<K> Watch<'_, K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    async fn look(&mut self) {
        let registry = self.context.registry.snapshot();
        if !self.known.news && self.known.looked_at == registry.version() {
            return;
        }
        let mut registered = (self.kind.registered)(&registry);
        // Of other namespaces nothing is told here, and nothing follows.
        let all = registered.len();
        registered.retain(|id| self.context.watched.has(id));
        self.known.partial = registered.len() < all;
        self.known.view.deleted.retain(|name| registered.contains(name));
        let called = self.call(&registered, &registry).await;
        let verdict = decide(&registered, &self.known.view);
        self.context.metrics.set_removals_held(self.kind.name, verdict.keep.len());
        if !verdict.remove.is_empty() {
            self.remove(&registry, registered.len(), &verdict.remove).await;
        } else if called {
            // What is to do is done: the next look needs a reason.
            (self.known.news, self.known.looked_at) = (false, registry.version());
        }
    }

    /// Hears what the store's roll call says of what is absent, or notes that nothing is; false if that is still to be done.
    async fn call(&mut self, registered: &BTreeSet<String>, registry: &Registry) -> bool {
        if !self.kind.called {
            return true;
        }
        let done = if !self.known.view.unexplained(registered).is_empty() {
            self.recall(registry).await.map(|()| true)
        } else if self.known.partial {
            // A roll call speaks for all that is registered.
            Ok(true)
        } else if registered.is_subset(&self.known.view.present) {
            self.note(registered, registry).await
        } else {
            // Deletions that were told are on their way to the registry.
            Ok(true)
        };
        done.unwrap_or_else(|problem| {
            tracing::warn!(kind = self.kind.name, problem, "the roll call waits; what is absent is kept");
            false
        })
    }

    async fn roll_call(&mut self) -> Result<&mut RollCall, String> {
        let read = match self.known.roll_call.take() {
            Some(known) => known,
            None => RollCall::read(self.context.client.clone(), self.namespace, self.kind.name)
                .await
                .map_err(|error| error.to_string())?,
        };
        Ok(self.known.roll_call.insert(read))
    }

    /// Learns what this store held at its last roll call.
    async fn recall(&mut self, registry: &Registry) -> Result<(), String> {
        let incarnation = self.incarnation();
        let last = self.roll_call().await?.last().filter(|last| Some(last.incarnation) == incarnation);
        let Some(last) = last.filter(|last| self.known.held_as_of != Some(*last)) else { return Ok(()) };
        let then = if last.version == registry.version() {
            registry.clone()
        } else {
            as_of(&self.context.ledger, last.version).await.map_err(|error| error.to_string())?
        };
        self.known.view.held_once = (self.kind.registered)(&then);
        self.known.held_as_of = Some(last);
        Ok(())
    }

    /// Notes that everything registered is there; false where it is too soon.
    async fn note(&mut self, registered: &BTreeSet<String>, registry: &Registry) -> Result<bool, String> {
        let Some(incarnation) = self.incarnation() else { return Ok(true) };
        if let Some((noted, at)) = &self.known.noted {
            if noted == registered {
                return Ok(true);
            }
            if at.elapsed() < CALL_EVERY {
                return Ok(false);
            }
        }
        if self.roll_call().await?.is_first() && !confirm(&self.apis, registered).await.map_err(text)?.is_empty() {
            // What the watch knows may be of a store that is gone: the first word in one needs a list of it.
            return Ok(false);
        }
        let as_of = AsOf { incarnation, version: registry.version() };
        if self.roll_call().await?.note(as_of).await.map_err(text)? {
            self.known.noted = Some((registered.clone(), Instant::now()));
        } else {
            tracing::info!(
                kind = self.kind.name,
                "the store is not the one that was listed; it is not called before it is listed anew"
            );
        }
        Ok(true)
    }

    fn incarnation(&self) -> Option<u64> {
        self.context.ledger.writer().map(|writer| writer.incarnation)
    }

    async fn remove(&mut self, registry: &Registry, registered: usize, gone: &BTreeSet<String>) {
        let kind = self.kind.name;
        if needs_confirmation(registered, gone.len()) {
            let count = gone.len();
            tracing::warn!(kind, count, "many objects were deleted; the registry follows after a second look");
            tokio::time::sleep(CONFIRM).await;
        }
        // This watch may lag behind the controllers': an object that was made (anew) a moment ago is absent here only.
        let remove = match confirm(&self.apis, gone).await {
            Ok(confirmed) => confirmed,
            Err(error) => {
                tracing::warn!(kind, %error, "the second look failed; nothing is removed");
                return;
            }
        };
        for name in remove {
            let Some(change) = (self.kind.removal)(registry, &name) else { continue };
            match self.context.registry.submit(change).await {
                Ok(Outcome::Unchanged | Outcome::Recorded) => {
                    tracing::info!(kind, name, "removed from the registry");
                    self.known.view.deleted.remove(&name);
                }
                Ok(refused) => tracing::warn!(kind, name, ?refused, "a removal is refused; it is tried again"),
                Err(error) => {
                    tracing::warn!(kind, name, %error, "a removal waits");
                    return;
                }
            }
        }
    }
}

fn text(error: kube::Error) -> String {
    error.to_string()
}

/// Those of `names` that a fresh list lacks.
async fn confirm<K>(apis: &[Api<K>], names: &BTreeSet<String>) -> Result<BTreeSet<String>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut absent = names.clone();
    for api in apis {
        for object in api.list_metadata(&kube::api::ListParams::default()).await?.items {
            absent.remove(&id_of(object.namespace(), &object.name_any()));
        }
    }
    Ok(absent)
}

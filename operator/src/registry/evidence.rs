//! Deletions as the API server tells them, and what they mean for the registry.
//!
//! One metadata watch a kind: a deletion that is told is evidence; absence from a list is weighed by [`super::removal`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeFleet, RewardProgram};
use depin_domain::registry::{Change, Registry};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

use super::removal::{View, decide, needs_confirmation};
use crate::context::Context;

/// How often what is registered is compared with what is there.
const EVERY: Duration = Duration::from_secs(2);
/// How long a wave of deletions waits for a second look.
const CONFIRM: Duration = Duration::from_secs(30);

/// A kind whose objects stand in the registry.
struct Kind {
    name: &'static str,
    /// Names of its entries now.
    registered: fn(&Registry) -> BTreeSet<String>,
    /// The removal of an entry.
    removal: fn(&Registry, &str) -> Option<Change>,
}

/// Watches all kinds; ends never.
pub async fn run(context: Arc<Context>) {
    tokio::join!(
        watch::<EdgeDeviceModel>(&context, models()),
        watch::<EdgeFleet>(&context, fleets()),
        watch::<EdgeAgent>(&context, agents()),
        watch::<EdgeDevice>(&context, devices()),
        watch::<RewardProgram>(&context, programs()),
    );
}

fn models() -> Kind {
    Kind {
        name: "EdgeDeviceModel",
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
        registered: |registry| {
            registry.fleets().filter(|(_, fleet)| fleet.current().is_some()).map(|(id, _)| id.clone()).collect()
        },
        removal: |_, id| Some(Change::FleetRemoved { id: id.to_owned() }),
    }
}

fn agents() -> Kind {
    Kind {
        name: "EdgeAgent",
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
        registered: |registry| {
            registry.programs().filter(|(_, program)| !program.is_removed()).map(|(id, _)| id.clone()).collect()
        },
        removal: |_, id| Some(Change::ProgramRemoved { id: id.to_owned() }),
    }
}

fn id_of(namespace: Option<String>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

/// What the watch knows of one kind.
#[derive(Debug, Default)]
struct Known {
    view: View,
    /// A list under way.
    listing: BTreeSet<String>,
    /// A whole list was read.
    complete: bool,
    /// Something was told since the last look.
    news: bool,
    /// The registry's version at the last look.
    looked_at: u64,
}

impl Known {
    fn hear<K: Resource<DynamicType = ()>>(&mut self, event: watcher::Event<PartialObjectMeta<K>>) {
        self.news = true;
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(object) => {
                self.listing.insert(id_of(object.namespace(), &object.name_any()));
            }
            watcher::Event::InitDone => {
                self.view.present = std::mem::take(&mut self.listing);
                self.view.deleted.retain(|name| !self.view.present.contains(name));
                self.complete = true;
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

async fn watch<K>(context: &Arc<Context>, kind: Kind)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<K> = Api::all(context.client.clone());
    let metadata: Api<PartialObjectMeta<K>> = Api::all(context.client.clone());
    let mut events = watcher(metadata, watcher::Config::default()).default_backoff().boxed();
    let mut known = Known::default();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(event)) => known.hear(event),
                Ok(None) => return,
                Err(error) => tracing::debug!(kind = kind.name, %error, "watch of deletions interrupted; it resumes by itself"),
            },
            _ = tick.tick() => {
                if known.complete {
                    look(context, &kind, &api, &mut known).await;
                }
            }
        }
    }
}

async fn look<K>(context: &Context, kind: &Kind, api: &Api<K>, known: &mut Known)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let registry = context.registry.snapshot();
    if !known.news && known.looked_at == registry.version() {
        return;
    }
    let registered = (kind.registered)(&registry);
    known.view.deleted.retain(|name| registered.contains(name));
    let verdict = decide(&registered, &known.view);
    context.metrics.set_removals_held(kind.name, verdict.keep.len());
    if verdict.remove.is_empty() {
        // What is to do is done: the next look needs a reason.
        (known.news, known.looked_at) = (false, registry.version());
        return;
    }
    if needs_confirmation(registered.len(), verdict.remove.len()) {
        tracing::warn!(
            kind = kind.name,
            count = verdict.remove.len(),
            "many objects were deleted; the registry follows after a second look"
        );
        tokio::time::sleep(CONFIRM).await;
    }
    // This watch may lag behind the controllers': an object that was made (anew) a moment ago is absent here only.
    let remove = match confirm(api, &verdict.remove).await {
        Ok(confirmed) => confirmed,
        Err(error) => {
            tracing::warn!(kind = kind.name, %error, "the second look failed; nothing is removed");
            return;
        }
    };
    for name in remove {
        let Some(change) = (kind.removal)(&registry, &name) else { continue };
        match context.registry.submit(change).await {
            Ok(_) => {
                tracing::info!(kind = kind.name, name, "removed from the registry");
                known.view.deleted.remove(&name);
            }
            Err(error) => {
                tracing::warn!(kind = kind.name, name, %error, "a removal waits");
                return;
            }
        }
    }
}

/// Those of `names` that a fresh list lacks.
async fn confirm<K>(api: &Api<K>, names: &BTreeSet<String>) -> Result<BTreeSet<String>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let list = api.list_metadata(&kube::api::ListParams::default()).await?;
    let present: BTreeSet<_> = list.items.iter().map(|object| id_of(object.namespace(), &object.name_any())).collect();
    Ok(names.difference(&present).cloned().collect())
}

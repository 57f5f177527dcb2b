//! One controller for each kind that people write, and for each namespace that is watched; and who is looked at again because another
//! object turned.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use depin_crds::{Condition, EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardProgram};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        Controller, WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::watch;

use crate::{
    agents,
    conditions::holds,
    context::{Context, Stores},
    controller::drive,
    devices, enrollments, fleets, models, rewards,
    run::until,
    watched::{View, Watched},
};

/// All controllers.
pub struct Controllers {
    models: Controller<EdgeDeviceModel>,
    parts: Vec<Part>,
}

/// Those of one namespace, or of all.
struct Part {
    fleets: Controller<EdgeFleet>,
    agents: Controller<EdgeAgent>,
    devices: Controller<EdgeDevice>,
    enrollments: Controller<EdgeEnrollment>,
    programs: Controller<RewardProgram>,
}

/// The APIs of one namespace, or of all.
struct Apis {
    fleets: Api<EdgeFleet>,
    agents: Api<EdgeAgent>,
    devices: Api<EdgeDevice>,
    enrollments: Api<EdgeEnrollment>,
    programs: Api<RewardProgram>,
}

fn controller<K>(api: Api<K>, stopped: &watch::Receiver<bool>) -> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    // As `Controller::new` does it, but for what is kept in memory.
    let objects = watcher(api, watcher::Config::default()).modify(lighten).reflect(writer).applied_objects();
    Controller::for_stream(objects, store).graceful_shutdown_on(until(stopped.clone()))
}

/// Takes away who wrote which field and when: nobody here asks for it, and of many devices it is most of the memory.
fn lighten<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

impl Part {
    fn new(client: &Client, apis: Apis, stopped: &watch::Receiver<bool>) -> Self {
        let any = watcher::Config::default;
        let devices = controller(apis.devices, stopped);
        let (of_fleet, of_agent) = (by_fleet(devices.store()), by_agent(devices.store()));
        let fleets = controller(apis.fleets.clone(), stopped);
        let of_model = by_model(fleets.store());
        let programs = controller(apis.programs, stopped);
        let pays = programs_of(programs.store());
        let measures = programs_by_model(programs.store(), fleets.store());
        Self {
            fleets: fleets.watches(Api::<EdgeDeviceModel>::all(client.clone()), any(), of_model),
            agents: controller(apis.agents.clone(), stopped),
            devices: devices.watches(apis.fleets.clone(), any(), of_fleet).watches(apis.agents, any(), of_agent),
            enrollments: controller(apis.enrollments, stopped),
            programs: programs.watches(apis.fleets, any(), pays).watches(
                Api::<EdgeDeviceModel>::all(client.clone()),
                any(),
                measures,
            ),
        }
    }

    fn run(self, context: &Arc<Context>) -> BoxFuture<'static, ()> {
        let context = || Arc::clone(context);
        let fleets = drive("fleets", self.fleets, 8, context(), fleets::reconcile);
        let agents = drive("agents", self.agents, 64, context(), agents::reconcile);
        // Many wait for one batch of the registry writer together.
        let devices = drive("devices", self.devices, 1024, context(), devices::reconcile);
        let enrollments = drive("enrollments", self.enrollments, 16, context(), enrollments::reconcile);
        let programs = drive("programs", self.programs, 8, context(), rewards::reconcile);
        async move {
            tokio::join!(fleets, agents, devices, enrollments, programs);
        }
        .boxed()
    }
}

impl Controllers {
    /// Controllers that stop once `stopped` says so.
    #[must_use]
    pub fn new(client: &Client, watched: &Watched, stopped: &watch::Receiver<bool>) -> Self {
        let (mut fleets, mut agents) = (watched.apis(client).into_iter(), watched.apis(client).into_iter());
        let (mut devices, mut enrollments) = (watched.apis(client).into_iter(), watched.apis(client).into_iter());
        let mut programs = watched.apis(client).into_iter();
        let mut parts = Vec::new();
        while let (Some(fleets), Some(agents), Some(devices), Some(enrollments), Some(programs)) =
            (fleets.next(), agents.next(), devices.next(), enrollments.next(), programs.next())
        {
            let apis = Apis { fleets, agents, devices, enrollments, programs };
            parts.push(Part::new(client, apis, stopped));
        }
        Self { models: controller(Api::all(client.clone()), stopped), parts }
    }

    /// What they see.
    #[must_use]
    pub fn stores(&self) -> Stores {
        Stores {
            models: View::over(vec![self.models.store()]),
            fleets: View::over(self.parts.iter().map(|part| part.fleets.store()).collect()),
            agents: View::over(self.parts.iter().map(|part| part.agents.store()).collect()),
            devices: View::over(self.parts.iter().map(|part| part.devices.store()).collect()),
            enrollments: View::over(self.parts.iter().map(|part| part.enrollments.store()).collect()),
            programs: View::over(self.parts.iter().map(|part| part.programs.store()).collect()),
        }
    }

    /// Runs until they are stopped.
    pub fn run(self, context: &Arc<Context>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let models = drive("models", self.models, 4, Arc::clone(context), models::reconcile);
        let parts: Vec<_> = self.parts.into_iter().map(|part| part.run(context)).collect();
        Box::pin(async move {
            tokio::join!(models, join_all(parts));
        })
    }
}

/// Whether an object's spec or its condition `Ready` is another than when it was last seen. Other parts of a status change often and
/// concern no other object.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, (i64, i64, bool)>>);

impl Turns {
    fn turned<K: Resource>(&self, object: &K, conditions: &[Condition]) -> bool {
        self.taken(object, 0, conditions)
    }

    /// Also whether the operator has looked at the spec since (`observed`): whoever is checked against the registry sees it there only then.
    fn taken<K: Resource>(&self, object: &K, observed: i64, conditions: &[Condition]) -> bool {
        let state = (object.meta().generation.unwrap_or_default(), observed, holds(conditions, "Ready"));
        let uid = object.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, state) != Some(state)
    }

    fn model(&self, model: &EdgeDeviceModel) -> bool {
        let status = model.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation).unwrap_or_default();
        self.taken(model, observed, status.map_or(&[], |status| &status.conditions))
    }

    fn fleet(&self, fleet: &EdgeFleet) -> bool {
        let status = fleet.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation).unwrap_or_default();
        self.taken(fleet, observed, status.map_or(&[], |status| &status.conditions))
    }
}

/// Devices whose entry may change, or no longer waits, because their fleet turned.
fn by_fleet(devices: Store<EdgeDevice>) -> impl Fn(EdgeFleet) -> Vec<ObjectRef<EdgeDevice>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |fleet| {
        if !turns.turned(&fleet, fleet.status.as_ref().map_or(&[], |status| &status.conditions)) {
            return Vec::new();
        }
        let (namespace, name) = (fleet.namespace(), fleet.name_any());
        select(&devices, |device| device.namespace() == namespace && device.spec.fleet == name)
    }
}

/// Devices that no longer wait because their agent turned.
fn by_agent(devices: Store<EdgeDevice>) -> impl Fn(EdgeAgent) -> Vec<ObjectRef<EdgeDevice>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |agent| {
        if !turns.turned(&agent, agent.status.as_ref().map_or(&[], |status| &status.conditions)) {
            return Vec::new();
        }
        let (namespace, name) = (agent.namespace(), agent.name_any());
        select(&devices, |device| device.namespace() == namespace && device.spec.agent == name)
    }
}

/// Fleets that no longer wait, or no longer fit, because their model turned.
fn by_model(fleets: Store<EdgeFleet>) -> impl Fn(EdgeDeviceModel) -> Vec<ObjectRef<EdgeFleet>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |model| {
        if !turns.model(&model) {
            return Vec::new();
        }
        select(&fleets, |fleet| fleet.spec.model_ref.name == model.name_any())
    }
}

/// Programs that no longer wait, or no longer fit, because a fleet turned.
fn programs_of(
    programs: Store<RewardProgram>,
) -> impl Fn(EdgeFleet) -> Vec<ObjectRef<RewardProgram>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |fleet| {
        if !turns.fleet(&fleet) {
            return Vec::new();
        }
        select(&programs, |program| {
            program.namespace() == fleet.namespace() && program.spec.fleets.contains(&fleet.name_any())
        })
    }
}

/// Programs that no longer wait, or no longer fit, because the model of one of their fleets turned.
fn programs_by_model(
    programs: Store<RewardProgram>,
    fleets: Store<EdgeFleet>,
) -> impl Fn(EdgeDeviceModel) -> Vec<ObjectRef<RewardProgram>> + Send + Sync + 'static {
    let turns = Turns::default();
    move |model| {
        if !turns.model(&model) {
            return Vec::new();
        }
        let name = model.name_any();
        let fleets = fleets.state();
        let of_model: Vec<_> = fleets.iter().filter(|fleet| fleet.spec.model_ref.name == name).collect();
        select(&programs, |program| {
            of_model.iter().any(|fleet| {
                fleet.namespace() == program.namespace() && program.spec.fleets.contains(&fleet.name_any())
            })
        })
    }
}

fn select<K>(store: &Store<K>, wanted: impl Fn(&K) -> bool) -> Vec<ObjectRef<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let all = store.state();
    all.iter().filter(|object| wanted(object.as_ref())).map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn object<K: DeserializeOwned>(kind: &str, name: &str, rest: &str) -> K {
        let (version, place) =
            ("depin.dev/v1alpha1", format!("{{name: {name}, namespace: town, uid: {name}, generation: 2}}"));
        serde_saphyr::from_str(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {place}\n{rest}\n")).unwrap()
    }

    fn store<K>(objects: Vec<K>) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let (store, mut writer) = reflector::store();
        objects.into_iter().for_each(|object| writer.apply_watcher_event(&watcher::Event::Apply(object)));
        store
    }

    fn program(name: &str, fleet: &str) -> RewardProgram {
        let spec = format!(
            "spec: {{fleets: [{fleet}], token: {{symbol: T}}, epoch: {{length: 1h, genesis: '2026-01-01T00:00:00Z'}}, emission: {{fixed: \
             {{amount: '1'}}}}, features: [], weight: '1'}}"
        );
        object("RewardProgram", name, &spec)
    }

    fn fleet(name: &str, model: &str) -> EdgeFleet {
        object("EdgeFleet", name, &format!("spec: {{modelRef: {{name: {model}}}}}"))
    }

    fn model(observed: i64) -> EdgeDeviceModel {
        let rest =
            format!("spec: {{sources: [], metrics: [], cadence: 1s}}\nstatus: {{observedGeneration: {observed}}}");
        object("EdgeDeviceModel", "meter", &rest)
    }

    #[test]
    fn programs_are_looked_at_again_once_a_model_of_their_fleets_is_registered_anew() {
        let fleets = store(vec![fleet("homes", "meter"), fleet("fields", "station")]);
        let programs = store(vec![program("watts", "homes"), program("drops", "fields")]);
        let mapper = programs_by_model(programs, fleets);
        let looked_at = |model| mapper(model).into_iter().map(|program| program.name).collect::<Vec<_>>();
        assert_eq!(looked_at(model(1)), ["watts"], "its spec is another");
        assert_eq!(looked_at(model(1)), [] as [String; 0]);
        assert_eq!(looked_at(model(2)), ["watts"], "the registry has it now");
        assert_eq!(looked_at(model(2)), [] as [String; 0]);
    }
}

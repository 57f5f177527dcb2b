//! What one agent must know of the registry, and how that changed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use depin_domain::{
    canonical::CanonicalError,
    ids::{AgentId, DeviceId},
    registry::{DeviceEntry, ModelEntry, Registry},
    time::Timestamp,
};
use depin_proto::{convert::id_bytes, v1};

/// An agent's part of the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Models by name and the time from which they are in force: the one in force now and those announced.
    models: BTreeMap<(String, Timestamp), Arc<ModelEntry>>,
    devices: BTreeMap<DeviceId, (Arc<DeviceEntry>, String)>,
}

impl View {
    /// What `agent` must know at `now`: its devices, their models, and the models of the fleets that it serves.
    pub(super) fn of(registry: &Registry, agent: &AgentId, now: Timestamp) -> Self {
        let mut names = BTreeSet::new();
        if let Some(entry) = registry.agent(agent) {
            for fleet in &entry.fleets {
                let fleet = registry.fleet(&format!("{}/{fleet}", entry.namespace)).and_then(|fleet| fleet.current());
                names.extend(fleet.map(|fleet| fleet.model.clone()));
            }
        }
        let mut devices = BTreeMap::new();
        for (id, device) in registry.devices_of(agent) {
            let fleet = registry.fleet(&device.fleet).and_then(|fleet| fleet.current());
            let model = fleet.map(|fleet| fleet.model.clone()).unwrap_or_default();
            names.insert(model.clone());
            devices.insert(*id, (Arc::clone(device), model));
        }
        let mut models = BTreeMap::new();
        for name in names {
            let Some(chain) = registry.model_chain(&name) else { continue };
            let announced = chain.entries().iter().filter(|entry| entry.effective_from > now);
            for entry in chain.at(now).into_iter().chain(announced) {
                models.insert((name.clone(), entry.effective_from), Arc::clone(entry));
            }
        }
        Self { models, devices }
    }

    /// Everything, to replace what the agent holds.
    pub(super) fn snapshot(&self) -> Result<v1::ConfigurationUpdate, CanonicalError> {
        let update = Self::default().change_to(self)?;
        Ok(v1::ConfigurationUpdate { snapshot: true, ..update.unwrap_or_default() })
    }

    /// What is new, changed or gone in `newer`; none where nothing is.
    pub(super) fn change_to(&self, newer: &Self) -> Result<Option<v1::ConfigurationUpdate>, CanonicalError> {
        let mut update = v1::ConfigurationUpdate::default();
        for (key, entry) in &newer.models {
            if self.models.get(key).map(|known| known.digest) != Some(entry.digest) {
                update.models.push(model(entry)?);
            }
        }
        for (id, (device, model)) in &newer.devices {
            let known = self.devices.get(id);
            if known.is_none_or(|(known, before)| before != model || differs(known, device)) {
                update.devices.push(configuration(*id, device, model));
            }
        }
        update.removed_devices =
            self.devices.keys().filter(|id| !newer.devices.contains_key(id)).map(id_bytes).collect();
        update.removed_models = self.names().difference(&newer.names()).map(|name| (*name).clone()).collect();
        Ok((update != v1::ConfigurationUpdate::default()).then_some(update))
    }

    fn names(&self) -> BTreeSet<&String> {
        self.models.keys().map(|(name, _)| name).collect()
    }
}

/// Whether an agent would see a difference: owner, place and the like are none of its business.
fn differs(before: &DeviceEntry, after: &DeviceEntry) -> bool {
    (&before.serial, before.suspended, &before.key) != (&after.serial, after.suspended, &after.key)
}

fn model(entry: &ModelEntry) -> Result<v1::ModelConfiguration, CanonicalError> {
    Ok(v1::ModelConfiguration {
        name: entry.model.name.clone(),
        canonical: entry.model.canonical()?.into(),
        digest: id_bytes(entry.digest),
        effective_from: entry.effective_from.0,
    })
}

fn configuration(id: DeviceId, device: &DeviceEntry, model: &str) -> v1::DeviceConfiguration {
    v1::DeviceConfiguration {
        device_id: id_bytes(id),
        namespace: device.namespace.clone(),
        name: device.name.clone(),
        serial: device.serial.clone(),
        model: model.to_owned(),
        suspended: device.suspended,
        key_id: device.key.as_ref().map(|key| id_bytes(key.id())).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use depin_domain::{
        ids::{Algorithm, Digest, PublicKey},
        model::{Attestation, Metric, MetricKind, Model},
        registry::{AgentEntry, Change, FleetEntry, Record},
    };

    use super::*;

    fn apply(registry: &mut Registry, change: Change) {
        let version = registry.version() + 1;
        registry.apply(Record { version, at: Timestamp(version as i64), change }).unwrap();
    }

    fn model(cadence_ms: i64, effective_from: i64) -> Change {
        let model = Model {
            name: "meter".into(),
            sources: Vec::new(),
            metrics: vec![Metric {
                name: "power".into(),
                unit: "W".into(),
                kind: MetricKind::Gauge,
                scale: 0,
                min: None,
                max: None,
                max_rate: None,
                personal: false,
            }],
            cadence_ms,
            reorder_horizon_ms: 0,
            checks: Vec::new(),
            minimum_attestation: Attestation::Agent,
            capabilities: Vec::new(),
        };
        Change::Model(ModelEntry { digest: model.digest().unwrap(), model, effective_from: Timestamp(effective_from) })
    }

    fn agent(number: u8) -> AgentEntry {
        let name = format!("site-{number}");
        AgentEntry {
            id: AgentId::of("grid", &name),
            namespace: "grid".into(),
            name,
            key: PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![number; 32] },
            fleets: vec!["meters".into()],
            reinstate_key: false,
        }
    }

    fn device(number: u32, relay: u8, suspended: bool) -> Change {
        let name = format!("meter-{number}");
        Change::Device(DeviceEntry {
            id: DeviceId::of("grid", &name),
            namespace: "grid".into(),
            serial: name.clone(),
            name,
            fleet: "grid/meters".into(),
            agent: agent(relay).id,
            key: None,
            hardware_key: false,
            shares: Vec::new(),
            location: None,
            suspended,
            since: Timestamp(1),
        })
    }

    fn network() -> Registry {
        let mut registry = Registry::default();
        apply(&mut registry, model(60_000, 0));
        let fleet = FleetEntry { id: "grid/meters".into(), model: "meter".into(), grain_ms: 3_600_000 };
        apply(&mut registry, Change::Fleet(fleet));
        for number in 1..=2 {
            apply(&mut registry, Change::Agent(agent(number)));
            apply(&mut registry, device(number.into(), number, false));
        }
        registry
    }

    fn view(registry: &Registry) -> View {
        View::of(registry, &agent(1).id, Timestamp(100))
    }

    fn names(update: &v1::ConfigurationUpdate) -> Vec<&str> {
        update.devices.iter().map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn an_agent_is_told_its_own_devices_and_their_models_only() {
        let update = view(&network()).snapshot().unwrap();
        assert!(update.snapshot);
        assert_eq!(names(&update), ["meter-1"]);
        assert_eq!(update.models.len(), 1);
        assert_eq!(Digest::of(&update.models[0].canonical).0.as_slice(), update.models[0].digest);
        let stranger = View::of(&network(), &AgentId::default(), Timestamp(100)).snapshot().unwrap();
        assert_eq!(stranger, v1::ConfigurationUpdate { snapshot: true, ..Default::default() });
    }

    #[test]
    fn only_what_an_agent_would_notice_is_a_change() {
        let mut registry = network();
        let before = view(&registry);
        apply(&mut registry, device(3, 2, false));
        assert_eq!(before.change_to(&view(&registry)).unwrap(), None, "another agent's device");
        apply(&mut registry, device(1, 1, true));
        let update = before.change_to(&view(&registry)).unwrap().unwrap();
        assert_eq!((names(&update), update.devices[0].suspended), (vec!["meter-1"], true));
        assert!(!update.snapshot && update.models.is_empty());
    }

    #[test]
    fn a_device_that_moves_away_is_removed_and_a_model_announced() {
        let mut registry = network();
        let before = view(&registry);
        apply(&mut registry, device(1, 2, false));
        apply(&mut registry, model(30_000, 5_000));
        let update = before.change_to(&view(&registry)).unwrap().unwrap();
        assert_eq!(update.removed_devices, [id_bytes(DeviceId::of("grid", "meter-1"))]);
        assert_eq!((update.models.len(), update.models[0].effective_from), (1, 5_000));
        assert!(update.removed_models.is_empty());
        let mut later = agent(1);
        later.fleets.clear();
        apply(&mut registry, Change::Agent(later));
        let update = before.change_to(&view(&registry)).unwrap().unwrap();
        assert_eq!(update.removed_models, ["meter"]);
    }
}

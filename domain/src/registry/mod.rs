//! The registry: an append-only list of changes, and what it says of any moment.
//!
//! The operator writes what the custom resources say; gateways, agents and epochs read it. A change takes effect at the time of
//! its record, or later where it says so; only a device's first assignment begins at its first sighting, and a name's first model always did. The fold accepts every record that was
//! ever appended; what may be appended is decided beforehand by [`Registry::check`]. A clone is a snapshot: it
//! shares everything with its origin and costs microseconds whatever the number of devices.

mod check;
mod device;
mod models;
mod record;
mod shards;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use check::{ChangeError, MAX_SLOTS};
pub use device::{Assignment, Device, DeviceState};
pub use models::{Fleet, ModelChain, Program};
pub use record::*;
use shards::Shards;

use crate::{
    ids::{AgentId, DeviceId, Digest, KeyId, PublicKey},
    time::{Timestamp, Window},
};

/// A record does not follow the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("registry record {version}: expected version {expected}; read the records in order and without gaps")]
pub struct OutOfTurn {
    /// The record's version.
    pub version: u64,
    /// The version that comes next.
    pub expected: u64,
}

/// Who signs with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: PublicKey,
    /// Whose it is.
    pub holder: Holder,
}

/// Whose a key is. A key once an agent's is never a device's, and the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This agent's current key.
    Agent(AgentId),
    /// Was this agent's; it has another now or is gone: refused at arrival.
    Revoked(AgentId),
    /// The own key of these devices, one after the other; the newest last.
    Devices(Vec<DeviceId>),
}

/// The registry as of one version.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    version: u64,
    at: Timestamp,
    models: Shards<Digest, Arc<ModelEntry>>,
    chains: Arc<BTreeMap<String, ModelChain>>,
    fleets: Arc<BTreeMap<String, Fleet>>,
    agents: Shards<AgentId, Arc<AgentEntry>>,
    keys: Shards<KeyId, Arc<Signer>>,
    devices: Shards<DeviceId, Arc<Device>>,
    /// Serials of the devices that each agent has now.
    serials: Shards<AgentId, Arc<BTreeMap<String, DeviceId>>>,
    /// Devices that each agent once had and no longer has.
    former: Shards<AgentId, Arc<BTreeSet<DeviceId>>>,
    programs: Arc<BTreeMap<String, Program>>,
    invitations: Shards<Digest, Arc<InvitationEntry>>,
}

impl Registry {
    /// Version of the newest record; 0: none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When the newest record took effect.
    #[must_use]
    pub fn updated_at(&self) -> Timestamp {
        self.at
    }

    /// The model with this digest.
    #[must_use]
    pub fn model(&self, digest: &Digest) -> Option<&Arc<ModelEntry>> {
        self.models.get(digest)
    }

    /// All models that `name` ever stood for.
    #[must_use]
    pub fn model_chain(&self, name: &str) -> Option<&ModelChain> {
        self.chains.get(name)
    }

    /// All models by name.
    pub fn model_chains(&self) -> impl Iterator<Item = (&String, &ModelChain)> {
        self.chains.iter()
    }

    /// The fleet `namespace/name`, also if it was removed.
    #[must_use]
    pub fn fleet(&self, id: &str) -> Option<&Fleet> {
        self.fleets.get(id)
    }

    /// All fleets by id, removed ones too.
    pub fn fleets(&self) -> impl Iterator<Item = (&String, &Fleet)> {
        self.fleets.iter()
    }

    /// The approved agent with this id.
    #[must_use]
    pub fn agent(&self, id: &AgentId) -> Option<&Arc<AgentEntry>> {
        self.agents.get(id)
    }

    /// The approved agent that signs with this key now.
    #[must_use]
    pub fn agent_by_key(&self, key: &KeyId) -> Option<&Arc<AgentEntry>> {
        match self.keys.get(key)?.holder {
            Holder::Agent(id) => self.agents.get(&id),
            Holder::Revoked(_) | Holder::Devices(_) => None,
        }
    }

    /// All approved agents in order of their ids.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.agents.iter().map(|(_, agent)| agent)
    }

    /// Who signs, or signed, with this key.
    #[must_use]
    pub fn signer(&self, key: &KeyId) -> Option<&Arc<Signer>> {
        self.keys.get(key)
    }

    /// Whether `agent` may submit proofs signed by `key`: its own current key, or that of a device that it relays or once
    /// relayed for (what it had spooled then is still sealed and sent).
    #[must_use]
    pub fn may_relay(&self, agent: &AgentId, key: &KeyId) -> bool {
        match self.keys.get(key).map(|signer| &signer.holder) {
            Some(Holder::Agent(holder)) => holder == agent,
            Some(Holder::Devices(devices)) => {
                devices.iter().filter_map(|device| self.devices.get(device)).any(|device| {
                    device
                        .assignments()
                        .iter()
                        .any(|assignment| assignment.agent == *agent && assignment.key == Some(*key))
                })
            }
            Some(Holder::Revoked(_)) | None => false,
        }
    }

    /// The device with this id, also if it was removed.
    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&Arc<Device>> {
        self.devices.get(id)
    }

    /// All devices in order of their ids, removed ones too.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Arc<Device>)> {
        self.devices.iter()
    }

    /// How many devices there ever were.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// The devices that `agent` relays for now, in order of their serials.
    pub fn devices_of(&self, agent: &AgentId) -> impl Iterator<Item = (&DeviceId, &Arc<DeviceEntry>)> {
        let serials = self.serials.get(agent).into_iter().flat_map(|serials| serials.values());
        serials.filter_map(|id| Some((id, self.devices.get(id)?.current()?)))
    }

    /// The devices that `agent` once relayed for and no longer does, with their facts of then and the end of that time:
    /// what it had spooled until then is still sealed and judged as theirs.
    pub fn former_devices_of(
        &self,
        agent: &AgentId,
    ) -> impl Iterator<Item = (&DeviceId, &Arc<DeviceEntry>, Timestamp)> {
        let former = self.former.get(agent).into_iter().flat_map(|devices| devices.iter());
        former.filter_map(|id| {
            let device = self.devices.get(id)?;
            let end = device.assignments().iter().rev().find(|one| one.agent == *agent)?.window.end;
            Some((id, device.at(end.plus(-1))?, end))
        })
    }

    /// The device with this serial at this agent.
    #[must_use]
    pub fn device_by_serial(&self, agent: &AgentId, serial: &str) -> Option<&DeviceId> {
        self.serials.get(agent)?.get(serial)
    }

    /// The program `namespace/name`, also if it was removed.
    #[must_use]
    pub fn program(&self, id: &str) -> Option<&Program> {
        self.programs.get(id)
    }

    /// All programs by id, removed ones too.
    pub fn programs(&self) -> impl Iterator<Item = (&String, &Program)> {
        self.programs.iter()
    }

    /// The invitation with this token hash; whether it has expired is the caller's to see.
    #[must_use]
    pub fn invitation(&self, token: &Digest) -> Option<&Arc<InvitationEntry>> {
        self.invitations.get(token)
    }

    /// All invitations in order of their tokens' hashes, expired ones too.
    pub fn invitations(&self) -> impl Iterator<Item = &Arc<InvitationEntry>> {
        self.invitations.iter().map(|(_, invitation)| invitation)
    }

    /// Name of the model that the device's fleet had at `at`.
    #[must_use]
    pub fn model_name_at(&self, device: &DeviceEntry, at: Timestamp) -> Option<&str> {
        self.fleets.get(&device.fleet)?.at(at).map(|fleet| fleet.model.as_str())
    }

    /// The slot width of the device's statistics in a grain: the cadence at the grain's start, by the fleet that the device is in then
    /// or at its approval within the grain.
    #[must_use]
    pub fn slot_ms(&self, device: &Device, grain: Window) -> Option<i64> {
        self.cadence_at(device.for_epoch(grain)?, grain.start)
    }

    /// The cadence at `grain` of the model that the fleet of these facts had then.
    #[must_use]
    pub fn cadence_at(&self, device: &DeviceEntry, grain: Timestamp) -> Option<i64> {
        let model = self.chains.get(self.model_name_at(device, grain)?)?.at(grain)?;
        Some(model.model.cadence_ms)
    }

    /// Lets time pass without a record: changes are checked by what is in force by then.
    pub fn advance(&mut self, now: Timestamp) {
        self.at = self.at.max(now);
    }

    /// Adds the next record. Every record that was appended is taken; one that says nothing new only raises the version.
    pub fn apply(&mut self, record: Record) -> Result<(), OutOfTurn> {
        let expected = self.version.saturating_add(1);
        if record.version != expected {
            return Err(OutOfTurn { version: record.version, expected });
        }
        // Times of effect never run backwards, whatever a record says: windows stay disjoint.
        let at = record.at.max(self.at);
        let changes = self.would_change(&record.change);
        (self.version, self.at) = (record.version, at);
        if changes {
            self.fold(record.version, at, record.change);
        }
        Ok(())
    }

    /// Whether the change says anything that the registry does not say already. What says nothing new need not be written.
    #[must_use]
    pub fn would_change(&self, change: &Change) -> bool {
        match change {
            Change::Model(entry) => self
                .chains
                .get(&entry.model.name)
                .is_none_or(|chain| chain.retired || chain.newest().is_none_or(|newest| !self.repeats(newest, entry))),
            Change::ModelRetired { name } => self.chains.get(name).is_some_and(|chain| !chain.retired),
            Change::Fleet(entry) => {
                self.fleets.get(&entry.id).and_then(Fleet::current).is_none_or(|now| **now != *entry)
            }
            Change::FleetRemoved { id } => self.fleets.get(id).is_some_and(|fleet| fleet.current().is_some()),
            Change::Agent(entry) => self.agents.get(&entry.id).is_none_or(|now| **now != *entry),
            Change::AgentRemoved { id } => self.agents.get(id).is_some(),
            Change::Device(entry) => {
                self.devices.get(&entry.id).and_then(|device| device.current()).is_none_or(|now| {
                    // A later record cannot move the first sighting.
                    **now != DeviceEntry { since: now.since, ..entry.clone() }
                })
            }
            Change::DeviceRemoved { id } => self.devices.get(id).is_some_and(|device| device.current().is_some()),
            Change::Program(entry) => self.programs.get(&entry.id).is_none_or(|program| {
                // The ledger may have let it rule from a later epoch than was asked for.
                program.is_removed() || program.newest().is_none_or(|newest| newest.digest != entry.digest)
            }),
            Change::ProgramRemoved { id } => self.programs.get(id).is_some_and(|program| !program.is_removed()),
            Change::Invitation(entry) => self.invitations.get(&entry.token).is_none_or(|now| **now != *entry),
            Change::InvitationRemoved { token } => self.invitations.get(token).is_some(),
        }
    }

    /// Whether `entry` says what `newest` says already. A model that is in force cannot begin at another time that has passed.
    fn repeats(&self, newest: &ModelEntry, entry: &ModelEntry) -> bool {
        let begun = newest.effective_from <= self.at && entry.effective_from <= self.at;
        let same = newest.digest == entry.digest && newest.model == entry.model;
        same && (begun || newest.effective_from == entry.effective_from)
    }

    fn fold(&mut self, version: u64, at: Timestamp, change: Change) {
        match change {
            Change::Model(entry) => self.fold_model(at, entry),
            Change::ModelRetired { name } => {
                Arc::make_mut(&mut self.chains).entry(name).or_default().retired = true;
            }
            Change::Fleet(entry) => {
                let fleet = Arc::make_mut(&mut self.fleets).entry(entry.id.clone()).or_default();
                fleet.states.push((at, Some(Arc::new(entry))));
            }
            Change::FleetRemoved { id } => {
                Arc::make_mut(&mut self.fleets).entry(id).or_default().states.push((at, None));
            }
            Change::Agent(entry) => self.fold_agent(entry),
            Change::AgentRemoved { id } => {
                if let Some(old) = self.agents.remove(&id) {
                    self.revoke(&old);
                }
            }
            Change::Device(entry) => self.fold_device(version, at, entry),
            Change::DeviceRemoved { id } => {
                self.forget_serial(&id);
                self.part(&id, None);
                Arc::make_mut(self.devices.entry(id)).remove(version, at);
            }
            Change::Program(entry) => {
                Arc::make_mut(&mut self.programs).entry(entry.id.clone()).or_default().set(entry);
            }
            Change::ProgramRemoved { id } => {
                Arc::make_mut(&mut self.programs).entry(id).or_default().remove(at);
            }
            Change::Invitation(entry) => {
                self.invitations.insert(entry.token, Arc::new(entry));
            }
            Change::InvitationRemoved { token } => {
                self.invitations.remove(&token);
            }
        }
    }

    fn fold_model(&mut self, at: Timestamp, mut entry: ModelEntry) {
        let chain = Arc::make_mut(&mut self.chains).entry(entry.model.name.clone()).or_default();
        if !chain.entries.is_empty() {
            // What was judged and counted by its predecessors stays as it was, whatever time the record names.
            entry.effective_from = entry.effective_from.max(at);
        }
        let entry = Arc::new(entry);
        chain.retired = false;
        chain.entries.push(Arc::clone(&entry));
        self.models.insert(entry.digest, entry);
    }

    fn fold_agent(&mut self, entry: AgentEntry) {
        if let Some(old) = self.agents.get(&entry.id).cloned()
            && old.key != entry.key
        {
            self.revoke(&old);
        }
        let signer = Signer { key: entry.key.clone(), holder: Holder::Agent(entry.id) };
        self.keys.insert(entry.key.id(), Arc::new(signer));
        self.agents.insert(entry.id, Arc::new(entry));
    }

    fn revoke(&mut self, agent: &AgentEntry) {
        let signer = Signer { key: agent.key.clone(), holder: Holder::Revoked(agent.id) };
        self.keys.insert(agent.key.id(), Arc::new(signer));
    }

    fn fold_device(&mut self, version: u64, at: Timestamp, entry: DeviceEntry) {
        let id = entry.id;
        self.forget_serial(&id);
        self.part(&id, Some(&entry.agent));
        Arc::make_mut(self.serials.entry(entry.agent)).insert(entry.serial.clone(), id);
        if let Some(key) = &entry.key {
            let mut devices = match self.keys.get(&key.id()).map(|signer| &signer.holder) {
                Some(Holder::Devices(devices)) => devices.clone(),
                Some(Holder::Agent(_) | Holder::Revoked(_)) | None => Vec::new(),
            };
            devices.retain(|other| *other != id);
            devices.push(id);
            let signer = Signer { key: key.clone(), holder: Holder::Devices(devices) };
            self.keys.insert(key.id(), Arc::new(signer));
        }
        Arc::make_mut(self.devices.entry(id)).set(version, at, entry);
    }

    /// The device leaves its agent, unless `next` is the same one.
    fn part(&mut self, id: &DeviceId, next: Option<&AgentId>) {
        let old = self.devices.get(id).and_then(|device| device.current()).map(|now| now.agent);
        if let Some(old) = old.filter(|old| Some(old) != next) {
            Arc::make_mut(self.former.entry(old)).insert(*id);
        }
        if let Some(next) = next.filter(|next| self.former.get(next).is_some_and(|former| former.contains(id))) {
            Arc::make_mut(self.former.entry(*next)).remove(id);
        }
    }

    fn forget_serial(&mut self, id: &DeviceId) {
        let Some((agent, serial)) =
            self.devices.get(id).and_then(|device| device.current()).map(|now| (now.agent, now.serial.clone()))
        else {
            return;
        };
        if self.device_by_serial(&agent, &serial) == Some(id) {
            Arc::make_mut(self.serials.entry(agent)).remove(&serial);
        }
    }
}

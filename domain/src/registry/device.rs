//! One device through time: what the registry said of it when, and who may speak for it over which span.
//!
//! Assignments of a device are disjoint, numbered from 0 without gaps, and none is empty. The facts of any moment are those of
//! the newest record that had taken effect; a device's first record takes effect at its first sighting.

use std::sync::Arc;

use super::DeviceEntry;
use crate::{
    ids::{AgentId, KeyId},
    model::Attestation,
    time::{Timestamp, Window},
};

/// Who may speak for a device over a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// From 0 for each device; marks and statistics are kept by it.
    pub number: u32,
    /// The device's own key; absent: the relaying agent signs, with whatever key it has when the proof arrives.
    pub key: Option<KeyId>,
    /// The agent that relays.
    pub agent: AgentId,
    /// When; the end is open (`Timestamp::MAX`) for the current one.
    pub window: Window,
}

impl Assignment {
    /// Whether a proof signed by `key` and relayed by `agent` may speak for the device. `agent_signs`: the key is that agent's.
    #[must_use]
    pub fn admits(&self, key: &KeyId, agent: &AgentId, agent_signs: bool) -> bool {
        self.agent == *agent && self.key.as_ref().map_or(agent_signs, |own| own == key)
    }
}

/// What the registry said of a device from a time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// When it took effect.
    pub from: Timestamp,
    /// The record that said it.
    pub version: u64,
    /// The facts; absent: the device was removed.
    pub entry: Option<Arc<DeviceEntry>>,
}

/// A device's whole history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    states: Vec<DeviceState>,
    assignments: Vec<Assignment>,
}

impl Device {
    /// The facts now; absent: the device was removed.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<DeviceEntry>> {
        self.states.last().and_then(|state| state.entry.as_ref())
    }

    /// The facts as of `at`; absent: it was not approved then.
    #[must_use]
    pub fn at(&self, at: Timestamp) -> Option<&Arc<DeviceEntry>> {
        let after = self.states.partition_point(|state| state.from <= at);
        self.states[..after].last().and_then(|state| state.entry.as_ref())
    }

    /// The facts that an epoch goes by: those at its start, or at the device's approval within it.
    #[must_use]
    pub fn for_epoch(&self, epoch: Window) -> Option<&Arc<DeviceEntry>> {
        self.at(epoch.start).or_else(|| {
            let inside = self.states.iter().filter(|state| epoch.contains(state.from));
            inside.filter_map(|state| state.entry.as_ref()).next()
        })
    }

    /// Whether it gets into another fleet than that of `entry` within `window`.
    #[must_use]
    pub fn leaves_fleet(&self, entry: &DeviceEntry, window: Window) -> bool {
        let inside = self.states.iter().filter(|state| window.contains(state.from));
        inside.filter_map(|state| state.entry.as_ref()).any(|other| other.fleet != entry.fleet)
    }

    /// The facts by which it takes part in an epoch of these fleets; absent: it does not.
    #[must_use]
    pub fn in_epoch(&self, epoch: Window, fleets: &[String]) -> Option<&Arc<DeviceEntry>> {
        self.for_epoch(epoch).filter(|entry| fleets.contains(&entry.fleet))
    }

    /// The newest facts ever, also of a device that was removed.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<DeviceEntry>> {
        self.states.iter().rev().find_map(|state| state.entry.as_ref())
    }

    /// Everything that the registry said of it, oldest first.
    #[must_use]
    pub fn states(&self) -> &[DeviceState] {
        &self.states
    }

    /// Who may or might speak for it, oldest first, disjoint.
    #[must_use]
    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// Who may speak for it at `at`.
    #[must_use]
    pub fn assignment_at(&self, at: Timestamp) -> Option<&Assignment> {
        let after = self.assignments.partition_point(|assignment| assignment.window.start <= at);
        self.assignments[..after].last().filter(|assignment| assignment.window.contains(at))
    }

    /// The fold's step: these facts hold from the record's time on, or, for a device that is new or comes back, from
    /// its first sighting after it was last gone. Its `since` stays the first one given.
    pub(super) fn set(&mut self, version: u64, at: Timestamp, mut entry: DeviceEntry) {
        let from = match self.states.last() {
            None => entry.since.min(at),
            Some(DeviceState { entry: None, from, .. }) => entry.since.max(*from).min(at),
            Some(DeviceState { entry: Some(previous), .. }) => {
                entry.since = previous.since;
                at
            }
        };
        self.assign(from, entry.key.as_ref().map(crate::ids::PublicKey::id), entry.agent);
        self.states.push(DeviceState { from, version, entry: Some(Arc::new(entry)) });
    }

    /// The fold's step: the device is gone from `at` on.
    pub(super) fn remove(&mut self, version: u64, at: Timestamp) {
        self.end(at);
        self.states.push(DeviceState { from: at, version, entry: None });
    }

    fn assign(&mut self, from: Timestamp, key: Option<KeyId>, agent: AgentId) {
        if let Some(open) = self.assignments.last()
            && open.window.end == Timestamp::MAX
            && (open.key, open.agent) == (key, agent)
        {
            return;
        }
        self.end(from);
        // Numbered by place: an assignment that was empty left no trace, so its number is free.
        let number = u32::try_from(self.assignments.len()).unwrap_or(u32::MAX);
        self.assignments.push(Assignment { number, key, agent, window: Window { start: from, end: Timestamp::MAX } });
    }

    fn end(&mut self, at: Timestamp) {
        if let Some(open) = self.assignments.last_mut()
            && open.window.end > at
        {
            open.window.end = at;
            if open.window.is_empty() {
                self.assignments.pop();
            }
        }
    }
}

impl DeviceEntry {
    /// The strongest attestation that a section of this device can honestly claim.
    #[must_use]
    pub fn attestation(&self) -> Attestation {
        match (&self.key, self.hardware_key) {
            (None, _) => Attestation::Agent,
            (Some(_), false) => Attestation::Device,
            (Some(_), true) => Attestation::Hardware,
        }
    }
}

//! Who was heard of and when: memory, never record. Bounded by what the registry knows.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use depin_domain::{
    ids::{AgentId, DeviceId},
    proofs::{Rejection, Section, Verdict},
    time::Timestamp,
};
use depin_proto::{convert::id_bytes, v1};

/// Agents and devices as they were last heard.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    agents: HashMap<AgentId, Agent>,
    devices: HashMap<DeviceId, Device>,
}

#[derive(Clone, Debug, Default)]
struct Agent {
    connections: usize,
    last_heard: Timestamp,
    status: Option<v1::AgentStatus>,
    status_at: Timestamp,
    confirmed: u64,
    sent: u64,
}

#[derive(Clone, Debug, Default)]
struct Device {
    last_accepted: Timestamp,
    last_reading: Timestamp,
    accepted: u64,
    rejected: u64,
    last_rejection: u32,
    last_rejection_detail: String,
}

impl Presence {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panicking thread left is at worst a counter short.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of the agent begins.
    pub(crate) fn connected(&self, agent: AgentId, now: Timestamp) {
        let mut state = self.state();
        let entry = state.agents.entry(agent).or_default();
        entry.connections += 1;
        entry.last_heard = now;
    }

    /// A connection of the agent ends.
    pub(crate) fn disconnected(&self, agent: AgentId) {
        if let Some(entry) = self.state().agents.get_mut(&agent) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }

    /// The agent was heard.
    pub(crate) fn heard(&self, agent: AgentId, now: Timestamp) {
        self.state().agents.entry(agent).or_default().last_heard = now;
    }

    /// The agent told its status.
    pub(crate) fn status(&self, agent: AgentId, status: v1::AgentStatus, now: Timestamp) {
        let mut state = self.state();
        let entry = state.agents.entry(agent).or_default();
        entry.last_heard = now;
        entry.status = Some(status);
        entry.status_at = now;
    }

    /// The agent has applied the registry up to `version`.
    pub(crate) fn confirmed(&self, agent: AgentId, version: u64) {
        let mut state = self.state();
        let entry = state.agents.entry(agent).or_default();
        entry.confirmed = entry.confirmed.max(version);
    }

    /// The agent is being sent what concerns it of the registry at `version`.
    pub(crate) fn sent(&self, agent: AgentId, version: u64) {
        let mut state = self.state();
        let entry = state.agents.entry(agent).or_default();
        entry.sent = entry.sent.max(version);
    }

    /// The sections were judged for the first time. `known`: only devices of the registry are remembered.
    pub(crate) fn judged(
        &self,
        sections: &[Section],
        verdict: &Verdict,
        received_at: Timestamp,
        known: impl Fn(&DeviceId) -> bool,
    ) {
        // One pass: a proof may have thousands of sections and of rejections.
        let mut taken: Vec<(u64, Option<&Rejection>)> = vec![(0, None); sections.len()];
        for rejection in &verdict.rejections {
            let index = rejection.section as usize;
            if let (Some(section), Some((rejected, last))) = (sections.get(index), taken.get_mut(index)) {
                *rejected += super::proofs::rejected_by(section, rejection);
                *last = Some(rejection);
            }
        }
        let mut state = self.state();
        for (section, (rejected, last)) in sections.iter().zip(taken).filter(|(section, _)| known(&section.device)) {
            let count: u64 = section.series.iter().map(|series| series.readings.len() as u64).sum();
            let device = state.devices.entry(section.device).or_default();
            let accepted = count.saturating_sub(rejected);
            device.accepted += accepted;
            device.rejected += rejected;
            if let Some(last) = last {
                device.last_rejection = last.reason.code().into();
                device.last_rejection_detail.clone_from(&last.detail);
            }
            if accepted > 0 {
                device.last_accepted = received_at;
                let newest =
                    section.series.iter().filter_map(|series| series.readings.last()).map(|reading| reading.at);
                device.last_reading = device.last_reading.max(newest.max().unwrap_or_default());
            }
        }
    }

    /// Everything, for those that `shown` admits.
    pub(crate) fn pages(
        &self,
        page: usize,
        agents: impl Fn(&AgentId) -> bool,
        devices: impl Fn(&DeviceId) -> bool,
    ) -> Vec<v1::PresencePage> {
        let state = self.state();
        let shown: Vec<_> = state.agents.iter().filter(|(id, _)| agents(id)).map(agent_message).collect();
        let mut pages: Vec<_> = shown
            .chunks(page)
            .map(|agents| v1::PresencePage { agents: agents.to_vec(), devices: Vec::new() })
            .collect();
        let shown: Vec<_> = state.devices.iter().filter(|(id, _)| devices(id)).map(device_message).collect();
        pages.extend(
            shown.chunks(page).map(|devices| v1::PresencePage { agents: Vec::new(), devices: devices.to_vec() }),
        );
        pages
    }
}

fn agent_message((id, agent): (&AgentId, &Agent)) -> v1::AgentPresence {
    v1::AgentPresence {
        agent_id: id_bytes(id),
        connected: agent.connections > 0,
        last_heard: agent.last_heard.0,
        status: agent.status.clone(),
        confirmed_registry_version: agent.confirmed,
        sent_registry_version: agent.sent,
        status_at: agent.status_at.0,
    }
}

fn device_message((id, device): (&DeviceId, &Device)) -> v1::DevicePresence {
    v1::DevicePresence {
        device_id: id_bytes(id),
        last_accepted: device.last_accepted.0,
        last_reading: device.last_reading.0,
        accepted: device.accepted,
        rejected: device.rejected,
        last_rejection: device.last_rejection,
        last_rejection_detail: device.last_rejection_detail.clone(),
    }
}

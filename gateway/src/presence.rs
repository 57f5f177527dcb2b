//! Who was heard of and when: memory, never record. Bounded by what the registry knows.

use std::{
    collections::{HashMap, HashSet},
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
        let mut rejections: Vec<Vec<&Rejection>> = vec![Vec::new(); sections.len()];
        for rejection in &verdict.rejections {
            if let Some(of_section) = rejections.get_mut(rejection.section as usize) {
                of_section.push(rejection);
            }
        }
        let mut state = self.state();
        for (section, rejections) in sections.iter().zip(rejections).filter(|(section, _)| known(&section.device)) {
            let rejected = rejections.iter().map(|rejection| super::proofs::rejected_by(section, rejection)).sum();
            let count: u64 = section.series.iter().map(|series| series.readings.len() as u64).sum();
            let device = state.devices.entry(section.device).or_default();
            let accepted = count.saturating_sub(rejected);
            device.accepted += accepted;
            device.rejected += rejected;
            if let Some(last) = rejections.last() {
                device.last_rejection = last.reason.code().into();
                device.last_rejection_detail.clone_from(&last.detail);
            }
            if accepted > 0 {
                device.last_accepted = received_at;
                let newest = newest_accepted(section, &rejections).unwrap_or_default();
                device.last_reading = device.last_reading.max(newest);
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

/// When the newest reading was measured that these rejections of its section leave.
fn newest_accepted(section: &Section, rejections: &[&Rejection]) -> Option<Timestamp> {
    // A series, or one reading of it: looked up, because a section may have thousands of both readings and rejections.
    let mut rejected: HashSet<(usize, Option<usize>)> = HashSet::new();
    for rejection in rejections {
        let series = rejection.series? as usize;
        if rejection.readings.is_empty() {
            rejected.insert((series, None));
        }
        rejected.extend(rejection.readings.iter().map(|reading| (series, Some(*reading as usize))));
    }
    let counts = |place: &(usize, Option<usize>)| !rejected.contains(place);
    let series = section.series.iter().enumerate().filter(|(series, _)| counts(&(*series, None)));
    let newest = series.filter_map(|(place, series)| {
        let mut readings = series.readings.iter().enumerate().rev();
        readings.find(|(reading, _)| counts(&(place, Some(*reading)))).map(|(_, reading)| reading.at)
    });
    newest.max()
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

#[cfg(test)]
mod tests {
    use depin_domain::{
        ids::Digest,
        model::Attestation,
        proofs::{Reading, Reason, Series},
    };

    use super::*;

    fn section(name: &str, series: &[(&str, &[i64])]) -> Section {
        let readings = |times: &[i64]| times.iter().map(|at| Reading { at: Timestamp(*at), value: 1 }).collect();
        let series =
            series.iter().map(|(metric, times)| Series { metric: (*metric).to_owned(), readings: readings(times) });
        Section {
            device: DeviceId::of("ns", name),
            model: Digest::default(),
            attestation: Attestation::Agent,
            series: series.collect(),
        }
    }

    fn rejection(section: u32, series: Option<u32>, readings: &[u32], reason: Reason) -> Rejection {
        Rejection { section, series, readings: readings.to_vec(), reason, detail: String::new() }
    }

    /// Last reading, accepted and rejected of each device after these sections were judged.
    fn judged(sections: &[Section], rejections: Vec<Rejection>) -> Vec<(i64, u64, u64)> {
        let presence = Presence::default();
        presence.judged(sections, &Verdict { accepted: 0, rejections }, Timestamp(1_000), |_| true);
        let state = presence.state();
        let seen = sections.iter().map(|section| &state.devices[&section.device]);
        seen.map(|device| (device.last_reading.0, device.accepted, device.rejected)).collect()
    }

    #[test]
    fn the_last_reading_is_the_newest_that_counts() {
        const FAR: i64 = 4_070_908_800_000;
        let mixed = section("mixed", &[("energy", &[10, 20, FAR]), ("power", &[5, 30])]);
        let sections = [section("other", &[("power", &[15])]), mixed];
        let future = rejection(1, Some(0), &[2], Reason::InFuture);
        assert_eq!(judged(&sections, Vec::new()), [(15, 1, 0), (FAR, 5, 0)]);
        assert_eq!(judged(&sections, vec![future.clone()]), [(15, 1, 0), (30, 4, 1)]);
        // Several of one series, and another series as a whole.
        let (late, unknown) =
            (rejection(1, Some(0), &[1], Reason::OutOfRange), rejection(1, Some(1), &[], Reason::UnknownMetric));
        assert_eq!(judged(&sections, vec![late, future, unknown]), [(15, 1, 0), (10, 1, 4)]);
        let whole = rejection(1, None, &[], Reason::Suspended);
        assert_eq!(judged(&sections, vec![whole]), [(15, 1, 0), (0, 0, 5)]);
    }
}

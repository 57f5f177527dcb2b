//! Who was heard of and when: memory, never record. Bounded by what the registry knows.
//!
//! Gateways that share a ledger tell each other, so that any of them answers for all.

mod merge;
mod sharing;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use depin_domain::{
    ids::{AgentId, DeviceId},
    proofs::{Rejection, Section, Verdict},
    time::Timestamp,
};
use depin_ledger::{GatewayId, Heard, Note};
use depin_proto::{convert::id_bytes, v1};
use prost::Message as _;

use merge::{merge_agents, merge_devices};
pub(crate) use sharing::share;

/// Notes of agents and of devices.
const AGENT: i16 = 1;
const DEVICE: i16 = 2;

/// Agents and devices as they were last heard.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    agents: HashMap<AgentId, Agent>,
    devices: HashMap<DeviceId, Device>,
    /// What other gateways have not been told; nothing where there are none.
    untold: Option<Untold>,
    others: HashMap<GatewayId, Other>,
}

#[derive(Debug, Default)]
struct Untold {
    agents: HashSet<AgentId>,
    devices: HashSet<DeviceId>,
}

/// What another gateway told.
#[derive(Debug, Default)]
struct Other {
    agents: HashMap<AgentId, v1::AgentPresence>,
    devices: HashMap<DeviceId, v1::DevicePresence>,
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

impl State {
    fn agent(&mut self, id: AgentId) -> &mut Agent {
        if let Some(untold) = &mut self.untold {
            untold.agents.insert(id);
        }
        self.agents.entry(id).or_default()
    }

    fn device(&mut self, id: DeviceId) -> &mut Device {
        if let Some(untold) = &mut self.untold {
            untold.devices.insert(id);
        }
        self.devices.entry(id).or_default()
    }
}

impl Presence {
    /// One of several gateways.
    pub(crate) fn shared() -> Self {
        Self { state: Mutex::new(State { untold: Some(Untold::default()), ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panicking thread left is at worst a counter short.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of the agent begins.
    pub(crate) fn connected(&self, agent: AgentId, now: Timestamp) {
        let mut state = self.state();
        let entry = state.agent(agent);
        entry.connections += 1;
        entry.last_heard = now;
    }

    /// A connection of the agent ends.
    pub(crate) fn disconnected(&self, agent: AgentId) {
        let mut state = self.state();
        let entry = state.agent(agent);
        entry.connections = entry.connections.saturating_sub(1);
    }

    /// The agent was heard.
    pub(crate) fn heard(&self, agent: AgentId, now: Timestamp) {
        self.state().agent(agent).last_heard = now;
    }

    /// The agent told its status.
    pub(crate) fn status(&self, agent: AgentId, status: v1::AgentStatus, now: Timestamp) {
        let mut state = self.state();
        let entry = state.agent(agent);
        entry.last_heard = now;
        entry.status = Some(status);
        entry.status_at = now;
    }

    /// The agent has applied the registry up to `version`.
    pub(crate) fn confirmed(&self, agent: AgentId, version: u64) {
        let mut state = self.state();
        let entry = state.agent(agent);
        entry.confirmed = entry.confirmed.max(version);
    }

    /// The agent is being sent what concerns it of the registry at `version`.
    pub(crate) fn sent(&self, agent: AgentId, version: u64) {
        let mut state = self.state();
        let entry = state.agent(agent);
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
            let device = state.device(section.device);
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
        let own = state.agents.iter().map(|(id, agent)| (*id, agent_message((id, agent))));
        let told = state.others.values().flat_map(|other| other.agents.iter().map(|(id, told)| (*id, told.clone())));
        let known = merged(own.chain(told).filter(|(id, _)| agents(id)), merge_agents);
        let mut pages: Vec<_> = known
            .chunks(page)
            .map(|agents| v1::PresencePage { agents: agents.to_vec(), devices: Vec::new() })
            .collect();
        let own = state.devices.iter().map(|(id, device)| (*id, device_message((id, device))));
        let told = state.others.values().flat_map(|other| other.devices.iter().map(|(id, told)| (*id, told.clone())));
        let known = merged(own.chain(told).filter(|(id, _)| devices(id)), merge_devices);
        pages.extend(
            known.chunks(page).map(|devices| v1::PresencePage { agents: Vec::new(), devices: devices.to_vec() }),
        );
        pages
    }

    /// What other gateways have not been told, at most so many; they count as told.
    fn untold(&self, most: usize) -> Vec<Note> {
        let mut state = self.state();
        let Some(mut untold) = state.untold.take() else { return Vec::new() };
        let agents: Vec<AgentId> = untold.agents.iter().take(most).copied().collect();
        let devices: Vec<DeviceId> = untold.devices.iter().take(most - agents.len()).copied().collect();
        let mut notes = Vec::with_capacity(agents.len() + devices.len());
        for id in agents {
            untold.agents.remove(&id);
            let known = state.agents.get(&id).map(|agent| agent_message((&id, agent)).encode_to_vec());
            notes.extend(known.map(|body| Note { kind: AGENT, id: id.0.to_vec(), body: body.into() }));
        }
        for id in devices {
            untold.devices.remove(&id);
            let known = state.devices.get(&id).map(|device| device_message((&id, device)).encode_to_vec());
            notes.extend(known.map(|body| Note { kind: DEVICE, id: id.0.to_vec(), body: body.into() }));
        }
        state.untold = Some(untold);
        notes
    }

    /// These were not told after all; none given: nothing was ever told.
    fn tell_again(&self, notes: Option<&[Note]>) {
        let mut state = self.state();
        let Some(mut untold) = state.untold.take() else { return };
        match notes {
            None => {
                untold.agents.extend(state.agents.keys());
                untold.devices.extend(state.devices.keys());
            }
            Some(notes) => {
                untold.agents.extend(of_kind(notes, AGENT).filter_map(AgentId::from_slice));
                untold.devices.extend(of_kind(notes, DEVICE).filter_map(DeviceId::from_slice));
            }
        }
        state.untold = Some(untold);
    }

    /// What other gateways told. Who hung up with a gateway that ended is not connected there any more.
    fn hear(&self, heard: Heard) {
        let mut state = self.state();
        state.others.retain(|id, _| heard.gateways.iter().any(|(known, _)| known == id));
        for (gateway, note) in heard.notes {
            // A word between the look at the gateways and this one: it comes again.
            if !heard.gateways.iter().any(|(known, _)| *known == gateway) {
                continue;
            }
            let other = state.others.entry(gateway).or_default();
            match note.kind {
                AGENT => {
                    let told = AgentId::from_slice(&note.id).zip(v1::AgentPresence::decode(note.body).ok());
                    other.agents.extend(told);
                }
                DEVICE => {
                    let told = DeviceId::from_slice(&note.id).zip(v1::DevicePresence::decode(note.body).ok());
                    other.devices.extend(told);
                }
                // Of a newer gateway.
                _ => {}
            }
        }
        for (gateway, _) in heard.gateways.iter().filter(|(_, alive)| !alive) {
            let other = state.others.get_mut(gateway);
            other.into_iter().flat_map(|other| other.agents.values_mut()).for_each(|agent| agent.connected = false);
        }
    }
}

fn of_kind(notes: &[Note], kind: i16) -> impl Iterator<Item = &[u8]> {
    notes.iter().filter(move |note| note.kind == kind).map(|note| &note.id[..])
}

/// One message for each id, whoever told it.
fn merged<Id: std::hash::Hash + Eq, Message>(
    told: impl Iterator<Item = (Id, Message)>,
    merge: fn(&mut Message, Message),
) -> Vec<Message> {
    let mut known: HashMap<Id, Message> = HashMap::new();
    for (id, message) in told {
        match known.entry(id) {
            std::collections::hash_map::Entry::Occupied(mut entry) => merge(entry.get_mut(), message),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(message);
            }
        }
    }
    known.into_values().collect()
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

    /// What these told each other, as the database would pass it on.
    fn exchange(all: &[(GatewayId, &Presence)], ended: &[GatewayId]) {
        let said: Vec<_> = all.iter().map(|(id, presence)| (*id, presence.untold(100))).collect();
        for (own, presence) in all {
            let others = said.iter().filter(|(id, _)| id != own);
            let gateways = all.iter().filter(|(id, _)| id != own).map(|(id, _)| (*id, !ended.contains(id))).collect();
            let notes = others.flat_map(|(id, notes)| notes.iter().map(|note| (*id, note.clone()))).collect();
            presence.hear(Heard { forgotten: false, gateways, notes, until: 1 });
        }
    }

    fn told(presence: &Presence) -> (Vec<v1::AgentPresence>, Vec<v1::DevicePresence>) {
        let pages = presence.pages(10, |_| true, |_| true);
        let agents = pages.iter().flat_map(|page| page.agents.clone()).collect();
        (agents, pages.iter().flat_map(|page| page.devices.clone()).collect())
    }

    #[test]
    fn any_of_several_gateways_answers_for_all() {
        let (one, other) = (Presence::shared(), Presence::shared());
        let all = [([1; 16], &one), ([2; 16], &other)];
        let (agent, sections) = (AgentId::of("ns", "agent"), [section("meter", &[("energy", &[10, 20])])]);
        one.connected(agent, Timestamp(5));
        one.confirmed(agent, 7);
        one.judged(&sections, &Verdict { accepted: 2, rejections: Vec::new() }, Timestamp(30), |_| true);
        exchange(&all, &[]);
        assert_eq!(told(&one), told(&other));
        // It hangs up there and comes here.
        one.disconnected(agent);
        other.connected(agent, Timestamp(40));
        other.sent(agent, 8);
        other.judged(&sections, &Verdict { accepted: 2, rejections: Vec::new() }, Timestamp(45), |_| true);
        exchange(&all, &[]);
        let (agents, devices) = told(&one);
        assert_eq!(told(&other), (agents.clone(), devices.clone()));
        let seen = &agents[0];
        assert_eq!((seen.connected, seen.last_heard), (true, 40));
        assert_eq!((seen.confirmed_registry_version, seen.sent_registry_version), (7, 8));
        assert_eq!((devices.len(), devices[0].accepted, devices[0].last_accepted), (1, 4, 45));
        // The other one ends: nobody is connected there.
        exchange(&all[..1], &[]);
        assert!(!told(&one).0[0].connected, "what a gateway said that nobody knows any more is void");
        one.connected(agent, Timestamp(50));
        exchange(&all, &[]);
        one.disconnected(agent);
        other.disconnected(agent);
        other.connected(agent, Timestamp(60));
        exchange(&all, &[]);
        assert!(told(&one).0[0].connected);
        exchange(&all, &[[2; 16]]);
        assert!(!told(&one).0[0].connected, "silent for too long");
        assert!(told(&other).0[0].connected);
    }

    #[test]
    fn what_was_not_told_after_all_is_told_again() {
        let presence = Presence::shared();
        presence.heard(AgentId::of("ns", "a"), Timestamp(1));
        presence.heard(AgentId::of("ns", "b"), Timestamp(1));
        let first = presence.untold(1);
        assert_eq!(first.len(), 1);
        presence.tell_again(Some(&first));
        assert_eq!(presence.untold(10).len(), 2);
        assert_eq!(presence.untold(10).len(), 0);
        presence.tell_again(None);
        assert_eq!(presence.untold(10).len(), 2);
        // Alone there is nobody to tell.
        let alone = Presence::default();
        alone.heard(AgentId::of("ns", "a"), Timestamp(1));
        alone.tell_again(None);
        assert_eq!(alone.untold(10).len(), 0);
    }
}

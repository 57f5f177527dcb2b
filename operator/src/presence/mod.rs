//! Presence: what the gateway remembers of who was heard, and of what agents confirmed, becomes conditions `Online` and `Confirmed`, only
//! where they flip.
//!
//! The gateway's memory is no record: where it forgot (a restart), what was heard before stands until silence is proved.

pub mod judge;

use std::{collections::HashMap, sync::Arc, time::Duration};

use depin_crds::{Condition, EdgeAgent, EdgeDevice};
use depin_domain::{
    ids::{AgentId, DeviceId},
    registry::Registry,
    time::Timestamp,
};
use depin_proto::v1::{AgentPresence, DevicePresence, ReadPresenceRequest};
use kube::ResourceExt;
use serde_json::json;

use crate::{
    conditions::{Say, status_of},
    context::Context,
    controller::status_value,
    status::Transition,
};
use judge::{AgentSeen, Lag, Thresholds, Versions};

const MANAGER: &str = "depin-operator/presence";
const EVERY: Duration = Duration::from_secs(5);

/// What is remembered between looks.
#[derive(Debug)]
struct Memory {
    agents: HashMap<AgentId, (AgentSeen, AgentPresence)>,
    devices: HashMap<DeviceId, Timestamp>,
    /// What connected agents have not confirmed yet.
    lags: HashMap<AgentId, Option<Lag>>,
    /// Flips of devices that their statuses do not show yet, and the look that saw them first. A look that comes before the watch told of
    /// the write wishes the very same again: what changes nothing is told to nobody.
    flips: HashMap<DeviceId, (bool, Timestamp)>,
    started: Timestamp,
}

/// Looks for ever.
pub async fn run(context: Arc<Context>, limits: Thresholds) {
    let mut memory = Memory {
        agents: HashMap::new(),
        devices: HashMap::new(),
        lags: HashMap::new(),
        flips: HashMap::new(),
        started: context.clock.now(),
    };
    loop {
        match read(&context, &mut memory).await {
            Ok(()) => tell(&context, &mut memory, &limits).await,
            Err(status) => tracing::warn!(code = %status.code(), message = status.message(), "presence cannot be read"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn read(context: &Context, memory: &mut Memory) -> Result<(), tonic::Status> {
    let mut pages = context.ledger.client().read_presence(ReadPresenceRequest {}).await?.into_inner();
    for (seen, _) in memory.agents.values_mut() {
        // Who is not told of has no stream.
        seen.connected = false;
    }
    while let Some(page) = pages.message().await? {
        for agent in page.agents {
            memory.hear_agent(agent);
        }
        for device in page.devices {
            memory.hear_device(&device);
        }
    }
    Ok(())
}

impl Memory {
    fn hear_agent(&mut self, presence: AgentPresence) {
        let Some(id) = AgentId::from_slice(&presence.agent_id) else { return };
        let heard = Timestamp(presence.last_heard);
        self.agents.insert(id, (AgentSeen { connected: presence.connected, heard }, presence));
    }

    fn hear_device(&mut self, presence: &DevicePresence) {
        let Some(id) = DeviceId::from_slice(&presence.device_id) else { return };
        let heard = self.devices.entry(id).or_insert(Timestamp::MIN);
        *heard = (*heard).max(Timestamp(presence.last_accepted));
    }

    /// When the device's flip was seen first.
    fn flipped(&mut self, id: DeviceId, online: bool, now: Timestamp) -> Timestamp {
        let flip = self.flips.entry(id).or_insert((online, now));
        if flip.0 != online {
            *flip = (online, now);
        }
        flip.1
    }

    fn confirms(&mut self, id: AgentId, now: Timestamp, limits: &Thresholds) -> Option<bool> {
        let seen = self.agents.get(&id).filter(|(seen, _)| seen.connected).map(|(_, presence)| Versions {
            sent: presence.sent_registry_version,
            confirmed: presence.confirmed_registry_version,
        });
        judge::confirms(self.lags.entry(id).or_default(), seen, now, limits)
    }
}

/// One look: what it goes by.
struct Look<'a> {
    context: &'a Context,
    registry: Registry,
    now: Timestamp,
    limits: &'a Thresholds,
}

async fn tell(context: &Context, memory: &mut Memory, limits: &Thresholds) {
    let look = Look { context, registry: context.registry.snapshot(), now: context.clock.now(), limits };
    let mut online = HashMap::new();
    for agent in context.stores.agents.state() {
        let id = AgentId::of(&agent.namespace().unwrap_or_default(), &agent.name_any());
        online.insert(id, tell_agent(&look, memory, &agent, id).await);
    }
    memory.lags.retain(|id, _| online.contains_key(id));
    let devices = context.stores.devices.state();
    if memory.flips.len() > devices.len() {
        // Those of devices that are gone; the others are dated anew.
        memory.flips.clear();
    }
    for device in devices {
        tell_device(&look, memory, &online, &device).await;
    }
}

/// What a condition that is True or False says; none where it says nothing.
fn said(conditions: &[Condition], kind: &str) -> Option<bool> {
    match status_of(conditions, kind) {
        Some("True") => Some(true),
        Some("False") => Some(false),
        _ => None,
    }
}

async fn tell_agent(look: &Look<'_>, memory: &mut Memory, agent: &EdgeAgent, id: AgentId) -> bool {
    let status = agent.status.clone().unwrap_or_default();
    let was = said(&status.conditions, "Online");
    let confirms = confirmation(&status.conditions, memory.confirms(id, look.now, look.limits));
    let known = memory.agents.get(&id);
    // Not told of since this operator looks: silent since then.
    let seen = known.map_or(AgentSeen { connected: false, heard: memory.started }, |(seen, _)| *seen);
    // An agent that was never heard is not lost: it has not come yet.
    let verdict = if known.is_none() && was.is_none() { None } else { judge::agent(seen, was, look.now, look.limits) };
    let Some(online) = verdict.or(was) else { return false };
    let (say, told) = presence(was, online);
    let (confirms, confirmation_told) = confirms.map_or((None, None), |(say, told)| (Some(say), told));
    let reported = known.and_then(|(_, presence)| presence.status.as_ref());
    let version = bounded(reported.map(|reported| &reported.version), 64).or_else(|| status.version.clone());
    let gateway = bounded(reported.map(|reported| &reported.gateway), 256).or_else(|| status.gateway.clone());
    let devices = i64::try_from(look.registry.devices_of(&id).count()).unwrap_or(i64::MAX);
    let over = |say: Say| say.over(&status.conditions, agent.metadata.generation, look.now);
    let conditions = [over(say), confirms.and_then(over)];
    let wanted = status_value(None, json!({"version": version, "gateway": gateway, "devices": devices}), &conditions);
    let told = told.into_iter().chain(confirmation_told);
    look.context.status.wish(agent, agent.status.as_ref(), MANAGER, wanted, told).await;
    online
}

/// What an agent says of itself, if it says something, as long as its status may be.
fn bounded(told: Option<&String>, most: usize) -> Option<String> {
    told.filter(|told| !told.is_empty()).map(|told| told.chars().take(most).collect())
}

/// The condition `Online` of an agent, and the Event of its flip.
fn presence(was: Option<bool>, online: bool) -> (Say, Option<Transition>) {
    let (reason, message) = if online {
        ("Connected", "has a stream to the gateway")
    } else {
        (
            "Silent",
            "no stream to the gateway; check its uplink, power and log. Its devices are told of only after a long absence",
        )
    };
    let told = (was == Some(!online)).then(|| Transition {
        warning: !online,
        reason: if online { "AgentBack" } else { "AgentLost" }.to_owned(),
        note: message.to_owned(),
    });
    (Say::new("Online", online, reason, message), told)
}

/// The condition `Confirmed` of an agent, and the Event of its flip; none while nothing is known. It names no version: those go on
/// without being anybody's news.
fn confirmation(existing: &[Condition], verdict: Option<bool>) -> Option<(Say, Option<Transition>)> {
    let was = said(existing, "Confirmed");
    let confirms = verdict.or(was)?;
    let (reason, message) = if confirms {
        ("Confirmed", "goes by the configuration that it was sent")
    } else {
        (
            "Unconfirmed",
            "connected, but has not confirmed within ten minutes the configuration that it was sent: it may go by older models \
             and devices. See its log, update or restart it; kubectl depin status tells the registry version that it goes by",
        )
    };
    let flipped = if confirms { was == Some(false) } else { was != Some(false) };
    let told = flipped.then(|| Transition { warning: !confirms, reason: reason.to_owned(), note: message.to_owned() });
    Some((Say::new("Confirmed", confirms, reason, message), told))
}

async fn tell_device(look: &Look<'_>, memory: &mut Memory, agents: &HashMap<AgentId, bool>, device: &EdgeDevice) {
    let (context, now) = (look.context, look.now);
    let namespace = device.namespace().unwrap_or_default();
    let id = DeviceId::of(&namespace, &device.name_any());
    let conditions = device.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let was = said(conditions, "Online");
    // A device that was online when this operator came is silent since then, until it is heard.
    let heard = memory.devices.get(&id).copied().or_else(|| was.map(|_| memory.started));
    let agent_online = agents.get(&AgentId::of(&namespace, &device.spec.agent)).copied().unwrap_or(false);
    let known = look.registry.device(&id);
    let cadence = known.and_then(|known| look.registry.cadence_at(known.current()?, now)).unwrap_or(0);
    let verdict = judge::device(heard, agent_online, cadence, was, now, look.limits);
    let Some(online) = verdict.filter(|online| was != Some(*online)) else {
        memory.flips.remove(&id);
        context.status.settle(device, MANAGER).await;
        return;
    };
    let (reason, message) = match (online, agent_online) {
        (true, _) => ("Heard", "readings are accepted"),
        (false, true) => {
            ("Silent", "its agent is connected but brings no accepted reading; see kubectl depin status for rejections")
        }
        (false, false) => ("AgentLost", "its agent has been gone for long"),
    };
    let since = memory.flipped(id, online, now);
    let condition = Say::new("Online", online, reason, message).over(conditions, device.metadata.generation, since);
    let wanted = status_value(None, json!({}), &[condition]);
    context.status.wish(device, device.status.as_ref(), MANAGER, wanted, None).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_is_dated_by_the_look_that_saw_it_first() {
        let (agents, devices, lags, flips) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let mut memory = Memory { agents, devices, lags, flips, started: Timestamp(0) };
        let id = DeviceId::of("town", "m1");
        let looks = [(false, 5), (false, 10), (true, 15), (true, 20), (false, 25)];
        let dated = looks.map(|(online, now)| memory.flipped(id, online, Timestamp(now)).0);
        assert_eq!(dated, [5, 5, 15, 15, 25]);
    }

    #[test]
    fn an_agent_that_does_not_confirm_is_told_once_with_the_remedy_and_so_is_its_return() {
        let mut existing: Vec<Condition> = Vec::new();
        let mut events = Vec::new();
        for verdict in [None, Some(true), None, Some(false), Some(false), None, Some(true), Some(true)] {
            let Some((say, told)) = confirmation(&existing, verdict) else {
                assert!(existing.is_empty());
                continue;
            };
            events.extend(told.map(|told| (told.reason, told.warning)));
            existing = say.over(&existing, Some(1), Timestamp(1_000)).into_iter().collect();
        }
        assert_eq!(events, [("Unconfirmed".to_owned(), true), ("Confirmed".to_owned(), false)]);
        let (say, _) = confirmation(&[], Some(false)).unwrap();
        assert!(say.message.contains("restart it") && say.message.contains("kubectl depin status"), "{}", say.message);
    }
}

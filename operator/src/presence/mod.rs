//! Presence: what the gateway remembers of who was heard becomes conditions `Online`, only where they flip.
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
use judge::{AgentSeen, Thresholds};

const MANAGER: &str = "depin-operator/presence";
const EVERY: Duration = Duration::from_secs(5);

/// What is remembered between looks.
#[derive(Debug)]
struct Memory {
    agents: HashMap<AgentId, (AgentSeen, AgentPresence)>,
    devices: HashMap<DeviceId, Timestamp>,
    started: Timestamp,
}

/// Looks for ever.
pub async fn run(context: Arc<Context>, limits: Thresholds) {
    let mut memory = Memory { agents: HashMap::new(), devices: HashMap::new(), started: context.clock.now() };
    loop {
        match read(&context, &mut memory).await {
            Ok(()) => tell(&context, &memory, &limits).await,
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
}

async fn tell(context: &Context, memory: &Memory, limits: &Thresholds) {
    let now = context.clock.now();
    let registry = context.registry.snapshot();
    let mut online = HashMap::new();
    for agent in context.stores.agents.state() {
        let id = AgentId::of(&agent.namespace().unwrap_or_default(), &agent.name_any());
        online.insert(id, tell_agent(context, memory, &agent, id, now, limits).await);
    }
    for device in context.stores.devices.state() {
        tell_device(context, memory, &registry, &online, &device, now, limits).await;
    }
}

fn was_online(conditions: &[Condition]) -> Option<bool> {
    match status_of(conditions, "Online") {
        Some("True") => Some(true),
        Some("False") => Some(false),
        _ => None,
    }
}

async fn tell_agent(
    context: &Context,
    memory: &Memory,
    agent: &EdgeAgent,
    id: AgentId,
    now: Timestamp,
    limits: &Thresholds,
) -> bool {
    let status = agent.status.clone().unwrap_or_default();
    let was = was_online(&status.conditions);
    let known = memory.agents.get(&id);
    // Not told of since this operator looks: silent since then.
    let seen = known.map_or(AgentSeen { connected: false, heard: memory.started }, |(seen, _)| *seen);
    // An agent that was never heard is not lost: it has not come yet.
    let verdict = if known.is_none() && was.is_none() { None } else { judge::agent(seen, was, now, limits) };
    let Some(online) = verdict.or(was) else { return false };
    let (reason, message) = if online {
        ("Connected", "has a stream to the gateway")
    } else {
        (
            "Silent",
            "no stream to the gateway; check its uplink, power and log. Its devices are told of only after a long absence",
        )
    };
    let flipped = was == Some(!online);
    let told = flipped.then(|| Transition {
        warning: !online,
        reason: if online { "AgentBack" } else { "AgentLost" }.to_owned(),
        note: message.to_owned(),
    });
    let version = known
        .and_then(|(_, presence)| presence.status.as_ref())
        .map(|status| status.version.chars().take(64).collect::<String>());
    let version = version.filter(|version| !version.is_empty()).or_else(|| status.version.clone());
    let registry = context.registry.snapshot();
    let devices = i64::try_from(registry.devices_of(&id).count()).unwrap_or(i64::MAX);
    let condition =
        Say::new("Online", online, reason, message).over(&status.conditions, agent.metadata.generation, now);
    let wanted = status_value(None, json!({"version": version, "devices": devices}), &[condition]);
    context.status.wish(agent, agent.status.as_ref(), MANAGER, wanted, told).await;
    online
}

async fn tell_device(
    context: &Context,
    memory: &Memory,
    registry: &Registry,
    agents: &HashMap<AgentId, bool>,
    device: &EdgeDevice,
    now: Timestamp,
    limits: &Thresholds,
) {
    let namespace = device.namespace().unwrap_or_default();
    let id = DeviceId::of(&namespace, &device.name_any());
    let conditions = device.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let was = was_online(conditions);
    // A device that was online when this operator came is silent since then, until it is heard.
    let heard = memory.devices.get(&id).copied().or_else(|| was.map(|_| memory.started));
    let agent_online = agents.get(&AgentId::of(&namespace, &device.spec.agent)).copied().unwrap_or(false);
    let cadence = registry.device(&id).and_then(|known| registry.cadence_at(known.current()?, now)).unwrap_or(0);
    let verdict = judge::device(heard, agent_online, cadence, was, now, limits);
    let Some(online) = verdict.filter(|online| was != Some(*online)) else {
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
    let condition = Say::new("Online", online, reason, message).over(conditions, device.metadata.generation, now);
    let wanted = status_value(None, json!({}), &[condition]);
    context.status.wish(device, device.status.as_ref(), MANAGER, wanted, None).await;
}

//! `status`: the network at a glance.

use depin_crds::EdgeEnrollment;
use depin_domain::{
    ids::AgentId,
    proofs::{DropReason, Reason},
    registry::Registry,
    time::Timestamp,
};
use depin_proto::v1::{AgentPresence, AgentStatus, DropCount, LedgerInfo, PresencePage};
use kube::{ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::{
    args::Arguments,
    cluster::Cluster,
    fault::Fault,
    ledger::Ledger,
    output::{Report, Table, ago},
};

pub(super) async fn run(arguments: &Arguments) -> Result<Report, Fault> {
    let mut text = String::new();
    let mut value = json!({});
    let ledger = Ledger::optional(arguments).await?;
    if let Ok(ledger) = &ledger {
        let (info, presence, registry) = (ledger.info().await?, ledger.presence().await?, ledger.registry().await?);
        value["ledger"] = ledger_value(&info);
        value["ledger"]["gatewayKey"] = json!(ledger.server_key().await?.map(|key| key.id()));
        value["agents"] = agents_value(&presence, &registry);
        text.push_str(&ledger_text(&info, &presence, &registry));
        text.push_str(&agents_text(&presence, &registry, Timestamp(info.now)));
    }
    match Cluster::connect(&arguments.cluster).await {
        Ok(cluster) => {
            let waiting = waiting(&cluster).await?;
            text.push_str(&waiting_text(&waiting));
            value["waiting"] = waiting
                .iter()
                .map(|(namespace, name, what)| json!({"namespace": namespace, "name": name, "what": what}))
                .collect();
        }
        // The ledger alone is worth showing; nothing at all is not.
        Err(fault) if ledger.is_err() => return Err(fault),
        Err(fault) => text.push_str(&format!("\nAPI server: {}\n", fault.message)),
    }
    if let Err(fault) = ledger {
        value["ledgerFault"] = json!({"error": fault.message, "remedy": fault.remedy});
        text.push_str(&format!(
            "\nReadings, rejections and agents stand in the ledger, which was not reached: {}\n  {}\n",
            fault.message, fault.remedy
        ));
    }
    Ok(Report::new(value, text))
}

fn counts(list: &[DropCount]) -> impl Iterator<Item = (String, &'static str, u64)> {
    list.iter().map(|count| {
        let reason = u16::try_from(count.reason).ok().and_then(Reason::from_code);
        let name = reason.map_or_else(|| count.reason.to_string(), |reason| reason.name().to_owned());
        (name, reason.map_or("", Reason::remedy), count.count)
    })
}

/// Counts by reason.
fn map(list: &[DropCount]) -> serde_json::Map<String, Value> {
    counts(list).map(|(name, _, count)| (name, json!(count))).collect()
}

/// What an agent gave up of what it had on its disk.
fn dropped(list: &[DropCount]) -> impl Iterator<Item = (String, &'static str, u64)> {
    list.iter().map(|count| {
        let reason = u8::try_from(count.reason).ok().and_then(DropReason::from_code);
        let name = reason.map_or_else(|| count.reason.to_string(), |reason| format!("{reason:?}"));
        (name, reason.map_or("", DropReason::remedy), count.count)
    })
}

fn ledger_value(info: &LedgerInfo) -> Value {
    json!({
        "incarnation": info.incarnation, "registryVersion": info.registry_version, "position": info.position,
        "proofs": info.proofs, "readingsAccepted": info.readings_accepted, "closingHeld": info.closing_held,
        "readingsRejected": map(&info.readings_rejected), "proofsRefused": map(&info.proofs_refused), "now": info.now,
    })
}

fn ledger_text(info: &LedgerInfo, presence: &PresencePage, registry: &Registry) -> String {
    let mut text = format!(
        "Ledger      {} proofs, {} readings accepted, position {}, registry version {}\n",
        info.proofs, info.readings_accepted, info.position, info.registry_version
    );
    if info.closing_held {
        text.push_str("Closing     held after a restore, until every known chain has reported its head\n");
    }
    let mut table = Table::new(["WHAT", "REASON", "COUNT", "REMEDY"]);
    let mut add = |what: &str, (name, remedy, count): (String, &str, u64)| {
        if count > 0 {
            table.row([what.into(), name, count.to_string(), remedy.into()]);
        }
    };
    counts(&info.readings_rejected).for_each(|told| add("reading rejected", told));
    counts(&info.proofs_refused).for_each(|told| add("proof refused", told));
    for agent in &presence.agents {
        let (name, status) = (agent_name(registry, &agent.agent_id), agent.status.clone().unwrap_or_default());
        counts(&status.rejected).for_each(|told| add(&format!("message rejected by {name}"), told));
        dropped(&status.drops).for_each(|told| add(&format!("reading dropped by {name}"), told));
    }
    text.push_str(&format!("\n{}\n", table.or("Nothing was rejected.")));
    text
}

pub(super) fn agent_name(registry: &Registry, id: &[u8]) -> String {
    let agent = AgentId::from_slice(id).and_then(|id| registry.agent(&id));
    agent.map_or_else(|| hex::encode(id), |agent| format!("{}/{}", agent.namespace, agent.name))
}

fn agents_value(presence: &PresencePage, registry: &Registry) -> Value {
    let agent = |agent: &AgentPresence| {
        let mut value = json!({
            "agent": agent_name(registry, &agent.agent_id), "connected": agent.connected, "lastHeard": agent.last_heard,
            "confirmedRegistryVersion": agent.confirmed_registry_version,
            "key": AgentId::from_slice(&agent.agent_id).and_then(|id| registry.agent(&id)).map(|agent| agent.key.id()),
        });
        if let Some(status) = &agent.status {
            let lost: serde_json::Map<String, Value> =
                dropped(&status.drops).map(|(name, _, count)| (name, json!(count))).collect();
            value["status"] = json!({
                "version": status.version, "gateway": status.gateway, "spoolBytes": status.spool_bytes, "spoolReadings": status.spool_readings,
                "oldestReading": (status.oldest_reading > 0).then_some(status.oldest_reading), "clock": status.clock,
                "clockSet": status.clock_set, "messagesRejected": map(&status.rejected), "readingsDropped": lost,
            });
        }
        value
    };
    presence.agents.iter().map(agent).collect()
}

fn agents_text(presence: &PresencePage, registry: &Registry, now: Timestamp) -> String {
    let mut table = Table::new(["AGENT", "CONNECTED", "HEARD", "REGISTRY", "SPOOLED", "OLDEST", "CLOCK", "GATEWAY"]);
    for agent in &presence.agents {
        let status = agent.status.as_ref();
        let told = |tell: &dyn Fn(&AgentStatus) -> String| status.map_or("-".into(), tell);
        table.row([
            agent_name(registry, &agent.agent_id),
            if agent.connected { "yes" } else { "no" }.into(),
            ago(Timestamp(agent.last_heard), now),
            agent.confirmed_registry_version.to_string(),
            told(&|status| format!("{} readings, {} KiB", status.spool_readings, status.spool_bytes.div_ceil(1024))),
            told(&|status| match status.oldest_reading {
                0 => "-".into(),
                oldest => ago(Timestamp(oldest), now),
            }),
            told(&|status| if status.clock_set { "set" } else { "not set: nothing is sealed" }.into()),
            told(&|status| if status.gateway.is_empty() { "-".into() } else { status.gateway.clone() }),
        ]);
    }
    let heard = presence.devices.iter().filter(|device| device.accepted > 0).count();
    format!(
        "{}\nDevices     {heard} with accepted readings of {} registered\n",
        table.or("No agent was heard yet.\n"),
        registry.device_count()
    )
}

/// Enrollments that wait for a person: namespace, name, what asks.
async fn waiting(cluster: &Cluster) -> Result<Vec<(String, String, String)>, Fault> {
    let list = cluster.wide::<EdgeEnrollment>().list(&ListParams::default()).await?;
    let asks = |enrollment: &EdgeEnrollment| {
        let request = enrollment.spec.request.as_ref()?;
        let decided = enrollment.status.iter().flat_map(|status| &status.conditions);
        if decided.clone().any(|condition| condition.type_ == "Denied" && condition.status == "True") {
            return None;
        }
        let serial = request.serial.clone().unwrap_or_default();
        let agent = request.agent.clone().unwrap_or_default();
        Some((
            enrollment.namespace().unwrap_or_default(),
            enrollment.name_any(),
            format!("{:?} {serial} {agent}", request.kind),
        ))
    };
    Ok(list.iter().filter_map(asks).collect())
}

fn waiting_text(waiting: &[(String, String, String)]) -> String {
    let mut table = Table::new(["NAMESPACE", "ENROLLMENT", "ASKS", "DECIDE"]);
    for (namespace, name, what) in waiting.iter().take(50) {
        table.row([
            namespace.clone(),
            name.clone(),
            what.clone(),
            format!("kubectl depin approve -n {namespace} {name}"),
        ]);
    }
    let more = waiting.len().saturating_sub(50);
    let more = if more > 0 { format!("… and {more} more\n") } else { String::new() };
    format!("\n{}{more}", table.or("Nothing waits for a decision.\n"))
}

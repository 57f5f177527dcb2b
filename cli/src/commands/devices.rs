//! `devices`: what the API server says of devices, and when the ledger heard them.

use std::collections::BTreeMap;

use depin_crds::{Condition, EdgeDevice};
use depin_domain::{ids::DeviceId, proofs::Reason, time::Timestamp};
use depin_proto::v1::DevicePresence;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;

use crate::{
    args::{HeadingsFlag, SelectorFlag},
    cluster::Cluster,
    fault::Fault,
    ledger::Ledger,
    output::{Report, Table, ago},
};

/// Objects in one answer of the API server.
const PAGE: u32 = 500;

pub(super) async fn run(
    cluster: &Cluster,
    ledger: Option<Ledger>,
    selector: &SelectorFlag,
    headings: HeadingsFlag,
) -> Result<Report, Fault> {
    let mut heard: BTreeMap<DeviceId, DevicePresence> = BTreeMap::new();
    let mut now = None;
    if let Some(ledger) = ledger {
        now = Some(Timestamp(ledger.info().await?.now));
        let devices = ledger.presence().await?.devices;
        heard.extend(devices.into_iter().filter_map(|device| Some((DeviceId::from_slice(&device.device_id)?, device))));
    }
    let mut table = Table::new([
        "NAMESPACE",
        "NAME",
        "SERIAL",
        "FLEET",
        "AGENT",
        "READY",
        "ONLINE",
        "HEARD",
        "ACCEPTED",
        "REJECTED",
        "REASON",
    ])
    .headed(headings);
    let mut values = Vec::new();
    let mut page = ListParams { label_selector: selector.selector.clone(), ..ListParams::default() }.limit(PAGE);
    loop {
        let list = cluster.wide::<EdgeDevice>().list(&page).await?;
        for device in &list.items {
            let (namespace, name) = (device.namespace().unwrap_or_default(), device.name_any());
            let presence = heard.get(&DeviceId::of(&namespace, &name));
            let conditions = device.status.as_ref().map_or(&[][..], |status| &status.conditions);
            let (ready, mut reason) = condition(conditions, "Ready");
            let (eligible, why_not) = condition(conditions, "Eligible");
            if ready == "True" && eligible == "False" {
                // It is known and yet earns nothing: that is what its owner must hear.
                reason = why_not;
            }
            let (online, _) = condition(conditions, "Online");
            let rejected = presence.filter(|device| device.rejected > 0).and_then(rejection);
            values.push(json!({
                "namespace": namespace, "name": name, "serial": device.spec.serial, "fleet": device.spec.fleet, "agent": device.spec.agent,
                "ready": ready, "eligible": eligible, "online": online, "reason": reason, "lastRejection": rejected,
                "lastReading": presence.map(|device| device.last_reading),
                "accepted": presence.map(|device| device.accepted), "rejected": presence.map(|device| device.rejected),
            }));
            let count =
                |field: fn(&DevicePresence) -> u64| presence.map_or("-".into(), |device| field(device).to_string());
            let last = presence.zip(now).map_or("-".into(), |(device, now)| ago(Timestamp(device.last_accepted), now));
            table.row([
                namespace,
                name,
                device.spec.serial.clone(),
                device.spec.fleet.clone(),
                device.spec.agent.clone(),
                ready,
                online,
                last,
                count(|device| device.accepted),
                count(|device| device.rejected),
                rejected.unwrap_or(reason),
            ]);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    Ok(Report::new(values.into(), table.or("No devices; with -A in all namespaces.")))
}

/// Status and reason of a condition; `Unknown` where it is not set.
fn condition(conditions: &[Condition], kind: &str) -> (String, String) {
    let found = conditions.iter().find(|condition| condition.type_ == kind);
    found.map_or(("Unknown".into(), String::new()), |condition| (condition.status.clone(), condition.reason.clone()))
}

fn rejection(device: &DevicePresence) -> Option<String> {
    let reason = Reason::from_code(u16::try_from(device.last_rejection).ok()?)?;
    let detail = &device.last_rejection_detail;
    Some(if detail.is_empty() { reason.name().into() } else { format!("{} ({detail})", reason.name()) })
}

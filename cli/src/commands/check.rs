//! `check`: what would make a network fail, each finding with its remedy.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{api::ListParams, core::DynamicObject};
use serde_json::json;

use crate::{
    args::{Arguments, HeadingsFlag},
    cluster::Cluster,
    fault::Fault,
    ledger::Ledger,
    output::{Report, Table},
};

/// Kinds that must be there, with their short names.
const KINDS: [(&str, &str); 7] = [
    ("edgedevicemodels", "edm"),
    ("edgefleets", "efleet"),
    ("edgeagents", "ea"),
    ("edgedevices", "edev"),
    ("edgeenrollments", "ee"),
    ("rewardprograms", "rp"),
    ("rewardepochs", "re"),
];
/// Clocks may differ by so much.
const MAX_SKEW_MS: i64 = 2_000;

/// Something that was looked at.
struct Finding {
    what: String,
    /// Empty: as it should be.
    fault: String,
    remedy: &'static str,
}

pub(super) async fn run(arguments: &Arguments, broker: Option<&Path>, headings: HeadingsFlag) -> Result<Report, Fault> {
    let mut findings = Vec::new();
    match Cluster::connect(&arguments.cluster).await {
        Ok(cluster) => kinds(&cluster, &mut findings).await?,
        Err(fault) => findings.push(Finding {
            what: "API server".into(),
            fault: fault.message,
            remedy: "set KUBECONFIG, --kubeconfig or --context",
        }),
    }
    match Ledger::connect(arguments).await {
        Ok(Some(ledger)) => record(&ledger, &mut findings).await,
        Ok(None) => findings.push(Finding {
            what: "ledger".into(),
            fault: "not looked at".into(),
            remedy: "give --ledger https://host:port",
        }),
        Err(fault) => findings.push(Finding {
            what: "ledger".into(),
            fault: fault.message,
            remedy: "correct --ledger, --cert, --key, --ca",
        }),
    }
    if let Some(path) = broker {
        let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
        findings.extend(broker_settings(&text));
    }
    let mut table = Table::new(["", "WHAT", "FINDING", "REMEDY"]).headed(headings);
    for finding in &findings {
        let right = finding.fault.is_empty();
        table.row([
            if right { "ok" } else { "!!" }.into(),
            finding.what.clone(),
            finding.fault.clone(),
            if right { String::new() } else { finding.remedy.into() },
        ]);
    }
    let value = findings.iter().map(|finding| json!({"what": finding.what, "finding": finding.fault, "remedy": finding.remedy, "right": finding.fault.is_empty()}));
    let right = findings.iter().all(|finding| finding.fault.is_empty());
    Ok(Report { right, ..Report::new(value.collect(), table.text()) })
}

async fn kinds(cluster: &Cluster, findings: &mut Vec<Finding>) -> Result<(), Fault> {
    let definitions: kube::Api<CustomResourceDefinition> = kube::Api::all(cluster.client.clone());
    let list = definitions.list(&ListParams::default()).await?;
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for definition in &list.items {
        let names = &definition.spec.names;
        for name in names.short_names.iter().flatten().chain([&names.plural]).chain(&names.singular) {
            owners.entry(name).or_default().push(&definition.spec.group);
        }
    }
    for (plural, short) in KINDS {
        let there = owners.get(plural).is_some_and(|groups| groups.contains(&depin_crds::GROUP));
        let mut fault = if there { String::new() } else { "is not installed".to_owned() };
        for name in [plural, short] {
            let others = owners.get(name).into_iter().flatten().filter(|group| **group != depin_crds::GROUP);
            for other in others {
                fault = format!("{name:?} is also a name in {other}");
            }
        }
        let remedy = "install the CRDs (kubectl apply --server-side -f crds/yaml); where a name collides, write it with .depin.dev";
        findings.push(Finding { what: format!("kind {plural}"), fault, remedy });
    }
    let resource = kube::core::ApiResource::erase::<depin_crds::EdgeDeviceModel>(&());
    let models: kube::Api<DynamicObject> = kube::Api::all_with(cluster.client.clone(), &resource);
    let fault = match models.list(&ListParams::default().limit(1)).await {
        Ok(list) if list.items.is_empty() => "there is none yet".to_owned(),
        Ok(_) => String::new(),
        Err(error) => Fault::from(error).message,
    };
    findings.push(Finding { what: "device models".into(), fault, remedy: "apply one: examples/networks has some" });
    Ok(())
}

async fn record(ledger: &Ledger, findings: &mut Vec<Finding>) {
    let before = jiff::Timestamp::now().as_millisecond();
    let info = match ledger.info().await {
        Ok(info) => info,
        Err(fault) => {
            findings.push(Finding {
                what: "ledger".into(),
                fault: fault.message,
                remedy: "check --ledger and that the gateway runs",
            });
            return;
        }
    };
    let after = jiff::Timestamp::now().as_millisecond();
    findings.push(Finding { what: "ledger".into(), fault: String::new(), remedy: "" });
    // The ledger read its clock between these two moments.
    let skew = (before.saturating_sub(info.now)).max(info.now.saturating_sub(after));
    let fault = if skew > MAX_SKEW_MS { format!("differs from here by {skew} ms") } else { String::new() };
    findings.push(Finding { what: "gateway's clock".into(), fault, remedy: "run NTP on both machines" });
    let fault = if info.closing_held { "held since a restore".to_owned() } else { String::new() };
    findings.push(Finding {
        what: "closing of epochs".into(),
        fault,
        remedy: "wait for all agents to connect; kubectl depin release shows which, and releases it",
    });
}

/// What mosquitto would lose silently: see the design's section on the promise's beginning.
fn broker_settings(text: &str) -> Vec<Finding> {
    let mut settings: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once(char::is_whitespace) {
            settings.insert(name, value.trim());
        }
    }
    let value = |name: &str, default: &'static str| settings.get(name).copied().unwrap_or(default);
    let check = |what: &str, right: bool, fault: String, remedy| Finding {
        what: format!("mosquitto {what}"),
        fault: if right { String::new() } else { fault },
        remedy,
    };
    let persistence = value("persistence", "false");
    let queue = value("max_queued_messages", "1000");
    let flying = value("max_inflight_messages", "20");
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    vec![
        check(
            "persistence",
            persistence == "true",
            format!("is {persistence}: a restart loses what is queued"),
            "set persistence true and persistence_location",
        ),
        check(
            "max_queued_messages",
            queue == "0" || number(queue) >= 100_000,
            format!("is {queue}: more is dropped silently while an agent is away"),
            "set max_queued_messages 0 (or at least 100000) and bound it with max_queued_bytes",
        ),
        check(
            "max_inflight_messages",
            flying == "0" || number(flying) >= 100,
            format!("is {flying}: throughput is one write to disk for so few messages"),
            "set max_inflight_messages 1000",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_broker_loses_messages_and_a_set_one_does_not() {
        let faults = |text: &str| broker_settings(text).into_iter().filter(|finding| !finding.fault.is_empty()).count();
        assert_eq!(faults("listener 1883\n# persistence true"), 3);
        assert_eq!(faults("persistence true\nmax_queued_messages 0\nmax_inflight_messages 1000\n"), 0);
    }
}

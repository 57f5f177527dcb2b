//! An edge whose line to the hub is cut for longer than the cluster waits for a node.

use std::{collections::BTreeMap, time::Duration};

use depin_tests::{eventually, now_ms};
use serde_json::Value;
use xtask::nodes::EDGES;

use crate::{
    LIMIT,
    installation::{AGENTS, Installation},
    site::{DEVICES, Site},
};

/// How long the edge stays dark after its Node was told to be lost: the operator tells a lost agent after a minute.
const DARK: Duration = Duration::from_secs(50);
/// How long nothing is written before the outage begins.
const REST: Duration = Duration::from_secs(10);
/// Writes for one outage: the agent's status, lost and back; the fleet's roll-up, as often.
const WRITES: u64 = 8;
/// What an outage may change; epochs go on being closed and shown.
const RESOURCES: [&str; 3] = ["edgeagents", "edgedevices", "edgefleets"];

pub(crate) fn a_dark_edge_goes_on_and_is_credited_once(installation: &Installation, site: &Site<'_>) {
    let (index, edge) = (1, EDGES[1]);
    let pods = pods(installation);
    // Devices that were just let in are told of for a while.
    let mut before = (writes(installation), now_ms());
    eventually("the end of what began before", LIMIT, || {
        let now = writes(installation);
        if now != before.0 {
            before = (now, now_ms());
        }
        now_ms() > before.1 + i64::try_from(REST.as_millis()).unwrap()
    });
    let before = before.0;
    installation.nodes.cut(edge).unwrap();
    let cut = now_ms();
    eventually("the Node to be told lost", LIMIT, || node_ready(installation, edge) != "True");
    let acknowledged = site.acknowledged(index);
    eventually("the agent to be told lost", LIMIT, || condition(installation, edge, "Online") == "False");
    eventually("a longer darkness", LIMIT, || now_ms() > cut + i64::try_from(DARK.as_millis()).unwrap());
    assert!(
        site.acknowledged(index) > acknowledged + DEVICES as u64,
        "the edge goes on taking telemetry while it is dark"
    );
    installation.nodes.mend(edge).unwrap();
    eventually("the Node to be Ready again", LIMIT, || node_ready(installation, edge) == "True");
    eventually("the agent to be back", LIMIT, || condition(installation, edge, "Online") == "True");
    assert_eq!(self::pods(installation), pods, "no Pod was evicted or started anew");
    let mut told = writes(installation);
    told.retain(|what, count| {
        *count -= before.get(what).copied().unwrap_or_default();
        *count > 0
    });
    let written: u64 = told.values().sum();
    assert!(written <= WRITES, "{written} writes for one outage: {told:#?}");
    println!("progress cluster: {written} writes for the outage");
    let events =
        installation.cluster.kubectl(&["get", "events", "-n", "weather", "-o", "jsonpath={.items[*].reason}"]).unwrap();
    assert!(events.contains("AgentLost"), "{events}");
    // The devices were silent for less than the long absence: their conditions tell nothing of it.
    let devices = installation.cluster.get(&["edgedevices", "-n", "weather"]).unwrap();
    for device in devices["items"].as_array().unwrap() {
        let online =
            device["status"]["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == "Online");
        assert!(online.is_none_or(|online| online["status"] != "False"), "{device}");
    }
}

fn node_ready(installation: &Installation, node: &str) -> String {
    let path = r#"-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    installation.cluster.kubectl(&["get", "node", node, path]).unwrap()
}

fn condition(installation: &Installation, agent: &str, kind: &str) -> String {
    let path = format!(r#"-o=jsonpath={{.status.conditions[?(@.type=="{kind}")].status}}"#);
    installation.cluster.kubectl(&["get", "edgeagent", agent, "-n", "weather", &path]).unwrap()
}

/// Name and identity of every Pod of ours, and restarts but for operators': one that could not renew its lease on a busy machine starts anew.
fn pods(installation: &Installation) -> Vec<String> {
    let mut told = Vec::new();
    for namespace in [AGENTS, xtask::stack::NAMESPACE] {
        let pods = installation.cluster.get(&["pods", "-n", namespace]).unwrap();
        told.extend(pods["items"].as_array().unwrap().iter().map(|pod| {
            let operator = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "operator";
            let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
            let restarts: Vec<&Value> =
                statuses.iter().filter(|_| !operator).map(|status| &status["restartCount"]).collect();
            format!("{} {} {restarts:?}", pod["metadata"]["name"], pod["metadata"]["uid"])
        }));
    }
    told.sort();
    told
}

/// Writes that the API server took for what an outage may change, by what was written how.
fn writes(installation: &Installation) -> BTreeMap<String, u64> {
    let metrics = installation.cluster.kubectl(&["get", "--raw", "/metrics"]).unwrap();
    let requests = metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")?.split_once("} "));
    let mut told = BTreeMap::new();
    for (labels, count) in requests {
        let of = |label: &str, all: &[&str]| all.iter().any(|one| labels.contains(&format!(r#"{label}="{one}""#)));
        if of("resource", &RESOURCES) && of("verb", &["POST", "PUT", "PATCH", "APPLY", "DELETE"]) {
            *told.entry(labels.to_owned()).or_default() += count.parse::<f64>().unwrap() as u64;
        }
    }
    told
}

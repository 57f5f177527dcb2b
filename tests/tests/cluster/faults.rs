//! What dies, hangs and is cut off under load, and comes back without hands. What was promised is counted at the end, by the site.

use std::time::Duration;

use depin_tests::{eventually, now_ms};
use xtask::{
    admin::{http_get, metric},
    nodes::{EDGES, HUB},
    stack::NAMESPACE,
};

use crate::{
    LIMIT,
    installation::{AGENTS, Installation},
    site::{DEVICES, Site},
};

/// How long the API server is away.
fn away() -> Duration {
    Duration::from_secs(if depin_trials::is_soak() { 120 } else { 20 })
}

/// Pods of every part end without a chance to drain, one after the other.
pub(crate) fn killed_pods_come_back(installation: &Installation) {
    let parts = [(NAMESPACE, "operator"), (NAMESPACE, "gateway"), (AGENTS, "agent")];
    for (namespace, part) in parts {
        let label = format!("app.kubernetes.io/component={part}");
        let pods = installation.cluster.kubectl(&["get", "pods", "-n", namespace, "-l", &label, "-o", "name"]).unwrap();
        let victim = pods.lines().next().unwrap();
        installation.cluster.kubectl(&["delete", victim, "-n", namespace, "--force", "--grace-period=0"]).unwrap();
    }
    installation.await_workloads();
    // A new gateway counts from nothing.
    let gateway = installation.admin_of(NAMESPACE, "gateway", None);
    eventually("readings after the killings", LIMIT, || accepted(&gateway) > 0);
}

/// The API server is away; gateways go on judging, and nobody is restarted for it but who leads.
pub(crate) fn without_the_api_server_gateways_go_on(installation: &Installation) {
    let gateway = installation.admin_of(NAMESPACE, "gateway", None);
    let before = accepted(&gateway);
    installation.nodes.pause(HUB, "kube-apiserver").unwrap();
    let gone = now_ms();
    eventually("more readings without an API server", LIMIT, || accepted(&gateway) > before);
    eventually("the end of its absence", LIMIT, || now_ms() > gone + i64::try_from(away().as_millis()).unwrap());
    let late = accepted(&gateway);
    eventually("readings at the end of its absence", LIMIT, || accepted(&gateway) > late);
    installation.nodes.resume(HUB, "kube-apiserver").unwrap();
    installation.await_workloads();
}

/// The ledger's volume is full for a while: nothing is acknowledged that could not be kept, agents spool, and all goes on without hands.
pub(crate) fn a_full_volume_holds_up_and_goes_on(installation: &Installation, site: &Site<'_>) {
    let gateway = installation.admin_of(NAMESPACE, "gateway", None);
    let failing = || metric(&http_get(&gateway, "/metrics").unwrap_or_default(), "depin_ledger_failing ") > 0.0;
    let within = |script: &str| installation.nodes.run_inside(HUB, "sh", &["-c", script]).unwrap();
    let filler = format!("{}/filler", within("dirname $(find /var/lib/volumes -type d -name log)").trim());
    // It writes until there is no room.
    within(&format!(
        "dd if=/dev/zero of={filler} bs=64k 2>/dev/null || true; dd if=/dev/zero of={filler}.rest bs=1 count=64k 2>/dev/null || true"
    ));
    eventually("the ledger to tell that its disk is full", LIMIT, failing);
    let acknowledged = site.acknowledged(0);
    eventually("the gateway to be not ready", LIMIT, || {
        http_get(&gateway, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 503"))
    });
    eventually("agents to go on", LIMIT, || site.acknowledged(0) > acknowledged + DEVICES as u64);
    // Something small may have fitted into the last page; the next record does not.
    eventually("the ledger to be without room still", LIMIT, failing);
    within(&format!("rm {filler} {filler}.rest"));
    eventually("the ledger to go on", LIMIT, || !failing());
    let before = accepted(&gateway);
    eventually("readings after the full disk", LIMIT, || accepted(&gateway) > before);
    installation.await_workloads();
}

/// The leader hangs until another one leads; when it goes on, the ledger takes nothing from it.
pub(crate) fn a_leader_that_hung_is_fenced(installation: &Installation) {
    let hung = leader(installation);
    let path = "-o=jsonpath={.spec.nodeName} {.metadata.uid}";
    let told = installation.cluster.kubectl(&["get", "pod", &hung, "-n", NAMESPACE, path]).unwrap();
    let (node, uid) = told.split_once(' ').unwrap();
    installation.nodes.pause_pod(node, uid).unwrap();
    eventually("another leader", LIMIT, || leader(installation) != hung);
    let next = leader(installation);
    installation.nodes.resume_pod(node, uid).unwrap();
    installation.await_workloads();
    assert_eq!(leader(installation), next, "who hung does not take over again from who works");
}

/// Readings that a gateway accepted since it started.
fn accepted(admin: &str) -> u64 {
    let metrics = http_get(admin, "/metrics").unwrap_or_default();
    metric(&metrics, r#"depin_readings_total{result="accepted""#) as u64
}

/// The Pod that leads.
fn leader(installation: &Installation) -> String {
    let holder = ["get", "lease", "depin-operator", "-n", NAMESPACE, "-o=jsonpath={.spec.holderIdentity}"];
    installation.cluster.kubectl(&holder).unwrap()
}

/// An agent's object is deleted: its stream ends, and it finds no way in again.
pub(crate) fn a_revoked_agent_is_cut_off(installation: &Installation) {
    let edge = EDGES[0];
    let admin = installation.admin_of(AGENTS, "agent", Some(edge));
    let connected = || metric(&http_get(&admin, "/metrics").unwrap(), "depin_agent_gateway_connected ") > 0.0;
    eventually("the agent to be connected", LIMIT, connected);
    installation.cluster.kubectl(&["delete", "edgeagent", edge, "-n", "weather"]).unwrap();
    let deleted = now_ms();
    eventually("the revoked agent's stream to end", LIMIT, || !connected());
    println!("progress cluster: a revoked agent was cut off after {} ms", now_ms() - deleted);
}

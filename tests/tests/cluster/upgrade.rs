//! From the version before to this one, under load, there and back and there again.

use depin_tests::eventually;
use serde_json::Value;
use tokio::runtime::Runtime;
use xtask::{before, nodes::EDGES, stack::NAMESPACE};

use crate::{LIMIT, installation::Installation, progress, site::Site};

/// What an upgrade must not change, and what it must.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    authority: String,
    keys: Vec<String>,
}

/// A network lives through it.
pub(crate) fn an_upgrade_loses_nothing_and_can_be_taken_back(installation: &Installation, runtime: &Runtime) {
    installation.install(&before::chart());
    progress("the version before is installed");
    let mut site = Site::open(installation);
    site.await_readings(runtime, 50);
    await_versions(installation, before::VERSION);
    let (old, kept) = (definition(installation), kept(installation));

    installation.upgrade(&installation.chart());
    await_versions(installation, env!("CARGO_PKG_VERSION"));
    let new = definition(installation);
    assert_ne!(new, old, "the definition changes with the chart");
    assert!(new.pointer(GATEWAY).is_some() && old.pointer(GATEWAY).is_none(), "{new}");
    readings_go_on(&site);
    assert_eq!(self::kept(installation), kept);
    installation.check();
    progress("upgraded");

    installation.roll_back();
    await_versions(installation, before::VERSION);
    readings_go_on(&site);
    assert_eq!(self::kept(installation), kept);
    progress("taken back");

    installation.upgrade(&installation.chart());
    await_versions(installation, env!("CARGO_PKG_VERSION"));
    let told = installation.plugin(&["upgrade", "finalize", "--yes"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    readings_go_on(&site);
    site.end(runtime);
    progress("everything promised is counted once, through two upgrades and a rollback");
}

/// A field that came with this version.
const GATEWAY: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/gateway";

fn definition(installation: &Installation) -> Value {
    let mut definition = installation.cluster.get(&["crd", "edgeagents.depin.dev"]).unwrap();
    // What the API server says of it.
    definition["metadata"].take();
    definition["status"].take();
    definition
}

fn kept(installation: &Installation) -> Kept {
    let key = |edge: &str| {
        installation
            .cluster
            .kubectl(&["get", "edgeagent", edge, "-n", "weather", "-o=jsonpath={.status.publicKey}"])
            .unwrap()
    };
    Kept {
        authority: installation.cluster.secret(NAMESPACE, "depin-ca", "tls.crt").unwrap().unwrap(),
        keys: EDGES.map(key).to_vec(),
    }
}

fn await_versions(installation: &Installation, version: &str) {
    eventually("all agents to tell their version", LIMIT, || {
        let agents = installation.cluster.get(&["edgeagents", "-n", "weather"]).unwrap();
        let agents = agents["items"].as_array().unwrap();
        agents.len() == EDGES.len() && agents.iter().all(|agent| agent["status"]["version"] == version)
    });
}

/// Hardware at every edge is promised more, and the ledger takes it: the end counts it.
fn readings_go_on(site: &Site<'_>) {
    for index in 0..EDGES.len() {
        let before = site.acknowledged(index);
        eventually("acknowledged readings", LIMIT, || site.acknowledged(index) > before + 5);
    }
}

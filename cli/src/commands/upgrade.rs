//! `upgrade`: which feature level the ledger uses, which versions run, and the word after which there is no way back.

use std::collections::{BTreeMap, BTreeSet};

use depin_proto::v1::{LedgerInfo, PresencePage};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use super::check::GATEWAY_PODS;
use crate::{
    args::{Arguments, UpgradeCommand},
    cluster::Cluster,
    fault::Fault,
    ledger::Ledger,
    output::Report,
};

pub(super) async fn run(arguments: &Arguments, command: &UpgradeCommand) -> Result<Report, Fault> {
    let ledger = Ledger::connect(arguments).await?;
    let (info, presence) = (ledger.info().await?, ledger.presence().await?);
    let found = Found::new(&info, &presence);
    match command {
        UpgradeCommand::Status => Ok(Report::new(found.value(), found.text())),
        UpgradeCommand::Finalize { yes } => finalize(arguments, &ledger, &found, *yes).await,
    }
}

/// What runs, and at which level.
struct Found {
    in_use: u32,
    available: u32,
    gateway: String,
    /// How many agents told each version.
    agents: BTreeMap<String, usize>,
}

impl Found {
    fn new(info: &LedgerInfo, presence: &PresencePage) -> Self {
        let mut agents: BTreeMap<String, usize> = BTreeMap::new();
        for status in presence.agents.iter().filter_map(|agent| agent.status.as_ref()) {
            *agents.entry(status.version.clone()).or_default() += 1;
        }
        let gateway = info.gateway_version.clone();
        Self { in_use: info.feature_level, available: info.feature_level_available, gateway, agents }
    }

    fn is_final(&self) -> bool {
        self.in_use >= self.available
    }

    fn value(&self) -> Value {
        json!({
            "levelInUse": self.in_use, "levelAvailable": self.available, "finalized": self.is_final(),
            "gateway": self.gateway, "agents": self.agents, "program": env!("CARGO_PKG_VERSION"),
        })
    }

    fn text(&self) -> String {
        let agents = self.agents.iter().map(|(version, count)| format!("{count} of {version}"));
        let agents = agents.collect::<Vec<_>>().join(", ");
        let next = if self.is_final() {
            "Nothing is to be finalized: the ledger uses all that this version brings."
        } else {
            "The version before can still be put back. Once that is no longer wanted: kubectl depin upgrade finalize"
        };
        format!(
            "Gateway         {}\nAgents          {}\nFeature level   {} in use, {} available\n\n{next}\n",
            if self.gateway.is_empty() { "of a version that does not tell" } else { &self.gateway },
            if agents.is_empty() { "none was heard" } else { &agents },
            self.in_use,
            self.available
        )
    }
}

async fn finalize(arguments: &Arguments, ledger: &Ledger, found: &Found, yes: bool) -> Result<Report, Fault> {
    if found.is_final() {
        return Ok(Report::new(found.value(), found.text()));
    }
    let images = images(arguments).await;
    if images.len() > 1 {
        let images = images.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Fault::failed(
            format!("gateways of several images run ({images}): older ones could not open the ledger any more"),
            "wait until the upgrade is rolled out everywhere (kubectl rollout status)",
        ));
    }
    if !yes {
        let text = format!(
            "{}\nWith --yes the ledger goes to level {}. No version that does not know that level opens it again: a rollback is refused,\n\
             and only a restore of an older backup leads back.\n  kubectl depin upgrade finalize --yes",
            found.text(),
            found.available
        );
        return Ok(Report { right: false, ..Report::new(found.value(), text) });
    }
    let level = ledger.finalize().await?;
    let mut value = found.value();
    value["levelInUse"] = level.into();
    value["finalized"] = (level >= found.available).into();
    Ok(Report::new(
        value,
        format!("finalized: the ledger is at feature level {level}; older versions refuse it from now on"),
    ))
}

/// Images of the gateways' Pods, as far as this person may see them.
async fn images(arguments: &Arguments) -> BTreeSet<String> {
    let Ok(cluster) = Cluster::connect(&arguments.cluster).await else { return BTreeSet::new() };
    let pods: Api<Pod> = Api::namespaced(cluster.client, &arguments.cluster.operator_namespace);
    let list = pods.list(&ListParams::default().labels(GATEWAY_PODS)).await;
    let pods = list.map(|list| list.items).unwrap_or_default();
    let containers = pods.into_iter().filter_map(|pod| pod.spec).flat_map(|spec| spec.containers);
    containers.filter(|container| container.name == "gateway").filter_map(|container| container.image).collect()
}

#[cfg(test)]
mod tests {
    use depin_proto::v1::{AgentPresence, AgentStatus};

    use super::*;

    #[test]
    fn levels_and_versions_are_told() {
        let agent = |version: &str| AgentPresence {
            status: Some(AgentStatus { version: version.into(), ..AgentStatus::default() }),
            ..AgentPresence::default()
        };
        let presence =
            PresencePage { agents: vec![agent("0.1.0"), agent("0.1.0"), agent("0.2.0")], ..PresencePage::default() };
        let info = |in_use, available| LedgerInfo {
            feature_level: in_use,
            feature_level_available: available,
            gateway_version: "0.2.0".into(),
            ..LedgerInfo::default()
        };
        let found = Found::new(&info(1, 2), &presence);
        assert!(!found.is_final() && found.text().contains("2 of 0.1.0, 1 of 0.2.0"), "{}", found.text());
        assert!(found.text().contains("1 in use, 2 available") && found.text().contains("upgrade finalize"));
        assert_eq!(found.value()["finalized"], false);
        let found = Found::new(&info(2, 2), &PresencePage::default());
        assert!(found.is_final() && found.text().contains("Nothing is to be finalized"));
    }
}

//! `check`: what would make a network fail, each finding with its remedy.

use std::{collections::BTreeMap, path::Path, time::Duration};

use depin_identity::{client_config, connect_lazy};
use depin_proto::v1::{AgentPresence, AgentStatus, configuration_client::ConfigurationClient};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{api::ListParams, core::DynamicObject};
use serde_json::json;

use super::status::agent_name;
use crate::{
    args::{Arguments, HeadingsFlag},
    cluster::Cluster,
    credentials::{self, Credentials},
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
/// How long the agents' port may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that was looked at, or was not.
struct Finding {
    what: String,
    /// Empty: as it should be.
    fault: String,
    remedy: &'static str,
    /// False: nobody said where it is.
    looked: bool,
}

impl Finding {
    fn new(what: impl Into<String>, fault: impl Into<String>, remedy: &'static str) -> Self {
        Self { what: what.into(), fault: fault.into(), remedy, looked: true }
    }

    fn right(what: impl Into<String>) -> Self {
        Self::new(what, "", "")
    }

    /// Nothing is wrong with it as far as is known.
    fn unseen(what: &str, remedy: &'static str) -> Self {
        Self { looked: false, ..Self::new(what, "not looked at", remedy) }
    }

    fn is_right(&self) -> bool {
        self.fault.is_empty() || !self.looked
    }
}

/// What is looked at beside cluster and ledger.
pub(super) struct Wanted<'a> {
    /// A mosquitto.conf.
    pub(super) broker: Option<&'a Path>,
    /// Where agents connect.
    pub(super) gateway: Option<&'a str>,
}

pub(super) async fn run(arguments: &Arguments, wanted: &Wanted<'_>, headings: HeadingsFlag) -> Result<Report, Fault> {
    let mut findings = Vec::new();
    match Cluster::connect(&arguments.cluster).await {
        Ok(cluster) => {
            if let Err(fault) = kinds(&cluster, &mut findings).await {
                let remedy = "check that the API server answers and that you may list definitions and models";
                findings.push(Finding::new("API server", fault.message, remedy));
            }
        }
        Err(fault) => {
            findings.push(Finding::new("API server", fault.message, "set KUBECONFIG, --kubeconfig or --context"));
        }
    }
    match Ledger::connect(arguments).await {
        Ok(Some(ledger)) => record(&ledger, &mut findings).await,
        Ok(None) => findings.push(Finding::new("ledger", "not looked at", "give --ledger https://host:port")),
        Err(fault) => findings.push(Finding::new("ledger", fault.message, "correct --ledger, --cert, --key, --ca")),
    }
    findings.push(match wanted.gateway {
        Some(address) => agents_port(arguments, address).await,
        None => Finding::unseen("agents' port", "give --gateway https://host:port, as agents are told it"),
    });
    match wanted.broker {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
            findings.extend(broker_settings(&text));
        }
        None => findings.push(Finding::unseen("broker's settings", "give --broker-config mosquitto.conf of each site")),
    }
    let mut table = Table::new(["", "WHAT", "FINDING", "REMEDY"]).headed(headings);
    for finding in &findings {
        let mark = if !finding.looked {
            "--"
        } else if finding.is_right() {
            "ok"
        } else {
            "!!"
        };
        let remedy = if finding.fault.is_empty() { "" } else { finding.remedy };
        table.row([mark.into(), finding.what.clone(), finding.fault.clone(), remedy.into()]);
    }
    let value = findings.iter().map(|finding| {
        json!({
            "what": finding.what, "finding": finding.fault, "remedy": finding.remedy, "right": finding.is_right(),
            "looked": finding.looked,
        })
    });
    let right = findings.iter().all(Finding::is_right);
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
        let mut faults = Vec::new();
        if !owners.get(plural).is_some_and(|groups| groups.contains(&depin_crds::GROUP)) {
            faults.push("is not installed".to_owned());
        }
        for name in [plural, short] {
            let others = owners.get(name).into_iter().flatten().filter(|group| **group != depin_crds::GROUP);
            faults.extend(others.map(|other| format!("{name:?} is also a name in {other}")));
        }
        let remedy = "install the CRDs (kubectl apply --server-side -f crds/yaml); where a name collides, write it with .depin.dev";
        findings.push(Finding::new(format!("kind {plural}"), faults.join("; "), remedy));
    }
    let resource = kube::core::ApiResource::erase::<depin_crds::EdgeDeviceModel>(&());
    let models: kube::Api<DynamicObject> = kube::Api::all_with(cluster.client.clone(), &resource);
    let fault = match models.list(&ListParams::default().limit(1)).await {
        Ok(list) if list.items.is_empty() => "there is none yet".to_owned(),
        Ok(_) => String::new(),
        Err(error) => Fault::from(error).message,
    };
    findings.push(Finding::new("device models", fault, "apply one: examples/networks has some"));
    Ok(())
}

async fn record(ledger: &Ledger, findings: &mut Vec<Finding>) {
    let before = jiff::Timestamp::now().as_millisecond();
    let info = match ledger.info().await {
        Ok(info) => info,
        Err(fault) => {
            findings.push(Finding::new("ledger", fault.message, "check --ledger and that the gateway runs"));
            return;
        }
    };
    let after = jiff::Timestamp::now().as_millisecond();
    findings.push(Finding::right("ledger"));
    // The ledger read its clock between these two moments.
    let skew = (before.saturating_sub(info.now)).max(info.now.saturating_sub(after));
    let fault = if skew > MAX_SKEW_MS { format!("differs from here by {skew} ms") } else { String::new() };
    findings.push(Finding::new("gateway's clock", fault, "run NTP on both machines"));
    let fault = if info.closing_held { "held since a restore" } else { "" };
    let remedy = "wait for all agents to connect; kubectl depin release shows which, and releases it";
    findings.push(Finding::new("closing of epochs", fault, remedy));
    match (ledger.presence().await, ledger.registry().await) {
        (Ok(presence), Ok(registry)) => findings.extend(presence.agents.iter().filter_map(|agent| {
            let clock = clock_fault(agent)?;
            Some(Finding::new(
                format!("clock of {}", agent_name(&registry, &agent.agent_id)),
                clock,
                "run NTP at the site",
            ))
        })),
        (Err(fault), _) | (_, Err(fault)) => {
            findings.push(Finding::new("agents' clocks", fault.message, "try again: the gateway may be starting"));
        }
    }
}

/// Why an agent's clock is not as it should be; none where it is, or was not told yet.
fn clock_fault(agent: &AgentPresence) -> Option<String> {
    let status = agent.status.as_ref()?;
    if !status.clock_set {
        return Some("is not set: nothing is sealed until it is".to_owned());
    }
    // The report was under way for a moment: that much is no difference.
    let skew = agent.status_at.saturating_sub(status.clock);
    (skew.saturating_abs() > MAX_SKEW_MS).then(|| format!("differs from the gateway's by {skew} ms"))
}

/// Whether agents would be served there: a connection whose certificate is the network's.
async fn agents_port(arguments: &Arguments, address: &str) -> Finding {
    let wrong = |why: String| {
        Finding::new("agents' port", why, "check --gateway, that the gateway runs, and --gateway-name of the operator")
    };
    let Credentials { identity, trust } = match credentials::find(arguments).await {
        Ok(credentials) => credentials,
        Err(fault) => return wrong(fault.message),
    };
    let config = match client_config(&trust, Some(&identity)) {
        Ok(config) => config,
        Err(error) => return wrong(error.to_string()),
    };
    let (channel, server) = match connect_lazy(address, config) {
        Ok(connected) => connected,
        Err(error) => return wrong(error.to_string()),
    };
    let mut request = tonic::Request::new(AgentStatus::default());
    request.set_timeout(arguments.cluster.request_timeout.0.unwrap_or(PATIENCE));
    let answer = ConfigurationClient::new(channel).report_status(request).await;
    // We are no agent, so any answer is a refusal; what matters is who answered.
    match (answer, server.borrow().is_some()) {
        (_, true) => Finding::right("agents' port"),
        (Err(status), false) => wrong(status.message().to_owned()),
        (Ok(_), false) => wrong("the server showed no certificate".to_owned()),
    }
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
    let check = |what: &str, right: bool, fault: String, remedy| {
        Finding::new(format!("mosquitto {what}"), if right { String::new() } else { fault }, remedy)
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

    #[test]
    fn an_agents_clock_is_told_where_it_is_off() {
        let agent = |clock: i64, clock_set: bool| AgentPresence {
            status: Some(AgentStatus { clock, clock_set, ..AgentStatus::default() }),
            status_at: 1_000_000,
            ..AgentPresence::default()
        };
        assert_eq!(clock_fault(&AgentPresence::default()), None, "nothing was told yet");
        assert_eq!(clock_fault(&agent(999_500, true)), None);
        assert!(clock_fault(&agent(0, false)).unwrap().contains("not set"));
        assert!(clock_fault(&agent(990_000, true)).unwrap().contains("by 10000 ms"));
        assert!(clock_fault(&agent(1_010_000, true)).unwrap().contains("by -10000 ms"));
    }
}

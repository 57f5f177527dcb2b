//! The network: the ledger, its clocks and hold, the agents' port, a broker's settings.

use std::{collections::BTreeMap, time::Duration};

use depin_identity::{Trust, certificates::certificates, client_config, connect_lazy};
use depin_proto::v1::{AgentPresence, AgentStatus, configuration_client::ConfigurationClient};
use kube::{api::ListParams, core::DynamicObject};

use super::{
    Wanted,
    finding::{Finding, Section},
    topics,
};
use crate::{
    args::Arguments,
    cluster::Cluster,
    commands::{status::agent_name, token::published_ca},
    fault::{Fault, NO_VIEWER},
    ledger::Ledger,
};

/// Clocks may differ by so much.
const MAX_SKEW_MS: i64 = 2_000;
/// How long the agents' port may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// All that is asked of others than the API server.
pub(super) async fn sections(arguments: &Arguments, wanted: &Wanted<'_>) -> Result<Vec<Section>, Fault> {
    let ledger = match Ledger::connect(arguments).await {
        Ok(ledger) => record(&ledger).await,
        // An installation is not wrong because nobody has a look at its ledger yet.
        Err(fault) if fault.code == NO_VIEWER => vec![Finding::unseen(&topics::LEDGER, fault.message)],
        Err(fault) => vec![Finding::wrong(&topics::LEDGER, fault.message)],
    };
    let port = match wanted.gateway {
        Some(address) => agents_port(arguments, address).await,
        None => Finding::unseen(&topics::AGENTS_PORT, "nobody said where agents connect"),
    };
    let broker = match wanted.broker {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
            broker_settings(&text)
        }
        None => vec![Finding::unseen(&topics::BROKER, "no broker's settings were given")],
    };
    Ok(vec![
        Section { name: "ledger", findings: ledger },
        Section { name: "agents' port", findings: vec![port] },
        Section { name: "brokers", findings: broker },
    ])
}

/// Whether there is any model.
pub(super) async fn models(cluster: &Cluster) -> Finding {
    let resource = kube::core::ApiResource::erase::<depin_crds::EdgeDeviceModel>(&());
    let models: kube::Api<DynamicObject> = kube::Api::all_with(cluster.client.clone(), &resource);
    match models.list(&ListParams::default().limit(1)).await {
        Ok(list) if list.items.is_empty() => Finding::doubtful(&topics::MODELS, "there is none yet"),
        Ok(_) => Finding::right(&topics::MODELS),
        Err(error) => Finding::unanswered(&topics::MODELS, &error),
    }
}

async fn record(ledger: &Ledger) -> Vec<Finding> {
    let before = jiff::Timestamp::now().as_millisecond();
    let info = match ledger.info().await {
        Ok(info) => info,
        Err(fault) => return vec![Finding::wrong(&topics::LEDGER, fault.message)],
    };
    let after = jiff::Timestamp::now().as_millisecond();
    // The ledger read its clock between these two moments.
    let skew = (before.saturating_sub(info.now)).max(info.now.saturating_sub(after));
    let differs = if skew > MAX_SKEW_MS { format!("they differ by {skew} ms") } else { String::new() };
    let held = if info.closing_held { "held since a restore" } else { "" };
    let mut findings = vec![
        Finding::right(&topics::LEDGER),
        Finding::wrong_if(&topics::GATEWAY_CLOCK, differs),
        Finding::wrong_if(&topics::CLOSING, held.to_owned()),
    ];
    findings.push(match (ledger.presence().await, ledger.registry().await) {
        (Ok(presence), Ok(registry)) => {
            let fault = |agent: &AgentPresence| {
                Some(format!("{} {}", agent_name(&registry, &agent.agent_id), clock_fault(agent)?))
            };
            let told: Vec<String> = presence.agents.iter().filter_map(fault).collect();
            Finding::wrong_if(&topics::AGENT_CLOCKS, told.join("; "))
        }
        (Err(fault), _) | (_, Err(fault)) => Finding::wrong(&topics::AGENT_CLOCKS, fault.message),
    });
    findings
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
    let wrong = |why: String| Finding::wrong(&topics::AGENTS_PORT, why);
    let trust = match trust(arguments).await {
        Ok(trust) => trust,
        Err(fault) => return wrong(fault.message),
    };
    let config = match client_config(&trust, None) {
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
        (_, true) => Finding::right(&topics::AGENTS_PORT),
        (Err(status), false) => wrong(status.message().to_owned()),
        (Ok(_), false) => wrong("the server showed no certificate".to_owned()),
    }
}

/// The network's CA: of --ca, or as the operator publishes it.
async fn trust(arguments: &Arguments) -> Result<Trust, Fault> {
    let pem = match &arguments.ledger.ca {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?,
        None => {
            let cluster = Cluster::connect(&arguments.cluster).await?;
            published_ca(&cluster, &arguments.cluster.operator_namespace).await?
        }
    };
    let bundle = certificates(&pem)
        .map_err(|error| Fault::failed(format!("CA certificate: {error}"), "give the network's CA with --ca"))?;
    Ok(Trust::Bundle(bundle))
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
    let check = |what: &str, right: bool, fault: String| {
        Finding::wrong_if(&topics::BROKER, if right { String::new() } else { fault }).of(format!("mosquitto {what}"))
    };
    let persistence = value("persistence", "false");
    let queue = value("max_queued_messages", "1000");
    let flying = value("max_inflight_messages", "20");
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    vec![
        check(
            "persistence",
            persistence == "true",
            format!("is {persistence}: a restart loses what is queued; set persistence true and persistence_location"),
        ),
        check(
            "max_queued_messages",
            queue == "0" || number(queue) >= 100_000,
            format!(
                "is {queue}: more is dropped silently while an agent is away; set 0 (or at least 100000) and bound it with max_queued_bytes"
            ),
        ),
        check(
            "max_inflight_messages",
            flying == "0" || number(flying) >= 100,
            format!("is {flying}: throughput is one write to disk for so few messages; set 1000"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn a_default_broker_loses_messages_and_a_set_one_does_not() {
        let faults =
            |text: &str| broker_settings(text).into_iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
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

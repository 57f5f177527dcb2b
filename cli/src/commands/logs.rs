//! `logs`: what operator, gateway and agents write, of all their Pods at once; an agent by the name of its EdgeAgent.

use depin_crds::EdgeAgent;
use futures::{AsyncBufReadExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};
use serde_json::Value;

use super::check::GATEWAY_PODS;
use crate::{
    args::LogFlags,
    cluster::Cluster,
    fault::Fault,
    output::{self, Report},
    query::OPERATOR_PODS,
};

const AGENT_PODS: &str = "app.kubernetes.io/component=agent";

/// Whose logs.
#[derive(Debug, PartialEq, Eq)]
enum Source<'a> {
    Operator,
    Gateway,
    Agents,
    Agent(&'a str),
}

impl<'a> Source<'a> {
    fn parse(meant: &'a str) -> Self {
        match meant {
            "operator" => Self::Operator,
            "gateway" => Self::Gateway,
            "agents" => Self::Agents,
            name => {
                Self::Agent(name.strip_prefix("agent/").or_else(|| name.strip_prefix("edgeagent/")).unwrap_or(name))
            }
        }
    }
}

pub(super) async fn run(cluster: &Cluster, operator_namespace: &str, flags: &LogFlags) -> Result<Report, Fault> {
    let source = Source::parse(&flags.source);
    let (namespace, selected) = match source {
        Source::Operator => (operator_namespace, ListParams::default().labels(OPERATOR_PODS)),
        Source::Gateway => (operator_namespace, ListParams::default().labels(GATEWAY_PODS)),
        Source::Agents => (flags.agents_namespace.as_str(), ListParams::default().labels(AGENT_PODS)),
        Source::Agent(name) => {
            let node = node(cluster, name).await?;
            (
                flags.agents_namespace.as_str(),
                ListParams::default().labels(AGENT_PODS).fields(&format!("spec.nodeName={node}")),
            )
        }
    };
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let list = pods.list(&selected).await?;
    if list.items.is_empty() {
        return Err(Fault::not_found(
            format!("no Pod of {:?} in namespace {namespace:?}", flags.source),
            "name the namespace with --operator-namespace or --agents-namespace; an agent on a box of its own logs there",
        ));
    }
    let names: Vec<String> = list.items.iter().map(|pod| pod.name_any()).collect();
    let prefixed = flags.prefix || names.len() > 1;
    copy(&pods, names, flags, prefixed).await?;
    Ok(Report::new(Value::Null, "").silent())
}

/// The node on which an agent runs.
async fn node(cluster: &Cluster, name: &str) -> Result<String, Fault> {
    let agent = cluster.own::<EdgeAgent>().get(name).await?;
    agent.spec.node.ok_or_else(|| {
        Fault::not_found(
            format!("EdgeAgent {name:?} names no node"),
            "it runs on a box outside the cluster: look at its log there",
        )
    })
}

/// Writes the Pods' lines as they come, until all have ended.
async fn copy(pods: &Api<Pod>, names: Vec<String>, flags: &LogFlags, prefixed: bool) -> Result<(), Fault> {
    let parameters = LogParams {
        follow: flags.follow,
        tail_lines: flags.tail,
        since_seconds: flags.since.0.map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX).max(1)),
        ..LogParams::default()
    };
    let mut streams = Vec::new();
    for name in names {
        let prefix = if prefixed { format!("[{name}] ") } else { String::new() };
        let lines = pods.log_stream(&name, &parameters).await?.lines();
        streams.push(Box::pin(lines.map(move |line| line.map(|line| format!("{prefix}{line}")))));
    }
    let mut lines = stream::select_all(streams);
    while let Some(line) = lines.next().await {
        let line = line.map_err(|error| {
            Fault::failed(format!("the log broke off: {error}"), "try again; --since limits what comes twice")
        })?;
        match output::line(&line) {
            Ok(()) => {}
            // A reader that has seen enough (`| head`) is no failure.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Fault::failed(format!("cannot write: {error}"), "see where the output goes")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_agents_are_told_apart() {
        assert_eq!(Source::parse("operator"), Source::Operator);
        assert_eq!(Source::parse("gateway"), Source::Gateway);
        assert_eq!(Source::parse("agents"), Source::Agents);
        for name in ["home", "agent/home", "edgeagent/home"] {
            assert_eq!(Source::parse(name), Source::Agent("home"));
        }
        assert_eq!(Source::parse("agent/operator"), Source::Agent("operator"), "an agent may have this name");
    }
}

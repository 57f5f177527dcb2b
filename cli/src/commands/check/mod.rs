//! `check`: what would make a network fail, in sections, each finding with a hint and where to read on. `check --pre` looks at a cluster
//! before the chart is installed, `check` at what runs.

mod finding;
mod installation;
mod kubernetes;
mod network;
mod topics;

use std::{path::Path, time::Duration};

use depin_domain::time::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::ListParams};
use tokio::time::Instant;

use crate::{args::Arguments, cluster::Cluster, fault::Fault, output::Report};
use finding::{Finding, Section, is_right};

pub(super) use installation::{GATEWAY_PODS, metrics};

/// Pause between two looks of `--wait`.
const AGAIN: Duration = Duration::from_secs(2);

/// What is looked at beside the cluster.
pub(super) struct Wanted<'a> {
    /// Before an installation.
    pub(super) pre: bool,
    /// Look again until nothing is wrong, for so long.
    pub(super) wait: Option<Duration>,
    /// A mosquitto.conf.
    pub(super) broker: Option<&'a Path>,
    /// Where agents connect.
    pub(super) gateway: Option<&'a str>,
}

pub(super) async fn run(arguments: &Arguments, wanted: &Wanted<'_>) -> Result<Report, Fault> {
    let end = wanted.wait.map(|wait| Instant::now() + wait);
    loop {
        let sections = look(arguments, wanted).await?;
        let right = is_right(&sections);
        if right || end.is_none_or(|end| Instant::now() >= end) {
            return Ok(Report { right, ..Report::new(finding::value(&sections), finding::text(&sections)) });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Everything once.
async fn look(arguments: &Arguments, wanted: &Wanted<'_>) -> Result<Vec<Section>, Fault> {
    let cluster = match Cluster::connect(&arguments.cluster).await {
        Ok(cluster) => Some(cluster),
        Err(fault) if wanted.pre => return Ok(vec![unreachable(fault)]),
        Err(fault) => {
            // The ledger alone is worth a look.
            let mut sections = vec![unreachable(fault)];
            sections.extend(network::sections(arguments, wanted).await?);
            return Ok(sections);
        }
    };
    let Some(cluster) = cluster else { return Ok(Vec::new()) };
    let namespace = &arguments.cluster.operator_namespace;
    let server = kubernetes::server(&cluster.client).await;
    if server.len() == 1 {
        return Ok(vec![Section { name: "kubernetes", findings: server }]);
    }
    if wanted.pre {
        Ok(pre(&cluster, namespace, server).await)
    } else {
        installed(arguments, &cluster, wanted, server).await
    }
}

fn unreachable(fault: Fault) -> Section {
    Section { name: "kubernetes", findings: vec![Finding::wrong(&topics::API, fault.message)] }
}

async fn pre(cluster: &Cluster, namespace: &str, mut server: Vec<Finding>) -> Vec<Section> {
    let client = &cluster.client;
    server.extend(kubernetes::nodes(client).await);
    server.push(kubernetes::storage(client).await);
    server.push(kubernetes::pod_security(client).await);
    let names = match known(cluster).await {
        Ok(list) => vec![kubernetes::names(&list), kubernetes::installed_before(&list)],
        Err(error) => vec![Finding::unanswered(&topics::NAMES, &error)],
    };
    vec![
        Section { name: "kubernetes", findings: server },
        Section { name: "names", findings: names },
        Section { name: "rights", findings: kubernetes::rights(client, namespace).await },
    ]
}

async fn known(cluster: &Cluster) -> Result<Vec<CustomResourceDefinition>, kube::Error> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    Ok(definitions.list(&ListParams::default()).await?.items)
}

async fn installed(
    arguments: &Arguments,
    cluster: &Cluster,
    wanted: &Wanted<'_>,
    server: Vec<Finding>,
) -> Result<Vec<Section>, Fault> {
    let (client, namespace) = (&cluster.client, &arguments.cluster.operator_namespace);
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let mut kinds = match known(cluster).await {
        Ok(list) => {
            let mut findings = kubernetes::definitions(&list);
            findings.push(kubernetes::names(&list));
            findings
        }
        Err(error) => vec![Finding::unanswered(&topics::DEFINITIONS, &error)],
    };
    kinds.push(network::models(cluster).await);
    let mut sections = vec![
        Section { name: "kubernetes", findings: server },
        Section { name: "kinds", findings: kinds },
        Section { name: "programs", findings: installation::programs(cluster, namespace, now).await },
        Section { name: "certificates", findings: installation::certificates(client, namespace, now).await },
        Section { name: "agents", findings: installation::agents(cluster, now).await },
    ];
    sections.extend(network::sections(arguments, wanted).await?);
    sections.push(Section { name: "backup", findings: vec![installation::backup(client, namespace, now).await] });
    Ok(sections)
}

//! What the chart installed: operator, leader, gateway, certificates, agents, backup. What is said of it is pure.

use depin_crds::EdgeAgent;
use depin_domain::time::Timestamp;
use depin_identity::CertificateInfo;
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::{
    finding::{Finding, Verdict},
    topics,
};
use crate::{cluster::Cluster, query::OPERATOR_PODS};

/// Marks the gateway's Pods.
pub(crate) const GATEWAY_PODS: &str = "app.kubernetes.io/component=gateway";
const VERSION_LABEL: &str = "app.kubernetes.io/version";
const LEASE: &str = "depin-operator";
/// Port of every program's metrics in the chart.
const ADMIN_PORT: u16 = 9100;
/// What has less left is told.
const SOON_MS: i64 = 3 * 86_400_000;
/// An older backup is told.
const STALE_MS: i64 = 86_400_000;
/// Agents or kinds that a line names.
const NAMED: usize = 10;

/// Operator and gateway.
pub(super) async fn programs(cluster: &Cluster, namespace: &str, now: Timestamp) -> Vec<Finding> {
    let client = &cluster.client;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = leases.get_opt(LEASE).await;
    let leader = match &lease {
        Ok(lease) => leads(lease.as_ref(), now),
        Err(error) => Finding::unanswered(&topics::LEADER, error),
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let selected = ListParams::default().labels(OPERATOR_PODS);
    let mut findings = match deployments.list(&selected).await {
        Ok(list) => operator(list.items.first()),
        Err(error) => vec![Finding::unanswered(&topics::OPERATOR, &error)],
    };
    findings.push(leader);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    findings.push(match pods.list(&ListParams::default().labels(GATEWAY_PODS)).await {
        Ok(list) => gateway(&list.items),
        Err(error) => Finding::unanswered(&topics::GATEWAY, &error),
    });
    findings
}

/// Whether it is available, and of this program's version.
fn operator(deployment: Option<&Deployment>) -> Vec<Finding> {
    let Some(deployment) = deployment else {
        return vec![Finding::unseen(
            &topics::OPERATOR,
            format!("no Deployment with {OPERATOR_PODS}: it runs elsewhere, or is not installed"),
        )];
    };
    let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let available = conditions.clone().find(|condition| condition.type_ == "Available");
    let told = match available {
        Some(condition) if condition.status == "True" => String::new(),
        Some(condition) => condition.message.clone().unwrap_or_else(|| "it is not available".to_owned()),
        None => "its Deployment tells nothing yet".to_owned(),
    };
    let mut findings = vec![Finding::wrong_if(&topics::OPERATOR, told)];
    let own = env!("CARGO_PKG_VERSION");
    if let Some(version) = deployment.labels().get(VERSION_LABEL) {
        let told =
            if version == own { String::new() } else { format!("the operator is {version}, this program {own}") };
        findings.push(Finding::doubtful_if(&topics::OPERATOR_VERSION, told));
    }
    findings
}

/// Whether somebody holds the Lease and renewed it within its time.
fn leads(lease: Option<&Lease>, now: Timestamp) -> Finding {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return Finding::unseen(
            &topics::LEADER,
            format!("there is no Lease {LEASE}: one operator without --leader-elect runs, or none"),
        );
    };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let silent = spec.renew_time.as_ref().map_or(i64::MAX, |time| now.0.saturating_sub(time.0.as_millisecond()));
    let term = i64::from(spec.lease_duration_seconds.unwrap_or(15)) * 1_000;
    let told = match holder {
        "" => "nobody holds the Lease".to_owned(),
        // This machine's clock may differ from the leader's by a moment.
        holder if silent > term.saturating_mul(2) => format!("{holder} renewed the Lease {} s ago", silent / 1_000),
        _ => String::new(),
    };
    Finding::wrong_if(&topics::LEADER, told)
}

fn gateway(pods: &[Pod]) -> Finding {
    if pods.is_empty() {
        return Finding::unseen(
            &topics::GATEWAY,
            format!("no Pod with {GATEWAY_PODS}: it runs elsewhere, or is not installed"),
        );
    }
    let unready: Vec<String> =
        pods.iter().filter(|pod| !is_ready(pod)).map(|pod| format!("{} is {}", pod.name_any(), why(pod))).collect();
    let told = unready.join("; ");
    let some = unready.len() < pods.len();
    if some { Finding::doubtful_if(&topics::GATEWAY, told) } else { Finding::wrong_if(&topics::GATEWAY, told) }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What a Pod waits for, in its own words.
fn why(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone()).next();
    let phase = status.and_then(|status| status.phase.clone());
    waiting.or(phase).unwrap_or_else(|| "not ready".to_owned())
}

/// The CA's and the gateway's certificate.
pub(super) async fn certificates(client: &Client, namespace: &str, now: Timestamp) -> Vec<Finding> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let authority = match maps.get_opt("depin-ca").await {
        Ok(map) => {
            let pem = map.and_then(|map| map.data).and_then(|mut data| data.remove("ca.crt"));
            certificate(&topics::AUTHORITY, "ConfigMap depin-ca", pem.as_deref(), authority_end, now)
        }
        Err(error) => Finding::unanswered(&topics::AUTHORITY, &error),
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let gateway = match secrets.get_opt("depin-gateway-tls").await {
        Ok(secret) => {
            let pem = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("tls.crt"));
            let pem = pem.and_then(|bytes| String::from_utf8(bytes.0).ok());
            certificate(&topics::GATEWAY_CERTIFICATE, "Secret depin-gateway-tls", pem.as_deref(), leaf_end, now)
        }
        Err(error) => Finding::unanswered(&topics::GATEWAY_CERTIFICATE, &error),
    };
    vec![authority, gateway]
}

fn leaf_end(pem: &str) -> Result<Timestamp, String> {
    CertificateInfo::from_pem(pem).map(|leaf| leaf.validity.end).map_err(|error| error.to_string())
}

fn authority_end(pem: &str) -> Result<Timestamp, String> {
    depin_identity::certificates::validity_of(pem).map(|validity| validity.end).map_err(|error| error.to_string())
}

fn certificate(
    topic: &'static super::topics::Topic,
    place: &str,
    pem: Option<&str>,
    end: impl Fn(&str) -> Result<Timestamp, String>,
    now: Timestamp,
) -> Finding {
    let Some(pem) = pem else { return Finding::wrong(topic, format!("{place} is not there or holds none")) };
    match end(pem) {
        Ok(end) => lifetime(topic, end, now),
        Err(error) => Finding::wrong(topic, format!("{place}: {error}")),
    }
}

fn lifetime(topic: &'static super::topics::Topic, end: Timestamp, now: Timestamp) -> Finding {
    let left = end.since(now);
    let when = crate::output::when(end);
    match left {
        ..=0 => Finding::wrong(topic, format!("it ended at {when}")),
        1..SOON_MS => Finding::doubtful(topic, format!("it ends at {when}")),
        _ => Finding::right(topic),
    }
}

/// The agents: heard of, and their certificates.
pub(super) async fn agents(cluster: &Cluster, now: Timestamp) -> Vec<Finding> {
    let api = cluster.wide::<EdgeAgent>();
    match api.list(&ListParams::default()).await {
        Ok(list) => vec![online(&list.items), agent_certificates(&list.items, now)],
        Err(error) => vec![Finding::unanswered(&topics::AGENTS, &error)],
    }
}

fn named(agent: &EdgeAgent) -> String {
    format!("{}/{}", agent.namespace().unwrap_or_default(), agent.name_any())
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn online(agents: &[EdgeAgent]) -> Finding {
    let offline = agents.iter().filter(|agent| {
        let mut conditions = agent.status.iter().flat_map(|status| &status.conditions);
        conditions.any(|condition| condition.type_ == "Online" && condition.status == "False")
    });
    let names: Vec<String> = offline.map(named).collect();
    let told =
        if names.is_empty() { String::new() } else { format!("{} of {}: {}", names.len(), agents.len(), some(&names)) };
    Finding::doubtful_if(&topics::AGENTS, told)
}

fn agent_certificates(agents: &[EdgeAgent], now: Timestamp) -> Finding {
    let ended = agents.iter().filter_map(|agent| {
        let end = agent.status.as_ref()?.certificate_expires.as_ref()?.0.as_millisecond();
        let verdict = lifetime(&topics::AGENT_CERTIFICATES, Timestamp(end), now).verdict;
        (verdict != Verdict::Right).then(|| format!("{} until {}", named(agent), crate::output::when(Timestamp(end))))
    });
    let names: Vec<String> = ended.collect();
    Finding::doubtful_if(&topics::AGENT_CERTIFICATES, some(&names))
}

/// How old the newest backup is, as the gateways' metrics tell through the API server.
pub(super) async fn backup(client: &Client, namespace: &str, now: Timestamp) -> Finding {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = match pods.list(&ListParams::default().labels(GATEWAY_PODS)).await {
        Ok(list) => list,
        Err(error) => return Finding::unanswered(&topics::BACKUP, &error),
    };
    let Some(pod) = list.items.iter().find(|pod| is_ready(pod)) else {
        return Finding::unseen(&topics::BACKUP, "no gateway's Pod is ready here to be asked");
    };
    match metrics(client, namespace, &pod.name_any()).await {
        Ok(text) => backup_age(&text, now),
        Err(error) => Finding::unanswered(&topics::BACKUP, &error),
    }
}

/// A Pod's metrics, through the API server's proxy: `get` on `pods/proxy`.
pub(crate) async fn metrics(client: &Client, namespace: &str, pod: &str) -> Result<String, kube::Error> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{ADMIN_PORT}/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await
}

fn backup_age(metrics: &str, now: Timestamp) -> Finding {
    let newest = metrics
        .lines()
        .find_map(|line| line.strip_prefix("depin_backup_newest_timestamp_seconds ")?.trim().parse::<f64>().ok());
    match newest {
        Some(seconds) if seconds > 0.0 => {
            // Whole seconds of this century fit.
            let at = Timestamp((seconds as i64).saturating_mul(1_000));
            let told = if now.since(at) > STALE_MS {
                format!("the newest is of {}", crate::output::when(at))
            } else {
                String::new()
            };
            Finding::wrong_if(&topics::BACKUP, told)
        }
        _ => Finding::doubtful(&topics::BACKUP, "there is none"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::{
            apps::v1::{DeploymentCondition, DeploymentStatus},
            coordination::v1::LeaseSpec,
            core::v1::{PodCondition, PodStatus},
        },
        apimachinery::pkg::apis::meta::v1::MicroTime,
    };

    use super::*;

    #[test]
    fn a_leader_renews() {
        let lease = |holder: Option<&str>, renewed: i64| Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                renew_time: Some(MicroTime(jiff::Timestamp::from_millisecond(renewed).unwrap())),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        let verdict = |lease: Option<&Lease>| leads(lease, Timestamp(100_000)).verdict;
        assert_eq!(verdict(None), Verdict::Unseen);
        assert_eq!(verdict(Some(&lease(Some("a"), 71_000))), Verdict::Right);
        assert_eq!(verdict(Some(&lease(Some("a"), 69_000))), Verdict::Wrong);
        assert_eq!(verdict(Some(&lease(Some(""), 100_000))), Verdict::Wrong, "given back");
        assert_eq!(verdict(Some(&lease(None, 100_000))), Verdict::Wrong);
    }

    #[test]
    fn a_deployment_tells_whether_it_is_available_and_of_which_version() {
        let deployment = |status: &str, version: &str| {
            let condition = DeploymentCondition {
                type_: "Available".into(),
                status: status.into(),
                message: Some("minimum".into()),
                ..DeploymentCondition::default()
            };
            let mut made = Deployment {
                status: Some(DeploymentStatus { conditions: Some(vec![condition]), ..DeploymentStatus::default() }),
                ..Deployment::default()
            };
            made.labels_mut().insert(VERSION_LABEL.into(), version.into());
            made
        };
        let verdicts = |it: Option<&Deployment>| operator(it).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(verdicts(Some(&deployment("True", own))), [Verdict::Right, Verdict::Right]);
        assert_eq!(verdicts(Some(&deployment("False", "0.0.1"))), [Verdict::Wrong, Verdict::Doubtful]);
        assert_eq!(verdicts(Some(&Deployment::default())), [Verdict::Wrong]);
        assert_eq!(verdicts(None), [Verdict::Unseen]);
    }

    #[test]
    fn one_of_two_gateways_is_doubtful_and_none_is_wrong() {
        let pod = |ready: &str| Pod {
            status: Some(PodStatus {
                phase: Some("Pending".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: ready.into(),
                    ..PodCondition::default()
                }]),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        assert_eq!(gateway(&[pod("True"), pod("True")]).verdict, Verdict::Right);
        assert_eq!(gateway(&[pod("True"), pod("False")]).verdict, Verdict::Doubtful);
        let none = gateway(&[pod("False")]);
        assert!(none.verdict == Verdict::Wrong && none.told.contains("Pending"), "{none:?}");
        assert_eq!(gateway(&[]).verdict, Verdict::Unseen);
    }

    #[test]
    fn certificates_and_backups_have_their_time() {
        let verdict = |end: i64| lifetime(&topics::AUTHORITY, Timestamp(end), Timestamp(0)).verdict;
        assert_eq!(
            (verdict(0), verdict(SOON_MS - 1), verdict(SOON_MS)),
            (Verdict::Wrong, Verdict::Doubtful, Verdict::Right)
        );
        assert_eq!(certificate(&topics::AUTHORITY, "x", None, leaf_end, Timestamp(0)).verdict, Verdict::Wrong);
        assert_eq!(
            certificate(&topics::AUTHORITY, "x", Some("no PEM"), leaf_end, Timestamp(0)).verdict,
            Verdict::Wrong
        );
        let age = |text: &str| backup_age(text, Timestamp(200_000_000)).verdict;
        assert_eq!(age("# HELP\ndepin_backup_newest_timestamp_seconds 199999\n"), Verdict::Right);
        assert_eq!(age("depin_backup_newest_timestamp_seconds 100000\n"), Verdict::Wrong);
        assert_eq!((age("depin_backup_newest_timestamp_seconds 0\n"), age("")), (Verdict::Doubtful, Verdict::Doubtful));
    }
}

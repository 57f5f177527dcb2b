//! The cluster itself: version, clocks, names, nodes, storage, rights. What is said of it is pure; only the functions that take a client ask.

use std::collections::BTreeMap;

use depin_domain::time::Timestamp;
use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::{Namespace, Node},
        storage::v1::StorageClass,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
    client::Body,
};

use super::{finding::Finding, topics};

/// Oldest minor version of Kubernetes 1 that the chart admits.
const MINOR: u32 = 33;
/// Clocks may differ by so much. The API server tells its own in whole seconds.
const MAX_SKEW_MS: i64 = 3_000;
/// Label of nodes that run agents, unless the chart's values name another.
const EDGE: &str = "node-role.kubernetes.io/edge";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Default of the chart's `agent.namespace`.
pub(super) const AGENTS: &str = "depin-agents";

/// What the chart creates: group, resource, and where.
const CREATED: [(&str, &str, Place); 19] = [
    ("apiextensions.k8s.io", "customresourcedefinitions", Place::Cluster),
    ("rbac.authorization.k8s.io", "clusterroles", Place::Cluster),
    ("rbac.authorization.k8s.io", "clusterrolebindings", Place::Cluster),
    ("", "namespaces", Place::Cluster),
    ("scheduling.k8s.io", "priorityclasses", Place::Cluster),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", Place::Cluster),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", Place::Cluster),
    ("", "serviceaccounts", Place::Operator),
    ("rbac.authorization.k8s.io", "roles", Place::Operator),
    ("rbac.authorization.k8s.io", "rolebindings", Place::Operator),
    ("apps", "deployments", Place::Operator),
    ("apps", "statefulsets", Place::Operator),
    ("", "services", Place::Operator),
    ("", "configmaps", Place::Operator),
    ("", "secrets", Place::Operator),
    ("policy", "poddisruptionbudgets", Place::Operator),
    ("networking.k8s.io", "networkpolicies", Place::Operator),
    ("apps", "daemonsets", Place::Agents),
    ("", "serviceaccounts", Place::Agents),
];

#[derive(Clone, Copy, Debug)]
enum Place {
    Cluster,
    Operator,
    Agents,
}

/// Whether it answers, its version and its clock.
pub(super) async fn server(client: &Client) -> Vec<Finding> {
    let request = match http::Request::get("/version").body(Body::empty()) {
        Ok(request) => request,
        Err(error) => return vec![Finding::wrong(&topics::API, error.to_string())],
    };
    let before = now();
    // The answer's Date is the API server's clock; its body comes with the second question.
    let date = match client.send(request).await {
        Ok(answer) => answer.headers().get(http::header::DATE).and_then(|value| value.to_str().ok().and_then(date_ms)),
        Err(error) => return vec![Finding::wrong(&topics::API, format!("API server: {error}"))],
    };
    let after = now();
    match client.apiserver_version().await {
        Ok(version) => vec![Finding::right(&topics::API), new_enough(&version), clock(date, before, after)],
        Err(error) => vec![Finding::wrong(&topics::API, format!("API server: {error}"))],
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Milliseconds of an HTTP date.
fn date_ms(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp().as_millisecond())
}

fn new_enough(version: &Info) -> Finding {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or(0);
    let (major, minor) = (number(&version.major), number(&version.minor));
    let told = if (major, minor) >= (1, MINOR) { String::new() } else { format!("it is {}", version.git_version) };
    Finding::wrong_if(&topics::VERSION, told).of(format!("{} ({})", topics::VERSION.what, version.git_version))
}

/// It read its clock between the two moments, and told whole seconds.
fn clock(told: Option<i64>, before: i64, after: i64) -> Finding {
    let Some(told) = told else { return Finding::unseen(&topics::CLOCK, "the API server tells no time") };
    let skew = before.saturating_sub(told.saturating_add(1_000)).max(told.saturating_sub(after));
    let fault = if skew > MAX_SKEW_MS { format!("they differ by {} s", skew / 1_000) } else { String::new() };
    Finding::doubtful_if(&topics::CLOCK, fault)
}

/// Nodes: their labels, and their clocks by the Leases that they renew.
pub(super) async fn nodes(client: &Client) -> Vec<Finding> {
    let labelled = Api::<Node>::all(client.clone()).list(&ListParams::default().labels(EDGE)).await;
    let edge = match &labelled {
        Ok(list) => Finding::doubtful_if(
            &topics::EDGE_NODES,
            if list.items.is_empty() { format!("none has the label {EDGE}") } else { String::new() },
        ),
        Err(error) => Finding::unanswered(&topics::EDGE_NODES, error),
    };
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease").list(&ListParams::default()).await;
    let clocks = match &leases {
        Ok(list) => node_clocks(&list.items, Timestamp(now())),
        Err(error) => Finding::unanswered(&topics::NODE_CLOCKS, error),
    };
    vec![edge, clocks]
}

/// A Lease that will be renewed only in the future was written by a clock that is ahead. One that is behind looks like a silent node.
fn node_clocks(leases: &[Lease], now: Timestamp) -> Finding {
    let ahead = leases.iter().filter_map(|lease| {
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0.as_millisecond();
        let skew = renewed.saturating_sub(now.0);
        (skew > MAX_SKEW_MS).then(|| format!("{} is {} s ahead", lease.name_any(), skew / 1_000))
    });
    Finding::doubtful_if(&topics::NODE_CLOCKS, ahead.collect::<Vec<_>>().join(", "))
}

/// The StorageClasses.
pub(super) async fn storage(client: &Client) -> Finding {
    match Api::<StorageClass>::all(client.clone()).list(&ListParams::default()).await {
        Ok(list) => {
            let default =
                list.items.iter().any(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|is| is == "true"));
            Finding::doubtful_if(
                &topics::STORAGE,
                if default { String::new() } else { format!("none of {} is the default", list.items.len()) },
            )
        }
        Err(error) => Finding::unanswered(&topics::STORAGE, &error),
    }
}

/// Which Pods the namespaces admit.
pub(super) async fn pod_security(client: &Client) -> Finding {
    match Api::<Namespace>::all(client.clone()).get_opt(AGENTS).await {
        Ok(namespace) => agents_admitted(namespace.as_ref()),
        Err(error) => Finding::unanswered(&topics::POD_SECURITY, &error),
    }
}

/// The chart makes the namespace with its label where it is not there.
fn agents_admitted(namespace: Option<&Namespace>) -> Finding {
    let level = namespace.and_then(|namespace| namespace.labels().get(ENFORCE));
    let told = match level.map(String::as_str) {
        None | Some("privileged") => String::new(),
        Some(level) => format!("namespace {AGENTS} enforces {level}"),
    };
    Finding::wrong_if(&topics::POD_SECURITY, told)
}

/// What of the chart's objects this person may create.
pub(super) async fn rights(client: &Client, operator_namespace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (group, resource, place) in CREATED {
        let namespace = match place {
            Place::Cluster => None,
            Place::Operator => Some(operator_namespace),
            Place::Agents => Some(AGENTS),
        };
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some("create".to_owned()),
            namespace: namespace.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let answer = Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
        let finding = match answer {
            Ok(reviewed) if reviewed.status.as_ref().is_some_and(|status| status.allowed) => {
                Finding::right(&topics::MAY_CREATE)
            }
            Ok(_) => Finding::wrong(&topics::MAY_CREATE, format!("may not create {resource}")),
            Err(error) => Finding::unanswered(&topics::MAY_CREATE, &error),
        };
        let place = namespace.map_or_else(String::new, |namespace| format!(" in {namespace}"));
        findings.push(finding.of(format!("may create {resource}{place}")));
    }
    findings
}

/// Names of kinds by the groups that claim them.
fn claims(definitions: &[CustomResourceDefinition]) -> BTreeMap<&str, Vec<&str>> {
    let mut claims: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for definition in definitions {
        let names = &definition.spec.names;
        for name in names.short_names.iter().flatten().chain([&names.plural]).chain(&names.singular) {
            claims.entry(name).or_default().push(&definition.spec.group);
        }
    }
    claims
}

/// Our names that another group claims too.
pub(super) fn names(definitions: &[CustomResourceDefinition]) -> Finding {
    let claims = claims(definitions);
    let mut told = Vec::new();
    for definition in depin_crds::yaml::definitions() {
        let names = definition.spec.names;
        for name in names.short_names.into_iter().flatten().chain([names.plural]).chain(names.singular) {
            let others = claims.get(name.as_str()).into_iter().flatten().filter(|group| **group != depin_crds::GROUP);
            told.extend(others.map(|other| format!("{name:?} is also a name in {other}")));
        }
    }
    Finding::wrong_if(&topics::NAMES, told.join("; "))
}

/// Before an installation: kinds of ours that nobody can upgrade by Helm.
pub(super) fn installed_before(definitions: &[CustomResourceDefinition]) -> Finding {
    let ours = definitions.iter().filter(|definition| definition.spec.group == depin_crds::GROUP);
    let by_hand =
        ours.filter(|definition| definition.labels().get("app.kubernetes.io/managed-by").is_none_or(|by| by != "Helm"));
    let names: Vec<String> = by_hand.map(|definition| definition.name_any()).collect();
    let told = if names.is_empty() {
        String::new()
    } else {
        format!(
            "{} kinds were applied by hand: install with crds.enabled=false, or delete them if nothing uses them",
            names.len()
        )
    };
    Finding::doubtful_if(&topics::INSTALLED_BEFORE, told)
}

/// Each kind: whether it is there, and whether it is this version's.
pub(super) fn definitions(definitions: &[CustomResourceDefinition]) -> Vec<Finding> {
    let mut missing = Vec::new();
    let mut other = Vec::new();
    for ours in depin_crds::yaml::definitions() {
        let name = ours.name_any();
        match definitions.iter().find(|known| known.name_any() == name) {
            None => missing.push(name),
            Some(known) if !same(known, &ours) => other.push(name),
            Some(_) => {}
        }
    }
    let told = if missing.is_empty() { String::new() } else { format!("missing: {}", missing.join(", ")) };
    let differ = if other.is_empty() { String::new() } else { format!("of another version: {}", other.join(", ")) };
    vec![Finding::wrong_if(&topics::DEFINITIONS, told), Finding::doubtful_if(&topics::DEFINITION_VERSIONS, differ)]
}

/// By what they say of objects: names and schemas of versions. Labels and what the API server fills in are nothing of ours.
fn same(known: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> bool {
    let schemas = |definition: &CustomResourceDefinition| {
        let versions = definition.spec.versions.iter();
        versions.map(|version| (version.name.clone(), serde_json::to_value(&version.schema).ok())).collect::<Vec<_>>()
    };
    schemas(known) == schemas(ours)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::api::ObjectMeta;

    use super::{super::finding::Verdict, *};

    #[test]
    fn versions_are_compared_as_numbers() {
        let of = |major: &str, minor: &str| {
            new_enough(&Info { major: major.into(), minor: minor.into(), git_version: "v".into(), ..Info::default() })
                .verdict
        };
        assert_eq!(
            (of("1", "33"), of("1", "33+"), of("1", "100"), of("2", "0")),
            (Verdict::Right, Verdict::Right, Verdict::Right, Verdict::Right)
        );
        assert_eq!((of("1", "32"), of("1", "9+"), of("", "")), (Verdict::Wrong, Verdict::Wrong, Verdict::Wrong));
    }

    #[test]
    fn clocks_agree_within_what_can_be_told() {
        let date = date_ms("Mon, 23 Nov 2026 14:00:00 GMT").unwrap();
        let verdict = |before: i64, after: i64| clock(Some(date), date + before, date + after).verdict;
        assert_eq!(verdict(900, 950), Verdict::Right, "the rest of the second is not told");
        assert_eq!(verdict(4_000, 4_000), Verdict::Right, "at the limit");
        assert_eq!((verdict(4_100, 4_100), verdict(-4_000, -3_900)), (Verdict::Doubtful, Verdict::Doubtful));
        assert_eq!(verdict(-10_000, 10_000), Verdict::Right, "it took long, so nothing is known");
        assert_eq!(clock(None, 0, 0).verdict, Verdict::Unseen);
        let lease = |name: &str, at: i64| Lease {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                renew_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
                    jiff::Timestamp::from_millisecond(at).unwrap(),
                )),
                ..LeaseSpec::default()
            }),
        };
        assert_eq!(node_clocks(&[lease("a", 0), lease("b", 3_000)], Timestamp(0)).verdict, Verdict::Right);
        let found = node_clocks(&[lease("a", 0), lease("b", 60_000)], Timestamp(0));
        assert_eq!((found.verdict, found.told.as_str()), (Verdict::Doubtful, "b is 60 s ahead"));
    }

    #[test]
    fn a_restricted_namespace_admits_no_agents() {
        let labelled = |level: &str| Namespace {
            metadata: ObjectMeta {
                labels: Some(BTreeMap::from([(ENFORCE.to_owned(), level.to_owned())])),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        assert_eq!(agents_admitted(None).verdict, Verdict::Right);
        assert_eq!(agents_admitted(Some(&labelled("privileged"))).verdict, Verdict::Right);
        assert_eq!(agents_admitted(Some(&labelled("restricted"))).verdict, Verdict::Wrong);
    }

    #[test]
    fn our_kinds_are_known_and_others_names_are_told() {
        let ours = depin_crds::yaml::definitions();
        assert_eq!(names(&ours).verdict, Verdict::Right, "a kind does not collide with itself");
        assert!(definitions(&ours).iter().all(|finding| finding.verdict == Verdict::Right));
        let verdicts: Vec<Verdict> = definitions(&[]).iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Wrong, Verdict::Right]);
        let mut changed = ours.clone();
        changed[0].spec.versions[0].schema = None;
        assert_eq!(definitions(&changed)[1].verdict, Verdict::Doubtful);
        let mut foreign = ours.clone();
        foreign[0].spec.group = "other.example".into();
        let found = names(&foreign);
        assert!(found.verdict == Verdict::Wrong && found.told.contains("other.example"), "{found:?}");
        assert_eq!(installed_before(&ours).verdict, Verdict::Doubtful, "nobody says that Helm made them");
        assert_eq!(installed_before(&[]).verdict, Verdict::Right);
    }
}

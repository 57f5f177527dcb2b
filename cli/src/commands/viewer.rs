//! `viewer create`: in whose name a tenant reads the ledger: a ServiceAccount with a role, or a certificate for whoever has no cluster.

use std::path::Path;

use depin_domain::time::{Timestamp, Window};
use depin_identity::{PeerIdentity, keys::write_private};
use depin_operator::query::{GROUP, RESOURCE, VERB_QUERY};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{own_namespace, suspend::MANAGER};
use crate::{
    args::{Arguments, ViewerCommand},
    cluster::Cluster,
    credentials,
    fault::Fault,
    output::{Report, when},
};

const DAY_MS: i64 = 86_400_000;
/// How far clocks may differ.
const SKEW_MS: i64 = 3_600_000;
/// Role of those who may reach the operator, in its namespace.
const REACH: &str = "depin-query";

pub(super) async fn run(arguments: &Arguments, command: &ViewerCommand) -> Result<Report, Fault> {
    let ViewerCommand::Create { users, groups, out, days } = command;
    match out {
        Some(out) => certificate(arguments, out, *days).await,
        None => account(arguments, users, groups).await,
    }
}

/// What is applied for a viewer. Pure.
#[derive(Clone, Debug)]
struct Grant<'a> {
    viewer: &'a str,
    /// Where the ServiceAccount is.
    namespace: &'a str,
    operator_namespace: &'a str,
    /// It sees everything.
    wide: bool,
    /// Who asks in its name, as subjects of a binding.
    people: Vec<Value>,
}

impl Grant<'_> {
    fn manifests(&self) -> Vec<Value> {
        let (scope, suffix) = if self.wide { ("ClusterRole", "ClusterRoleBinding") } else { ("Role", "RoleBinding") };
        let account = json!({"kind": "ServiceAccount", "name": self.viewer, "namespace": self.namespace});
        let query = json!([{"apiGroups": [GROUP], "resources": [RESOURCE], "verbs": [VERB_QUERY]}]);
        // Not the name of the chart's own role: that one is Helm's to change.
        let role = format!("{}-query", self.viewer);
        let place = (!self.wide).then_some(self.namespace);
        let mut made = vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": false, "metadata": {"name": self.viewer, "namespace": self.namespace}}),
            rbac(scope, &role, place, json!({"rules": query})),
            rbac(suffix, &role, place, binding(scope, &role, vec![account])),
        ];
        if !self.people.is_empty() {
            let token = format!("{}-token", self.viewer);
            let use_it = json!([{"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [self.viewer], "verbs": ["create"]}]);
            let reach = json!([
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
                {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create", "get"]},
            ]);
            let (own, operator) = (Some(self.namespace), Some(self.operator_namespace));
            // One binding for each viewer, so that another viewer's people stay.
            let reaching = format!("{REACH}-{}-{}", self.namespace, self.viewer);
            made.extend([
                rbac("Role", &token, own, json!({"rules": use_it})),
                rbac("RoleBinding", &token, own, binding("Role", &token, self.people.clone())),
                rbac("Role", REACH, operator, json!({"rules": reach})),
                rbac("RoleBinding", &reaching, operator, binding("Role", REACH, self.people.clone())),
            ]);
        }
        made
    }
}

fn meta(name: &str, namespace: Option<&str>) -> Value {
    let mut meta = json!({"name": name, "labels": {"app.kubernetes.io/managed-by": "kubectl-depin"}});
    if let Some(namespace) = namespace {
        meta["namespace"] = namespace.into();
    }
    meta
}

fn rbac(kind: &str, name: &str, namespace: Option<&str>, rest: Value) -> Value {
    let mut object = rest;
    object["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
    object["kind"] = kind.into();
    object["metadata"] = meta(name, namespace);
    object
}

fn binding(kind: &str, role: &str, subjects: Vec<Value>) -> Value {
    json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}, "subjects": subjects})
}

fn people(users: &[String], groups: &[String]) -> Vec<Value> {
    let subject =
        |kind: &str, name: &String| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let users = users.iter().map(|name| subject("User", name));
    users.chain(groups.iter().map(|name| subject("Group", name))).collect()
}

async fn account(arguments: &Arguments, users: &[String], groups: &[String]) -> Result<Report, Fault> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let (wide, operator_namespace) = (arguments.cluster.all_namespaces, arguments.cluster.operator_namespace.as_str());
    let namespace = if wide { operator_namespace } else { &cluster.namespace };
    let viewer = arguments.ledger.viewer.as_str();
    let grant = Grant { viewer, namespace, operator_namespace, wide, people: people(users, groups) };
    let manifests = grant.manifests();
    for manifest in &manifests {
        apply(&cluster, manifest).await?;
    }
    let sees = if wide { "everything".to_owned() } else { format!("namespace {namespace}") };
    let flag = if wide { "-A".to_owned() } else { format!("-n {namespace}") };
    let text = format!(
        "serviceaccount/{viewer} in namespace {namespace} sees {sees}; ask in its name with\n  kubectl depin status {flag}"
    );
    let made: Vec<_> = manifests
        .iter()
        .map(|it| json!({"kind": it["kind"], "name": it["metadata"]["name"], "namespace": it["metadata"]["namespace"]}))
        .collect();
    Ok(Report::new(json!({"namespace": namespace, "viewer": viewer, "wide": wide, "applied": made}), text))
}

async fn apply(cluster: &Cluster, manifest: &Value) -> Result<(), Fault> {
    let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
    let client = cluster.client.clone();
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        "" => Api::all_with(client, &resource),
        namespace => Api::namespaced_with(client, namespace, &resource),
    };
    api.patch(text("/metadata/name"), &PatchParams::apply(MANAGER).force(), &Patch::Apply(manifest)).await?;
    Ok(())
}

async fn certificate(arguments: &Arguments, out: &Path, days: u16) -> Result<Report, Fault> {
    let namespace = own_namespace(arguments).await;
    let authorities = credentials::authorities(arguments).await?;
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let validity = Window { start: now.plus(-SKEW_MS), end: now.plus(i64::from(days).saturating_mul(DAY_MS)) };
    let viewer = PeerIdentity::Viewer { namespace: namespace.clone() };
    let (key, certificate) = credentials::certify(&authorities.issuing, &viewer, validity)
        .map_err(|error| Fault::failed(error, "check the namespace's name (-n)"))?;
    std::fs::create_dir_all(out).map_err(|error| Fault::file(out, error))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        write_private(&path, bytes).map_err(|error| Fault::file(&path, error))
    };
    put("viewer.key", key.to_pem().as_bytes())?;
    put("viewer.crt", certificate.as_bytes())?;
    put("ca.crt", authorities.bundle().as_bytes())?;
    let text = format!(
        "a viewer of namespace {namespace}, until {}; use it with\n  --ledger https://host:port --cert {} --key {} --ca {}",
        when(validity.end),
        show(out, "viewer.crt"),
        show(out, "viewer.key"),
        show(out, "ca.crt")
    );
    let value = json!({"namespace": namespace, "directory": out, "expires": when(validity.end)});
    Ok(Report::new(value, text))
}

fn show(out: &Path, name: &str) -> String {
    out.join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(wide: bool, people: Vec<Value>) -> Vec<String> {
        let grant = Grant { viewer: "v", namespace: "town", operator_namespace: "ops", wide, people };
        let place = |it: &Value| {
            format!(
                "{} {}/{}",
                it["kind"].as_str().unwrap(),
                it["metadata"]["namespace"].as_str().unwrap_or("-"),
                it["metadata"]["name"].as_str().unwrap()
            )
        };
        grant.manifests().iter().map(place).collect()
    }

    #[test]
    fn a_tenants_viewer_gets_nothing_outside_its_namespace() {
        assert_eq!(kinds(false, vec![]), ["ServiceAccount town/v", "Role town/v-query", "RoleBinding town/v-query"]);
        assert_eq!(
            kinds(true, vec![]),
            ["ServiceAccount town/v", "ClusterRole -/v-query", "ClusterRoleBinding -/v-query"]
        );
    }

    #[test]
    fn people_get_the_token_and_the_way_and_no_more() {
        let made = kinds(false, people(&["ann".into()], &["staff".into()]));
        assert_eq!(
            made[3..],
            [
                "Role town/v-token",
                "RoleBinding town/v-token",
                "Role ops/depin-query",
                "RoleBinding ops/depin-query-town-v"
            ]
        );
        let grant = Grant {
            viewer: "v",
            namespace: "town",
            operator_namespace: "ops",
            wide: false,
            people: people(&["ann".into()], &[]),
        };
        let token = &grant.manifests()[3]["rules"];
        assert_eq!(token[0]["resourceNames"], json!(["v"]), "of this viewer only");
    }
}

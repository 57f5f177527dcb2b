//! Questions through the operator: a token of a viewer's ServiceAccount shows what a viewer's certificate would, and RBAC alone decides.
//!
//! There is no kubelet here, so nothing can be forwarded: the program is told where the operator listens.

use std::path::Path;

use depin_tests::{Cluster, Stack};
use serde_json::Value;

use crate::{
    eventually,
    tool::{Tool, word},
};

/// What a Pod's ServiceAccount needs for `check`, as in docs/cli.md.
const CHECKER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: checker, namespace: depin-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: checker, namespace: depin-system}
rules:
- {apiGroups: [''], resources: [serviceaccounts/token], resourceNames: [depin-viewer], verbs: [create]}
- {apiGroups: [''], resources: [pods], verbs: [list]}
- {apiGroups: [apps], resources: [deployments], verbs: [list]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [depin-operator], verbs: [get]}
- {apiGroups: [''], resources: [configmaps], resourceNames: [depin-ca], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: checker, namespace: depin-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: checker}
subjects: [{kind: ServiceAccount, name: checker, namespace: depin-system}]
";

/// What these steps make in the operator's namespace and beside it, for its removal.
const MADE: [&str; 8] = [
    "serviceaccount/checker",
    "role/checker",
    "rolebinding/checker",
    "serviceaccount/depin-viewer",
    "role/depin-query",
    "role/depin-viewer-token",
    "rolebinding/depin-query-weather-depin-viewer",
    "rolebinding/depin-viewer-token",
];

pub(crate) fn people_ask_the_operator(cluster: &Cluster, stack: &Stack, administrator: &Tool, dir: &Path) {
    let asking = Tool::bare().with("KUBECONFIG", word(cluster.kubeconfig())).with("DEPIN_QUERY", &stack.query());
    asking.fails("epochs -n weather", 5, &["depin-viewer", "not found", "kubectl depin viewer create"]);
    a_tenants_people_see_their_namespace(cluster, &asking);
    an_administrator_sees_everything(&asking, administrator, dir);
    a_right_to_the_token_can_be_taken_back(cluster, &asking);
    it_runs_in_a_pod(cluster, stack, dir);
    for made in MADE {
        cluster.kubectl(&["delete", made, "-n", "depin-system", "--ignore-not-found"]).unwrap();
    }
    cluster.kubectl(&["delete", "clusterrole/depin-viewer-query", "clusterrolebinding/depin-viewer-query"]).unwrap();
}

fn a_tenants_people_see_their_namespace(cluster: &Cluster, asking: &Tool) {
    let made = asking.json("viewer create -n weather --for-user ann --for-group staff");
    assert_eq!((&made["namespace"], &made["wide"]), (&"weather".into(), &false.into()));
    let ann = "--as ann";
    let epochs = eventually("what RBAC gives Ann", || {
        let run = asking.run(&format!("epochs -n weather {ann} --program weather/observations -o json"));
        (run.code == 0).then(|| serde_json::from_str::<Value>(&run.out).unwrap())
    });
    assert!(!epochs.as_array().unwrap().is_empty());
    assert!(asking.text(&format!("explain weather/ws-0001 -n weather {ann}")).contains("Share"));
    // Another tenant's is not even known to exist.
    asking.fails(&format!("epochs -n weather {ann} --program energy/kilowatts"), 3, &["energy/kilowatts"]);
    asking.fails(&format!("explain energy/meter-0001 -n weather {ann}"), 3, &["meter-0001"]);
    asking.fails(&format!("release -n weather {ann}"), 1, &["only the operator may read this"]);
    // She has no token for another namespace, and neither has anyone else one for hers.
    asking.fails(&format!("epochs -n energy {ann}"), 5, &["ann", "forbidden", "viewer create"]);
    asking.fails(&format!("epochs -A {ann}"), 5, &["ann", "forbidden"]);
    asking.fails("epochs -n weather --as bob", 5, &["bob", "forbidden"]);
    asking.text("epochs -n weather --as carl --as-group staff");
    // A role that is gone is gone: nothing is remembered.
    cluster.kubectl(&["delete", "rolebinding", "depin-viewer-query", "-n", "weather"]).unwrap();
    let said = eventually("the role's end", || {
        let run = asking.run(&format!("epochs -n weather {ann}"));
        (run.code == 1).then_some(run.errors)
    });
    assert!(said.contains("system:serviceaccount:weather:depin-viewer") && said.contains("verbs [query]"), "{said}");
    asking.text("viewer create -n weather");
    eventually("the role again", || (asking.run(&format!("epochs -n weather {ann}")).code == 0).then_some(()));
}

fn an_administrator_sees_everything(asking: &Tool, administrator: &Tool, dir: &Path) {
    let made = asking.json("viewer create -A");
    assert_eq!((&made["namespace"], &made["wide"]), (&"depin-system".into(), &true.into()));
    let status = eventually("what RBAC gives the viewer of all", || {
        let run = asking.run("status -A -o json");
        let status = (run.code == 0).then(|| serde_json::from_str::<Value>(&run.out).unwrap());
        status.filter(|status| status["ledger"].is_object())
    });
    assert_eq!(status["agents"].as_array().unwrap().len(), 2, "{status}");
    let known = administrator.json("status");
    assert_eq!(status["ledger"]["gatewayKey"], known["ledger"]["gatewayKey"], "told, not shown by a certificate");
    let devices = asking.json("devices -A");
    assert!(devices.as_array().unwrap().iter().any(|device| device["accepted"].as_u64() > Some(0)), "{devices}");
    let file = dir.join("asked.proofs");
    asking.text(&format!("proofs weather/ws-0001 --limit 3 --out {}", word(&file)));
    let run = Tool::bare().run(&format!("verify {}", word(&file)));
    assert_eq!(run.code, 0, "proofs verify with the keys that came along: {run:?}");
    // To see all is not to change anything.
    asking.fails("release --yes -A --viewer nobody", 5, &["nobody", "not found"]);
    assert_eq!(asking.json("release -A"), serde_json::json!({"held": false, "released": false}));
}

fn a_right_to_the_token_can_be_taken_back(cluster: &Cluster, asking: &Tool) {
    cluster.kubectl(&["delete", "rolebinding", "depin-viewer-token", "-n", "weather"]).unwrap();
    let said = eventually("the end of Ann's right", || {
        let run = asking.run("epochs -n weather --as ann");
        (run.code == 5).then_some(run.errors)
    });
    assert!(said.contains("ann") && said.contains("forbidden"), "{said}");
}

/// A Pod has no kubeconfig: its ServiceAccount's files stand where the kubelet puts them, here in a mount namespace of the test's own. What that
/// account may not read is not looked at, and no fault.
fn it_runs_in_a_pod(cluster: &Cluster, stack: &Stack, dir: &Path) {
    if Tool::bare().shell("test $(id -u) = 0 && unshare -m true").code != 0 {
        println!("skipped: kubectl depin in a Pod (needs root for a mount namespace)");
        return;
    }
    cluster.apply(CHECKER).unwrap();
    let config = |field: &str| {
        let template = format!("-o=jsonpath={{.clusters[0].cluster.{field}}}");
        cluster.kubectl(&["config", "view", "--raw", &template]).unwrap().trim().to_owned()
    };
    let (server, authority) = (config("server"), config("certificate-authority"));
    let files = dir.join("serviceaccount");
    std::fs::create_dir_all(&files).unwrap();
    let token = cluster.kubectl(&["create", "token", "checker", "-n", "depin-system"]).unwrap();
    std::fs::write(files.join("token"), token.trim()).unwrap();
    std::fs::write(files.join("namespace"), "depin-system").unwrap();
    std::fs::copy(authority, files.join("ca.crt")).unwrap();
    let (host, port) = server.trim_start_matches("https://").split_once(':').unwrap();
    let programs = depin_tests::programs().unwrap();
    let pod = Tool::bare()
        .with("KUBERNETES_SERVICE_HOST", host)
        .with("KUBERNETES_SERVICE_PORT", port)
        .with("DEPIN_QUERY", &stack.query());
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let line = format!(
        "unshare -m sh -c 'mount -t tmpfs tmpfs /var/run/ && mkdir -p {place} && cp {}/* {place} && exec {} check -o json'",
        word(&files),
        word(&programs.join("kubectl-depin"))
    );
    let found = eventually("what RBAC gives the checker", || {
        let run = pod.shell(&line);
        (run.code == 0).then(|| serde_json::from_str::<Value>(&run.out).unwrap())
    });
    let checks: Vec<&Value> = found["sections"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|section| section["checks"].as_array().unwrap())
        .collect();
    let verdict =
        |id: &str| checks.iter().find(|check| check["id"] == id).map(|check| check["verdict"].clone()).unwrap();
    assert_eq!((verdict("ledger"), verdict("authority")), ("right".into(), "right".into()), "{found}");
    assert_eq!((verdict("definitions"), verdict("gateway-certificate")), ("unseen".into(), "unseen".into()), "{found}");
}

//! A real API server takes what the chart renders, and keeps what people made when the release goes.

use std::io::Write as _;

use depin_tests::ControlPlane;
use serde_json::{Value, json};

use crate::helm::{AGENTS, Helm, NAMESPACE, Objects, RELEASE, name, values, values_of};

/// Kinds that a bare cluster does not know.
const OTHERS: [&str; 3] = ["ServiceMonitor", "PrometheusRule", "TLSRoute"];

fn cluster(helm: Helm, namespaces: &[&str]) -> (ControlPlane, Helm) {
    let plane = ControlPlane::start().unwrap();
    for namespace in namespaces {
        plane.run_kubectl(&["create", "namespace", namespace]).unwrap();
    }
    let helm = helm.on(plane.kubeconfig());
    (plane, helm)
}

fn apply(plane: &ControlPlane, objects: &[Value], more: &[&str]) -> Result<String, String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut command = plane.kubectl();
    command.args(["apply", "--server-side", "-f", "-"]).args(more).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(list.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn the_api_server_takes_every_rendering_and_completes_nothing_that_gitops_would_undo() {
    let Some(helm) = Helm::find() else { return };
    let (plane, helm) = cluster(helm, &[NAMESPACE, AGENTS, "energy", "weather"]);
    plane.apply_crds().unwrap();
    // A Pod is taken only with its account, which a dry run does not make.
    plane.run_kubectl(&["create", "serviceaccount", "depin-test", "-n", NAMESPACE]).unwrap();
    for file in values() {
        let Objects(mut objects) = helm.objects(&["-f", &file, "--set", "agent.createNamespace=false"]);
        objects.retain(|object| !OTHERS.contains(&object["kind"].as_str().unwrap()));
        let taken = apply(&plane, &objects, &["--dry-run=server", "--force-conflicts"]).unwrap();
        assert_eq!(taken.lines().count(), objects.len(), "{file}: {taken}");
    }
    // Written by one manager and then by another: a conflict would be a field that the API server completed.
    let Objects(mut objects) = helm.objects(&["--set", "agent.createNamespace=false"]);
    objects.retain(|object| {
        let hook = !object["metadata"]["annotations"]["helm.sh/hook"].is_null();
        !hook && object["kind"] != "CustomResourceDefinition"
    });
    apply(&plane, &objects, &["--field-manager=first"]).unwrap();
    apply(&plane, &objects, &["--field-manager=second", "--dry-run=server"]).unwrap();
}

#[test]
fn what_people_made_outlives_the_release() {
    let Some(helm) = Helm::find() else { return };
    let (plane, helm) = cluster(helm, &[NAMESPACE, "energy"]);
    helm.run(&["install", RELEASE, ".", "-n", NAMESPACE, "--set", "approvalPolicy.enabled=false"]);
    let labels = plane.run_kubectl(&["get", "namespace", AGENTS, "-o", "json"]).unwrap();
    let labels: Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    let fleet = json!({
        "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeFleet", "metadata": {"name": "meters", "namespace": "energy"},
        "spec": {"modelRef": {"name": "meter"}},
    });
    apply(&plane, &[fleet], &[]).unwrap();
    // A claim's template never changes; all else of these values is another version of everything.
    let volume = "gateway.persistence.enabled=true";
    helm.run(&["upgrade", RELEASE, ".", "-n", NAMESPACE, "-f", &values_of("digests"), "--set", volume]);
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = plane.run_kubectl(&["get", "deployment", "depin-operator", "-n", NAMESPACE, "-o", image]).unwrap();
    assert!(image.starts_with("mirror.example/depin/operator@sha256:"), "{image}");
    helm.run(&["uninstall", RELEASE, "-n", NAMESPACE]);
    plane.run_kubectl(&["get", "edgefleet", "meters", "-n", "energy"]).unwrap();
    let gone = plane.run_kubectl(&["get", "deployment", "depin-operator", "-n", NAMESPACE]).unwrap_err();
    assert!(gone.to_string().contains("NotFound"), "{gone}");
    // And a release of the same name takes them up again.
    helm.run(&["install", RELEASE, ".", "-n", NAMESPACE, "--set", "agent.enabled=false"]);
}

/// A Pod as the workload's controller would make it.
fn pod(workload: &Value) -> Value {
    let template = workload.pointer("/spec/template").cloned().unwrap_or_else(|| workload.clone());
    let mut spec = template["spec"].clone();
    // Claims of templates are made by a controller that does not run here; classes are not installed.
    if let Some(claims) = workload.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array) {
        let volumes = claims.iter().map(|claim| json!({"name": claim["metadata"]["name"], "emptyDir": {}}));
        spec["volumes"].as_array_mut().unwrap().extend(volumes);
    }
    spec.as_object_mut().unwrap().remove("priorityClassName");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name(workload), "labels": template["metadata"]["labels"]}, "spec": spec})
}

#[test]
fn pod_security_admits_everything_but_the_agents_directory_and_port_as_restricted() {
    let Some(helm) = Helm::find() else { return };
    let (plane, helm) = cluster(helm, &["strict", "open"]);
    for (namespace, level) in [("strict", "restricted"), ("open", "privileged")] {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        plane.run_kubectl(&["label", "namespace", namespace, &label]).unwrap();
        for account in ["default", "depin-operator", "depin-gateway", "depin-agent", "depin-test"] {
            // No controller makes default here.
            plane.run_kubectl(&["create", "serviceaccount", account, "-n", namespace]).unwrap();
        }
    }
    let admit = |workload: &Value, namespace: &str| {
        apply(&plane, &[pod(workload)], &["--dry-run=server", "--force-conflicts", "-n", namespace])
    };
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let mut strict = 0;
    for workload in
        rendered.0.iter().filter(|object| matches!(object["kind"].as_str(), Some("Deployment" | "StatefulSet" | "Pod")))
    {
        admit(workload, "strict").unwrap();
        strict += 1;
    }
    assert!(strict >= 3);

    let agent = rendered.get("DaemonSet", "depin-agent");
    admit(agent, "open").unwrap();
    let refused = admit(agent, "strict").unwrap_err();
    for reason in ["hostPath", "hostPort", "prepare-state"] {
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    assert!(!refused.contains("allowPrivilegeEscalation") && !refused.contains("seccompProfile"), "{refused}");
    // Where the node comes with its directory and no port of it is used, only the directory remains.
    let prepared = helm.objects(&["-f", &values_of("namespaced")]);
    let refused = admit(prepared.get("DaemonSet", "depin-agent"), "strict").unwrap_err();
    assert!(refused.contains("hostPath"), "{refused}");
    for reason in ["hostPort", "runAsNonRoot", "capabilities", "runAsUser"] {
        assert!(!refused.contains(reason), "{reason}: {refused}");
    }
}

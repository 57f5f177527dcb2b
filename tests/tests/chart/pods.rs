//! Every Pod is as restricted as its work allows, and shows whether it lives.

use serde_json::{Value, json};

use crate::helm::{Helm, texts, values, values_of};

/// Containers of a Pod, those that run first too.
fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers"].iter().flat_map(|list| pod[*list].as_array()).flatten().collect()
}

#[test]
fn nothing_runs_with_more_than_it_needs() {
    let Some(helm) = Helm::find() else { return };
    for file in values() {
        for (name, pod) in helm.objects(&["-f", &file]).pods() {
            assert_eq!(pod["enableServiceLinks"], false, "{name}: variables of Services would pass for settings");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for field in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[field].is_null(), "{name}: {field}");
            }
            for container in containers(pod) {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
                assert!(!container["resources"]["limits"]["memory"].is_null(), "{name}");
                assert!(!container["resources"]["requests"]["cpu"].is_null(), "{name}");
            }
            // Only who speaks to the API server has a token for it.
            let token = name == "depin-operator" || name == "depin-test";
            assert_eq!(pod["automountServiceAccountToken"], token, "{name}");
        }
    }
}

#[test]
fn the_agents_one_exception_is_who_owns_its_directory() {
    let Some(helm) = Helm::find() else { return };
    let usual = helm.objects(&[]);
    let pod = usual.pods().into_iter().find(|(name, _)| *name == "depin-agent").unwrap().1;
    let paths: Vec<&Value> =
        pod["volumes"].as_array().unwrap().iter().filter(|volume| !volume["hostPath"].is_null()).collect();
    assert_eq!(paths.len(), 1);
    assert_eq!(paths[0]["hostPath"]["path"], "/var/lib/depin-agent");
    let prepare = &pod["initContainers"][0];
    assert_eq!(prepare["securityContext"]["capabilities"], json!({"drop": ["ALL"], "add": ["CHOWN"]}));
    assert_eq!(prepare["command"], json!(["/depin-agent", "prepare"]));
    let agent = &pod["containers"][0]["securityContext"];
    assert!(agent["runAsUser"].is_null() && agent["capabilities"]["add"].is_null(), "{agent}");
    assert_eq!(pod["securityContext"]["runAsUser"], 65_532);

    let prepared = helm.objects(&["-f", &values_of("namespaced")]);
    let pod = prepared.pods().into_iter().find(|(name, _)| *name == "depin-agent").unwrap().1;
    assert!(pod["initContainers"].is_null());
}

#[test]
fn every_server_shows_whether_it_lives_and_is_ready() {
    let Some(helm) = Helm::find() else { return };
    for (name, pod) in helm.objects(&["-f", &values_of("everything")]).pods() {
        if name == "depin-test" {
            continue;
        }
        for container in pod["containers"].as_array().unwrap() {
            let paths: Vec<&str> = ["livenessProbe", "readinessProbe"]
                .iter()
                .filter_map(|probe| container[*probe].pointer("/httpGet/path").and_then(Value::as_str))
                .collect();
            if name == "depin-broker" {
                assert!(
                    !container["livenessProbe"]["tcpSocket"].is_null()
                        && !container["readinessProbe"]["tcpSocket"].is_null()
                );
            } else {
                assert_eq!(paths, ["/healthz", "/readyz"], "{name}");
            }
        }
    }
}

#[test]
fn a_drain_is_never_held_up_and_a_leader_has_a_successor_elsewhere() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&[]);
    let budgets = rendered.of("PodDisruptionBudget");
    assert_eq!(budgets.len(), 2);
    for budget in budgets {
        assert_eq!(budget["spec"]["maxUnavailable"], 1);
        assert!(budget["spec"]["minAvailable"].is_null());
    }
    let operator = rendered.get("Deployment", "depin-operator");
    assert_eq!(operator["spec"]["replicas"], 2);
    let spread = &operator["spec"]["template"]["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["topologyKey"], "kubernetes.io/hostname");
    for (name, pod) in helm.objects(&["-f", &values_of("everything")]).pods() {
        let class = if name == "depin-agent" { "depin-edge" } else { "depin-center" };
        assert!(name == "depin-test" || pod["priorityClassName"] == class, "{name}");
    }
}

#[test]
fn the_center_keeps_away_from_the_edge() {
    let Some(helm) = Helm::find() else { return };
    for (name, pod) in helm.objects(&["--set", "broker.enabled=true"]).pods() {
        let avoids =
            "/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/preference/matchExpressions/0";
        match name {
            "depin-operator" | "depin-gateway" | "depin-broker" => {
                let edge = json!({"key": "node-role.kubernetes.io/edge", "operator": "DoesNotExist"});
                assert_eq!(pod.pointer(avoids), Some(&edge), "{name}");
                assert!(pod["nodeSelector"].is_null(), "{name}");
            }
            "depin-agent" => assert_eq!(pod["nodeSelector"], json!({"node-role.kubernetes.io/edge": ""})),
            _ => assert_eq!(name, "depin-test"),
        }
    }
    // One's own choice stands alone.
    let chosen = helm.objects(&["-f", &values_of("everything")]);
    let gateway = chosen.pods().into_iter().find(|(name, _)| *name == "depin-gateway").unwrap().1;
    assert!(gateway.pointer("/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution").is_none());
}

#[test]
fn each_network_policy_denies_what_it_does_not_name() {
    let Some(helm) = Helm::find() else { return };
    assert!(helm.objects(&[]).of("NetworkPolicy").is_empty());
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let policies = rendered.of("NetworkPolicy");
    assert_eq!(policies.len(), 4);
    for policy in policies {
        assert_eq!(texts(&policy["spec"]["policyTypes"]), ["Ingress", "Egress"]);
        for rule in policy["spec"]["ingress"].as_array().unwrap() {
            assert!(rule["ports"].as_array().is_some_and(|ports| !ports.is_empty()), "any port: {rule}");
        }
    }
    let ledger = rendered.get("NetworkPolicy", "depin-gateway")["spec"]["ingress"].as_array().unwrap();
    let ledger = ledger.iter().find(|rule| rule["ports"][0]["port"] == 8444).unwrap();
    let operator = &ledger["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"];
    assert_eq!(operator, "operator");
    // Without anyone named, agents may come from anywhere, but never to the ledger.
    let open = helm.objects(&["--set", "networkPolicy.enabled=true"]);
    for rule in open.get("NetworkPolicy", "depin-gateway")["spec"]["ingress"].as_array().unwrap() {
        assert_eq!(rule["from"].is_null(), rule["ports"][0]["port"] == 8443, "{rule}");
    }
}

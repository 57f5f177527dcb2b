//! A network at work where the operator has the chart's Roles in its namespaces, and nothing more.

use std::{fs, time::Duration};

use depin_tests::{Cluster, Stack, eventually, now_ms, programs};
use xtask::demo::networks;

use crate::helm::{AGENTS, Helm, NAMESPACE, RELEASE, values_of};

const LIMIT: Duration = Duration::from_secs(180);

/// How often the API server forbade something.
fn forbidden(cluster: &Cluster) -> f64 {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).unwrap();
    let answers = metrics.lines().filter(|line| line.starts_with("apiserver_request_total{"));
    let forbidden = answers.filter(|line| line.contains("code=\"403\""));
    forbidden.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn with_roles_in_two_namespaces_a_network_works_and_nothing_is_forbidden() {
    let Some(helm) = Helm::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("control-plane");
    fs::create_dir_all(&files).unwrap();
    let cluster = Cluster::start(&files).unwrap();
    for namespace in [NAMESPACE, AGENTS].into_iter().chain(networks::NETWORKS) {
        cluster.kubectl(&["create", "namespace", namespace]).unwrap();
    }
    let helm = helm.on(cluster.kubeconfig().to_path_buf());
    let values = values_of("namespaced");
    helm.run(&["install", RELEASE, ".", "-n", NAMESPACE, "-f", &values, "--set", "agent.createNamespace=false"]);
    // The namespaces as the chart tells them to the operator.
    let flags = helm.objects(&["-f", &values]).flags("Deployment", "operator");
    let places = ["--watch-namespace=", "--publish-ca-namespace="];
    let flags: Vec<&str> =
        flags.iter().map(String::as_str).filter(|flag| places.iter().any(|place| flag.starts_with(place))).collect();
    assert_eq!(flags.len(), 3, "{flags:?}");

    let mut stack = Stack::new(dir.path(), &programs().unwrap()).unwrap();
    let before = forbidden(&cluster);
    stack.start_installed_center(&cluster, &[&flags[..], &["--leader-elect"]].concat()).unwrap();
    networks::apply_fleets(&cluster).unwrap();
    stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false).unwrap();
    networks::apply_programs(&cluster, u64::try_from(now_ms()).unwrap()).unwrap();
    let home = stack.agents[0].mqtt.clone();
    let hardware = ["--network", "meters", "--devices", "2", "--world-hour", "14", "--cadence", "200"];
    stack.start_simulator("meters", &home, &hardware).unwrap();
    // Agents, devices and requests come in, epochs are closed and shown, counts and presence are told: all that an operator writes.
    eventually("devices and an epoch that counts them", LIMIT, || {
        stack.check_alive().unwrap();
        let epochs = cluster.get(&["rewardepochs", "-n", "energy"]).unwrap();
        epochs["items"].as_array().unwrap().iter().any(|epoch| epoch["status"]["devices"].as_i64() > Some(0))
    });
    eventually("the fleet's counts", LIMIT, || {
        let fleet = cluster.get(&["edgefleet", "meters", "-n", "energy"]).unwrap();
        fleet["status"]["online"].as_i64() > Some(0)
    });
    let ca = cluster.kubectl(&["get", "configmap", "depin-ca", "-n", AGENTS, "-o", "name"]).unwrap();
    assert_eq!(ca.trim(), "configmap/depin-ca");
    assert_eq!(forbidden(&cluster), before, "{}", stack.operator.as_ref().unwrap().log_end());
    stack.stop().unwrap();
}

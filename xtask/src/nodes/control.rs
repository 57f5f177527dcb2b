//! The control plane on the hub: etcd, API server, controller manager, scheduler.

use std::process::Command;

use anyhow::Result;

use super::{START_LIMIT, credentials::Credentials, machine::Machine};
use crate::{
    control_plane::flag,
    pins::{NodeTools, Tools},
};

/// The range of Services; the cluster's DNS has the tenth address.
const SERVICES: &str = "10.96.0.0/24";

/// Starts all four and waits until the API server is ready.
pub(super) fn start(hub: &Machine, tools: &Tools, programs: &NodeTools, credentials: &Credentials) -> Result<()> {
    let mut etcd = hub.background(&tools.etcd);
    let client = "http://127.0.0.1:2379";
    etcd.arg("--unsafe-no-fsync").args(["--data-dir", "/var/lib/etcd", "--log-level", "warn", "--logger", "zap"]);
    etcd.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
    etcd.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
    hub.daemon("etcd", &mut etcd)?;
    hub.daemon("kube-apiserver", &mut api_server(hub, tools, credentials))?;
    hub.wait("kube-apiserver", "readiness", START_LIMIT, || {
        let mut kubectl = hub.in_network(&tools.kubectl);
        kubectl.env("KUBECONFIG", credentials.kubeconfig("admin")).args(["get", "--raw", "/readyz"]);
        kubectl.output().is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"ok"))
    })?;
    let mut manager = hub.background(&programs.kube_controller_manager);
    manager.arg(flag("--kubeconfig", &credentials.kubeconfig("kube-controller-manager")));
    manager.arg(flag("--service-account-private-key-file", &credentials.file("service-account.key")));
    manager.arg(flag("--root-ca-file", &credentials.file("ca.crt")));
    manager.args(["--use-service-account-credentials=true", "--leader-elect=false", "--allocate-node-cidrs=false"]);
    // A lost node is told after twenty seconds instead of forty: an outage fits into a test.
    manager.args(["--node-monitor-period=2s", "--node-monitor-grace-period=20s"]);
    hub.daemon("kube-controller-manager", &mut manager)?;
    let mut scheduler = hub.background(&programs.kube_scheduler);
    scheduler.arg(flag("--kubeconfig", &credentials.kubeconfig("kube-scheduler")));
    scheduler.arg("--leader-elect=false");
    hub.daemon("kube-scheduler", &mut scheduler)
}

fn api_server(hub: &Machine, tools: &Tools, credentials: &Credentials) -> Command {
    let mut command = hub.background(&tools.kube_apiserver);
    command.arg("--etcd-servers=http://127.0.0.1:2379").arg(format!("--advertise-address={}", hub.address()));
    command.args(["--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--allow-privileged=true"]);
    // Names of nodes are in no DNS.
    command.arg("--kubelet-preferred-address-types=InternalIP");
    command
        .args(["--authorization-mode=Node,RBAC", "--profiling=false"])
        .arg(format!("--service-cluster-ip-range={SERVICES}"));
    let files = [
        ("--tls-cert-file", "apiserver.crt"),
        ("--tls-private-key-file", "apiserver.key"),
        ("--kubelet-client-certificate", "kubelet-client.crt"),
        ("--kubelet-client-key", "kubelet-client.key"),
        ("--service-account-key-file", "service-account.pub"),
        ("--service-account-signing-key-file", "service-account.key"),
        ("--token-auth-file", "tokens.csv"),
    ];
    for (name, file) in files {
        command.arg(flag(name, &credentials.file(file)));
    }
    command
}

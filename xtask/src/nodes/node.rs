//! What makes a machine a Node: containerd, kubelet, kube-proxy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{START_LIMIT, credentials::Credentials, machine::Machine, wiring};
use crate::{control_plane::flag, pins::NodeTools};

/// Inside each machine, whose `/run` is its own.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The image of the container that holds a Pod's namespaces.
pub(super) const PAUSE: &str = "registry.depin.dev/test/pause:1";
/// The cluster's DNS.
pub(super) const DNS: &str = "10.96.0.10";

/// Starts all three and waits until containerd answers; the Node becomes Ready by itself.
pub(super) fn start(machine: &Machine, programs: &NodeTools, credentials: &Credentials) -> Result<()> {
    start_containerd(machine, programs)?;
    start_kubelet(machine, programs, credentials)?;
    start_proxy(machine, programs, credentials)
}

/// Loads an image archive.
pub(super) fn load_image(machine: &Machine, programs: &NodeTools, archive: &Path) -> Result<()> {
    let mut command = machine.inside(&programs.ctr);
    command
        .args(["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import", "--all-platforms"])
        .arg(archive);
    super::output(&mut command, &format!("ctr images import {} on {}", archive.display(), machine.name())).map(drop)
}

fn start_containerd(machine: &Machine, programs: &NodeTools) -> Result<()> {
    let network = format!(
        r#"{{"cniVersion": "1.0.0", "name": "depin", "plugins": [
  {{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "backend": "nftables", "snat": true, "capabilities": {{"portMappings": true}}}}
]}}"#,
        wiring::pod_range(machine.index())
    );
    write(machine, "etc/cni/10-depin.conflist", &network)?;
    let config = format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
# Machines without CAP_SYS_RESOURCE cannot lower scores, and containers would not start.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "/etc/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#,
        cni = programs.cni.display(),
        runc = programs.runc.display(),
    );
    let config = write(machine, "containerd.toml", &config)?;
    let mut command = machine.background(&programs.containerd);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let shims = programs.containerd.parent().map(Path::to_path_buf);
    command.env("PATH", std::env::join_paths(shims.into_iter().chain(std::env::split_paths(&path)))?);
    command.arg("--config").arg(config);
    machine.daemon("containerd", &mut command)?;
    machine.wait("containerd", "answer", START_LIMIT, || {
        machine
            .inside(&programs.ctr)
            .args(["--address", CONTAINERD, "version"])
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

fn start_kubelet(machine: &Machine, programs: &NodeTools, credentials: &Credentials) -> Result<()> {
    let resolver = write(machine, "resolv.conf", &format!("nameserver {DNS}\n"))?;
    let config = format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: false}}
  x509: {{clientCAFile: {authority:?}}}
authorization: {{mode: AlwaysAllow}}
containerRuntimeEndpoint: unix://{CONTAINERD}
cgroupDriver: cgroupfs
cgroupRoot: /{group}
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {{memory.available: 10Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}}
imageGCHighThresholdPercent: 100
clusterDNS: [{DNS}]
clusterDomain: cluster.local
resolvConf: {resolver:?}
nodeStatusUpdateFrequency: 4s
# Projected tokens and Secrets follow their source within seconds.
syncFrequency: 10s
"#,
        authority = credentials.file("ca.crt").display().to_string(),
        group = machine.group(),
        resolver = resolver.display().to_string(),
    );
    let config = write(machine, "kubelet.yaml", &config)?;
    let mut command = machine.background(&programs.kubelet);
    command.arg(flag("--config", &config));
    command.arg(flag("--kubeconfig", &credentials.kubeconfig(machine.name())));
    command.args([format!("--hostname-override={}", machine.name()), format!("--node-ip={}", machine.address())]);
    command.arg("--root-dir=/var/lib/kubelet");
    machine.daemon("kubelet", &mut command)
}

fn start_proxy(machine: &Machine, programs: &NodeTools, credentials: &Credentials) -> Result<()> {
    let config = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nclusterCIDR: 10.244.0.0/16\n\
         hostnameOverride: {}\nconntrack: {{maxPerCore: 0}}\nclientConnection: {{kubeconfig: {:?}}}\n",
        machine.name(),
        credentials.kubeconfig("kube-proxy").display().to_string(),
    );
    let config = write(machine, "kube-proxy.yaml", &config)?;
    let mut command = machine.background(&programs.kube_proxy);
    command.arg(flag("--config", &config));
    machine.daemon("kube-proxy", &mut command)
}

/// Writes one of the machine's files, as the host sees it.
fn write(machine: &Machine, name: &str, text: &str) -> Result<PathBuf> {
    let path = machine.dir().join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

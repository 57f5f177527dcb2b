//! Where the programs of the control plane are: built by `cargo xtask tools` from the pins in `tools/` into a cache outside
//! the clone, one directory for each state of the pins. Deleting the cache is always safe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::packages;

/// One Go module in `tools/` and the programs built from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The folder's name in `tools/`.
    pub name: &'static str,
    /// The Go module whose version is pinned.
    pub module: &'static str,
    /// Each program's name and package.
    pub programs: &'static [(&'static str, &'static str)],
    /// Rough build time of each program from nothing on two cores, in seconds, for an honest estimate.
    pub seconds: &'static [u32],
}

/// etcd, the API server's store.
pub const ETCD: Pin = Pin {
    name: "etcd",
    module: "go.etcd.io/etcd/server/v3",
    programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    seconds: &[60],
};

/// The API server and its client.
pub const KUBERNETES: Pin = Pin {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    programs: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    seconds: &[330, 60],
};

/// The chart's package manager.
pub const HELM: Pin =
    Pin { name: "helm", module: "helm.sh/helm/v4", programs: &[("helm", "helm.sh/helm/v4/cmd/helm")], seconds: &[120] };

/// Examines the chart's manifests.
pub const KUBE_SCORE: Pin = Pin {
    name: "kube-score",
    module: "github.com/zegl/kube-score",
    programs: &[("kube-score", "github.com/zegl/kube-score/cmd/kube-score")],
    seconds: &[45],
};

/// What makes a machine a Node, and the rest of the control plane: built only where a real cluster can run.
pub const NODE: Pin = Pin {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    programs: &[
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ],
    seconds: &[90, 5, 25, 10],
};

/// Runs containers.
pub const CONTAINERD: Pin = Pin {
    name: "containerd",
    module: "github.com/containerd/containerd/v2",
    programs: &[
        ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
        ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
        ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    ],
    seconds: &[50, 5, 5],
};

/// Connects Pods.
pub const CNI: Pin = Pin {
    name: "cni",
    module: "github.com/containernetworking/plugins",
    programs: &[
        ("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
        ("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
        ("ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
        ("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
    ],
    seconds: &[5, 2, 2, 2],
};

/// Answers names inside the cluster.
pub const COREDNS: Pin = Pin {
    name: "coredns",
    module: "github.com/coredns/coredns",
    // A main of our own, with the few plugins that are needed.
    programs: &[("coredns", "depin.dev/tools/coredns")],
    seconds: &[40],
};

/// What a real cluster needs beside [`PINS`].
pub const NODE_PINS: [&Pin; 4] = [&NODE, &CONTAINERD, &CNI, &COREDNS];

/// The S3-compatible store of the backups' tests.
pub const VERSITYGW: Pin = Pin {
    name: "versitygw",
    module: "github.com/versity/versitygw",
    programs: &[("versitygw", "github.com/versity/versitygw/cmd/versitygw")],
    seconds: &[80],
};

/// All pins, in the order in which they are built.
pub const PINS: [&Pin; 5] = [&ETCD, &KUBERNETES, &HELM, &KUBE_SCORE, &VERSITYGW];

impl Pin {
    /// The pinned version, as `tools/NAME/go.mod` requires it.
    ///
    /// # Errors
    /// When `go.mod` cannot be read or does not require the module.
    pub fn version(&self, workspace: &Path) -> Result<String> {
        let path = workspace.join("tools").join(self.name).join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let required = text.lines().map(|line| line.trim().trim_start_matches("require ")).find_map(|line| {
            let (module, version) = line.split_once(' ')?;
            (module == self.module).then(|| version.split(' ').next().unwrap_or(version).to_owned())
        });
        required.with_context(|| format!("{} does not require {}", path.display(), self.module))
    }

    /// Where this state of the pin is cached: the name carries the version for people and a digest of `go.mod` and
    /// `go.sum` for exactness.
    ///
    /// # Errors
    /// When the pin cannot be read.
    pub fn directory(&self, workspace: &Path) -> Result<PathBuf> {
        let mut digest = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = workspace.join("tools").join(self.name).join(file);
            digest.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
            digest.update([0]);
        }
        let digest = hex::encode(digest.finalize());
        let digest = digest.get(..12).unwrap_or(&digest);
        Ok(cache_dir()?.join("tools").join(format!("{}-{}-{digest}", self.name, self.version(workspace)?)))
    }
}

/// Where built things are kept: `$DEPIN_CACHE`, else `depin` in the user's cache directory.
///
/// # Errors
/// When neither the variable nor a home directory is set.
pub fn cache_dir() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DEPIN_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("depin")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/depin")))
        .context("neither DEPIN_CACHE nor HOME is set; set DEPIN_CACHE to a directory for built programs")
}

/// The programs of a control plane, and those that install on it and look over what is installed.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The client.
    pub kubectl: PathBuf,
    /// Installs, lints and packages the chart.
    pub helm: PathBuf,
    /// Examines its manifests.
    pub kube_score: PathBuf,
}

impl Tools {
    /// The built programs of the pinned versions.
    ///
    /// # Errors
    /// When one has not been built; the message says how to.
    pub fn find() -> Result<Self> {
        Ok(Self {
            etcd: built(&ETCD, "etcd")?,
            kube_apiserver: built(&KUBERNETES, "kube-apiserver")?,
            kubectl: built(&KUBERNETES, "kubectl")?,
            helm: built(&HELM, "helm")?,
            kube_score: built(&KUBE_SCORE, "kube-score")?,
        })
    }
}

/// Where helm keeps things of whoever runs it; tests point these elsewhere.
pub const HELM_HOMES: [&str; 3] = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"];

/// The programs of a real cluster's nodes.
#[derive(Clone, Debug)]
pub struct NodeTools {
    /// Runs the cluster's controllers.
    pub kube_controller_manager: PathBuf,
    /// Places Pods.
    pub kube_scheduler: PathBuf,
    /// Runs Pods.
    pub kubelet: PathBuf,
    /// Makes Services reachable.
    pub kube_proxy: PathBuf,
    /// Runs containers; its shim is beside it.
    pub containerd: PathBuf,
    /// Talks to containerd.
    pub ctr: PathBuf,
    /// Starts a container; a Debian package.
    pub runc: PathBuf,
    /// Folder of the CNI plugins.
    pub cni: PathBuf,
    /// Answers names.
    pub coredns: PathBuf,
}

impl NodeTools {
    /// The built programs of the pinned versions.
    ///
    /// # Errors
    /// When one has not been built; the message says how to.
    pub fn find() -> Result<Self> {
        let cni = built(&CNI, "ptp")?;
        Ok(Self {
            kube_controller_manager: built(&NODE, "kube-controller-manager")?,
            kube_scheduler: built(&NODE, "kube-scheduler")?,
            kubelet: built(&NODE, "kubelet")?,
            kube_proxy: built(&NODE, "kube-proxy")?,
            containerd: built(&CONTAINERD, "containerd")?,
            ctr: built(&CONTAINERD, "ctr")?,
            runc: packages::RUNC.find().with_context(|| packages::RUNC.remedy())?,
            cni: cni.parent().map_or_else(PathBuf::new, Path::to_path_buf),
            coredns: built(&COREDNS, "coredns")?,
        })
    }
}

/// A built program of a pin.
///
/// # Errors
/// When it has not been built; the message says how to.
pub fn built(pin: &Pin, name: &str) -> Result<PathBuf> {
    let path = pin.directory(&crate::workspace())?.join(name);
    if !path.is_file() {
        bail!("{name} is not built ({} is missing); run `cargo xtask tools` once", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_pins() {
        let workspace = crate::workspace();
        for pin in PINS.into_iter().chain(NODE_PINS) {
            let version = pin.version(&workspace).unwrap();
            assert!(version.starts_with('v') && version.contains('.'), "{}: {version}", pin.name);
            assert_eq!(pin.programs.len(), pin.seconds.len());
            let directory = pin.directory(&workspace).unwrap();
            let name = directory.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with(&format!("{}-{version}-", pin.name)), "{name}");
        }
    }
}

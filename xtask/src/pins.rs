//! Where the programs of the control plane are: built by `cargo xtask tools` from the pins in `tools/` into a cache outside
//! the clone, one directory for each state of the pins. Deleting the cache is always safe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

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

/// All pins, in the order in which they are built.
pub const PINS: [&Pin; 2] = [&ETCD, &KUBERNETES];

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

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The client.
    pub kubectl: PathBuf,
}

impl Tools {
    /// The built programs of the pinned versions.
    ///
    /// # Errors
    /// When one has not been built; the message says how to.
    pub fn find() -> Result<Self> {
        let workspace = crate::workspace();
        let program = |pin: &Pin, name: &str| -> Result<PathBuf> {
            let path = pin.directory(&workspace)?.join(name);
            if !path.is_file() {
                bail!("{name} is not built ({} is missing); run `cargo xtask tools` once", path.display());
            }
            Ok(path)
        };
        Ok(Self {
            etcd: program(&ETCD, "etcd")?,
            kube_apiserver: program(&KUBERNETES, "kube-apiserver")?,
            kubectl: program(&KUBERNETES, "kubectl")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_pins() {
        let workspace = crate::workspace();
        for pin in PINS {
            let version = pin.version(&workspace).unwrap();
            assert!(version.starts_with('v') && version.contains('.'), "{}: {version}", pin.name);
            assert_eq!(pin.programs.len(), pin.seconds.len());
            let directory = pin.directory(&workspace).unwrap();
            let name = directory.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with(&format!("{}-{version}-", pin.name)), "{name}");
        }
    }
}

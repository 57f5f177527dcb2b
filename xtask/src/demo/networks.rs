//! The example networks, as the demo applies them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    cluster::Cluster,
    stack::{NAMESPACE, rfc3339},
};

/// The programs of both networks.
pub const PROGRAMS: [&str; 2] = ["energy/kilowatts", "weather/observations"];
/// Their namespaces, which are also their folders.
pub const NETWORKS: [&str; 2] = ["energy", "weather"];
/// What the examples hold; the demo's epochs begin when it does.
const EXAMPLE_GENESIS: &str = "2026-01-01T00:00:00Z";
/// Epochs begin at multiples of the grain, in seconds.
const GRAIN: u64 = 5;

/// What a cluster had before, so that only the demo's own is removed.
#[derive(Debug)]
pub struct Networks {
    namespaces: Vec<&'static str>,
    definitions: bool,
}

impl Networks {
    /// Looks at the cluster before anything is applied.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn before(cluster: &Cluster) -> Result<Self> {
        let known = cluster.kubectl(&["get", "namespaces,customresourcedefinitions", "-o", "name"])?;
        let namespaces = [NAMESPACE, "energy", "weather"];
        let namespaces =
            namespaces.into_iter().filter(|name| !known.lines().any(|line| line == format!("namespace/{name}")));
        Ok(Self { namespaces: namespaces.collect(), definitions: !known.contains("edgedevices.depin.dev") })
    }

    /// Removes what the demo brought.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn remove(&self, cluster: &Cluster) -> Result<()> {
        for network in NETWORKS {
            let folder = crate::workspace().join("examples/networks").join(network);
            let folder = folder.to_str().context("the clone's path is not UTF-8")?;
            cluster.kubectl(&["delete", "--ignore-not-found", "--wait=false", "-f", folder])?;
        }
        if !self.namespaces.is_empty() {
            let arguments =
                [&["delete", "namespace", "--ignore-not-found", "--wait=false"][..], &self.namespaces].concat();
            cluster.kubectl(&arguments)?;
        }
        if self.definitions {
            let folder = crate::workspace().join("crds/yaml");
            let folder = folder.to_str().context("the clone's path is not UTF-8")?;
            cluster.kubectl(&["delete", "--ignore-not-found", "--wait=false", "-f", folder])?;
        }
        Ok(())
    }
}

/// Where the networks' manifests come from: the examples, or a folder with files of its own in place of some of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manifests<'a> {
    own: Option<&'a Path>,
}

impl<'a> Manifests<'a> {
    /// `OWN/NETWORK/FILE` where it exists, else the example's.
    #[must_use]
    pub fn with(own: Option<&'a Path>) -> Self {
        Self { own }
    }

    /// Namespaces, models and fleets: what agents need to be invited.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply_fleets(&self, cluster: &Cluster) -> Result<()> {
        for network in NETWORKS {
            cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {network}}}}}"))?;
            cluster.apply(&self.text(network, "models.yaml")?)?;
            cluster.apply(&self.text(network, "fleets.yaml")?)?;
        }
        Ok(())
    }

    /// The devices of a network that are let in beforehand.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply_devices(&self, cluster: &Cluster, network: &str) -> Result<()> {
        cluster.apply(&self.text(network, "devices.yaml")?)
    }

    /// Whether the folder tells the devices of a network itself.
    #[must_use]
    pub fn has_own_devices(&self, network: &str) -> bool {
        self.own.is_some_and(|own| own.join(network).join("devices.yaml").is_file())
    }

    /// The programs, with their first epoch beginning at the next grain after `now` (Unix milliseconds).
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply_programs(&self, cluster: &Cluster, now: u64) -> Result<()> {
        let genesis = rfc3339((now / 1000 / GRAIN + 1) * GRAIN);
        for network in NETWORKS {
            let program = self.text(network, "program.yaml")?;
            cluster.apply(&program.replace(EXAMPLE_GENESIS, &genesis))?;
        }
        Ok(())
    }

    fn text(&self, network: &str, file: &str) -> Result<String> {
        let own = self.own.map(|own| own.join(network).join(file)).filter(|path| path.is_file());
        let path = own.unwrap_or_else(|| crate::workspace().join("examples/networks").join(network).join(file));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// The examples' namespaces, models and fleets.
///
/// # Errors
/// When the API server rejects one.
pub fn apply_fleets(cluster: &Cluster) -> Result<()> {
    Manifests::default().apply_fleets(cluster)
}

/// The examples' devices that are let in beforehand.
///
/// # Errors
/// When the API server rejects one.
pub fn apply_devices(cluster: &Cluster) -> Result<()> {
    NETWORKS.iter().try_for_each(|network| Manifests::default().apply_devices(cluster, network))
}

/// The examples' programs, beginning soon after `now` (Unix milliseconds).
///
/// # Errors
/// When the API server rejects one.
pub fn apply_programs(cluster: &Cluster, now: u64) -> Result<()> {
    Manifests::default().apply_programs(cluster, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_hold_the_genesis_that_the_demo_replaces() {
        for network in NETWORKS {
            assert!(Manifests::default().text(network, "program.yaml").unwrap().contains(EXAMPLE_GENESIS), "{network}");
        }
    }
}

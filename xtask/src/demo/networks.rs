//! The example networks, as the demo applies them.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    cluster::Cluster,
    stack::{NAMESPACE, rfc3339},
};

/// The programs of both networks.
pub const PROGRAMS: [&str; 2] = ["energy/kilowatts", "weather/observations"];
const NETWORKS: [&str; 2] = ["energy", "weather"];
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

/// Namespaces, models and fleets: what agents need to be invited.
///
/// # Errors
/// When the API server rejects one.
pub fn apply_fleets(cluster: &Cluster) -> Result<()> {
    for network in NETWORKS {
        cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {network}}}}}"))?;
        cluster.apply(&text(network, "models.yaml")?)?;
        cluster.apply(&text(network, "fleets.yaml")?)?;
    }
    Ok(())
}

/// The devices that are let in beforehand.
///
/// # Errors
/// When the API server rejects one.
pub fn apply_devices(cluster: &Cluster) -> Result<()> {
    NETWORKS.iter().try_for_each(|network| cluster.apply(&text(network, "devices.yaml")?))
}

/// The programs, with their first epoch beginning at the next grain after `now` (Unix milliseconds).
///
/// # Errors
/// When the API server rejects one.
pub fn apply_programs(cluster: &Cluster, now: u64) -> Result<()> {
    let genesis = rfc3339((now / 1000 / GRAIN + 1) * GRAIN);
    for network in NETWORKS {
        let program = text(network, "program.yaml")?;
        cluster.apply(&program.replace(EXAMPLE_GENESIS, &genesis))?;
    }
    Ok(())
}

fn text(network: &str, file: &str) -> Result<String> {
    let path = crate::workspace().join("examples/networks").join(network).join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_hold_the_genesis_that_the_demo_replaces() {
        for network in NETWORKS {
            assert!(text(network, "program.yaml").unwrap().contains(EXAMPLE_GENESIS), "{network}");
        }
    }
}

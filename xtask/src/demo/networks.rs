//! The example networks, as the demo applies them.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{cluster::Cluster, invitation::rfc3339, stack::NAMESPACE};

/// The programs of both networks.
pub const PROGRAMS: [&str; 2] = ["energy/kilowatts", "weather/observations"];
/// Their namespaces, which are also their folders.
pub const NETWORKS: [&str; 2] = ["energy", "weather"];
/// What the examples hold; the demo's epochs begin when it does.
const EXAMPLE_GENESIS: &str = "2026-01-01T00:00:00Z";
/// Epochs begin at multiples of the grain, in seconds.
const GRAIN: u64 = 5;

/// Kinds of which the demo makes objects in its namespaces, itself or through the operator and agents.
const KINDS: [&str; 6] = [
    "edgedevices.depin.dev",
    "edgeagents.depin.dev",
    "edgeenrollments.depin.dev",
    "edgefleets.depin.dev",
    "rewardprograms.depin.dev",
    "rewardepochs.depin.dev",
];
const SYSTEM_KINDS: &str = "secrets,configmaps,leases.coordination.k8s.io,serviceaccounts,roles.rbac.authorization.k8s.io,\
                            rolebindings.rbac.authorization.k8s.io";
/// What the demo makes beside namespaces: other people's new objects are not the demo's.
const CLUSTER_OBJECTS: [&str; 2] = [
    "clusterroles.rbac.authorization.k8s.io/depin-operator",
    "clusterrolebindings.rbac.authorization.k8s.io/depin-operator",
];

/// What a cluster had before, so that only the demo's own is removed.
#[derive(Debug)]
pub struct Networks {
    namespaces: BTreeSet<String>,
    definitions: bool,
    objects: BTreeSet<Object>,
}

/// `KIND/NAME` and its namespace, empty for a cluster's own.
type Object = (String, String);

impl Networks {
    /// Looks at the cluster before anything is applied.
    ///
    /// # Errors
    /// When it does not answer, or runs an operator already: two would fight over the same objects.
    pub fn before(cluster: &Cluster) -> Result<Self> {
        if !cluster.kubectl(&["get", "lease,secret", "-n", NAMESPACE, "-o", "name"])?.is_empty() {
            bail!(
                "this cluster runs depin-operator already, or a demo that was killed left something in namespace {NAMESPACE}; \
                 use another cluster, or delete what is left: kubectl delete namespace {NAMESPACE} energy weather"
            );
        }
        let kinds = kinds(cluster)?;
        let definitions = !kinds.is_empty();
        let namespaces = cluster.kubectl(&["get", "namespaces", "-o", "name"])?;
        let namespaces = namespaces.lines().filter_map(|line| line.strip_prefix("namespace/")).map(str::to_owned);
        let mut known = objects(cluster, &kinds)?;
        if definitions {
            let models = cluster.kubectl(&["get", "edgedevicemodels", "-o", "name"])?;
            known.extend(models.lines().map(|name| (name.to_owned(), String::new())));
        }
        Ok(Self { namespaces: namespaces.collect(), definitions, objects: known })
    }

    /// Removes what the demo brought, and what operator and agents made of it.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn remove(&self, cluster: &Cluster) -> Result<()> {
        // Whoever is interrupted early has not defined all kinds yet.
        let kinds = kinds(cluster)?;
        let mut now = objects(cluster, &kinds)?;
        if kinds.contains(&"edgefleets.depin.dev") {
            now.extend(models(cluster)?);
        }
        for (object, namespace) in now.difference(&self.objects) {
            let arguments = ["delete", "--ignore-not-found", "--wait=false", object, "-n", namespace];
            // Those of the cluster have no namespace.
            let arguments = if namespace.is_empty() { &arguments[..4] } else { &arguments };
            cluster.kubectl(arguments)?;
        }
        for namespace in [NAMESPACE, "energy", "weather"] {
            if !self.namespaces.contains(namespace) {
                cluster.kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--wait=false"])?;
            }
        }
        if !self.definitions {
            let folder = crate::workspace().join("crds/yaml");
            let folder = folder.to_str().context("the clone's path is not UTF-8")?;
            // The API server takes the last objects away before it forgets their kind: nothing is left once that is done.
            cluster.kubectl(&["delete", "--ignore-not-found", "--wait=true", "--timeout=60s", "-f", folder])?;
        }
        Ok(())
    }
}

/// Those of the demo's kinds that the cluster knows.
fn kinds(cluster: &Cluster) -> Result<Vec<&'static str>> {
    let known = cluster.kubectl(&["get", "customresourcedefinitions", "-o=jsonpath={.items[*].metadata.name}"])?;
    Ok(KINDS.into_iter().filter(|kind| known.split_whitespace().any(|name| name == *kind)).collect())
}

/// Everything of the kinds that the demo makes, where it makes them.
fn objects(cluster: &Cluster, kinds: &[&str]) -> Result<BTreeSet<Object>> {
    let mut found = BTreeSet::new();
    let mut list = |namespace: &str, what: &[&str]| -> Result<()> {
        let place = ["-n", namespace];
        let place = if namespace.is_empty() { &[][..] } else { &place };
        let names = cluster.kubectl(&[&["get", "--ignore-not-found", "-o", "name"], what, place].concat())?;
        found.extend(names.lines().map(|name| (name.to_owned(), namespace.to_owned())));
        Ok(())
    };
    list("", &CLUSTER_OBJECTS)?;
    list(NAMESPACE, &[SYSTEM_KINDS])?;
    if !kinds.is_empty() {
        for network in NETWORKS {
            list(network, &[&kinds.join(",")])?;
        }
    }
    Ok(found)
}

/// Models have no namespace: the demo's are those that its fleets are of.
fn models(cluster: &Cluster) -> Result<BTreeSet<Object>> {
    let mut found = BTreeSet::new();
    for network in NETWORKS {
        let names =
            cluster.kubectl(&["get", "edgefleets", "-n", network, "-o=jsonpath={.items[*].spec.modelRef.name}"])?;
        found.extend(names.split_whitespace().map(|name| (format!("edgedevicemodel.depin.dev/{name}"), String::new())));
    }
    Ok(found)
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

//! Recordings instead of models: which devices a folder of CSV files has, who hears them, and how they are let in.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cluster::Cluster, stack::Stack};

use super::networks::NETWORKS;

/// Serials by fleet, fleets by namespace.
type Fleets = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// What a folder of recordings holds.
#[derive(Clone, Debug)]
pub struct Recordings {
    folder: String,
    fleets: Fleets,
}

impl Recordings {
    /// Asks the simulator in `programs` what the folder holds.
    ///
    /// # Errors
    /// When a recording does not fit its mapping, or the mapping names no fleet of the demo's networks.
    pub fn read(folder: &Path, programs: &Path) -> Result<Self> {
        let folder = folder.to_str().context("the recordings' path is not UTF-8")?.to_owned();
        let mut command = Command::new(programs.join("depin-sim"));
        let output = command.args(["--network", "replay", "--describe", "--replay", &folder]).output();
        let output = output.context("cannot run depin-sim")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let description: Value = serde_json::from_slice(&output.stdout).context("depin-sim describes no JSON")?;
        Ok(Self { fleets: fleets(&description)?, folder })
    }

    /// The fleets of a namespace that the recordings have devices of.
    #[must_use]
    pub fn fleets(&self, namespace: &str) -> Vec<&str> {
        self.fleets.get(namespace).into_iter().flat_map(|fleets| fleets.keys().map(String::as_str)).collect()
    }

    /// Lets the recorded devices of a namespace in, relayed by `agent`.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply_devices(&self, cluster: &Cluster, namespace: &str, agent: &str) -> Result<()> {
        let Some(fleets) = self.fleets.get(namespace) else { return Ok(()) };
        let devices = fleets.iter().flat_map(|(fleet, serials)| serials.iter().map(move |serial| (fleet, serial)));
        cluster.apply(&devices.map(|(fleet, serial)| device(namespace, fleet, agent, serial)).collect::<String>())
    }

    /// Starts playing what belongs to a namespace.
    ///
    /// # Errors
    /// When the simulator cannot be started.
    pub fn play(&self, stack: &mut Stack, namespace: &str, mqtt: &str, speed: f64) -> Result<()> {
        let speed = speed.to_string();
        let fleets: Vec<String> =
            self.fleets(namespace).into_iter().map(|fleet| format!("--fleet={namespace}/{fleet}")).collect();
        if fleets.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["--network", "replay", "--replay", &self.folder, "--speed", &speed];
        arguments.extend(fleets.iter().map(String::as_str));
        stack.start_simulator(&format!("replay-{namespace}"), mqtt, &arguments)
    }
}

fn fleets(description: &Value) -> Result<Fleets> {
    let mut fleets = Fleets::new();
    for (fleet, serials) in description["fleets"].as_object().into_iter().flatten() {
        let (namespace, name) = fleet.split_once('/').unwrap_or_default();
        if !NETWORKS.contains(&namespace) || name.is_empty() {
            bail!(
                "mapping.yaml: fleet {fleet:?} of a stream is none of the demo's; write fleet: NAMESPACE/NAME with the namespace {}",
                NETWORKS.join(" or ")
            );
        }
        let serials = serials.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        fleets.entry(namespace.to_owned()).or_default().insert(name.to_owned(), serials.collect());
    }
    if fleets.is_empty() {
        bail!("the recordings hold no reading: see whether the mapping's columns have numbers");
    }
    Ok(fleets)
}

fn device(namespace: &str, fleet: &str, agent: &str, serial: &str) -> String {
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeDevice\nmetadata: {{name: {}, namespace: {namespace}}}\n\
         spec: {{fleet: {fleet}, agent: {agent}, serial: {serial:?}}}\n---\n",
        name(serial)
    )
}

/// A name that Kubernetes takes: lower case, digits and dashes.
fn name(serial: &str) -> String {
    let allowed =
        |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' };
    format!("recorded-{}", serial.chars().map(allowed).collect::<String>().trim_matches('-'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_belong_to_the_demos_namespaces() {
        let described = json!({"fleets": {"energy/homes": ["h-1", "H_2"], "weather/stations": ["s"]}});
        let known = fleets(&described).unwrap();
        assert_eq!(known["energy"]["homes"], ["h-1", "H_2"]);
        assert!(device("energy", "homes", "home", "H_2").contains("name: recorded-h-2"));
        for fleet in ["", "homes", "farm/cows"] {
            let error = fleets(&json!({"fleets": {fleet: ["x"]}})).unwrap_err().to_string();
            assert!(error.contains("energy or weather"), "{error}");
        }
        assert!(fleets(&json!({"fleets": {}})).is_err());
    }
}

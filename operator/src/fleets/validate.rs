//! EdgeFleet → registry entry. Pure.

use depin_crds::EdgeFleet;
use depin_domain::registry::FleetEntry;
use kube::ResourceExt;

use crate::{invalid::Invalid, quantities::duration_ms};

/// `namespace/name` of a fleet, as the registry calls it.
#[must_use]
pub fn id(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The registry's entry for `fleet`.
pub fn entry(fleet: &EdgeFleet) -> Result<FleetEntry, Invalid> {
    Ok(FleetEntry {
        id: id(&fleet.namespace().unwrap_or_default(), &fleet.name_any()),
        model: fleet.spec.model_ref.name.clone(),
        grain_ms: duration_ms("spec.grain", &fleet.spec.grain)?,
    })
}

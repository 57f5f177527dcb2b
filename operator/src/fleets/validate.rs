//! EdgeFleet → registry entry. Pure.

use depin_crds::{EdgeFleet, Geofence};
use depin_domain::registry::FleetEntry;
use h3o::CellIndex;
use kube::ResourceExt;

use crate::{invalid::Invalid, owners, quantities::duration_ms};

/// `namespace/name` of a fleet, as the registry calls it.
#[must_use]
pub fn id(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The registry's entry for `fleet`. Owners and geofence go to the registry with its devices; what is wrong with them is wrong here.
pub fn entry(fleet: &EdgeFleet) -> Result<FleetEntry, Invalid> {
    owners::shares(fleet.spec.owner.as_deref(), fleet.spec.shares.as_deref())?;
    fleet.spec.geofence.as_ref().map(check_cells).transpose()?;
    Ok(FleetEntry {
        id: id(&fleet.namespace().unwrap_or_default(), &fleet.name_any()),
        model: fleet.spec.model_ref.name.clone(),
        grain_ms: duration_ms("spec.grain", &fleet.spec.grain)?,
    })
}

/// A cell that is none would hold no place: every device would stand outside.
fn check_cells(geofence: &Geofence) -> Result<(), Invalid> {
    match geofence.cells.iter().enumerate().find(|(_, cell)| cell.parse::<CellIndex>().is_err()) {
        None => Ok(()),
        Some((index, cell)) => Err(Invalid::new(
            format!("spec.geofence.cells[{index}]"),
            format!("{cell:?} is no cell of H3"),
            "give the index of an H3 cell in hexadecimal",
        )),
    }
}

//! EdgeDevice → registry entry. Pure.

use depin_crds::{EdgeDevice, EdgeFleet, Geofence};
use depin_domain::{
    ids::{AgentId, DeviceId},
    registry::{DeviceEntry, Location, OwnerShare},
    time::Timestamp,
};
use kube::ResourceExt;

use crate::{
    annotations::FIRST_SEEN,
    devices::place,
    fleets,
    invalid::{Invalid, NotReady},
    owners,
    quantities::{public_key, timestamp},
};

/// The registry's entry for `device` in `fleet`.
///
/// Owners and shares are the device's own, else the fleet's. It counts from the first sighting that an annotation tells (which
/// cannot lie after its creation), else from what its status remembers, else from its creation.
pub fn entry(device: &EdgeDevice, fleet: Option<&EdgeFleet>) -> Result<DeviceEntry, NotReady> {
    let (namespace, name) = (device.namespace().unwrap_or_default(), device.name_any());
    let spec = &device.spec;
    let fleet = fleet.ok_or_else(|| NotReady::Waiting {
        field: "spec.fleet".to_owned(),
        target: format!("EdgeFleet {}", spec.fleet),
    })?;
    let location = spec.location.as_ref().map(place::location).transpose()?;
    if let Some(geofence) = &fleet.spec.geofence {
        fenced(geofence, location.as_ref(), &spec.fleet)?;
    }
    let own = owners::shares(spec.owner.as_deref(), spec.shares.as_deref())?;
    let shares = if own.is_empty() { of_fleet(fleet, &spec.fleet)? } else { own };
    Ok(DeviceEntry {
        id: DeviceId::of(&namespace, &name),
        fleet: fleets::id(&namespace, &spec.fleet),
        agent: AgentId::of(&namespace, &spec.agent),
        serial: spec.serial.clone(),
        key: spec.public_key.as_ref().map(|key| public_key("spec.publicKey", key)).transpose()?,
        hardware_key: spec.hardware_key,
        shares,
        location,
        suspended: spec.suspend,
        since: since(device)?,
        namespace,
        name,
    })
}

/// Whether the device stands where its fleet lets it. Where nobody says that it stands is not inside.
fn fenced(geofence: &Geofence, location: Option<&Location>, fleet: &str) -> Result<(), Invalid> {
    let (reason, remedy) = match location {
        Some(location) if place::inside(geofence, location) => return Ok(()),
        Some(_) => {
            (format!("outside the geofence of fleet {fleet}"), "correct the location, or widen the fleet's geofence")
        }
        None => (
            format!("missing, and fleet {fleet} has a geofence"),
            "give the device's latitude and longitude, or take the geofence off the fleet",
        ),
    };
    Err(Invalid::new("spec.location", reason, remedy))
}

/// From when on a device counts.
pub fn since(device: &EdgeDevice) -> Result<Timestamp, Invalid> {
    let created = device.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, timestamp);
    if let Some(text) = device.annotations().get(FIRST_SEEN) {
        let seen: jiff::Timestamp = text.parse().map_err(|_| {
            let field = format!("metadata.annotations[{FIRST_SEEN}]");
            Invalid::new(
                field,
                format!("{:?} is not a time", text.chars().take(40).collect::<String>()),
                "write it like 2026-01-31T12:00:00Z",
            )
        })?;
        return Ok(Timestamp(seen.as_millisecond()).min(created));
    }
    let remembered = device.status.as_ref().and_then(|status| status.since.as_ref()).map(timestamp);
    Ok(remembered.map_or(created, |since| since.min(created)))
}

/// Who is paid by the fleet's word. What is wrong there only the fleet's author can mend.
fn of_fleet(fleet: &EdgeFleet, name: &str) -> Result<Vec<OwnerShare>, Invalid> {
    owners::shares(fleet.spec.owner.as_deref(), fleet.spec.shares.as_deref()).map_err(|error| {
        let reason = format!("EdgeFleet {name} cannot say who is paid ({}: {})", error.field, error.reason);
        Invalid::new("spec.fleet", reason, "correct the EdgeFleet, or give this device an owner of its own")
    })
}

//! Degrees → integers: the only place where a location meets floating point, once, at registration.
//!
//! What comes out is written to the registry; every later computation reads the integers.

use depin_crds::Geofence;
use depin_domain::registry::Location;
use h3o::{CellIndex, LatLng, Resolution};

use crate::{invalid::Invalid, quantities::scaled};

/// Length of the integer unit vector.
const UNIT: f64 = (1_u64 << 30) as f64;
const E7: f64 = 1e7;

/// The registry's form of a place.
pub fn location(place: &depin_crds::Location) -> Result<Location, Invalid> {
    let latitude_e7 = scaled("spec.location.latitude", &place.latitude, 7)?;
    let longitude_e7 = scaled("spec.location.longitude", &place.longitude, 7)?;
    // Both fit 53 bits: the conversion is exact, and the division is rounded once.
    let (latitude, longitude) = (latitude_e7 as f64 / E7, longitude_e7 as f64 / E7);
    let point = LatLng::new(latitude, longitude)
        .map_err(|error| Invalid::new("spec.location", error.to_string(), "give degrees north and east"))?;
    let cells = Resolution::range(Resolution::Zero, Resolution::Fifteen)
        .map(|resolution| point.to_cell(resolution).to_string())
        .collect();
    let (latitude, longitude) = (latitude.to_radians(), longitude.to_radians());
    let unit = [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()];
    // Within ±2^30: the cast cannot saturate.
    Ok(Location { latitude_e7, longitude_e7, cells, unit: unit.map(|part| (part * UNIT).round() as i64) })
}

/// Whether `location` lies in one of the fence's cells.
#[must_use]
pub fn inside(fence: &Geofence, location: &Location) -> bool {
    fence.cells.iter().any(|cell| {
        let resolution = cell.parse::<CellIndex>().map(|cell| u8::from(cell.resolution()));
        resolution.is_ok_and(|resolution| location.cells.get(usize::from(resolution)) == Some(cell))
    })
}

//! What virtual hardware was promised, in the words of the ledger.

use std::collections::BTreeMap;

use serde_json::Value;
use xtask::cluster::Cluster;

use crate::observer::Sums;

/// What the hardware says should count, by serial and metric name in the payload.
/// # Panics
/// When a report is not one.
#[must_use]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it cannot go on")]
pub fn promised(reports: &[Value]) -> Sums {
    let mut sums = Sums::new();
    for (serial, device) in reports.iter().flat_map(|report| report["devices"].as_object().unwrap()) {
        for (metric, sum) in device["metrics"].as_object().unwrap() {
            let value = (sum["count"].as_u64().unwrap(), sum["sum"].as_str().unwrap().parse().unwrap());
            assert_eq!(sums.insert((serial.clone(), metric.clone()), value), None);
        }
    }
    sums
}

/// The key under which a device's metric was promised.
///
/// # Panics
/// When it was not.
#[must_use]
#[allow(clippy::expect_used, reason = "a test ends where it cannot go on")]
pub fn promised_key(promised: &Sums, serial: &str, metric: &str) -> (String, String) {
    let mut keys = metric_in_payload(metric).iter().map(|name| (serial.to_owned(), (*name).to_owned()));
    keys.find(|key| promised.contains_key(key)).expect("a promised metric")
}

/// The models' names of what payloads call otherwise.
fn metric_in_payload(metric: &str) -> &[&str] {
    match metric {
        "power" => &["power", "power_w"],
        "energy" => &["energy", "energy_kwh"],
        "temperature" => &["temperature_c"],
        "humidity" => &["humidity_pct"],
        "pressure" => &["pressure_hpa"],
        "wind" => &["wind_ms"],
        _ => &[],
    }
}

/// Namespace and serial of each EdgeDevice, by the id that the ledger calls it.
///
/// # Panics
/// When the cluster does not answer.
#[must_use]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it cannot go on")]
pub fn known_devices(cluster: &Cluster) -> BTreeMap<String, (String, String)> {
    let objects = cluster.get(&["edgedevices", "-A"]).unwrap();
    let device = |object: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = text(&object["status"]["did"])?.trim_start_matches("did:depin:").to_owned();
        Some((id, (text(&object["metadata"]["namespace"])?, text(&object["spec"]["serial"])?)))
    };
    objects["items"].as_array().unwrap().iter().filter_map(device).collect()
}

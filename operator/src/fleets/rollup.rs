//! Counts of a fleet's devices by state: at most one write a fleet in ten seconds, and only when a count changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use depin_crds::EdgeDevice;
use kube::ResourceExt;
use serde_json::json;

use crate::{conditions::holds, context::Context};

const MANAGER: &str = "depin-operator/fleet-counts";
const EVERY: Duration = Duration::from_secs(10);

/// Devices of a fleet by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub devices: i64,
    /// Registered.
    pub ready: i64,
    /// Heard of.
    pub online: i64,
    /// Suspended.
    pub suspended: i64,
}

/// Counts by (namespace, fleet).
#[must_use]
pub fn count<'a>(devices: impl Iterator<Item = &'a EdgeDevice>) -> BTreeMap<(String, String), Counts> {
    let mut counts = BTreeMap::<_, Counts>::new();
    for device in devices {
        let fleet = counts.entry((device.namespace().unwrap_or_default(), device.spec.fleet.clone())).or_default();
        let conditions = device.status.as_ref().map_or(&[][..], |status| &status.conditions);
        fleet.devices += 1;
        fleet.ready += i64::from(holds(conditions, "Ready"));
        fleet.online += i64::from(holds(conditions, "Online"));
        fleet.suspended += i64::from(device.spec.suspend);
    }
    counts
}

/// Counts for ever.
pub async fn run(context: Arc<Context>) {
    loop {
        let devices = context.stores.devices.state();
        let counts = count(devices.iter().map(AsRef::as_ref));
        for fleet in context.stores.fleets.state() {
            let key = (fleet.namespace().unwrap_or_default(), fleet.name_any());
            let Counts { devices, ready, online, suspended } = counts.get(&key).copied().unwrap_or_default();
            let wanted = json!({"devices": devices, "ready": ready, "online": online, "suspended": suspended});
            context.status.wish(fleet.as_ref(), fleet.status.as_ref(), MANAGER, wanted, None).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

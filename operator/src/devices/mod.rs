//! The controller of EdgeDevices: an EdgeDevice that exists is approved, and goes to the registry.

pub mod place;
pub mod validate;

use std::sync::Arc;

use depin_crds::EdgeDevice;
use depin_domain::registry::{Change, DeviceEntry};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;

use crate::{
    conditions::{Say, Status},
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, transition},
    quantities::time,
};

/// Its field manager.
const MANAGER: &str = "depin-operator/devices";

/// One look at a device.
///
/// # Errors
/// When ledger or API server fail; what is wrong with the device itself is its status.
pub async fn reconcile(device: Arc<EdgeDevice>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let fleet = context.stores.fleet(&device.namespace().unwrap_or_default(), &device.spec.fleet); // dereference
    let valid = validate::entry(&device, fleet.as_deref()); // pure
    let verdict = apply(&context, valid).await?; // client
    update_status(&context, &device, &verdict).await; // client
    Ok(Action::requeue(context.next_look(&device.uid().unwrap_or_default(), &verdict)))
}

async fn apply(context: &Context, entry: Verdict<DeviceEntry>) -> Result<Verdict<DeviceEntry>, ReconcileError> {
    match entry {
        Ok(entry) => Ok(record(context, Change::Device(entry.clone())).await?.map(|()| entry)),
        Err(error) => Ok(Err(error)),
    }
}

/// Whether the device can be paid, and why not.
#[must_use]
pub fn eligible(device: &EdgeDevice, verdict: &Verdict<DeviceEntry>) -> Say {
    match verdict {
        Err(error) if error.is_waiting() => Say::new("Eligible", Status::Unknown, "NotReady", "not registered yet"),
        Err(_) => Say::new("Eligible", false, "NotReady", "not registered; see the condition Ready"),
        Ok(_) if device.spec.suspend => Say::new("Eligible", false, "Suspended", "suspended by a person"),
        Ok(entry) if entry.shares.is_empty() => Say::new(
            "Eligible",
            false,
            "NoOwner",
            "nobody to pay: amounts are held; set spec.owner, or the owner of its fleet",
        ),
        Ok(_) => Say::new("Eligible", true, "Eligible", "can be paid"),
    }
}

/// Whether a person suspended the device.
#[must_use]
pub fn suspended(device: &EdgeDevice) -> Say {
    let reason = device.spec.suspend_reason.as_deref().unwrap_or("no reason given");
    if device.spec.suspend {
        Say::new("Suspended", true, "ByPerson", format!("{reason}; kubectl depin resume"))
    } else {
        Say::new("Suspended", false, "NotSuspended", "")
    }
}

async fn update_status(context: &Context, device: &EdgeDevice, verdict: &Verdict<DeviceEntry>) {
    let now = context.clock.now();
    let status = device.status.clone().unwrap_or_default();
    let generation = device.metadata.generation;
    let say = ready(verdict, "registered");
    let told = transition(&status.conditions, &say);
    let conditions =
        [say, eligible(device, verdict), suspended(device)].map(|say| say.over(&status.conditions, generation, now));
    let entry = verdict.as_ref().ok();
    // The registry keeps the first sighting that it was given; what it says is what counts.
    let registry = context.registry.snapshot();
    let since = entry.and_then(|entry| registry.device(&entry.id)?.current().map(|current| current.since));
    let fields = json!({
        "did": entry.map(|entry| entry.id.did()),
        "agent": entry.map(|_| device.spec.agent.clone()),
        "since": since.and_then(time).or(status.since),
    });
    let wanted = status_value(generation, fields, &conditions);
    context.status.wish(device, device.status.as_ref(), MANAGER, wanted, told).await;
}

//! The controller of EdgeDevices: an EdgeDevice that exists is approved, and goes to the registry.

pub mod place;
pub mod validate;

use std::sync::Arc;

use depin_crds::{Condition, EdgeDevice};
use depin_domain::registry::{Change, DeviceEntry};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;

use crate::{
    conditions::{Say, Status},
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, suspension, transition},
    quantities::time,
    status::Transition,
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
        Ok(entry) if entry.key.is_some() => Say::new(
            "Eligible",
            false,
            "OwnKeyNotRelayed",
            "it has a key of its own, and depin-agent does not relay yet what devices sign: what its agent signs for it is rejected as \
             NotYours; remove spec.publicKey, so that the agent signs for it",
        ),
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

/// Reasons of `Eligible` whose cause has an Event of its own.
const TOLD_ELSEWHERE: [&str; 2] = ["NotReady", "Suspended"];

/// The Event of a change of `Eligible`; none where `Ready` or `Suspended` tells it.
#[must_use]
pub fn eligibility(existing: &[Condition], eligible: &Say) -> Option<Transition> {
    let before = existing.iter().find(|condition| condition.type_ == eligible.kind);
    let warning = match (before, eligible.status) {
        (before, Status::False) if before.is_none_or(|before| before.reason != eligible.reason) => true,
        (Some(before), Status::True) if before.status == "False" => false,
        _ => return None,
    };
    let cause = before.filter(|_| !warning).map_or(eligible.reason.as_str(), |before| &before.reason);
    (!TOLD_ELSEWHERE.contains(&cause)).then(|| Transition {
        warning,
        reason: eligible.reason.clone(),
        note: eligible.message.clone(),
    })
}

async fn update_status(context: &Context, device: &EdgeDevice, verdict: &Verdict<DeviceEntry>) {
    let now = context.clock.now();
    let status = device.status.clone().unwrap_or_default();
    let generation = device.metadata.generation;
    let say = ready(verdict, "registered");
    let (eligible, suspended) = (eligible(device, verdict), suspended(device));
    let told = [
        transition(&status.conditions, &say),
        suspension(&status.conditions, &suspended),
        eligibility(&status.conditions, &eligible),
    ];
    let conditions = [say, eligible, suspended].map(|say| say.over(&status.conditions, generation, now));
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
    context.status.wish(device, device.status.as_ref(), MANAGER, wanted, told.into_iter().flatten()).await;
}

#[cfg(test)]
mod tests {
    use depin_domain::{
        ids::{AgentId, Algorithm, DeviceId, PublicKey},
        registry::OwnerShare,
        time::Timestamp,
    };

    use super::*;
    use crate::invalid::{Invalid, NotReady};

    fn device(more: &str) -> EdgeDevice {
        serde_saphyr::from_str(&format!(
            "apiVersion: depin.dev/v1alpha1\nkind: EdgeDevice\nmetadata: {{name: m1, namespace: town}}\nspec: {{fleet: homes, agent: \
             roof-1, serial: m1{more}}}\n"
        ))
        .unwrap()
    }

    fn entry(owned: bool, key: Option<u8>) -> DeviceEntry {
        let owner = || OwnerShare {
            account: "0x00000000000000000000000000000000000000a1".parse().unwrap(),
            basis_points: 10_000,
        };
        DeviceEntry {
            id: DeviceId::of("town", "m1"),
            namespace: "town".into(),
            name: "m1".into(),
            fleet: "town/homes".into(),
            agent: AgentId::of("town", "roof-1"),
            serial: "m1".into(),
            key: key.map(|byte| PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![byte; 32] }),
            hardware_key: false,
            shares: owned.then(owner).into_iter().collect(),
            location: None,
            suspended: false,
            since: Timestamp(0),
        }
    }

    /// Goes through states of a device as its controller does; gives the reasons of the Events of each.
    fn told(states: &[(&EdgeDevice, Verdict<DeviceEntry>)]) -> Vec<Vec<String>> {
        let mut conditions: Vec<Condition> = Vec::new();
        let step = |(device, verdict): &(&EdgeDevice, Verdict<DeviceEntry>)| {
            let says = [ready(verdict, "registered"), suspended(device), eligible(device, verdict)];
            let told = [
                transition(&conditions, &says[0]),
                suspension(&conditions, &says[1]),
                eligibility(&conditions, &says[2]),
            ];
            conditions = says.into_iter().filter_map(|say| say.over(&conditions, Some(1), Timestamp(1_000))).collect();
            told.into_iter().flatten().map(|told| told.reason).collect()
        };
        states.iter().map(step).collect()
    }

    #[test]
    fn a_suspension_is_told_once_and_so_is_its_end() {
        let (plain, suspended) = (device(""), device(", suspend: true, suspendReason: moved"));
        let owned = || Ok(entry(true, None));
        let states =
            [(&plain, owned()), (&suspended, owned()), (&suspended, owned()), (&plain, owned()), (&plain, owned())];
        assert_eq!(told(&states), [vec![], vec!["Suspended"], vec![], vec!["Resumed"], vec![]]);
        let born_suspended = told(&[(&suspended, owned())]);
        assert_eq!(born_suspended, [vec!["Suspended"]]);
    }

    #[test]
    fn who_can_no_longer_be_paid_is_told_why_and_that_it_can_again() {
        let plain = device("");
        let states = [
            (&plain, Ok(entry(true, None))),
            (&plain, Ok(entry(false, None))),
            (&plain, Ok(entry(false, None))),
            (&plain, Ok(entry(true, None))),
        ];
        assert_eq!(told(&states), [vec![], vec!["NoOwner"], vec![], vec!["Eligible"]]);
    }

    #[test]
    fn what_another_condition_tells_is_not_told_twice() {
        let plain = device("");
        let invalid = || Err(NotReady::Invalid(Invalid::new("spec.location", "outside", "correct it")));
        let waiting = || Err(NotReady::Waiting { field: "spec.fleet".into(), target: "EdgeFleet homes".into() });
        let states = [
            (&plain, waiting()),
            (&plain, Ok(entry(true, None))),
            (&plain, invalid()),
            (&plain, Ok(entry(true, None))),
        ];
        assert_eq!(told(&states), [vec![], vec![], vec!["Invalid"], vec!["Registered"]]);
    }

    #[test]
    fn a_device_with_a_key_of_its_own_is_told_that_nobody_relays_what_it_signs() {
        let plain = device("");
        let keyed: Verdict<_> = Ok(entry(true, Some(7)));
        let said = eligible(&plain, &keyed);
        assert_eq!((said.status, said.reason.as_str()), (Status::False, "OwnKeyNotRelayed"));
        assert!(
            said.message.contains("NotYours") && said.message.contains("remove spec.publicKey"),
            "{}",
            said.message
        );
        assert_eq!(
            told(&[(&plain, keyed), (&plain, Ok(entry(true, None)))]),
            [vec!["OwnKeyNotRelayed"], vec!["Eligible"]]
        );
    }
}

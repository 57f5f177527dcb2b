//! `approve` and `deny`: a person's answer to what asks. Approval is the object itself: existence is approval.

use depin_crds::{
    EdgeDevice, EdgeEnrollment,
    enrollment::{Request, RequestKind},
};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::suspend::MANAGER;
use crate::{cluster::Cluster, fault::Fault, output::Report};

/// On an EdgeDevice: RFC 3339 time of its first sighting, from which on it counts; the operator reads it.
const FIRST_SEEN: &str = "depin.dev/first-seen";

/// What the person chose.
pub(super) struct Choice<'a> {
    pub(super) fleet: Option<&'a str>,
    pub(super) owner: Option<&'a str>,
    pub(super) object: Option<&'a str>,
}

pub(super) async fn approve(cluster: &Cluster, name: &str, choice: &Choice<'_>) -> Result<Report, Fault> {
    let enrollment = cluster.own::<EdgeEnrollment>().get(name).await?;
    let Some(request) = &enrollment.spec.request else {
        return Err(Fault::failed(
            format!("{name} is an invitation, not a request"),
            "approve an enrollment that asks: kubectl depin status",
        ));
    };
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let made = match request.kind {
        RequestKind::Device => {
            let device = device(request, choice)?;
            format!("edgedevice/{}", cluster.own().create(&parameters, &device).await?.name_any())
        }
    };
    let value = json!({"namespace": cluster.namespace, "enrollment": name, "created": made});
    Ok(Report::new(value, format!("{made} created: it counts from its first sighting on")))
}

pub(super) async fn deny(cluster: &Cluster, name: &str, reason: &str) -> Result<Report, Fault> {
    let api = cluster.own::<EdgeEnrollment>();
    let enrollment = api.get(name).await?;
    let condition = json!({
        "type": "Denied", "status": "True", "reason": "DeniedByPerson", "message": reason,
        "lastTransitionTime": jiff::Timestamp::now().to_string(), "observedGeneration": enrollment.metadata.generation,
    });
    let patch = json!({
        "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeEnrollment", "metadata": {"name": name},
        "status": {"conditions": [condition]},
    });
    api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    let value = json!({"namespace": cluster.namespace, "enrollment": name, "denied": reason});
    Ok(Report::new(value, format!("edgeenrollment/{name} denied")))
}

fn fleet(request: &Request, choice: &Choice<'_>) -> Result<String, Fault> {
    match (choice.fleet, request.fleets.as_slice()) {
        (Some(fleet), _) => Ok(fleet.to_owned()),
        (None, [fleet]) => Ok(fleet.clone()),
        (None, fitting) => {
            let fitting = if fitting.is_empty() { "none".into() } else { fitting.join(", ") };
            Err(Fault::failed(format!("several fleets or none fit: {fitting}"), "choose one with --fleet"))
        }
    }
}

fn device(request: &Request, choice: &Choice<'_>) -> Result<EdgeDevice, Fault> {
    let (Some(serial), Some(agent)) = (&request.serial, &request.agent) else {
        return Err(Fault::failed("the request names no serial or agent", "create the EdgeDevice by hand"));
    };
    let name = choice.object.map_or_else(|| object_name(agent, serial), str::to_owned);
    let mut spec = json!({"fleet": fleet(request, choice)?, "agent": agent, "serial": serial});
    if let Some(owner) = choice.owner {
        spec["owner"] = owner.into();
    }
    let spec = serde_json::from_value(spec)
        .map_err(|error| Fault::failed(error.to_string(), "create the EdgeDevice by hand"))?;
    let mut device = EdgeDevice::new(&name, spec);
    if let Some(seen) = &request.first_seen {
        device.annotations_mut().insert(FIRST_SEEN.into(), seen.0.to_string());
    }
    Ok(device)
}

/// A name that the API server takes, told apart by the agent: lower-case letters, digits and single dashes.
fn object_name(agent: &str, serial: &str) -> String {
    let mut name = String::new();
    for letter in format!("{agent}-{serial}").chars() {
        let letter = if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
        if letter != '-' || !name.ends_with('-') {
            name.push(letter);
        }
    }
    name.truncate(63);
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fleets: &[&str]) -> Request {
        Request {
            kind: RequestKind::Device,
            agent: Some("barn".into()),
            serial: Some("SN_77/a".into()),
            fleets: fleets.iter().map(|fleet| (*fleet).to_owned()).collect(),
            topic: None,
            first_seen: Some(depin_crds::Time(jiff::Timestamp::UNIX_EPOCH)),
        }
    }

    #[test]
    fn an_approved_device_counts_from_its_first_sighting() {
        let choice = Choice { fleet: None, owner: Some("0x0101010101010101010101010101010101010101"), object: None };
        let device = device(&request(&["meters"]), &choice).unwrap();
        assert_eq!((device.name_any().as_str(), device.spec.fleet.as_str()), ("barn-sn-77-a", "meters"));
        assert_eq!(device.annotations()[FIRST_SEEN], "1970-01-01T00:00:00Z");
        assert_eq!(device.spec.owner.as_deref(), choice.owner);
    }

    #[test]
    fn a_fleet_must_be_chosen_where_several_fit() {
        let mut choice = Choice { fleet: None, owner: None, object: None };
        assert!(device(&request(&["a", "b"]), &choice).unwrap_err().message.contains("a, b"));
        choice.fleet = Some("b");
        assert_eq!(device(&request(&["a", "b"]), &choice).unwrap().spec.fleet, "b");
    }
}

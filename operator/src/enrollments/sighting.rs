//! What becomes of a device that an agent saw for the first time. Pure.

use depin_crds::{
    EdgeDevice, EdgeDeviceSpec, EdgeEnrollment, EdgeEnrollmentSpec, EdgeFleet,
    enrollment::{Request, RequestKind},
    fleet::EnrollmentPolicy,
};
use depin_domain::{ids::Digest, registry::AgentEntry, time::Timestamp};
use kube::ResourceExt;

use crate::{
    annotations::{FIRST_SEEN, MANAGED_BY, OPERATOR},
    quantities::time,
};

/// A serial without a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Model whose source matched.
    pub model: String,
    /// What its messages call it.
    pub serial: String,
    /// When the agent first saw it.
    pub at: Timestamp,
    /// Where.
    pub topic: String,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// A fleet's policy lets it in.
    Admit(Box<EdgeDevice>),
    /// A person decides.
    Ask(Box<EdgeEnrollment>),
    /// Nothing: no fleet of the agent has this model, or the serial is none.
    Ignore(&'static str),
}

/// Decides by the fleets that the agent serves. `in_force` is the model that the registry has of a fleet: while a change to another one is
/// refused, the last good one goes on, also for new devices.
#[must_use]
pub fn decide<'a>(
    seen: &Seen,
    agent: &AgentEntry,
    fleets: &[&'a EdgeFleet],
    in_force: impl Fn(&'a EdgeFleet) -> Option<&'a str>,
) -> Decision {
    let serial_good = (1..=128).contains(&seen.serial.len()) && seen.serial.bytes().all(|byte| byte.is_ascii_graphic());
    if !serial_good {
        return Decision::Ignore("InvalidSerial");
    }
    let is_of_model = |fleet: &'a EdgeFleet| in_force(fleet).unwrap_or(&fleet.spec.model_ref.name) == seen.model;
    let mut fitting: Vec<_> =
        fleets.iter().filter(|fleet| agent.fleets.contains(&fleet.name_any()) && is_of_model(fleet)).collect();
    fitting.sort_by_key(|fleet| fleet.name_any());
    if fitting.is_empty() {
        return Decision::Ignore("NoFleet");
    }
    match fitting.iter().find(|fleet| admits(fleet, &seen.serial)) {
        Some(fleet) => Decision::Admit(Box::new(device(seen, agent, &fleet.name_any()))),
        None => Decision::Ask(Box::new(request(seen, agent, fitting.iter().map(|fleet| fleet.name_any()).collect()))),
    }
}

fn admits(fleet: &EdgeFleet, serial: &str) -> bool {
    match fleet.spec.enrollment.policy {
        EnrollmentPolicy::Manual => false,
        EnrollmentPolicy::Token => true,
        EnrollmentPolicy::AllowList => fleet
            .spec
            .enrollment
            .serials
            .as_ref()
            .is_some_and(|serials| serials.iter().any(|allowed| allowed == serial)),
    }
}

/// Name of the object for `serial` at `agent`: the serial itself where it is a name, told apart from the same serial at another
/// agent by a digest where it is `ambiguous` or had to be changed.
#[must_use]
pub fn object_name(agent: &str, serial: &str, ambiguous: bool) -> String {
    let plain: String = serial
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' })
        .take(50)
        .collect();
    let plain = plain.trim_matches('-');
    if plain == serial && !ambiguous {
        return plain.to_owned();
    }
    let digest = Digest::of(format!("{agent}\0{serial}").as_bytes()).to_string();
    let digest = digest.get(..8).unwrap_or_default();
    if plain.is_empty() { format!("device-{digest}") } else { format!("{plain}-{digest}") }
}

fn device(seen: &Seen, agent: &AgentEntry, fleet: &str) -> EdgeDevice {
    let spec = EdgeDeviceSpec {
        fleet: fleet.to_owned(),
        agent: agent.name.clone(),
        serial: seen.serial.clone(),
        public_key: None,
        hardware_key: false,
        owner: None,
        shares: None,
        location: None,
        suspend: false,
        suspend_reason: None,
    };
    let mut device = EdgeDevice::new(&object_name(&agent.name, &seen.serial, false), spec);
    device.metadata.namespace = Some(agent.namespace.clone());
    device.labels_mut().insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    if let Ok(at) = jiff::Timestamp::from_millisecond(seen.at.0) {
        device.annotations_mut().insert(FIRST_SEEN.to_owned(), at.to_string());
    }
    device
}

/// The same device under a name that no other agent's device can have.
#[must_use]
pub fn renamed(mut device: EdgeDevice) -> EdgeDevice {
    device.metadata.name = Some(object_name(&device.spec.agent, &device.spec.serial, true));
    device
}

fn request(seen: &Seen, agent: &AgentEntry, fleets: Vec<String>) -> EdgeEnrollment {
    let request = Request {
        kind: RequestKind::Device,
        agent: Some(agent.name.clone()),
        serial: Some(seen.serial.clone()),
        fleets: fleets.into_iter().take(32).collect(),
        topic: Some(seen.topic.chars().take(256).collect()),
        first_seen: time(seen.at),
    };
    let name = object_name(&agent.name, &seen.serial, true);
    let mut enrollment = EdgeEnrollment::new(&name, EdgeEnrollmentSpec { token: None, request: Some(request) });
    enrollment.metadata.namespace = Some(agent.namespace.clone());
    enrollment.labels_mut().insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    enrollment
}

#[cfg(test)]
mod tests {
    use depin_domain::ids::{AgentId, Algorithm, PublicKey};

    use super::*;

    fn agent() -> AgentEntry {
        AgentEntry {
            id: AgentId::of("town", "roof-1"),
            namespace: "town".into(),
            name: "roof-1".into(),
            key: PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![0; 32] },
            fleets: vec!["homes".into()],
            reinstate_key: false,
        }
    }

    fn fleet(name: &str, model: &str, enrollment: &str) -> EdgeFleet {
        serde_saphyr::from_str(&format!(
            "apiVersion: depin.dev/v1alpha1\nkind: EdgeFleet\nmetadata: {{name: {name}, namespace: town}}\nspec:\n  modelRef: \
             {{name: {model}}}\n  enrollment: {enrollment}\n"
        ))
        .unwrap()
    }

    fn seen(serial: &str) -> Seen {
        Seen {
            model: "meter".into(),
            serial: serial.into(),
            at: Timestamp(1_700_000_000_123),
            topic: "meters/m1/up".into(),
        }
    }

    #[test]
    fn under_the_token_policy_a_device_is_let_in_from_its_first_sighting() {
        let fleet = fleet("homes", "meter", "{policy: Token}");
        let Decision::Admit(device) = decide(&seen("m1"), &agent(), &[&fleet], |_| None) else { unreachable!() };
        assert_eq!(device.name_any(), "m1");
        assert_eq!((device.spec.fleet.as_str(), device.spec.agent.as_str()), ("homes", "roof-1"));
        assert_eq!(device.annotations()[FIRST_SEEN], "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn an_allow_list_lets_in_its_serials_only() {
        let fleet = fleet("homes", "meter", "{policy: AllowList, serials: [m1]}");
        assert!(matches!(decide(&seen("m1"), &agent(), &[&fleet], |_| None), Decision::Admit(_)));
        assert!(matches!(decide(&seen("m2"), &agent(), &[&fleet], |_| None), Decision::Ask(_)));
    }

    #[test]
    fn under_the_manual_policy_a_person_decides() {
        let fleet = fleet("homes", "meter", "{policy: Manual}");
        let Decision::Ask(enrollment) = decide(&seen("m1"), &agent(), &[&fleet], |_| None) else { unreachable!() };
        let request = enrollment.spec.request.clone().unwrap();
        assert_eq!((request.serial.as_deref(), request.agent.as_deref()), (Some("m1"), Some("roof-1")));
        assert!(enrollment.validate_cel().is_ok());
    }

    #[test]
    fn what_no_fleet_of_the_agent_fits_is_ignored() {
        let other = fleet("homes", "station", "{policy: Token}");
        let foreign = fleet("offices", "meter", "{policy: Token}");
        assert_eq!(decide(&seen("m1"), &agent(), &[&other, &foreign], |_| None), Decision::Ignore("NoFleet"));
        assert_eq!(decide(&seen("m 1"), &agent(), &[], |_| None), Decision::Ignore("InvalidSerial"));
    }

    #[test]
    fn while_a_fleets_next_model_is_refused_devices_of_the_last_good_one_come_in() {
        let fleet = fleet("homes", "other", "{policy: Token}");
        let decide = |in_force| decide(&seen("m1"), &agent(), &[&fleet], |_| in_force);
        assert!(matches!(decide(Some("meter")), Decision::Admit(_)));
        assert_eq!(decide(Some("other")), Decision::Ignore("NoFleet"));
        assert_eq!(decide(None), Decision::Ignore("NoFleet"));
    }

    #[test]
    fn names_are_names_and_tell_serials_apart() {
        assert_eq!(object_name("a", "m1", false), "m1");
        for serial in ["M1", "a/b", "äöü", "-", "----", &"x".repeat(128)] {
            let name = object_name("a", serial, false);
            assert!(depin_identity::peer::is_label(&name), "{serial}: {name}");
        }
        assert_ne!(object_name("a", "M1", false), object_name("a", "m1", false));
        assert_ne!(object_name("a", "m1", true), object_name("b", "m1", true));
    }
}

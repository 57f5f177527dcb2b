//! Events: one where something turned, none where it stands.

use std::sync::atomic::{AtomicI64, Ordering};

use depin_crds::{EdgeAgent, EdgeDevice, EdgeEnrollment, EdgeFleet, RewardProgram};
use depin_domain::{ids::AgentId, time::Timestamp};
use depin_identity::SigningKey;
use depin_operator::clock::Clock;
use depin_proto::v1::{AgentPresence, PresencePage, Sighting, SightingsEntry, inbox_entry::Entry};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    objects::{FLEET, MODEL, PROGRAM, agent, device},
    world::{World, eventually},
};

/// What the operator's clock is ahead of the machine's.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond() + AHEAD_MS.load(Ordering::Relaxed))
}

/// How often this was told of the object: a repeated Event is one object with a count.
async fn told(world: &World, name: &str, reason: &str) -> i32 {
    let events = world.events(name, reason).await;
    events.iter().map(|event| event.series.as_ref().map_or(1, |series| series.count)).sum()
}

async fn until_told(world: &World, name: &str, reason: &str, times: i32) {
    eventually(&format!("{times} × {reason} of {name}"), || async {
        (told(world, name, reason).await == times).then_some(())
    })
    .await;
}

async fn patch<K>(world: &World, name: &str, spec: Value)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = world.api();
    api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_turns_is_told_once() {
    let world = World::new().await;
    let operator = world.start_at("one", Clock::of(clock));
    world.apply(MODEL).unwrap();
    world.apply(&FLEET.replace("{policy: Token}", "{policy: Manual}")).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    world.apply(&agent("roof-1", 1)).unwrap();
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");

    suspensions(&world).await;
    eligibility(&world).await;
    decisions(&world).await;
    confirmations(&world).await;

    // Each was told as often as it came to pass, whatever was looked at in between.
    for (name, reason, times) in [
        ("m1", "Suspended", 2),
        ("m1", "Resumed", 2),
        ("m1", "NoOwner", 0),
        ("watts", "Suspended", 1),
        ("watts", "Resumed", 1),
        ("keyed", "OwnKeyNotRelayed", 1),
        ("keyed", "Eligible", 1),
        ("roof-1", "Unconfirmed", 1),
        ("roof-1", "Confirmed", 1),
        ("roof-1", "AgentLost", 0),
    ] {
        assert_eq!(told(&world, name, reason).await, times, "{reason} of {name}");
    }
    operator.stop().await;
}

async fn suspensions(world: &World) {
    world.apply(&device("m1", "roof-1", "")).unwrap();
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    for times in 1..3 {
        patch::<EdgeDevice>(world, "m1", json!({"suspend": true, "suspendReason": "moved"})).await;
        until_told(world, "m1", "Suspended", times).await;
        patch::<EdgeDevice>(world, "m1", json!({"suspend": false, "suspendReason": null})).await;
        until_told(world, "m1", "Resumed", times).await;
    }
    world.apply(PROGRAM).unwrap();
    condition!(world, RewardProgram, "watts", "Ready", "True");
    patch::<RewardProgram>(world, "watts", json!({"suspend": true})).await;
    until_told(world, "watts", "Suspended", 1).await;
    patch::<RewardProgram>(world, "watts", json!({"suspend": false})).await;
    until_told(world, "watts", "Resumed", 1).await;
}

/// A key of the device's own is told honestly: nobody relays what it signs.
async fn eligibility(world: &World) {
    let key = hex::encode(&SigningKey::from_seed(&[9; 32]).public().bytes);
    world.apply(&device("keyed", "roof-1", &format!(", publicKey: {{algorithm: Ed25519, key: {key}}}"))).unwrap();
    let said = condition!(world, EdgeDevice, "keyed", "Eligible", "False");
    assert_eq!(said.reason, "OwnKeyNotRelayed");
    assert!(said.message.contains("remove spec.publicKey"), "{}", said.message);
    until_told(world, "keyed", "OwnKeyNotRelayed", 1).await;
    patch::<EdgeDevice>(world, "keyed", json!({"publicKey": null})).await;
    condition!(world, EdgeDevice, "keyed", "Eligible", "True");
    until_told(world, "keyed", "Eligible", 1).await;
}

/// Two devices ask; one is let in, one is turned down.
async fn decisions(world: &World) {
    let sighting = |serial: &str| Sighting {
        model: "meter".into(),
        serial: serial.into(),
        first_seen: 1_700_000_000_000,
        topic: format!("meters/{serial}/up"),
    };
    let agent_id = AgentId::of("town", "roof-1").0.to_vec().into();
    let sightings = vec![sighting("m7"), sighting("m8")];
    world.ledger.post(Entry::Sightings(SightingsEntry { agent_id, sightings }));
    let enrollments: Api<EdgeEnrollment> = world.api();
    let asking = eventually("two requests", || async {
        let all = enrollments.list(&ListParams::default()).await.unwrap().items;
        (all.len() == 2).then_some(all)
    })
    .await;
    let name = |serial: &str| {
        let of = |known: &&EdgeEnrollment| known.spec.request.as_ref().unwrap().serial.as_deref() == Some(serial);
        asking.iter().find(of).unwrap().name_any()
    };
    let (approved, denied) = (name("m7"), name("m8"));
    condition!(world, EdgeEnrollment, &approved, "Ready", "False");
    world.apply(&device("porch", "roof-1", "").replace("serial: porch", "serial: m7")).unwrap();
    until_told(world, &approved, "Approved", 1).await;
    eventually("the end of the approved request", || async {
        enrollments.get_opt(&approved).await.unwrap().is_none().then_some(())
    })
    .await;
    let word = json!({
        "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeEnrollment", "metadata": {"name": denied},
        "status": {"conditions": [{
            "type": "Denied", "status": "True", "reason": "DeniedByPerson", "message": "not ours",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    enrollments.patch_status(&denied, &PatchParams::apply("a-person").force(), &Patch::Apply(word)).await.unwrap();
    until_told(world, &denied, "Denied", 1).await;
    let said = condition!(world, EdgeEnrollment, &denied, "Ready", "False");
    assert_eq!((said.reason.as_str(), said.message.as_str()), ("Denied", "not ours"));
}

/// An agent that is connected and does not confirm what it was sent, until it does.
async fn confirmations(world: &World) {
    let tell = |confirmed: u64| {
        let agent = AgentPresence {
            agent_id: AgentId::of("town", "roof-1").0.to_vec().into(),
            connected: true,
            last_heard: jiff::Timestamp::now().as_millisecond(),
            sent_registry_version: 5,
            confirmed_registry_version: confirmed,
            ..Default::default()
        };
        world.ledger.set_presence(PresencePage { agents: vec![agent], devices: Vec::new() });
    };
    tell(5);
    condition!(world, EdgeAgent, "roof-1", "Confirmed", "True");
    tell(3);
    let looks = world.ledger.presence_reads();
    eventually("a look at the lag", || async { (world.ledger.presence_reads() > looks + 1).then_some(()) }).await;
    condition!(world, EdgeAgent, "roof-1", "Confirmed", "True");
    AHEAD_MS.store(10 * 60_000 + 1_000, Ordering::Relaxed);
    let said = condition!(world, EdgeAgent, "roof-1", "Confirmed", "False");
    assert_eq!(said.reason, "Unconfirmed");
    assert!(said.message.contains("restart it"), "{}", said.message);
    until_told(world, "roof-1", "Unconfirmed", 1).await;
    tell(5);
    condition!(world, EdgeAgent, "roof-1", "Confirmed", "True");
    until_told(world, "roof-1", "Confirmed", 1).await;
}

//! Who is let in: by token, by list, by a person; and how requests end.

use std::sync::atomic::{AtomicI64, Ordering};

use depin_crds::{EdgeAgent, EdgeDevice, EdgeEnrollment, EdgeFleet};
use depin_domain::{
    ids::{AgentId, Digest},
    time::Timestamp,
};
use depin_identity::{CertificateRequest, JoinToken, SigningKey};
use depin_operator::clock::Clock;
use depin_proto::v1::{
    RenewRequest, RenewalEntry, Sighting, SightingsEntry, enroll_response::Result as Answer, inbox_entry::Entry,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};

use crate::{
    objects::{FLEET, MODEL, agent, device, enrollment},
    world::{World, enroll, eventually, registered},
};

const DAY_MS: i64 = 24 * 3_600_000;

/// What the operator's clock is ahead of the machine's.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond() + AHEAD_MS.load(Ordering::Relaxed))
}

/// An agent's message of serials that it has not seen before, once the operator has answered it.
async fn sight(world: &World, serials: &[&str]) {
    let sighting = |serial: &&str| Sighting {
        model: "meter".into(),
        serial: (*serial).to_owned(),
        first_seen: 1_700_000_000_000,
        topic: format!("meters/{serial}/up"),
    };
    let agent_id = AgentId::of("town", "roof-1").0.to_vec().into();
    let entry = SightingsEntry { agent_id, sightings: serials.iter().map(sighting).collect() };
    let id = world.ledger.post(Entry::Sightings(entry));
    eventually("an answer", || async { world.ledger.answer(id) }).await;
}

async fn requests(world: &World) -> Vec<EdgeEnrollment> {
    let enrollments: Api<EdgeEnrollment> = world.api();
    let all = enrollments.list(&ListParams::default()).await.unwrap().items;
    all.into_iter().filter(|enrollment| enrollment.spec.request.is_some()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_lets_in_its_serials_and_a_denied_request_ends_after_a_day() {
    let world = World::new().await;
    let operator = world.start_at("one", Clock::of(clock));
    world.apply(MODEL).unwrap();
    world.apply(&FLEET.replace("{policy: Token}", "{policy: AllowList, serials: [m1]}")).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    world.apply(&agent("roof-1", 1)).unwrap();
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    let devices: Api<EdgeDevice> = world.api();
    eventually("the listed device", || async {
        // The list may not be seen yet: an agent tells again.
        sight(&world, &["m1", "m2"]).await;
        devices.get_opt("m1").await.unwrap()
    })
    .await;
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    assert_eq!(devices.list(&ListParams::default()).await.unwrap().items.len(), 1);

    // The other one asks, once, however often it is heard.
    sight(&world, &["m2"]).await;
    let asking = requests(&world).await;
    assert_eq!(asking.len(), 1, "{asking:?}");
    let name = asking[0].name_any();
    let told = condition!(world, EdgeEnrollment, &name, "Ready", "False");
    assert!(told.message.contains("kubectl depin approve"), "{}", told.message);

    // Denied, it stays denied, so that the device does not ask again with its next message; after a day it is forgotten.
    let denied = serde_json::json!({
        "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeEnrollment", "metadata": {"name": name},
        "status": {"conditions": [{
            "type": "Denied", "status": "True", "reason": "DeniedByPerson", "message": "not ours",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    let enrollments: Api<EdgeEnrollment> = world.api();
    enrollments.patch_status(&name, &PatchParams::apply("a-person").force(), &Patch::Apply(denied)).await.unwrap();
    sight(&world, &["m2"]).await;
    assert_eq!(requests(&world).await.len(), 1);
    condition!(world, EdgeEnrollment, &name, "Denied", "True");
    AHEAD_MS.store(DAY_MS + 60_000, Ordering::Relaxed);
    eventually("the end of the request", || async {
        enrollments.get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(devices.get_opt("m2").await.unwrap().is_none());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_one_objects_and_a_token_admits_within_its_time() {
    let world = World::new().await;
    let operator = world.start("one");
    world.apply(MODEL).unwrap();
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");

    // A token whose time is over.
    let late = JoinToken::new([8; 16], Digest([0; 32]));
    world.apply(&enrollment(&late).replace("2099-01-01", "2020-01-01").replace("invitation", "late")).unwrap();
    eventually("the end of what expired long ago", || async {
        let enrollments: Api<EdgeEnrollment> = world.api();
        enrollments.get_opt("late").await.unwrap().is_none().then_some(())
    })
    .await;
    let Answer::Denied(denied) = enroll(&world, &late, &SigningKey::from_seed(&[3; 32]), "roof-3").await else {
        unreachable!("an expired token admits")
    };
    assert_eq!(denied.reason, "UnknownToken", "{}", denied.message);

    // A person made an agent of this name with another key: the token does not take it over.
    let token = JoinToken::new([7; 16], Digest([0; 32]));
    world.apply(&enrollment(&token)).unwrap();
    condition!(world, EdgeEnrollment, "invitation", "Ready", "True");
    registered(&world, "the invitation", |registry| registry.invitation(&token.hash()).is_some()).await;
    world.apply(&agent("roof-1", 1)).unwrap();
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    let own = SigningKey::from_seed(&[1; 32]);
    let Answer::Denied(denied) = enroll(&world, &token, &SigningKey::from_seed(&[4; 32]), "roof-1").await else {
        unreachable!("a name is taken over")
    };
    assert_eq!(denied.reason, "NameTaken");
    // With its own key it gets its certificate: the object was made beforehand, in Git say.
    let Answer::Issued(_) = enroll(&world, &token, &own, "roof-1").await else { unreachable!("not issued") };
    let told = condition!(world, EdgeEnrollment, "invitation", "Ready", "False");
    assert_eq!((told.reason.as_str(), told.message.as_str()), ("Used", "admitted roof-1"));

    // A device's key is bound to one object; the second is told.
    let key = hex::encode(&SigningKey::from_seed(&[9; 32]).public().bytes);
    let keyed = |name: &str| device(name, "roof-1", &format!(", publicKey: {{algorithm: Ed25519, key: {key}}}"));
    world.apply(&keyed("m1")).unwrap();
    condition!(world, EdgeDevice, "m1", "Ready", "True");
    world.apply(&keyed("m2")).unwrap();
    let told = condition!(world, EdgeDevice, "m2", "Ready", "False");
    assert_eq!(told.reason, "DuplicateKey", "{}", told.message);

    // A deleted EdgeAgent is a revoked key: it gets no further certificate.
    let renew = || {
        let request = RenewRequest { csr: CertificateRequest::make(&own).unwrap().into(), ..RenewRequest::default() };
        let agent_id = AgentId::of("town", "roof-1").0.to_vec().into();
        world.ledger.post(Entry::Renew(RenewalEntry { agent_id, request: Some(request), ..RenewalEntry::default() }))
    };
    let answer = |id| {
        let ledger = world.ledger.clone();
        async move { eventually("an answer", || async { ledger.answer(id) }).await.unwrap().result.unwrap() }
    };
    let Answer::Issued(_) = answer(renew()).await else { unreachable!("not renewed") };
    let agents: Api<EdgeAgent> = world.api();
    agents.delete("roof-1", &DeleteParams::default()).await.unwrap();
    let id = AgentId::of("town", "roof-1");
    registered(&world, "the removal", |registry| registry.agent(&id).is_none()).await;
    let Answer::Denied(denied) = answer(renew()).await else { unreachable!("renewed for a deleted agent") };
    assert_eq!(denied.reason, "NotApproved");
    operator.stop().await;
}

/// What that operator's clock is ahead of the machine's.
static DARK_MS: AtomicI64 = AtomicI64::new(0);

fn after_the_dark() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond() + DARK_MS.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_was_dark_too_long_needs_a_new_token_and_keeps_its_key() {
    let world = World::new().await;
    let operator = world.start_at("one", Clock::of(after_the_dark));
    world.apply(MODEL).unwrap();
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    let token = JoinToken::new([7; 16], Digest([0; 32]));
    world.apply(&enrollment(&token)).unwrap();
    registered(&world, "the invitation", |registry| registry.invitation(&token.hash()).is_some()).await;
    let key = SigningKey::from_seed(&[5; 32]);
    let Answer::Issued(_) = enroll(&world, &token, &key, "roof-5").await else { unreachable!("not issued") };
    let id = AgentId::of("town", "roof-5");
    registered(&world, "the agent", |registry| registry.agent(&id).is_some()).await;
    let renew = async |expires| {
        let csr = CertificateRequest::make_renewal(&key, Timestamp(expires)).unwrap();
        let request = RenewRequest { csr: csr.into(), ..RenewRequest::default() };
        let entry = RenewalEntry { agent_id: id.0.to_vec().into(), request: Some(request), ..RenewalEntry::default() };
        let posted = world.ledger.post(Entry::Renew(entry));
        eventually("an answer", || async { world.ledger.answer(posted) }).await.unwrap().result.unwrap()
    };
    // A certificate lives for thirty days; half a year after its end is not too late, a day more is.
    DARK_MS.store((30 + 179) * DAY_MS, Ordering::Relaxed);
    let Answer::Issued(_) = renew(1).await else { unreachable!("not renewed within the grace") };
    DARK_MS.store((30 + 179 + 30 + 181) * DAY_MS, Ordering::Relaxed);
    let agents: Api<EdgeAgent> = world.api();
    let renewed = Timestamp(jiff::Timestamp::now().as_millisecond() + (30 + 179 + 29) * DAY_MS);
    eventually("the new end in the status", || async {
        let expires = agents.get("roof-5").await.unwrap().status?.certificate_expires?;
        (Timestamp(expires.0.as_millisecond()) > renewed).then_some(())
    })
    .await;
    let Answer::Denied(denied) = renew(2).await else { unreachable!("renewed after the grace") };
    assert_eq!(denied.reason, "RenewalGraceOver", "{}", denied.message);
    assert!(denied.message.contains("new token"), "{}", denied.message);
    // Another token lets the same key in again, as the same agent.
    let another = JoinToken::new([6; 16], Digest([0; 32]));
    world.apply(&enrollment(&another).replace("invitation", "another")).unwrap();
    registered(&world, "the invitation", |registry| registry.invitation(&another.hash()).is_some()).await;
    let Answer::Issued(issued) = enroll(&world, &another, &key, "roof-5").await else { unreachable!("not issued") };
    assert_eq!((issued.name.as_str(), issued.agent_id), ("roof-5", id.0.to_vec().into()));
    operator.stop().await;
}

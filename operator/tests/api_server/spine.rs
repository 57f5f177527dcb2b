//! From a cluster without anything to paid epochs.

use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardEpoch, RewardProgram};
use depin_domain::ids::{AgentId, DeviceId, Digest};
use depin_identity::{CertificateInfo, JoinToken, PeerIdentity, SigningKey};
use depin_proto::v1::{
    AgentPresence, DevicePresence, PresencePage, Sighting, SightingsEntry, enroll_response::Result as Answer,
    inbox_entry::Entry,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};

use crate::{
    objects::{FLEET, MODEL, PROGRAM, device, enrollment, grain},
    world::{World, enroll, eventually, registered},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_cluster_without_anything_to_paid_epochs() {
    let world = World::new().await;
    let operator = world.start("one");

    // Certificates: the CA is made once, the gateway's certificate is issued by it.
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let tls = eventually("the gateway's Secret", || async { secrets.get_opt("depin-gateway-tls").await.unwrap() })
        .await
        .data
        .unwrap();
    let leaf = CertificateInfo::from_pem(std::str::from_utf8(&tls["tls.crt"].0).unwrap()).unwrap();
    assert_eq!(leaf.identity, PeerIdentity::Gateway);
    let authority = secrets.get("depin-ca").await.unwrap().data.unwrap()["tls.crt"].0.clone();

    // A device that is applied before everything that it needs waits, and says for what.
    world.apply(&device("early", "roof-1", "")).unwrap();
    // What the schema put there first says nothing of that, and was observed by nobody.
    let early: Api<EdgeDevice> = world.api();
    eventually("a device that tells what it waits for", || async {
        let conditions = early.get("early").await.unwrap().status?.conditions;
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        let told = ready.observed_generation.is_some() && ready.message.contains("EdgeFleet homes");
        (told && ready.status == "Unknown").then_some(())
    })
    .await;

    let models: Api<EdgeDeviceModel> = Api::all(world.client.clone());
    world.apply(MODEL).unwrap();
    condition!(models "meter", "Ready", "True");
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");

    // An agent joins by its token; a second key with the same token does not.
    let token = JoinToken::new([7; 16], Digest([0; 32]));
    world.apply(&enrollment(&token)).unwrap();
    condition!(world, EdgeEnrollment, "invitation", "Ready", "True");
    registered(&world, "the invitation", |registry| registry.invitation(&token.hash()).is_some()).await;
    let key = SigningKey::from_seed(&[1; 32]);
    let Answer::Issued(issued) = enroll(&world, &token, &key, "roof-1").await else { unreachable!("not issued") };
    let certificate = CertificateInfo::from_pem(&issued.chain).unwrap();
    assert_eq!(certificate.identity, PeerIdentity::Agent { namespace: "town".into(), name: "roof-1".into() });
    assert_eq!(issued.ca.as_bytes(), authority);
    let Answer::Issued(_) = enroll(&world, &token, &key, "roof-1").await else {
        unreachable!("a repeated request is denied")
    };
    let Answer::Denied(denied) = enroll(&world, &token, &SigningKey::from_seed(&[2; 32]), "roof-2").await else {
        unreachable!("a token admitted two")
    };
    assert_eq!(denied.reason, "TokenUsed");
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    condition!(world, EdgeDevice, "early", "Ready", "True");

    // A sighting under the Token policy becomes a device that counts from then.
    let sighting = Sighting {
        model: "meter".into(),
        serial: "m1".into(),
        first_seen: 1_700_000_000_000,
        topic: "meters/m1/up".into(),
    };
    let agent_id = AgentId::of("town", "roof-1");
    world
        .ledger
        .post(Entry::Sightings(SightingsEntry { agent_id: agent_id.0.to_vec().into(), sightings: vec![sighting] }));
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    let m1 = DeviceId::of("town", "m1");
    registered(&world, "the device", |registry| {
        registry.device(&m1).and_then(|device| device.current()).is_some_and(|entry| entry.since.0 == 1_700_000_000_000)
    })
    .await;

    // Presence: one condition where it flips.
    let now = jiff::Timestamp::now().as_millisecond();
    world.ledger.set_presence(PresencePage {
        agents: vec![AgentPresence {
            agent_id: agent_id.0.to_vec().into(),
            connected: true,
            last_heard: now,
            ..Default::default()
        }],
        devices: vec![DevicePresence { device_id: m1.0.to_vec().into(), last_accepted: now, ..Default::default() }],
    });
    condition!(world, EdgeAgent, "roof-1", "Online", "True");
    condition!(world, EdgeDevice, "m1", "Online", "True");

    // Epochs close by themselves and are paid exactly.
    world.ledger.set_statistics(
        (0..600)
            .flat_map(|second| {
                let start = now.div_euclid(1000) * 1000 + second * 1000;
                [grain("m1", start, 30), grain("early", start, 10)]
            })
            .collect(),
    );
    world.apply(PROGRAM).unwrap();
    condition!(world, RewardProgram, "watts", "Ready", "True");
    eventually("three epochs", || async { (world.ledger.recorded("town/watts").len() >= 3).then_some(()) }).await;
    let recorded = world.ledger.recorded("town/watts");
    let last = world.ledger.summary("town/watts", recorded[2]);
    assert_eq!(last["minted"], "1000");
    assert_eq!(last["payouts"][0]["amount"], "1000", "{last}");
    let epochs: Api<RewardEpoch> = world.api();
    let name = format!("watts-{}", recorded[1]);
    let view = eventually("the epoch's view", || async {
        epochs.get_opt(&name).await.unwrap().filter(|view| view.status.is_some())
    })
    .await;
    let status = view.status.unwrap();
    assert_eq!(
        (status.minted.as_deref(), status.paid.as_deref(), status.devices),
        (Some("1000"), Some("1000"), Some(2))
    );
    assert!(status.root.unwrap().starts_with("0x"));

    // Hand-over: the next leader goes on where the first stopped, no epoch twice, none missing.
    operator.stop().await;
    let before = world.ledger.writer();
    // The first epoch of the second leader is closed, but twice not recorded: what is closed is computed again, from the same record.
    world.ledger.refuse_records(2);
    let operator = world.start("two");
    let stood = *world.ledger.recorded("town/watts").last().unwrap();
    eventually("epochs of the second leader", || async {
        (world.ledger.recorded("town/watts").last().is_some_and(|last| *last > stood + 1)).then_some(())
    })
    .await;
    assert_eq!(world.ledger.writer(), before + 1);
    let all = world.ledger.recorded("town/watts");
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    assert_eq!(secrets.get("depin-ca").await.unwrap().data.unwrap()["tls.crt"].0, authority, "the CA is made once");

    // What says nothing new is not written again.
    let writes = world.ledger.writes();
    let fleets: Api<EdgeFleet> = world.api();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    assert_eq!(world.ledger.writes(), writes);
    assert_eq!(fleets.get("homes").await.unwrap().status.unwrap().devices, Some(2));

    // A token that is deleted admits nobody any more.
    let enrollments: Api<EdgeEnrollment> = world.api();
    enrollments.delete("invitation", &DeleteParams::default()).await.unwrap();
    registered(&world, "the invitation's end", |registry| registry.invitation(&token.hash()).is_none()).await;

    // A deletion that is seen is a removal; nothing else is.
    let devices: Api<EdgeDevice> = world.api();
    devices.delete("early", &DeleteParams::default()).await.unwrap();
    let early = DeviceId::of("town", "early");
    registered(&world, "the removal", |registry| {
        registry.device(&early).is_some_and(|device| device.current().is_none())
    })
    .await;
    assert!(world.ledger.registry().device(&m1).unwrap().current().is_some());
    operator.stop().await;
}

//! What is wrong is refused by the API server where the schema can tell, else told by a condition, and the last good version works on.

use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardProgram};
use depin_domain::ids::AgentId;
use depin_proto::v1::{Sighting, SightingsEntry, inbox_entry::Entry};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{
    objects::{FLEET, MODEL, PROGRAM, agent, device},
    world::{World, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_or_told_and_the_last_good_version_works_on() {
    let world = World::new().await;
    // Before any operator has seen it, an object says that it is not ready: no tool takes it for done.
    world.apply(&device("early", "roof-1", "")).unwrap();
    let told = condition!(world, EdgeDevice, "early", "Ready", "Unknown");
    assert_eq!((told.reason.as_str(), told.observed_generation), ("Pending", None));
    let operator = world.start("one");
    eventually("the operator's word", || async {
        let early = world.api::<EdgeDevice>().get("early").await.unwrap();
        let ready = early.status?.conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status == "Unknown" && ready.observed_generation == early.metadata.generation).then_some(())
    })
    .await;

    // The API server refuses what the schema can tell.
    let refused = |yaml: &str, message: &str| {
        let error = world.apply(yaml).unwrap_err();
        assert!(error.contains(message), "expected {message:?}, got {error}");
    };
    refused(&MODEL.replace("metric: energy}", "metric: power}"), "names a metric");
    refused(&MODEL.replace("cadence: 1s", "cadence: 1d"), "cadence");
    refused(&MODEL.replace("cadence: 1s", "cadence: 25h"), "between 100ms and 24h");
    refused(&FLEET.replace("{policy: Token}", "{policy: Token, serials: [m1]}"), "serials is set with");
    refused(&device("m1", "roof-1", ", suspendReason: stolen"), "needs suspend");
    refused(&device("m1", "roof-1", ", location: {latitude: '91', longitude: '0'}"), "latitude");

    let models: Api<EdgeDeviceModel> = Api::all(world.client.clone());
    world.apply(MODEL).unwrap();
    condition!(models "meter", "Ready", "True");
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    refused(&MODEL.replace("scale: 3", "scale: 4"), "never change");
    refused(&FLEET.replace("grain: 1s", "grain: 2s"), "grain is immutable");
    let program = PROGRAM.replace("watts", "volts");
    world.apply(&program).unwrap();
    refused(&program.replace("decimals: 6", "decimals: 7"), "token is immutable");
    refused(&program.replace("length: 2s", "length: 4s"), "epoch is immutable");
    refused(&program.replace("amount: '1000'", "amount: '0.5'"), "spec.emission");
    refused(
        &program.replace("weight: energy", "weight: energy\n  gates: [{reason: X, feature: uptime, minimum: 1}]"),
        "names a feature",
    );

    // What only the registry can tell is a condition that names field and remedy; the last good model stands.
    world.apply(&MODEL.replace("cadence: 1s", "cadence: 700ms")).unwrap();
    let told = condition!(models "meter", "Ready", "False");
    assert!(told.message.contains("spec.cadence") && told.message.contains("choose"), "{}", told.message);
    world.apply(&MODEL.replace("metric: energy}", "metric: energy, unit: Cel}")).unwrap();
    eventually("the word on the unit", || async {
        let conditions = models.get("meter").await.unwrap().status?.conditions;
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status == "False" && ready.message.contains("spec.sources[0].fields[0].unit")).then_some(())
    })
    .await;
    let registry = world.ledger.registry();
    assert_eq!(registry.model_chain("meter").unwrap().newest().unwrap().model.cadence_ms, 1000);
    world.apply(MODEL).unwrap();
    condition!(models "meter", "Ready", "True");

    // Two devices with one serial at one agent: the second is told so.
    world.apply(&agent("roof-1", 1)).unwrap();
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    refused(&agent("roof-1", 2), "immutable once set");
    world.apply(&agent("roof-2", 1)).unwrap();
    let told = condition!(world, EdgeAgent, "roof-2", "Ready", "False");
    assert_eq!(told.reason, "DuplicateKey", "{}", told.message);
    world.apply(&device("m1", "roof-1", "")).unwrap();
    condition!(world, EdgeDevice, "m1", "Ready", "True");
    refused(&device("m1", "roof-1", "").replace("serial: m1", "serial: m7"), "serial is immutable");
    world.apply(&device("m2", "roof-1", "").replace("serial: m2", "serial: m1")).unwrap();
    let told = condition!(world, EdgeDevice, "m2", "Ready", "False");
    assert_eq!(told.reason, "DuplicateSerial", "{}", told.message);

    // Suspended by a person.
    world.apply(&device("m1", "roof-1", ", suspend: true, suspendReason: moved")).unwrap();
    let told = condition!(world, EdgeDevice, "m1", "Suspended", "True");
    assert!(told.message.contains("moved"));
    condition!(world, EdgeDevice, "m1", "Eligible", "False");

    // A program whose feature no model has.
    world
        .apply(
            "
apiVersion: depin.dev/v1alpha1
kind: RewardProgram
metadata: {name: watts, namespace: town}
spec:
  fleets: [homes]
  token: {symbol: WATT}
  epoch: {length: 10s, genesis: '2026-01-01T00:00:00Z'}
  emission: {fixed: {amount: '1000'}}
  features: [{name: power, metric: power, aggregate: Mean}]
  weight: power
",
        )
        .unwrap();
    let told = condition!(world, RewardProgram, "watts", "Ready", "False");
    assert!(
        told.message.contains("spec.features[0].metric") && told.message.contains("name one of"),
        "{}",
        told.message
    );

    // Under the Manual policy a sighting waits for a person.
    world.apply(&FLEET.replace("{policy: Token}", "{policy: Manual}")).unwrap();
    let sighting = Sighting {
        model: "meter".into(),
        serial: "m9".into(),
        first_seen: 1_700_000_000_000,
        topic: "meters/m9/up".into(),
    };
    let agent_id = AgentId::of("town", "roof-1").0.to_vec();
    let post =
        || Entry::Sightings(SightingsEntry { agent_id: agent_id.clone().into(), sightings: vec![sighting.clone()] });
    let enrollments: Api<EdgeEnrollment> = world.api();
    let request = eventually("a request", || async {
        // The policy may not be seen yet: it is asked again as an agent would.
        let id = world.ledger.post(post());
        eventually("an answer", || async { world.ledger.answer(id) }).await;
        enrollments.list(&ListParams::default()).await.unwrap().items.into_iter().next()
    })
    .await;
    assert_eq!(request.spec.request.as_ref().unwrap().serial.as_deref(), Some("m9"));
    condition!(world, EdgeEnrollment, &request.name_any(), "Ready", "False");
    operator.stop().await;
}

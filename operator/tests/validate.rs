//! The pure steps from YAML that a user could apply: the example networks, and what is wrong with variations of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it cannot go on")]

use std::{fs, path::Path};

use depin_crds::{
    EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeFleet, RewardProgram,
    model::{Codec, DeviceNaming as DeviceNamingSpec, Source, TimestampField, TimestampFormat},
};
use depin_domain::{
    ids::{AgentId, DeviceId},
    model::{DeviceNaming, MetricKind},
    registry::{Change, Record, Registry},
    rewards::Program,
    time::Timestamp,
};
use depin_identity::SigningKey;
use depin_operator::{agents, devices, fleets, invalid::NotReady, models, quantities, rewards};
use kube::ResourceExt;
use serde::de::DeserializeOwned;

const NOW: Timestamp = Timestamp(1_770_000_000_000);

fn text(network: &str, file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/networks").join(network);
    fs::read_to_string(folder.join(file)).unwrap()
}

/// The objects of one file; comments and separators as a user writes them.
fn objects<K: DeserializeOwned>(text: &str) -> Vec<K> {
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// A registry with a network's models and fleets, and one agent.
fn registry(network: &str, agent: &str) -> Registry {
    let mut registry = Registry::default();
    let add = |registry: &mut Registry, change: Change| {
        registry.check(&change).unwrap();
        let version = registry.version() + 1;
        registry.apply(Record { version, at: NOW, change }).unwrap();
    };
    for model in objects::<EdgeDeviceModel>(&text(network, "models.yaml")) {
        let entry = models::validate::entry(&model, &registry, NOW).unwrap();
        add(&mut registry, Change::Model(entry));
    }
    for fleet in objects::<EdgeFleet>(&text(network, "fleets.yaml")) {
        add(&mut registry, Change::Fleet(fleets::validate::entry(&fleet).unwrap()));
    }
    let entry = agents::validate::entry(&edge_agent(network, agent), &registry).unwrap();
    add(&mut registry, Change::Agent(entry));
    registry
}

fn edge_agent(namespace: &str, name: &str) -> EdgeAgent {
    let key = quantities::resource_key(SigningKey::from_seed(&[1; 32]).public());
    let mut agent: EdgeAgent = serde_saphyr::from_str(&format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeAgent\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{fleets: [b, a, b]}}\n"
    ))
    .unwrap();
    agent.spec.public_key = Some(key);
    agent
}

fn fleet_of(network: &str, device: &EdgeDevice) -> EdgeFleet {
    let fleets = objects::<EdgeFleet>(&text(network, "fleets.yaml"));
    fleets.into_iter().find(|fleet| fleet.name_any() == device.spec.fleet).unwrap()
}

fn created(mut device: EdgeDevice, at: &str) -> EdgeDevice {
    device.metadata.creation_timestamp = Some(serde_json::from_value(at.into()).unwrap());
    device
}

#[test]
fn example_networks_are_valid_from_model_to_program() {
    for (network, agent) in [("energy", "home"), ("weather", "field")] {
        let registry = registry(network, agent);
        for device in objects::<EdgeDevice>(&text(network, "devices.yaml")) {
            let fleet = fleet_of(network, &device);
            let entry = devices::validate::entry(&created(device, "2026-02-01T00:00:00Z"), Some(&fleet)).unwrap();
            registry.check(&Change::Device(entry)).unwrap();
        }
        for program in objects::<RewardProgram>(&text(network, "program.yaml")) {
            let entry = rewards::validate::entry(&program, &registry, NOW).unwrap();
            registry.check(&Change::Program(entry.clone())).unwrap();
            let spec = serde_json::from_str(&entry.spec).unwrap();
            assert!(Program::compile(&spec).is_ok());
        }
    }
}

#[test]
fn a_models_limits_become_integers_at_its_scale() {
    let models: Vec<EdgeDeviceModel> = objects(&text("energy", "models.yaml"));
    let model = models::validate::model("smart-meter", &models[0].spec).unwrap();
    assert!(model.metrics.is_sorted_by(|a, b| a.name < b.name));
    let energy = model.metric("energy").unwrap();
    assert_eq!((energy.kind, energy.scale), (MetricKind::Counter { resets_to_zero: false }, 6));
    assert_eq!((energy.min, energy.max_rate), (Some(0), Some(12_000)));
    assert_eq!(model.sources[0].device, DeviceNaming::TopicSegment(2));
    assert_eq!((model.cadence_ms, model.reorder_horizon_ms), (1000, 0));
}

#[test]
fn a_registered_model_keeps_its_time_and_a_changed_one_gets_a_new_one() {
    let registry = registry("energy", "home");
    let later = NOW.plus(60_000);
    let mut model: EdgeDeviceModel = objects(&text("energy", "models.yaml")).remove(0);
    let same = models::validate::entry(&model, &registry, later).unwrap();
    assert!(!registry.would_change(&Change::Model(same)));
    model.spec.cadence = "500ms".into();
    let changed = models::validate::entry(&model, &registry, later).unwrap();
    assert_eq!(changed.effective_from, later);
    assert!(registry.would_change(&Change::Model(changed)));
}

#[test]
fn a_changed_model_never_holds_in_the_past_and_a_first_one_may() {
    let at = |seconds: i64| NOW.plus(seconds * 1000);
    let mut registry = Registry::default();
    let mut model: EdgeDeviceModel = objects(&text("energy", "models.yaml")).remove(0);
    let mut apply = |model: &EdgeDeviceModel, now: Timestamp| {
        let entry = models::validate::entry(model, &registry, now).unwrap();
        let change = Change::Model(entry.clone());
        let (new, version) = (registry.would_change(&change), registry.version() + 1);
        registry.check(&change).unwrap();
        registry.apply(Record { version, at: now, change }).unwrap();
        (entry.effective_from, new)
    };
    model.spec.effective_from = quantities::time(at(-500));
    assert_eq!(apply(&model, at(0)), (at(-500), true), "nothing ever decoded by another");
    assert_eq!(apply(&model, at(10)), (at(-500), false));
    model.spec.cadence = "500ms".into();
    assert_eq!(apply(&model, at(20)), (at(20), true), "a time that has passed means now");
    assert_eq!(apply(&model, at(30)), (at(20), false), "and is asked for once");
    model.spec.cadence = "1s".into();
    model.spec.effective_from = quantities::time(at(100));
    assert_eq!(apply(&model, at(40)), (at(100), true));
    assert_eq!(apply(&model, at(50)), (at(100), false));
    model.spec.effective_from = quantities::time(at(55));
    assert_eq!(apply(&model, at(60)), (at(60), true), "what is still to come may come earlier");
    assert_eq!(apply(&model, at(70)), (at(60), false));
    model.spec.cadence = "250ms".into();
    model.spec.effective_from = quantities::time(at(200));
    assert_eq!(apply(&model, at(80)), (at(200), true));
    model.spec.effective_from = None;
    assert_eq!(apply(&model, at(90)), (at(90), true), "no time any more means now");
    assert_eq!(apply(&model, at(100)), (at(90), false), "and once");
}

#[test]
fn a_model_that_no_agent_can_satisfy_is_refused_with_the_remedy() {
    for attestation in ["Device", "Hardware"] {
        let text = text("energy", "models.yaml").replacen(
            "spec:\n",
            &format!("spec:\n  minimumAttestation: {attestation}\n"),
            1,
        );
        let model: EdgeDeviceModel = objects(&text).remove(0);
        let error = models::validate::entry(&model, &Registry::default(), NOW).unwrap_err();
        assert_eq!((error.field.as_str(), error.remedy.as_str()), ("spec.minimumAttestation", "set it to Agent"));
        assert!(error.reason.contains(attestation) && error.reason.contains("AttestationTooLow"), "{error}");
    }
}

#[test]
fn a_bad_model_is_told_by_field_and_remedy() {
    let good = text("energy", "models.yaml");
    let check = |from: &str, to: &str, field: &str| {
        let model: EdgeDeviceModel = objects(&good.replacen(from, to, 1)).remove(0);
        let error = models::validate::entry(&model, &Registry::default(), NOW).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(!error.remedy.is_empty());
    };
    check("energy/meters/+/telemetry", "energy/me+ters/telemetry", "spec.sources[0].topic");
    check("energy/meters/+/telemetry", "energy/#/telemetry", "spec.sources[0].topic");
    check("{topicSegment: 2}", "{topicSegment: 4}", "spec.sources[0].device.topicSegment");
    check("max: \"43000\"", "max: \"43000.5\"", "spec.metrics[0].max");
    check("cadence: 1s", "cadence: 1 s", "spec.cadence");
    check("kind: Gauge, scale: 0", "kind: Gauge, resetsToZero: true, scale: 0", "spec.metrics[0].resetsToZero");
}

#[test]
fn what_the_registry_refuses_of_a_model_is_told_by_its_full_path() {
    let refused = |from: &str, to: &str| {
        let model: EdgeDeviceModel = objects(&text("energy", "models.yaml").replacen(from, to, 1)).remove(0);
        let entry = models::validate::entry(&model, &Registry::default(), NOW).unwrap();
        NotReady::from(Registry::default().check(&Change::Model(entry)).unwrap_err()).to_string()
    };
    let told = refused("reading.value >= previous.value", "reading.volume >= 0");
    assert!(told.starts_with("spec.checks[0].expression: CounterFell: at character"), "{told}");
    let told = refused("reason: CounterFell", "reason: counter fell");
    assert!(told.starts_with("spec.checks[0].reason: \"counter fell\" is not a CamelCase name"), "{told}");
}

#[test]
fn a_fleet_that_cannot_say_who_is_paid_or_where_is_told_by_field_and_remedy() {
    let good = text("energy", "fleets.yaml");
    let fleets = |from: &str, to: &str| objects::<EdgeFleet>(&good.replacen(from, to, 1));
    let (account, again) =
        ("0xc0ffee0000000000000000000000000000000001\", basisPoints", "0xA11ce00000000000000000000000000000000002");
    let twice = fleets(account, &format!("{again}\", basisPoints"));
    assert_eq!(fleets::validate::entry(&twice[1]).unwrap_err().field, "spec.shares[1].account");
    let short = fleets("basisPoints: 1500", "basisPoints: 1499");
    assert_eq!(fleets::validate::entry(&short[1]).unwrap_err().field, "spec.shares");
    let place =
        |cell: &str| fleets("  grain: 5s\n", &format!("  grain: 5s\n  geofence: {{cells: [{cell}]}}\n")).remove(0);
    assert!(fleets::validate::entry(&place("8928308280fffff")).is_ok());
    let error = fleets::validate::entry(&place("8928308280fffff, 8fffffffffffff0")).unwrap_err();
    assert_eq!(error.field, "spec.geofence.cells[1]", "{error}");

    // Its devices cannot mend it: they are told where it is to be mended.
    let mut device = created(objects::<EdgeDevice>(&text("energy", "devices.yaml")).remove(1), "2026-02-01T00:00:00Z");
    device.spec.owner = None;
    let told = devices::validate::entry(&device, Some(&twice[1])).unwrap_err().to_string();
    assert!(
        told.starts_with("spec.fleet: EdgeFleet inverters cannot say who is paid (spec.shares[1].account"),
        "{told}"
    );
}

#[test]
fn an_agents_fleets_and_node_that_are_no_names_are_told_as_they_were_written() {
    let registry = registry("energy", "home");
    let told = |change: &dyn Fn(&mut EdgeAgent)| {
        let mut agent = edge_agent("energy", "home");
        change(&mut agent);
        agents::validate::entry(&agent, &registry).unwrap_err().to_string()
    };
    let fleets = told(&|agent| agent.spec.fleets = vec!["z".into(), "Meters".into()]);
    assert!(fleets.starts_with("spec.fleets[1]: \"Meters\" is not a name"), "{fleets}");
    let node = told(&|agent| agent.spec.node = Some("on the roof".into()));
    assert!(node.starts_with("spec.node: "), "{node}");
    let key = told(&|agent| agent.spec.public_key.as_mut().unwrap().key = "zz".into());
    assert!(key.starts_with("spec.publicKey.key: not hexadecimal"), "{key}");
}

#[test]
fn a_model_that_no_agent_could_decode_by_is_told_by_field_and_remedy() {
    let good: EdgeDeviceModel = objects(&text("energy", "models.yaml")).remove(0);
    assert_eq!(good.spec.sources[0].fields[0].metric, "power", "the cases below rest on it");
    let named = |path: Option<&str>, constant: Option<&str>| DeviceNamingSpec {
        topic_segment: None,
        payload_path: path.map(str::to_owned),
        constant: constant.map(str::to_owned),
    };
    let by_path = |path| named(Some(path), None);
    let wrong = |change: &dyn Fn(&mut Source)| {
        let mut model = good.clone();
        change(&mut model.spec.sources[0]);
        let error = models::validate::entry(&model, &Registry::default(), NOW).unwrap_err();
        assert!(!error.reason.is_empty() && !error.remedy.is_empty());
        error.field.strip_prefix("spec.sources[0].").unwrap().to_owned()
    };
    assert_eq!(wrong(&|source| source.fields[0].unit = Some("bananas".into())), "fields[0].unit");
    assert_eq!(wrong(&|source| source.fields[0].unit = Some("Cel".into())), "fields[0].unit");
    assert_eq!(wrong(&|source| source.fields[0].path = "a..b".into()), "fields[0].path");
    assert_eq!(wrong(&|source| source.fields[0].metric = "none".into()), "fields[0].metric");
    assert_eq!(
        wrong(&|source| {
            let again = source.fields[0].clone();
            source.fields.push(again);
        })
        .split_once('.')
        .unwrap()
        .1,
        "metric"
    );
    assert_eq!(wrong(&|source| source.each = Some(".".into())), "each");
    assert_eq!(wrong(&|source| { source.device = by_path("a.") }), "device.payloadPath");
    assert_eq!(wrong(&|source| source.device = named(None, Some(" a"))), "device.constant");
    assert_eq!(
        wrong(&|source| {
            source.codec = Codec::SenmlJson;
            source.device = by_path("x");
        }),
        "device.payloadPath"
    );
    assert_eq!(wrong(&|source| source.codec = Codec::Plain), "fields");
    assert_eq!(
        wrong(&|source| {
            source.timestamp = Some(TimestampField {
                path: "at".into(),
                format: TimestampFormat::Pattern,
                pattern: Some("%H:%M".into()),
                offset_minutes: None,
            });
        }),
        "timestamp.pattern"
    );
}

#[test]
fn an_agents_key_is_its_own_the_registrys_or_waited_for() {
    let mut registry = registry("energy", "home");
    let mut agent = edge_agent("energy", "home");
    let entry = agents::validate::entry(&agent, &registry).unwrap();
    assert_eq!(entry.id, AgentId::of("energy", "home"));
    assert_eq!(entry.fleets, ["a", "b"]);
    agent.spec.public_key = None;
    assert_eq!(agents::validate::entry(&agent, &registry).unwrap().key, entry.key, "the registry remembers");
    registry = Registry::default();
    let error = agents::validate::entry(&agent, &registry).unwrap_err();
    assert!(error.is_waiting() && error.to_string().contains("kubectl depin token create"), "{error}");
}

#[test]
fn a_device_counts_from_its_first_sighting_and_never_before_its_registry_says() {
    let device: EdgeDevice = objects(&text("energy", "devices.yaml")).remove(0);
    let fleet = fleet_of("energy", &device);
    let since = |device: &EdgeDevice| devices::validate::entry(device, Some(&fleet)).unwrap().since;
    let at = |text: &str| Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
    let mut device = created(device, "2026-02-01T00:00:00Z");
    assert_eq!(since(&device), at("2026-02-01T00:00:00Z"));
    device.annotations_mut().insert("depin.dev/first-seen".into(), "2026-01-31T10:00:00.5Z".into());
    assert_eq!(since(&device), at("2026-01-31T10:00:00.5Z"));
    device.annotations_mut().insert("depin.dev/first-seen".into(), "2099-01-01T00:00:00Z".into());
    assert_eq!(since(&device), at("2026-02-01T00:00:00Z"), "nothing is first seen after its creation");
    device.annotations_mut().insert("depin.dev/first-seen".into(), "yesterday".into());
    let error = devices::validate::entry(&device, Some(&fleet)).unwrap_err();
    assert!(error.to_string().contains("depin.dev/first-seen"), "{error}");
}

#[test]
fn a_device_without_owner_belongs_to_its_fleets() {
    let mut device = created(objects::<EdgeDevice>(&text("energy", "devices.yaml")).remove(1), "2026-02-01T00:00:00Z");
    let fleet = fleet_of("energy", &device);
    let shares = |device: &EdgeDevice| devices::validate::entry(device, Some(&fleet)).unwrap().shares;
    assert_eq!(shares(&device).len(), 1);
    device.spec.owner = None;
    let parts: Vec<_> = shares(&device).iter().map(|share| share.basis_points).collect();
    assert_eq!(parts, [8500, 1500]);
    device.spec.owner = Some("0xABCDEF0000000000000000000000000000000001".into());
    assert_eq!(shares(&device)[0].account, "0xabcdef0000000000000000000000000000000001");
}

#[test]
fn a_place_becomes_integers_once_and_must_lie_in_the_geofence() {
    let device = created(objects::<EdgeDevice>(&text("weather", "devices.yaml")).remove(0), "2026-02-01T00:00:00Z");
    let mut fleet = fleet_of("weather", &device);
    let entry = devices::validate::entry(&device, Some(&fleet)).unwrap();
    assert_eq!(entry.id, DeviceId::of("weather", "ws-0001"));
    let place = entry.location.unwrap();
    assert_eq!((place.latitude_e7, place.longitude_e7, place.cells.len()), (473_769_000, 85_417_000, 16));
    let length: i128 = place.unit.iter().map(|part| i128::from(*part) * i128::from(*part)).sum();
    assert!((length - (1 << 60)).abs() < 1 << 32, "{length}");
    fleet.spec.geofence = Some(depin_crds::Geofence { cells: vec![place.cells[5].clone()] });
    assert!(devices::validate::entry(&device, Some(&fleet)).is_ok());
    let mut nowhere = device.clone();
    nowhere.spec.location = None;
    let error = devices::validate::entry(&nowhere, Some(&fleet)).unwrap_err();
    assert!(matches!(&error, NotReady::Invalid(invalid) if invalid.field == "spec.location"), "{error}");
    assert!(error.to_string().contains("missing, and fleet stations has a geofence; give"), "{error}");
    let mut elsewhere = device;
    elsewhere.spec.location.as_mut().unwrap().latitude = "-33.9".into();
    let error = devices::validate::entry(&elsewhere, Some(&fleet)).unwrap_err();
    assert!(matches!(&error, NotReady::Invalid(invalid) if invalid.field == "spec.location"), "{error}");
}

#[test]
fn a_device_waits_for_its_fleet() {
    let device: EdgeDevice = objects(&text("energy", "devices.yaml")).remove(0);
    let error = devices::validate::entry(&device, None).unwrap_err();
    assert!(error.is_waiting() && error.to_string().contains("EdgeFleet meters"), "{error}");
}

#[test]
fn a_program_starts_with_the_epoch_of_its_creation_and_changes_with_the_next() {
    let mut registry = registry("energy", "home");
    let mut program: RewardProgram = objects(&text("energy", "program.yaml")).remove(0);
    program.metadata.creation_timestamp = Some(serde_json::from_value("2026-01-01T00:00:50Z".into()).unwrap());
    let entry = rewards::validate::entry(&program, &registry, NOW).unwrap();
    assert_eq!(entry.from_epoch, 2, "20 s epochs since the genesis at midnight");
    registry
        .apply(Record { version: registry.version() + 1, at: NOW, change: Change::Program(entry.clone()) })
        .unwrap();
    let again = rewards::validate::entry(&program, &registry, NOW.plus(1_000_000)).unwrap();
    assert!(!registry.would_change(&Change::Program(again)));
    program.spec.weight = "energy".into();
    let at = Timestamp("2026-01-01T00:10:05Z".parse::<jiff::Timestamp>().unwrap().as_millisecond());
    let changed = rewards::validate::entry(&program, &registry, at).unwrap();
    assert_eq!(changed.from_epoch, 31);
}

#[test]
fn a_program_made_again_starts_now_and_keeps_its_token() {
    let mut registry = registry("energy", "home");
    let mut program: RewardProgram = objects(&text("energy", "program.yaml")).remove(0);
    let later = |seconds: i64| NOW.plus(seconds * 1000);
    program.metadata.creation_timestamp = quantities::time(later(50));
    let entry = rewards::validate::entry(&program, &registry, later(50)).unwrap();
    let first = entry.from_epoch;
    let mut apply = |at, change| {
        let version = registry.version() + 1;
        registry.apply(Record { version, at, change }).unwrap();
    };
    apply(later(50), Change::Program(entry.clone()));
    apply(later(125), Change::ProgramRemoved { id: entry.id.clone() });
    assert_eq!(registry.program(&entry.id).unwrap().removed_from(), Some(first + 4));
    // Made again at once, but seen (its fleet was missing) only much later: the epochs between passed without it.
    program.metadata.creation_timestamp = quantities::time(later(180));
    let again = rewards::validate::entry(&program, &registry, later(605)).unwrap();
    assert_eq!(again.from_epoch, first + 28);
    assert_eq!(registry.check(&Change::Program(again)), Ok(()));

    program.spec.token.decimals = 7;
    let other = rewards::validate::entry(&program, &registry, later(605)).unwrap();
    let error = NotReady::from(registry.check(&Change::Program(other)).unwrap_err());
    assert_eq!(error.reason(), "Immutable");
    assert!(error.to_string().contains("spec.token"), "{error}");
}

#[test]
fn a_metric_that_would_mean_something_else_is_told_by_field_and_remedy() {
    let mut registry = registry("energy", "home");
    let models = text("energy", "models.yaml");
    let add = |registry: &mut Registry, change: Change| {
        registry.check(&change).unwrap();
        registry.apply(Record { version: registry.version() + 1, at: NOW, change }).unwrap();
    };
    let mut coarse: EdgeDeviceModel = objects(&models).remove(0);
    let energy = coarse.spec.metrics.iter_mut().find(|metric| metric.name == "energy").unwrap();
    (energy.scale, energy.max_rate) = (3, None);
    coarse.spec.checks.clear();
    coarse.metadata.name = Some("coarse-meter".to_owned());
    let entry = models::validate::entry(&coarse, &registry, NOW).unwrap();
    add(&mut registry, Change::Model(entry));

    let mut fleet: EdgeFleet = objects(&text("energy", "fleets.yaml")).remove(0);
    fleet.spec.model_ref.name = "coarse-meter".to_owned();
    let other = fleets::validate::entry(&fleet).unwrap();
    let error = NotReady::from(registry.check(&Change::Fleet(other)).unwrap_err());
    assert_eq!(error.reason(), "Immutable");
    let told = error.to_string();
    assert!(told.starts_with("spec.modelRef.name: the scale of metric energy is 3 in model coarse-meter"), "{told}");
    assert!(told.ends_with("give metric energy another name in model coarse-meter"), "{told}");

    fleet.metadata.name = Some("coarse".to_owned());
    add(&mut registry, Change::Fleet(fleets::validate::entry(&fleet).unwrap()));
    let device: EdgeDevice = objects(&text("energy", "devices.yaml")).remove(0);
    let mut device = devices::validate::entry(&created(device.clone(), "2026-02-01T00:00:00Z"), Some(&fleet)).unwrap();
    device.fleet = "energy/meters".to_owned();
    add(&mut registry, Change::Device(device.clone()));
    device.fleet = "energy/coarse".to_owned();
    let told = NotReady::from(registry.check(&Change::Device(device)).unwrap_err()).to_string();
    assert!(told.starts_with("spec.fleet: the scale of metric energy"), "{told}");
    assert!(told.ends_with("make a device of another name"), "{told}");

    let program = text("energy", "program.yaml").replacen("[inverters, meters]", "[coarse, meters]", 1);
    let program: RewardProgram = objects(&program).remove(0);
    let told = rewards::validate::entry(&program, &registry, NOW).unwrap_err().to_string();
    assert!(told.starts_with("spec.features[0].metric: \"energy\" has scale 3 in model coarse-meter"), "{told}");
    assert!(told.ends_with("make a program for each"), "{told}");
    let suspended =
        RewardProgram { spec: depin_crds::program::RewardProgramSpec { suspend: true, ..program.spec }, ..program };
    rewards::validate::entry(&suspended, &registry, NOW).unwrap();
}

#[test]
fn a_bad_program_is_told_by_field_and_remedy() {
    let registry = registry("energy", "home");
    let good = text("energy", "program.yaml");
    let check = |from: &str, to: &str, part: &str| {
        let program: RewardProgram = objects(&good.replacen(from, to, 1)).remove(0);
        let error = rewards::validate::entry(&program, &registry, NOW).unwrap_err().to_string();
        assert!(error.contains(part), "expected {part:?}, got {error}");
    };
    check("length: 20s", "length: 18s", "spec.epoch");
    check("grace: 2s", "grace: 99999h9999999h", "spec.grace");
    check("minimum: 5000}", "minimum: 5000, maximum: 4}", "spec.gates[0].minimum");
    check("min(energy, 50000)", "energi", "spec.weight");
    check("metric: energy, aggregate: Delta", "metric: power, aggregate: Delta", "spec.features[0].aggregate");
    check("[inverters, meters]", "[inverters, absent]", "EdgeFleet energy/absent; apply it or correct spec.fleets[1]");
}

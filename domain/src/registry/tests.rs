use depin_trials::{Rng, below, one_in};

use super::*;
use crate::{
    fixtures::{HOUR, MINUTE, agent, append, counter, device, fleet, gauge, key, model, model_entry, network},
    model::{Metric, MetricKind, Model},
    time::Window,
};

fn refused(registry: &Registry, change: Change) -> String {
    registry.check(&change).unwrap_err().to_string()
}

#[test]
fn the_first_assignment_begins_at_the_first_sighting_and_later_records_do_not_move_it() {
    let mut registry = network(vec![gauge("power")]);
    let entry = DeviceEntry { since: Timestamp(500), ..device(1, 1) };
    append(&mut registry, 1_000, Change::Device(entry.clone()));
    append(&mut registry, 2_000, Change::Device(DeviceEntry { since: Timestamp(7), suspended: true, ..entry.clone() }));
    let device = registry.device(&entry.id).unwrap();
    assert_eq!(device.at(Timestamp(499)), None);
    assert!(!device.at(Timestamp(500)).unwrap().suspended);
    assert!(device.at(Timestamp(2_000)).unwrap().suspended);
    assert_eq!(device.assignments().len(), 1);
    assert_eq!(device.assignments()[0].window, Window { start: Timestamp(500), end: Timestamp::MAX });
    assert_eq!(device.for_epoch(Window { start: Timestamp(0), end: Timestamp(600) }).unwrap().since, Timestamp(500));
    assert_eq!(device.for_epoch(Window { start: Timestamp(0), end: Timestamp(500) }), None);
}

#[test]
fn a_move_to_another_agent_opens_an_assignment_and_the_old_agent_may_still_relay_its_backlog() {
    let mut registry = network(vec![gauge("power")]);
    let entry = DeviceEntry { key: Some(key(9)), ..device(1, 1) };
    append(&mut registry, 1_000, Change::Device(entry.clone()));
    append(&mut registry, 5_000, Change::Device(DeviceEntry { agent: agent(2).id, ..entry.clone() }));
    let numbers: Vec<_> =
        registry.device(&entry.id).unwrap().assignments().iter().map(|a| (a.number, a.agent)).collect();
    assert_eq!(numbers, [(0, agent(1).id), (1, agent(2).id)]);
    assert!(registry.may_relay(&agent(1).id, &key(9).id()));
    assert!(registry.may_relay(&agent(2).id, &key(9).id()));
    assert!(!registry.may_relay(&agent(1).id, &key(2).id()));
    assert_eq!(registry.devices_of(&agent(1).id).count(), 0);
    assert_eq!(registry.device_by_serial(&agent(2).id, "SN1"), Some(&entry.id));
}

#[test]
fn a_device_that_left_an_agent_is_remembered_there_with_the_end_of_its_time() {
    let mut registry = network(vec![gauge("power")]);
    let former = |registry: &Registry, number| -> Vec<_> {
        let agent = agent(number).id;
        let former = registry.former_devices_of(&agent).map(|(id, entry, end)| (*id, entry.agent, end.0));
        former.collect()
    };
    let id = device(1, 1).id;
    append(&mut registry, 1_000, Change::Device(device(1, 1)));
    append(&mut registry, 2_000, Change::Device(DeviceEntry { suspended: true, ..device(1, 1) }));
    assert_eq!(former(&registry, 1), [], "it is still there");
    append(&mut registry, 5_000, Change::Device(device(1, 2)));
    assert_eq!(former(&registry, 1), [(id, agent(1).id, 5_000)]);
    append(&mut registry, 6_000, Change::DeviceRemoved { id });
    assert_eq!(former(&registry, 2), [(id, agent(2).id, 6_000)], "gone, but what was spooled before is judged");
    append(&mut registry, 7_000, Change::Device(device(1, 1)));
    assert_eq!(former(&registry, 1), [], "it came back");
    assert_eq!(former(&registry, 2).len(), 1);
}

#[test]
fn a_device_that_comes_back_was_not_approved_while_it_was_gone() {
    let mut registry = network(vec![gauge("power")]);
    append(&mut registry, 1_000, Change::Device(device(1, 1)));
    append(&mut registry, 2_000, Change::DeviceRemoved { id: device(1, 1).id });
    append(&mut registry, 3_000, Change::Device(DeviceEntry { since: Timestamp(2_500), ..device(1, 1) }));
    let device = registry.device(&device(1, 1).id).unwrap();
    assert_eq!(device.assignment_at(Timestamp(2_499)), None);
    assert_eq!(device.assignment_at(Timestamp(2_500)).unwrap().number, 1);
    assert_eq!(device.assignment_at(Timestamp(1_999)).unwrap().number, 0);
    assert!(device.at(Timestamp(2_200)).is_none());
}

#[test]
fn a_new_key_of_an_agent_revokes_the_old_one_and_keeps_its_devices_assignments() {
    let mut registry = network(vec![gauge("power")]);
    append(&mut registry, 1_000, Change::Device(device(1, 1)));
    append(&mut registry, 2_000, Change::Agent(AgentEntry { key: key(77), ..agent(1) }));
    assert_eq!(registry.signer(&key(1).id()).unwrap().holder, Holder::Revoked(agent(1).id));
    assert_eq!(registry.agent_by_key(&key(77).id()).unwrap().id, agent(1).id);
    assert!(registry.agent_by_key(&key(1).id()).is_none());
    assert_eq!(registry.device(&device(1, 1).id).unwrap().assignments().len(), 1);
    append(&mut registry, 3_000, Change::AgentRemoved { id: agent(1).id });
    assert!(!registry.may_relay(&agent(1).id, &key(77).id()));
}

#[test]
fn a_revoked_key_stays_revoked_when_its_agent_comes_back_unless_a_person_says_otherwise() {
    let mut registry = network(vec![gauge("power")]);
    append(&mut registry, 1_000, Change::AgentRemoved { id: agent(1).id });
    assert!(refused(&registry, Change::Agent(agent(1))).contains("KeyRevoked"));
    append(&mut registry, 2_000, Change::Agent(AgentEntry { key: key(77), ..agent(1) }));
    assert!(refused(&registry, Change::Agent(agent(1))).contains("KeyRevoked"));
    assert!(!registry.may_relay(&agent(1).id, &key(1).id()));
    append(&mut registry, 3_000, Change::Agent(AgentEntry { reinstate_key: true, ..agent(1) }));
    assert!(registry.may_relay(&agent(1).id, &key(1).id()));
    assert_eq!(registry.signer(&key(77).id()).unwrap().holder, Holder::Revoked(agent(1).id));
    append(&mut registry, 4_000, Change::Agent(agent(1)));
    assert!(registry.may_relay(&agent(1).id, &key(1).id()), "the word need not be kept once it was heard");
}

#[test]
fn keys_and_serials_belong_to_one_object() {
    let mut registry = network(vec![gauge("power")]);
    append(&mut registry, 1_000, Change::Device(DeviceEntry { key: Some(key(9)), ..device(1, 1) }));
    let other = DeviceEntry { key: Some(key(9)), ..device(2, 1) };
    let text = refused(&registry, Change::Device(other.clone()));
    assert!(text.contains("DuplicateKey") && text.contains("device energy/meter-1"), "{text}");
    let text = refused(&registry, Change::Device(DeviceEntry { serial: "SN1".into(), ..device(2, 1) }));
    assert!(text.contains("SN1") && text.contains("energy/meter-1"), "{text}");
    assert_eq!(registry.check(&Change::Device(DeviceEntry { serial: "SN1".into(), ..device(2, 2) })), Ok(()));
    assert!(
        refused(&registry, Change::Device(DeviceEntry { key: Some(key(1)), ..device(2, 1) })).contains("DuplicateKey")
    );
    assert!(refused(&registry, Change::Agent(AgentEntry { key: key(9), ..agent(3) })).contains("DuplicateKey"));
    assert!(refused(&registry, Change::Agent(AgentEntry { key: key(2), ..agent(1) })).contains("agent energy/agent-2"));
    append(&mut registry, 2_000, Change::DeviceRemoved { id: device(1, 1).id });
    assert_eq!(registry.check(&Change::Device(other)), Ok(()));
}

#[test]
fn grains_and_metrics_never_change() {
    let mut registry = network(vec![gauge("power"), counter("total")]);
    let text = refused(&registry, Change::Fleet(FleetEntry { grain_ms: 2 * HOUR, ..fleet() }));
    assert!(text.contains("grainMs") && text.contains("another name"), "{text}");
    append(&mut registry, 10, Change::FleetRemoved { id: fleet().id });
    assert!(registry.check(&Change::Fleet(FleetEntry { grain_ms: 2 * HOUR, ..fleet() })).is_err());
    append(&mut registry, 20, Change::Fleet(fleet()));

    append(&mut registry, 30, Change::Model(model_entry(model(vec![gauge("power")]), 30)));
    let text = refused(&registry, Change::Model(model_entry(model(vec![gauge("power"), gauge("total")]), 40)));
    assert!(text.contains("metrics/total/kind"), "{text}");
    let mut kept = counter("total");
    kept.kind = MetricKind::Counter { resets_to_zero: false };
    let text = refused(&registry, Change::Model(model_entry(model(vec![gauge("power"), kept]), 40)));
    assert!(text.starts_with("metrics/total/resetsToZero: ") && text.contains("it is true"), "{text}");
    let mut finer = gauge("power");
    finer.scale = 4;
    assert!(refused(&registry, Change::Model(model_entry(model(vec![finer]), 40))).contains("metrics/power/scale"));

    append(&mut registry, 40, Change::Device(device(1, 1)));
    append(&mut registry, 50, Change::Fleet(FleetEntry { id: "energy/daily".into(), grain_ms: 24 * HOUR, ..fleet() }));
    append(&mut registry, 50, Change::Fleet(FleetEntry { id: "energy/other".into(), ..fleet() }));
    let text = refused(&registry, Change::Device(DeviceEntry { fleet: "energy/daily".into(), ..device(1, 1) }));
    assert!(text.contains("equal grain"), "{text}");
    assert_eq!(registry.check(&Change::Device(DeviceEntry { fleet: "energy/other".into(), ..device(1, 1) })), Ok(()));
}

/// A model of this name whose metrics have these scales.
fn scaled(name: &str, scales: &[(&str, u8)]) -> Change {
    let metrics = scales.iter().map(|(name, scale)| Metric { scale: *scale, ..counter(name) }).collect();
    Change::Model(model_entry(Model { name: name.into(), ..model(metrics) }, 0))
}

fn fleet_of(id: &str, model: &str) -> Change {
    Change::Fleet(FleetEntry { id: id.into(), model: model.into(), ..fleet() })
}

#[test]
fn another_model_of_a_fleet_keeps_what_its_metrics_mean() {
    let mut registry = network(vec![counter("energy")]);
    append(&mut registry, 10, scaled("coarse", &[("energy", 0)]));
    let text = refused(&registry, fleet_of("energy/meters", "coarse"));
    assert_eq!(
        text,
        "model: the scale of metric energy is 0 in model coarse, and fleet energy/meters has readings of it by model \
         meter: it is 3 and never changes; give metric energy another name in model coarse"
    );
    for (part, other) in [
        ("unit", Metric { unit: "W.h".into(), ..counter("energy") }),
        ("kind", gauge("energy")),
        ("resetsToZero", Metric { kind: MetricKind::Counter { resets_to_zero: false }, ..counter("energy") }),
    ] {
        let mut registry = network(vec![counter("energy")]);
        let entry = model_entry(Model { name: "other".into(), ..model(vec![other]) }, 0);
        append(&mut registry, 10, Change::Model(entry));
        let text = refused(&registry, fleet_of("energy/meters", "other"));
        assert!(text.contains(&format!("the {part} of metric energy")), "{text}");
    }
    append(&mut registry, 15, Change::FleetRemoved { id: "energy/meters".into() });
    assert_eq!(refused(&registry, fleet_of("energy/meters", "coarse")), text, "its readings outlive its removal");
    append(&mut registry, 16, Change::Fleet(fleet()));

    // The remedy helps: the version that nobody measured by binds nobody, neither now nor on the way back.
    append(&mut registry, 20, scaled("coarse", &[("energy_coarse", 0), ("power", 3)]));
    append(&mut registry, 30, fleet_of("energy/meters", "coarse"));
    append(&mut registry, 40, fleet_of("energy/meters", "meter"));
    // What the fleet measured by a model in between is kept as well, and so are metrics that its model gets later.
    append(&mut registry, 50, scaled("third", &[("power", 2)]));
    assert!(refused(&registry, fleet_of("energy/meters", "third")).contains("is 2 in model third"));
    let text = refused(&registry, scaled("meter", &[("energy", 3), ("power", 2)]));
    assert!(text.starts_with("metrics/power: the scale") && text.contains("by model coarse: it is 3"), "{text}");
    append(&mut registry, 60, scaled("meter", &[("energy", 3), ("power", 3)]));
}

#[test]
fn a_version_that_is_still_to_come_binds_nobody_and_helps_once_it_is_in_force() {
    let from = |change: Change, at: i64| match change {
        Change::Model(entry) => Change::Model(ModelEntry { effective_from: Timestamp(at), ..entry }),
        other => other,
    };
    let mut registry = network(vec![counter("energy")]);
    append(&mut registry, 10, from(scaled("meter", &[("energy", 3), ("power", 3)]), 1_000));
    append(&mut registry, 20, scaled("other", &[("energy", 3), ("power", 2)]));
    assert_eq!(registry.check(&fleet_of("energy/meters", "other")), Ok(()), "nobody has measured power yet");

    append(&mut registry, 30, scaled("coarse", &[("energy", 0)]));
    append(&mut registry, 40, from(scaled("coarse", &[("energy_coarse", 0)]), 45));
    assert!(refused(&registry, fleet_of("energy/meters", "coarse")).contains("is 0 in model coarse"));
    registry.advance(Timestamp(45));
    assert_eq!(registry.check(&fleet_of("energy/meters", "coarse")), Ok(()), "time passes without a record too");
}

#[test]
fn another_fleet_of_a_device_keeps_what_its_metrics_mean() {
    let mut registry = network(vec![counter("energy")]);
    append(&mut registry, 10, scaled("coarse", &[("energy", 0)]));
    append(&mut registry, 10, scaled("other", &[("power", 3)]));
    for (id, model) in [("energy/coarse", "coarse"), ("energy/other", "other"), ("energy/twin", "meter")] {
        append(&mut registry, 20, fleet_of(id, model));
    }
    let in_fleet = |fleet: &str| Change::Device(DeviceEntry { fleet: fleet.into(), ..device(1, 1) });
    append(&mut registry, 30, in_fleet("energy/meters"));
    let text = refused(&registry, in_fleet("energy/coarse"));
    assert_eq!(
        text,
        "fleet: the scale of metric energy is 0 in model coarse, and the device has readings of it by model meter: it is \
         3 and never changes; move it to a fleet where the metric is the same, or make a device of another name"
    );
    append(&mut registry, 40, in_fleet("energy/twin"));
    // A fleet without the metric in between changes nothing, nor does a removal: an epoch adds up all assignments.
    append(&mut registry, 50, in_fleet("energy/other"));
    assert!(refused(&registry, in_fleet("energy/coarse")).starts_with("fleet:"));
    let gone = Change::DeviceRemoved { id: device(1, 1).id };
    let mut without = registry.clone();
    append(&mut without, 55, gone);
    assert!(refused(&without, in_fleet("energy/coarse")).starts_with("fleet:"));
    let renamed = DeviceEntry {
        id: DeviceId::of("energy", "meter-9"),
        name: "meter-9".into(),
        fleet: "energy/coarse".into(),
        ..device(1, 1)
    };
    append(&mut without, 60, Change::Device(renamed));

    // Its fleet may not give the metric another meaning afterwards, by another model or by the next version of its own.
    let text = refused(&registry, fleet_of("energy/other", "coarse"));
    assert!(
        text.starts_with("model:") && text.contains("device energy/meter-1 has readings of it by model meter"),
        "{text}"
    );
    let text = refused(&registry, scaled("other", &[("energy", 0), ("power", 3)]));
    assert!(text.starts_with("metrics/energy:") && text.contains("device energy/meter-1"), "{text}");
    append(&mut registry, 65, Change::FleetRemoved { id: "energy/other".into() });
    assert_eq!(refused(&registry, scaled("other", &[("energy", 0), ("power", 3)])), text, "it is judged by it still");
    append(&mut registry, 66, fleet_of("energy/other", "other"));
    append(&mut registry, 70, scaled("other", &[("energy", 3), ("power", 3)]));
    append(&mut registry, 80, in_fleet("energy/meters"));
    append(&mut registry, 90, fleet_of("energy/other", "meter"));
}

#[test]
fn a_cadence_divides_the_grain_into_a_bounded_number_of_slots() {
    let registry = network(vec![gauge("power")]);
    let mut odd = model(vec![gauge("power")]);
    odd.cadence_ms = 7 * MINUTE;
    assert!(refused(&registry, Change::Model(model_entry(odd, 0))).contains("does not divide"));
    let mut dense = model(vec![gauge("power")]);
    dense.cadence_ms = 1;
    assert!(refused(&registry, Change::Model(model_entry(dense, 0))).contains("more than 86400"));
    let long = FleetEntry { id: "energy/long".into(), grain_ms: 100 * 24 * HOUR, ..fleet() };
    assert!(refused(&registry, Change::Fleet(long)).contains("more than 86400"));
    let lost = FleetEntry { model: "absent".into(), ..fleet() };
    assert!(refused(&registry, Change::Fleet(lost)).contains("EdgeDeviceModel absent"));
}

#[test]
fn the_newest_record_whose_time_has_come_is_the_model_in_force() {
    let mut registry = network(vec![gauge("power")]);
    let second = model_entry(model(vec![gauge("current"), gauge("power")]), 100);
    let third = model_entry(model(vec![gauge("power"), gauge("voltage")]), 50);
    append(&mut registry, 10, Change::Model(second.clone()));
    let chain = registry.model_chain("meter").unwrap();
    assert_eq!(chain.at(Timestamp(99)), chain.entries().first());
    assert_eq!(chain.at(Timestamp(100)).unwrap().digest, second.digest);
    assert_eq!(chain.at(Timestamp(-5)), chain.entries().first());
    append(&mut registry, 20, Change::Model(third.clone()));
    let chain = registry.model_chain("meter").unwrap();
    assert_eq!(chain.at(Timestamp(100)).unwrap().digest, third.digest);
    assert_eq!(chain.successor(&second.digest).unwrap().digest, third.digest);
    assert!(registry.model(&second.digest).is_some());
}

#[test]
fn a_model_that_follows_another_holds_from_its_record_on_at_the_earliest() {
    let mut registry = network(vec![gauge("power")]);
    let second = model_entry(model(vec![gauge("current"), gauge("power")]), 3);
    append(&mut registry, 1_000, Change::Model(second.clone()));
    let chain = registry.model_chain("meter").unwrap();
    assert_eq!(chain.at(Timestamp(999)), chain.entries().first());
    assert_eq!(chain.at(Timestamp(1_000)).unwrap().digest, second.digest);
    assert_eq!(registry.model(&second.digest).unwrap().effective_from, Timestamp(1_000));
    for passed in [3, 7, 1_000] {
        let again = ModelEntry { effective_from: Timestamp(passed), ..second.clone() };
        assert!(!registry.would_change(&Change::Model(again)), "{passed}: it holds, and cannot begin anew");
    }
    let later = ModelEntry { effective_from: Timestamp(5_000), ..second };
    assert!(registry.would_change(&Change::Model(later)));
}

#[test]
fn a_program_changes_at_the_boundary_that_its_record_names() {
    let mut registry = Registry::default();
    let program = |spec: &str, from_epoch| {
        let entry = ProgramEntry {
            id: "energy/feed-in".into(),
            digest: Digest::of(spec.as_bytes()),
            spec: spec.into(),
            from_epoch,
        };
        Change::Program(entry)
    };
    append(&mut registry, 1, program("{}", 1));
    append(&mut registry, 2, program("{\"a\":1}", 4));
    append(&mut registry, 3, program("{\"a\":2}", 4));
    let kept = registry.program("energy/feed-in").unwrap();
    assert_eq!(kept.ruling(0), None);
    assert_eq!(kept.ruling(3).unwrap().spec, "{}");
    assert_eq!(kept.ruling(4).unwrap().spec, "{\"a\":2}");
    assert!(refused(&registry, program("{}", 3)).contains("fromEpoch"));
}

fn paying(symbol: &str, genesis: i64, chain: Option<&str>, from_epoch: u64) -> ProgramEntry {
    let mut spec = crate::rewards::fixtures::spec();
    spec.token.symbol = symbol.into();
    spec.epoch.genesis = Timestamp(genesis);
    spec.chain = chain.map(str::to_owned);
    let text = String::from_utf8(spec.canonical().unwrap()).unwrap();
    ProgramEntry { id: "energy/watt".into(), digest: Digest::of(text.as_bytes()), spec: text, from_epoch }
}

#[test]
fn a_program_that_was_away_paid_nothing_meanwhile() {
    let mut registry = Registry::default();
    let entry = paying("WATT", 0, None, 0);
    append(&mut registry, 1, Change::Program(entry.clone()));
    // Epochs of ten seconds: it goes in epoch 3 and comes back in epoch 7.
    append(&mut registry, 35_000, Change::ProgramRemoved { id: entry.id.clone() });
    let gone = registry.program(&entry.id).unwrap();
    assert!(gone.is_removed());
    assert_eq!(gone.removed_from(), Some(3));
    append(&mut registry, 72_000, Change::Program(ProgramEntry { from_epoch: 7, ..entry.clone() }));
    let back = registry.program(&entry.id).unwrap();
    assert_eq!((back.is_removed(), back.removed_from()), (false, None));
    let ruling = |number| -> crate::rewards::ProgramSpec {
        let entry = back.ruling(number).unwrap();
        let spec: crate::rewards::ProgramSpec = serde_json::from_str(&entry.spec).unwrap();
        assert_eq!(spec.digest().unwrap(), entry.digest);
        spec
    };
    let suspended: Vec<bool> = (0..9).map(|number| ruling(number).suspend).collect();
    assert_eq!(suspended, [false, false, false, true, true, true, true, false, false]);
    assert_eq!(ruling(8), crate::rewards::fixtures::spec());

    // A pending change does not outlive the removal; one that comes back within its epoch loses nothing.
    append(&mut registry, 80_000, Change::Program(ProgramEntry { from_epoch: 9, ..entry.clone() }));
    append(&mut registry, 81_000, Change::ProgramRemoved { id: entry.id.clone() });
    let suspended = |registry: &Registry, number| {
        registry.program("energy/watt").unwrap().ruling(number).unwrap().spec.contains("\"suspend\":true")
    };
    assert!(suspended(&registry, 8) && suspended(&registry, 9));
    append(&mut registry, 82_000, Change::Program(ProgramEntry { from_epoch: 8, ..entry }));
    assert!(!suspended(&registry, 8) && !suspended(&registry, 9));
}

#[test]
fn token_grid_and_chain_of_a_program_never_change_even_if_it_was_removed() {
    let mut registry = Registry::default();
    append(&mut registry, 1, Change::Program(paying("WATT", 0, None, 0)));
    assert_eq!(registry.check(&Change::Program(paying("WATT", 0, Some("base"), 1))), Ok(()), "set once");
    append(&mut registry, 2, Change::Program(paying("WATT", 0, Some("base"), 1)));
    for removed in [false, true] {
        if removed {
            append(&mut registry, 20_000, Change::ProgramRemoved { id: "energy/watt".into() });
        }
        let text = refused(&registry, Change::Program(paying("WETT", 0, Some("base"), 5)));
        assert!(text.starts_with("token:") && text.contains("WATT") && text.contains("another name"), "{text}");
        let text = refused(&registry, Change::Program(paying("WATT", 10_000, Some("base"), 5)));
        assert!(text.starts_with("epoch:"), "{text}");
        for chain in [None, Some("other")] {
            let text = refused(&registry, Change::Program(paying("WATT", 0, chain, 5)));
            assert!(text.starts_with("chain:"), "{text}");
        }
        assert_eq!(registry.check(&Change::Program(paying("WATT", 0, Some("base"), 5))), Ok(()));
    }
}

#[test]
fn bad_values_are_told_with_field_and_remedy() {
    let registry = network(vec![gauge("power")]);
    let share = |account: &str, basis_points| OwnerShare { account: account.into(), basis_points };
    let of = |change: DeviceEntry| refused(&registry, Change::Device(change));
    assert!(of(DeviceEntry { id: DeviceId([1; 16]), ..device(1, 1) }).starts_with("id:"));
    assert!(of(DeviceEntry { serial: "\u{7}".into(), ..device(1, 1) }).starts_with("serial:"));
    assert!(of(DeviceEntry { hardware_key: true, ..device(1, 1) }).starts_with("hardwareKey:"));
    assert!(of(DeviceEntry { shares: vec![share("0xAB", 10_000)], ..device(1, 1) }).starts_with("shares/0/account:"));
    let account = format!("0x{}", "ab".repeat(20));
    assert!(of(DeviceEntry { shares: vec![share(&account, 9_999)], ..device(1, 1) }).contains("sum to 9999"));
    assert!(of(DeviceEntry { agent: agent(3).id, ..device(1, 1) }).contains("not in the registry"));
    let place = Location { latitude_e7: i64::MIN, longitude_e7: 0, cells: Vec::new(), unit: [0; 3] };
    assert!(of(DeviceEntry { location: Some(place), ..device(1, 1) }).starts_with("location:"));
    assert!(
        refused(&registry, Change::Agent(AgentEntry { key: PublicKey { bytes: vec![1], ..key(1) }, ..agent(3) }))
            .starts_with("key:")
    );
    assert!(refused(&registry, Change::Fleet(FleetEntry { id: "Energy".into(), ..fleet() })).starts_with("id:"));
}

#[test]
fn records_are_applied_in_turn() {
    let mut registry = Registry::default();
    let change = Change::AgentRemoved { id: agent(1).id };
    let gap = registry.apply(Record { version: 2, at: Timestamp(1), change: change.clone() });
    assert_eq!(gap, Err(OutOfTurn { version: 2, expected: 1 }));
    assert_eq!(registry.apply(Record { version: 1, at: Timestamp(1), change }), Ok(()));
    assert_eq!(registry.version(), 1);
}

fn any_change(rng: &mut Rng) -> Change {
    let relay = 1 + below(rng, 3) as u8;
    let number = below(rng, 6) as u32;
    match below(rng, 10) {
        0 => Change::Agent(AgentEntry { key: key(1 + below(rng, 6) as u8), ..agent(relay) }),
        1 => Change::AgentRemoved { id: agent(relay).id },
        2 => Change::DeviceRemoved { id: device(number, 1).id },
        3 => Change::Fleet(FleetEntry { id: format!("energy/fleet-{number}"), ..fleet() }),
        4 => Change::FleetRemoved { id: format!("energy/fleet-{number}") },
        _ => Change::Device(DeviceEntry {
            key: one_in(rng, 2).then(|| key(10 + below(rng, 4) as u8)),
            suspended: one_in(rng, 4),
            serial: format!("SN{}", below(rng, 8)),
            since: Timestamp(below(rng, 400) as i64),
            ..device(number, relay)
        }),
    }
}

/// Everything that can be asked of the registry, as text; without the version.
fn facts(registry: &Registry) -> String {
    let devices: Vec<_> = registry.devices().map(|(id, device)| (id, device.assignments(), device.states())).collect();
    let agents: Vec<_> = registry.agents().collect();
    let relayed: Vec<Vec<_>> = agents.iter().map(|agent| registry.devices_of(&agent.id).collect()).collect();
    format!("{devices:?} {agents:?} {relayed:?} {:?} {:?}", registry.fleets, registry.keys.iter().collect::<Vec<_>>())
}

#[test]
fn trial_the_fold_is_idempotent_its_snapshots_stand_still_and_assignments_are_disjoint() {
    depin_trials::run("registry-fold", |rng| {
        let mut registry = network(vec![gauge("power")]);
        let mut held = Vec::new();
        for step in 0..60 {
            let change = any_change(rng);
            if registry.check(&change).is_err() {
                continue;
            }
            let before = facts(&registry);
            let says_new = registry.would_change(&change);
            if one_in(rng, 5) {
                held.push((registry.clone(), before.clone()));
            }
            append(&mut registry, step * 10, change.clone());
            assert_eq!(before != facts(&registry), says_new, "{change:?}");
            assert!(!registry.would_change(&change), "{change:?}");
            let once = facts(&registry);
            append(&mut registry, step * 10 + 5, change);
            assert_eq!(once, facts(&registry));
        }
        for (snapshot, then) in held {
            assert_eq!(facts(&snapshot), then);
        }
        for (_, device) in registry.devices() {
            for (number, assignment) in device.assignments().iter().enumerate() {
                assert_eq!(assignment.number as usize, number);
                assert!(!assignment.window.is_empty());
            }
            assert!(device.assignments().windows(2).all(|pair| pair[0].window.end <= pair[1].window.start));
            for at in (-10..620).map(Timestamp) {
                assert_eq!(device.at(at).is_some(), device.assignment_at(at).is_some(), "at {at:?}");
            }
        }
    });
}

#[test]
fn what_fuzzing_starts_from_are_changes_of_every_kind_of_object() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/registry");
    let mut registry = Registry::default();
    for name in ["model", "fleet", "agent", "device", "program", "invitation", "removed"] {
        let text = std::fs::read(format!("{folder}/{name}")).unwrap();
        let change: Change = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name != "device" {
            append(&mut registry, 0, change);
            continue;
        }
        // It has its agent's key, so that the fuzzer is led to that rule.
        assert!(refused(&registry, change).contains("DuplicateKey"));
    }
}

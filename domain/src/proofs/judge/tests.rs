//! Every reason by example.

use super::*;
use crate::{
    fixtures::{
        HOUR, MINUTE, agent, append, check, counter, device, fleet, gauge, key, model, model_entry, network, network_of,
    },
    ids::KeyId,
    model::CheckScope,
    registry::{Change, FleetEntry},
    time::Window,
};

type Kept = HashMap<DeviceId, DeviceStatistics>;

/// A network with device 1 of agent 1, and what judging needs beside it.
pub(super) struct Scene {
    pub(super) registry: Registry,
    pub(super) models: Models,
    pub(super) confirmed: BTreeMap<Digest, Timestamp>,
    pub(super) late: BTreeMap<String, Timestamp>,
    pub(super) accounts: Kept,
    pub(super) digest: Digest,
    pub(super) received_at: Timestamp,
}

pub(super) fn scene(registry: Registry) -> Scene {
    let digest = registry.model_chain("meter").unwrap().newest().unwrap().digest;
    let models = Models::of(&registry);
    let (confirmed, late, accounts) = Default::default();
    Scene { registry, models, confirmed, late, accounts, digest, received_at: Timestamp::MAX }
}

fn meters() -> Registry {
    let mut limited = gauge("power");
    (limited.min, limited.max, limited.max_rate) = (Some(-100), Some(100), Some(10));
    let mut registry = network(vec![limited, counter("total")]);
    append(&mut registry, 0, Change::Device(device(1, 1)));
    registry
}

pub(super) fn header(signer: u8, sealed_at: i64) -> Header {
    Header {
        key: key(signer).id(),
        incarnation: 1,
        sequence: 1,
        previous: Digest::default(),
        registry_incarnation: 1,
        registry_version: 1,
        sealed_at: Timestamp(sealed_at),
        window: Window::default(),
        drops: Vec::new(),
        sections: 0,
        body: Digest::default(),
    }
}

pub(super) fn readings(pairs: &[(i64, i64)]) -> Vec<Reading> {
    pairs.iter().map(|(at, value)| Reading { at: Timestamp(*at), value: *value }).collect()
}

impl Scene {
    pub(super) fn context(&self, relay: u8) -> Context<'_> {
        Context {
            registry: &self.registry,
            models: &self.models,
            agent: agent(relay).id,
            confirmed: &self.confirmed,
            late_boundaries: &self.late,
            received_at: self.received_at,
            max_skew_ms: 1_000,
        }
    }

    pub(super) fn section(&self, series: &[(&str, &[(i64, i64)])]) -> Section {
        let series =
            series.iter().map(|(metric, pairs)| Series { metric: (*metric).into(), readings: readings(pairs) });
        Section {
            device: device(1, 1).id,
            model: self.digest,
            attestation: Attestation::Agent,
            series: series.collect(),
        }
    }

    pub(super) fn judge(&self, signer: u8, sections: &[Section]) -> Verdict {
        judge(&self.context(signer), &header(signer, 10 * HOUR), sections, &self.accounts)
    }

    /// Judges and enters.
    pub(super) fn take(&mut self, sections: &[Section]) -> Verdict {
        let verdict = self.judge(1, sections);
        apply(&self.registry, sections, &verdict, &mut self.accounts).unwrap();
        verdict
    }

    fn reasons(&self, signer: u8, section: Section) -> Vec<(Option<u32>, Vec<u32>, Reason, String)> {
        let verdict = self.judge(signer, &[section]);
        verdict.rejections.into_iter().map(|found| (found.series, found.readings, found.reason, found.detail)).collect()
    }

    /// The reason for which the section is rejected as a whole.
    fn whole(&self, signer: u8, section: Section) -> Reason {
        match self.reasons(signer, section).as_slice() {
            [(None, readings, reason, _)] if readings.is_empty() => *reason,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn good_readings_count_beside_bad_ones() {
    let mut scene = scene(meters());
    let late = 10 * HOUR + 1_001;
    let section = scene.section(&[
        ("power", &[(1_000, 5), (2_000, 101), (3_000, -101), (4_000, 7), (5_000, 99), (late, 7)]),
        ("total", &[(1_000, 5), (2_000, 900)]),
        ("unheard", &[(1, 1)]),
    ]);
    let found = scene.reasons(1, section.clone());
    assert_eq!(
        found,
        [
            (Some(0), vec![1, 2], Reason::OutOfRange, String::new()),
            (Some(0), vec![4], Reason::RateExceeded, String::new()),
            (Some(0), vec![5], Reason::InFuture, String::new()),
            (Some(2), vec![], Reason::UnknownMetric, "unheard".to_owned()),
        ]
    );
    let verdict = scene.take(&[section]);
    assert_eq!(verdict.accepted, 4);
    let kept = scene.accounts[&device(1, 1).id].assignment(0).unwrap();
    assert_eq!(kept.metric("power").unwrap().mark, Reading { at: Timestamp(4_000), value: 7 });
    assert_eq!(kept.metric("total").unwrap().grains[0].increase, 895);
}

#[test]
fn who_is_not_known_or_not_assigned_does_not_count() {
    let mut scene = scene(meters());
    let one = scene.section(&[("power", &[(1_000, 5)])]);
    let stranger = Section { device: device(9, 1).id, ..one.clone() };
    assert_eq!(scene.whole(1, stranger), Reason::NotApproved);
    assert_eq!(scene.whole(2, one.clone()), Reason::NotYours);
    assert_eq!(scene.whole(1, Section { model: Digest([1; 32]), ..one.clone() }), Reason::UnknownModel);
    assert_eq!(scene.whole(1, Section { attestation: Attestation::Device, ..one.clone() }), Reason::AttestationTooLow);
    append(&mut scene.registry, 2_000, Change::Device(DeviceEntry { suspended: true, ..device(1, 1) }));
    append(&mut scene.registry, 3_000, Change::DeviceRemoved { id: device(1, 1).id });
    let across = scene.section(&[("power", &[(-1, 5), (0, 5), (1_999, 5), (2_000, 5), (2_999, 5), (3_000, 5)])]);
    assert_eq!(
        scene.reasons(1, across),
        [
            (Some(0), vec![0, 5], Reason::NotApproved, String::new()),
            (Some(0), vec![3, 4], Reason::Suspended, String::new()),
        ]
    );
}

#[test]
fn a_moved_device_counts_at_each_agent_for_its_own_time() {
    let mut scene = scene(meters());
    append(&mut scene.registry, 5_000, Change::Device(DeviceEntry { agent: agent(2).id, ..device(1, 1) }));
    let section = scene.section(&[("total", &[(4_000, 10), (4_999, 11), (5_000, 12), (6_000, 13)])]);
    assert_eq!(scene.reasons(1, section.clone()), [(Some(0), vec![2, 3], Reason::NotYours, String::new())]);
    assert_eq!(scene.reasons(2, section), [(Some(0), vec![0, 1], Reason::NotYours, String::new())]);
}

#[test]
fn a_device_with_a_key_of_its_own_speaks_by_it_alone() {
    let mut registry = meters();
    let entry = DeviceEntry { key: Some(key(9)), ..device(1, 1) };
    append(&mut registry, 1_000, Change::Device(entry.clone()));
    append(&mut registry, 2_000, Change::Device(DeviceEntry { hardware_key: true, key: Some(key(8)), ..entry }));
    let scene = scene(registry);
    let of = |signer: u8, attestation| {
        let section = Section { attestation, ..scene.section(&[("total", &[(500, 1), (1_500, 2), (2_500, 3)])]) };
        judge(&scene.context(1), &header(signer, HOUR), &[section], &scene.accounts)
    };
    let lost = |verdict: Verdict| {
        verdict.rejections.iter().map(|found| (found.reason, found.readings.clone())).collect::<Vec<_>>()
    };
    assert_eq!(lost(of(1, Attestation::Agent)), [(Reason::NotYours, vec![1, 2])]);
    assert_eq!(lost(of(9, Attestation::Device)), [(Reason::NotYours, vec![0, 2])]);
    assert_eq!(lost(of(9, Attestation::Hardware)), [(Reason::AttestationTooLow, vec![])]);
    assert_eq!(lost(of(8, Attestation::Hardware)), [(Reason::NotYours, vec![0, 1])]);
    let stranger = Header { key: KeyId([3; 32]), ..header(1, HOUR) };
    let section = scene.section(&[("total", &[(1_500, 2)])]);
    assert_eq!(lost(judge(&scene.context(1), &stranger, &[section], &scene.accounts)), [(Reason::NotYours, vec![])]);
}

#[test]
fn a_model_may_ask_for_a_stronger_attestation() {
    let mut strict = model(vec![gauge("power")]);
    strict.minimum_attestation = Attestation::Device;
    let mut registry = network_of(strict);
    append(&mut registry, 0, Change::Device(device(1, 1)));
    let scene = scene(registry);
    assert_eq!(scene.whole(1, scene.section(&[("power", &[(1, 1)])])), Reason::AttestationTooLow);
}

#[test]
fn a_model_is_admissible_until_its_agent_confirmed_the_successor() {
    let mut scene = scene(meters());
    let next = model_entry(model(vec![counter("total"), gauge("voltage")]), 5_000);
    append(&mut scene.registry, 1_000, Change::Model(next.clone()));
    scene.models.update(&scene.registry);
    let old = scene.section(&[("total", &[(4_000, 1), (5_000, 2), (6_000, 3), (7_000, 4)])]);
    assert_eq!(scene.judge(1, std::slice::from_ref(&old)).accepted, 4);
    scene.confirmed.insert(next.digest, Timestamp(6_000));
    let expected = [(Some(0), vec![2, 3], Reason::ModelNotInForce, String::new())];
    assert_eq!(scene.reasons(1, old), expected);
    scene.digest = next.digest;
    let new = scene.section(&[("total", &[(4_999, 1), (5_000, 2)]), ("voltage", &[(9_000, 2)])]);
    assert_eq!(scene.reasons(1, new), [(Some(0), vec![0], Reason::ModelNotInForce, String::new())]);
}

#[test]
fn a_section_names_the_model_of_the_devices_fleet() {
    let mut scene = scene(meters());
    let mut other = model(vec![gauge("power")]);
    other.name = "station".into();
    append(&mut scene.registry, 0, Change::Model(model_entry(other.clone(), 0)));
    scene.models.update(&scene.registry);
    let section = Section { model: other.digest().unwrap(), ..scene.section(&[("power", &[(1_000, 1)])]) };
    assert_eq!(scene.whole(1, section.clone()), Reason::WrongModel);
    let stations = FleetEntry { id: "energy/stations".into(), model: "station".into(), ..fleet() };
    append(&mut scene.registry, 500, Change::Fleet(stations));
    append(&mut scene.registry, 900, Change::Device(DeviceEntry { fleet: "energy/stations".into(), ..device(1, 1) }));
    assert_eq!(scene.judge(1, &[section]).accepted, 1);
}

#[test]
fn what_was_settled_for_good_stays_settled() {
    let mut scene = scene(meters());
    scene.late.insert(fleet().id, Timestamp(HOUR));
    let section = scene.section(&[("power", &[(HOUR - 1, 1), (HOUR, 1)])]);
    assert_eq!(scene.reasons(1, section), [(Some(0), vec![0], Reason::LateBeyondUntil, String::new())]);
}

#[test]
fn below_the_mark_a_gauge_fills_empty_slots_and_a_counter_nothing() {
    let mut scene = scene(meters());
    let m = MINUTE;
    scene.take(&[scene.section(&[("power", &[(2 * m, 1), (10 * m, 1)]), ("total", &[(2 * m, 1), (10 * m, 5)])])]);
    let late = scene.section(&[
        ("power", &[(2 * m, 1), (2 * m + 5, 90), (3 * m, 90), (3 * m + 9, 91), (4 * m, -90), (10 * m, 1), (11 * m, 2)]),
        ("total", &[(2 * m, 1), (3 * m, 2), (10 * m, 5), (11 * m, 6)]),
    ]);
    assert_eq!(
        scene.reasons(1, late.clone()),
        [
            (Some(0), vec![0, 5], Reason::Duplicate, String::new()),
            (Some(0), vec![1, 3], Reason::SlotTaken, String::new()),
            (Some(1), vec![0, 1], Reason::OutOfOrder, String::new()),
            (Some(1), vec![2], Reason::Duplicate, String::new()),
        ]
    );
    assert_eq!(scene.take(&[late]).accepted, 4);
    let kept = scene.accounts[&device(1, 1).id].assignment(0).unwrap();
    let power = kept.metric("power").unwrap();
    assert_eq!(power.mark, Reading { at: Timestamp(11 * m), value: 2 });
    assert_eq!((power.grains[0].count, power.grains[0].slots.count()), (5, 5));
    assert_eq!(kept.metric("total").unwrap().grains[0].increase, 5);
}

#[test]
fn a_second_section_of_a_device_sees_what_the_first_one_left() {
    let mut scene = scene(meters());
    let section = scene.section(&[("total", &[(1_000, 5), (2_000, 6)])]);
    let verdict = scene.take(&[section.clone(), section]);
    assert_eq!(verdict.accepted, 2);
    let found: Vec<_> =
        verdict.rejections.iter().map(|found| (found.section, found.reason, found.readings.as_slice())).collect();
    assert_eq!(found, [(1, Reason::OutOfOrder, &[0][..]), (1, Reason::Duplicate, &[1][..])]);
}

#[test]
fn checks_see_reading_previous_device_and_section() {
    let mut rules = model(vec![gauge("power"), counter("total")]);
    rules.checks = vec![
        check(
            "Jump",
            CheckScope::Reading,
            "reading.metric != 'power' || previous == null || reading.value - previous.value < 10",
        ),
        check("Unlucky", CheckScope::Reading, "reading.value != 13 && device.serial != 'SN2'"),
        check("Divides", CheckScope::Reading, "100 / (reading.value - 50) != 0 || true"),
        check("Fails", CheckScope::Reading, "100 / (reading.value - 50) != 1000"),
        check("Calm", CheckScope::Section, "!has(section.power) || section.power.max - section.power.min < 100"),
    ];
    let mut registry = network_of(rules);
    append(&mut registry, 0, Change::Device(device(1, 1)));
    let mut scene = scene(registry);
    let section = scene.section(&[("power", &[(1, 1), (2, 12), (3, 10), (4, 13)]), ("total", &[(1, 50), (2, 90)])]);
    assert_eq!(
        scene.reasons(1, section.clone()),
        [
            (Some(0), vec![1], Reason::CheckFailed, "Jump".to_owned()),
            (Some(0), vec![3], Reason::CheckFailed, "Unlucky".to_owned()),
            (Some(1), vec![0], Reason::CheckError, "Fails".to_owned()),
        ]
    );
    scene.take(&[section]);
    let wild = scene.section(&[("power", &[(5, -90), (6, -85), (7, 15)]), ("total", &[(5, 13)])]);
    assert_eq!(scene.judge(1, &[wild]).accepted, 2);
    let wild = scene.section(&[("power", &[(5, -90), (6, -85)]), ("total", &[(5, 91)])]);
    assert_eq!(scene.judge(1, &[wild]).accepted, 3);
    let calm = scene.section(&[("power", &[(5, 15), (6, -85)]), ("total", &[(5, 13)])]);
    assert_eq!(scene.judge(1, std::slice::from_ref(&calm)).accepted, 0);
    let before = scene.accounts.clone();
    let verdict = scene.take(&[calm]);
    assert_eq!(verdict.rejections.len(), 1);
    assert_eq!((verdict.rejections[0].series, verdict.rejections[0].detail.as_str()), (None, "Calm"));
    assert_eq!(scene.accounts, before);
}

#[test]
fn a_bad_check_is_refused_before_it_is_used() {
    let registry = network(vec![gauge("power")]);
    let refused = |reason: &str, scope, expression: &str| {
        let mut bad = model(vec![gauge("power")]);
        bad.checks = vec![check(reason, scope, expression)];
        registry.check(&Change::Model(model_entry(bad, 0))).unwrap_err().to_string()
    };
    assert!(
        refused("Bad", CheckScope::Reading, "reading.volume > 1").contains("checks/0/expression: Bad: at character 0")
    );
    assert!(refused("Bad", CheckScope::Section, "section.total.max > 1").contains("section.total.max"));
    assert!(refused("bad name", CheckScope::Reading, "true").contains("CamelCase"));
}

#[test]
fn a_rate_counts_seconds_and_no_reset() {
    let scene = scene(meters());
    let at = |pairs: &[(i64, i64)]| scene.judge(1, &[scene.section(&[("power", pairs)])]).accepted;
    assert_eq!(at(&[(0, 0), (1_000, 10)]), 2);
    assert_eq!(at(&[(0, 0), (999, 10)]), 1);
    assert_eq!(at(&[(0, 0), (1_000, -11)]), 1);
    let reading = |at, value| Reading { at: Timestamp(at), value };
    assert!(!exceeds(1, MetricKind::Counter { resets_to_zero: false }, reading(0, 900), reading(1, 0)));
    assert!(exceeds(i64::MAX, MetricKind::Gauge, reading(0, i64::MIN), reading(1, i64::MAX)));
}

#[test]
fn a_seal_dated_ahead_does_not_bring_readings_of_the_future() {
    let mut scene = scene(meters());
    scene.received_at = Timestamp(HOUR);
    let section = scene.section(&[("power", &[(HOUR + 1_000, 1), (HOUR + 1_001, 1)])]);
    assert_eq!(scene.reasons(1, section), [(Some(0), vec![1], Reason::InFuture, String::new())]);
}

#[test]
fn a_verdict_that_does_not_fit_is_told() {
    let mut scene = scene(meters());
    let section = scene.section(&[("power", &[(1_000, 5)])]);
    let verdict = Verdict { accepted: 2, rejections: Vec::new() };
    let error = apply(&scene.registry, std::slice::from_ref(&section), &verdict, &mut scene.accounts).unwrap_err();
    assert_eq!(error, ApplyError::Count { recorded: 2, left: 1 });
    let stranger = Section { device: device(9, 1).id, ..section };
    let error = apply(&scene.registry, &[stranger], &verdict, &mut scene.accounts).unwrap_err();
    assert_eq!(error, ApplyError::NoPlace { section: 0, at: Timestamp(1_000) });
}

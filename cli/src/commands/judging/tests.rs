use depin_domain::{
    ids::{Algorithm, PublicKey},
    model::{Attestation, Metric, Model},
    proofs::{Reason, Rejection, Series},
    registry::{AgentEntry, DeviceEntry, FleetEntry, ModelEntry},
};

use super::*;

const HOUR: i64 = 3_600_000;

fn model() -> Model {
    let metric = |name: &str, kind| Metric {
        name: name.into(),
        unit: "W".into(),
        kind,
        scale: 0,
        min: Some(0),
        max: Some(1_000),
        max_rate: None,
        personal: false,
    };
    Model {
        name: "meter".into(),
        sources: Vec::new(),
        metrics: vec![
            metric("energy", MetricKind::Counter { resets_to_zero: true }),
            metric("power", MetricKind::Gauge),
        ],
        cadence_ms: 60_000,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

fn key() -> PublicKey {
    PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![1; 32] }
}

fn agent() -> AgentId {
    AgentId::of("grid", "roof")
}

fn device() -> DeviceId {
    DeviceId::of("grid", "meter")
}

fn changes() -> VecDeque<(i64, Timestamp, Change)> {
    let model = model();
    let digest = model.digest().unwrap();
    let entry = DeviceEntry {
        id: device(),
        namespace: "grid".into(),
        name: "meter".into(),
        fleet: "grid/meters".into(),
        agent: agent(),
        serial: "SN".into(),
        key: None,
        hardware_key: false,
        shares: Vec::new(),
        location: None,
        suspended: false,
        since: Timestamp(0),
    };
    let holder = AgentEntry {
        id: agent(),
        namespace: "grid".into(),
        name: "roof".into(),
        key: key(),
        fleets: vec!["meters".into()],
        reinstate_key: false,
    };
    let suspended = Change::Device(DeviceEntry { suspended: true, ..entry.clone() });
    let changes = [
        Change::Model(ModelEntry { digest, model, effective_from: Timestamp(0) }),
        Change::Fleet(FleetEntry { id: "grid/meters".into(), model: "meter".into(), grain_ms: HOUR }),
        Change::Agent(holder),
        Change::Device(entry),
        suspended,
    ];
    // The last one comes late in the epoch.
    let at = |version: i64| Timestamp(if version == 5 { HOUR + HOUR / 2 } else { 0 });
    (1..).zip(changes).map(|(version, change)| (version, at(version), change)).collect()
}

fn known() -> Registry {
    let mut registry = Registry::default();
    for (version, at, change) in changes() {
        registry.apply(Record { version: version as u64, at, change }).unwrap();
    }
    registry
}

/// The second hour is the epoch.
fn judge(known: &Registry) -> Judge<'_> {
    let window = Window { start: Timestamp(HOUR), end: Timestamp(2 * HOUR) };
    Judge::new(known, vec![(window, vec!["grid/meters".into()])], Told { changes: changes(), ..Told::default() })
}

fn section(metric: &str, readings: &[(i64, i64)]) -> Section {
    let readings = readings.iter().map(|(at, value)| Reading { at: Timestamp(HOUR + at), value: *value }).collect();
    Section {
        device: device(),
        model: model().digest().unwrap(),
        attestation: Attestation::Agent,
        series: vec![Series { metric: metric.into(), readings }],
    }
}

fn header() -> Header {
    Header {
        key: key().id(),
        incarnation: 1,
        sequence: 1,
        previous: Digest::default(),
        registry_incarnation: 1,
        registry_version: 1,
        sealed_at: Timestamp(2 * HOUR),
        window: Window::default(),
        drops: Vec::new(),
        sections: 1,
        body: Digest::default(),
    }
}

fn by(position: i64, marks: &[(i64, i64)]) -> By {
    By {
        position,
        received_at: Timestamp(2 * HOUR),
        agent: agent(),
        registry_version: if position < 100 { 4 } else { 5 },
        max_skew_ms: 60_000,
        marks: marks.iter().map(|(at, value)| (0, "energy".to_owned(), HOUR + at, *value)).collect(),
    }
}

/// A verdict that rejects these readings of the only series.
fn verdict(count: u64, rejected: &[u32], reason: Reason) -> Verdict {
    let rejection =
        Rejection { section: 0, series: Some(0), readings: rejected.to_vec(), reason, detail: String::new() };
    let rejections = if rejected.is_empty() { Vec::new() } else { vec![rejection] };
    Verdict { accepted: count - rejected.len() as u64, rejections }
}

#[test]
fn a_right_verdict_is_right_and_a_wrong_one_is_told_with_both_words() {
    let known = known();
    let readings = [(1, 10), (2, 2_000), (3, 30)];
    let honest = verdict(3, &[1], Reason::OutOfRange);
    for (recorded, told) in [
        (honest.clone(), None),
        (verdict(3, &[1, 2], Reason::OutOfRange), Some(("OutOfRange", "counts"))),
        (verdict(3, &[], Reason::OutOfRange), Some(("counts", "OutOfRange"))),
        (verdict(3, &[1], Reason::Duplicate), Some(("Duplicate", "OutOfRange"))),
    ] {
        let mut judge = judge(&known);
        let differences = judge.section(&by(10, &[]), &header(), &section("energy", &readings), 0, &recorded).unwrap();
        let found: Vec<_> = differences.iter().map(|one| (one.published.as_str(), one.recomputed.as_str())).collect();
        assert_eq!(found, told.into_iter().collect::<Vec<_>>());
        assert_eq!(judge.judged, Judged { readings: 3, ..Judged::default() });
    }
}

#[test]
fn the_registry_is_that_of_the_proofs_place() {
    let known = known();
    let mut judge = judge(&known);
    // Received before the suspension's record, and after it; measured after it took effect.
    let later = HOUR / 2 + 1;
    let none = judge.section(
        &by(10, &[]),
        &header(),
        &section("energy", &[(later, 1)]),
        0,
        &verdict(1, &[], Reason::Suspended),
    );
    assert_eq!(none.unwrap(), Vec::new());
    let whole = Verdict {
        accepted: 0,
        rejections: vec![Rejection {
            section: 0,
            series: None,
            readings: vec![],
            reason: Reason::Suspended,
            detail: String::new(),
        }],
    };
    let mark = by(100, &[(later, 1)]);
    assert_eq!(judge.section(&mark, &header(), &section("energy", &[(later + 1, 2)]), 0, &whole).unwrap(), Vec::new());
}

#[test]
fn a_newest_reading_is_shown_by_a_section_or_is_another_times() {
    let known = known();
    let old = [(5, 10)];
    let refused = verdict(1, &[0], Reason::OutOfOrder);
    let whole = Verdict {
        rejections: vec![Rejection { series: Some(0), readings: Vec::new(), ..refused.rejections[0].clone() }],
        ..refused
    };
    // Of the next hour: another epoch's export shows it.
    let mut beside = judge(&known);
    let told = beside.section(&by(10, &[(HOUR + 5, 90)]), &header(), &section("energy", &old), 0, &whole).unwrap();
    assert_eq!((told, beside.judged.beside), (Vec::new(), 1));
    // Of this hour: a section of the export must show it.
    let mut invented = judge(&known);
    let told = invented.section(&by(10, &[(50, 90)]), &header(), &section("energy", &old), 0, &whole).unwrap();
    assert_eq!((told[0].published.as_str(), told[0].recomputed.as_str()), ("90 at 3600050", "none"));
    let mut shown = judge(&known);
    let first = section("energy", &[(50, 90)]);
    assert_eq!(shown.section(&by(10, &[]), &header(), &first, 0, &verdict(1, &[], Reason::OutOfOrder)).unwrap(), []);
    let told = shown.section(&by(20, &[(50, 90)]), &header(), &section("energy", &old), 0, &whole).unwrap();
    assert_eq!((told, shown.judged.beside), (Vec::new(), 0));
    // What a section left cannot be kept silent either.
    let told = shown.section(
        &by(30, &[]),
        &header(),
        &section("energy", &[(60, 95)]),
        0,
        &verdict(1, &[], Reason::OutOfOrder),
    );
    assert_eq!(told.unwrap()[0].published, "none");
}

#[test]
fn what_was_settled_and_confirmed_counts_from_its_place_on() {
    let known = known();
    let mut judge = judge(&known);
    judge.told.boundaries.push_back((15, "grid/meters".into(), Timestamp(HOUR + 100)));
    let accepted = verdict(1, &[], Reason::LateBeyondUntil);
    assert_eq!(judge.section(&by(10, &[]), &header(), &section("power", &[(5, 1)]), 0, &accepted).unwrap(), []);
    let after = By { marks: vec![(0, "power".to_owned(), HOUR + 5, 1)], ..by(20, &[]) };
    let told = judge.section(&after, &header(), &section("power", &[(50, 1)]), 0, &accepted).unwrap();
    let words: Vec<_> = told.iter().map(|one| (one.published.as_str(), one.recomputed.as_str())).collect();
    assert_eq!(words, [("counts", "LateBeyondUntil")]);
}

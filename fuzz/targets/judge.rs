//! Readings and a check: every reading is accepted or has a reason, what was accepted is entered, nothing counts twice.
#![no_main]

use std::collections::{BTreeMap, HashMap};

use depin_domain::{
    ids::{AgentId, Algorithm, DeviceId, Digest, PublicKey},
    model::{Attestation, Check, CheckScope, Metric, MetricKind, Model},
    proofs::{Context, Header, Reading, Section, Series, apply, checks::Models, judge},
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, ModelEntry, Record, Registry},
    statistics::DeviceStatistics,
    time::{Timestamp, Window},
};
use libfuzzer_sys::fuzz_target;

/// Takes values from the input until it is used up; then zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Small values mostly, extreme ones sometimes.
    fn number(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => i64::from(small) * 256 + i64::from(self.byte()),
        }
    }

    fn limit(&mut self) -> Option<i64> {
        (self.byte() % 2 == 1).then(|| self.number())
    }
}

fn metric(input: &mut Input<'_>, name: &str, kind: MetricKind) -> Metric {
    let (min, max, max_rate) = (input.limit(), input.limit(), input.limit());
    Metric { name: name.into(), unit: "W".into(), kind, scale: 0, min, max, max_rate, personal: false }
}

fn network(model: Model) -> Registry {
    let agent = AgentId::of("a", "a");
    let key = PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![1; 32] };
    let device = |name: &str| {
        Change::Device(DeviceEntry {
            id: DeviceId::of("a", name),
            namespace: "a".into(),
            name: name.into(),
            fleet: "a/f".into(),
            agent,
            serial: name.into(),
            key: None,
            hardware_key: false,
            shares: Vec::new(),
            location: None,
            suspended: false,
            since: Timestamp(0),
        })
    };
    let mut registry = Registry::default();
    let changes = [
        Change::Model(ModelEntry { digest: model.digest().expect("integers"), model, effective_from: Timestamp(0) }),
        Change::Fleet(FleetEntry { id: "a/f".into(), model: "m".into(), grain_ms: 10_000 }),
        Change::Agent(AgentEntry {
            id: agent,
            namespace: "a".into(),
            name: "a".into(),
            key,
            fleets: Vec::new(),
            reinstate_key: false,
        }),
        device("x"),
        device("y"),
        Change::DeviceRemoved { id: DeviceId::of("a", "y") },
        device("y"),
    ];
    for (change, version) in changes.into_iter().zip(1..) {
        registry.apply(Record { version, at: Timestamp(version as i64 * 1_000), change }).expect("in turn");
    }
    registry
}

fn section(input: &mut Input<'_>, model: Digest) -> Section {
    let series = ["gauge", "total"].map(|metric| {
        let mut readings: Vec<Reading> =
            (0..input.byte() % 12).map(|_| Reading { at: Timestamp(input.number()), value: input.number() }).collect();
        readings.sort_unstable();
        readings.dedup_by_key(|reading| reading.at);
        Series { metric: metric.into(), readings }
    });
    let device = DeviceId::of("a", ["x", "y", "z"][usize::from(input.byte() % 3)]);
    let series = series.into_iter().filter(|series| !series.readings.is_empty()).collect();
    Section { device, model, attestation: Attestation::Agent, series }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let scope = if input.byte() % 2 == 0 { CheckScope::Reading } else { CheckScope::Section };
    let length = usize::from(input.byte()).min(input.0.len());
    let (expression, rest) = input.0.split_at(length);
    input.0 = rest;
    let expression = String::from_utf8_lossy(expression).into_owned();
    let metrics = vec![
        metric(&mut input, "gauge", MetricKind::Gauge),
        metric(&mut input, "total", MetricKind::Counter { resets_to_zero: true }),
    ];
    let check = Check { reason: "Check".into(), scope, expression };
    let model = Model {
        name: "m".into(),
        sources: Vec::new(),
        metrics,
        cadence_ms: 100,
        reorder_horizon_ms: 0,
        checks: if length == 0 { Vec::new() } else { vec![check] },
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    };
    let digest = model.digest().expect("integers");
    let registry = network(model);
    let models = Models::of(&registry);
    let agent = registry.agents().next().expect("one agent");
    let header = Header {
        key: agent.key.id(),
        incarnation: 1,
        sequence: 1,
        previous: Digest::default(),
        registry_incarnation: 1,
        registry_version: 1,
        sealed_at: Timestamp(input.number()),
        window: Window::default(),
        drops: Vec::new(),
        sections: 0,
        body: Digest::default(),
    };
    let (confirmed, late) = (BTreeMap::new(), BTreeMap::from([("a/f".to_owned(), Timestamp(input.number()))]));
    let context = Context {
        registry: &registry,
        models: &models,
        agent: agent.id,
        confirmed: &confirmed,
        late_boundaries: &late,
        received_at: Timestamp(input.number()),
        max_skew_ms: 0,
    };
    let mut accounts: HashMap<DeviceId, DeviceStatistics> = HashMap::new();
    let mut counted = 0;
    let proofs: Vec<Vec<Section>> =
        (0..3).map(|_| (0..1 + input.byte() % 3).map(|_| section(&mut input, digest)).collect()).collect();
    for sections in &proofs {
        let verdict = judge(&context, &header, sections, &accounts);
        apply(&registry, sections, &verdict, &mut accounts).expect("what was just judged");
        counted += verdict.accepted;
        let again = judge(&context, &header, sections, &accounts);
        if length == 0 || scope == CheckScope::Reading {
            let held = again.accepted == 0 || !verdict.rejections.is_empty();
            assert!(held, "readings that counted count again");
        }
    }
    let all = Window { start: Timestamp::MIN, end: Timestamp::MAX };
    let kept: u64 = accounts.values().flat_map(|device| device.within(all)).map(|(_, _, grain)| grain.count).sum();
    assert_eq!(kept, counted);
});

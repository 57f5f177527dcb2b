//! How fast readings are judged and entered on one core: `cargo run --release -p depin-domain --example judging`.
//!
//! 1,000 devices with one gauge and one counter, range and rate limits, and no check, one check, or three; sections of 20 readings and
//! of two. Beside it one check in the interpreter of the `cel` crate alone, and the registry's fold.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    hint::black_box,
    time::Instant,
};

use depin_domain::{
    ids::{AgentId, Algorithm, DeviceId, Digest, PublicKey},
    model::{Attestation, Check, CheckScope, Metric, MetricKind, Model},
    proofs::{Context, Header, Reading, Section, Series, apply, checks::Models, judge},
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, ModelEntry, Record, Registry},
    statistics::DeviceStatistics,
    time::{Timestamp, Window},
};

const DEVICES: usize = 1_000;
const PROOFS: i64 = 50;
const CHECK: &str = "previous == null || reading.metric != 'power' || reading.value - previous.value < 1000";

fn metric(name: &str, kind: MetricKind) -> Metric {
    Metric {
        name: name.into(),
        unit: "W".into(),
        kind,
        scale: 0,
        min: Some(0),
        max: Some(i64::MAX),
        max_rate: Some(1_000_000),
        personal: false,
    }
}

fn network(checks: usize) -> Result<Registry, Box<dyn Error>> {
    let expressions = [CHECK, "reading.value >= 0 && reading.value != 77", "device.serial != '' || reading.at > 0"];
    let check = |(index, expression): (usize, &&str)| Check {
        reason: format!("Check{index}"),
        scope: CheckScope::Reading,
        expression: (*expression).into(),
    };
    let model = Model {
        name: "meter".into(),
        sources: Vec::new(),
        metrics: vec![
            metric("power", MetricKind::Gauge),
            metric("total", MetricKind::Counter { resets_to_zero: false }),
        ],
        cadence_ms: 60_000,
        reorder_horizon_ms: 0,
        checks: expressions.iter().take(checks).enumerate().map(check).collect(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    };
    let key = PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![1; 32] };
    let agent = AgentId::of("energy", "agent");
    let mut changes = vec![
        Change::Model(ModelEntry { digest: model.digest()?, model, effective_from: Timestamp(0) }),
        Change::Fleet(FleetEntry { id: "energy/meters".into(), model: "meter".into(), grain_ms: 3_600_000 }),
        Change::Agent(AgentEntry {
            id: agent,
            namespace: "energy".into(),
            name: "agent".into(),
            key,
            fleets: Vec::new(),
            reinstate_key: false,
        }),
    ];
    changes.extend((0..DEVICES).map(|number| device(number, agent)));
    let mut registry = Registry::default();
    for change in changes {
        registry.check(&change)?;
        registry.apply(Record { version: registry.version() + 1, at: Timestamp(0), change })?;
    }
    Ok(registry)
}

fn device(number: usize, agent: AgentId) -> Change {
    let name = format!("meter-{number}");
    Change::Device(DeviceEntry {
        id: DeviceId::of("energy", &name),
        namespace: "energy".into(),
        serial: format!("SN{number}"),
        name,
        fleet: "energy/meters".into(),
        agent,
        key: None,
        hardware_key: false,
        shares: Vec::new(),
        location: None,
        suspended: false,
        since: Timestamp(0),
    })
}

/// Proof `number`: so many readings of both metrics of every device.
fn sections(number: i64, readings: i64, model: Digest) -> Vec<Section> {
    let series = |metric: &str| {
        let reading = |index: i64| {
            let step = number * readings + index;
            Reading { at: Timestamp(step * 10_000), value: step * 5 }
        };
        Series { metric: metric.into(), readings: (0..readings).map(reading).collect() }
    };
    let section = |device| Section {
        device: DeviceId::of("energy", &format!("meter-{device}")),
        model,
        attestation: Attestation::Agent,
        series: vec![series("power"), series("total")],
    };
    let mut sections: Vec<_> = (0..DEVICES).map(section).collect();
    sections.sort_by_key(|section| section.device);
    sections
}

fn measure(checks: usize, readings: i64) -> Result<(), Box<dyn Error>> {
    let registry = network(checks)?;
    let models = Models::of(&registry);
    let digest = registry.model_chain("meter").and_then(|chain| chain.newest()).ok_or("no model")?.digest;
    let agent = registry.agents().next().ok_or("no agent")?;
    let header = Header {
        key: agent.key.id(),
        incarnation: 1,
        sequence: 1,
        previous: Digest::default(),
        registry_incarnation: 1,
        registry_version: registry.version(),
        sealed_at: Timestamp(1_000_000_000),
        window: Window::default(),
        drops: Vec::new(),
        sections: 0,
        body: Digest::default(),
    };
    let (confirmed, late) = (BTreeMap::new(), BTreeMap::new());
    let context = Context {
        registry: &registry,
        models: &models,
        agent: agent.id,
        confirmed: &confirmed,
        late_boundaries: &late,
        received_at: Timestamp(1_000_000_000),
        max_skew_ms: 0,
    };
    let proofs: Vec<_> = (0..PROOFS).map(|number| sections(number, readings, digest)).collect();
    let mut accounts: HashMap<DeviceId, DeviceStatistics> = HashMap::new();
    let (mut judging, mut entering, mut accepted) = (0.0, 0.0, 0);
    for sections in &proofs {
        let started = Instant::now();
        let verdict = judge(&context, &header, sections, &accounts);
        judging += started.elapsed().as_secs_f64();
        let started = Instant::now();
        apply(&registry, sections, &verdict, &mut accounts)?;
        entering += started.elapsed().as_secs_f64();
        accepted += verdict.accepted;
    }
    let rate = |seconds: f64| accepted as f64 / seconds / 1e6;
    println!(
        "{checks} checks, {} readings a section: {accepted} readings; judged {:.2} million/s, entered {:.2} million/s, both {:.2} million/s",
        2 * readings,
        rate(judging),
        rate(entering),
        rate(judging + entering)
    );
    Ok(())
}

/// The same check in the interpreter of the `cel` crate, without anything around it.
fn measure_interpreter() -> Result<(), Box<dyn Error>> {
    let program = cel::Program::compile(CHECK)?;
    let object = |at: i64, value: i64| {
        let metric = cel::Value::from("power");
        cel::Value::from(HashMap::from([
            ("metric", metric),
            ("at", cel::Value::Int(at)),
            ("value", cel::Value::Int(value)),
        ]))
    };
    let rounds = 100_000;
    let started = Instant::now();
    for round in 0..rounds {
        let mut context = cel::Context::empty();
        context.add_variable_from_value("reading", object(round, round));
        context.add_variable_from_value("previous", object(round - 1, round - 1));
        black_box(program.execute(&context))?;
    }
    println!("cel crate: {:.2} million/s", f64::from(rounds as u32) / started.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

fn measure_registry() -> Result<(), Box<dyn Error>> {
    let mut registry = network(1)?;
    let agent = AgentId::of("energy", "agent");
    let count = 100_000;
    let changes: Vec<_> = (DEVICES..DEVICES + count).map(|number| device(number, agent)).collect();
    let started = Instant::now();
    for change in changes {
        registry.check(&change)?;
        registry.apply(Record { version: registry.version() + 1, at: Timestamp(0), change })?;
    }
    println!("registry: {count} devices checked and applied in {:.3} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    let rounds = 1_000;
    for _ in 0..rounds {
        black_box(registry.clone());
    }
    println!("registry: a snapshot in {:.2} µs", started.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    for (checks, readings) in [(0, 10), (1, 10), (3, 10), (1, 1)] {
        measure(checks, readings)?;
    }
    measure_interpreter()?;
    measure_registry()
}

//! Each fault is told with its field.

use super::*;
use crate::rewards::{
    Amount,
    spec::{EpochGrid, Gate, Late, Split, SplitPart, Token},
};
use crate::time::Timestamp;

fn sound() -> ProgramSpec {
    ProgramSpec {
        fleets: vec!["energy/meters".into()],
        token: Token { symbol: "WATT".into(), decimals: 18 },
        chain: None,
        epoch: EpochGrid { length_ms: 3_600_000, genesis: Timestamp(0) },
        grace_ms: 0,
        emission: Emission::Fixed { amount: Amount(1000) },
        split: Split::default(),
        features: vec![Feature { name: "energy".into(), metric: "energy".into(), aggregate: Aggregate::Delta }],
        gates: vec![Gate { reason: "TooLittle".into(), feature: "energy".into(), minimum: Some(1), maximum: None }],
        limits: vec![],
        weight: "energy".into(),
        late: Late::default(),
        hold_epochs: 3,
        suspend: false,
    }
}

fn fields(change: impl FnOnce(&mut ProgramSpec)) -> Vec<String> {
    let mut spec = sound();
    change(&mut spec);
    faults(&spec).into_iter().map(|fault| fault.field).collect()
}

#[test]
fn a_sound_program_has_no_faults_and_keeps_its_digest_through_json() {
    let spec = sound();
    assert_eq!(faults(&spec), []);
    let text = String::from_utf8(spec.canonical().unwrap()).unwrap();
    let back: ProgramSpec = serde_json::from_str(&text).unwrap();
    assert_eq!(back, spec);
    assert_eq!(back.digest().unwrap(), spec.digest().unwrap());
    assert!(serde_json::from_str::<ProgramSpec>(&text.replacen('{', "{\"unknown\":1,", 1)).is_err());
}

#[test]
fn what_a_program_asks_for_and_nothing_heeds_is_no_program() {
    let mut spec = serde_json::to_value(sound()).unwrap();
    spec["stake"] = serde_json::json!({"minimum": "1"});
    let error = serde_json::from_value::<ProgramSpec>(spec).unwrap_err().to_string();
    assert!(error.contains("unknown field `stake`"), "{error}");
}

#[test]
fn each_fault_names_its_field() {
    assert_eq!(fields(|spec| spec.fleets.clear()), ["fleets"]);
    assert_eq!(fields(|spec| spec.fleets.push("energy/meters".into())), ["fleets[1]"]);
    assert_eq!(fields(|spec| spec.token.symbol.clear()), ["token.symbol"]);
    assert_eq!(fields(|spec| spec.epoch.length_ms = 0), ["epoch.length"]);
    assert_eq!(fields(|spec| spec.grace_ms = -1), ["grace"]);
    assert_eq!(fields(|spec| spec.late.late_until_ms = -1), ["late.until"]);
    assert_eq!(fields(|spec| spec.late.basis_points = 10_001), ["late.basisPoints"]);
    assert_eq!(fields(|spec| spec.emission = Emission::Fixed { amount: Amount(u128::MAX) }), ["emission.fixed.amount"]);
    assert_eq!(
        fields(|spec| spec.emission = Emission::Decay { amount: Amount(1), keep_basis_points: 10_000, every_epochs: 0 }),
        ["emission.decay.everyEpochs", "emission.decay.keepBasisPoints"]
    );
    assert_eq!(fields(|spec| spec.split.parts[0].basis_points = 9_999), ["split.parts"]);
    assert_eq!(fields(|spec| spec.split.residual = "x".into()), ["split.residual"]);
    assert_eq!(
        fields(|spec| spec.split.parts.push(SplitPart {
            name: "more".into(),
            basis_points: 0,
            to: Recipient::Devices
        })),
        ["split.parts"]
    );
    assert_eq!(fields(|spec| spec.features[0].name = "in".into()), ["features[0].name", "gates[0].feature", "weight"]);
    assert_eq!(fields(|spec| spec.gates[0].feature = "x".into()), ["gates[0].feature"]);
    assert_eq!(fields(|spec| spec.gates[0].reason = "low uptime".into()), ["gates[0].reason"]);
    assert_eq!(fields(|spec| spec.gates[0].minimum = None), ["gates[0]"]);
    assert_eq!(fields(|spec| spec.gates[0].maximum = Some(0)), ["gates[0].minimum"]);
    assert_eq!(fields(|spec| spec.weight = "energy * 1.5".into()), ["weight"]);
    assert_eq!(
        fields(|spec| spec.limits = vec![Limit::HexCapacity { resolution: 16, capacity: 0, by: Some("x".into()) }]),
        ["limits[0].hexCapacity.resolution", "limits[0].hexCapacity.capacity", "limits[0].hexCapacity.by"]
    );
    assert_eq!(
        fields(|spec| spec.limits =
            vec![Limit::MinimumDistance { metres: 1, by: None }, Limit::MinimumDistance { metres: 0, by: None }]),
        ["limits[1].minimumDistance.metres", "limits"]
    );
}

#[test]
fn a_metric_means_the_same_in_all_fleets_of_a_program_where_its_values_are_compared() {
    use crate::fixtures::{counter, gauge, model};
    use crate::model::{Metric, MetricKind};
    let mut spec = sound();
    spec.fleets.push("energy/others".into());
    let first = model(vec![counter("energy"), gauge("power")]);
    let faults = |spec: &ProgramSpec, energy: Metric| {
        let other = Model { name: "other".into(), ..model(vec![energy, gauge("power")]) };
        faults_between_models(spec, &[("energy/meters", &first), ("energy/others", &other)])
    };
    assert_eq!(faults(&spec, counter("energy")), []);
    let found = faults(&spec, Metric { scale: 0, ..counter("energy") });
    assert_eq!(
        found[0].to_string(),
        "features[0].metric: \"energy\" has scale 3 in model meter of energy/meters and 0 in model other of \
         energy/others; name fleets whose models agree on it, or make a program for each"
    );
    assert_eq!(found.len(), 1);
    assert_eq!(faults(&spec, Metric { unit: "W.h".into(), ..counter("energy") }).len(), 1);
    let resetting = MetricKind::Counter { resets_to_zero: false };
    assert_eq!(faults(&spec, Metric { kind: resetting, ..counter("energy") }), [], "an increase is an increase");
    assert_eq!(faults(&spec, Metric { kind: resetting, scale: 0, ..counter("energy") }).len(), 1);
    spec.features[0].aggregate = Aggregate::Uptime;
    assert_eq!(faults(&spec, Metric { scale: 0, ..counter("energy") }), [], "slots have no unit");
}

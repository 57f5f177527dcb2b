//! Every CEL rule with a case that passes and a case that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it cannot go on")]

use depin_crds::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardEpoch, RewardProgram};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Applies JSON merge changes (path, value; null removes) to a valid object.
fn with(base: &Value, changes: &[(&str, Value)]) -> Value {
    let mut object = base.clone();
    for (path, value) in changes {
        let mut node = &mut object;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                match (node, value) {
                    (Value::Object(members), Value::Null) => drop(members.remove(part)),
                    (Value::Object(members), value) => drop(members.insert(part.to_owned(), value.clone())),
                    (Value::Array(items), value) => items[part.parse::<usize>().unwrap()] = value.clone(),
                    (other, _) => unreachable!("{path}: {other}"),
                }
                break;
            }
            node = match node {
                Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
                other => &mut other[part],
            };
        }
    }
    object
}

fn parse<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap()
}

macro_rules! suite {
    ($kind:ty, $base:expr) => {{
        let base: Value = $base;
        assert_valid(parse::<$kind>(&base).validate_cel());
        Suite {
            base,
            validate: |object| {
                parse::<$kind>(object).validate_cel().err().map(|errors| errors.to_string()).unwrap_or_default()
            },
            update: |object, old| {
                parse::<$kind>(object)
                    .validate_cel_update(&parse::<$kind>(old))
                    .err()
                    .map(|errors| errors.to_string())
                    .unwrap_or_default()
            },
        }
    }};
}

fn assert_valid<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(errors) = result {
        unreachable!("the base object is refused: {errors}");
    }
}

struct Suite {
    base: Value,
    validate: fn(&Value) -> String,
    update: fn(&Value, &Value) -> String,
}

impl Suite {
    #[track_caller]
    fn accepts(&self, changes: &[(&str, Value)]) {
        assert_eq!((self.validate)(&with(&self.base, changes)), "");
    }

    #[track_caller]
    fn refuses(&self, changes: &[(&str, Value)], message: &str) {
        let errors = (self.validate)(&with(&self.base, changes));
        assert!(errors.contains(message), "expected {message:?}, got {errors:?}");
    }

    #[track_caller]
    fn accepts_update(&self, from: &[(&str, Value)], to: &[(&str, Value)]) {
        assert_eq!((self.update)(&with(&self.base, to), &with(&self.base, from)), "");
    }

    #[track_caller]
    fn refuses_update(&self, from: &[(&str, Value)], to: &[(&str, Value)], message: &str) {
        let errors = (self.update)(&with(&self.base, to), &with(&self.base, from));
        assert!(errors.contains(message), "expected {message:?}, got {errors:?}");
    }
}

fn object(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "depin.dev/v1alpha1", "kind": kind, "metadata": {"name": "x", "namespace": "n"}, "spec": spec})
}

fn model() -> Suite {
    suite!(
        EdgeDeviceModel,
        object(
            "EdgeDeviceModel",
            &json!({
                "sources": [{
                    "topic": "meters/+/up", "codec": "Json", "device": {"topicSegment": 1},
                    "timestamp": {"path": "at", "format": "Rfc3339"},
                    "fields": [{"path": "total", "metric": "energy"}]
                }],
                "metrics": [
                    {"name": "energy", "unit": "kW.h", "kind": "Counter", "scale": 3, "min": "0", "max": "999999.999"},
                    {"name": "power", "unit": "W", "kind": "Gauge", "scale": 0}
                ],
                "cadence": "10s"
            })
        )
    )
}

#[test]
fn a_fields_metric_must_exist() {
    model().accepts(&[("spec/sources/0/fields/0/metric", json!("power"))]);
    model().refuses(&[("spec/sources/0/fields/0/metric", json!("voltage"))], "names a metric");
}

#[test]
fn cadence_and_horizon_have_bounds() {
    model().accepts(&[("spec/cadence", json!("1h30m")), ("spec/reorderHorizon", json!("24h"))]);
    model().refuses(&[("spec/cadence", json!("99ms"))], "between 100ms and 24h");
    model().refuses(&[("spec/cadence", json!("25h"))], "between 100ms and 24h");
    model().refuses(&[("spec/reorderHorizon", json!("25h"))], "at most 24h");
}

#[test]
fn metrics_are_added_but_never_removed_or_redefined() {
    let more = json!({"name": "voltage", "unit": "V", "kind": "Gauge", "scale": 1});
    let suite = model();
    let metrics = suite.base["spec"]["metrics"].as_array().unwrap().clone();
    let grown: Vec<_> = metrics.iter().cloned().chain([more]).collect();
    suite.accepts_update(&[], &[("spec/metrics", json!(grown))]);
    suite.refuses_update(&[], &[("spec/metrics", json!([metrics[0]]))], "never removed");
    suite.accepts_update(&[], &[("spec/metrics/1/max", json!("9000"))]);
    for change in [("unit", json!("kW")), ("kind", json!("Counter")), ("scale", json!(2))] {
        let path = format!("spec/metrics/1/{}", change.0);
        suite.refuses_update(&[], &[(&path, change.1)], "never change");
    }
}

#[test]
fn a_metrics_options_fit_its_kind_and_range() {
    model().accepts(&[("spec/metrics/0/resetsToZero", json!(true))]);
    model().refuses(&[("spec/metrics/1/resetsToZero", json!(true))], "applies to kind Counter");
    model().accepts(&[("spec/metrics/0/min", json!("-0.5")), ("spec/metrics/0/max", json!("-0.5"))]);
    model()
        .refuses(&[("spec/metrics/0/min", json!("10")), ("spec/metrics/0/max", json!("9.999"))], "min is not greater");
}

#[test]
fn a_plain_payload_is_one_value_without_a_name() {
    let plain = [("spec/sources/0/codec", json!("Plain"))];
    model().accepts(&plain);
    let two = json!([{"metric": "energy"}, {"metric": "power"}]);
    model().refuses(&[plain[0].clone(), ("spec/sources/0/fields", two)], "exactly one field");
    let named = json!({"payloadPath": "id"});
    model().refuses(&[plain[0].clone(), ("spec/sources/0/device", named)], "cannot name its device");
}

#[test]
fn each_needs_a_codec_with_arrays() {
    model().accepts(&[("spec/sources/0/each", json!("items"))]);
    model().refuses(
        &[("spec/sources/0/each", json!("items")), ("spec/sources/0/codec", json!("SenmlJson"))],
        "Json and Cbor",
    );
}

#[test]
fn a_device_is_named_in_exactly_one_way() {
    model().accepts(&[("spec/sources/0/device", json!({"constant": "m1"}))]);
    model().refuses(&[("spec/sources/0/device", json!({}))], "exactly one of");
    model().refuses(&[("spec/sources/0/device", json!({"constant": "m1", "topicSegment": 1}))], "exactly one of");
}

#[test]
fn a_timestamp_pattern_goes_with_its_format() {
    let path = "spec/sources/0/timestamp";
    model().accepts(&[(path, json!({"path": "t", "format": "Pattern", "pattern": "%F %T", "offsetMinutes": 60}))]);
    model().refuses(&[(path, json!({"path": "t", "format": "Pattern"}))], "pattern is set with");
    model().refuses(&[(path, json!({"path": "t", "format": "UnixMillis", "pattern": "%F"}))], "pattern is set with");
    model().refuses(
        &[(path, json!({"path": "t", "format": "UnixMillis", "offsetMinutes": 60}))],
        "applies to format Pattern",
    );
}

const ACCOUNT: &str = "0x00000000000000000000000000000000000000a1";

fn fleet() -> Suite {
    suite!(EdgeFleet, object("EdgeFleet", &json!({"modelRef": {"name": "meter"}, "grain": "15m"})))
}

#[test]
fn a_fleets_grain_is_immutable_and_bounded() {
    fleet().accepts_update(&[], &[("spec/modelRef/name", json!("meter-2"))]);
    fleet().refuses_update(&[], &[("spec/grain", json!("1h"))], "grain is immutable");
    fleet().refuses(&[("spec/grain", json!("999ms"))], "between 1s and 24h");
}

#[test]
fn a_fleets_owner_is_one_account_or_shares_of_a_whole() {
    let halves = json!([{"account": ACCOUNT, "basisPoints": 4000}, {"account": ACCOUNT, "basisPoints": 6000}]);
    fleet().accepts(&[("spec/owner", json!(ACCOUNT))]);
    fleet().accepts(&[("spec/shares", halves.clone())]);
    fleet().refuses(&[("spec/owner", json!(ACCOUNT)), ("spec/shares", halves)], "not both");
    fleet().refuses(&[("spec/shares", json!([{"account": ACCOUNT, "basisPoints": 9999}]))], "sum to 10000");
}

#[test]
fn an_allow_list_goes_with_its_policy() {
    fleet().accepts(&[("spec/enrollment", json!({"policy": "AllowList", "serials": ["m1"]}))]);
    fleet().refuses(&[("spec/enrollment", json!({"policy": "AllowList"}))], "serials is set with");
    fleet().refuses(&[("spec/enrollment", json!({"policy": "Token", "serials": ["m1"]}))], "serials is set with");
}

fn key(first: char) -> Value {
    json!({"algorithm": "Ed25519", "key": first.to_string().repeat(64)})
}

#[test]
fn an_agents_key_is_set_once() {
    let agent = suite!(EdgeAgent, object("EdgeAgent", &json!({"fleets": ["homes"]})));
    agent.accepts_update(&[], &[("spec/publicKey", key('a'))]);
    agent.accepts_update(
        &[("spec/publicKey", key('a'))],
        &[("spec/publicKey", key('a')), ("spec/fleets", json!(["b"]))],
    );
    agent.refuses_update(&[("spec/publicKey", key('a'))], &[("spec/publicKey", key('b'))], "immutable once set");
    agent.refuses_update(&[("spec/publicKey", key('a'))], &[], "immutable once set");
}

#[test]
fn a_keys_length_fits_its_algorithm() {
    let agent = suite!(EdgeAgent, object("EdgeAgent", &json!({"fleets": ["homes"]})));
    agent.accepts(&[("spec/publicKey", json!({"algorithm": "P256", "key": "02".repeat(33)}))]);
    agent.refuses(&[("spec/publicKey", json!({"algorithm": "P256", "key": "02".repeat(32)}))], "33 bytes");
    agent.refuses(&[("spec/publicKey", json!({"algorithm": "Ed25519", "key": "02".repeat(33)}))], "32 bytes");
}

fn device() -> Suite {
    suite!(
        EdgeDevice,
        object(
            "EdgeDevice",
            &json!({"fleet": "homes", "agent": "gw-1", "serial": "m1", "suspend": false, "hardwareKey": false})
        )
    )
}

#[test]
fn a_devices_serial_is_immutable() {
    device().accepts_update(&[], &[("spec/agent", json!("gw-2"))]);
    device().refuses_update(&[], &[("spec/serial", json!("m2"))], "serial is immutable");
}

#[test]
fn a_devices_owner_is_one_account_or_shares_of_a_whole() {
    let whole = json!([{"account": ACCOUNT, "basisPoints": 10000}]);
    device().accepts(&[("spec/shares", whole.clone())]);
    device().refuses(&[("spec/owner", json!(ACCOUNT)), ("spec/shares", whole)], "not both");
    device().refuses(&[("spec/shares", json!([{"account": ACCOUNT, "basisPoints": 1}]))], "sum to 10000");
}

#[test]
fn a_suspension_gives_its_reason_only_while_it_lasts() {
    device().accepts(&[("spec/suspend", json!(true)), ("spec/suspendReason", json!("stolen"))]);
    device().refuses(&[("spec/suspendReason", json!("stolen"))], "needs suspend");
}

#[test]
fn a_hardware_key_is_a_key() {
    device().accepts(&[("spec/hardwareKey", json!(true)), ("spec/publicKey", key('a'))]);
    device().refuses(&[("spec/hardwareKey", json!(true))], "needs publicKey");
}

#[test]
fn an_enrollment_is_a_token_or_a_request_and_never_changes() {
    let token = json!({"sha256": "a".repeat(64), "expiresAt": "2026-01-01T00:00:00Z", "fleets": ["homes"]});
    let request = json!({"kind": "Device", "serial": "m1", "agent": "gw-1"});
    let enrollment = suite!(EdgeEnrollment, object("EdgeEnrollment", &json!({"token": token})));
    enrollment.accepts(&[("spec", json!({"request": request}))]);
    enrollment.refuses(&[("spec", json!({}))], "exactly one");
    enrollment.refuses(&[("spec/request", request.clone())], "exactly one");
    enrollment.accepts_update(&[], &[]);
    enrollment.refuses_update(&[], &[("spec", json!({"request": request}))], "immutable");
    enrollment.refuses(&[("spec", json!({"request": {"kind": "Device", "serial": "m1"}}))], "serial and agent");
}

#[test]
fn an_epoch_never_changes() {
    let spec = json!({"program": "p", "number": 0, "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z", "programDigest": ""});
    let epoch = suite!(RewardEpoch, object("RewardEpoch", &spec));
    epoch.accepts_update(&[], &[]);
    epoch.refuses_update(&[], &[("spec/number", json!(1))], "immutable");
}

/// A field that the schema requires is required by the type too.
#[test]
fn a_missing_field_is_refused() {
    fn refused<K: DeserializeOwned + Serialize>(object: &Value) -> String {
        serde_json::from_value::<K>(object.clone()).err().map(|error| error.to_string()).unwrap_or_default()
    }
    assert!(refused::<EdgeFleet>(&object("EdgeFleet", &json!({}))).contains("modelRef"));
    assert!(refused::<EdgeDevice>(&object("EdgeDevice", &json!({"fleet": "f"}))).contains("agent"));
}

fn program() -> Suite {
    suite!(
        RewardProgram,
        object(
            "RewardProgram",
            &json!({
                "fleets": ["homes"],
                "token": {"symbol": "WATT", "decimals": 6},
                "epoch": {"length": "24h", "genesis": "2026-01-01T00:00:00Z"},
                "grace": "5m",
                "emission": {"fixed": {"amount": "1000000"}},
                "features": [{"name": "energy", "metric": "energy", "aggregate": "Delta"}],
                "weight": "energy"
            })
        )
    )
}

#[test]
fn a_programs_token_epochs_and_chain_never_change() {
    program().accepts_update(&[], &[("spec/weight", json!("energy * 2")), ("spec/chain", json!("anvil"))]);
    program().refuses_update(&[], &[("spec/token/decimals", json!(7))], "token is immutable");
    program().refuses_update(&[], &[("spec/epoch/length", json!("12h"))], "epoch is immutable");
    program().refuses_update(&[("spec/chain", json!("a"))], &[("spec/chain", json!("b"))], "chain is immutable");
    program().refuses_update(&[("spec/chain", json!("a"))], &[], "chain is immutable");
}

#[test]
fn a_program_refers_to_its_own_features() {
    let gate = |feature: &str| json!([{"reason": "TooFewReadings", "feature": feature, "minimum": 1}]);
    program().accepts(&[("spec/gates", gate("energy"))]);
    program().refuses(&[("spec/gates", gate("uptime"))], "each gate names a feature");
    let hex = |by: &str| json!({"hexCapacity": {"resolution": 8, "capacity": 2, "by": by}});
    let far = |by: &str| json!({"minimumDistance": {"metres": 100, "by": by}});
    program().accepts(&[("spec/limits", json!([hex("energy"), far("energy")]))]);
    program().refuses(&[("spec/limits", json!([hex("uptime")]))], "hexCapacity.by names");
    program().refuses(&[("spec/limits", json!([far("uptime")]))], "minimumDistance.by names");
    program().refuses(&[("spec/limits", json!([far("energy"), far("energy")]))], "at most once");
    program().refuses(&[("spec/limits", json!([{}]))], "exactly one of hexCapacity");
}

#[test]
fn a_gate_has_a_bound() {
    program().refuses(&[("spec/gates", json!([{"reason": "X", "feature": "energy"}]))], "minimum or maximum");
}

#[test]
fn a_programs_times_have_bounds() {
    program().accepts(&[("spec/late", json!({"basisPoints": 0, "until": "0s"})), ("spec/grace", json!("0s"))]);
    program().refuses(&[("spec/grace", json!("169h"))], "grace is at most");
    program().refuses(&[("spec/epoch/length", json!("500ms"))], "length lies between");
    program().refuses(&[("spec/late", json!({"basisPoints": 0, "until": "8785h"}))], "until is at most");
}

#[test]
fn a_program_emits_in_exactly_one_way() {
    program()
        .accepts(&[("spec/emission", json!({"decay": {"amount": "1", "keepBasisPoints": 9000, "everyEpochs": 365}}))]);
    program().refuses(&[("spec/emission", json!({}))], "exactly one of fixed");
    let two = json!({"fixed": {"amount": "1"}, "halving": {"amount": "1", "everyEpochs": 2}});
    program().refuses(&[("spec/emission", two)], "exactly one of fixed");
}

#[test]
fn a_split_is_whole_and_pays_devices_once() {
    let split = |devices: i32, account: i32, residual: &str| {
        let parts = json!([
            {"name": "devices", "basisPoints": devices, "to": "Devices"},
            {"name": "operations", "basisPoints": account, "to": "Account", "account": ACCOUNT}
        ]);
        json!({"parts": parts, "residual": residual})
    };
    program().accepts(&[("spec/split", split(9000, 1000, "devices"))]);
    program().refuses(&[("spec/split", split(9000, 900, "devices"))], "sum to 10000");
    program().refuses(&[("spec/split", split(9000, 1000, "nobody"))], "residual names a part");
    let none = json!({"parts": [{"name": "burnt", "basisPoints": 10000, "to": "Unallocated"}], "residual": "burnt"});
    program().refuses(&[("spec/split", none)], "exactly one part");
    let nameless = json!({"parts": [{"name": "a", "basisPoints": 10000, "to": "Account"}], "residual": "a"});
    program().refuses(&[("spec/split", nameless)], "account is set with");
}

//! The codecs against what devices really send, and against what they should never send.

use std::fs;

use depin_domain::{
    ids::Digest,
    model::{Attestation, DeviceNaming, Field, Metric, MetricKind, Model, Source, TimestampField, TimestampFormat},
};
use depin_trials::{RngCore as _, below, one_in};

use super::*;

mod senml;

const RECEIVED: Timestamp = Timestamp(1_790_000_000_000);

fn metric(name: &str, unit: &str, scale: u8) -> Metric {
    let name = name.to_owned();
    let unit = unit.to_owned();
    Metric { name, unit, kind: MetricKind::Gauge, scale, min: None, max: None, max_rate: None, personal: false }
}

fn field(path: &str, metric: &str, unit: Option<&str>) -> Field {
    Field { path: path.to_owned(), metric: metric.to_owned(), unit: unit.map(str::to_owned) }
}

fn source(topic: &str, codec: Codec, device: DeviceNaming, fields: Vec<Field>) -> Source {
    Source { topic: topic.to_owned(), codec, device, each: None, timestamp: None, fields }
}

fn model(metrics: Vec<Metric>, sources: Vec<Source>) -> Model {
    Model {
        name: "meter".to_owned(),
        sources,
        metrics,
        cadence_ms: 60_000,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

struct Bench {
    decoder: Decoder,
}

impl Bench {
    fn new(model: Model) -> Self {
        let (decoder, problems) = Decoder::new(&[(Digest::of(b"m"), model)], Limits::default());
        assert_eq!(problems, []);
        Self { decoder }
    }

    /// `serial metric@time=value`, and `Reason place` for what was rejected.
    fn decode(&mut self, topic: &str, payload: &[u8]) -> Vec<String> {
        let mut out = Decoded::default();
        self.decoder.decode(topic, payload, RECEIVED, &mut out);
        let mut lines = Vec::new();
        for group in &out.groups {
            for reading in out.readings_of(group) {
                let metrics = &self.decoder.models[group.model].metrics;
                let at = if group.device_time {
                    reading.at.0.to_string()
                } else {
                    format!("r{:+}", reading.at.0 - RECEIVED.0)
                };
                lines.push(format!(
                    "{} {}@{at}={}",
                    out.serial(group),
                    metrics[usize::from(reading.metric)],
                    reading.value
                ));
            }
        }
        lines.extend(out.rejections.iter().map(|rejection| match &rejection.place {
            Place::Field(path) => format!("{} {path}", rejection.reason.name()),
            place => format!("{} {place:?}", rejection.reason.name()),
        }));
        lines
    }
}

fn energy() -> Bench {
    let fields = vec![
        field("apower", "power", None),
        field("aenergy.total", "energy", Some("Wh")),
        field("temps.1.tC", "temperature", None),
    ];
    let mut source = source("+/status/#", Codec::Json, DeviceNaming::TopicSegment(0), fields);
    source.timestamp = Some(TimestampField { path: "ts".to_owned(), format: TimestampFormat::UnixSeconds });
    Bench::new(model(
        vec![metric("energy", "kWh", 3), metric("power", "W", 1), metric("temperature", "Cel", 2)],
        vec![source],
    ))
}

#[test]
fn json_paths_lead_into_objects_and_arrays() {
    let payload = br#" {"id":0,"apower" : 12.34e1,"aenergy":{"x":[1,{"a":"}"}],"total":1500.4},"temps":[{"tC":1},{"tC":-7.125}],"ts":1700000000.123} "#;
    assert_eq!(
        energy().decode("plug-1/status/switch:0", payload),
        [
            "plug-1 power@1700000000123=1234",
            "plug-1 energy@1700000000123=1500",
            "plug-1 temperature@1700000000123=-712",
        ]
    );
}

#[test]
fn one_bad_field_does_not_spoil_the_others() {
    let cases = [
        (r#"{"ts":1700000000,"apower":NaN,"aenergy":{"total":1000}}"#, "NotANumber apower"),
        (r#"{"ts":1700000000,"apower":-Infinity,"aenergy":{"total":1000}}"#, "NotANumber apower"),
        (r#"{"ts":1700000000,"apower":true,"aenergy":{"total":1000}}"#, "NotANumber apower"),
        (r#"{"ts":1700000000,"apower":{"v":1},"aenergy":{"total":1000}}"#, "NotANumber apower"),
        (r#"{"ts":1700000000,"apower":"high","aenergy":{"total":1000}}"#, "NotANumber apower"),
        (r#"{"ts":1700000000,"apower":1e300,"aenergy":{"total":1000}}"#, "NotRepresentable apower"),
        (r#"{"ts":1700000000,"apower":1e9999,"aenergy":{"total":1000}}"#, "NotRepresentable apower"),
        (r#"{"ts":1700000000,"apower":null,"aenergy":{"total":1000}}"#, "MissingField apower"),
        (r#"{"ts":1700000000,"aenergy":{"total":1000}}"#, "MissingField apower"),
    ];
    for (payload, flaw) in cases {
        assert_eq!(
            energy().decode("p/status/x", payload.as_bytes()),
            ["p energy@1700000000000=1000", flaw, "MissingField temps.1.tC"],
            "{payload}"
        );
    }
}

#[test]
fn messages_that_are_no_json_are_malformed() {
    for payload in [
        "",
        "{",
        "[1,2",
        r#"{"a" 1}"#,
        r#"{"a":1,}"#,
        "{a:1}",
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":"x}"#,
        r#"{"a":1}{"#,
        r#"{"a":+1}"#,
        "nul",
        r#"{"a":tru}"#,
        r#"{"\q":1}"#,
        "\u{feff}",
        r#"{"a":1e}"#,
        r#"{"a":-}"#,
    ] {
        assert_eq!(energy().decode("p/status/x", payload.as_bytes()), ["MalformedPayload Message"], "{payload}");
    }
    assert_eq!(energy().decode("p/status/x", b"{\"a\":\"\xff\"}"), ["MalformedPayload Message"]);
}

#[test]
fn limits_hold() {
    let deep = format!("{}1{}", "[".repeat(33), "]".repeat(33));
    assert_eq!(energy().decode("p/status/x", deep.as_bytes()), ["TooDeep Message"]);
    let unclosed = "[".repeat(200_000);
    assert_eq!(energy().decode("p/status/x", unclosed.as_bytes()), ["TooDeep Message"]);
    assert_eq!(energy().decode("p/status/x", &vec![b' '; 300_000]), ["OversizePayload Message"]);
    assert_eq!(energy().decode("elsewhere", b"{}"), ["UnknownTopic Message"]);
    let deep_cbor = vec![0x81; 100_000];
    let fields = vec![field("a", "power", None)];
    let mut bench = Bench::new(model(
        vec![metric("power", "W", 0)],
        vec![source("#", Codec::Cbor, DeviceNaming::TopicSegment(0), fields)],
    ));
    assert_eq!(bench.decode("p", &deep_cbor), ["TooDeep Message"]);
}

#[test]
fn arrays_are_read_element_by_element() {
    let mut rules =
        source("bus", Codec::Json, DeviceNaming::PayloadPath("id".to_owned()), vec![field("v", "power", Some("kW"))]);
    rules.each = Some("data.meters".to_owned());
    rules.timestamp = Some(TimestampField { path: "time".to_owned(), format: TimestampFormat::Rfc3339 });
    let mut bench = Bench::new(model(vec![metric("power", "W", 0)], vec![rules]));
    let payload = br#"{"data":{"meters":[
        {"id":"a","v":1.5,"time":"2026-01-01T00:00:01Z"}, {"id":7,"v":2}, {"v":3}, {"id":"","v":3}, {"id":"b\u00e9","v":"4"},
        {"id":"c","v":5,"time":"yesterday"}
    ]},"time":"2026-01-01T00:00:00Z"}"#;
    assert_eq!(
        bench.decode("bus", payload),
        [
            "a power@1767225601000=1500",
            "7 power@1767225600000=2000",
            "bé power@1767225600000=4000",
            "NoDeviceName Device",
            "InvalidSerial Device",
            "BadTimestamp Timestamp",
        ]
    );
    assert_eq!(bench.decode("bus", br#"{"data":{"meters":{}}}"#), ["MissingField Message"]);
    assert_eq!(bench.decode("bus", br#"{"data":{"meters":[]}}"#), [""; 0]);
    let many = format!(
        r#"{{"time":"2026-01-01T00:00:00Z","data":{{"meters":[{}]}}}}"#,
        vec![r#"{"id":1,"v":1}"#; 5000].join(",")
    );
    let lines = bench.decode("bus", many.as_bytes());
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (4097, Some("OversizePayload Message")));
}

#[test]
fn plain_values_are_numbers_and_nothing_else() {
    let fields = vec![field("", "power", Some("kW"))];
    let mut bench = Bench::new(model(
        vec![metric("power", "W", 0)],
        vec![source("m/+/p", Codec::Plain, DeviceNaming::TopicSegment(1), fields)],
    ));
    assert_eq!(bench.decode("m/x/p", b" 1.2345\r\n"), ["x power@r+0=1234"]);
    assert_eq!(bench.decode("m/x/p", b"ON"), ["NotANumber "]);
    assert_eq!(bench.decode("m/x/p", b""), ["MissingField "]);
    assert_eq!(bench.decode("m/x/p", b"nan"), ["NotANumber "]);
    assert_eq!(bench.decode("m//p", b"1"), ["InvalidSerial Device"]);
}

#[test]
fn cbor_numbers_are_exact_and_keys_may_be_integers() {
    let fields = vec![field("a", "a", None), field("-2", "b", None), field("c.1", "c", None), field("d", "d", None)];
    let metrics = vec![metric("a", "1", 0), metric("b", "1", 1), metric("c", "1", 2), metric("d", "1", 3)];
    let mut bench = Bench::new(model(metrics, vec![source("#", Codec::Cbor, DeviceNaming::TopicSegment(0), fields)]));
    // {"a": 18446744073709551615, -2: half 1.5, "c": [_ 0, 273.15 as decimal fraction], "d": bignum -2}
    let payload = hex::decode("a461611bffffffffffffffff21f93e0061639f00c48221196ab3ff6164c34101").unwrap();
    assert_eq!(bench.decode("x", &payload), ["x b@r+0=15", "x c@r+0=27315", "x d@r+0=-2000", "NotRepresentable a"]);
    // {"a": NaN (half), -2: 0.1 (single), "c": undefined, "d": true}
    let payload = hex::decode("a46161f97e0021fa3dcccccd6163f76164f5").unwrap();
    assert_eq!(bench.decode("x", &payload), ["x b@r+0=1", "NotANumber a", "MissingField c.1", "NotANumber d"]);
    for malformed in ["", "a1", "a161", "ff", "1c", "a1ff00", "5f00ff", "61ff", "0000", "bf6161ff"] {
        assert_eq!(bench.decode("x", &hex::decode(malformed).unwrap()), ["MalformedPayload Message"], "{malformed}");
    }
}

#[test]
fn two_models_may_read_one_topic() {
    let one = source("a/+", Codec::Json, DeviceNaming::TopicSegment(1), vec![field("x", "power", None)]);
    let two = source("#", Codec::Json, DeviceNaming::Constant("all".to_owned()), vec![field("y", "power", None)]);
    let models = [
        (Digest::of(b"1"), model(vec![metric("power", "W", 0)], vec![one])),
        (Digest::of(b"2"), model(vec![metric("power", "W", 0)], vec![two])),
    ];
    let (decoder, problems) = Decoder::new(&models, Limits::default());
    assert_eq!(problems, []);
    assert_eq!(decoder.filters(), ["#", "a/+"]);
    assert_eq!(Bench { decoder }.decode("a/b", br#"{"x":1,"y":2}"#), ["b power@r+0=1", "all power@r+0=2"]);
}

#[test]
fn sources_that_cannot_work_are_told_and_left_out() {
    let good = source("a", Codec::Json, DeviceNaming::Constant("c".to_owned()), vec![field("x", "power", None)]);
    let wrong = |change: &dyn Fn(&mut Source)| {
        let mut source = good.clone();
        change(&mut source);
        let (decoder, problems) = Decoder::new(
            &[(Digest::default(), model(vec![metric("power", "W", 0)], vec![source, good.clone()]))],
            Limits::default(),
        );
        assert_eq!(decoder.filters(), ["a"]);
        problems.into_iter().map(|problem| problem.problem.field).collect::<Vec<_>>()
    };
    assert_eq!(wrong(&|source| source.topic = "a/#/b".to_owned()), ["topic"]);
    assert_eq!(wrong(&|source| source.fields[0].metric = "q".to_owned()), ["fields[0].metric"]);
    assert_eq!(wrong(&|source| source.fields[0].unit = Some("Cel".to_owned())), ["fields[0].unit"]);
    assert_eq!(wrong(&|source| source.fields[0].path = "a..b".to_owned()), ["fields[0].path"]);
    assert_eq!(wrong(&|source| source.fields.push(field("y", "power", None))), ["fields[1].metric"]);
    assert_eq!(wrong(&|source| source.codec = Codec::Plain), ["fields"]);
    assert_eq!(wrong(&|source| source.each = Some(".".to_owned())), ["each"]);
    assert_eq!(wrong(&|source| source.device = DeviceNaming::PayloadPath("a.".to_owned())), ["device.payloadPath"]);
    assert_eq!(
        wrong(&|source| {
            source.codec = Codec::SenmlJson;
            source.device = DeviceNaming::PayloadPath("x".to_owned());
        }),
        ["device.payloadPath"]
    );
}

/// A folder of recordings beside the workspace, or `None` after saying that it is not there.
fn recordings(file: &str) -> Option<Vec<serde_json::Value>> {
    let text = fs::read_to_string(depin_trials::shared_data(&format!("mqtt/{file}"))?).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn real_messages_give_what_they_say() {
    let Some(messages) = recordings("shelly_gen2_status.jsonl") else { return };
    let fields = vec![
        field("total_act_power", "power", None),
        field("total_act", "energy", Some("Wh")),
        field("n_current", "current", None),
    ];
    let metrics = vec![metric("current", "A", 3), metric("energy", "kWh", 5), metric("power", "W", 3)];
    let mut bench =
        Bench::new(model(metrics, vec![source("+/status/+", Codec::Json, DeviceNaming::TopicSegment(0), fields)]));
    let lines: Vec<_> = messages
        .iter()
        .flat_map(|message| {
            bench.decode(message["topic"].as_str().unwrap(), message["payload"].as_str().unwrap().as_bytes())
        })
        .filter(|line| !line.starts_with("MissingField"))
        .collect();
    assert!(lines.contains(&"shellypro3em-aabbccddeeff power@r+0=2413825".to_owned()), "{lines:?}");
    assert!(lines.contains(&"shellypro3em-aabbccddeeff energy@r+0=541541419".to_owned()), "{lines:?}");

    let fields = vec![field("ENERGY.Total", "energy", None), field("ENERGY.Power", "power", None)];
    let metrics = vec![metric("energy", "kWh", 3), metric("power", "W", 0)];
    let mut rules = source("tele/+/SENSOR", Codec::Json, DeviceNaming::TopicSegment(1), fields);
    rules.timestamp = Some(TimestampField {
        path: "Time".to_owned(),
        format: TimestampFormat::Pattern { pattern: "%Y-%m-%dT%H:%M:%S".to_owned(), offset_minutes: 60 },
    });
    let mut bench = Bench::new(model(metrics, vec![rules]));
    let Some(messages) = recordings("tasmota_messages.jsonl") else { return };
    let mut readings = 0;
    for message in &messages {
        let lines = bench
            .decode(message["topic"].as_str().unwrap(), message["payload"].as_str().unwrap_or_default().as_bytes());
        readings += lines.iter().filter(|line| line.contains('@')).count();
        // One recording carries a zone, which the local pattern does not have: its time is refused, not guessed.
        let local =
            message["payload"].as_str().is_some_and(|text| text.contains("\"Time\":") && !text.contains("+02:00"));
        assert!(!(local && lines.iter().any(|line| line.starts_with("BadTimestamp"))), "{message} {lines:?}");
    }
    assert!(readings > 0);
}

/// Valid payloads cut, bent and mixed: whatever comes, the decoder answers and nothing more than the limit comes out.
#[test]
fn no_payload_makes_the_codecs_panic() {
    let seeds: Vec<Vec<u8>> = vec![
        br#"{"ts":1700000000.5,"apower":-1.5e3,"aenergy":{"total":"12"},"temps":[{"tC":1},{"tC":2}]}"#.to_vec(),
        br#"[{"bn":"urn:dev:","bt":1.3e9,"bu":"A","bv":-1,"n":"voltage","u":"V","v":120.1},{"n":"current","t":-5,"v":1.2,"x\u0041":"\ud83d\ude00"}]"#.to_vec(),
        hex::decode("a461611bffffffffffffffff21f93e0061639f00c48221196ab3ff6164c34101").unwrap(),
        hex::decode("8ba6206375726e225f22fb41d303a15b00106223614106").unwrap(),
        b"-12.5e-3".to_vec(),
    ];
    let all = [Codec::Json, Codec::Cbor, Codec::Plain, Codec::SenmlJson, Codec::SenmlCbor];
    let models: Vec<_> = all
        .iter()
        .map(|codec| {
            let fields = if *codec == Codec::Plain {
                vec![field("", "a", Some("kW"))]
            } else {
                vec![field("apower", "a", Some("kW")), field("temps.1.tC", "b", None), field("voltage", "c", None)]
            };
            let device = if *codec == Codec::Plain {
                DeviceNaming::TopicSegment(0)
            } else {
                DeviceNaming::PayloadPath("bn".to_owned())
            };
            let mut rules = source("#", *codec, device, fields);
            if matches!(codec, Codec::Json | Codec::Cbor) {
                rules.each = Some("temps".to_owned());
                rules.timestamp = Some(TimestampField { path: "ts".to_owned(), format: TimestampFormat::UnixSeconds });
            }
            (
                Digest::default(),
                model(vec![metric("a", "W", 9), metric("b", "Cel", 2), metric("c", "V", 0)], vec![rules]),
            )
        })
        .collect();
    let (mut decoder, problems) = Decoder::new(&models, Limits { payload_bytes: 4096, depth: 16, readings: 50 });
    assert_eq!(problems, []);
    let mut out = Decoded::default();
    depin_trials::run("codecs", |rng| {
        let mut payload = seeds[usize::try_from(below(rng, seeds.len() as u64)).unwrap()].clone();
        for _ in 0..below(rng, 6) {
            let at = usize::try_from(below(rng, payload.len() as u64 + 1)).unwrap();
            match below(rng, 5) {
                0 if at < payload.len() => payload[at] = rng.next_u64().to_le_bytes()[0],
                1 => payload.truncate(at),
                2 => payload
                    .insert(at, b"\"\\{}[],:0-.eEn\x00\xff\x9f\xbf\x5f\xc4"[usize::try_from(below(rng, 20)).unwrap()]),
                3 => {
                    let copy = payload[at..].to_vec();
                    payload.extend(copy);
                }
                _ if one_in(rng, 2) && at < payload.len() => {
                    payload.remove(at);
                }
                _ => {}
            }
        }
        out.clear();
        decoder.decode("a/b", &payload, RECEIVED, &mut out);
        assert!(out.readings.len() <= 5 * 53);
        let grouped: usize = out.groups.iter().map(|group| out.readings_of(group).len()).sum();
        assert_eq!(grouped, out.readings.len());
    });
}

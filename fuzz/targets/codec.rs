//! Payloads from hardware: become readings or reasons, within the limits, whatever the bytes are.
#![no_main]

use std::cell::RefCell;

use depin_agent::codec::{Decoded, Decoder, Limits};
use depin_domain::{
    ids::Digest,
    model::{
        Attestation, Codec, DeviceNaming, Field, Metric, MetricKind, Model, Source, TimestampField, TimestampFormat,
    },
    time::Timestamp,
};
use libfuzzer_sys::fuzz_target;

const READINGS: usize = 64;

fn metric(name: &str, unit: &str) -> Metric {
    let (name, unit) = (name.into(), unit.into());
    Metric { name, unit, kind: MetricKind::Gauge, scale: 3, min: None, max: None, max_rate: None, personal: false }
}

fn field(path: &str, metric: &str, unit: Option<&str>) -> Field {
    Field { path: path.into(), metric: metric.into(), unit: unit.map(Into::into) }
}

fn source(topic: &str, codec: Codec, timestamp: Option<TimestampFormat>) -> Source {
    let fields = match codec {
        Codec::Plain => vec![field("", "power", None)],
        Codec::SenmlJson | Codec::SenmlCbor => {
            vec![field("power", "power", None), field("total", "total", Some("W.h"))]
        }
        Codec::Json | Codec::Cbor => vec![field("p.0.x", "power", None), field("t", "total", Some("W.h"))],
    };
    let timestamp = timestamp.map(|format| TimestampField { path: "at".into(), format });
    Source { topic: topic.into(), codec, device: DeviceNaming::TopicSegment(1), each: None, timestamp, fields }
}

fn decoder() -> Decoder {
    let pattern = TimestampFormat::Pattern { pattern: "%Y-%m-%dT%H:%M:%S".into(), offset_minutes: 60 };
    let mut each = source("each/+", Codec::Json, Some(TimestampFormat::UnixSeconds));
    (each.each, each.device) = (Some("list".into()), DeviceNaming::PayloadPath("id".into()));
    let model = Model {
        name: "fuzzed".into(),
        sources: vec![
            source("plain/+", Codec::Plain, None),
            source("json/+", Codec::Json, Some(TimestampFormat::Rfc3339)),
            source("pattern/+", Codec::Json, Some(pattern)),
            source("cbor/+", Codec::Cbor, Some(TimestampFormat::UnixMillis)),
            source("senml-json/+", Codec::SenmlJson, None),
            source("senml-cbor/+", Codec::SenmlCbor, None),
            each,
        ],
        metrics: vec![metric("power", "kW"), metric("total", "kW.h")],
        cadence_ms: 60_000,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    };
    let limits = Limits { payload_bytes: 4_096, depth: 16, readings: READINGS };
    let (decoder, problems) = Decoder::new(&[(Digest::of(b"model"), model)], limits);
    assert!(problems.is_empty(), "{problems:?}");
    decoder
}

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::new(decoder());
}

fuzz_target!(|bytes: &[u8]| {
    let Some((topic, payload)) = bytes.split_first() else { return };
    let topics =
        ["plain/a", "json/a", "pattern/a", "cbor/a", "senml-json/a", "senml-cbor/a", "each/a", "unknown", "json/\u{1}"];
    let topic = topics[usize::from(*topic) % topics.len()];
    DECODER.with_borrow_mut(|decoder| {
        let mut decoded = Decoded::default();
        decoder.decode(topic, payload, Timestamp(1_790_000_000_000), &mut decoded);
        assert!(decoded.readings.len() <= READINGS);
        let grouped: usize = decoded.groups.iter().map(|group| decoded.readings_of(group).len()).sum();
        assert_eq!(grouped, decoded.readings.len());
        assert!(decoded.groups.iter().all(|group| (1..=128).contains(&decoded.serial(group).len())));
    });
});

//! EdgeDeviceModel → domain model. Pure: the registry as it is comes in, the wanted entry goes out.

use depin_crds::{EdgeDeviceModel, model as spec};
use depin_domain::{
    model::{
        Attestation, Check, CheckScope, Codec, DeviceNaming, Field, Metric, MetricKind, Model, Source, TimestampField,
        TimestampFormat,
    },
    registry::{ModelEntry, Registry},
    time::Timestamp,
};

use crate::{
    invalid::Invalid,
    quantities::{duration_ms, scaled, timestamp},
};

/// The registry's entry for `resource`.
///
/// Without `effectiveFrom`, or with one that has passed, a new version holds from `now` on: what earlier readings were judged and counted by stays.
/// Only the first version of a name holds at all times before. One that has begun keeps its time; one that is still to come begins when it is
/// asked to now, at once where nothing is asked any more.
pub fn entry(resource: &EdgeDeviceModel, registry: &Registry, now: Timestamp) -> Result<ModelEntry, Invalid> {
    let name = resource.metadata.name.clone().unwrap_or_default();
    let model = model(&name, &resource.spec)?;
    check_attestation(model.minimum_attestation)?;
    let digest =
        model.digest().map_err(|error| Invalid::new("spec", error.to_string(), "use integers for all limits"))?;
    let asked = resource.spec.effective_from.as_ref().map(timestamp);
    let newest = registry.model_chain(&name).and_then(|chain| chain.newest());
    let effective_from = begin(asked, newest.map(|newest| (newest.digest == digest, newest.effective_from)), now);
    Ok(ModelEntry { digest, model, effective_from })
}

/// From when on a version holds whose author asked for `asked`. `newest`: whether the newest registered version of the name is the same, and
/// from when on that one holds.
fn begin(asked: Option<Timestamp>, newest: Option<(bool, Timestamp)>, now: Timestamp) -> Timestamp {
    match (newest, asked) {
        (None, asked) => asked.unwrap_or(now),
        (Some((true, since)), asked) if since <= now && asked.is_none_or(|asked| asked <= now) => since,
        (Some(_), asked) => asked.map_or(now, |asked| asked.max(now)),
    }
}

/// Nothing relays yet what devices sign themselves, so a model that asks for it would have every reading rejected.
fn check_attestation(minimum: Attestation) -> Result<(), Invalid> {
    if minimum == Attestation::Agent {
        return Ok(());
    }
    let reason = format!(
        "{minimum:?} cannot be reached: depin-agent does not relay yet what devices sign themselves, so every reading would be rejected as AttestationTooLow"
    );
    Err(Invalid::new("spec.minimumAttestation", reason, "set it to Agent"))
}

/// The domain's model of a spec.
pub fn model(name: &str, spec: &spec::EdgeDeviceModelSpec) -> Result<Model, Invalid> {
    let mut metrics = indexed(&spec.metrics, "spec.metrics", metric)?;
    metrics.sort_by(|a, b| a.name.cmp(&b.name));
    let sources = indexed(&spec.sources, "spec.sources", source)?;
    for (index, source) in sources.iter().enumerate() {
        source.check(&metrics).map_err(|problem| {
            Invalid::new(format!("spec.sources[{index}].{}", problem.field), problem.reason, problem.remedy)
        })?;
    }
    Ok(Model {
        name: name.to_owned(),
        sources,
        metrics,
        cadence_ms: duration_ms("spec.cadence", &spec.cadence)?,
        reorder_horizon_ms: duration_ms("spec.reorderHorizon", &spec.reorder_horizon)?,
        checks: spec.checks.iter().map(check).collect(),
        minimum_attestation: match spec.minimum_attestation {
            spec::Attestation::Agent => Attestation::Agent,
            spec::Attestation::Device => Attestation::Device,
            spec::Attestation::Hardware => Attestation::Hardware,
        },
        capabilities: spec.capabilities.clone(),
    })
}

fn indexed<S, T>(items: &[S], path: &str, convert: impl Fn(&str, &S) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    items.iter().enumerate().map(|(index, item)| convert(&format!("{path}[{index}]"), item)).collect()
}

fn source(path: &str, source: &spec::Source) -> Result<Source, Invalid> {
    Ok(Source {
        topic: topic(path, &source.topic)?,
        codec: match source.codec {
            spec::Codec::Json => Codec::Json,
            spec::Codec::Cbor => Codec::Cbor,
            spec::Codec::Plain => Codec::Plain,
            spec::Codec::SenmlJson => Codec::SenmlJson,
            spec::Codec::SenmlCbor => Codec::SenmlCbor,
        },
        device: naming(path, &source.device, &source.topic)?,
        each: source.each.clone(),
        timestamp: source.timestamp.as_ref().map(|field| timestamp_field(path, field)).transpose()?,
        fields: source
            .fields
            .iter()
            .map(|field| Field { path: field.path.clone(), metric: field.metric.clone(), unit: field.unit.clone() })
            .collect(),
    })
}

/// A filter by the rules of MQTT: `+` fills a level, `#` is the last one.
fn topic(path: &str, filter: &str) -> Result<String, Invalid> {
    let levels: Vec<_> = filter.split('/').collect();
    let last = levels.len().saturating_sub(1);
    let good = levels.iter().enumerate().all(|(index, level)| match *level {
        "+" => true,
        "#" => index == last,
        other => !other.contains(['+', '#', '\0']),
    });
    if good {
        Ok(filter.to_owned())
    } else {
        Err(Invalid::new(
            format!("{path}.topic"),
            format!("{filter:?} is not an MQTT topic filter"),
            "let + fill a whole level and # be the last one",
        ))
    }
}

fn naming(path: &str, naming: &spec::DeviceNaming, topic: &str) -> Result<DeviceNaming, Invalid> {
    let path = format!("{path}.device");
    match (naming.topic_segment, &naming.payload_path, &naming.constant) {
        (Some(index), None, None) => {
            let place = usize::try_from(index).unwrap_or(usize::MAX);
            let levels: Vec<_> = topic.split('/').collect();
            if place >= levels.len() && levels.last() != Some(&"#") {
                let reason = format!("{topic:?} has no segment {index}");
                return Err(Invalid::new(format!("{path}.topicSegment"), reason, "count the topic's segments from 0"));
            }
            u32::try_from(index).map(DeviceNaming::TopicSegment).map_err(|_| {
                Invalid::new(format!("{path}.topicSegment"), "negative", "count the topic's segments from 0")
            })
        }
        (None, Some(place), None) => Ok(DeviceNaming::PayloadPath(place.clone())),
        (None, None, Some(serial)) => Ok(DeviceNaming::Constant(serial.clone())),
        _ => Err(Invalid::new(
            path,
            "not exactly one way of naming",
            "set one of topicSegment, payloadPath and constant",
        )),
    }
}

fn timestamp_field(path: &str, field: &spec::TimestampField) -> Result<TimestampField, Invalid> {
    let format = match (field.format, &field.pattern) {
        (spec::TimestampFormat::Rfc3339, _) => TimestampFormat::Rfc3339,
        (spec::TimestampFormat::UnixSeconds, _) => TimestampFormat::UnixSeconds,
        (spec::TimestampFormat::UnixMillis, _) => TimestampFormat::UnixMillis,
        (spec::TimestampFormat::Pattern, Some(pattern)) => {
            TimestampFormat::Pattern { pattern: pattern.clone(), offset_minutes: field.offset_minutes.unwrap_or(0) }
        }
        (spec::TimestampFormat::Pattern, None) => {
            return Err(Invalid::new(
                format!("{path}.timestamp.pattern"),
                "missing",
                "give the pattern, for example %Y-%m-%dT%H:%M:%S",
            ));
        }
    };
    Ok(TimestampField { path: field.path.clone(), format })
}

fn metric(path: &str, metric: &spec::Metric) -> Result<Metric, Invalid> {
    let scale = u8::try_from(metric.scale).ok().filter(|scale| *scale <= 9).ok_or_else(|| {
        Invalid::new(format!("{path}.scale"), format!("{} is not from 0 to 9", metric.scale), "keep at most 9 decimals")
    })?;
    let bound = |name: &str, text: &Option<String>| {
        text.as_ref().map(|text| scaled(&format!("{path}.{name}"), text, scale)).transpose()
    };
    if metric.kind == spec::MetricKind::Gauge && metric.resets_to_zero.is_some() {
        let reason = "is set, and a gauge counts nothing that could begin anew";
        return Err(Invalid::new(format!("{path}.resetsToZero"), reason, "remove it, or make the metric a Counter"));
    }
    Ok(Metric {
        name: metric.name.clone(),
        unit: metric.unit.clone(),
        kind: match metric.kind {
            spec::MetricKind::Gauge => MetricKind::Gauge,
            spec::MetricKind::Counter => MetricKind::Counter { resets_to_zero: metric.resets_to_zero.unwrap_or(false) },
        },
        scale,
        min: bound("min", &metric.min)?,
        max: bound("max", &metric.max)?,
        max_rate: bound("maxRate", &metric.max_rate)?,
        personal: metric.personal,
    })
}

fn check(check: &spec::Check) -> Check {
    Check {
        reason: check.reason.clone(),
        scope: match check.scope {
            spec::CheckScope::Reading => CheckScope::Reading,
            spec::CheckScope::Section => CheckScope::Section,
        },
        expression: check.expression.clone(),
    }
}

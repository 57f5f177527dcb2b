//! The shape of a model: what of it can be said without the rest of the registry.

use super::{Checked, MAX_GRAIN_MS, MAX_SLOTS, form::check_name, invalid, require};
use crate::{
    model::{Metric, Model},
    proofs::checks,
};

const MAX_METRICS: usize = 128;
const MAX_SOURCES: usize = 64;
const MAX_HORIZON_MS: i64 = 24 * 3_600_000;
const MAX_SCALE: u8 = 9;

pub(super) fn check_shape(model: &Model) -> Checked {
    check_name("name", &model.name)?;
    require(!model.metrics.is_empty() && model.metrics.len() <= MAX_METRICS, || {
        invalid("metrics", format!("{} are not from 1 to {MAX_METRICS}", model.metrics.len()), "split the model")
    })?;
    require(model.sources.len() <= MAX_SOURCES, || {
        invalid("sources", format!("{} are more than {MAX_SOURCES}", model.sources.len()), "split the model")
    })?;
    require((1..=MAX_GRAIN_MS).contains(&model.cadence_ms), || {
        invalid(
            "cadenceMs",
            format!("{} is not from 1 to {MAX_GRAIN_MS}", model.cadence_ms),
            "give the expected distance of readings",
        )
    })?;
    require((0..=MAX_HORIZON_MS).contains(&model.reorder_horizon_ms), || {
        let reason = format!("{} is not from 0 to {MAX_HORIZON_MS}", model.reorder_horizon_ms);
        invalid("reorderHorizonMs", reason, "a few seconds suffice for most networks")
    })?;
    require(model.metrics.is_sorted_by(|a, b| a.name < b.name), || {
        invalid("metrics", "names are not strictly ascending", "sort them and name each once")
    })?;
    model.metrics.iter().try_for_each(check_metric)?;
    checks::validate(model).map_err(|error| invalid(error.field(), error.to_string(), error.remedy()))?;
    for (index, source) in model.sources.iter().enumerate() {
        source.check(&model.metrics).map_err(|problem| {
            let place = problem.field.replace(['.', '['], "/").replace(']', "");
            invalid(format!("sources/{index}/{place}"), problem.reason, problem.remedy)
        })?;
    }
    Ok(())
}

fn check_metric(metric: &Metric) -> Checked {
    let field = |part: &str| format!("metrics/{}/{part}", metric.name.chars().take(80).collect::<String>());
    require(is_metric_name(&metric.name), || {
        invalid(
            field("name"),
            "is not a metric name",
            "use a letter and then at most 63 letters, digits and underscores",
        )
    })?;
    require(metric.scale <= MAX_SCALE, || {
        invalid(field("scale"), format!("{} is more than {MAX_SCALE}", metric.scale), "use a larger unit")
    })?;
    if let (Some(min), Some(max)) = (metric.min, metric.max) {
        require(min <= max, || invalid(field("min"), format!("{min} is more than max {max}"), "exchange them"))?;
    }
    require(metric.max_rate.is_none_or(|rate| rate > 0), || {
        invalid(field("maxRate"), "is not positive", "leave it out where any change is plausible")
    })
}

/// Whether `name` is a letter and then at most 63 letters, digits and underscores.
fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) fn check_slots(field: &str, cadence: i64, grain: i64, of: &str) -> Checked {
    require(cadence > 0 && grain % cadence == 0, || {
        let reason = format!("cadence {cadence} ms does not divide grain {grain} ms of {of}");
        invalid(field, reason, "choose a cadence that divides the grain")
    })?;
    require(grain / cadence <= MAX_SLOTS, || {
        let reason =
            format!("grain {grain} ms has {} slots of {cadence} ms with {of}, more than {MAX_SLOTS}", grain / cadence);
        invalid(field, reason, "choose a longer cadence or a shorter grain")
    })
}

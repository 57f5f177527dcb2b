//! What of a model's sources can be used: topic filters, names, paths, times and units, checked before any message comes. Pure.
//!
//! One set of rules for all: what an agent could not decode by, operator and registry refuse, so a model that is registered is one that
//! agents can follow.

use super::{Codec, DeviceNaming, Field, Metric, Source, TimestampFormat, local_time};
use crate::quantity::{Conversion, Quantizer, Unit, UnitError};

/// Longest serial in bytes.
pub const MAX_SERIAL: usize = 128;
/// Local time is never further from UTC.
const MAX_OFFSET_MINUTES: i32 = 18 * 60;

/// A part of a source cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}; {remedy}")]
pub struct SourceProblem {
    /// Which part, `fields[0].unit`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

type Checked = Result<(), SourceProblem>;

fn problem(field: impl Into<String>, reason: impl Into<String>, remedy: &'static str) -> SourceProblem {
    SourceProblem { field: field.into(), reason: reason.into(), remedy }
}

/// A path that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has an empty step")]
pub struct PathError;

/// Splits a dotted path into its steps; the empty path has none. A dot inside a key is written `\.`.
pub fn steps(path: &str) -> Result<Vec<String>, PathError> {
    let mut steps = Vec::new();
    if path.is_empty() {
        return Ok(steps);
    }
    let mut step = String::new();
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if matches!(characters.peek(), Some('.' | '\\')) => step.extend(characters.next()),
            '.' => steps.push(std::mem::take(&mut step)),
            other => step.push(other),
        }
    }
    steps.push(step);
    if steps.iter().any(String::is_empty) { Err(PathError) } else { Ok(steps) }
}

/// Whether `filter` is a topic filter: not empty, `+` and `#` alone in their level, `#` last.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    !filter.is_empty()
        && filter.len() <= 65_535
        && !filter.contains('\0')
        && filter.split('/').enumerate().all(|(at, level)| match level {
            "+" => true,
            "#" => at + 1 == levels,
            other => !other.contains(['+', '#']),
        })
}

/// Whether a device can be named so.
#[must_use]
pub fn is_serial(serial: &str) -> bool {
    !serial.is_empty()
        && serial.len() <= MAX_SERIAL
        && serial.trim().len() == serial.len()
        && !serial.chars().any(char::is_control)
}

impl Field {
    /// How numbers of this field become readings of `metric`, which it fills.
    pub fn quantizer(&self, metric: &Metric) -> Result<Quantizer, UnitError> {
        // Without a unit of its own the field has the metric's, even one that is no UCUM code: nothing is converted.
        let Some(unit) = self.unit.as_ref().filter(|unit| **unit != metric.unit) else {
            return Ok(Quantizer::plain(metric.scale));
        };
        let conversion = Conversion::between(&Unit::parse(unit)?, &Unit::parse(&metric.unit)?)?;
        Ok(Quantizer::new(conversion, metric.scale))
    }
}

impl Source {
    /// Whether messages can be decoded by it into readings of `metrics`.
    pub fn check(&self, metrics: &[Metric]) -> Checked {
        if !is_filter(&self.topic) {
            let reason = format!("{:?} is not a topic filter", self.topic);
            return Err(problem("topic", reason, "let + fill a whole level and # be the last one"));
        }
        self.check_fields(metrics)?;
        self.check_device()?;
        match self.codec {
            Codec::Json | Codec::Cbor => self.check_document()?,
            Codec::Plain => self.check_plain()?,
            Codec::SenmlJson | Codec::SenmlCbor => self.check_senml()?,
        }
        self.check_time()
    }

    fn check_fields(&self, metrics: &[Metric]) -> Checked {
        for (index, field) in self.fields.iter().enumerate() {
            let wrong = |part: &str, reason: String, remedy| problem(format!("fields[{index}].{part}"), reason, remedy);
            let Some(metric) = metrics.iter().find(|metric| metric.name == field.metric) else {
                let reason = format!("the model has no metric {:?}", field.metric);
                return Err(wrong("metric", reason, "add the metric or correct the name"));
            };
            if self.fields.iter().take(index).any(|other| other.metric == field.metric) {
                let reason = format!("{:?} is filled by an earlier field of this source", field.metric);
                return Err(wrong("metric", reason, "give each field a metric of its own"));
            }
            field.quantizer(metric).map_err(|error| {
                wrong("unit", error.to_string(), "give the unit of the payload's numbers, or correct the metric's")
            })?;
        }
        Ok(())
    }

    fn check_device(&self) -> Checked {
        match &self.device {
            DeviceNaming::TopicSegment(index) => {
                let levels = self.topic.split('/').count();
                let reached = usize::try_from(*index).is_ok_and(|index| index < levels);
                if reached || self.topic.split('/').next_back() == Some("#") {
                    return Ok(());
                }
                let reason = format!("{:?} has no segment {index}", self.topic);
                Err(problem("device.topicSegment", reason, "count the topic's segments from 0"))
            }
            DeviceNaming::Constant(serial) if !is_serial(serial) => Err(problem(
                "device.constant",
                format!("{:?} is not a serial", serial.chars().take(80).collect::<String>()),
                "use 1 to 128 bytes without control characters and without spaces at the ends",
            )),
            DeviceNaming::Constant(_) | DeviceNaming::PayloadPath(_) => Ok(()),
        }
    }

    fn check_document(&self) -> Checked {
        let path = |field: String, path: &str| {
            let wrong = |error: PathError| {
                problem(field, format!("{path:?}: {error}"), "write steps with single dots between them")
            };
            steps(path).map(|_| ()).map_err(wrong)
        };
        if let Some(each) = &self.each {
            path("each".to_owned(), each)?;
        }
        if let DeviceNaming::PayloadPath(device) = &self.device {
            path("device.payloadPath".to_owned(), device)?;
        }
        if let Some(timestamp) = &self.timestamp {
            path("timestamp.path".to_owned(), &timestamp.path)?;
        }
        self.fields.iter().enumerate().try_for_each(|(index, field)| path(format!("fields[{index}].path"), &field.path))
    }

    fn check_plain(&self) -> Checked {
        if self.fields.len() != 1 || self.fields.iter().any(|field| !field.path.is_empty()) {
            return Err(problem(
                "fields",
                "a plain payload is one number",
                "give exactly one field, with an empty path",
            ));
        }
        if self.timestamp.is_some() {
            return Err(problem("timestamp", "a plain payload holds no time", "leave it out"));
        }
        if let DeviceNaming::PayloadPath(_) = self.device {
            return Err(problem("device", "a plain payload names no device", "use topicSegment or constant"));
        }
        Ok(())
    }

    fn check_senml(&self) -> Checked {
        match &self.device {
            DeviceNaming::PayloadPath(path) if !matches!(path.as_str(), "" | "bn" | "n") => Err(problem(
                "device.payloadPath",
                format!("SenML does not name devices by {path:?}"),
                "use bn (the base name) or n (the name up to its last separator)",
            )),
            _ => Ok(()),
        }
    }

    fn check_time(&self) -> Checked {
        let Some(TimestampFormat::Pattern { pattern, offset_minutes }) =
            self.timestamp.as_ref().map(|time| &time.format)
        else {
            return Ok(());
        };
        if !local_time::tells_a_date(pattern) {
            let reason = format!("{pattern:?} does not tell a date, or has a directive that is not known");
            return Err(problem(
                "timestamp.pattern",
                reason,
                "write it as strptime does, for example %Y-%m-%dT%H:%M:%S",
            ));
        }
        if offset_minutes.unsigned_abs() > MAX_OFFSET_MINUTES.unsigned_abs() {
            let reason = format!("{offset_minutes} is not from -{MAX_OFFSET_MINUTES} to {MAX_OFFSET_MINUTES}");
            return Err(problem("timestamp.offsetMinutes", reason, "give the minutes east of UTC"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MetricKind, TimestampField};

    fn metric(name: &str, unit: &str) -> Metric {
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            kind: MetricKind::Gauge,
            scale: 3,
            min: None,
            max: None,
            max_rate: None,
            personal: false,
        }
    }

    fn good() -> Source {
        Source {
            topic: "meters/+/state".to_owned(),
            codec: Codec::Json,
            device: DeviceNaming::TopicSegment(1),
            each: None,
            timestamp: None,
            fields: vec![Field { path: "power".to_owned(), metric: "power".to_owned(), unit: Some("kW".to_owned()) }],
        }
    }

    fn wrong(change: impl FnOnce(&mut Source)) -> Option<String> {
        let mut source = good();
        change(&mut source);
        let problem = source.check(&[metric("power", "W"), metric("odd", "bananas")]).err()?;
        assert!(!problem.reason.is_empty() && !problem.remedy.is_empty(), "{problem}");
        Some(problem.field)
    }

    fn pattern(pattern: &str, offset_minutes: i32) -> Option<TimestampField> {
        let format = TimestampFormat::Pattern { pattern: pattern.to_owned(), offset_minutes };
        Some(TimestampField { path: "at".to_owned(), format })
    }

    #[test]
    fn what_can_be_used_is() {
        assert_eq!(wrong(|_| ()), None);
        assert_eq!(wrong(|source| source.fields[0].unit = None), None);
        assert_eq!(wrong(|source| source.fields[0].metric = "odd".to_owned()), Some("fields[0].unit".to_owned()));
        // Nothing is converted, so the metric's unit may be of any kind.
        let odd = |source: &mut Source| source.fields[0] = Field { path: "x".into(), metric: "odd".into(), unit: None };
        assert_eq!(wrong(odd), None);
        assert_eq!(wrong(|source| source.timestamp = pattern("%d.%m.%Y %H:%M", 60)), None);
        assert_eq!(wrong(|source| source.timestamp = pattern("%Y-%m-%d", -600)), None);
        assert_eq!(
            wrong(|source| {
                source.topic = "meters/#".to_owned();
                source.device = DeviceNaming::TopicSegment(7);
            }),
            None
        );
        assert_eq!(
            wrong(|source| {
                source.codec = Codec::SenmlCbor;
                source.device = DeviceNaming::PayloadPath("bn".to_owned());
            }),
            None
        );
        assert_eq!(
            wrong(|source| {
                source.codec = Codec::Plain;
                source.fields[0].path.clear();
            }),
            None
        );
    }

    #[test]
    fn every_part_that_cannot_be_used_is_named() {
        type Change = fn(&mut Source);
        let cases: [(&str, Change); 16] = [
            ("topic", |source| source.topic = "a/#/b".to_owned()),
            ("fields[0].metric", |source| source.fields[0].metric = "q".to_owned()),
            ("fields[1].metric", |source| source.fields.push(good().fields.remove(0))),
            ("fields[0].unit", |source| source.fields[0].unit = Some("Cel".to_owned())),
            ("fields[0].unit", |source| source.fields[0].unit = Some("watts".to_owned())),
            ("fields[0].path", |source| source.fields[0].path = "a..b".to_owned()),
            ("each", |source| source.each = Some(".".to_owned())),
            ("device.payloadPath", |source| source.device = DeviceNaming::PayloadPath("a.".to_owned())),
            ("device.topicSegment", |source| source.device = DeviceNaming::TopicSegment(3)),
            ("device.constant", |source| source.device = DeviceNaming::Constant(" a".to_owned())),
            ("timestamp.path", |source| {
                source.timestamp =
                    Some(TimestampField { path: "a..b".to_owned(), format: TimestampFormat::UnixMillis });
            }),
            ("timestamp.pattern", |source| source.timestamp = pattern("%H:%M", 0)),
            ("timestamp.pattern", |source| source.timestamp = pattern("%Y-%m-%d %!", 0)),
            ("timestamp.offsetMinutes", |source| source.timestamp = pattern("%Y-%m-%d", 1_081)),
            ("fields", |source| source.codec = Codec::Plain),
            ("device.payloadPath", |source| {
                source.codec = Codec::SenmlJson;
                source.device = DeviceNaming::PayloadPath("x".to_owned());
            }),
        ];
        for (field, change) in cases {
            assert_eq!(wrong(change).as_deref(), Some(field));
        }
        let plain = |change: Change| {
            wrong(|source| {
                source.codec = Codec::Plain;
                source.fields[0].path.clear();
                change(source);
            })
        };
        assert_eq!(plain(|source| source.timestamp = pattern("%Y-%m-%d", 0)).as_deref(), Some("timestamp"));
        let by_payload = plain(|source| source.device = DeviceNaming::PayloadPath("x".to_owned()));
        assert_eq!(by_payload.as_deref(), Some("device"));
    }

    #[test]
    fn paths_split_at_single_dots() {
        assert_eq!(steps("").unwrap(), Vec::<String>::new());
        assert_eq!(steps("a.0.b").unwrap(), ["a", "0", "b"]);
        assert_eq!(steps(r"a\.b.c\\").unwrap(), ["a.b", r"c\"]);
        assert_eq!(steps("params.switch:0.apower").unwrap(), ["params", "switch:0", "apower"]);
        assert_eq!(steps("a..b"), Err(PathError));
        assert_eq!(steps(".a"), Err(PathError));
        assert_eq!(steps("a."), Err(PathError));
    }

    #[test]
    fn malformed_filters_are_told() {
        for filter in ["", "a+/b", "a/#/b", "#a", "a\0"] {
            assert!(!is_filter(filter), "{filter:?}");
        }
        for filter in ["#", "+/+/#", "a//b", "$share", "/"] {
            assert!(is_filter(filter), "{filter:?}");
        }
    }
}

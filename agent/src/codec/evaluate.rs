//! From captured parts to readings: who, when, how much.

use std::borrow::Cow;

use depin_domain::{model::sources::is_serial, proofs::Reason, time::Timestamp};

use super::{
    Decoded, DecodedReading, Group, Message, Place,
    capture::{self, Captures, Kind, Scan, Span},
    compile::{CompiledSource, DEVICE_SLOT, DeviceRule, FIRST_FIELD_SLOT, TIME_SLOT},
    timestamp,
};

/// Memory that is reused from message to message.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) captures: Captures,
}

/// A JSON or CBOR document: one set of fields, or one for each element of an array.
pub(super) fn document(
    message: &Message<'_>,
    source: &CompiledSource,
    model: usize,
    scan: Scan,
    scratch: &mut Scratch,
    out: &mut Decoded,
) -> Result<(), Reason> {
    let captures = &mut scratch.captures;
    captures.begin(&source.tree, message.limits.readings);
    scan(message.payload, &source.tree, message.limits.depth, captures)?;
    if !source.each {
        element(message, source, model, &captures.root, &captures.root, out);
        return Ok(());
    }
    if !captures.found_array {
        return Err(Reason::MissingField);
    }
    let mut left = message.limits.readings;
    for index in 0..captures.count {
        let before = out.readings.len();
        element(message, source, model, captures.element(index), &captures.root, out);
        left = left.saturating_sub(out.readings.len() - before);
        if left == 0 && index + 1 < captures.count {
            return Err(Reason::OversizePayload);
        }
    }
    if captures.truncated { Err(Reason::OversizePayload) } else { Ok(()) }
}

fn element(
    message: &Message<'_>,
    source: &CompiledSource,
    model: usize,
    spans: &[Span],
    root: &[Span],
    out: &mut Decoded,
) {
    let slot = |slot: usize| {
        let own = spans.get(slot).copied().unwrap_or_default();
        if own.present() { own } else { root.get(slot).copied().unwrap_or_default() }
    };
    let serial = match named_device(message, source, &slot(DEVICE_SLOT)) {
        Ok(serial) => serial,
        Err(reason) => return out.reject(reason, Some(model), Place::Device),
    };
    let at = match &source.timestamp {
        None => message.received,
        Some(format) => match timestamp::read(format, &slot(TIME_SLOT), message.payload) {
            Some(at) => at,
            None => return out.reject(Reason::BadTimestamp, Some(model), Place::Timestamp),
        },
    };
    let start = out.readings.len();
    for (index, field) in source.fields.iter().enumerate() {
        let span = spans.get(FIRST_FIELD_SLOT + index).copied().unwrap_or_default();
        let value = span
            .number(message.payload)
            .and_then(|number| field.quantizer.quantize(number).map_err(|_| Reason::NotRepresentable));
        match value {
            Ok(value) => out.readings.push(DecodedReading { metric: field.metric, at, value }),
            Err(reason) => out.reject(reason, Some(model), Place::Field(field.path.clone())),
        }
    }
    push_group(out, model, source.timestamp.is_some(), &serial, start);
}

/// A payload that is one number.
pub(super) fn plain(
    message: &Message<'_>,
    source: &CompiledSource,
    model: usize,
    out: &mut Decoded,
) -> Result<(), Reason> {
    let serial = match named_device(message, source, &Span::default()) {
        Ok(serial) => serial,
        Err(reason) => {
            out.reject(reason, Some(model), Place::Device);
            return Ok(());
        }
    };
    let text = message.payload.trim_ascii();
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    let start = out.readings.len();
    for field in &source.fields {
        let number = if text.is_empty() { Err(Reason::MissingField) } else { capture::parse(text) };
        match number.and_then(|number| field.quantizer.quantize(number).map_err(|_| Reason::NotRepresentable)) {
            Ok(value) => out.readings.push(DecodedReading { metric: field.metric, at: message.received, value }),
            Err(reason) => out.reject(reason, Some(model), Place::Field(field.path.clone())),
        }
    }
    push_group(out, model, false, &serial, start);
    Ok(())
}

/// The readings since `start` are this device's.
pub(super) fn push_group(out: &mut Decoded, model: usize, device_time: bool, serial: &str, start: usize) {
    if out.readings.len() == start {
        return;
    }
    let name = out.serials.len()..out.serials.len() + serial.len();
    out.serials.push_str(serial);
    out.groups.push(Group { model, device_time, readings: start..out.readings.len(), serial: name });
}

fn named_device<'a>(message: &Message<'a>, source: &'a CompiledSource, span: &Span) -> Result<Cow<'a, str>, Reason> {
    let serial = match &source.device {
        DeviceRule::TopicSegment(index) => {
            Cow::Borrowed(message.topic.split('/').nth(*index).ok_or(Reason::NoDeviceName)?)
        }
        DeviceRule::Constant(serial) => Cow::Borrowed(serial.as_str()),
        DeviceRule::Payload => match span.kind {
            Kind::Missing | Kind::Null => return Err(Reason::NoDeviceName),
            _ => span.text(message.payload).ok_or(Reason::InvalidSerial)?,
        },
        // These are named record by record.
        DeviceRule::SenmlBase | DeviceRule::SenmlPrefix => return Err(Reason::NoDeviceName),
    };
    valid_serial(serial)
}

/// The device of a SenML record whose name does not matter for it; `None` where the record names it.
pub(super) fn fixed_device<'a>(
    message: &Message<'a>,
    source: &'a CompiledSource,
) -> Option<Result<Cow<'a, str>, Reason>> {
    match source.device {
        DeviceRule::SenmlBase | DeviceRule::SenmlPrefix => None,
        _ => Some(named_device(message, source, &Span::default())),
    }
}

pub(super) fn valid_serial(serial: Cow<'_, str>) -> Result<Cow<'_, str>, Reason> {
    if is_serial(&serial) { Ok(serial) } else { Err(Reason::InvalidSerial) }
}

/// Milliseconds as a timestamp.
pub(super) fn time(ms: i64) -> Result<Timestamp, Reason> {
    timestamp::within(ms).ok_or(Reason::BadTimestamp)
}

//! SenML (RFC 8428) in JSON and CBOR: records with base fields, resolved one by one.
//!
//! Field paths are names without the device's part: with the device named by `bn` the record's own `n`, with `n` the part of the
//! resolved name after its last separator, otherwise the record's `n` or its resolved name. Such a path is the record's value; with
//! `#s` behind it, which no SenML name may hold, it is the record's sum: the integral of the value over time, in its unit times seconds.

use std::borrow::Cow;

use depin_domain::{
    model::Metric,
    proofs::Reason,
    quantity::{Conversion, Number, Quantizer, Unit},
};

use super::{
    Decoded, DecodedReading, Message, Place,
    capture::{Captures, Scan, Span},
    compile::{CompiledField, CompiledSource, DeviceRule},
    evaluate::{self, Scratch},
    path::PathTree,
};

/// Labels in the order of the slots.
pub(super) const JSON_LABELS: [&str; 11] = ["bn", "bt", "bu", "bv", "bver", "n", "u", "v", "t", "s", "bs"];
/// The same in CBOR.
pub(super) const CBOR_LABELS: [&str; 11] = ["-2", "-3", "-4", "-5", "-1", "0", "1", "2", "6", "5", "-6"];

const BASE_NAME: usize = 0;
const BASE_TIME: usize = 1;
const BASE_UNIT: usize = 2;
const BASE_VALUE: usize = 3;
const BASE_VERSION: usize = 4;
const NAME: usize = 5;
const UNIT: usize = 6;
const VALUE: usize = 7;
const TIME: usize = 8;
const SUM: usize = 9;
const BASE_SUM: usize = 10;

/// The version that RFC 8428 describes, and the newest that is understood.
const VERSION: i64 = 10;
/// Times below 2^28 seconds are relative to now.
const RELATIVE_BELOW_MS: i64 = (1 << 28) * 1000;
/// Separators that may end a base name.
const SEPARATORS: [char; 5] = [':', '/', '.', '-', '_'];
/// Units remembered for each field.
const REMEMBERED_UNITS: usize = 8;
/// What follows a record's name in the path of a field that is the record's sum.
const SUM_SUFFIX: &str = "#s";

/// The quantity of a record that a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    /// `v`, with the base value.
    Value,
    /// `s`, with the base sum.
    Sum,
}

/// What a field asks of a record: see the module.
#[derive(Debug)]
pub(super) struct Wanted {
    name: Box<str>,
    quantity: Quantity,
}

impl Wanted {
    /// Reads a field's path.
    pub(super) fn of(path: &str) -> Self {
        match path.strip_suffix(SUM_SUFFIX) {
            Some(name) => Self { name: name.into(), quantity: Quantity::Sum },
            None => Self { name: path.into(), quantity: Quantity::Value },
        }
    }
}

/// The tree that captures an array of records.
pub(super) fn tree(labels: &[&str; 11]) -> PathTree {
    let mut tree = PathTree::new(labels.len());
    if let Ok(element) = tree.each("") {
        tree.strict(element);
        for (slot, label) in labels.iter().enumerate() {
            // A label has exactly one step, so it always is a path.
            let _ = tree.want(element, label, slot);
        }
    }
    tree
}

/// Conversions from units that payloads named, to the metric's.
#[derive(Debug)]
pub(super) struct UnitMemory {
    unit: String,
    scale: u8,
    quantity: Quantity,
    known: Vec<(Box<str>, Option<Quantizer>)>,
}

impl UnitMemory {
    pub(super) fn new(metric: &Metric, wanted: &Wanted) -> Self {
        Self { unit: metric.unit.clone(), scale: metric.scale, quantity: wanted.quantity, known: Vec::new() }
    }

    fn quantizer(&mut self, senml: &str) -> Option<Quantizer> {
        if let Some((_, found)) = self.known.iter().find(|(unit, _)| **unit == *senml) {
            return *found;
        }
        let code = match self.quantity {
            Quantity::Value => Cow::Borrowed(ucum(senml)),
            // UCUM reads from left to right: `L/min.s` is (L/min)·s.
            Quantity::Sum => Cow::Owned(format!("{}.s", ucum(senml))),
        };
        let found = if *code == *self.unit {
            Some(Quantizer::plain(self.scale))
        } else {
            let convert = || Conversion::between(&Unit::parse(&code)?, &Unit::parse(&self.unit)?);
            convert().ok().map(|conversion| Quantizer::new(conversion, self.scale))
        };
        if self.known.len() >= REMEMBERED_UNITS {
            self.known.clear();
        }
        if senml.len() <= 64 {
            self.known.push((senml.into(), found));
        }
        found
    }
}

/// SenML's unit names (RFC 8428, RFC 8798) that UCUM writes otherwise.
fn ucum(senml: &str) -> &str {
    match senml {
        "%RH" | "%EL" | "/100" => "%",
        "/" | "count" => "1",
        "/1000" => "[ppth]",
        "Celsius" => "Cel",
        "degF" => "[degF]",
        "dBm" => "dB[mW]",
        "dBW" => "dB[W]",
        "B" => "By",
        "KiB" => "KiBy",
        "GB" => "GBy",
        "B/s" => "By/s",
        "MB/s" => "MBy/s",
        "beat/min" | "EL" => "/min",
        "ohm" => "Ohm",
        "min" => "min",
        other => other,
    }
}

/// The base fields that stand so far.
struct Base {
    name: String,
    time: Number,
    unit: Option<String>,
    value: Number,
    /// Absent, records without a sum of their own have none.
    sum: Option<Number>,
}

/// An array of records.
pub(super) fn decode(
    message: &Message<'_>,
    source: &mut CompiledSource,
    model: usize,
    scan: Scan,
    scratch: &mut Scratch,
    out: &mut Decoded,
) -> Result<(), Reason> {
    let captures = &mut scratch.captures;
    captures.begin(&source.tree, message.limits.readings);
    scan(message.payload, &source.tree, message.limits.depth, captures)?;
    if !captures.found_array {
        return Err(Reason::MalformedPayload);
    }
    // A version that is not understood spoils the whole pack, wherever it stands.
    for index in 0..captures.count {
        let version = span(captures, index, BASE_VERSION);
        if version.present() {
            let version = version.number(message.payload).and_then(whole).map_err(|_| Reason::MalformedPayload)?;
            if version > VERSION {
                return Err(Reason::MalformedPayload);
            }
        }
    }
    let mut left = message.limits.readings;
    let mut base = Base { name: String::new(), time: Number::ZERO, unit: None, value: Number::ZERO, sum: None };
    for index in 0..captures.count {
        let record = captures.element(index);
        base.update(record, message.payload)?;
        let slot = |slot: usize| record.get(slot).copied().unwrap_or_default();
        if slot(VALUE).present() || slot(SUM).present() || slot(NAME).present() {
            let before = out.readings.len();
            resolve(message, source, model, record, &base, out);
            left = left.saturating_sub(out.readings.len() - before);
            if left == 0 && index + 1 < captures.count {
                return Err(Reason::OversizePayload);
            }
        }
    }
    if captures.truncated { Err(Reason::OversizePayload) } else { Ok(()) }
}

fn span(captures: &Captures, element: usize, slot: usize) -> Span {
    captures.element(element).get(slot).copied().unwrap_or_default()
}

fn whole(number: Number) -> Result<i64, Reason> {
    Quantizer::plain(0).quantize(number).map_err(|_| Reason::MalformedPayload)
}

impl Base {
    /// A base field that is not what it must be makes every later record uncertain: the pack is malformed.
    fn update(&mut self, record: &[Span], payload: &[u8]) -> Result<(), Reason> {
        let slot = |slot: usize| record.get(slot).copied().unwrap_or_default();
        let text = |slot: Span| slot.text(payload).map(Cow::into_owned).ok_or(Reason::MalformedPayload);
        let number = |slot: Span| slot.number(payload).map_err(|_| Reason::MalformedPayload);
        if slot(BASE_NAME).present() {
            self.name = text(slot(BASE_NAME))?;
        }
        if slot(BASE_TIME).present() {
            self.time = number(slot(BASE_TIME))?;
        }
        if slot(BASE_UNIT).present() {
            self.unit = Some(text(slot(BASE_UNIT))?);
        }
        if slot(BASE_VALUE).present() {
            self.value = number(slot(BASE_VALUE))?;
        }
        if slot(BASE_SUM).present() {
            self.sum = Some(number(slot(BASE_SUM))?);
        }
        Ok(())
    }
}

fn resolve(
    message: &Message<'_>,
    source: &mut CompiledSource,
    model: usize,
    record: &[Span],
    base: &Base,
    out: &mut Decoded,
) {
    let slot = |slot: usize| record.get(slot).copied().unwrap_or_default();
    let own = match slot(NAME).present() {
        true => slot(NAME).text(message.payload),
        false => Some(Cow::Borrowed("")),
    };
    let Some(own) = own else {
        return out.reject(Reason::MalformedPayload, Some(model), Place::Device);
    };
    let full = format!("{}{own}", base.name);
    let (device, local) = match split_name(message, source, base, &own, &full) {
        Ok(split) => split,
        Err(reason) => return out.reject(reason, Some(model), Place::Device),
    };
    // Records that no field asks for are other quantities of the device, not flaws.
    for quantity in [Quantity::Value, Quantity::Sum] {
        let asks = |wanted: &Wanted| wanted.quantity == quantity && (*wanted.name == *local || *wanted.name == *full);
        let Some(field) = source.fields.iter_mut().find(|field| asks(&field.senml)) else { continue };
        match read(message, field, record, base) {
            Ok(Some((reading, device_time))) => push(out, model, &device, reading, device_time),
            Ok(None) => {}
            Err(reason) => out.reject(reason, Some(model), Place::Field(field.path.clone())),
        }
    }
}

/// Adds a reading to the device's group, if that is the one at the end.
fn push(out: &mut Decoded, model: usize, device: &str, reading: DecodedReading, device_time: bool) {
    let start = out.readings.len();
    out.readings.push(reading);
    let extends = out
        .groups
        .last()
        .is_some_and(|group| group.model == model && group.device_time == device_time && out.serial(group) == device);
    match out.groups.last_mut().filter(|group| extends && group.readings.end == start) {
        Some(group) => group.readings.end = start + 1,
        None => evaluate::push_group(out, model, device_time, device, start),
    }
}

/// The device, and the record's name within it.
fn split_name<'a>(
    message: &Message<'a>,
    source: &'a CompiledSource,
    base: &'a Base,
    own: &'a str,
    full: &'a str,
) -> Result<(String, String), Reason> {
    if let Some(fixed) = evaluate::fixed_device(message, source) {
        return Ok((fixed?.into_owned(), own.to_owned()));
    }
    let (device, local) = match source.device {
        DeviceRule::SenmlBase if base.name.is_empty() => (full, ""),
        DeviceRule::SenmlBase => (base.name.as_str(), own),
        _ => match full.rfind(SEPARATORS) {
            Some(at) => (&full[..at], &full[at + 1..]),
            None => (full, ""),
        },
    };
    if device.is_empty() {
        return Err(Reason::NoDeviceName);
    }
    let device = evaluate::valid_serial(Cow::Borrowed(device.trim_end_matches(SEPARATORS)))?;
    Ok((device.into_owned(), local.to_owned()))
}

/// The reading of a field, and whether the device told its time; `None` where the record does not have the quantity.
fn read(
    message: &Message<'_>,
    field: &mut CompiledField,
    record: &[Span],
    base: &Base,
) -> Result<Option<(DecodedReading, bool)>, Reason> {
    let slot = |slot: usize| record.get(slot).copied().unwrap_or_default();
    let Some((own, base_part)) = quantity(message, field.senml.quantity, record, base)? else { return Ok(None) };
    let (at, device_time) = when(message, &slot(TIME), base)?;
    let own_unit = slot(UNIT);
    let quantizer = if own_unit.present() {
        let unit = own_unit.text(message.payload).ok_or(Reason::UnknownUnit)?;
        field.units.quantizer(&unit).ok_or(Reason::UnknownUnit)?
    } else if let Some(unit) = &base.unit {
        field.units.quantizer(unit).ok_or(Reason::UnknownUnit)?
    } else {
        field.quantizer
    };
    let value = quantizer.quantize_sum(own, base_part).map_err(|_| Reason::NotRepresentable)?;
    Ok(Some((DecodedReading { metric: field.metric, at, value }, device_time)))
}

/// What the record has for the quantity, and what its base adds (RFC 8428, sections 4.2 and 4.5.4). With a sum the value may be left out;
/// without one it is required.
fn quantity(
    message: &Message<'_>,
    quantity: Quantity,
    record: &[Span],
    base: &Base,
) -> Result<Option<(Number, Number)>, Reason> {
    let slot = |slot: usize| record.get(slot).copied().unwrap_or_default();
    let (own, base_part) = match quantity {
        Quantity::Value => (slot(VALUE), base.value),
        Quantity::Sum => (slot(SUM), base.sum.unwrap_or(Number::ZERO)),
    };
    if own.present() {
        return Ok(Some((own.number(message.payload)?, base_part)));
    }
    match quantity {
        Quantity::Sum => Ok(base.sum.map(|sum| (sum, Number::ZERO))),
        Quantity::Value if slot(SUM).present() || base.sum.is_some() => Ok(None),
        // Text, truth and data values (vs, vb, vd) are no quantities.
        Quantity::Value => Err(Reason::NotANumber),
    }
}

/// The record's time, and whether it rests on the device's clock.
fn when(message: &Message<'_>, own: &Span, base: &Base) -> Result<(depin_domain::time::Timestamp, bool), Reason> {
    let own = if own.present() { own.number(message.payload).map_err(|_| Reason::BadTimestamp)? } else { Number::ZERO };
    let ms = Quantizer::plain(3).quantize_sum(own, base.time).map_err(|_| Reason::BadTimestamp)?;
    if ms < RELATIVE_BELOW_MS {
        let at = message.received.0.checked_add(ms).ok_or(Reason::BadTimestamp)?;
        return Ok((evaluate::time(at)?, false));
    }
    Ok((evaluate::time(ms)?, true))
}

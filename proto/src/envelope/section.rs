//! A section: what one device measured. Timestamps and values are differences, so that a steady series takes few bytes.

use depin_domain::{
    ids::{DeviceId, Digest},
    model::Attestation,
    proofs::{Reading, Section, Series},
    time::Timestamp,
};

use super::{
    error::{EnvelopeError, Problem, at_least, at_most},
    limits::{MAX_NAME, MAX_SECTION_READINGS, MAX_SERIES},
    reader::{Reader, put_varint, put_zigzag},
};

const MAGIC: &[u8; 4] = b"DPS1";
const MEASUREMENT: u8 = 1;
/// The shortest form of a reading after the first: one byte of time, one of value.
const SHORTEST_READING: usize = 2;

/// The section's bytes.
///
/// # Errors
/// Where a field is out of the format's limits, series or readings do not ascend, or one is empty.
pub fn encode_section(section: &Section) -> Result<Vec<u8>, EnvelopeError> {
    at_least(section.series.len() as u64, 1, "section.series")?;
    at_most(section.series.len(), MAX_SERIES, "section.series")?;
    let readings: usize = section.series.iter().map(|series| series.readings.len()).sum();
    at_most(readings, MAX_SECTION_READINGS, "section.readings")?;
    let mut out = Vec::with_capacity(64 + 32 * section.series.len() + 6 * readings);
    out.extend(MAGIC);
    out.push(MEASUREMENT);
    out.extend(section.device.0);
    out.extend(section.model.0);
    out.push(attestation_code(section.attestation));
    out.extend((section.series.len() as u16).to_be_bytes());
    let mut before = "";
    for series in &section.series {
        ascending(before, &series.metric)?;
        encode_series(&mut out, series)?;
        before = &series.metric;
    }
    Ok(out)
}

fn encode_series(out: &mut Vec<u8>, series: &Series) -> Result<(), EnvelopeError> {
    check_name(series.metric.as_bytes())?;
    out.push(series.metric.len() as u8);
    out.extend(series.metric.as_bytes());
    let Some((first, rest)) = series.readings.split_first() else {
        return Err(Problem::BelowMinimum(1).at("section.readings"));
    };
    out.extend((series.readings.len() as u32).to_be_bytes());
    out.extend(first.at.0.to_be_bytes());
    put_zigzag(out, first.value);
    let mut before = first;
    for reading in rest {
        if reading.at <= before.at {
            return Err(Problem::NotAscending.at("section.timestamp"));
        }
        // Exact in wrapping arithmetic: the difference of two ascending i64 fits u64.
        put_varint(out, reading.at.0.wrapping_sub(before.at.0).cast_unsigned());
        put_zigzag(out, reading.value.wrapping_sub(before.value));
        before = reading;
    }
    Ok(())
}

/// Reads a section.
///
/// # Errors
/// Naming the first field that is not as the format says.
pub fn decode_section(bytes: &[u8]) -> Result<Section, EnvelopeError> {
    let mut reader = Reader::new(bytes, MAGIC, "section.magic")?;
    let kind = reader.u8("section.kind")?;
    if kind != MEASUREMENT {
        return Err(Problem::UnknownCode(kind.into()).at("section.kind"));
    }
    let device = DeviceId(reader.array("section.device")?);
    let model = Digest(reader.array("section.model")?);
    let attestation = attestation(reader.u8("section.attestation")?)?;
    let count = at_most(reader.u16("section.series")?.into(), MAX_SERIES, "section.series")?;
    at_least(count as u64, 1, "section.series")?;
    let mut series: Vec<Series> = Vec::with_capacity(count.min(reader.left()));
    let mut room = MAX_SECTION_READINGS;
    for _ in 0..count {
        let next = decode_series(&mut reader, room)?;
        ascending(series.last().map_or("", |last| &last.metric), &next.metric)?;
        room -= next.readings.len();
        series.push(next);
    }
    reader.end("section")?;
    Ok(Section { device, model, attestation, series })
}

/// Reads one series of at most `room` readings.
fn decode_series(reader: &mut Reader<'_>, room: usize) -> Result<Series, EnvelopeError> {
    let length = at_most(reader.u8("section.metric")?.into(), MAX_NAME, "section.metric")?;
    let metric = check_name(reader.slice(length, "section.metric")?)?.to_owned();
    let count = at_most(reader.u32("section.readings")? as usize, room, "section.readings")?;
    at_least(count as u64, 1, "section.readings")?;
    let mut readings = Vec::with_capacity(count.min(1 + reader.left() / SHORTEST_READING));
    let mut at = reader.i64("section.timestamp")?;
    let mut value = reader.zigzag("section.value")?;
    readings.push(Reading { at: Timestamp(at), value });
    for _ in 1..count {
        let step = at_least(reader.varint("section.timestamp")?, 1, "section.timestamp")?;
        at = at.checked_add_unsigned(step).ok_or(Problem::Overflow.at("section.timestamp"))?;
        value = value.wrapping_add(reader.zigzag("section.value")?);
        readings.push(Reading { at: Timestamp(at), value });
    }
    Ok(Series { metric, readings })
}

fn ascending(before: &str, name: &str) -> Result<(), EnvelopeError> {
    if before < name { Ok(()) } else { Err(Problem::NotAscending.at("section.metric")) }
}

fn check_name(bytes: &[u8]) -> Result<&str, EnvelopeError> {
    let well_formed = bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    std::str::from_utf8(bytes).ok().filter(|_| well_formed).ok_or(Problem::InvalidName.at("section.metric"))
}

fn attestation_code(attestation: Attestation) -> u8 {
    match attestation {
        Attestation::Agent => 0,
        Attestation::Device => 1,
        Attestation::Hardware => 2,
    }
}

fn attestation(code: u8) -> Result<Attestation, EnvelopeError> {
    match code {
        0 => Ok(Attestation::Agent),
        1 => Ok(Attestation::Device),
        2 => Ok(Attestation::Hardware),
        other => Err(Problem::UnknownCode(other.into()).at("section.attestation")),
    }
}

//! A verdict's canonical bytes: what the receipt's verdict digest is over, and what the ledger keeps beside a proof.

use depin_domain::{
    ids::Digest,
    proofs::{Reason, Rejection, Verdict},
};

use super::{
    error::{EnvelopeError, Problem, at_most},
    limits::{MAX_DETAIL, MAX_REJECTIONS},
    reader::Reader,
};

/// Stands for a rejection of the whole section.
const WHOLE_SECTION: u32 = u32::MAX;
/// The shortest rejection: section, series, count, reason, detail length.
const SHORTEST_REJECTION: usize = 4 + 4 + 4 + 2 + 1;

/// The verdict's canonical bytes.
///
/// # Errors
/// Where a detail is too long, indexes do not ascend, or a whole section is rejected with indexes.
pub fn encode_verdict(verdict: &Verdict) -> Result<Vec<u8>, EnvelopeError> {
    let mut out = Vec::with_capacity(12 + 16 * verdict.rejections.len());
    out.extend(verdict.accepted.to_be_bytes());
    let count = at_most(verdict.rejections.len(), MAX_REJECTIONS, "verdict.rejections")?;
    out.extend((count as u32).to_be_bytes());
    for rejection in &verdict.rejections {
        check(rejection)?;
        out.extend(rejection.section.to_be_bytes());
        out.extend(rejection.series.unwrap_or(WHOLE_SECTION).to_be_bytes());
        out.extend((rejection.readings.len() as u32).to_be_bytes());
        for reading in &rejection.readings {
            out.extend(reading.to_be_bytes());
        }
        out.extend(rejection.reason.code().to_be_bytes());
        out.push(rejection.detail.len() as u8);
        out.extend(rejection.detail.as_bytes());
    }
    Ok(out)
}

/// SHA-256 of the verdict's canonical bytes.
///
/// # Errors
/// As for `encode_verdict`.
pub fn verdict_digest(verdict: &Verdict) -> Result<Digest, EnvelopeError> {
    Ok(Digest::of(&encode_verdict(verdict)?))
}

/// Reads a verdict's canonical bytes.
///
/// # Errors
/// Naming the first field that is not as the format says.
pub fn decode_verdict(bytes: &[u8]) -> Result<Verdict, EnvelopeError> {
    let mut reader = Reader::bare(bytes);
    let accepted = reader.u64("verdict.accepted")?;
    let count = at_most(reader.u32("verdict.rejections")? as usize, MAX_REJECTIONS, "verdict.rejections")?;
    let mut rejections = Vec::with_capacity(count.min(reader.left() / SHORTEST_REJECTION));
    for _ in 0..count {
        rejections.push(decode_rejection(&mut reader)?);
    }
    reader.end("verdict")?;
    Ok(Verdict { accepted, rejections })
}

fn decode_rejection(reader: &mut Reader<'_>) -> Result<Rejection, EnvelopeError> {
    let section = reader.u32("verdict.section")?;
    let series = Some(reader.u32("verdict.series")?).filter(|series| *series != WHOLE_SECTION);
    let count = at_most(reader.u32("verdict.readings")? as usize, MAX_REJECTIONS, "verdict.readings")?;
    let mut readings = Vec::with_capacity(count.min(reader.left() / 4));
    for _ in 0..count {
        readings.push(reader.u32("verdict.readings")?);
    }
    let code = reader.u16("verdict.reason")?;
    let reason = Reason::from_code(code).ok_or(Problem::UnknownCode(code.into()).at("verdict.reason"))?;
    let length = reader.u8("verdict.detail")?;
    let detail = std::str::from_utf8(reader.slice(length.into(), "verdict.detail")?)
        .map_err(|_| Problem::NotText.at("verdict.detail"))?
        .to_owned();
    let rejection = Rejection { section, series, readings, reason, detail };
    check(&rejection)?;
    Ok(rejection)
}

fn check(rejection: &Rejection) -> Result<(), EnvelopeError> {
    at_most(rejection.detail.len(), MAX_DETAIL, "verdict.detail")?;
    at_most(rejection.readings.len(), MAX_REJECTIONS, "verdict.readings")?;
    if rejection.series == Some(WHOLE_SECTION) {
        return Err(Problem::OverLimit { value: WHOLE_SECTION.into(), limit: u64::from(WHOLE_SECTION) - 1 }
            .at("verdict.series"));
    }
    if rejection.series.is_none() && !rejection.readings.is_empty() {
        return Err(Problem::Contradiction("must be none where the whole section is rejected").at("verdict.readings"));
    }
    if !rejection.readings.is_sorted_by(|left, right| left < right) {
        return Err(Problem::NotAscending.at("verdict.readings"));
    }
    Ok(())
}

//! The header: the only bytes that a proof's signature covers.

use depin_domain::{
    ids::{Digest, KeyId},
    proofs::{Drop, DropReason, Header},
    time::{Timestamp, Window},
};

use super::{
    error::{EnvelopeError, Problem, at_least, at_most},
    limits::{MAX_DROPS, MAX_SECTIONS},
    reader::Reader,
};

const MAGIC: &[u8; 4] = b"DPH1";
const FIXED: usize = 4 + 32 + 8 + 8 + 32 + 8 + 8 + 8 + 16 + 2 + 4 + 32;
const DROP: usize = 29;

/// The header's bytes.
///
/// # Errors
/// Where a field is out of the format's limits or contradicts another: the same rules as for decoding.
pub fn encode_header(header: &Header) -> Result<Vec<u8>, EnvelopeError> {
    check(header)?;
    let mut out = Vec::with_capacity(FIXED + DROP * header.drops.len());
    out.extend(MAGIC);
    out.extend(header.key.0);
    out.extend(header.incarnation.to_be_bytes());
    out.extend(header.sequence.to_be_bytes());
    out.extend(header.previous.0);
    out.extend(header.registry_incarnation.to_be_bytes());
    out.extend(header.registry_version.to_be_bytes());
    out.extend(header.sealed_at.0.to_be_bytes());
    out.extend(header.window.start.0.to_be_bytes());
    out.extend(header.window.end.0.to_be_bytes());
    out.extend((header.drops.len() as u16).to_be_bytes());
    for drop in &header.drops {
        out.push(drop.reason as u8);
        out.extend(drop.count.to_be_bytes());
        out.extend(drop.first.0.to_be_bytes());
        out.extend(drop.last.0.to_be_bytes());
        out.extend(drop.ordinal.to_be_bytes());
    }
    out.extend(header.sections.to_be_bytes());
    out.extend(header.body.0);
    Ok(out)
}

/// Reads a header.
///
/// # Errors
/// Naming the first field that is not as the format says.
pub fn decode_header(bytes: &[u8]) -> Result<Header, EnvelopeError> {
    let mut reader = Reader::new(bytes, MAGIC, "header.magic")?;
    let header = Header {
        key: KeyId(reader.array("header.chain key")?),
        incarnation: reader.u64("header.incarnation")?,
        sequence: reader.u64("header.sequence")?,
        previous: Digest(reader.array("header.previous")?),
        registry_incarnation: reader.u64("header.registry incarnation")?,
        registry_version: reader.u64("header.registry version")?,
        sealed_at: Timestamp(reader.i64("header.sealed at")?),
        window: Window {
            start: Timestamp(reader.i64("header.window start")?),
            end: Timestamp(reader.i64("header.window end")?),
        },
        drops: decode_drops(&mut reader)?,
        sections: reader.u32("header.sections")?,
        body: Digest(reader.array("header.body")?),
    };
    reader.end("header")?;
    check(&header)?;
    Ok(header)
}

fn decode_drops(reader: &mut Reader<'_>) -> Result<Vec<Drop>, EnvelopeError> {
    let count = at_most(reader.u16("header.drops")?.into(), MAX_DROPS, "header.drops")?;
    let mut drops = Vec::with_capacity(count.min(reader.left() / DROP));
    for _ in 0..count {
        drops.push(Drop {
            reason: drop_reason(reader.u8("header.drops.reason")?)?,
            count: reader.u64("header.drops.count")?,
            first: Timestamp(reader.i64("header.drops.first")?),
            last: Timestamp(reader.i64("header.drops.last")?),
            ordinal: reader.u32("header.drops.ordinal")?,
        });
    }
    Ok(drops)
}

fn drop_reason(code: u8) -> Result<DropReason, EnvelopeError> {
    DropReason::from_code(code).ok_or_else(|| Problem::UnknownCode(code.into()).at("header.drops.reason"))
}

fn check(header: &Header) -> Result<(), EnvelopeError> {
    let none = Digest::default();
    at_least(header.incarnation, 1, "header.incarnation")?;
    at_least(header.sequence, 1, "header.sequence")?;
    if header.sequence == 1 && header.previous != none {
        return Err(Problem::Contradiction("must be zeros where the sequence is 1").at("header.previous"));
    }
    at_most(header.drops.len(), MAX_DROPS, "header.drops")?;
    for drop in &header.drops {
        at_least(drop.count, 1, "header.drops.count")?;
        if drop.first > drop.last {
            return Err(Problem::Contradiction("lies before the first").at("header.drops.last"));
        }
    }
    at_most(header.sections as usize, MAX_SECTIONS as usize, "header.sections")?;
    if header.sections == 0 {
        if header.window != Window::default() {
            return Err(Problem::Contradiction("must be 0 and 0 where there is no section").at("header.window"));
        }
        if header.body != none {
            return Err(Problem::Contradiction("must be zeros where there is no section").at("header.body"));
        }
    } else if header.window.is_empty() {
        return Err(Problem::Contradiction("must hold the sections' readings").at("header.window"));
    }
    Ok(())
}

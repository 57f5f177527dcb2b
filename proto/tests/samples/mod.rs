//! Random well-formed values of every part of the envelope.
#![allow(dead_code, unreachable_pub)]

use depin_domain::{
    ids::{DeviceId, Digest, KeyId},
    model::Attestation,
    proofs::{Drop, DropReason, Header, Reading, Reason, Rejection, Section, Series, Verdict},
    time::{Timestamp, Window},
};
use depin_proto::envelope::{ReceiptBody, body_root, encode_section};
use depin_trials::{Rng, RngCore as _, below, one_in};

pub fn bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A number of any magnitude.
pub fn number(rng: &mut Rng) -> u64 {
    rng.next_u64() >> below(rng, 64)
}

pub fn signed(rng: &mut Rng) -> i64 {
    number(rng).cast_signed()
}

fn name(rng: &mut Rng) -> String {
    const FIRST: &[u8] = b"abcXYZ";
    const REST: &[u8] = b"abcXYZ019_";
    let length = if one_in(rng, 10) { 63 } else { below(rng, 8) };
    let mut name = String::from(char::from(FIRST[below(rng, 6) as usize]));
    name.extend((0..length).map(|_| char::from(REST[below(rng, 10) as usize])));
    name
}

pub fn section(rng: &mut Rng) -> Section {
    let mut names: Vec<String> = (0..=below(rng, 4)).map(|_| name(rng)).collect();
    names.sort();
    names.dedup();
    let series = names.into_iter().map(|metric| Series { metric, readings: readings(rng) }).collect();
    Section {
        device: DeviceId(bytes(rng)),
        model: Digest(bytes(rng)),
        attestation: [Attestation::Agent, Attestation::Device, Attestation::Hardware][below(rng, 3) as usize],
        series,
    }
}

fn readings(rng: &mut Rng) -> Vec<Reading> {
    // Extremes now and then: the whole range of time and of values.
    let mut at = if one_in(rng, 8) { i64::MIN } else { 1_767_225_600_000 };
    let mut readings = Vec::new();
    for _ in 0..=below(rng, 12) {
        let value = if one_in(rng, 4) { signed(rng) } else { 1_000_000 + below(rng, 100).cast_signed() };
        readings.push(Reading { at: Timestamp(at), value });
        let Some(next) = at.checked_add_unsigned(1 + number(rng) % (1 << 62)) else { break };
        at = next;
    }
    readings
}

pub fn header(rng: &mut Rng, sections: &[Section]) -> Header {
    let encoded: Vec<Vec<u8>> = sections.iter().map(|section| encode_section(section).unwrap()).collect();
    let sequence = 1 + below(rng, 5);
    let times = || sections.iter().flat_map(|s| &s.series).flat_map(|s| &s.readings).map(|r| r.at);
    let window = match (times().min(), times().max()) {
        (Some(start), Some(last)) => Window { start, end: last.plus(1) },
        _ => Window::default(),
    };
    Header {
        key: KeyId(bytes(rng)),
        incarnation: 1 + number(rng) / 2,
        sequence,
        previous: if sequence == 1 { Digest::default() } else { Digest(bytes(rng)) },
        registry_incarnation: number(rng),
        registry_version: number(rng),
        sealed_at: Timestamp(signed(rng)),
        window,
        drops: (0..below(rng, 3)).map(|_| drop(rng)).collect(),
        sections: sections.len() as u32,
        body: body_root(&encoded),
    }
}

fn drop(rng: &mut Rng) -> Drop {
    let (first, last) = (signed(rng), signed(rng));
    Drop {
        reason: [
            DropReason::LimitReached,
            DropReason::UnapprovedQuota,
            DropReason::Unreadable,
            DropReason::NeverApproved,
        ][below(rng, 4) as usize],
        count: 1 + number(rng) / 2,
        first: Timestamp(first.min(last)),
        last: Timestamp(first.max(last)),
        ordinal: number(rng) as u32,
    }
}

pub fn verdict(rng: &mut Rng) -> Verdict {
    let rejections = (0..below(rng, 5)).map(|_| rejection(rng)).collect();
    Verdict { accepted: number(rng), rejections }
}

fn rejection(rng: &mut Rng) -> Rejection {
    let series = (!one_in(rng, 3)).then(|| number(rng) as u32 / 2);
    let mut readings: Vec<u32> = (0..below(rng, 4)).map(|_| number(rng) as u32).collect();
    readings.sort_unstable();
    readings.dedup();
    if series.is_none() {
        readings.clear();
    }
    let detail = if one_in(rng, 2) { String::new() } else { "é".repeat(below(rng, 128) as usize) };
    let reason = Reason::ALL[below(rng, Reason::ALL.len() as u64) as usize];
    Rejection { section: number(rng) as u32, series, readings, reason, detail }
}

pub fn receipt(rng: &mut Rng) -> ReceiptBody {
    ReceiptBody {
        gateway: KeyId(bytes(rng)),
        key: KeyId(bytes(rng)),
        incarnation: number(rng),
        sequence: number(rng),
        digest: Digest(bytes(rng)),
        ledger_incarnation: number(rng),
        position: number(rng),
        received_at: Timestamp(signed(rng)),
        accepted: number(rng),
        rejected: number(rng),
        verdict: Digest(bytes(rng)),
        durable: one_in(rng, 2),
        archived: one_in(rng, 2),
    }
}

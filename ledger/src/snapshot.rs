//! The state as bytes, for checkpoints: a sequence of length-delimited chunks, each with one part of the state.
//!
//! A checkpoint only saves time: where it is missing or damaged, the log is read from its front. Only the *base*, the state before the log's
//! front once retention removed segments, cannot be rebuilt; it is written twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use depin_domain::{
    ids::{AgentId, DeviceId, Digest, KeyId},
    proofs::{ChainHead, Reading},
    registry::{Change, Record},
    statistics::{AssignmentStatistics, DeviceStatistics, GrainStatistic, MetricStatistics, Slots},
    time::Timestamp,
};
use prost::Message;

use crate::{
    chains::{Chain, Step},
    error::LedgerError,
    inbox::Waiting,
    record::{AnsweredRecord, ClosedRecord, PostedRecord, ResultRecord},
    state::{Epoch, State, Written},
};

#[derive(Clone, PartialEq, Message)]
struct Chunk {
    #[prost(message, optional, tag = "1")]
    marks: Option<Marks>,
    #[prost(message, repeated, tag = "2")]
    registry: Vec<RegistryEntry>,
    #[prost(message, repeated, tag = "3")]
    chains: Vec<ChainEntry>,
    #[prost(message, repeated, tag = "4")]
    devices: Vec<DeviceEntry>,
    #[prost(message, repeated, tag = "5")]
    confirmed: Vec<ConfirmedEntry>,
    #[prost(message, repeated, tag = "6")]
    inbox: Vec<InboxEntry>,
    #[prost(message, repeated, tag = "7")]
    epochs: Vec<EpochEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct Marks {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    writer_token: u64,
    #[prost(int64, tag = "4")]
    last_received: i64,
    #[prost(int64, repeated, tag = "5")]
    open_spans: Vec<i64>,
    #[prost(int64, tag = "6")]
    open_forgotten: i64,
    #[prost(uint64, tag = "7")]
    proofs: u64,
    #[prost(uint64, tag = "8")]
    accepted: u64,
    #[prost(btree_map = "uint32, uint64", tag = "9")]
    rejected: BTreeMap<u32, u64>,
    #[prost(uint64, tag = "10")]
    archived: u64,
    #[prost(bool, tag = "11")]
    held: bool,
    #[prost(uint64, tag = "12")]
    last_inbox_id: u64,
    #[prost(btree_map = "string, int64", tag = "13")]
    late_boundaries: BTreeMap<String, i64>,
    #[prost(int64, optional, tag = "15")]
    created: Option<i64>,
    #[prost(uint32, tag = "16")]
    finalized: u32,
}

#[derive(Clone, PartialEq, Message)]
struct RegistryEntry {
    #[prost(uint64, tag = "1")]
    incarnation: u64,
    #[prost(int64, tag = "2")]
    at: i64,
    #[prost(bytes = "bytes", tag = "3")]
    change: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ChainEntry {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(bytes = "bytes", tag = "4")]
    digest: Bytes,
    #[prost(message, repeated, tag = "5")]
    steps: Vec<Step>,
    #[prost(uint64, tag = "6")]
    backing_up: u64,
    #[prost(uint64, tag = "7")]
    archived: u64,
    #[prost(bool, tag = "8")]
    evidence: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceEntry {
    #[prost(bytes = "bytes", tag = "1")]
    device: Bytes,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<MetricEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricEntry {
    #[prost(uint32, tag = "1")]
    assignment: u32,
    #[prost(string, tag = "2")]
    metric: String,
    #[prost(sint64, tag = "3")]
    mark_at: i64,
    #[prost(sint64, tag = "4")]
    mark_value: i64,
    #[prost(message, repeated, tag = "5")]
    grains: Vec<GrainEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct GrainEntry {
    #[prost(sint64, tag = "1")]
    start: i64,
    #[prost(int64, tag = "2")]
    cadence_ms: i64,
    #[prost(uint64, tag = "3")]
    count: u64,
    /// Sum, increase, increase after resets: little-endian i128, shortest form.
    #[prost(bytes = "vec", repeated, tag = "4")]
    sums: Vec<Vec<u8>>,
    #[prost(sint64, repeated, tag = "5")]
    values: Vec<i64>,
    #[prost(bytes = "vec", tag = "6")]
    slots: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfirmedEntry {
    #[prost(bytes = "bytes", tag = "1")]
    agent: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    models: Vec<Bytes>,
    #[prost(int64, repeated, tag = "3")]
    at: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct InboxEntry {
    #[prost(message, optional, tag = "1")]
    posted: Option<PostedRecord>,
    #[prost(message, optional, tag = "2")]
    answer: Option<AnsweredRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct EpochEntry {
    #[prost(message, optional, tag = "1")]
    closed: Option<ClosedRecord>,
    #[prost(message, optional, tag = "2")]
    result: Option<ResultRecord>,
}

/// How many entries a chunk holds.
const CHUNK: usize = 512;

fn id(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

/// The bytes of a state.
pub(crate) fn encode(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, &Chunk { marks: Some(marks(state)), ..Chunk::default() });
    for written in state.written.chunks(CHUNK) {
        let entry =
            |one: &Written| RegistryEntry { incarnation: one.incarnation, at: one.at, change: one.change.clone() };
        put(&mut out, &Chunk { registry: written.iter().map(entry).collect(), ..Chunk::default() });
    }
    // Sorted, so that equal states have equal bytes.
    let mut chains: Vec<_> = state.chains.by_key.iter().collect();
    chains.sort_by_key(|(key, _)| **key);
    for part in chains.chunks(CHUNK) {
        put(
            &mut out,
            &Chunk { chains: part.iter().map(|(key, chain)| chain_entry(key, chain)).collect(), ..Chunk::default() },
        );
    }
    let mut devices: Vec<_> = state.accounts.iter().collect();
    devices.sort_by_key(|(device, _)| **device);
    for part in devices.chunks(CHUNK) {
        let entries = part.iter().map(|(device, statistics)| device_entry(device, statistics)).collect();
        put(&mut out, &Chunk { devices: entries, ..Chunk::default() });
    }
    let mut confirmed: Vec<_> = state.confirmed.iter().collect();
    confirmed.sort_by_key(|(agent, _)| **agent);
    for part in confirmed.chunks(CHUNK) {
        let entry = |(agent, models): &(&AgentId, &BTreeMap<Digest, Timestamp>)| ConfirmedEntry {
            agent: id(agent),
            models: models.keys().map(id).collect(),
            at: models.values().map(|at| at.0).collect(),
        };
        put(&mut out, &Chunk { confirmed: part.iter().map(entry).collect(), ..Chunk::default() });
    }
    for waiting in state.inbox.entries.values() {
        let entry = InboxEntry { posted: Some(waiting.posted.clone()), answer: waiting.answer.clone() };
        put(&mut out, &Chunk { inbox: vec![entry], ..Chunk::default() });
    }
    for epoch in state.epochs.values().flat_map(BTreeMap::values) {
        let entry = EpochEntry { closed: Some(epoch.closed.clone()), result: epoch.result.clone() };
        put(&mut out, &Chunk { epochs: vec![entry], ..Chunk::default() });
    }
    out
}

fn put(out: &mut Vec<u8>, chunk: &Chunk) {
    prost::encoding::encode_varint(chunk.encoded_len() as u64, out);
    chunk.encode_raw(out);
}

fn marks(state: &State) -> Marks {
    Marks {
        applied: state.applied,
        incarnation: state.incarnation,
        writer_token: state.writer_token,
        last_received: state.last_received,
        open_spans: state.open_time.spans.iter().flat_map(|(from, to)| [*from, *to]).collect(),
        open_forgotten: state.open_time.forgotten,
        proofs: state.counters.proofs,
        accepted: state.counters.accepted,
        rejected: state.counters.rejected.iter().map(|(reason, count)| (u32::from(*reason), *count)).collect(),
        archived: state.archived,
        held: state.held,
        last_inbox_id: state.inbox.last_id,
        late_boundaries: state.late_boundaries.iter().map(|(fleet, at)| (fleet.clone(), at.0)).collect(),
        created: state.created,
        finalized: state.finalized,
    }
}

fn chain_entry(key: &KeyId, chain: &Chain) -> ChainEntry {
    ChainEntry {
        key: id(key),
        incarnation: chain.head.incarnation,
        sequence: chain.head.sequence,
        digest: id(chain.head.digest),
        steps: chain.steps.clone(),
        backing_up: chain.backing_up,
        archived: chain.archived,
        evidence: chain.evidence,
    }
}

fn device_entry(device: &DeviceId, statistics: &DeviceStatistics) -> DeviceEntry {
    let metrics = metric_entries(statistics, |metric| metric.grains.iter().map(grain_entry).collect());
    DeviceEntry { device: id(device), metrics }
}

/// The marks of a device, without its grains.
pub(crate) fn encode_marks(statistics: &DeviceStatistics) -> Vec<u8> {
    DeviceEntry { device: Bytes::new(), metrics: metric_entries(statistics, |_| Vec::new()) }.encode_to_vec()
}

/// The mark of each metric in each assignment, with those of its grains that are asked for.
fn metric_entries(
    statistics: &DeviceStatistics,
    grains: impl Fn(&MetricStatistics) -> Vec<GrainEntry>,
) -> Vec<MetricEntry> {
    let metrics = statistics.assignments.iter().flat_map(|assignment| {
        assignment.metrics.iter().map(|metric| MetricEntry {
            assignment: assignment.number,
            metric: metric.metric.to_string(),
            mark_at: metric.mark.at.0,
            mark_value: metric.mark.value,
            grains: grains(metric),
        })
    });
    metrics.collect()
}

/// Reads marks back; grains are to be added.
pub(crate) fn decode_marks(bytes: &[u8]) -> Option<DeviceStatistics> {
    statistics(DeviceEntry::decode(bytes).ok()?.metrics)
}

/// One grain alone.
pub(crate) fn encode_grain(grain: &GrainStatistic) -> Vec<u8> {
    grain_entry(grain).encode_to_vec()
}

/// Reads a grain back.
pub(crate) fn decode_grain(bytes: &[u8]) -> Option<GrainStatistic> {
    grain(GrainEntry::decode(bytes).ok()?)
}

fn grain_entry(grain: &GrainStatistic) -> GrainEntry {
    GrainEntry {
        start: grain.start.0,
        cadence_ms: grain.cadence_ms,
        count: grain.count,
        sums: [grain.sum, grain.increase, grain.reset_increase].map(shorten).into(),
        values: vec![grain.min, grain.max, grain.first.at.0, grain.first.value, grain.last.at.0, grain.last.value],
        slots: grain.slots.to_bytes(),
    }
}

/// Little-endian two's complement without redundant sign bytes.
fn shorten(value: i128) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    let sign = if value < 0 { 0xFF } else { 0 };
    while bytes.len() > 1 && bytes[bytes.len() - 1] == sign && (bytes[bytes.len() - 2] ^ sign) < 0x80 {
        bytes.pop();
    }
    bytes
}

fn lengthen(bytes: &[u8]) -> Option<i128> {
    let sign = if bytes.last()? & 0x80 == 0 { 0 } else { 0xFF };
    let mut whole = [sign; 16];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i128::from_le_bytes(whole))
}

/// Reads a state back.
pub(crate) fn decode(mut bytes: Bytes) -> Result<State, LedgerError> {
    let mut state = State::default();
    while !bytes.is_empty() {
        let chunk = Chunk::decode_length_delimited(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
        add(&mut state, chunk).ok_or_else(|| unreadable("a field is not of its form"))?;
    }
    state.models.update(&state.registry);
    Ok(state)
}

fn unreadable(what: impl std::fmt::Display) -> LedgerError {
    LedgerError::Damaged(format!("checkpoint: {what}"))
}

fn add(state: &mut State, chunk: Chunk) -> Option<()> {
    if let Some(marks) = chunk.marks {
        set_marks(state, marks)?;
    }
    for entry in chunk.registry {
        let change: Change = serde_json::from_slice(&entry.change).ok()?;
        let version = state.registry.version() + 1;
        state.registry.apply(Record { version, at: Timestamp(entry.at), change }).ok()?;
        state.written.push(Written { incarnation: entry.incarnation, at: entry.at, change: entry.change });
    }
    for entry in chunk.chains {
        let head = ChainHead {
            incarnation: entry.incarnation,
            sequence: entry.sequence,
            digest: Digest::from_slice(&entry.digest)?,
        };
        let chain = Chain {
            head,
            steps: entry.steps,
            backing_up: entry.backing_up,
            archived: entry.archived,
            evidence: entry.evidence,
        };
        state.chains.by_key.insert(KeyId::from_slice(&entry.key)?, chain);
    }
    for entry in chunk.devices {
        let device = DeviceId::from_slice(&entry.device)?;
        state.accounts.insert(device, statistics(entry.metrics)?);
    }
    for entry in chunk.confirmed {
        let models: Option<Vec<Digest>> = entry.models.iter().map(|model| Digest::from_slice(model)).collect();
        let times = entry.at.into_iter().map(Timestamp);
        state.confirmed.insert(AgentId::from_slice(&entry.agent)?, models?.into_iter().zip(times).collect());
    }
    for entry in chunk.inbox {
        let waiting = Waiting { posted: entry.posted?, answer: entry.answer };
        state.inbox.restore(waiting)?;
    }
    for entry in chunk.epochs {
        let closed = entry.closed?;
        let close = closed.close.as_ref()?;
        let (program, number) = (close.program.clone(), close.window.as_ref()?.number);
        state.epochs.entry(program).or_default().insert(number, Epoch { closed, result: entry.result });
    }
    Some(())
}

fn set_marks(state: &mut State, marks: Marks) -> Option<()> {
    state.applied = marks.applied;
    state.incarnation = marks.incarnation;
    state.writer_token = marks.writer_token;
    state.last_received = marks.last_received;
    state.open_time.spans = marks.open_spans.chunks_exact(2).map(|span| (span[0], span[1])).collect();
    state.open_time.forgotten = marks.open_forgotten;
    state.counters.proofs = marks.proofs;
    state.counters.accepted = marks.accepted;
    for (reason, count) in marks.rejected {
        state.counters.rejected.insert(u16::try_from(reason).ok()?, count);
    }
    state.archived = marks.archived;
    state.held = marks.held;
    state.finalized = marks.finalized;
    state.inbox.last_id = marks.last_inbox_id;
    state.late_boundaries = marks.late_boundaries.into_iter().map(|(fleet, at)| (fleet, Timestamp(at))).collect();
    state.created = marks.created;
    Some(())
}

fn statistics(metrics: Vec<MetricEntry>) -> Option<DeviceStatistics> {
    let mut statistics = DeviceStatistics::default();
    for entry in metrics {
        if statistics.assignments.last().is_none_or(|last| last.number != entry.assignment) {
            statistics.assignments.push(AssignmentStatistics { number: entry.assignment, metrics: Vec::new() });
        }
        let metric = MetricStatistics {
            metric: entry.metric.into(),
            mark: Reading { at: Timestamp(entry.mark_at), value: entry.mark_value },
            grains: entry.grains.into_iter().map(grain).collect::<Option<_>>()?,
        };
        statistics.assignments.last_mut()?.metrics.push(metric);
    }
    Some(statistics)
}

fn grain(entry: GrainEntry) -> Option<GrainStatistic> {
    let [min, max, first_at, first_value, last_at, last_value] = entry.values[..] else { return None };
    let [sum, increase, reset_increase] = &entry.sums[..] else { return None };
    Some(GrainStatistic {
        start: Timestamp(entry.start),
        cadence_ms: entry.cadence_ms,
        count: entry.count,
        sum: lengthen(sum)?,
        min,
        max,
        first: Reading { at: Timestamp(first_at), value: first_value },
        last: Reading { at: Timestamp(last_at), value: last_value },
        increase: lengthen(increase)?,
        reset_increase: lengthen(reset_increase)?,
        slots: Slots::from_bytes(&entry.slots),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_every_value_in_the_shortest_form() {
        for value in [0, 1, -1, 127, 128, -128, -129, i128::MAX, i128::MIN, 1 << 64, -(1 << 63)] {
            let bytes = shorten(value);
            assert_eq!(lengthen(&bytes), Some(value));
            assert!(bytes.len() == 1 || !(-128..128).contains(&value));
        }
        assert_eq!(lengthen(&[]), None);
        assert_eq!(lengthen(&[0; 17]), None);
    }
}

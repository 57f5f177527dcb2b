//! From the tables to memory: what one transaction needs of the ledger's state.
//!
//! Facts (all records that are no proofs) stay in memory between transactions and are read on from where they were read to. Chains, marks and
//! grains are read for the chains and devices of a transaction only, under locks that it holds until it commits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use depin_domain::{
    ids::{DeviceId, KeyId},
    proofs::{ChainHead, Reading},
    statistics::{AssignmentStatistics, DeviceStatistics, GrainStatistic, MetricStatistics},
    time::Window,
};
use futures::future::try_join_all;
use prost::Message as _;
use tokio_postgres::Row;

use super::{
    pending::{digest_of, key_of, signed, unsigned},
    session::{Session, Trouble},
};
use crate::{
    api::Submission,
    chains::Chain,
    error::LedgerError,
    record::{Entry, ProofRecord},
    snapshot,
    state::{Accounts, State},
};

/// What a transaction needs beside the facts.
#[derive(Clone, Debug, Default)]
pub(super) struct Need {
    /// Chains.
    pub(super) keys: BTreeSet<KeyId>,
    /// All chains, and what agents reported since a restore.
    pub(super) all_chains: bool,
    /// Devices, and from which to which time their grains may begin.
    pub(super) devices: BTreeMap<DeviceId, (i64, i64)>,
    /// The grains of all devices that begin in these windows.
    pub(super) windows: Vec<Window>,
    /// The marks of all devices.
    pub(super) all_marks: bool,
    /// Totals.
    pub(super) totals: bool,
}

impl Need {
    /// Chains and devices of proofs; devices that the registry lacks have nothing to be read.
    pub(super) fn of(proofs: &[Submission], state: &State) -> Self {
        let mut need = Self { all_chains: state.held, ..Self::default() };
        for proof in proofs {
            need.keys.insert(proof.opened.header.key);
            for section in &proof.opened.sections {
                let Some(device) = state.registry.device(&section.device) else { continue };
                let entries = device.states().iter().filter_map(|state| state.entry.as_ref());
                let grains = entries.filter_map(|entry| state.registry.fleet(&entry.fleet)?.grain_ms());
                let widest = grains.max().unwrap_or(0);
                for reading in section.series.iter().flat_map(|series| &series.readings) {
                    let (from, to) = (reading.at.0.saturating_sub(widest), reading.at.0);
                    let span = need.devices.entry(section.device).or_insert((from, to));
                    *span = (span.0.min(from), span.1.max(to));
                }
            }
        }
        need
    }
}

/// What was read of a transaction's state, as it was: to be compared with what it became.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// With the day of the head.
    pub(super) chains: HashMap<KeyId, (Chain, i32)>,
    pub(super) accounts: Accounts,
    pub(super) reported: HashMap<KeyId, (u64, u64)>,
    /// Number of the first span of open time that is remembered, and the spans.
    pub(super) first_span: i64,
    pub(super) spans: Vec<(i64, i64)>,
}

/// The ledger's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) position: u64,
    pub(super) facts: u64,
    pub(super) last_received: i64,
    pub(super) proofs: u64,
    pub(super) accepted: u64,
    pub(super) open_forgotten: i64,
    /// The server's clock.
    pub(super) now: i64,
    /// The newest moment at which proofs were taken.
    pub(super) open_newest: Option<i64>,
}

pub(super) async fn head(session: &Session) -> Result<Head, Trouble> {
    let rows = session
        .query(
            "read the ledger's row",
            "SELECT position, facts, last_received, proofs, accepted, open_forgotten, \
             (extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
             (SELECT ended FROM open_spans ORDER BY number DESC LIMIT 1) FROM ledger",
            &[],
        )
        .await?;
    let row = rows.first().ok_or_else(|| LedgerError::Damaged("the ledger's row is gone".into()))?;
    Ok(Head {
        position: unsigned(row.get(0)),
        facts: unsigned(row.get(1)),
        last_received: row.get(2),
        proofs: unsigned(row.get(3)),
        accepted: unsigned(row.get(4)),
        open_forgotten: row.get(5),
        now: row.get(6),
        open_newest: row.get(7),
    })
}

/// Facts from a position on, in order.
pub(super) async fn facts(session: &Session, from: u64) -> Result<Vec<(u64, Entry)>, Trouble> {
    let sql = "SELECT position, kind, record FROM facts WHERE position >= $1 ORDER BY position";
    let rows = session.query("read facts", sql, &[&signed(from)]).await?;
    let fact = |row: &Row| {
        let (position, kind): (i64, i16) = (row.get(0), row.get(1));
        let record = Bytes::copy_from_slice(row.get(2));
        let (position, kind) = (unsigned(position), u8::try_from(kind).unwrap_or(u8::MAX));
        Ok((position, Entry::decode(kind, record, position)?))
    };
    rows.iter().map(fact).collect()
}

/// The days that have a partition.
pub(super) async fn days(session: &Session) -> Result<BTreeSet<i32>, Trouble> {
    let rows = session.query("read the days", "SELECT day FROM days", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn chain(row: &Row) -> Result<(KeyId, (Chain, i32)), LedgerError> {
    let head =
        ChainHead { incarnation: unsigned(row.get(1)), sequence: unsigned(row.get(2)), digest: digest_of(row.get(3))? };
    let (backing_up, archived) = (unsigned(row.get(5)), unsigned(row.get(6)));
    let chain = Chain { head, steps: Vec::new(), backing_up, archived, evidence: row.get(7) };
    Ok((key_of(row.get(0))?, (chain, row.get(4))))
}

async fn chains(session: &Session, need: &Need, lock: bool) -> Result<HashMap<KeyId, (Chain, i32)>, Trouble> {
    const ALL: &str = "SELECT key, incarnation, sequence, digest, day, backing_up, archived, evidence FROM chains";
    const SOME: &str = "SELECT key, incarnation, sequence, digest, day, backing_up, archived, evidence FROM chains \
                        WHERE key = ANY($1)";
    // In one order everywhere, so that no two transactions wait for each other.
    const LOCKED: &str = "SELECT key, incarnation, sequence, digest, day, backing_up, archived, evidence FROM chains \
                          WHERE key = ANY($1) ORDER BY key FOR UPDATE";
    let keys: Vec<&[u8]> = need.keys.iter().map(AsRef::as_ref).collect();
    let rows = if need.all_chains {
        session.query("read all chains", ALL, &[]).await?
    } else if keys.is_empty() {
        Vec::new()
    } else {
        session.query("read chains", if lock { LOCKED } else { SOME }, &[&keys]).await?
    };
    Ok(rows.iter().map(chain).collect::<Result<_, _>>()?)
}

async fn reported(session: &Session) -> Result<HashMap<KeyId, (u64, u64)>, Trouble> {
    let rows = session.query("read reports", "SELECT key, incarnation, sequence FROM reported", &[]).await?;
    let report = |row: &Row| Ok((key_of(row.get(0))?, (unsigned(row.get(1)), unsigned(row.get(2)))));
    Ok(rows.iter().map(report).collect::<Result<_, LedgerError>>()?)
}

/// The recorded proofs with these chain, incarnation and sequence.
pub(super) async fn recorded(
    session: &Session,
    wanted: &BTreeSet<(KeyId, u64, u64)>,
) -> Result<Vec<(u64, ProofRecord)>, Trouble> {
    const DAY: &str = "SELECT day FROM chain_days WHERE key = $1 AND incarnation = $2 AND sequence <= $3 \
                       ORDER BY sequence DESC LIMIT 1";
    const PROOF: &str = "SELECT position, record FROM proofs \
                         WHERE day = $1 AND key = $2 AND incarnation = $3 AND sequence = $4";
    let one = async |(key, incarnation, sequence): &(KeyId, u64, u64)| -> Result<Option<(u64, ProofRecord)>, Trouble> {
        let (key, incarnation, sequence) = (&key.0[..], signed(*incarnation), signed(*sequence));
        let days = session.query("look for a proof's day", DAY, &[&key, &incarnation, &sequence]).await?;
        let Some(day) = days.first().map(|row| row.get::<_, i32>(0)) else { return Ok(None) };
        let rows = session.query("look for a proof", PROOF, &[&day, &key, &incarnation, &sequence]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let position = unsigned(row.get(0));
        let record = ProofRecord::decode(row.get::<_, &[u8]>(1))
            .map_err(|error| LedgerError::Damaged(format!("the proof at {position}: {error}")))?;
        Ok(Some((position, record)))
    };
    let found = try_join_all(wanted.iter().map(one)).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Puts a grain where it belongs; a metric that is not there gets the grain's last reading as its mark.
pub(super) fn place(account: &mut DeviceStatistics, assignment: u32, metric: &str, grain: GrainStatistic) {
    let assignments = &mut account.assignments;
    let place = assignments.binary_search_by_key(&assignment, |known| known.number).unwrap_or_else(|place| {
        assignments.insert(place, AssignmentStatistics { number: assignment, metrics: Vec::new() });
        place
    });
    let metrics = &mut assignments[place].metrics;
    let place = metrics.binary_search_by(|known| (*known.metric).cmp(metric)).unwrap_or_else(|place| {
        let mark: Reading = grain.last;
        metrics.insert(place, MetricStatistics { metric: metric.into(), mark, grains: Vec::new() });
        place
    });
    let grains = &mut metrics[place].grains;
    match grains.binary_search_by_key(&grain.start, |known| known.start) {
        Ok(place) => grains[place] = grain,
        Err(place) => grains.insert(place, grain),
    }
}

pub(super) fn device_of(bytes: &[u8]) -> Result<DeviceId, LedgerError> {
    DeviceId::from_slice(bytes).ok_or_else(|| LedgerError::Damaged("a device in the database is none".into()))
}

fn add_grains(accounts: &mut Accounts, rows: &[Row]) -> Result<(), LedgerError> {
    for row in rows {
        let device = device_of(row.get(0))?;
        let assignment = u32::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        let damaged = || LedgerError::Damaged(format!("a grain of device {device} cannot be read"));
        let grain = snapshot::decode_grain(row.get(3)).ok_or_else(damaged)?;
        place(accounts.entry(device).or_default(), assignment, row.get(2), grain);
    }
    Ok(())
}

fn add_marks(accounts: &mut Accounts, rows: &[Row]) -> Result<(), LedgerError> {
    for row in rows {
        let device = device_of(row.get(0))?;
        let damaged = || LedgerError::Damaged(format!("the marks of device {device} cannot be read"));
        accounts.insert(device, snapshot::decode_marks(row.get(1)).ok_or_else(damaged)?);
    }
    Ok(())
}

async fn accounts(session: &Session, need: &Need, lock: bool) -> Result<Accounts, Trouble> {
    const MARKS: &str = "SELECT device, marks FROM devices WHERE device = ANY($1) ORDER BY device";
    const LOCKED: &str = "SELECT device, marks FROM devices WHERE device = ANY($1) ORDER BY device FOR UPDATE";
    const GRAINS: &str = "SELECT g.device, g.assignment, g.metric, g.statistic \
                          FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS wanted (device, low, high) \
                          JOIN grains g ON g.device = wanted.device AND g.start BETWEEN wanted.low AND wanted.high";
    const WINDOW: &str = "SELECT device, assignment, metric, statistic FROM grains WHERE start >= $1 AND start < $2";
    let mut accounts = Accounts::new();
    if need.all_marks {
        add_marks(&mut accounts, &session.query("read all marks", "SELECT device, marks FROM devices", &[]).await?)?;
    }
    if !need.devices.is_empty() {
        let devices: Vec<&[u8]> = need.devices.keys().map(AsRef::as_ref).collect();
        let (low, high): (Vec<i64>, Vec<i64>) = need.devices.values().copied().unzip();
        // The grains after the locks: what another transaction just committed is seen.
        let marks = session.query("read marks", if lock { LOCKED } else { MARKS }, &[&devices]).await?;
        add_marks(&mut accounts, &marks)?;
        add_grains(&mut accounts, &session.query("read grains", GRAINS, &[&devices, &low, &high]).await?)?;
    }
    for window in &need.windows {
        let rows = session.query("read a window's grains", WINDOW, &[&window.start.0, &window.end.0]).await?;
        add_grains(&mut accounts, &rows)?;
    }
    Ok(accounts)
}

/// Reads what is needed into the state. `lock`: chains and devices are held until the transaction ends.
pub(super) async fn load(session: &Session, need: &Need, lock: bool, state: &mut State) -> Result<Loaded, Trouble> {
    let mut loaded = Loaded { chains: chains(session, need, lock).await?, ..Loaded::default() };
    state.chains.by_key = loaded.chains.iter().map(|(key, (chain, _))| (*key, chain.clone())).collect();
    if need.all_chains {
        loaded.reported = reported(session).await?;
    }
    loaded.accounts = accounts(session, need, lock).await?;
    state.accounts = loaded.accounts.clone();
    if need.totals {
        let rows = session.query("read totals", "SELECT reason, readings FROM rejected", &[]).await?;
        let total = |row: &Row| Some((u16::try_from(row.get::<_, i32>(0)).ok()?, unsigned(row.get(1))));
        state.counters.rejected = rows.iter().filter_map(total).collect();
    }
    Ok(loaded)
}

/// Spans of open time, and the number of the first.
pub(super) async fn spans(session: &Session) -> Result<(i64, Vec<(i64, i64)>), Trouble> {
    let sql = "SELECT number, began, ended FROM open_spans ORDER BY number";
    let rows = session.query("read open time", sql, &[]).await?;
    Ok((rows.first().map_or(0, |row| row.get(0)), rows.iter().map(|row| (row.get(1), row.get(2))).collect()))
}

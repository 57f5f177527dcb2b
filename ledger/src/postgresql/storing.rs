//! From memory to the tables: what a transaction changed, and its end.
//!
//! What does not need its place in the journal is written first. Then the transaction takes its turn: it updates the ledger's row, which it
//! holds until it is committed, and so learns its records' positions. What follows is sent together with the commit.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use depin_domain::{ids::DeviceId, statistics::DeviceStatistics};
use futures::{pin_mut, try_join};
use tokio_postgres::{
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use super::{
    connection::CHANNEL,
    files::Held,
    loading::Loaded,
    pending::{Pending, signed},
    session::{Session, Trouble, trouble},
};
use crate::{
    core::Core,
    error::LedgerError,
    lateness,
    record::{BackupRecord, Entry},
    snapshot,
};

pub(super) const DAY_MS: i64 = 86_400_000;
/// Bytes of a chunk of a file.
pub(super) const CHUNK: usize = 1 << 20;

/// Where staged proofs wait for their positions. Made once a session.
pub(super) const STAGING: &str = "CREATE TEMP TABLE staged (place bigint, received_at bigint, key bytea, incarnation bigint, \
                                  sequence bigint, record bytea) ON COMMIT DELETE ROWS";

/// Writes and commits what the core's state became since it was `loaded`. The position of the transaction's first record.
pub(super) async fn store(
    session: &Session,
    core: &Core<Pending>,
    loaded: &Loaded,
    files: &Held,
    days: &BTreeSet<i32>,
) -> Result<u64, Trouble> {
    store_statistics(session, core, loaded).await?;
    stage(session, &core.journal).await?;
    store_files(session, files).await?;
    let (base, day) = turn(session, core, loaded).await?;
    if !core.journal.proofs.is_empty() && !days.contains(&day) {
        return Err(Trouble::MissingDay(day));
    }
    try_join!(
        publish(session, base, day, !core.journal.proofs.is_empty()),
        store_facts(session, base, &core.journal),
        store_chains(session, core, loaded, day),
        store_totals(session, core),
        store_reports(session, core, loaded),
        store_spans(session, core, loaded),
        settle(session, core),
    )?;
    session.batch("commit", "COMMIT").await?;
    Ok(base)
}

/// Marks and grains that differ.
async fn store_statistics(session: &Session, core: &Core<Pending>, loaded: &Loaded) -> Result<(), Trouble> {
    if core.journal.proofs.is_empty() {
        return Ok(());
    }
    let nothing = DeviceStatistics::default();
    let mut changed: Vec<(&DeviceId, &DeviceStatistics)> = core.state.accounts.iter().collect();
    changed.retain(|(device, now)| loaded.accounts.get(*device) != Some(*now));
    // In the order in which devices are locked.
    changed.sort_unstable_by_key(|(device, _)| **device);
    let (mut fresh, mut known) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let (mut devices, mut starts, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut metrics, mut statistics) = (Vec::new(), Vec::new());
    for (device, now) in changed {
        let before = loaded.accounts.get(device);
        let list = if before.is_some() { &mut known } else { &mut fresh };
        list.0.push(device.as_ref());
        list.1.push(snapshot::encode_marks(now));
        let before = before.unwrap_or(&nothing);
        for assignment in &now.assignments {
            for metric in &assignment.metrics {
                let old = before.assignment(assignment.number).and_then(|known| known.metric(&metric.metric));
                let grains = metric.grains.iter();
                for grain in grains.filter(|grain| old.and_then(|old| old.grain(grain.start)) != Some(*grain)) {
                    devices.push(device.as_ref());
                    starts.push(grain.start.0);
                    numbers.push(i32::try_from(assignment.number).unwrap_or(i32::MAX));
                    metrics.push(&*metric.metric);
                    statistics.push(snapshot::encode_grain(grain));
                }
            }
        }
    }
    const FRESH: &str = "INSERT INTO devices (device, marks) SELECT * FROM unnest($1::bytea[], $2::bytea[])";
    const KNOWN: &str = "UPDATE devices d SET marks = w.marks \
                         FROM unnest($1::bytea[], $2::bytea[]) AS w (device, marks) WHERE d.device = w.device";
    const GRAINS: &str = "INSERT INTO grains (device, start, assignment, metric, statistic) \
                          SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::int[], $4::text[], $5::bytea[]) \
                          ON CONFLICT (device, start, assignment, metric) DO UPDATE SET statistic = excluded.statistic";
    let of_fresh: [&(dyn ToSql + Sync); 2] = [&fresh.0, &fresh.1];
    let of_known: [&(dyn ToSql + Sync); 2] = [&known.0, &known.1];
    let of_grains: [&(dyn ToSql + Sync); 5] = [&devices, &starts, &numbers, &metrics, &statistics];
    try_join!(
        some(!fresh.0.is_empty(), session.execute("add devices", FRESH, &of_fresh)),
        some(!known.0.is_empty(), session.execute("store marks", KNOWN, &of_known)),
        some(!devices.is_empty(), session.execute("store grains", GRAINS, &of_grains)),
    )?;
    Ok(())
}

/// Awaits what is needed.
async fn some(needed: bool, work: impl Future<Output = Result<u64, Trouble>>) -> Result<(), Trouble> {
    if needed { work.await.map(|_| ()) } else { Ok(()) }
}

/// Sends the proofs to where they wait for their positions.
async fn stage(session: &Session, journal: &Pending) -> Result<(), Trouble> {
    if journal.proofs.is_empty() {
        return Ok(());
    }
    const COPY: &str = "COPY staged (place, received_at, key, incarnation, sequence, record) FROM STDIN BINARY";
    let failed = |error: tokio_postgres::Error| trouble("copy proofs", &error);
    let statement = session.statement(COPY).await?;
    let sink = session.client.copy_in::<_, Bytes>(&statement).await.map_err(failed)?;
    let types = [Type::INT8, Type::INT8, Type::BYTEA, Type::INT8, Type::INT8, Type::BYTEA];
    let writer = BinaryCopyInWriter::new(sink, &types);
    pin_mut!(writer);
    for proof in &journal.proofs {
        let (place, key) = (signed(proof.offset), &proof.key.0[..]);
        let (incarnation, sequence) = (signed(proof.incarnation), signed(proof.sequence));
        let row: [&(dyn ToSql + Sync); 6] = [&place, &proof.received_at, &key, &incarnation, &sequence, &proof.record];
        writer.as_mut().write(&row).await.map_err(failed)?;
    }
    writer.finish().await.map(|_| ()).map_err(failed)
}

/// Files that the transaction made.
async fn store_files(session: &Session, files: &Held) -> Result<(), Trouble> {
    for (name, bytes) in files.take() {
        // One of that name was left by nobody: names hold the writer's token, and a repeated close makes none.
        let length = signed(bytes.len() as u64);
        session.execute("remove an old file", "DELETE FROM files WHERE name = $1", &[&name]).await?;
        session.execute("store a file", "INSERT INTO files (name, bytes) VALUES ($1, $2)", &[&name, &length]).await?;
        for (chunk, number) in bytes.chunks(CHUNK).zip(0_i32..) {
            let sql = "INSERT INTO file_chunks (name, number, data) VALUES ($1, $2, $3)";
            session.execute("store a file's chunk", sql, &[&name, &number, &chunk]).await?;
        }
    }
    Ok(())
}

/// Takes the turn: from here until the commit nobody else appends. The first record's position, and the journal's day.
async fn turn(session: &Session, core: &Core<Pending>, loaded: &Loaded) -> Result<(u64, i32), Trouble> {
    const TURN: &str = "UPDATE ledger SET position = position + $1, \
                        facts = CASE WHEN $2::bigint > 0 THEN position + $2::bigint ELSE facts END, \
                        last_received = greatest(last_received, $3), proofs = proofs + $4, accepted = accepted + $5, \
                        open_forgotten = CASE WHEN $6::bool THEN $7::bigint ELSE open_forgotten END \
                        RETURNING position - $1, last_received";
    let journal = &core.journal;
    let facts = journal.facts.last().map_or(0, |(offset, _)| signed(*offset) + 1);
    let received = journal.proofs.iter().map(|proof| proof.received_at).max().unwrap_or(i64::MIN);
    let (proofs, accepted) = (signed(core.state.counters.proofs), signed(core.state.counters.accepted));
    let (forgotten, spans) = (core.state.open_time.forgotten, core.state.open_time.spans != loaded.spans);
    let rows = session
        .query(
            "take the turn",
            TURN,
            &[&signed(journal.count), &facts, &received, &proofs, &accepted, &spans, &forgotten],
        )
        .await?;
    let row = rows.first().ok_or_else(|| LedgerError::Damaged("the ledger's row is gone".into()))?;
    let (base, last_received): (i64, i64) = (row.get(0), row.get(1));
    let day = i32::try_from(last_received.div_euclid(DAY_MS)).unwrap_or(i32::MAX);
    Ok((u64::try_from(base).unwrap_or(0), day))
}

async fn publish(session: &Session, base: u64, day: i32, any: bool) -> Result<(), Trouble> {
    const PUBLISH: &str = "INSERT INTO proofs (day, position, received_at, key, incarnation, sequence, record) \
                           SELECT $1::int, $2::bigint + place, received_at, key, incarnation, sequence, record FROM staged";
    let base = signed(base);
    some(any, session.execute("append proofs", PUBLISH, &[&day, &base])).await
}

async fn store_facts(session: &Session, base: u64, journal: &Pending) -> Result<(), Trouble> {
    if journal.facts.is_empty() {
        return Ok(());
    }
    let (mut positions, mut kinds, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for (offset, entry) in &journal.facts {
        let mut record = Vec::new();
        entry.encode(&mut record);
        positions.push(signed(base + offset));
        kinds.push(i16::from(entry.kind()));
        records.push(record);
    }
    const FACTS: &str = "INSERT INTO facts (position, kind, record) \
                         SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bytea[])";
    session.execute("append facts", FACTS, &[&positions, &kinds, &records]).await?;
    let newest = positions.last().copied().unwrap_or_default().to_string();
    session.execute("tell of facts", "SELECT pg_notify($1, $2)", &[&CHANNEL, &newest]).await.map(|_| ())
}

/// Heads that moved, and where their days begin.
async fn store_chains(session: &Session, core: &Core<Pending>, loaded: &Loaded, day: i32) -> Result<(), Trouble> {
    let journal = &core.journal;
    let mut firsts = BTreeMap::new();
    for proof in &journal.proofs {
        let known = loaded.chains.get(&proof.key);
        let goes_on = known.is_some_and(|(chain, at)| chain.head.incarnation == proof.incarnation && *at == day);
        if !goes_on {
            firsts.entry((proof.key, proof.incarnation)).or_insert(proof.sequence);
        }
    }
    let mut changed: Vec<_> = core.state.chains.by_key.iter().collect();
    changed.retain(|(key, now)| loaded.chains.get(*key).map(|(chain, _)| chain) != Some(*now));
    changed.sort_unstable_by_key(|(key, _)| **key);
    if changed.is_empty() && firsts.is_empty() {
        return Ok(());
    }
    let moved: BTreeSet<_> = journal.proofs.iter().map(|proof| proof.key).collect();
    let mut lists = [Columns::default(), Columns::default()];
    for (key, chain) in changed {
        let known = loaded.chains.get(key);
        let list = &mut lists[usize::from(known.is_some())];
        list.keys.push(key.as_ref());
        list.incarnations.push(signed(chain.head.incarnation));
        list.sequences.push(signed(chain.head.sequence));
        list.digests.push(chain.head.digest.0.to_vec());
        list.days.push(if moved.contains(key) { day } else { known.map_or(day, |(_, at)| *at) });
        list.backing_up.push(signed(chain.backing_up));
        list.archived.push(signed(chain.archived));
        list.evidence.push(chain.evidence);
    }
    const FRESH: &str = "INSERT INTO chains (key, incarnation, sequence, digest, day, backing_up, archived, evidence) SELECT * \
                         FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::int[], $6::bigint[], $7::bigint[], $8::bool[])";
    const KNOWN: &str = "UPDATE chains c SET incarnation = w.incarnation, sequence = w.sequence, digest = w.digest, day = w.day, \
                         backing_up = w.backing_up, archived = w.archived, evidence = w.evidence \
                         FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::int[], $6::bigint[], $7::bigint[], $8::bool[]) \
                         AS w (key, incarnation, sequence, digest, day, backing_up, archived, evidence) WHERE c.key = w.key";
    const DAYS: &str = "INSERT INTO chain_days (key, incarnation, sequence, day) \
                        SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::int[])";
    let keys: Vec<&[u8]> = firsts.keys().map(|(key, _)| key.as_ref()).collect();
    let incarnations: Vec<i64> = firsts.keys().map(|(_, incarnation)| signed(*incarnation)).collect();
    let sequences: Vec<i64> = firsts.values().map(|sequence| signed(*sequence)).collect();
    let days = vec![day; keys.len()];
    let [fresh, known] = &lists;
    let (of_fresh, of_known) = (fresh.parameters(), known.parameters());
    let of_days: [&(dyn ToSql + Sync); 4] = [&keys, &incarnations, &sequences, &days];
    try_join!(
        some(!fresh.keys.is_empty(), session.execute("add chains", FRESH, &of_fresh)),
        some(!known.keys.is_empty(), session.execute("store heads", KNOWN, &of_known)),
        some(!keys.is_empty(), session.execute("note where days begin", DAYS, &of_days)),
    )?;
    Ok(())
}

/// Chains by column.
#[derive(Default)]
struct Columns<'a> {
    keys: Vec<&'a [u8]>,
    incarnations: Vec<i64>,
    sequences: Vec<i64>,
    digests: Vec<Vec<u8>>,
    days: Vec<i32>,
    backing_up: Vec<i64>,
    archived: Vec<i64>,
    evidence: Vec<bool>,
}

impl Columns<'_> {
    fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.keys,
            &self.incarnations,
            &self.sequences,
            &self.digests,
            &self.days,
            &self.backing_up,
            &self.archived,
            &self.evidence,
        ]
    }
}

async fn store_totals(session: &Session, core: &Core<Pending>) -> Result<(), Trouble> {
    if core.journal.proofs.is_empty() || core.state.counters.rejected.is_empty() {
        return Ok(());
    }
    const REJECTED: &str = "INSERT INTO rejected AS r (reason, readings) SELECT * FROM unnest($1::int[], $2::bigint[]) \
                            ON CONFLICT (reason) DO UPDATE SET readings = r.readings + excluded.readings";
    let rejected = &core.state.counters.rejected;
    let reasons: Vec<i32> = rejected.keys().map(|reason| i32::from(*reason)).collect();
    let readings: Vec<i64> = rejected.values().map(|count| signed(*count)).collect();
    session.execute("count rejections", REJECTED, &[&reasons, &readings]).await.map(|_| ())
}

async fn store_reports(session: &Session, core: &Core<Pending>, loaded: &Loaded) -> Result<(), Trouble> {
    let news = core.reported.iter().filter(|(key, report)| loaded.reported.get(*key) != Some(*report));
    let news: Vec<_> = news.collect();
    if news.is_empty() {
        return Ok(());
    }
    const REPORTS: &str = "INSERT INTO reported (key, incarnation, sequence) \
                           SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) \
                           ON CONFLICT (key) DO UPDATE SET incarnation = excluded.incarnation, sequence = excluded.sequence";
    let keys: Vec<&[u8]> = news.iter().map(|(key, _)| key.as_ref()).collect();
    let incarnations: Vec<i64> = news.iter().map(|(_, report)| signed(report.0)).collect();
    let sequences: Vec<i64> = news.iter().map(|(_, report)| signed(report.1)).collect();
    session.execute("note reports", REPORTS, &[&keys, &incarnations, &sequences]).await.map(|_| ())
}

/// Spans that began, grew or are no longer remembered.
async fn store_spans(session: &Session, core: &Core<Pending>, loaded: &Loaded) -> Result<(), Trouble> {
    let now = &core.state.open_time.spans;
    if *now == loaded.spans || now.is_empty() {
        return Ok(());
    }
    // Spans are only forgotten at the front and only added at the end.
    let dropped = loaded.spans.iter().take_while(|span| now.first().is_some_and(|first| span.0 != first.0)).count();
    let first = loaded.first_span + i64::try_from(dropped).unwrap_or(0);
    if dropped > 0 {
        session.execute("forget spans", "DELETE FROM open_spans WHERE number < $1", &[&first]).await?;
    }
    for ((span, number), place) in now.iter().zip(first..).zip(dropped..) {
        if loaded.spans.get(place) != Some(span) {
            const SPAN: &str = "INSERT INTO open_spans (number, began, ended) VALUES ($1, $2, $3) \
                                ON CONFLICT (number) DO UPDATE SET ended = excluded.ended";
            session.execute("store a span", SPAN, &[&number, &span.0, &span.1]).await?;
        }
    }
    Ok(())
}

/// What boundaries and backups mean for the tables.
async fn settle(session: &Session, core: &Core<Pending>) -> Result<(), Trouble> {
    for (_, entry) in &core.journal.facts {
        match entry {
            Entry::Boundary(record) => {
                let fleets: BTreeSet<&str> = record.fleets.iter().map(|one| one.fleet.as_str()).collect();
                forget(session, core, &fleets).await?;
            }
            Entry::Backup(BackupRecord { position: 0, .. }) => {
                session.execute("begin a backup", "UPDATE chains SET backing_up = sequence", &[]).await?;
            }
            Entry::Backup(_) => {
                let sql = "UPDATE chains SET archived = backing_up WHERE archived <> backing_up";
                session.execute("complete a backup", sql, &[]).await?;
            }
            Entry::Incarnation(_) => {
                session.execute("forget reports", "DELETE FROM reported", &[]).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Forgets the grains that no reading can change any more and no epoch will ask for, of devices that were ever in these fleets.
async fn forget(session: &Session, core: &Core<Pending>, fleets: &BTreeSet<&str>) -> Result<(), Trouble> {
    let state = &core.state;
    let (mut devices, mut bounds) = (Vec::new(), Vec::new());
    for (id, device) in state.registry.devices() {
        let mut entries = device.states().iter().filter_map(|state| state.entry.as_ref());
        if !entries.any(|entry| fleets.contains(entry.fleet.as_str())) {
            continue;
        }
        if let Some(before) = lateness::forgettable(&state.registry, &state.late_boundaries, device) {
            devices.push(id.as_ref());
            bounds.push(before.0);
        }
    }
    const FORGET: &str = "DELETE FROM grains g USING unnest($1::bytea[], $2::bigint[]) AS w (device, before) \
                          WHERE g.device = w.device AND g.start < w.before";
    some(!devices.is_empty(), session.execute("forget grains", FORGET, &[&devices, &bounds])).await
}

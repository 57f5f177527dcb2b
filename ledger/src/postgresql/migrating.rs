//! From an embedded ledger into an empty database: every record at its position, and what they come to.
//!
//! Nothing is served from the database before all of it was read back and compared. Until then it is marked: whoever was cut short begins anew. In
//! the end the embedded ledger is marked, so that it does not go on beside its copy.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use depin_domain::ids::{Digest, KeyId};
use depin_log::{Log, LogReader, Storage};
use depin_proto::envelope;
use futures::pin_mut;
use sha2::{Digest as _, Sha256};
use tokio_postgres::{
    Client,
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use super::{
    BASE, PostgresqlLedger, Server,
    connection::failed,
    pending::{digest_of, signed, unsigned},
    schema,
    storing::{CHUNK, DAY_MS},
};
use crate::{
    embedded::{
        disk::{from_log, log_options},
        loading::{load_base, load_state},
        restore::{check_whole, mark_migrated},
    },
    error::LedgerError,
    files::{Kind, Reader},
    record::{Entry, FileRecord, ProofRecord, Records as _},
    settings::{Clock, Settings},
    snapshot,
    state::State,
};

/// Bytes that are copied in one transaction.
const BATCH: usize = 8 << 20;
/// Rows that are copied in one transaction.
const ROWS: usize = 2_000;

/// What was copied and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Where the log ended, and the database goes on.
    pub position: u64,
    /// Records, without ticks.
    pub records: u64,
    /// Proofs among them.
    pub proofs: u64,
    /// Frozen statistics and results.
    pub files: u64,
    /// SHA-256 over all records with their positions, as they stand in the log and were read back.
    pub digest: Digest,
}

/// Copies the ledger in `storage`, which no other process may have open, into a database that holds none.
///
/// # Errors
/// Where either cannot be read or written, the database holds a ledger, or what was read back is not what was copied.
pub async fn migrate(
    storage: Arc<dyn Storage>,
    server: Server,
    settings: Settings,
    clock: Clock,
) -> Result<Migration, LedgerError> {
    check_whole(&*storage)?;
    let unavailable = |error: std::io::Error| LedgerError::Unavailable(error.to_string());
    let (log, _) =
        Log::open(storage.directory("log").map_err(unavailable)?, log_options(&settings)).map_err(from_log)?;
    let files = storage.directory("epochs").map_err(unavailable)?;
    let (base, state) = (load_base(&*storage, log.front())?, load_state(&*storage, &log, true)?);
    let mut client = server.connect(None).await?;
    schema::migrate(&mut client).await?;
    if let Some(done) = begin(&mut client, &state, log.end()).await? {
        mark_migrated(&*storage)?;
        return Ok(done);
    }
    let mut copy = Copy { client, hash: Sha256::new(), records: 0, proofs: 0, days: HashMap::new(), day: i32::MIN };
    copy.records(&log.reader(), &base).await?;
    if log.front() > 0 {
        copy.file(BASE, &snapshot::encode(&base)).await?;
    }
    let copied = copy.files(&*files, &state).await?;
    copy.state(&state, log.end()).await?;
    let Copy { client, hash, records, proofs, .. } = copy;
    let digest = Digest(hash.finalize().into());
    let done = Migration { position: log.end(), records, proofs, files: copied, digest };
    compare(server, &settings, clock, &done, &state).await?;
    complete(&client, &done).await?;
    mark_migrated(&*storage)?;
    log.close().map_err(from_log)?;
    Ok(done)
}

/// Marks the database, and empties it of what an earlier run left that was cut short. What was copied, if nothing is left to be done.
async fn begin(client: &mut Client, state: &State, end: u64) -> Result<Option<Migration>, LedgerError> {
    let fail = |error: tokio_postgres::Error| failed("begin a migration", &error);
    let sql = "SELECT records, proofs, files, digest FROM migration \
               WHERE complete AND position = $1 AND created IS NOT DISTINCT FROM $2";
    if let Some(row) = client.query_opt(sql, &[&signed(end), &state.created]).await.map_err(fail)? {
        let [records, proofs, files] = [0, 1, 2].map(|column| unsigned(row.get(column)));
        return Ok(Some(Migration { position: end, records, proofs, files, digest: digest_of(row.get(3))? }));
    }
    let cut = client.query_opt("SELECT 1 FROM migration WHERE NOT complete", &[]).await.map_err(fail)?;
    let row = client.query_one("SELECT position FROM ledger", &[]).await.map_err(fail)?;
    if cut.is_none() && row.get::<_, i64>(0) > 1 {
        let message = "holds a ledger: migrate into an empty database".into();
        return Err(LedgerError::Invalid { field: "to-postgresql-url-file", message });
    }
    let transaction = client.transaction().await.map_err(fail)?;
    transaction
        .batch_execute(
            "TRUNCATE migration, rejected, facts, proofs, chains, chain_days, reported, devices, grains, open_spans, \
             files, file_chunks",
        )
        .await
        .map_err(fail)?;
    let (created, end) = (state.created, signed(end));
    transaction
        .execute("INSERT INTO migration (created, position, complete) VALUES ($1, $2, false)", &[&created, &end])
        .await
        .map_err(fail)?;
    transaction.commit().await.map_err(fail)?;
    Ok(None)
}

async fn complete(client: &Client, done: &Migration) -> Result<(), LedgerError> {
    let (records, proofs, files) = (signed(done.records), signed(done.proofs), signed(done.files));
    let sql = "UPDATE migration SET complete = true, records = $1, proofs = $2, files = $3, digest = $4";
    let done = client.execute(sql, &[&records, &proofs, &files, &&done.digest.0[..]]).await;
    done.map(|_| ()).map_err(|error| failed("mark the migration", &error))
}

/// Reads everything back: the records byte for byte, and what they come to by the rules.
async fn compare(
    server: Server,
    settings: &Settings,
    clock: Clock,
    done: &Migration,
    state: &State,
) -> Result<(), LedgerError> {
    let settings = settings.clone();
    let opened =
        tokio::task::spawn_blocking(move || PostgresqlLedger::open_as(server, settings, Some(clock), true)).await;
    let ledger = opened.map_err(|error| LedgerError::Unavailable(format!("a thread ended: {error}")))??;
    let records = ledger.records().await?;
    let until = done.position;
    let read = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        records.read(0, &mut |position, _, entry| {
            if position < until {
                note(&mut hash, position, &entry);
            }
            Ok(true)
        })?;
        Ok::<_, LedgerError>(Digest(hash.finalize().into()))
    });
    let digest = read.await.map_err(|error| LedgerError::Unavailable(format!("a thread ended: {error}")))??;
    let differs = |what: &str| LedgerError::Damaged(format!("the copy differs ({what}): run the migration again"));
    if digest != done.digest {
        return Err(differs("the records that were read back have another digest"));
    }
    let info = crate::api::Ledger::info(&ledger).await?;
    if (info.proofs, info.readings_accepted) != (state.counters.proofs, state.counters.accepted) {
        return Err(differs("other totals"));
    }
    let found = ledger.verify(None).await?.findings;
    tokio::task::spawn_blocking(move || ledger.close())
        .await
        .map_err(|error| LedgerError::Unavailable(format!("a thread ended: {error}")))?;
    found.first().map_or(Ok(()), |finding| Err(differs(finding)))
}

fn note(hash: &mut Sha256, position: u64, entry: &Entry) {
    let mut record = Vec::new();
    entry.encode(&mut record);
    hash.update(position.to_le_bytes());
    hash.update([entry.kind()]);
    hash.update(&record);
}

/// A row of `proofs`.
struct Row {
    day: i32,
    position: u64,
    received_at: i64,
    key: KeyId,
    incarnation: u64,
    sequence: u64,
    record: Vec<u8>,
}

/// The copying.
struct Copy {
    client: Client,
    hash: Sha256,
    records: u64,
    proofs: u64,
    /// On which day each chain's newest proof stands.
    days: HashMap<(KeyId, u64), i32>,
    day: i32,
}

impl Copy {
    async fn records(&mut self, reader: &LogReader, base: &State) -> Result<(), LedgerError> {
        let mut cursor = reader.read_from(base.applied.max(reader.front())).map_err(from_log)?;
        let (mut proofs, mut facts, mut firsts, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut made: BTreeSet<i32> = BTreeSet::new();
        while let Some(record) = cursor.next_record().map_err(from_log)? {
            let (position, kind) = (record.position, record.kind);
            bytes += record.payload.len();
            let entry = Entry::decode(kind, Bytes::copy_from_slice(record.payload), position)?;
            match &entry {
                // Spans of open time are copied as such.
                Entry::Tick(_) => continue,
                Entry::Proof(proof) => {
                    let row = self.row(position, proof)?;
                    if made.insert(row.day) {
                        schema::make_day(&mut self.client, row.day).await?;
                    }
                    if self.days.insert((row.key, row.incarnation), row.day) != Some(row.day) {
                        firsts.push((row.key, row.incarnation, row.sequence, row.day));
                    }
                    proofs.push(row);
                    self.proofs += 1;
                }
                other => {
                    let mut record = Vec::new();
                    other.encode(&mut record);
                    facts.push((signed(position), i16::from(kind), record));
                }
            }
            note(&mut self.hash, position, &entry);
            self.records += 1;
            if bytes >= BATCH || proofs.len() + facts.len() >= ROWS {
                self.batch(&mut proofs, &mut facts, &mut firsts).await?;
                bytes = 0;
            }
        }
        self.batch(&mut proofs, &mut facts, &mut firsts).await
    }

    fn row(&mut self, position: u64, proof: &ProofRecord) -> Result<Row, LedgerError> {
        let header = proof.proof.as_ref().map(|proof| &proof.header[..]).unwrap_or_default();
        let header = envelope::decode_header(header)
            .map_err(|error| LedgerError::Damaged(format!("the proof at {position}: {error}")))?;
        let day = i32::try_from(proof.received_at.div_euclid(DAY_MS)).unwrap_or(i32::MAX);
        // Days ascend with positions, as they do in a database.
        self.day = self.day.max(day);
        Ok(Row {
            day: self.day,
            position,
            received_at: proof.received_at,
            key: header.key,
            incarnation: header.incarnation,
            sequence: header.sequence,
            record: prost::Message::encode_to_vec(proof),
        })
    }

    async fn batch(
        &mut self,
        proofs: &mut Vec<Row>,
        facts: &mut Vec<(i64, i16, Vec<u8>)>,
        firsts: &mut Vec<(KeyId, u64, u64, i32)>,
    ) -> Result<(), LedgerError> {
        let transaction = self.client.transaction().await.map_err(|error| failed("begin", &error))?;
        let fail = |error: tokio_postgres::Error| failed("copy records", &error);
        let sink = transaction
            .copy_in::<_, Bytes>(
                "COPY proofs (day, position, received_at, key, incarnation, sequence, record) FROM STDIN BINARY",
            )
            .await
            .map_err(fail)?;
        let types = [Type::INT4, Type::INT8, Type::INT8, Type::BYTEA, Type::INT8, Type::INT8, Type::BYTEA];
        let writer = BinaryCopyInWriter::new(sink, &types);
        pin_mut!(writer);
        for row in proofs.drain(..) {
            let (position, key) = (signed(row.position), &row.key.0[..]);
            let (incarnation, sequence) = (signed(row.incarnation), signed(row.sequence));
            let row: [&(dyn ToSql + Sync); 7] =
                [&row.day, &position, &row.received_at, &key, &incarnation, &sequence, &row.record];
            writer.as_mut().write(&row).await.map_err(fail)?;
        }
        writer.finish().await.map_err(fail)?;
        for (position, kind, record) in facts.drain(..) {
            let sql = "INSERT INTO facts (position, kind, record) VALUES ($1, $2, $3)";
            transaction.execute(sql, &[&position, &kind, &record]).await.map_err(fail)?;
        }
        for (key, incarnation, sequence, day) in firsts.drain(..) {
            let sql = "INSERT INTO chain_days (key, incarnation, sequence, day) VALUES ($1, $2, $3, $4)";
            let (key, incarnation, sequence) = (&key.0[..], signed(incarnation), signed(sequence));
            transaction.execute(sql, &[&key, &incarnation, &sequence, &day]).await.map_err(fail)?;
        }
        transaction.commit().await.map_err(fail)
    }

    async fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), LedgerError> {
        let fail = |error: tokio_postgres::Error| failed("copy a file", &error);
        let transaction = self.client.transaction().await.map_err(fail)?;
        let length = signed(bytes.len() as u64);
        let sql = "INSERT INTO files (name, bytes) VALUES ($1, $2)";
        transaction.execute(sql, &[&name, &length]).await.map_err(fail)?;
        for (chunk, number) in bytes.chunks(CHUNK).zip(0_i32..) {
            let sql = "INSERT INTO file_chunks (name, number, data) VALUES ($1, $2, $3)";
            transaction.execute(sql, &[&name, &number, &chunk]).await.map_err(fail)?;
        }
        transaction.commit().await.map_err(fail)
    }

    /// Frozen statistics and results, each with the digest that was recorded.
    async fn files(&mut self, files: &dyn Storage, state: &State) -> Result<u64, LedgerError> {
        let mut count = 0;
        for epoch in state.epochs.values().flat_map(|epochs| epochs.values()) {
            let result = epoch.result.as_ref().and_then(|result| result.file.as_ref());
            let frozen = epoch.closed.frozen.iter().map(|file| (file, Kind::Statistics));
            for (file, kind) in frozen.chain(result.map(|file| (file, Kind::Result))) {
                Reader::open(files, file, kind)?.verify(file)?;
                let bytes = whole(files, file)?;
                self.file(&file.name, &bytes).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// What the records come to, in one transaction.
    async fn state(&mut self, state: &State, end: u64) -> Result<(), LedgerError> {
        let fail = |error: tokio_postgres::Error| failed("copy the state", &error);
        let transaction = self.client.transaction().await.map_err(fail)?;
        for (key, chain) in &state.chains.by_key {
            let day = self.days.get(&(*key, chain.head.incarnation)).copied().unwrap_or(i32::MIN);
            let (incarnation, sequence) = (signed(chain.head.incarnation), signed(chain.head.sequence));
            let (backing_up, archived) = (signed(chain.backing_up), signed(chain.archived));
            let (key, digest) = (&key.0[..], &chain.head.digest.0[..]);
            let sql = "INSERT INTO chains (key, incarnation, sequence, digest, day, backing_up, archived, evidence) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            let row: [&(dyn ToSql + Sync); 8] =
                [&key, &incarnation, &sequence, &digest, &day, &backing_up, &archived, &chain.evidence];
            transaction.execute(sql, &row).await.map_err(fail)?;
        }
        for (device, account) in &state.accounts {
            let (device, marks) = (&device.0[..], snapshot::encode_marks(account));
            let sql = "INSERT INTO devices (device, marks) VALUES ($1, $2)";
            transaction.execute(sql, &[&device, &marks]).await.map_err(fail)?;
            for assignment in &account.assignments {
                let number = i32::try_from(assignment.number).unwrap_or(i32::MAX);
                for metric in &assignment.metrics {
                    for grain in &metric.grains {
                        let sql = "INSERT INTO grains (device, start, assignment, metric, statistic) \
                                   VALUES ($1, $2, $3, $4, $5)";
                        let statistic = snapshot::encode_grain(grain);
                        let row: [&(dyn ToSql + Sync); 5] =
                            [&device, &grain.start.0, &number, &&*metric.metric, &statistic];
                        transaction.execute(sql, &row).await.map_err(fail)?;
                    }
                }
            }
        }
        for (reason, count) in &state.counters.rejected {
            let sql = "INSERT INTO rejected (reason, readings) VALUES ($1, $2)";
            transaction.execute(sql, &[&i32::from(*reason), &signed(*count)]).await.map_err(fail)?;
        }
        for ((began, ended), number) in state.open_time.spans.iter().zip(0_i64..) {
            let sql = "INSERT INTO open_spans (number, began, ended) VALUES ($1, $2, $3)";
            transaction.execute(sql, &[&number, began, ended]).await.map_err(fail)?;
        }
        let sql = "UPDATE ledger SET position = $1, facts = $1, last_received = $2, proofs = $3, accepted = $4, \
                   open_forgotten = $5";
        let (proofs, accepted) = (signed(state.counters.proofs), signed(state.counters.accepted));
        let row: [&(dyn ToSql + Sync); 5] =
            [&signed(end), &state.last_received, &proofs, &accepted, &state.open_time.forgotten];
        transaction.execute(sql, &row).await.map_err(fail)?;
        transaction.commit().await.map_err(fail)
    }
}

fn whole(files: &dyn Storage, file: &FileRecord) -> Result<Vec<u8>, LedgerError> {
    let unavailable = |error: std::io::Error| LedgerError::Unavailable(format!("{}: {error}", file.name));
    let open = files.open_read(&file.name).map_err(unavailable)?;
    let mut bytes = vec![0; usize::try_from(file.bytes).unwrap_or(0)];
    open.read_at(0, &mut bytes).map_err(unavailable)?;
    Ok(bytes)
}

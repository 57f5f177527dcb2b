//! What gateways that share a database tell each other of who was heard: memory that may be forgotten, never record.
//!
//! Its tables are unlogged: a server that crashed has them empty, and each gateway finds out with its next word and says everything again.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::connection::{Pool, failed};
use crate::error::LedgerError;

/// What others say is asked for again for so long: it is dated before its transaction commits. What comes even later is healed by the next word.
const OVERLAP_MS: i64 = 10_000;
/// A gateway that says nothing for so long has ended.
const ALIVE_MS: i64 = 15_000;
/// What an ended gateway said is kept for so long: who it heard last is known as long as anybody asks in time.
const KEEP_MS: i64 = 600_000;

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const BEAT: &str = "INSERT INTO gateways (gateway, alive) VALUES ($1, $2) \
                    ON CONFLICT (gateway) DO UPDATE SET alive = excluded.alive RETURNING xmax = 0";
const TELL: &str = "INSERT INTO presence (gateway, kind, id, told, body) \
                    SELECT $1, * FROM (SELECT unnest($2::smallint[]), unnest($3::bytea[]), $4::bigint, unnest($5::bytea[])) AS said \
                    ON CONFLICT (gateway, kind, id) DO UPDATE SET told = excluded.told, body = excluded.body";
const FORGET: &str = "WITH gone AS (DELETE FROM gateways WHERE gateway IN \
                        (SELECT gateway FROM gateways WHERE alive < $1 FOR UPDATE SKIP LOCKED) RETURNING gateway) \
                      DELETE FROM presence WHERE gateway IN (SELECT gateway FROM gone)";
const HEAR: &str = "SELECT gateway, kind, id, body FROM presence WHERE told > $1 AND gateway <> $2";
const ALIVE: &str = "SELECT gateway, alive FROM gateways WHERE gateway <> $1";

/// A gateway's name for itself, anew with each start.
pub type GatewayId = [u8; 16];

/// One thing that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is of: the callers' word.
    pub kind: i16,
    /// Of whom.
    pub id: Vec<u8>,
    /// What.
    pub body: Bytes,
}

/// What was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Nothing of what this gateway said is kept: it says everything again.
    pub forgotten: bool,
    /// The other gateways, and whether each is alive. What others said is void.
    pub gateways: Vec<(GatewayId, bool)>,
    /// What the others said since.
    pub notes: Vec<(GatewayId, Note)>,
    /// From when to ask the next time: the server's clock, milliseconds since 1970.
    pub until: i64,
}

/// The place where it is told.
#[derive(Clone, Debug)]
pub struct Board {
    pub(super) runtime: Handle,
    pub(super) pool: Arc<Pool>,
}

impl Board {
    /// Tells what `own` has to say, and hears what others said after `since` (some of it once more).
    ///
    /// # Errors
    /// Where the database cannot be reached: nothing was told then, or it may be told again.
    pub async fn exchange(&self, own: GatewayId, notes: Vec<Note>, since: i64) -> Result<Heard, LedgerError> {
        let pool = Arc::clone(&self.pool);
        let work = async move { pool.with(async |client| exchange(client, own, &notes, since).await).await };
        let done = self.runtime.spawn(work).await;
        done.map_err(|_| LedgerError::stopped())?
    }
}

async fn exchange(
    client: &mut tokio_postgres::Client,
    own: GatewayId,
    notes: &[Note],
    since: i64,
) -> Result<Heard, LedgerError> {
    let fail = |error: tokio_postgres::Error| failed("tell other gateways who was heard", &error);
    let id = |bytes: Vec<u8>| GatewayId::try_from(bytes).unwrap_or_default();
    let transaction = client.transaction().await.map_err(fail)?;
    // Nothing here is worth waiting for a disk or a standby.
    transaction.batch_execute("SET LOCAL synchronous_commit = off").await.map_err(fail)?;
    let now: i64 = transaction.query_one(NOW, &[]).await.map_err(fail)?.get(0);
    let me = &own[..];
    let forgotten: bool = transaction.query_one(BEAT, &[&me, &now]).await.map_err(fail)?.get(0);
    if !notes.is_empty() {
        let kinds: Vec<i16> = notes.iter().map(|note| note.kind).collect();
        let ids: Vec<&[u8]> = notes.iter().map(|note| &note.id[..]).collect();
        let bodies: Vec<&[u8]> = notes.iter().map(|note| &note.body[..]).collect();
        transaction.execute(TELL, &[&me, &kinds, &ids, &now, &bodies]).await.map_err(fail)?;
    }
    transaction.execute(FORGET, &[&(now - KEEP_MS)]).await.map_err(fail)?;
    let gateways = transaction.query(ALIVE, &[&me]).await.map_err(fail)?;
    let gateways = gateways.iter().map(|row| (id(row.get(0)), row.get::<_, i64>(1) > now - ALIVE_MS)).collect();
    let heard = transaction.query(HEAR, &[&(since - OVERLAP_MS), &me]).await.map_err(fail)?;
    let note = |row: &tokio_postgres::Row| {
        let body = Bytes::from(row.get::<_, Vec<u8>>(3));
        (id(row.get(0)), Note { kind: row.get(1), id: row.get(2), body })
    };
    let notes = heard.iter().map(note).collect();
    transaction.commit().await.map_err(fail)?;
    Ok(Heard { forgotten, gateways, notes, until: now })
}

//! The journal read back in order, in pages, without the writer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    connection::{Pool, failed},
    pending::{signed, unsigned},
};
use crate::{
    error::LedgerError,
    record::{Each, Entry, Records},
};

/// Records of a page.
const PAGE: i64 = 64;
/// The kind of proofs.
const PROOF: u8 = 1;

/// The journal in the database. Reading blocks: it is for threads that may.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    pub(super) runtime: Handle,
    pub(super) pool: Arc<Pool>,
    /// Where what is kept begins.
    pub(super) front: u64,
}

type Read = (u64, u8, Bytes);

impl Records for Journal {
    fn front(&self) -> u64 {
        self.front
    }

    fn read(&self, from: u64, each: &mut Each<'_>) -> Result<(), LedgerError> {
        let (mut next, mut bytes) = (from.max(self.front), 0);
        let days = self.runtime.block_on(days(&self.pool, next))?;
        // A day's proofs lie between those of the days beside it; facts anywhere.
        for place in 0..=days.len() {
            let day = days.get(place).map(|(day, _)| *day);
            let until = days.get(place + 1).map_or(u64::MAX, |(_, first)| *first);
            if day.is_none() && !days.is_empty() {
                break;
            }
            loop {
                let page = self.runtime.block_on(page(&self.pool, day, next, until))?;
                let last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
                for (position, kind, record) in page {
                    bytes += record.len() as u64;
                    next = position + 1;
                    if !each(position, bytes, Entry::decode(kind, record, position)?)? {
                        return Ok(());
                    }
                }
                if last {
                    break;
                }
            }
            next = next.max(if until == u64::MAX { next } else { until });
        }
        Ok(())
    }
}

/// The days that hold proofs from a position on, each with where it begins.
async fn days(pool: &Pool, from: u64) -> Result<Vec<(i32, u64)>, LedgerError> {
    pool.with(async |client| {
        let rows = client.query("SELECT day FROM days ORDER BY day", &[]).await;
        let rows = rows.map_err(|error| failed("read the days", &error))?;
        let mut days: Vec<(i32, u64)> = Vec::new();
        for day in rows.iter().map(|row| row.get::<_, i32>(0)) {
            let sql = "SELECT min(position) FROM proofs WHERE day = $1";
            let first = client.query_one(sql, &[&day]).await.map_err(|error| failed("look into a day", &error))?;
            if let Some(first) = first.get::<_, Option<i64>>(0) {
                days.push((day, unsigned(first)));
            }
        }
        // Those that end before: the next one begins at or before the position.
        let before = days.iter().skip(1).take_while(|(_, first)| *first <= from).count();
        Ok(days.split_off(before.min(days.len())))
    })
    .await
}

/// The records of a day and the facts, from one position to before another.
async fn page(pool: &Pool, day: Option<i32>, from: u64, until: u64) -> Result<Vec<Read>, LedgerError> {
    const SQL: &str = "(SELECT position, kind, record FROM facts WHERE position >= $2 AND position < $3 ORDER BY position LIMIT $4) \
                       UNION ALL (SELECT position, 1::smallint, record FROM proofs \
                       WHERE day = $1 AND position >= $2 AND position < $3 ORDER BY position LIMIT $4) \
                       ORDER BY position LIMIT $4";
    pool.with(async |client| {
        // A day without any proof: only facts.
        let day = day.unwrap_or(i32::MIN);
        let rows = client.query(SQL, &[&day, &signed(from), &signed(until), &PAGE]).await;
        let rows = rows.map_err(|error| failed("read records", &error))?;
        let read = |row: &tokio_postgres::Row| {
            let kind = u8::try_from(row.get::<_, i16>(1)).unwrap_or(u8::MAX);
            debug_assert!(kind >= PROOF);
            (unsigned(row.get(0)), kind, Bytes::copy_from_slice(row.get(2)))
        };
        Ok(rows.iter().map(read).collect())
    })
    .await
}

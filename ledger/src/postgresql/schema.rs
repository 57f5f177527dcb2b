//! The tables, in versions: each version is one step, taken in a transaction under an advisory lock.

use tokio_postgres::Client;

use super::connection::{Server, failed};
use crate::error::LedgerError;

/// Held by whoever changes the schema or makes partitions. Kept apart from those of appending by the first number.
const SCHEMA_LOCK: &str = "pg_advisory_xact_lock(1145392462, 1)";

/// Each step brings the schema from its index to the next version.
const STEPS: &[&str] = &[include_str!("schema/1.sql")];

/// Brings the schema to this program's version.
///
/// # Errors
/// Where the database was made by a newer program: nothing is changed then.
pub(super) async fn migrate(client: &mut Client) -> Result<(), LedgerError> {
    let transaction = client.transaction().await.map_err(|error| failed("begin", &error))?;
    let prepare = format!(
        "SELECT {SCHEMA_LOCK}; CREATE SCHEMA IF NOT EXISTS depin; \
         CREATE TABLE IF NOT EXISTS depin.schema_version (version integer NOT NULL)"
    );
    transaction.batch_execute(&prepare).await.map_err(|error| failed("make the schema `depin`", &error))?;
    let row = transaction
        .query_one("SELECT coalesce(max(version), 0) FROM depin.schema_version", &[])
        .await
        .map_err(|error| failed("read the schema's version", &error))?;
    let found: i32 = row.get(0);
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    if found > known {
        return Err(LedgerError::Unavailable(format!(
            "the database has schema version {found}, this program knows {known}: run a depin-gateway that is as new as the one that made it"
        )));
    }
    for (step, version) in STEPS.iter().zip(1_i32..).skip(usize::try_from(found).unwrap_or(0)) {
        transaction.batch_execute(step).await.map_err(|error| failed("change the schema", &error))?;
        transaction
            .execute("INSERT INTO depin.schema_version (version) VALUES ($1)", &[&version])
            .await
            .map_err(|error| failed("note the schema's version", &error))?;
    }
    transaction.commit().await.map_err(|error| failed("commit the schema", &error))
}

/// Brings the schema up to date; refuses a database into which the copying of an embedded ledger was cut short.
pub(super) async fn check(server: &Server) -> Result<(), LedgerError> {
    let mut client = server.connect(None).await?;
    migrate(&mut client).await?;
    let cut = client.query_opt("SELECT 1 FROM depin.migration WHERE NOT complete", &[]).await;
    match cut.map_err(|error| failed("look for a migration", &error))? {
        None => Ok(()),
        Some(_) => Err(LedgerError::Unavailable(
            "a migration into this database was cut short: run the same `ledger migrate` again, it begins anew".into(),
        )),
    }
}

/// Makes the partition of a day, unless it is there.
pub(super) async fn make_day(client: &mut Client, day: i32) -> Result<(), LedgerError> {
    let transaction = client.transaction().await.map_err(|error| failed("begin", &error))?;
    let lock = format!("SELECT {SCHEMA_LOCK}");
    transaction.batch_execute(&lock).await.map_err(|error| failed("lock the schema", &error))?;
    let known = transaction
        .query_opt("SELECT 1 FROM depin.days WHERE day = $1", &[&day])
        .await
        .map_err(|error| failed("look for a day", &error))?;
    if known.is_none() {
        // Made apart and attached: that waits for no reader, and no reader waits for it.
        let sign = if day < 0 { "before_" } else { "" };
        let name = format!("proofs_{sign}{}", day.unsigned_abs());
        let make = format!(
            "CREATE TABLE depin.{name} (LIKE depin.proofs INCLUDING ALL); \
             ALTER TABLE depin.proofs ATTACH PARTITION depin.{name} FOR VALUES IN ({day}); \
             INSERT INTO depin.days (day) VALUES ({day})"
        );
        transaction.batch_execute(&make).await.map_err(|error| failed("make a day's partition", &error))?;
    }
    transaction.commit().await.map_err(|error| failed("commit a day's partition", &error))
}

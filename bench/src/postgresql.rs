//! The ledger on PostgreSQL beside plain COPY of the same records into one table, on one server of its own.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use depin_ledger::{Ledger, PostgresqlLedger, Server, Settings, Submission};
use depin_trials::PostgresqlServer;
use futures::{SinkExt as _, pin_mut};
use prost::Message as _;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::{
    processes::now_ms,
    record::{CALL, HOUR_MS, LANES, Options, Watch, append, found},
};

/// As many records as the ledger can be given at the same time are one transaction of plain COPY.
const TRANSACTION: usize = LANES * CALL;

/// Measures COPY in transactions, COPY as one, and the ledger, on databases of one server.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let server =
        PostgresqlServer::start()?.context("there is no PostgreSQL server: install the package `postgresql`")?;
    let begin = now_ms()? / HOUR_MS * HOUR_MS - 2 * HOUR_MS;
    let mut watch = Watch::new(options)?;
    let url = server.url(&server.database()?);
    let opened = tokio::task::spawn_blocking(move || {
        anyhow::Ok(PostgresqlLedger::open(Server::new(&url, None)?, Settings::default(), None)?)
    });
    let ledger: Arc<dyn Ledger> = Arc::new(opened.await??);
    let (_, lanes) = found(options, &*ledger, begin).await?;
    let records: Vec<Bytes> = lanes.iter().flatten().map(record).collect();
    let bytes: usize = records.iter().map(Bytes::len).sum();
    let client = plain(&server).await?;
    watch.skip()?;
    for batch in records.chunks(TRANSACTION) {
        copy(&client, batch).await?;
    }
    watch.tell("copy", Some(json!({ "transactions": records.len().div_ceil(TRANSACTION), "bytes": bytes })))?;
    client.batch_execute("TRUNCATE plain").await?;
    watch.skip()?;
    copy(&client, &records).await?;
    watch.tell("copy-at-once", Some(json!({ "transactions": 1, "bytes": bytes })))?;
    drop(records);
    watch.skip()?;
    let tasks: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(append(Arc::clone(&ledger), lane))).collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await??;
    }
    watch.tell("append", None)?;
    ensure!(accepted == watch.readings, "{accepted} of {} readings were accepted", watch.readings);
    Ok(())
}

/// What is kept of a proof, whoever keeps it.
fn record(submission: &Submission) -> Bytes {
    submission.proof.encode_to_vec().into()
}

async fn plain(server: &PostgresqlServer) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&server.url(&server.database()?), NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("CREATE TABLE plain (record bytea NOT NULL)").await?;
    Ok(client)
}

/// One transaction, in COPY's binary format.
async fn copy(client: &Client, records: &[Bytes]) -> Result<()> {
    let sink = client.copy_in("COPY plain (record) FROM STDIN BINARY").await?;
    pin_mut!(sink);
    // The header of the binary format: signature, flags, no extension.
    let mut buffer = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for record in records {
        // One field, and its length.
        buffer.extend(1_i16.to_be_bytes());
        buffer.extend(i32::try_from(record.len())?.to_be_bytes());
        buffer.extend(record);
        if buffer.len() > 1 << 16 {
            sink.send(Bytes::from(std::mem::take(&mut buffer))).await?;
        }
    }
    buffer.extend((-1_i16).to_be_bytes());
    sink.send(Bytes::from(buffer)).await?;
    let copied = sink.finish().await?;
    ensure!(copied == records.len() as u64, "{copied} of {} records were copied", records.len());
    Ok(())
}

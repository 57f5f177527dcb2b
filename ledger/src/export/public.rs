//! The public export: one row a device under a pseudonym that changes every epoch, and a manifest with totals, root and the program.
//!
//! Enough to recompute every weight, amount and the root; no device, no place. The pseudonym's key is derived from the digest of the frozen
//! statistics, which is never published.

use depin_domain::{
    ids::{DeviceId, Digest},
    rewards::{Line, ProgramState},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Chunks, Source, json_of, send, send_manifest,
    table::{self, Column},
};
use crate::{api::EpochRecord, error::LedgerError};

/// Of both files together.
pub(crate) const FORMAT: &str = "depin.v1.PublicExport";

const SCHEMA: &str = "message line {
    required binary pseudonym (UTF8);
    required int64 rawWeight;
    required boolean admitted;
    required int64 weight;
    required binary share (UTF8);
    required binary line (UTF8);
}";

const ACCOUNTS: &str = "message account {
    required binary account (UTF8);
    required binary cumulative (UTF8);
}";

pub(crate) fn write(source: &Source, chunks: &Chunks) -> Result<(), LedgerError> {
    let (result, digest) = source.result()?;
    let summary = json_of("summary", &result.summary)?;
    let files = send_files(source, chunks, &result, &summary)?;
    let spec = source.spec()?;
    let manifest = json!({
        "format": FORMAT, "files": files, "summary": summary, "spec": spec, "resultDigest": digest.to_string(),
    });
    send_manifest(chunks, &manifest)
}

/// The lines under pseudonyms, and the accounts where the summary does not tell them.
pub(super) fn send_files(
    source: &Source,
    chunks: &Chunks,
    result: &EpochRecord,
    summary: &Value,
) -> Result<Vec<Value>, LedgerError> {
    let key = pseudonym_key(source)?;
    let mut rows: Vec<(DeviceId, Line)> = Vec::with_capacity(result.lines.len());
    for bytes in &result.lines {
        let mut line: Line =
            serde_json::from_slice(bytes).map_err(|error| LedgerError::Damaged(format!("line: {error}")))?;
        line.device = pseudonym(&key, &line.device);
        rows.push((line.device, line));
    }
    // By pseudonym: the order of devices tells nothing.
    rows.sort_by_key(|(pseudonym, _)| *pseudonym);
    let lines: Vec<Line> = rows.into_iter().map(|(_, line)| line).collect();
    let mut files = vec![send(chunks, "public.parquet", lines.len(), lines_table(&lines)?)?];
    if summary.get("payoutsInState").and_then(Value::as_bool).unwrap_or(false) {
        files.push(send_accounts(chunks, &result.state)?);
    }
    Ok(files)
}

pub(super) fn pseudonym_key(source: &Source) -> Result<Digest, LedgerError> {
    let number = source.window()?.number;
    let frozen = source.epoch.closed.frozen.iter().find(|file| file.number == number);
    let frozen = frozen.ok_or_else(|| LedgerError::Damaged("a close without statistics".into()))?;
    let hash = Sha256::new().chain_update(b"depin.v1.PseudonymKey\0").chain_update(&frozen.digest);
    Ok(Digest(hash.finalize().into()))
}

/// What stands for a device in one epoch's public export: 16 bytes, as a device's id.
pub(super) fn pseudonym(key: &Digest, device: &DeviceId) -> DeviceId {
    let hash = Sha256::new().chain_update(b"depin.v1.Pseudonym\0").chain_update(key).chain_update(device).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    DeviceId(bytes)
}

fn lines_table(lines: &[Line]) -> Result<Vec<u8>, LedgerError> {
    let text = |line: &Line| {
        depin_domain::canonical::to_vec(line).map_err(|error| LedgerError::Damaged(format!("line: {error}")))
    };
    // Weights are at most 10^12 and fit.
    let weight = |weight: u64| i64::try_from(weight).unwrap_or(i64::MAX);
    let columns = [
        Column::Bytes(lines.iter().map(|line| line.device.to_string().into_bytes()).collect()),
        Column::Int64(lines.iter().map(|line| weight(line.raw_weight)).collect()),
        Column::Bool(lines.iter().map(|line| line.admitted).collect()),
        Column::Int64(lines.iter().map(|line| weight(line.weight)).collect()),
        Column::Bytes(lines.iter().map(|line| line.share.to_string().into_bytes()).collect()),
        Column::Bytes(lines.iter().map(text).collect::<Result<_, _>>()?),
    ];
    table::write(SCHEMA, &columns)
}

/// The cumulative amounts of all accounts, where there are too many for the summary.
fn send_accounts(chunks: &Chunks, state: &[u8]) -> Result<Value, LedgerError> {
    let state: ProgramState =
        serde_json::from_slice(state).map_err(|error| LedgerError::Damaged(format!("state: {error}")))?;
    let accounts = &state.accounts;
    let columns = [
        Column::Bytes(accounts.iter().map(|account| account.account.to_string().into_bytes()).collect()),
        Column::Bytes(accounts.iter().map(|account| account.cumulative.to_string().into_bytes()).collect()),
    ];
    send(chunks, "accounts.parquet", accounts.len(), table::write(ACCOUNTS, &columns)?)
}

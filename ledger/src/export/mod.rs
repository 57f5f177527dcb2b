//! What leaves the ledger about an epoch: the public export, from which anyone can recompute amounts and root, the audit export, and an owner's.
//!
//! Both are streams of files: Parquet (zstd) beside a `manifest.json` in canonical JSON that names their digests. The schemas are in
//! `docs/exports.md`; they only grow.

mod audit;
mod judging;
mod marks;
mod owner;
mod public;
mod sections;
mod table;

use std::sync::Arc;

use bytes::Bytes;
use depin_domain::{canonical, ids::Digest, registry::Registry};
use depin_log::Storage;
use depin_proto::v1;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    api::{EpochRecord, Export},
    epochs,
    error::LedgerError,
    record::Records,
    state::{Epoch, State, Written},
};

/// What exports are made of.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) epoch: Epoch,
    pub(crate) registry: Registry,
    /// What the registry was made of until the close.
    pub(crate) written: Vec<Written>,
    /// The result of the epoch before; none for a program's first.
    pub(crate) previous: Option<EpochRecord>,
    /// Results of the epochs that matured with this one.
    pub(crate) matured: Vec<(u64, EpochRecord)>,
    pub(crate) files: Arc<dyn Storage>,
    pub(crate) records: Arc<dyn Records>,
    /// What was known where the log begins: what is left of proofs past their retention.
    pub(crate) base: State,
}

pub(crate) type Chunks = mpsc::Sender<Result<v1::FileChunk, LedgerError>>;

const CHUNK: usize = 256 << 10;

/// Sends all files of an export.
pub(crate) fn write(source: &Source, export: Export, chunks: &Chunks) -> Result<(), LedgerError> {
    match export {
        Export::Public => public::write(source, chunks),
        Export::Audit => audit::write(source, chunks),
        Export::Owner(owner) => owner::write(source, chunks, &owner),
    }
}

impl Source {
    fn close(&self) -> Result<&v1::EpochClose, LedgerError> {
        self.epoch.closed.close.as_ref().ok_or_else(|| LedgerError::Damaged("a close without content".into()))
    }

    fn window(&self) -> Result<&v1::EpochWindow, LedgerError> {
        self.close()?.window.as_ref().ok_or_else(|| LedgerError::Damaged("a close without window".into()))
    }

    fn result(&self) -> Result<(EpochRecord, Digest), LedgerError> {
        let close = self.close()?;
        let number = self.window()?.number;
        let missing = || LedgerError::NotFound(format!("a result of epoch {number} of {}", close.program));
        let file = self.epoch.result.as_ref().and_then(|result| result.file.as_ref()).ok_or_else(missing)?;
        let digest = Digest::from_slice(&file.digest).unwrap_or_default();
        Ok((epochs::read_result(&*self.files, file)?, digest))
    }

    /// The epochs that matured with this one.
    fn matured_numbers(&self) -> Result<Vec<u64>, LedgerError> {
        Ok(self.close()?.matured.iter().map(|window| window.number).collect())
    }

    /// The fleets that took part in epoch `number`.
    fn fleets(&self, number: u64) -> Result<Vec<String>, LedgerError> {
        let program = &self.close()?.program;
        if number == self.window()?.number {
            return Ok(self.epoch.closed.fleets.clone());
        }
        epochs::fleets(&self.registry, program, number)
    }

    /// The program's spec that ruled the epoch, as its canonical JSON.
    fn spec(&self) -> Result<Value, LedgerError> {
        let (program, number) = (&self.close()?.program, self.window()?.number);
        let entry = self.registry.program(program).and_then(|known| known.ruling(number).or_else(|| known.newest()));
        let entry = entry.ok_or_else(|| LedgerError::NotFound(format!("a spec of program {program}")))?;
        json_of("spec", entry.spec.as_bytes())
    }
}

fn json_of(what: &str, bytes: &[u8]) -> Result<Value, LedgerError> {
    serde_json::from_slice(bytes).map_err(|error| LedgerError::Damaged(format!("{what}: {error}")))
}

/// Sends a file in chunks and tells its manifest entry. A receiver that is gone ends the export.
fn send(chunks: &Chunks, name: &str, rows: usize, bytes: Vec<u8>) -> Result<Value, LedgerError> {
    let entry = json!({
        "name": name, "rows": rows, "bytes": bytes.len(), "sha256": Digest::of(&bytes).to_string(),
    });
    let bytes = Bytes::from(bytes);
    let mut at = 0;
    loop {
        let end = (at + CHUNK).min(bytes.len());
        let chunk =
            v1::FileChunk { name: if at == 0 { name.to_owned() } else { String::new() }, data: bytes.slice(at..end) };
        let gone = |_| LedgerError::Unavailable("nobody reads the export".into());
        chunks.blocking_send(Ok(chunk)).map_err(gone)?;
        at = end;
        if at >= bytes.len() {
            return Ok(entry);
        }
    }
}

fn send_manifest(chunks: &Chunks, manifest: &Value) -> Result<(), LedgerError> {
    let bytes = canonical::to_vec(manifest).map_err(|error| LedgerError::Damaged(format!("manifest: {error}")))?;
    send(chunks, "manifest.json", 0, bytes).map(|_| ())
}

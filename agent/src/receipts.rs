//! `depin-agent receipts`: what an agent can show of its own disk, while it is stopped.
//!
//! As long as a proof is kept, so is the receipt that the gateway signed for it. An owner who finds readings missing from an epoch has in
//! both what proves that they were delivered.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Parser;
use depin_identity::keys::SigningKey;
use depin_log::{DiskStorage, Storage as _};
use depin_proto::{envelope, proof_file, v1::ProofRecord};

use crate::sealer::{Store, StoreOptions};

/// Print the kept proofs with their receipts, for `kubectl depin verify`; the agent must be stopped
#[derive(Parser, Clone, Debug)]
#[command(name = "depin-agent receipts", version)]
pub struct ReceiptsOptions {
    /// The agent's directory for key, certificate, spool and journal
    #[arg(long, env = "DEPIN_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// File to write; by default standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Writes the file.
///
/// # Errors
/// Where the agent runs, the directory is not an agent's, or the file cannot be written.
pub fn run_receipts(options: &ReceiptsOptions) -> anyhow::Result<()> {
    let key_file = options.state_dir.join("agent.key");
    let pem = std::fs::read_to_string(&key_file)
        .with_context(|| format!("--state-dir {}: holds no agent's key", options.state_dir.display()))?;
    let key = SigningKey::from_pem(&pem, &key_file.display().to_string())?;
    let store = open(&options.state_dir)?;
    let written = match &options.out {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("--out {}", path.display()))?;
            write(&store, &key, BufWriter::new(file))?
        }
        None => write(&store, &key, io::stdout().lock())?,
    };
    eprintln!("{written} proofs with receipts; verify them: kubectl depin verify FILE");
    Ok(())
}

fn open(directory: &Path) -> anyhow::Result<Store> {
    let state = DiskStorage::open(directory).with_context(|| format!("--state-dir {}", directory.display()))?;
    let part =
        |name: &str| state.directory(name).with_context(|| format!("--state-dir {}: {name}", directory.display()));
    let (store, _) = Store::open(part("spool")?, part("journal")?, StoreOptions::default())
        .context("stop the agent first; its journal has one reader at a time")?;
    Ok(store)
}

fn write(store: &Store, key: &SigningKey, mut out: impl Write) -> anyhow::Result<u64> {
    let mut keys = store.state().gateways.clone();
    keys.push(key.public().clone());
    out.write_all(proof_file::head_line(keys)?.as_bytes())?;
    let mut written = 0;
    for held in &store.state().held {
        let Some(receipt) = store.receipt_of(held)? else { continue };
        let body = envelope::decode_receipt(&receipt.body)?;
        let record = ProofRecord {
            position: body.position,
            received_at: body.received_at.0,
            proof: Some(store.proof(held)?),
            // The receipt names the verdict's digest; the verdict itself is the ledger's.
            verdict: None,
            receipt: Some(receipt),
            ..ProofRecord::default()
        };
        out.write_all(proof_file::record_line(&record).as_bytes())?;
        written += 1;
    }
    out.flush()?;
    Ok(written)
}

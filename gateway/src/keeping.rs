//! `depin-gateway ledger …`: keeping the record while the gateway is stopped.
//!
//! Each command takes the ledger's lock, so a running gateway is told apart from a stopped one.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use depin_domain::time::Timestamp;
use depin_ledger::{Clock, EmbeddedLedger, Settings};
use depin_log::{DiskStorage, Storage};

use crate::retention::RetentionOptions;

/// Verify, compact, back up, restore or release the embedded ledger of a stopped gateway
#[derive(Parser, Clone, Debug)]
#[command(name = "depin-gateway ledger", version)]
pub struct LedgerOptions {
    /// Directory of the embedded ledger
    #[arg(long, env = "DEPIN_DATA_DIR", value_name = "DIR", global = true, default_value = "data")]
    pub data_dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: LedgerCommand,
}

/// What to do with the ledger.
#[derive(Subcommand, Clone, Debug)]
pub enum LedgerCommand {
    /// Read everything: checksums, signatures, chains, verdicts, statistics, digests; exit status 1 where anything is wrong
    Verify,
    /// Remove log segments that are older than the retention and whose epochs are settled for good; digests stay
    Compact {
        /// Which
        #[command(flatten)]
        retention: RetentionOptions,
        /// The running gateway's backup: then nothing goes that is in no backup
        #[arg(long, env = "DEPIN_BACKUP_DIR", value_name = "DIR")]
        backup_dir: Option<PathBuf>,
    },
    /// Copy the ledger; into a directory with an earlier backup only what is new
    Backup {
        /// Where to
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Make a ledger in the empty data directory of a backup; agents then resend what it lacks
    ///
    /// No epoch closes before every known chain has reported what it has.
    Restore {
        /// Where from
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Let epochs close at once: what agents have not resent by then comes late
        #[arg(long)]
        force: bool,
    },
    /// After a restore: say that agents which have not reported will not, so that epochs close again
    Release,
}

/// Does what was asked and prints what came of it as JSON.
///
/// # Errors
/// Where the ledger is in use, damaged or not there.
pub fn run_ledger(options: LedgerOptions) -> anyhow::Result<()> {
    let directory = |path: &PathBuf| -> anyhow::Result<Arc<dyn Storage>> {
        Ok(Arc::new(DiskStorage::open(path).with_context(|| format!("open {}", path.display()))?))
    };
    if !matches!(options.command, LedgerCommand::Restore { .. }) && !options.data_dir.join("log").is_dir() {
        bail!("--data-dir {}: holds no ledger", options.data_dir.display());
    }
    let data = directory(&options.data_dir)?;
    let settings = Settings::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &options.command {
        LedgerCommand::Verify => verify(data, &settings),
        LedgerCommand::Compact { retention, backup_dir } => {
            let settings = Settings { backup_configured: backup_dir.is_some(), ..settings };
            let ledger = EmbeddedLedger::open(data, settings, Clock::system())?;
            let before = retention.before(Clock::system().now()).unwrap_or(Timestamp(i64::MIN));
            let done = runtime.block_on(ledger.compact(before))?;
            ledger.close();
            println!("{{\"frontBefore\":{},\"front\":{},\"thinned\":{}}}", done.old_front, done.front, done.thinned);
            Ok(())
        }
        LedgerCommand::Backup { to } => {
            let ledger = EmbeddedLedger::open(data, settings, Clock::system())?;
            let manifest = runtime.block_on(ledger.backup(directory(to)?))?;
            ledger.close();
            println!("{{\"position\":{},\"files\":{}}}", manifest.position, manifest.files.len());
            Ok(())
        }
        LedgerCommand::Restore { from, force } => {
            let incarnation = depin_ledger::restore(&directory(from)?, &data, &settings, &Clock::system())?;
            if *force {
                runtime.block_on(depin_ledger::release(data, settings, Clock::system()))?;
            }
            println!("{{\"incarnation\":{incarnation},\"held\":{}}}", !force);
            Ok(())
        }
        LedgerCommand::Release => {
            let unreported = runtime.block_on(depin_ledger::release(data, settings, Clock::system()))?;
            println!("{{\"chainsUnreported\":{unreported}}}");
            Ok(())
        }
    }
}

fn verify(data: Arc<dyn Storage>, settings: &Settings) -> anyhow::Result<()> {
    let mut check = |proof: &depin_proto::v1::SignedProof, key: &depin_domain::ids::PublicKey| {
        depin_identity::VerifyingKey::new(key)
            .is_ok_and(|key| key.verify(depin_proto::envelope::PROOF_DOMAIN, &proof.header, &proof.signature))
    };
    let found = depin_ledger::verify(data, settings, Some(&mut check))?;
    println!(
        "{{\"front\":{},\"end\":{},\"records\":{},\"proofs\":{},\"accepted\":{},\"rejected\":{},\"epochs\":{},\"files\":{},\"signatures\":{},\"equivocations\":{},\"findings\":{}}}",
        found.front,
        found.end,
        found.records,
        found.proofs,
        found.accepted,
        found.rejected,
        found.epochs,
        found.files,
        found.signatures,
        found.equivocations.len(),
        found.findings.len()
    );
    for finding in &found.findings {
        eprintln!("{finding}");
    }
    if found.findings.is_empty() {
        Ok(())
    } else {
        bail!("{} findings: restore the ledger from a backup", found.findings.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_restored_into_an_empty_directory_and_verifies() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let run = |arguments: &[&str]| run_ledger(LedgerOptions::parse_from([&["ledger"], arguments].concat()));
        let (data, copy, again) = (path("data"), path("copy"), path("again"));
        assert!(run(&["verify", "--data-dir", &data]).unwrap_err().to_string().contains("holds no ledger"));
        let storage = Arc::new(DiskStorage::open(&data).unwrap());
        let ledger = EmbeddedLedger::open(storage, Settings::default(), Clock::system()).unwrap();
        assert!(run(&["verify", "--data-dir", &data]).is_err(), "a running ledger holds its lock");
        ledger.close();
        run(&["backup", "--data-dir", &data, "--to", &copy]).unwrap();
        run(&["restore", "--data-dir", &again, "--from", &copy]).unwrap();
        run(&["verify", "--data-dir", &again]).unwrap();
        run(&["compact", "--data-dir", &again]).unwrap();
        assert!(run(&["restore", "--data-dir", &again, "--from", &copy]).is_err(), "it holds a ledger now");
        let held = |data: &str| {
            let storage = Arc::new(DiskStorage::open(data).unwrap());
            let ledger = EmbeddedLedger::open(storage, Settings::default(), Clock::system()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let held = runtime.block_on(depin_ledger::Ledger::info(&ledger)).unwrap().closing_held;
            ledger.close();
            held
        };
        assert!(held(&again));
        run(&["release", "--data-dir", &again]).unwrap();
        assert!(!held(&again));
        let forced = path("forced");
        run(&["restore", "--data-dir", &forced, "--from", &copy, "--force"]).unwrap();
        assert!(!held(&forced));
    }
}

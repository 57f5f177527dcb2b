//! `depin-gateway ledger …`: keeping the record.
//!
//! Each command on an embedded ledger takes its lock, so a running gateway is told apart from a stopped one. What is done with a ledger in
//! PostgreSQL is done beside running gateways, but for `verify` and `migrate`.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use depin_backup::{Backups, DirectoryStore, Generation, Identities, Recipients, Store, StoreOptions, choose};
use depin_domain::time::Timestamp;
use depin_ledger::{Clock, EmbeddedLedger, Ledger as _, PostgresqlLedger, Server, Settings, Verification};
use depin_log::{DiskStorage, Storage};

use crate::{
    retention::RetentionOptions,
    store::{self, PostgresqlOptions},
};

/// Verify, compact, back up, restore, release or migrate the embedded ledger of a stopped gateway, or look after one in PostgreSQL
#[derive(Parser, Clone, Debug)]
#[command(name = "depin-gateway ledger", version)]
pub struct LedgerOptions {
    /// Directory of the embedded ledger
    #[arg(long, env = "DEPIN_DATA_DIR", value_name = "DIR", global = true, default_value = "data")]
    pub data_dir: PathBuf,
    /// Instead of it
    #[command(flatten)]
    pub postgresql: PostgresqlOptions,
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
        #[command(flatten)]
        store: StoreOptions,
    },
    /// Back the ledger up by hand; only what is new is written. Old generations stay
    Backup {
        /// Directory; or name a place as the gateway does
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Where to
        #[command(flatten)]
        store: StoreOptions,
        /// Encrypt to this age public key (age1…); repeatable
        #[arg(long, env = "DEPIN_BACKUP_RECIPIENT", value_delimiter = ',', value_name = "KEY")]
        backup_recipient: Vec<String>,
    },
    /// Make a ledger in the empty data directory of a backup; agents then resend what it lacks
    ///
    /// No epoch closes before every known chain has reported what it has.
    Restore {
        /// Directory; or name a place as the gateway does
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Where from
        #[command(flatten)]
        store: StoreOptions,
        /// File with the age identity that opens an encrypted backup
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// The newest backup that is not younger, like 2026-11-23T08:00:00Z; default: the newest
        #[arg(long, value_name = "TIME", value_parser = depin_backup::moment)]
        at: Option<Timestamp>,
        /// Let epochs close at once: what agents have not resent by then comes late
        #[arg(long)]
        force: bool,
    },
    /// After a restore: say that agents which have not reported will not, so that epochs close again
    Release,
    /// Copy the embedded ledger into an empty database and compare; it then goes on there. Interrupted, run it again
    Migrate {
        /// File with the database's URL
        #[arg(long, value_name = "FILE")]
        to_postgresql_url_file: PathBuf,
        /// Certificate authority (PEM) of the database server
        #[arg(long, value_name = "FILE")]
        to_postgresql_ca: Option<PathBuf>,
    },
    /// In PostgreSQL: say that a backup of the database begins, and print the position to complete it with
    BackupBegins,
    /// In PostgreSQL: say that the backup which began at this position is complete, so that agents may drop what it holds
    BackupCompleted {
        /// As printed by backup-begins
        #[arg(long, value_name = "POSITION")]
        position: u64,
    },
    /// In PostgreSQL: say that the database was restored, or that a standby which lacked something took over; agents then resend what it lacks
    ///
    /// No epoch closes before every known chain has reported what it has.
    DeclareRestored,
}

/// Does what was asked and prints what came of it as JSON.
///
/// # Errors
/// Where the ledger is in use, damaged or not there.
pub fn run_ledger(options: LedgerOptions) -> anyhow::Result<()> {
    if let Some(server) = options.postgresql.server()? {
        return in_database(server, &options.command);
    }
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
        LedgerCommand::Verify => {
            let mut check = is_signed;
            told(&depin_ledger::verify(data, &settings, Some(&mut check))?)
        }
        LedgerCommand::Migrate { to_postgresql_url_file, to_postgresql_ca } => {
            let server = store::server(to_postgresql_url_file, to_postgresql_ca.as_deref())?;
            let done = runtime.block_on(depin_ledger::migrate(data, server, settings, Clock::system()))?;
            println!(
                "{{\"position\":{},\"records\":{},\"proofs\":{},\"files\":{},\"sha256\":\"{}\"}}",
                done.position, done.records, done.proofs, done.files, done.digest
            );
            Ok(())
        }
        LedgerCommand::BackupBegins | LedgerCommand::BackupCompleted { .. } | LedgerCommand::DeclareRestored => {
            bail!("this is of a ledger in PostgreSQL: name it with --postgresql-url-file FILE")
        }
        LedgerCommand::Compact { retention, store } => {
            let settings = Settings { backup_configured: store.is_some(), ..settings };
            let ledger = EmbeddedLedger::open(data, settings, Clock::system())?;
            let before = retention.before(Clock::system().now()).unwrap_or(Timestamp(i64::MIN));
            let done = runtime.block_on(ledger.compact(before))?;
            ledger.close();
            println!("{{\"frontBefore\":{},\"front\":{},\"thinned\":{}}}", done.old_front, done.front, done.thinned);
            Ok(())
        }
        LedgerCommand::Backup { to, store, backup_recipient } => {
            let (store, recipients) = (place(to.as_ref(), store, "--to")?, Recipients::parse(backup_recipient)?);
            let ledger = EmbeddedLedger::open(data, settings, Clock::system())?;
            let done = runtime.block_on(Backups::new(store, recipients, i64::MAX).run(&ledger, None))?;
            ledger.close();
            let (position, files, sent) = (done.generation.position, done.files, done.sent);
            println!("{{\"position\":{position},\"files\":{files},\"sentBytes\":{sent}}}");
            Ok(())
        }
        LedgerCommand::Restore { from, store, identity, at, force } => {
            let store = place(from.as_ref(), store, "--from")?;
            let identities = identity.as_deref().map(Identities::read).transpose()?.unwrap_or_default();
            let generation = choose(&runtime.block_on(Generation::list(&*store))?, *at)?;
            let clock = Clock::system();
            let restored = depin_backup::restore(&*store, generation, &identities, &data, &settings, &clock);
            let restored = runtime.block_on(restored)?;
            if *force {
                runtime.block_on(depin_ledger::release(data, settings, clock))?;
            }
            let (incarnation, position, at) = (restored.incarnation, generation.position, generation.at.0);
            println!("{{\"incarnation\":{incarnation},\"held\":{},\"position\":{position},\"at\":{at}}}", !force);
            Ok(())
        }
        LedgerCommand::Release => {
            let unreported = runtime.block_on(depin_ledger::release(data, settings, Clock::system()))?;
            println!("{{\"chainsUnreported\":{unreported}}}");
            Ok(())
        }
    }
}

/// The store that was named, in either way.
fn place(directory: Option<&PathBuf>, store: &StoreOptions, flag: &str) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(path) = directory {
        return Ok(Arc::new(DirectoryStore::open(path)?));
    }
    store.open()?.with_context(|| format!("give {flag} DIR, --backup-dir DIR or --backup-s3 URL"))
}

/// Looks after a ledger in PostgreSQL.
fn in_database(server: Server, command: &LedgerCommand) -> anyhow::Result<()> {
    let open = || PostgresqlLedger::open(server, Settings::default(), None).context("open the ledger in PostgreSQL");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        LedgerCommand::Verify => told(&runtime.block_on(open()?.verify(Some(Box::new(is_signed))))?),
        LedgerCommand::Release => {
            let unreported = runtime.block_on(open()?.release())?;
            println!("{{\"chainsUnreported\":{unreported}}}");
            Ok(())
        }
        LedgerCommand::BackupBegins => {
            let position = runtime.block_on(open()?.begin_backup())?;
            println!("{{\"position\":{position}}}");
            Ok(())
        }
        LedgerCommand::BackupCompleted { position } => Ok(runtime.block_on(open()?.complete_backup(*position))?),
        LedgerCommand::DeclareRestored => {
            let ledger = open()?;
            let incarnation = runtime.block_on(ledger.declare_restored())?;
            let held = runtime.block_on(ledger.info())?.closing_held;
            println!("{{\"incarnation\":{incarnation},\"held\":{held}}}");
            Ok(())
        }
        LedgerCommand::Backup { .. } | LedgerCommand::Restore { .. } => bail!(
            "a database has backups of its own (pg_basebackup and archived WAL, or pg_dump): tell of them with backup-begins, \
             backup-completed and declare-restored; the certificate authority is saved by `kubectl depin ca export`"
        ),
        LedgerCommand::Compact { .. } => bail!("a ledger in PostgreSQL keeps its proofs for now"),
        LedgerCommand::Migrate { .. } => bail!("name the embedded ledger with --data-dir DIR instead"),
    }
}

fn is_signed(proof: &depin_proto::v1::SignedProof, key: &depin_domain::ids::PublicKey) -> bool {
    depin_identity::VerifyingKey::new(key)
        .is_ok_and(|key| key.verify(depin_proto::envelope::PROOF_DOMAIN, &proof.header, &proof.signature))
}

/// Prints what a scan found.
fn told(found: &Verification) -> anyhow::Result<()> {
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

    #[test]
    fn an_embedded_ledger_is_migrated_and_looked_after_in_its_database() {
        let Some(server) = depin_trials::PostgresqlServer::shared() else { return };
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let run = |arguments: &[&str]| run_ledger(LedgerOptions::parse_from([&["ledger"], arguments].concat()));
        let (data, url) = (path("data"), path("url"));
        std::fs::write(&url, format!("{}\n", server.url(&server.database().unwrap()))).unwrap();
        let storage = Arc::new(DiskStorage::open(&data).unwrap());
        EmbeddedLedger::open(storage, Settings::default(), Clock::system()).unwrap().close();
        run(&["migrate", "--data-dir", &data, "--to-postgresql-url-file", &url]).unwrap();
        let moved = run(&["verify", "--data-dir", &data]).unwrap_err().to_string();
        assert!(moved.contains("goes on there"), "{moved}");
        let in_database = |arguments: &[&str]| run(&[&["--postgresql-url-file", &url], arguments].concat());
        in_database(&["verify"]).unwrap();
        in_database(&["backup-begins"]).unwrap();
        let unknown = in_database(&["backup-completed", "--position", "1"]).unwrap_err().to_string();
        assert!(unknown.contains("no backup began at 1"), "{unknown}");
        let held = || {
            let server = store::server(std::path::Path::new(&url), None).unwrap();
            let ledger = PostgresqlLedger::open(server, Settings::default(), None).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(ledger.info()).unwrap().closing_held
        };
        assert!(!held());
        in_database(&["declare-restored"]).unwrap();
        assert!(held());
        in_database(&["release"]).unwrap();
        assert!(!held());
        let other = in_database(&["backup", "--to", &path("copy")]).unwrap_err().to_string();
        assert!(other.contains("pg_dump"), "{other}");
        let without = run(&["declare-restored", "--data-dir", &data]).unwrap_err().to_string();
        assert!(without.contains("--postgresql-url-file"), "{without}");
    }
}

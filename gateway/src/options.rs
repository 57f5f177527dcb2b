//! The program: flags, and the way from them to a running gateway.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::Parser;
use depin_log::Storage;
use depin_telemetry::{AdminServer, Health, TelemetryOptions, watchdog};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::{
    backup::{BackupOptions, BackupTask, Backups},
    clock::Clock,
    descriptors,
    limits::Limits,
    recovery::{self, RecoveryOptions},
    retention::{Retention, RetentionOptions},
    server::{Gateway, Settings},
    store::{self, PostgresqlOptions, Store},
    trouble,
};

/// Takes agents' proofs, judges and records them, and answers with signed receipts
#[derive(Parser, Clone, Debug)]
#[command(
    name = "depin-gateway",
    version,
    after_help = "While it is stopped: depin-gateway ledger verify|compact|backup|restore|release|migrate --help"
)]
pub struct Options {
    /// Where agents connect
    #[arg(long, env = "DEPIN_LISTEN", default_value = "0.0.0.0:8443", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where the operator and viewers reach the ledger
    #[arg(long, env = "DEPIN_LEDGER_LISTEN", default_value = "0.0.0.0:8444", value_name = "ADDR")]
    pub ledger_listen: SocketAddr,
    /// Directory with tls.crt, tls.key and ca.crt, made by the operator; awaited at the start, read again when they change
    #[arg(long, env = "DEPIN_TLS_DIR", value_name = "DIR")]
    pub tls_dir: PathBuf,
    /// Directory with ca.crt, vouchers.crt and sealing.pub (ConfigMap depin-ca), where --tls-dir is kept by somebody else (cert-manager); by default --tls-dir
    #[arg(long, env = "DEPIN_CA_DIR", value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// Directory of the embedded ledger; made if it is absent
    #[arg(
        long,
        env = "DEPIN_DATA_DIR",
        value_name = "DIR",
        required_unless_present = "postgresql_url_file",
        conflicts_with = "postgresql_url_file"
    )]
    pub data_dir: Option<PathBuf>,
    /// Instead of it, a ledger that gateways share
    #[command(flatten)]
    pub postgresql: PostgresqlOptions,
    /// With a ledger in PostgreSQL: only what `depin-gateway ledger backup-completed` told to be in a backup counts as archived
    #[arg(long, env = "DEPIN_POSTGRESQL_BACKUPS", requires = "postgresql_url_file")]
    pub postgresql_backups: bool,
    /// How the ledger is backed up
    #[command(flatten)]
    pub backup: BackupOptions,
    /// What is done where the data directory is empty
    #[command(flatten)]
    pub recovery: RecoveryOptions,
    /// How long proofs are kept
    #[command(flatten)]
    pub retention: RetentionOptions,
    /// What it takes from outside
    #[command(flatten)]
    pub limits: Limits,
    /// What it shows of itself
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}

/// Runs the gateway until it is asked to stop.
///
/// # Errors
/// Where the ledger does not open, a port is taken, or a server fails.
pub fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let telemetry = depin_telemetry::init("depin-gateway", &options.telemetry)?;
        let served = serve(options).await;
        telemetry.shutdown()?;
        served
    })
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let signal = depin_telemetry::shutdown_signal()?;
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    tokio::spawn(async move {
        signal.await;
        stopper.cancel();
    });
    descriptors::take(&options.limits);
    let clock = Clock::system();
    let place = backup_place(&options)?;
    let server = options.postgresql.server()?;
    let settings = ledger_settings(&options.limits, place.is_some() || options.postgresql_backups);
    if let (Some(place), Some(data_dir)) = (&place, &options.data_dir) {
        recover(&options, data_dir, &**place, &settings, &stop).await?;
        if stop.is_cancelled() {
            return Ok(());
        }
    }
    let data_dir = options.data_dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(data_dir.as_ref(), server, settings)).await??;
    let ledger = store.ledger();
    let health = Health::new();
    let (serving, alive) = (health.readiness("serving"), health.liveness("ledger"));
    serving.fail("waiting for the certificates that the operator makes");
    let mut metrics = Registry::default();
    let failing = trouble::gauge(&mut metrics);
    tokio::spawn(trouble::follow(store.trouble(), health.readiness("ledger"), failing, stop.clone()));
    let settings = Settings {
        listen: options.listen,
        ledger_listen: options.ledger_listen,
        tls_dir: options.tls_dir,
        ca_dir: options.ca_dir,
        limits: options.limits,
    };
    let embedded = store.embedded();
    let backups =
        embedded.zip(place).map(|(ledger, place)| BackupTask::new(ledger, place, &options.backup, &mut metrics));
    let backups = backups.transpose()?;
    let retention = embedded.map(|ledger| Retention::new(ledger, options.retention, &clock, &mut metrics));
    let told = match (&backups, embedded) {
        (Some(task), _) => Backups::Made(task.control()),
        (None, Some(_)) => Backups::None,
        (None, None) => Backups::OfDatabase,
    };
    let gateway =
        Gateway::new(settings, Arc::clone(&ledger), clock, &mut metrics).sharing(store.board()).with_backups(told);
    let admin = AdminServer::bind(options.telemetry.admin_listen, Arc::new(metrics), health).await?;
    let admin = tokio::spawn(admin.run(stop.clone().cancelled_owned()));
    let watched = Arc::clone(&ledger);
    let watchdog = tokio::spawn(watchdog::watch(alive, watchdog::PATIENCE, move || {
        let ledger = Arc::clone(&watched);
        // An error is an answer: readiness tells it.
        async move { drop(ledger.info().await) }
    }));
    let backups = backups.map(|backups| tokio::spawn(backups.run(stop.clone())));
    let retention = retention.map(|retention| tokio::spawn(retention.run(stop.clone())));
    if let Some(running) = gateway.start(stop.clone()).await? {
        serving.pass();
        running.finished().await?;
    }
    stop.cancel();
    admin.await.context("the admin server")??;
    if let Some(backups) = backups {
        backups.await.context("the backups")?;
    }
    if let Some(retention) = retention {
        retention.await.context("the retention")?;
    }
    watchdog.abort();
    // It holds the ledger until it is gone; that it was aborted is no error.
    drop(watchdog.await);
    drop(ledger);
    tokio::task::spawn_blocking(move || store.close()).await.context("close the ledger")?;
    tracing::info!("the gateway has stopped");
    Ok(())
}

/// Where the ledger is backed up, if anywhere.
fn backup_place(options: &Options) -> anyhow::Result<Option<Arc<dyn depin_backup::Store>>> {
    let place = &options.backup.store;
    if options.postgresql.postgresql_url_file.is_some() && place.is_some() {
        bail!(
            "--backup-dir and --backup-s3 are for the embedded ledger: a database is backed up by its own tools (pg_dump, or base backups with \
             archived WAL), and with --postgresql-backups only what `depin-gateway ledger backup-completed` told of counts as archived; the \
             certificate authority is saved by `kubectl depin ca export`"
        );
    }
    place.open().context("open the backup's place")
}

fn ledger_settings(limits: &Limits, backup_configured: bool) -> depin_ledger::Settings {
    let defaults = depin_ledger::Settings::default();
    depin_ledger::Settings {
        max_skew_ms: limits.max_clock_skew_ms,
        backup_configured,
        max_record: defaults.max_record.max(limits.max_proof_bytes.saturating_mul(2)),
        ..defaults
    }
}

/// Sees to it that an empty data directory beside a backup becomes no fresh ledger. Health is told meanwhile: it may take long.
async fn recover(
    options: &Options,
    data_dir: &std::path::Path,
    place: &dyn depin_backup::Store,
    settings: &depin_ledger::Settings,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let data: Arc<dyn Storage> = Arc::new(store::open_data(data_dir)?);
    if !recovery::is_empty(&data)? {
        return Ok(());
    }
    let (health, ended) = (Health::new(), stop.child_token());
    let ready = health.readiness("restore");
    ready.fail("looking whether there is a backup");
    let admin = AdminServer::bind(options.telemetry.admin_listen, Arc::new(Registry::default()), health).await?;
    let admin = tokio::spawn(admin.run(ended.clone().cancelled_owned()));
    let recovered = recovery::recover(place, &data, settings, &options.recovery, &ready, stop).await;
    // The same port is listened on again once the ledger is open.
    ended.cancel();
    admin.await.context("the admin server")??;
    recovered.map(drop)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_those_that_the_architecture_names() {
        Options::command().debug_assert();
        let options = Options::parse_from(["depin-gateway", "--tls-dir", "tls", "--data-dir", "data"]);
        assert_eq!((options.listen.port(), options.ledger_listen.port()), (8443, 8444));
        assert_eq!((options.backup.store.backup_dir, options.backup.backup_every.as_secs()), (None, 900));
        assert!(!options.recovery.restore_if_empty, "a person decides");
        assert_eq!(options.retention.keep_days, 400);
        let ledgers = |arguments: &[&str]| {
            Options::try_parse_from([&["depin-gateway", "--tls-dir", "tls"], arguments].concat()).is_ok()
        };
        assert!(ledgers(&["--postgresql-url-file", "url", "--postgresql-ca", "ca.crt", "--postgresql-backups"]));
        assert!(!ledgers(&[]) && !ledgers(&["--data-dir", "data", "--postgresql-url-file", "url"]));
        let both = ["depin-gateway", "--tls-dir", "tls", "--postgresql-url-file", "url", "--backup-dir", "backup"];
        let refused = backup_place(&Options::parse_from(both)).unwrap_err().to_string();
        assert!(refused.contains("pg_dump") && refused.contains("ca export"), "{refused}");
        for argument in Options::command().get_arguments() {
            let flag = argument.get_long().unwrap_or_default();
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(variable, Some(format!("DEPIN_{}", flag.replace('-', "_").to_uppercase())), "{flag}");
        }
    }
}

//! The program: flags, and the way from them to a running gateway.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use depin_ledger::{EmbeddedLedger, Ledger};
use depin_log::DiskStorage;
use depin_telemetry::{AdminServer, Health, TelemetryOptions, watchdog};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::{
    backup::{BackupOptions, Backups},
    clock::Clock,
    limits::Limits,
    retention::{Retention, RetentionOptions},
    server::{Gateway, Settings},
    trouble,
};

/// Takes agents' proofs, judges and records them, and answers with signed receipts
#[derive(Parser, Clone, Debug)]
#[command(
    name = "depin-gateway",
    version,
    after_help = "While it is stopped: depin-gateway ledger verify|compact|backup|restore|release --help"
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
    /// Directory of the embedded ledger; made if it is absent
    #[arg(long, env = "DEPIN_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// How the ledger is backed up
    #[command(flatten)]
    pub backup: BackupOptions,
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
    let clock = Clock::system();
    let data_dir = options.data_dir.clone();
    let limits = options.limits.clone();
    let backed_up = options.backup.backup_dir.is_some();
    let ledger = tokio::task::spawn_blocking(move || open_ledger(&data_dir, &limits, backed_up)).await??;
    let ledger = Arc::new(ledger);
    let health = Health::new();
    let (serving, alive) = (health.readiness("serving"), health.liveness("ledger"));
    serving.fail("waiting for the certificates that the operator makes");
    let mut metrics = Registry::default();
    let failing = trouble::gauge(&mut metrics);
    tokio::spawn(trouble::follow(ledger.trouble(), health.readiness("ledger"), failing, stop.clone()));
    let settings = Settings {
        listen: options.listen,
        ledger_listen: options.ledger_listen,
        tls_dir: options.tls_dir,
        limits: options.limits,
    };
    let backups = Backups::new(&ledger, &options.backup, &clock, &mut metrics);
    let retention = Retention::new(&ledger, options.retention, &clock, &mut metrics);
    let gateway = Gateway::new(settings, Arc::clone(&ledger) as Arc<dyn Ledger>, clock, &mut metrics);
    let admin = AdminServer::bind(options.telemetry.admin_listen, Arc::new(metrics), health).await?;
    let admin = tokio::spawn(admin.run(stop.clone().cancelled_owned()));
    let watched = Arc::clone(&ledger);
    let watchdog = tokio::spawn(watchdog::watch(alive, watchdog::PATIENCE, move || {
        let ledger = Arc::clone(&watched);
        // An error is an answer: readiness tells it.
        async move { drop(ledger.info().await) }
    }));
    let backups = backups.map(|backups| tokio::spawn(backups.run(stop.clone())));
    let retention = tokio::spawn(retention.run(stop.clone()));
    if let Some(running) = gateway.start(stop.clone()).await? {
        serving.pass();
        running.finished().await?;
    }
    stop.cancel();
    admin.await.context("the admin server")??;
    if let Some(backups) = backups {
        backups.await.context("the backups")?;
    }
    retention.await.context("the retention")?;
    watchdog.abort();
    // It holds the ledger until it is gone; that it was aborted is no error.
    drop(watchdog.await);
    // Streams that a drain gave up may still hold the ledger; dropping the last hold closes it the same way.
    if let Some(ledger) = Arc::into_inner(ledger) {
        tokio::task::spawn_blocking(move || ledger.close()).await.context("close the ledger")?;
    }
    tracing::info!("the gateway has stopped");
    Ok(())
}

fn open_ledger(
    directory: &std::path::Path,
    limits: &Limits,
    backup_configured: bool,
) -> anyhow::Result<EmbeddedLedger> {
    std::fs::create_dir_all(directory).with_context(|| format!("make --data-dir {}", directory.display()))?;
    let storage = DiskStorage::open(directory).with_context(|| format!("open --data-dir {}", directory.display()))?;
    let defaults = depin_ledger::Settings::default();
    let settings = depin_ledger::Settings {
        max_skew_ms: limits.max_clock_skew_ms,
        backup_configured,
        max_record: defaults.max_record.max(limits.max_proof_bytes.saturating_mul(2)),
        ..defaults
    };
    EmbeddedLedger::open(Arc::new(storage), settings, depin_ledger::Clock::system())
        .with_context(|| format!("open the ledger in {}", directory.display()))
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
        assert_eq!((options.backup.backup_dir, options.backup.backup_every.as_secs()), (None, 900));
        assert_eq!(options.retention.keep_days, 400);
        for argument in Options::command().get_arguments() {
            let flag = argument.get_long().unwrap_or_default();
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(variable, Some(format!("DEPIN_{}", flag.replace('-', "_").to_uppercase())), "{flag}");
        }
    }
}

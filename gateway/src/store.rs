//! The ledger that this gateway opens: one of its own in a directory, or one in a database that it shares with other gateways.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::Args;
use depin_ledger::{Board, EmbeddedLedger, Ledger, PostgresqlLedger, Server, Settings};
use depin_log::DiskStorage;
use tokio::sync::watch;

/// A ledger in PostgreSQL.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Ledger in PostgreSQL")]
pub struct PostgresqlOptions {
    /// File with the URL of the database, password included: postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Any number of gateways may share one
    #[arg(long, env = "DEPIN_POSTGRESQL_URL_FILE", value_name = "FILE", global = true)]
    pub postgresql_url_file: Option<PathBuf>,
    /// Certificate authority (PEM) of the database server: with it the connection is encrypted and the server verified
    #[arg(long, env = "DEPIN_POSTGRESQL_CA", value_name = "FILE", global = true)]
    pub postgresql_ca: Option<PathBuf>,
}

impl PostgresqlOptions {
    /// The database, if one is named.
    ///
    /// # Errors
    /// Where a file cannot be read or does not hold what it should.
    pub fn server(&self) -> anyhow::Result<Option<Server>> {
        let Some(file) = &self.postgresql_url_file else { return Ok(None) };
        server(file, self.postgresql_ca.as_deref()).map(Some)
    }
}

/// The database of a file with its URL.
///
/// # Errors
/// Where a file cannot be read or does not hold what it should.
pub fn server(url_file: &Path, ca: Option<&Path>) -> anyhow::Result<Server> {
    let url = std::fs::read_to_string(url_file)
        .with_context(|| format!("read --postgresql-url-file {}", url_file.display()))?;
    let ca = ca.map(|ca| std::fs::read(ca).with_context(|| format!("read --postgresql-ca {}", ca.display())));
    Ok(Server::new(&url, ca.transpose()?.as_deref())?)
}

/// The embedded ledger's directory, which is made where it is not there.
pub(crate) fn open_data(directory: &Path) -> anyhow::Result<DiskStorage> {
    let shown = directory.display();
    std::fs::create_dir_all(directory).with_context(|| format!("make --data-dir {shown}"))?;
    DiskStorage::open(directory).with_context(|| format!("open --data-dir {shown}"))
}

/// The ledger of this gateway.
#[derive(Debug)]
pub(crate) enum Store {
    /// In a directory of its own.
    Embedded(Arc<EmbeddedLedger>),
    /// In a database.
    Postgresql(Arc<PostgresqlLedger>),
}

impl Store {
    /// Opens the one that is named. Blocks.
    pub(crate) fn open(data_dir: Option<&PathBuf>, server: Option<Server>, settings: Settings) -> anyhow::Result<Self> {
        match (data_dir, server) {
            (Some(directory), None) => {
                let storage = Arc::new(open_data(directory)?);
                let ledger = EmbeddedLedger::open(storage, settings, depin_ledger::Clock::system())
                    .with_context(|| format!("open the ledger in {}", directory.display()))?;
                Ok(Self::Embedded(Arc::new(ledger)))
            }
            (None, Some(server)) => {
                let ledger = PostgresqlLedger::open(server, settings, None).context("open the ledger in PostgreSQL")?;
                Ok(Self::Postgresql(Arc::new(ledger)))
            }
            (Some(_), Some(_)) => {
                bail!("--data-dir and --postgresql-url-file: a gateway has one ledger, name one of them")
            }
            (None, None) => bail!("name the ledger: --data-dir DIR or --postgresql-url-file FILE"),
        }
    }

    /// It as the services know it.
    pub(crate) fn ledger(&self) -> Arc<dyn Ledger> {
        match self {
            Self::Embedded(ledger) => Arc::clone(ledger) as _,
            Self::Postgresql(ledger) => Arc::clone(ledger) as _,
        }
    }

    /// Why it takes nothing now.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        match self {
            Self::Embedded(ledger) => ledger.trouble(),
            Self::Postgresql(ledger) => ledger.trouble(),
        }
    }

    /// The embedded one, which this gateway backs up and keeps within its retention by itself.
    pub(crate) fn embedded(&self) -> Option<&Arc<EmbeddedLedger>> {
        match self {
            Self::Embedded(ledger) => Some(ledger),
            Self::Postgresql(_) => None,
        }
    }

    /// Where it tells other gateways of the same ledger, if there can be any.
    pub(crate) fn board(&self) -> Option<Board> {
        match self {
            Self::Embedded(_) => None,
            Self::Postgresql(ledger) => Some(ledger.board()),
        }
    }

    /// Closes it, if nobody holds it any more. Blocks.
    pub(crate) fn close(self) {
        // Streams that a drain gave up may still hold the ledger; dropping the last hold closes it the same way.
        match self {
            Self::Embedded(ledger) => Arc::into_inner(ledger).into_iter().for_each(EmbeddedLedger::close),
            Self::Postgresql(ledger) => Arc::into_inner(ledger).into_iter().for_each(PostgresqlLedger::close),
        }
    }
}

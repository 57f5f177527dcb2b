//! Connections to the database: what is asked of it before anything is kept there, and what its errors mean.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::{Host, SslMode, TargetSessionAttrs},
    error::{DbError, SqlState},
};

use super::tls::Tls;
use crate::error::LedgerError;

/// A server that does not answer is given up after so long: the next one may have taken over.
const SILENCE: Duration = Duration::from_secs(15);
/// Most connections for reading beside the writer's.
const READERS: usize = 4;

/// On which channel changes of facts are told.
pub(super) const CHANNEL: &str = "depin_facts";

/// Where the database is, and how it is reached. Its password is in no message.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: Tls,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .finish_non_exhaustive()
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> LedgerError {
    LedgerError::Invalid { field, message: message.into() }
}

impl Server {
    /// The database of a URL (`postgresql://user:password@host,other/database`); `ca`: PEM of the authority that certifies the server.
    ///
    /// # Errors
    /// Where the URL is none, or would send a password unencrypted through a network without saying `sslmode=disable`.
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Self, LedgerError> {
        const URL: &str = "postgresql-url-file";
        // The parser's error may quote the URL.
        let mut config: Config = url.trim().parse().map_err(|_| {
            invalid(URL, "holds no PostgreSQL URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters escaped as %XX")
        })?;
        if config.get_dbname().is_none() {
            return Err(invalid(URL, "names no database: add /DATABASE"));
        }
        let near = |host: &Host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
            Host::Unix(path) => Path::new(path).is_absolute(),
        };
        if ca.is_some() {
            config.ssl_mode(SslMode::Require);
        } else if config.get_ssl_mode() == SslMode::Require {
            return Err(invalid(URL, "wants TLS: name the server's certificate authority with --postgresql-ca"));
        } else if config.get_ssl_mode() != SslMode::Disable {
            if !config.get_hosts().iter().all(near) {
                let message = "would go through a network unencrypted: add --postgresql-ca, or say ?sslmode=disable where the network is encrypted otherwise";
                return Err(invalid(URL, message));
            }
            config.ssl_mode(SslMode::Disable);
        }
        config
            .application_name("depin-gateway")
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(SILENCE)
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(SILENCE / 3)
            .keepalives_interval(SILENCE / 3)
            .keepalives_retries(3);
        Ok(Self { config, tls: Tls::new(ca)? })
    }

    /// A session. `changes` is told when another session changes facts, if this one listens.
    pub(super) async fn connect(&self, changes: Option<Arc<Notify>>) -> Result<Client, LedgerError> {
        let (client, mut connection) =
            self.config.connect(self.tls.clone()).await.map_err(|error| failed("connect", &error))?;
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(message) = messages.next().await {
                match message {
                    Ok(AsyncMessage::Notification(_)) => {
                        if let Some(changes) = &changes {
                            changes.notify_one();
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a connection to the database ended");
                        return;
                    }
                }
            }
        });
        // Whoever hangs with locks held must not stop the others for long.
        let session = "SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '60s'; \
                       SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
                       SET TimeZone = 'UTC'; SET search_path = depin";
        let stricter = client
            .query_one("SELECT current_setting('synchronous_commit'), current_setting('fsync')", &[])
            .await
            .map_err(|error| failed("ask for settings", &error))?;
        let (commit, fsync): (String, String) = (stricter.get(0), stricter.get(1));
        if fsync != "on" {
            return Err(LedgerError::Unavailable(
                "the database server runs with fsync off and would acknowledge what it can lose: turn it on".into(),
            ));
        }
        let session = if commit == "remote_apply" {
            session.replace("SET synchronous_commit = on; ", "")
        } else {
            session.to_owned()
        };
        client.batch_execute(&session).await.map_err(|error| failed("set up a session", &error))?;
        Ok(client)
    }
}

/// Sessions for reading.
#[derive(Debug)]
pub(super) struct Pool {
    server: Server,
    idle: Mutex<Vec<Client>>,
    free: Semaphore,
}

impl Pool {
    pub(super) fn new(server: Server) -> Self {
        Self { server, idle: Mutex::default(), free: Semaphore::new(READERS) }
    }

    /// Does `work` with a session of its own. A session with which it failed is not used again.
    pub(super) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let _one = self.free.acquire().await.map_err(|_| LedgerError::stopped())?;
        let kept = self.idle.lock().await.pop().filter(|client| !client.is_closed());
        let mut client = match kept {
            Some(client) => client,
            None => self.server.connect(None).await?,
        };
        let result = work(&mut client).await;
        if result.is_ok() {
            self.idle.lock().await.push(client);
        }
        result
    }
}

/// The server's or the connection's error, as the ledger's.
pub(super) fn failed(operation: &str, error: &tokio_postgres::Error) -> LedgerError {
    let what = match error.as_db_error() {
        Some(known) => format!("{} ({})", known.message(), known.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    LedgerError::Unavailable(format!("the database: {operation}: {what}"))
}

/// Whether the same transaction, begun anew, may succeed: another one was in its way.
pub(super) fn is_conflict(error: &tokio_postgres::Error) -> bool {
    let conflicts = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    error.as_db_error().map(DbError::code).is_some_and(|code| conflicts.contains(code))
}

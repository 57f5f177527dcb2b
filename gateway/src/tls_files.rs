//! The three files that the operator makes for the gateway: `tls.crt`, `tls.key`, `ca.crt`.
//!
//! They are awaited at the start and read again when they change; a bad new set is reported and the old one stays.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use depin_identity::{ClientAuth, KeyAndChain, SigningKey, certificates, server_config};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at. The kubelet changes them all at once, by a symbolic link.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often waiting for them is told.
const TELL_EVERY: u32 = 15;

/// The texts of the files.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    chain: String,
    key: String,
    ca: String,
}

/// What follows from the files.
pub(crate) struct Identity {
    /// Settings of the agents' port.
    pub(crate) agents: watch::Receiver<Arc<ServerConfig>>,
    /// Settings of the ledger's port.
    pub(crate) ledger: watch::Receiver<Arc<ServerConfig>>,
    /// The key that signs receipts.
    pub(crate) key: watch::Receiver<Arc<SigningKey>>,
}

/// The files are not there or not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsFilesError {
    #[error("{0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("tls.key: {0}")]
    Key(#[from] depin_identity::keys::KeyError),
    #[error("tls.crt or ca.crt: {0}")]
    Certificate(#[from] depin_identity::certificates::CertificateError),
    #[error(transparent)]
    Tls(#[from] depin_identity::tls::TlsError),
}

/// Settings of both ports and the key, made of one set of files.
struct Settings {
    agents: Arc<ServerConfig>,
    ledger: Arc<ServerConfig>,
    key: Arc<SigningKey>,
}

impl Settings {
    fn new(files: &Files) -> Result<Self, TlsFilesError> {
        let key = SigningKey::from_pem(&files.key, "tls.key")?;
        let ca = certificates::certificates(&files.ca)?;
        let mut chain = certificates::certificates(&files.chain)?;
        // The CAs go along, so that an agent can compare their hash with its join token's on first contact.
        for authority in &ca {
            if !chain.contains(authority) {
                chain.push(authority.clone());
            }
        }
        let identity = KeyAndChain { key: key.clone(), chain };
        Ok(Self {
            agents: server_config(&identity, &ca, ClientAuth::Optional)?,
            ledger: server_config(&identity, &ca, ClientAuth::Required)?,
            key: Arc::new(key),
        })
    }
}

fn read(directory: &Path) -> Result<Files, TlsFilesError> {
    let text = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(|error| TlsFilesError::Unreadable(path, error))
    };
    Ok(Files { chain: text("tls.crt")?, key: text("tls.key")?, ca: text("ca.crt")? })
}

/// Waits until the files are there and usable, then watches them until `stop`. None: stopped before they came.
pub(crate) async fn load(directory: PathBuf, stop: CancellationToken) -> Option<Identity> {
    let mut ticks = 0;
    let (files, settings) = loop {
        let attempt = read(&directory).and_then(|files| Settings::new(&files).map(|settings| (files, settings)));
        match attempt {
            Ok(loaded) => break loaded,
            Err(error) => {
                if ticks % TELL_EVERY == 0 {
                    tracing::warn!(%error, directory = %directory.display(),
                        "waiting for tls.crt, tls.key and ca.crt, which the operator makes");
                }
                ticks += 1;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    };
    let (agents, agents_seen) = watch::channel(settings.agents);
    let (ledger, ledger_seen) = watch::channel(settings.ledger);
    let (key, key_seen) = watch::channel(settings.key);
    tokio::spawn(async move {
        let follow = follow(&directory, files, |settings| {
            agents.send_replace(settings.agents);
            ledger.send_replace(settings.ledger);
            key.send_replace(settings.key);
        });
        let _ended = stop.run_until_cancelled(follow).await;
    });
    Some(Identity { agents: agents_seen, ledger: ledger_seen, key: key_seen })
}

async fn follow(directory: &Path, mut current: Files, take: impl Fn(Settings)) {
    let mut reported = String::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let changed = match read(directory) {
            Ok(files) if files == current => continue,
            Ok(files) => Settings::new(&files).map(|settings| (files, settings)),
            Err(error) => Err(error),
        };
        match changed {
            Ok((files, settings)) => {
                tracing::info!(directory = %directory.display(), "certificates changed; new connections use the new ones");
                take(settings);
                current = files;
                reported.clear();
            }
            Err(error) => {
                let text = error.to_string();
                if text != reported {
                    tracing::error!(%error, "the changed certificates are not usable; the old ones stay");
                    reported = text;
                }
            }
        }
    }
}

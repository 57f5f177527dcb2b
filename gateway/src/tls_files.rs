//! The files that the operator makes for the gateway: its certificate `tls.crt` and `tls.key`; the authorities that it and agents trust,
//! `ca.crt`, and what these say for each other, `vouchers.crt`; and `sealing.pub`, to whom agents in the cluster seal their ServiceAccount's
//! token. Somebody else may keep certificate and key; the other files then lie in a directory of their own.
//!
//! They are awaited at the start and read again when they change; a bad new set is reported and the old one stays.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use depin_domain::ids::Digest;
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
    /// An operator of an earlier version makes neither of these.
    vouchers: Option<String>,
    sealing: Option<String>,
}

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// `tls.crt`, `tls.key`.
    pub(crate) tls: PathBuf,
    /// `ca.crt`, `vouchers.crt`, `sealing.pub`.
    pub(crate) ca: PathBuf,
}

/// How a port is served: its settings, and the key whose certificate a client is shown.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) key: Arc<SigningKey>,
}

/// What agents are told of the authorities.
#[derive(Debug)]
pub(crate) struct Trusted {
    /// PEM.
    pub(crate) ca: String,
    /// PEM.
    pub(crate) vouchers: String,
    /// SHA-256 of `ca`.
    pub(crate) digest: Digest,
}

/// What follows from the files.
pub(crate) struct Identity {
    /// The agents' port.
    pub(crate) agents: watch::Receiver<Served>,
    /// The ledger's port.
    pub(crate) ledger: watch::Receiver<Served>,
    /// What agents trust.
    pub(crate) trusted: watch::Receiver<Arc<Trusted>>,
    /// The key that signs receipts.
    pub(crate) key: watch::Receiver<Arc<SigningKey>>,
    /// The operator's public key, to which ServiceAccounts' tokens are sealed.
    pub(crate) sealing: watch::Receiver<Option<SealingKey>>,
}

/// An X25519 public key.
pub(crate) type SealingKey = [u8; depin_identity::seal::KEY_BYTES];

/// The files are not there or not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsFilesError {
    #[error("{0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("tls.key: {0}; receipts are signed with it (cert-manager: privateKey.algorithm Ed25519, encoding PKCS8)")]
    Key(#[from] depin_identity::keys::KeyError),
    #[error("tls.crt, ca.crt or vouchers.crt: {0}")]
    Certificate(#[from] depin_identity::certificates::CertificateError),
    #[error("sealing.pub: is not the 64 hexadecimal digits of an X25519 public key")]
    Sealing,
    #[error(transparent)]
    Tls(#[from] depin_identity::tls::TlsError),
}

/// Settings of both ports and the key, made of one set of files.
struct Settings {
    agents: Served,
    ledger: Served,
    trusted: Arc<Trusted>,
    key: Arc<SigningKey>,
    sealing: Option<SealingKey>,
}

impl Settings {
    fn new(files: &Files) -> Result<Self, TlsFilesError> {
        let key = SigningKey::from_pem(&files.key, "tls.key")?;
        let ca = certificates::certificates(&files.ca)?;
        let mut chain = certificates::certificates(&files.chain)?;
        let vouchers = files.vouchers.as_deref().filter(|text| !text.trim().is_empty());
        let vouchers = vouchers.map_or(Ok(Vec::new()), certificates::certificates)?;
        // The vouchers go along, so that an agent that trusts an older CA alone comes from it to this certificate; the CAs, so that one can
        // compare their hash with its join token's on first contact.
        for authority in vouchers.iter().chain(&ca) {
            if !chain.contains(authority) {
                chain.push(authority.clone());
            }
        }
        let identity = KeyAndChain { key: key.clone(), chain };
        let key = Arc::new(key);
        let served = |config| Served { config, key: Arc::clone(&key) };
        let trusted = Trusted {
            digest: Digest::of(files.ca.as_bytes()),
            ca: files.ca.clone(),
            vouchers: files.vouchers.clone().unwrap_or_default(),
        };
        Ok(Self {
            agents: served(server_config(&identity, &ca, ClientAuth::Optional)?),
            ledger: served(server_config(&identity, &ca, ClientAuth::Required)?),
            trusted: Arc::new(trusted),
            key: Arc::clone(&key),
            sealing: files.sealing.as_deref().map(sealing_key).transpose()?,
        })
    }
}

fn sealing_key(text: &str) -> Result<SealingKey, TlsFilesError> {
    depin_identity::seal::public_key(text).ok_or(TlsFilesError::Sealing)
}

fn read(directories: &Directories) -> Result<Files, TlsFilesError> {
    let text = |directory: &Path, name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(|error| TlsFilesError::Unreadable(path, error))
    };
    let optional = |name: &str| match text(&directories.ca, name) {
        Err(TlsFilesError::Unreadable(_, error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    };
    Ok(Files {
        chain: text(&directories.tls, "tls.crt")?,
        key: text(&directories.tls, "tls.key")?,
        ca: text(&directories.ca, "ca.crt")?,
        vouchers: optional("vouchers.crt")?,
        sealing: optional("sealing.pub")?,
    })
}

/// Waits until the files are there and usable, then watches them until `stop`. None: stopped before they came.
pub(crate) async fn load(directories: Directories, stop: CancellationToken) -> Option<Identity> {
    let mut ticks = 0;
    let (files, settings) = loop {
        let attempt = read(&directories).and_then(|files| Settings::new(&files).map(|settings| (files, settings)));
        match attempt {
            Ok(loaded) => break loaded,
            Err(error) => {
                if ticks % TELL_EVERY == 0 {
                    tracing::warn!(%error, directory = %directories.tls.display(),
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
    let (sealing, sealing_seen) = watch::channel(settings.sealing);
    let (trusted, trusted_seen) = watch::channel(settings.trusted);
    tokio::spawn(async move {
        let follow = follow(&directories, files, |settings| {
            agents.send_replace(settings.agents);
            ledger.send_replace(settings.ledger);
            key.send_replace(settings.key);
            sealing.send_replace(settings.sealing);
            trusted.send_if_modified(|known| {
                let news = known.ca != settings.trusted.ca || known.vouchers != settings.trusted.vouchers;
                if news {
                    *known = settings.trusted;
                }
                news
            });
        });
        let _ended = stop.run_until_cancelled(follow).await;
    });
    Some(Identity {
        agents: agents_seen,
        ledger: ledger_seen,
        trusted: trusted_seen,
        key: key_seen,
        sealing: sealing_seen,
    })
}

async fn follow(directories: &Directories, mut current: Files, take: impl Fn(Settings)) {
    let mut reported = String::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let changed = match read(directories) {
            Ok(files) if files == current => continue,
            Ok(files) => Settings::new(&files).map(|settings| (files, settings)),
            Err(error) => Err(error),
        };
        match changed {
            Ok((files, settings)) => {
                tracing::info!(directory = %directories.tls.display(), "certificates changed; new connections use the new ones");
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

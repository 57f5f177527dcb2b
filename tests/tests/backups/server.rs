//! A real S3-compatible server over a directory, and a line to it that can be slow or cut.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use depin_backup::store::s3::{Addressing, S3Store, Settings};
use depin_domain::time::{Timestamp, Window};
use depin_identity::{CertificateAuthority, CertificateRequest, PeerIdentity, SigningKey};
use depin_tests::now_ms;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use xtask::{
    free_port,
    pins::{VERSITYGW, built},
    process::Process,
};

pub(crate) const ACCESS_KEY: &str = "backup-writer";
pub(crate) const SECRET_KEY: &str = "a-secret-of-the-backup-writer";
pub(crate) const BUCKET: &str = "ledger";
const LIMIT: Duration = Duration::from_secs(60);

/// A server with one bucket.
pub(crate) struct Server {
    directory: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Server {
    /// None: the server is not built, and the test says that it is skipped.
    pub(crate) fn start(directory: &Path) -> Option<Self> {
        let program = match built(&VERSITYGW, "versitygw") {
            Ok(program) => program,
            Err(missing) => {
                println!("skipped: {missing}");
                return None;
            }
        };
        drop(program);
        fs::create_dir_all(directory.join("objects").join(BUCKET)).unwrap();
        fs::create_dir_all(directory.join("sidecar")).unwrap();
        write_credentials(&directory.join("credentials"), ACCESS_KEY, SECRET_KEY);
        write_certificate(directory);
        let mut server = Self { directory: directory.to_owned(), port: free_port().unwrap(), process: None };
        server.run();
        Some(server)
    }

    /// Starts it, again after it was killed.
    pub(crate) fn run(&mut self) {
        let file = |name: &str| self.directory.join(name);
        let mut command = Command::new(built(&VERSITYGW, "versitygw").unwrap());
        command
            .env("ROOT_ACCESS_KEY_ID", ACCESS_KEY)
            .env("ROOT_SECRET_ACCESS_KEY", SECRET_KEY)
            .args(["--port", &format!("127.0.0.1:{}", self.port), "--quiet", "--keep-alive"])
            .arg("--cert")
            .arg(file("server.crt"))
            .arg("--key")
            .arg(file("server.key"))
            .args(["posix", "--sidecar"])
            .arg(file("sidecar"))
            .arg(file("objects"));
        let mut process = Process::start("versitygw", &mut command, &file("server.log")).unwrap();
        let port = self.port;
        process.wait_until("its port", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap();
        self.process = Some(process);
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self, bucket: &str) -> String {
        url(self.address(), bucket)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// How a gateway reaches it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            url: self.url(BUCKET).parse().unwrap(),
            region: "us-east-1".into(),
            addressing: Addressing::Path,
            credentials: self.file("credentials"),
            ca: Some(self.file("ca.crt")),
            patience: Duration::from_secs(20),
        }
    }

    pub(crate) fn store(&self) -> Arc<S3Store> {
        Arc::new(S3Store::new(&self.settings()).unwrap())
    }
}

fn url(address: SocketAddr, bucket: &str) -> String {
    format!("https://{address}/{bucket}/site/one")
}

pub(crate) fn write_credentials(directory: &Path, key: &str, secret: &str) {
    fs::create_dir_all(directory).unwrap();
    // As a Secret is often written: with a line's end.
    fs::write(directory.join("access-key-id"), format!("{key}\n")).unwrap();
    fs::write(directory.join("secret-access-key"), format!("{secret}\n")).unwrap();
}

fn write_certificate(directory: &Path) {
    let now = now_ms();
    let validity = Window { start: Timestamp(now - 3_600_000), end: Timestamp(now + 24 * 3_600_000) };
    let authority = CertificateAuthority::create(validity).unwrap();
    let key = SigningKey::generate().unwrap();
    let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
    let leaf = authority.issue(&request, &PeerIdentity::Gateway, &["127.0.0.1".to_owned()], validity).unwrap();
    fs::write(directory.join("server.crt"), leaf).unwrap();
    fs::write(directory.join("server.key"), key.to_pem().as_bytes()).unwrap();
    fs::write(directory.join("ca.crt"), authority.certificate_pem()).unwrap();
}

/// A line to a server: it is cut once so many bytes went to the server, and holds answers back while it is told to.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    sent: Arc<AtomicU64>,
    budget: Arc<AtomicU64>,
    silent: Arc<AtomicBool>,
}

impl Line {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let line = Self {
            address: listener.local_addr().unwrap(),
            sent: Arc::default(),
            budget: Arc::new(AtomicU64::new(u64::MAX)),
            silent: Arc::default(),
        };
        let (sent, budget, silent) = (Arc::clone(&line.sent), Arc::clone(&line.budget), Arc::clone(&line.silent));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (sent, budget, silent) = (Arc::clone(&sent), Arc::clone(&budget), Arc::clone(&silent));
                tokio::spawn(async move {
                    let Ok(upstream) = TcpStream::connect(server).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = upstream.into_split();
                    let up = async {
                        let mut buffer = vec![0; 4_096];
                        loop {
                            let read = from_client.read(&mut buffer).await.unwrap_or(0);
                            let total = sent.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
                            if read == 0 || total > budget.load(Ordering::SeqCst) {
                                return;
                            }
                            if to_server.write_all(&buffer[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    let down = async {
                        let mut buffer = vec![0; 4_096];
                        loop {
                            let read = from_server.read(&mut buffer).await.unwrap_or(0);
                            while silent.load(Ordering::SeqCst) {
                                tokio::time::sleep(Duration::from_millis(10)).await;
                            }
                            if read == 0 || to_client.write_all(&buffer[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = up => {}
                        () = down => {}
                    }
                });
            }
        });
        line
    }

    pub(crate) fn url(&self) -> String {
        url(self.address, BUCKET)
    }

    /// Bytes that went to the server so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Cuts every connection, from when so many bytes went to the server in all.
    pub(crate) fn cut_at(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.budget.store(u64::MAX, Ordering::SeqCst);
    }

    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }
}

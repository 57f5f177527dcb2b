//! A real etcd and kube-apiserver on free loopback ports, in a directory of their own, gone when dropped.
//!
//! RBAC is on; the administrator's token belongs to `system:masters`. There is no controller manager: what only
//! controllers do (garbage collection, namespace deletion) does not happen here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{free_port, pins::Tools, process::Process, workspace, write_private};

/// Starting takes about 5 s on two idle cores; a machine that also compiles needs far more.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Another process may take a port between our choice and its use.
const PORT_TRIES: usize = 4;

/// A running API server with its store.
#[derive(Debug)]
pub struct ControlPlane {
    tools: Tools,
    settings: Settings,
    // Order matters: the API server goes first, then its store, then their files.
    api_server: Option<Process>,
    etcd: Option<Process>,
    _own_dir: Option<TempDir>,
}

/// What stays the same over restarts.
#[derive(Clone, Debug)]
struct Settings {
    dir: PathBuf,
    server: String,
    api_port: u16,
    etcd_port: u16,
    token: String,
}

impl ControlPlane {
    /// Starts one in a temporary directory and waits until it is ready.
    ///
    /// # Errors
    /// When the programs are not built, or do not come up.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("depin-control-plane-").tempdir()?;
        let mut started = Self::start_in(dir.path())?;
        started._own_dir = Some(dir);
        Ok(started)
    }

    /// Starts one in `dir`, which must exist and be empty, and waits until it is ready. The directory stays.
    ///
    /// # Errors
    /// When the programs are not built, or do not come up.
    pub fn start_in(dir: &Path) -> Result<Self> {
        let tools = Tools::find()?;
        let mut last = None;
        for _ in 0..PORT_TRIES {
            match Self::try_start(dir, &tools) {
                Ok(started) => return Ok(started),
                Err(error) if format!("{error:#}").contains("address already in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no free ports")))
    }

    fn try_start(dir: &Path, tools: &Tools) -> Result<Self> {
        let api_port = free_port()?;
        let settings = Settings {
            dir: dir.to_path_buf(),
            server: format!("https://127.0.0.1:{api_port}"),
            api_port,
            etcd_port: free_port()?,
            token: hex::encode(crate::random()?),
        };
        settings.write_files()?;
        let mut plane = Self { tools: tools.clone(), settings, api_server: None, etcd: None, _own_dir: None };
        plane.start_etcd()?;
        plane.start_api_server()?;
        Ok(plane)
    }

    /// A kubeconfig file for the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.settings.dir.join("kubeconfig")
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.settings.server
    }

    /// The administrator's bearer token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.settings.token
    }

    /// The certificate that the API server's own chains to, in PEM.
    #[must_use]
    pub fn certificate_authority(&self) -> PathBuf {
        self.settings.dir.join("certs/apiserver.crt")
    }

    /// Where logs and data are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// `kubectl` as the administrator.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.tools.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env_remove("KUBERNETES_SERVICE_HOST").stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` with `arguments` and gives back what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it printed on standard error.
    pub fn run_kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl().args(arguments).output().context("cannot run kubectl")?;
        let shown = arguments.join(" ");
        if !output.status.success() {
            bail!("kubectl {shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("kubectl {shown} printed no text"))
    }

    /// Applies a file or a folder of manifests.
    ///
    /// # Errors
    /// When the API server rejects one; the message is its own.
    pub fn apply(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("path is not UTF-8")?;
        self.run_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", path]).map(drop)
    }

    /// Applies the project's CRDs and waits until they are served.
    ///
    /// # Errors
    /// When the API server rejects one (CEL cost, schema) or does not serve it in time.
    pub fn apply_crds(&self) -> Result<()> {
        self.apply(&workspace().join("crds/yaml"))?;
        self.run_kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd", "--all"])?;
        Ok(())
    }

    /// Kills the API server as a power cut would and starts it anew on the same store.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn restart_api_server(&mut self) -> Result<()> {
        self.stop_api_server();
        self.start_api_server()
    }

    /// Kills the API server and leaves it down until [`ControlPlane::restart_api_server`].
    pub fn stop_api_server(&mut self) {
        drop(self.api_server.take());
    }

    /// Loses etcd with everything in it, and starts an empty control plane under the same address and token.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn lose_etcd(&mut self) -> Result<()> {
        self.stop_api_server();
        drop(self.etcd.take());
        fs::remove_dir_all(self.settings.dir.join("etcd")).context("cannot delete etcd's data")?;
        self.start_etcd()?;
        self.start_api_server()
    }

    fn start_etcd(&mut self) -> Result<()> {
        let Settings { dir, etcd_port, .. } = &self.settings;
        let client = format!("http://127.0.0.1:{etcd_port}");
        let mut command = Command::new(&self.tools.etcd);
        command
            .arg("--unsafe-no-fsync")
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            // A store of one member still insists on a peer port; it picks a free one itself.
            .args(["--listen-peer-urls", "http://127.0.0.1:0", "--log-level", "warn", "--logger", "zap"]);
        self.etcd = Some(Process::start("etcd", &mut command, &dir.join("etcd.log"))?);
        Ok(())
    }

    fn start_api_server(&mut self) -> Result<()> {
        let Settings { dir, api_port, etcd_port, .. } = &self.settings;
        let mut command = Command::new(&self.tools.kube_apiserver);
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
            .arg(format!("--secure-port={api_port}"))
            .arg(flag("--cert-dir", &dir.join("certs")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(flag("--service-account-key-file", &dir.join("service-account.pub")))
            .arg(flag("--service-account-signing-key-file", &dir.join("service-account.key")))
            .arg(flag("--token-auth-file", &dir.join("tokens.csv")))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24", "--profiling=false"]);
        let mut process = Process::start("kube-apiserver", &mut command, &dir.join("kube-apiserver.log"))?;
        let probe = || {
            let output = self.kubectl().args(["get", "--raw", "/readyz"]).output();
            output.is_ok_and(|Output { status, stdout, .. }| status.success() && stdout.starts_with(b"ok"))
        };
        process.wait_until("readiness", START_LIMIT, probe)?;
        self.api_server = Some(process);
        Ok(())
    }
}

impl Settings {
    fn write_files(&self) -> Result<()> {
        let Self { dir, server, token, .. } = self;
        write_account_keys(dir)?;
        write_private(&dir.join("tokens.csv"), &format!("{token},admin,admin,system:masters\n"))?;
        let config = kubeconfig(server, &dir.join("certs/apiserver.crt"), "admin", token);
        write_private(&dir.join("kubeconfig"), &config)
    }
}

/// The keys of ServiceAccounts' tokens, as `service-account.key` and `service-account.pub`.
pub(crate) fn write_account_keys(dir: &Path) -> Result<()> {
    let key = rcgen::KeyPair::generate().context("cannot make the service accounts' key")?;
    write_private(&dir.join("service-account.key"), &key.serialize_pem())?;
    write_private(&dir.join("service-account.pub"), &key.public_key_pem())
}

/// A kubeconfig for whoever shows `token` at `server`.
pub(crate) fn kubeconfig(server: &str, authority: &Path, user: &str, token: &str) -> String {
    let authority = authority.display().to_string();
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: depin\n\
         clusters:\n- name: depin\n  cluster: {{server: {server:?}, certificate-authority: {authority:?}}}\n\
         users:\n- name: {user}\n  user: {{token: {token:?}}}\n\
         contexts:\n- name: depin\n  context: {{cluster: depin, user: {user}, namespace: default}}\n"
    )
}

/// `NAME=PATH`.
pub(crate) fn flag(name: &str, path: &Path) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(name);
    flag.push("=");
    flag.push(path);
    flag
}

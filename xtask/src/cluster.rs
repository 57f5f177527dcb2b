//! The cluster that a demo or a test works on: a control plane of its own, or the one that KUBECONFIG names.

use std::{
    ffi::{OsStr, OsString},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{control_plane::ControlPlane, pins::Tools, write_private};

/// A cluster and how to talk to it.
#[derive(Debug)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    own: Option<ControlPlane>,
    /// Network namespace from which it is reached, where that is not everybody's.
    network: Option<PathBuf>,
}

impl Cluster {
    /// A control plane of its own, whose files are in `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(dir: &Path) -> Result<Self> {
        let own = ControlPlane::start_in(dir)?;
        Ok(Self { kubectl: Tools::find()?.kubectl, kubeconfig: own.kubeconfig(), own: Some(own), network: None })
    }

    /// The cluster that KUBECONFIG, or else ~/.kube/config, names.
    ///
    /// # Errors
    /// When there is no such file or the cluster does not answer.
    pub fn existing() -> Result<Self> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
        let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from).or_else(home);
        let kubeconfig =
            kubeconfig.filter(|path| path.is_file()).context("--use-cluster needs KUBECONFIG to name a file")?;
        let cluster = Self { kubectl: Tools::find()?.kubectl, kubeconfig, own: None, network: None };
        cluster.kubectl(&["version"]).context("the cluster of KUBECONFIG does not answer")?;
        Ok(cluster)
    }

    /// The cluster of a kubeconfig, whose server is reached from a network namespace only.
    #[must_use]
    pub fn inside(kubectl: PathBuf, kubeconfig: PathBuf, network: PathBuf) -> Self {
        Self { kubectl, kubeconfig, own: None, network: Some(network) }
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The kubectl in use.
    #[must_use]
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// The control plane, if it is one of our own.
    pub fn own(&mut self) -> Option<&mut ControlPlane> {
        self.own.as_mut()
    }

    /// Runs kubectl and gives back what it printed.
    ///
    /// # Errors
    /// When it fails, with its message.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, b"")
    }

    /// The same with text on its standard input.
    ///
    /// # Errors
    /// When it fails, with its message.
    pub fn kubectl_with(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        let mut child = self
            .program()
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input).context("kubectl does not read")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn program(&self) -> Command {
        self.network.as_ref().map_or_else(|| Command::new(&self.kubectl), |network| enter(network, &self.kubectl))
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Applies manifests given as text.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests.as_bytes()).map(drop)
    }

    /// A kubeconfig file that acts as a ServiceAccount and may do what RBAC gives it, nothing more. Its token lives `hours`.
    ///
    /// # Errors
    /// When the ServiceAccount is missing, or `path` cannot be written.
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str, hours: u32, path: &Path) -> Result<()> {
        let token = self.kubectl(&["create", "token", name, "-n", namespace, &format!("--duration={hours}h")])?;
        let text = self.kubectl(&["config", "view", "--minify", "--flatten", "--raw", "-o", "json"])?;
        let mut config: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
        config["users"] = json!([{"name": name, "user": {"token": token.trim()}}]);
        let context = config.pointer_mut("/contexts/0/context").context("the kubeconfig has no current context")?;
        context["user"] = name.into();
        context["namespace"] = namespace.into();
        write_private(path, &config.to_string())
    }

    /// Applies the CRDs and waits until they are served.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply_crds(&self) -> Result<()> {
        let folder = crate::workspace().join("crds/yaml");
        let folder = folder.to_str().context("the clone's path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", folder])?;
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "-f", folder]).map(drop)
    }

    /// One field of a Secret, decoded; `None` while it is not there.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn secret(&self, namespace: &str, name: &str, field: &str) -> Result<Option<String>> {
        let template = format!("-o=go-template={{{{with index .data {field:?}}}}}{{{{.|base64decode}}}}{{{{end}}}}");
        let text = self.kubectl(&["get", "secret", name, "-n", namespace, "--ignore-not-found", &template])?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// A program that runs in a network namespace.
pub(crate) fn enter(network: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut option = OsString::from("--net=");
    option.push(network);
    let mut command = Command::new("nsenter");
    command.arg(option).arg("--").arg(program);
    command
}

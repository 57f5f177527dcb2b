//! All parts as processes of the real binaries on loopback: operator, gateway, agents, a broker, and virtual hardware.
//!
//! In a cluster the kubelet mounts the gateway's Secret; here its files are copied to where the gateway looks.

use std::{
    ffi::OsString,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    admin::is_ready, cluster::Cluster, free_port, invitation::invite, packages, process::Process, workspace,
    write_private,
};

/// The operator's namespace.
pub const NAMESPACE: &str = "depin-system";
/// What the operator may do.
pub const PERMISSIONS: &str = "operator/rbac.yaml";
/// Outside a cluster nobody renews the operator's token, so it lives as long as a demo may stay.
const TOKEN_HOURS: u32 = 24;
/// How long a part may take to come up on a machine that also compiles.
const START_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// What the kubelet would mount into the gateway's Pod.
const GATEWAY_FILES: [&str; 4] = ["ca.crt", "tls.crt", "tls.key", "sealing.pub"];
/// How long a part may take to drain.
const GRACE: Duration = Duration::from_secs(20);

/// The running parts. Dropping it ends them all, the outermost first.
#[derive(Debug)]
pub struct Stack {
    /// Virtual hardware by name.
    pub simulators: Vec<(String, Process)>,
    /// Agents.
    pub agents: Vec<Agent>,
    /// The broker, if there is one.
    pub broker: Option<Process>,
    /// The gateway.
    pub gateway: Option<Process>,
    /// The operator.
    pub operator: Option<Process>,
    /// Where everything keeps its files.
    pub dir: PathBuf,
    /// Where the parts send every trace, if anywhere: an OTLP collector's URL.
    pub collector: Option<String>,
    /// Further arguments of the gateway.
    pub gateway_arguments: Vec<OsString>,
    /// Further arguments of the operator.
    pub operator_arguments: Vec<OsString>,
    ports: Ports,
    target: PathBuf,
}

/// An agent and where its hardware speaks to it.
#[derive(Debug)]
pub struct Agent {
    /// Its namespace and name.
    pub name: (String, String),
    /// `HOST:PORT` of its own listener or of its broker.
    pub mqtt: String,
    /// Its admin server.
    pub admin: String,
    /// The process.
    pub process: Process,
    /// What it was started with.
    arguments: Vec<OsString>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    gateway: u16,
    ledger: u16,
    gateway_admin: u16,
    operator_admin: u16,
    operator_query: u16,
    broker: u16,
}

impl Stack {
    /// Nothing runs yet; files go to `dir`, the built programs are in `programs`.
    ///
    /// # Errors
    /// When loopback has no free ports.
    pub fn new(dir: &Path, programs: &Path) -> Result<Self> {
        let ports = Ports {
            gateway: free_port()?,
            ledger: free_port()?,
            gateway_admin: free_port()?,
            operator_admin: free_port()?,
            operator_query: free_port()?,
            broker: free_port()?,
        };
        fs::create_dir_all(dir.join("logs"))?;
        Ok(Self {
            simulators: Vec::new(),
            agents: Vec::new(),
            broker: None,
            gateway: None,
            operator: None,
            dir: dir.to_path_buf(),
            collector: None,
            gateway_arguments: Vec::new(),
            operator_arguments: Vec::new(),
            ports,
            target: programs.to_path_buf(),
        })
    }

    /// The ledger's address.
    #[must_use]
    pub fn ledger(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.ledger)
    }

    /// Where agents connect.
    #[must_use]
    pub fn gateway(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.gateway)
    }

    /// Where the built programs are.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.target
    }

    /// The gateway's admin server.
    #[must_use]
    pub fn gateway_admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports.gateway_admin)
    }

    /// The operator's admin server.
    #[must_use]
    pub fn operator_admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports.operator_admin)
    }

    /// Where the operator takes questions to the ledger, which `kubectl depin` asks by port-forward in a cluster.
    #[must_use]
    pub fn query(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.operator_query)
    }

    /// Applies CRDs and starts operator and gateway.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_center(&mut self, cluster: &Cluster) -> Result<()> {
        cluster.apply_crds()?;
        cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"))?;
        let permissions = workspace().join(PERMISSIONS);
        cluster.apply(&fs::read_to_string(&permissions).with_context(|| format!("no {}", permissions.display()))?)?;
        self.start_installed_center(cluster, &[])
    }

    /// Starts operator and gateway where the definitions and the operator's permissions are there already, the operator with further flags.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_installed_center(&mut self, cluster: &Cluster, flags: &[&str]) -> Result<()> {
        self.operator_arguments = flags.iter().map(OsString::from).collect();
        self.start_operator(cluster)?;
        self.copy_certificates(cluster)?;
        self.start_gateway()
    }

    /// Starts the operator under its ServiceAccount.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_operator(&mut self, cluster: &Cluster) -> Result<()> {
        let kubeconfig = self.dir.join("operator.kubeconfig");
        cluster.service_account_kubeconfig(NAMESPACE, "depin-operator", TOKEN_HOURS, &kubeconfig)?;
        let mut command = self.program("depin-operator");
        command
            .env("KUBECONFIG", &kubeconfig)
            .args(["--namespace", NAMESPACE, "--ledger", &self.ledger()])
            .args(["--gateway-name", "127.0.0.1", "--gateway-name", "localhost"])
            .args(["--admin-listen", &self.operator_admin()])
            .args(["--query-listen", &format!("127.0.0.1:{}", self.ports.operator_query)])
            .args(&self.operator_arguments);
        self.operator = Some(self.start("depin-operator", &mut command)?);
        Ok(())
    }

    /// Stands in for the kubelet's mount: waits for the operator's Secret and copies its files.
    fn copy_certificates(&mut self, cluster: &Cluster) -> Result<()> {
        let folder = self.dir.join("gateway-tls");
        fs::create_dir_all(&folder)?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let files = GATEWAY_FILES.map(|field| {
                cluster.secret(NAMESPACE, "depin-gateway-tls", field).map(|text| text.map(|text| (field, text)))
            });
            let files: Vec<(&str, String)> =
                files.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
            if files.len() == GATEWAY_FILES.len() {
                for (name, text) in files {
                    write_private(&folder.join(name), &text)?;
                }
                return self.copy_authority(cluster);
            }
            if let Some(operator) = &mut self.operator
                && let Some(status) = operator.exited()?
            {
                bail!("the operator ended ({status}):\n{}", operator.log_end());
            }
            if Instant::now() >= deadline {
                let log = self.operator.as_ref().map(Process::log_end).unwrap_or_default();
                bail!("the operator made no Secret depin-gateway-tls within {START_LIMIT:?}:\n{log}");
            }
            thread::sleep(POLL);
        }
    }

    /// The authority's files, so that this administrator can read the ledger.
    fn copy_authority(&self, cluster: &Cluster) -> Result<()> {
        let folder = self.authority();
        fs::create_dir_all(&folder)?;
        for field in ["tls.crt", "tls.key"] {
            let text = cluster.secret(NAMESPACE, "depin-ca", field)?.context("Secret depin-ca is incomplete")?;
            write_private(&folder.join(field), &text)?;
        }
        Ok(())
    }

    /// Folder with the authority's certificate and key.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("authority")
    }

    /// Starts the gateway on its data and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_gateway(&mut self) -> Result<()> {
        let mut command = self.program("depin-gateway");
        command
            .args(["--listen", &format!("127.0.0.1:{}", self.ports.gateway)])
            .args(["--ledger-listen", &format!("127.0.0.1:{}", self.ports.ledger)])
            .args(["--admin-listen", &self.gateway_admin()])
            .arg("--tls-dir")
            .arg(self.dir.join("gateway-tls"))
            .arg("--data-dir")
            .arg(self.dir.join("ledger"))
            .args(&self.gateway_arguments);
        let mut gateway = self.start("depin-gateway", &mut command)?;
        let admin = self.gateway_admin();
        gateway.wait_until("readiness", START_LIMIT, || is_ready(&admin))?;
        self.gateway = Some(gateway);
        Ok(())
    }

    /// Starts mosquitto, if this machine has it, with a queue that does not drop silently.
    ///
    /// # Errors
    /// When it is there but does not come up.
    pub fn start_broker(&mut self) -> Result<bool> {
        let Some(mosquitto) = packages::MOSQUITTO.find() else { return Ok(false) };
        let port = self.ports.broker;
        let config = self.dir.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        );
        fs::write(&config, text)?;
        let mut command = Command::new(mosquitto);
        let mut broker = self.start("mosquitto", command.arg("-c").arg(config))?;
        broker.wait_until("readiness", START_LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        self.broker = Some(broker);
        Ok(true)
    }

    /// Invites and starts an agent: on a listener of its own, or behind the broker.
    ///
    /// # Errors
    /// When it cannot be invited or does not get ready.
    pub fn start_agent(
        &mut self,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        fleets: &[&str],
        broker: bool,
    ) -> Result<()> {
        let token = invite(cluster, namespace, name, fleets)?;
        let file = self.dir.join(format!("join-token-{name}"));
        write_private(&file, &token)?;
        self.start_enrolled_agent(namespace, name, broker, &["--join-token-file".into(), file.into()])
    }

    /// Where an agent keeps key, certificate and spool.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn agent_state(&self, name: &str) -> Result<PathBuf> {
        let state = self.dir.join(format!("agent-{name}"));
        fs::create_dir_all(&state)?;
        Ok(state)
    }

    /// Starts an agent that knows how to become known: by `arguments`, or by credentials in its state.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_enrolled_agent(
        &mut self,
        namespace: &str,
        name: &str,
        broker: bool,
        arguments: &[OsString],
    ) -> Result<()> {
        let (flag, mqtt) = if broker {
            ("--mqtt-broker", format!("mqtt://127.0.0.1:{}", self.ports.broker))
        } else {
            ("--mqtt-listen", format!("127.0.0.1:{}", free_port()?))
        };
        let admin = format!("127.0.0.1:{}", free_port()?);
        let gateway = format!("https://127.0.0.1:{}", self.ports.gateway);
        let own = ["--gateway", &gateway, "--name", name, flag, &mqtt, "--admin-listen", &admin, "--state-dir"];
        let state = self.agent_state(name)?.into_os_string();
        let arguments: Vec<OsString> =
            own.iter().map(OsString::from).chain([state]).chain(arguments.iter().cloned()).collect();
        let process = self.run_agent(name, &admin, &arguments)?;
        let mqtt = mqtt.trim_start_matches("mqtt://").to_owned();
        self.agents.push(Agent { name: (namespace.to_owned(), name.to_owned()), mqtt, admin, process, arguments });
        Ok(())
    }

    /// Starts the agent with this index again, after it crashed, and waits until it is ready.
    ///
    /// # Errors
    /// When there is no such agent, or it does not get ready.
    pub fn restart_agent(&mut self, index: usize) -> Result<()> {
        let agent = self.agents.get(index).context("there is no such agent")?;
        let process = self.run_agent(&agent.name.1, &agent.admin, &agent.arguments)?;
        if let Some(agent) = self.agents.get_mut(index) {
            agent.process = process;
        }
        Ok(())
    }

    fn run_agent(&self, name: &str, admin: &str, arguments: &[OsString]) -> Result<Process> {
        let mut process = self.start(&format!("depin-agent-{name}"), self.program("depin-agent").args(arguments))?;
        process.wait_until("readiness", START_LIMIT, || is_ready(admin))?;
        Ok(process)
    }

    /// Starts virtual hardware; its report goes to [`Stack::simulator_report`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_simulator(&mut self, name: &str, mqtt: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.program("depin-sim");
        command.args(["--mqtt", mqtt]).args(arguments).arg("--report").arg(self.report_file(name));
        let process = self.start(&format!("depin-sim-{name}"), &mut command)?;
        self.simulators.push((name.to_owned(), process));
        Ok(())
    }

    /// Stops all virtual hardware and gives back its last reports: nothing more comes after them.
    ///
    /// # Errors
    /// When one does not end well: some publishes stayed without acknowledgement.
    pub fn stop_simulators(&mut self) -> Result<Vec<Value>> {
        let mut reports = Vec::new();
        for (name, simulator) in std::mem::take(&mut self.simulators) {
            let log = simulator.log().to_path_buf();
            let status = simulator.stop(GRACE * 3)?;
            if !status.success() {
                bail!("depin-sim {name} ended with {status}; its log is {}", log.display());
            }
            reports.push(self.simulator_report(&name)?);
        }
        Ok(reports)
    }

    /// What virtual hardware last reported.
    ///
    /// # Errors
    /// When it has not reported yet.
    pub fn simulator_report(&self, name: &str) -> Result<Value> {
        let path = self.report_file(name);
        let text = fs::read(&path).with_context(|| format!("no report {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// What the ledger holds: readings, and the epochs of `programs`.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub fn observe(&self, programs: &[&str], lines: bool) -> Result<Value> {
        let mut command = Command::new(self.target.join("depin-observe"));
        command.args(["--ledger", &self.ledger()]).arg("--authority").arg(self.authority());
        command.args(programs.iter().flat_map(|program| ["--program", program]));
        let output = command.args(lines.then_some("--lines")).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("the ledger cannot be read: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Ends everything in the data's direction, each part draining into the next.
    ///
    /// # Errors
    /// When a part had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        let simulators = std::mem::take(&mut self.simulators).into_iter().map(|(_, process)| process);
        let agents = std::mem::take(&mut self.agents).into_iter().map(|agent| agent.process);
        let center = [self.broker.take(), self.gateway.take(), self.operator.take()].into_iter().flatten();
        let mut failed = None;
        for process in simulators.chain(agents).chain(center) {
            if let Err(error) = process.stop(GRACE) {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The first part that ended by itself, with the end of its log.
    ///
    /// # Errors
    /// When one has.
    pub fn check_alive(&mut self) -> Result<()> {
        let agents = self.agents.iter_mut().map(|agent| &mut agent.process);
        let center = [&mut self.operator, &mut self.gateway, &mut self.broker].into_iter().flatten();
        for process in agents.chain(center) {
            if let Some(status) = process.exited()? {
                bail!("{} ended by itself ({status}):\n{}", process.name(), process.log_end());
            }
        }
        Ok(())
    }

    fn report_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("sim-{name}.json"))
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.target.join(name));
        // Settings of the person's own environment must not leak into the demo.
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_some_and(|variable| variable.starts_with("DEPIN_")) {
                command.env_remove(variable);
            }
        }
        if let Some(collector) = &self.collector {
            command.env("DEPIN_OTLP_ENDPOINT", collector).env("DEPIN_OTLP_SAMPLE", "1");
        }
        command
    }

    fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::start(name, command, &self.dir.join("logs").join(format!("{name}.log")))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Outermost first, so that nobody complains about who is gone before.
        self.simulators.clear();
        self.agents.clear();
        self.broker = None;
        self.gateway = None;
        self.operator = None;
    }
}

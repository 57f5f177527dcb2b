//! A real cluster on this machine: a control plane and nodes with kubelet, containerd and kube-proxy, each node in namespaces of its own.
//!
//! Every node is one process (its *init*) in a mount, network and process namespace of its own; everything of the node runs inside. Ending
//! the init ends all of it: daemons, containers, mounts, links. What is left then is a control group and a directory.

mod addons;
mod command;
mod control;
mod credentials;
mod machine;
mod node;
mod state;
mod suite;
mod wiring;

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

pub use self::{
    command::{Options, run},
    machine::Lifetime,
    state::State,
    suite::{IMAGES, SUITE, prepare, test},
};
use self::{machine::Machine, state::Ended};
use crate::{
    cluster::Cluster,
    packages,
    pins::{HELM_HOMES, NodeTools, Tools},
};

/// Name of the node with the control plane.
pub const HUB: &str = "hub";
/// Names of the nodes where devices are.
pub const EDGES: [&str; 2] = ["edge1", "edge2"];
/// Label by which the chart knows them.
pub const EDGE_LABEL: &str = "node-role.kubernetes.io/edge=";
/// Whether the process at `$one` has the name `$1`, of which the kernel keeps fifteen bytes.
const BY_NAME: &str = r#"read -r name < $one/comm && [ "$name" = "$1" ]"#;
/// Whether it belongs to the Pod with the uid `$1`.
const BY_GROUP: &str = r#"grep -q "pod$1" $one/cgroup"#;
/// How long the control plane may take; about 15 s on two idle cores.
const START_LIMIT: Duration = Duration::from_secs(300);

/// A running cluster.
#[derive(Debug)]
pub struct RealCluster {
    dir: PathBuf,
    machines: Vec<Machine>,
    tools: Tools,
    programs: NodeTools,
    _own_dir: Option<tempfile::TempDir>,
}

impl RealCluster {
    /// Why there can be none on a machine of this kind, whatever is installed.
    #[must_use]
    pub fn impossible_here() -> Option<String> {
        if !cfg!(target_os = "linux") {
            return Some("a real cluster needs Linux".to_owned());
        }
        if !rustix::process::geteuid().is_root() {
            return Some("a real cluster needs root, for namespaces and containers".to_owned());
        }
        None
    }

    /// Why there can be none now, if so.
    #[must_use]
    pub fn impossible() -> Option<String> {
        if let Some(reason) = Self::impossible_here() {
            return Some(reason);
        }
        [packages::NFT, packages::IP, packages::RUNC]
            .iter()
            .find(|package| package.find().is_none())
            .map(packages::Package::remedy)
    }

    /// Starts one in a temporary directory; it ends with whoever started it.
    ///
    /// # Errors
    /// When a part of it does not come up; the message has its log's end.
    pub fn start() -> Result<Self> {
        let own = tempfile::Builder::new().prefix("depin-cluster-").tempdir()?;
        let mut started = Self::start_in(own.path(), Lifetime::Starter)?;
        started._own_dir = Some(own);
        Ok(started)
    }

    /// Starts one whose files are in `dir`, which must exist and be empty.
    ///
    /// # Errors
    /// When a part of it does not come up; the message has its log's end. Nothing of it runs then.
    pub fn start_in(dir: &Path, lifetime: Lifetime) -> Result<Self> {
        if let Some(reason) = Self::impossible() {
            bail!(reason);
        }
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let (tools, programs) = (Tools::find()?, NodeTools::find()?);
        let mut cluster = Self { dir, machines: Vec::new(), tools, programs, _own_dir: None };
        if let Err(error) = cluster.bring_up(lifetime) {
            drop(cluster.end());
            return Err(error);
        }
        Ok(cluster)
    }

    fn bring_up(&mut self, lifetime: Lifetime) -> Result<()> {
        machine::sweep();
        let credentials = credentials::Credentials::make(&self.dir.join("credentials"))?;
        for (index, name) in std::iter::once(HUB).chain(EDGES).enumerate() {
            let machine = Machine::start(&self.dir, name, index, lifetime)?;
            self.machines.push(machine);
            // Known from the first on, so that `down` finds them even if the next step fails.
            State::of(&self.machines).write(&self.dir)?;
        }
        wiring::connect(&self.machines)?;
        control::start(self.machine(HUB)?, &self.tools, &self.programs, &credentials)?;
        for machine in &self.machines {
            node::start(machine, &self.programs, &credentials)?;
        }
        addons::install(self)
    }

    /// The cluster that `cargo xtask cluster up` left in `dir`.
    ///
    /// # Errors
    /// When there is none, or its processes are gone.
    pub fn attach(dir: &Path) -> Result<Self> {
        let dir =
            dir.canonicalize().with_context(|| format!("no cluster in {}: `cargo xtask cluster up`", dir.display()))?;
        let state = State::read(&dir)?;
        let machines = state.attach(&dir)?;
        Ok(Self { dir, machines, tools: Tools::find()?, programs: NodeTools::find()?, _own_dir: None })
    }

    /// Where its files and logs are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig; its server is reached from inside the hub's network, see [`RealCluster::command`].
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("credentials/admin.kubeconfig")
    }

    /// Moves the calling thread, and what it starts from now on, into the network of `node`.
    ///
    /// # Errors
    /// When there is no such node, or the kernel refuses.
    pub fn enter(&self, node: &str) -> Result<()> {
        let path = self.machine(node)?.network();
        let namespace = fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
            .with_context(|| format!("cannot enter {}", path.display()))
    }

    /// The cluster as other tools take it.
    ///
    /// # Errors
    /// When it has no hub.
    pub fn handle(&self) -> Result<Cluster> {
        Ok(Cluster::inside(self.tools.kubectl.clone(), self.kubeconfig(), self.machine(HUB)?.network()))
    }

    /// The address of `node` in the cluster's network.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn address(&self, node: &str) -> Result<String> {
        self.machine(node).map(Machine::address)
    }

    /// What the kubelet and containerd of `node` say that other tools do not: a program inside it.
    ///
    /// # Errors
    /// When it fails.
    pub fn run_inside(&self, node: &str, program: &str, arguments: &[&str]) -> Result<String> {
        self.machine(node)?.run(program, arguments)
    }

    /// A program that runs in the network of `node`, with the administrator's KUBECONFIG.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn command(&self, node: &str, program: &Path) -> Result<Command> {
        let mut command = self.machine(node)?.in_network(program);
        command.env("KUBECONFIG", self.kubeconfig()).env_remove("KUBERNETES_SERVICE_HOST").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `helm` as the administrator and gives back what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it printed on standard error.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(HUB, &self.tools.helm)?;
        command.envs(HELM_HOMES.map(|name| (name, self.dir.join("helm"))));
        output(command.args(arguments), &format!("helm {}", arguments.join(" ")))
    }

    /// Loads an image archive (OCI layout in a tar) into every node.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        // Machines have another working directory.
        let archive = &archive.canonicalize().with_context(|| format!("cannot find {}", archive.display()))?;
        self.machines.iter().try_for_each(|machine| node::load_image(machine, &self.programs, archive))
    }

    /// Stops a daemon on `node` where it stands, like `kube-apiserver` on the hub: it keeps what it holds and notices nothing.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn pause(&self, node: &str, daemon: &str) -> Result<()> {
        self.signal(node, BY_NAME, daemon, "STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn resume(&self, node: &str, daemon: &str) -> Result<()> {
        self.signal(node, BY_NAME, daemon, "CONT")
    }

    /// Stops everything in the Pod of that uid on `node` where it stands.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn pause_pod(&self, node: &str, uid: &str) -> Result<()> {
        self.signal(node, BY_GROUP, uid, "STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn resume_pod(&self, node: &str, uid: &str) -> Result<()> {
        self.signal(node, BY_GROUP, uid, "CONT")
    }

    /// A machine sees its own processes only.
    fn signal(&self, node: &str, test: &str, what: &str, signal: &str) -> Result<()> {
        let script = format!(
            r#"found=1; for one in /proc/[0-9]*; do if {test}; then kill -s "$2" "${{one#/proc/}}" && found=0; fi; done 2>/dev/null; exit $found"#
        );
        self.run_inside(node, "sh", &["-c", &script, "signal", what, signal])
            .with_context(|| format!("{what} does not run on {node}"))
            .map(drop)
    }

    /// Cuts a node's line to the hub, as a lost mobile link would.
    ///
    /// # Errors
    /// When there is no such node, or the link does not change.
    pub fn cut(&self, node: &str) -> Result<()> {
        wiring::cut(self.machine(HUB)?, self.machine(node)?)
    }

    /// Mends it.
    ///
    /// # Errors
    /// When there is no such node, or the link does not change.
    pub fn mend(&self, node: &str) -> Result<()> {
        wiring::mend(self.machine(HUB)?, self.machine(node)?)
    }

    /// Where one of the cluster's own tools is.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        match name {
            "kubectl" => Some(self.tools.kubectl.clone()),
            "helm" => Some(self.tools.helm.clone()),
            _ => None,
        }
    }

    fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines.iter().find(|machine| machine.name() == name).with_context(|| format!("no node {name}"))
    }

    /// Ends it and removes what it left: processes, mounts, links, control groups. Its directory stays.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn end(&mut self) -> Result<()> {
        let ended = State::of(&self.machines).end();
        self.machines.clear();
        match ended? {
            Ended::All => Ok(()),
            Ended::Left(left) => bail!("what is left of the cluster: {}", left.join(", ")),
        }
    }
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        let owned = self.machines.iter().any(Machine::is_owned);
        if owned && let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// What `command` printed.
fn output(command: &mut Command, shown: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    ensure!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed no text"))
}

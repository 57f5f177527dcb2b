//! The chart, packaged and installed as a user does.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use depin_domain::time::Timestamp;
use depin_tests::{Cluster, Observer, Process, eventually, free_port, now_ms, programs, workspace};
use serde_json::Value;
use tempfile::TempDir;
use xtask::{
    nodes::{HUB, RealCluster},
    stack::NAMESPACE,
};

use crate::LIMIT;

/// The release's name; the chart's objects begin with it.
const RELEASE: &str = "depin";
/// Where agents run.
pub(crate) const AGENTS: &str = "depin-agents";

pub(crate) struct Installation {
    pub(crate) cluster: Cluster,
    pub(crate) dir: TempDir,
    forward: RefCell<Option<Process>>,
    // Last: everything else talks to it.
    pub(crate) nodes: RealCluster,
}

impl Installation {
    /// A cluster that has the images and nothing else.
    pub(crate) fn without_release(images: &[PathBuf]) -> Self {
        let nodes = RealCluster::start().unwrap();
        nodes.enter(HUB).unwrap();
        // Small enough to be filled.
        let mount = "for one in /var/lib/volumes/*; do mount -t tmpfs -o size=256m,mode=777 volume $one; done";
        nodes.run_inside(HUB, "sh", &["-c", mount]).unwrap();
        for archive in images {
            nodes.load_image(archive).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        Self { cluster: nodes.handle().unwrap(), dir, forward: RefCell::new(None), nodes }
    }

    /// This version's chart as it is published: one archive.
    pub(crate) fn chart(&self) -> PathBuf {
        let chart = workspace().join("charts/depin-operator");
        let (chart, into) = (chart.to_str().unwrap(), self.dir.path().to_str().unwrap());
        let printed = self.nodes.helm(&["package", chart, "--destination", into]).unwrap();
        let path = PathBuf::from(printed.rsplit(": ").next().unwrap().trim());
        assert!(path.is_file(), "{printed}");
        path
    }

    /// Installs a packaged chart, and waits until operator and gateway are ready.
    pub(crate) fn install(&self, chart: &Path) {
        self.release("install", chart, &["--create-namespace"]);
        self.await_center();
    }

    /// Upgrades to a packaged chart.
    pub(crate) fn upgrade(&self, chart: &Path) {
        self.release("upgrade", chart, &["--reset-values"]);
        self.await_rollouts();
    }

    /// Takes the upgrade back.
    pub(crate) fn roll_back(&self) {
        let told = self.nodes.helm(&["rollback", RELEASE, "--namespace", NAMESPACE]).unwrap();
        assert!(told.contains("Rollback was a success"), "{told}");
        self.await_rollouts();
    }

    fn release(&self, verb: &str, chart: &Path, more: &[&str]) {
        let values = [
            "--set=agent.fleets={weather/stations}",
            // The observer reaches the ledger by a forwarded port.
            "--set=operator.extraArgs={--gateway-name=127.0.0.1}",
        ];
        let command = [verb, RELEASE, chart.to_str().unwrap(), "--namespace", NAMESPACE];
        let notes = self.nodes.helm(&[&command[..], &values, more].concat()).unwrap();
        assert!(notes.contains("STATUS: deployed"), "{notes}");
    }

    fn await_rollouts(&self) {
        self.await_center();
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        self.cluster.kubectl(&["rollout", "status", "daemonset/depin-agent", "-n", AGENTS, &timeout]).unwrap();
    }

    /// Waits until operators and gateway are ready. Where one is just being replaced its readiness is of the past: the Pods are
    /// asked, not the controllers that count them.
    fn await_center(&self) {
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        for workload in ["deployment/depin-operator", "statefulset/depin-gateway"] {
            self.cluster.kubectl(&["rollout", "status", workload, "-n", NAMESPACE, &timeout]).unwrap();
        }
    }

    /// Waits until everything of the release is ready, agents too.
    pub(crate) fn await_workloads(&self) {
        eventually("all Pods ready", LIMIT, || {
            [(NAMESPACE, 3), (AGENTS, 2)].into_iter().all(|(namespace, wanted)| self.ready(namespace) == Ok(wanted))
        });
    }

    /// How many Pods of a namespace are ready, if none that is not has yet to end or to begin.
    fn ready(&self, namespace: &str) -> Result<usize, String> {
        let pods = self.cluster.get(&["pods", "-n", namespace]).map_err(|error| format!("{error:#}"))?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        // A finished test's Pod is no part of the release's work.
        let working: Vec<&Value> = pods.iter().filter(|pod| pod["status"]["phase"] != "Succeeded").collect();
        if working.iter().all(|pod| ready(pod)) { Ok(working.len()) } else { Err("some are not".to_owned()) }
    }

    /// Where a Pod of a part tells its metrics; of one on a certain node, if several.
    pub(crate) fn admin_of(&self, namespace: &str, part: &str, node: Option<&str>) -> String {
        let label = format!("app.kubernetes.io/component={part}");
        let field = node.map_or_else(String::new, |node| format!("--field-selector=spec.nodeName={node}"));
        let path = "-o=jsonpath={.items[0].status.podIP}";
        let mut arguments = vec!["get", "pods", "-n", namespace, "-l", &label, path];
        arguments.extend((!field.is_empty()).then_some(field.as_str()));
        format!("{}:9100", self.cluster.kubectl(&arguments).unwrap())
    }

    /// Forwards a port to the gateway that runs now, and says where its ledger is.
    fn forward_ledger(&self) -> String {
        *self.forward.borrow_mut() = None;
        let port = free_port().unwrap();
        let mut command = Command::new(self.cluster.kubectl_program());
        command.env("KUBECONFIG", self.cluster.kubeconfig());
        command.args(["port-forward", "-n", NAMESPACE, "service/depin-gateway", &format!("{port}:8444")]);
        let log = self.dir.path().join("port-forward.log");
        std::fs::write(&log, "").unwrap();
        *self.forward.borrow_mut() = Some(Process::start("port-forward", &mut command, &log).unwrap());
        eventually("the forwarded port", LIMIT, || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Forwarding from"))
        });
        format!("https://127.0.0.1:{port}")
    }

    /// A connection to the ledger.
    pub(crate) fn observer(&self) -> Observer {
        let secret = |field: &str| self.cluster.secret(NAMESPACE, "depin-ca", field).unwrap().unwrap();
        Observer::connect(&self.forward_ledger(), &secret("tls.crt"), &secret("tls.key"), Timestamp(now_ms())).unwrap()
    }

    /// `kubectl depin` with `arguments`, as the administrator.
    pub(crate) fn plugin(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(programs().unwrap().join("kubectl-depin"));
        command.env("KUBECONFIG", self.cluster.kubeconfig()).args(["--ledger", &self.forward_ledger()]).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The plugin finds nothing wrong.
    pub(crate) fn check(&self) {
        let output = self.plugin(&["check"]);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Asks the ledger as a Pod in the cluster, as `helm test` does.
    pub(crate) fn test(&self) {
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        let told = self.nodes.helm(&["test", RELEASE, "--namespace", NAMESPACE, &timeout]);
        let told = told.unwrap_or_else(|error| {
            panic!("{error:#}\n{}", self.cluster.kubectl(&["logs", "-n", NAMESPACE, "depin-test"]).unwrap_or_default())
        });
        assert!(told.contains("Phase:          Succeeded"), "{told}");
    }

    /// Uninstalls it; what people made and the record stay.
    pub(crate) fn uninstall(&self) {
        *self.forward.borrow_mut() = None;
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        self.nodes.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", &timeout]).unwrap();
        let kept = self
            .cluster
            .kubectl(&["get", "edgefleets,edgeagents,edgedevices,rewardepochs", "-A", "-o", "name"])
            .unwrap();
        for kind in ["edgefleet", "edgeagent", "edgedevice", "rewardepoch"] {
            assert!(kept.contains(kind), "uninstalling took every {kind} with it: {kept}");
        }
        let volumes = self.cluster.get(&["pvc", "-n", NAMESPACE]).unwrap();
        assert_eq!(volumes["items"].as_array().unwrap().len(), 1, "the ledger's volume stays");
        let authority = self.cluster.secret(NAMESPACE, "depin-ca", "tls.crt").unwrap();
        assert!(authority.is_some(), "the authority stays: another one would shut every agent out");
    }
}

/// The archives that `cargo xtask images` wrote; why there are none, if so.
pub(crate) fn images() -> Result<Vec<PathBuf>, String> {
    let named = std::env::var_os(xtask::nodes::IMAGES).map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| workspace().join("target/images"));
    let archives = xtask::images::PRODUCT.map(|(name, _)| folder.join(format!("{name}.tar")));
    match archives.iter().find(|archive| !archive.is_file()) {
        None => Ok(archives.to_vec()),
        Some(missing) => {
            assert!(named.is_none(), "{} is missing", missing.display());
            Err("there are no images: run `cargo xtask images`".to_owned())
        }
    }
}

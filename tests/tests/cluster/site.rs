//! An example network on the edge nodes: agents, hardware, and what both were promised.

use std::{path::PathBuf, process::Command};

use depin_tests::{
    Process, eventually, money, now_ms,
    observer::Sums,
    programs,
    promised::{known_devices, promised, promised_key},
};
use serde_json::Value;
use tokio::runtime::Runtime;
use xtask::{
    demo::networks,
    nodes::{EDGES, RealCluster},
};

use crate::{
    LIMIT,
    installation::{AGENTS, Installation},
};

const NETWORK: &str = "weather";
const PROGRAM: &str = "weather/observations";
/// Devices at each edge.
pub(crate) const DEVICES: usize = 5;

/// Hardware at both edges.
pub(crate) struct Site<'a> {
    installation: &'a Installation,
    hardware: Vec<Process>,
    reports: Vec<PathBuf>,
}

impl<'a> Site<'a> {
    /// Applies the network, lets the agents in and switches the hardware on.
    pub(crate) fn open(installation: &'a Installation) -> Self {
        let cluster = &installation.cluster;
        networks::apply_fleets(cluster).unwrap();
        // The agents show who they are by their ServiceAccount's token; the fleet says whom it lets in.
        let account = format!(r#"{{"namespace": "{AGENTS}", "name": "depin-agent"}}"#);
        let patch = format!(r#"{{"spec": {{"enrollment": {{"serviceAccounts": [{account}]}}}}}}"#);
        cluster.kubectl(&["patch", "edgefleet", "stations", "-n", NETWORK, "--type=merge", "-p", &patch]).unwrap();
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        cluster.kubectl(&["rollout", "status", "daemonset/depin-agent", "-n", AGENTS, &timeout]).unwrap();
        let genesis = u64::try_from(now_ms()).unwrap();
        networks::apply_programs(cluster, genesis).unwrap();
        // What comes in after an outage counts late: give it longer than the example does.
        let patch = r#"{"spec": {"late": {"basisPoints": 500, "until": "1h"}}}"#;
        cluster
            .kubectl(&["patch", "rewardprogram", "observations", "-n", NETWORK, "--type=merge", "-p", patch])
            .unwrap();
        // Readings from before the first epoch would count nowhere.
        eventually("the first epoch", LIMIT, || now_ms() > i64::try_from(genesis).unwrap() + 6_000);
        let mut site = Self { installation, hardware: Vec::new(), reports: Vec::new() };
        for (index, edge) in EDGES.into_iter().enumerate() {
            site.switch_on(index, edge);
        }
        site
    }

    /// Hardware beside an edge node: it reaches the agent by the node's own address, whatever becomes of the line to the hub.
    fn switch_on(&mut self, index: usize, edge: &str) {
        let nodes: &RealCluster = &self.installation.nodes;
        let report = self.installation.dir.path().join(format!("{edge}.json"));
        let mut command: Command = nodes.command(edge, &programs().unwrap().join("depin-sim")).unwrap();
        let address = format!("{}:1883", nodes.address(edge).unwrap());
        command.args(["--network", NETWORK, "--mqtt", &address, "--devices", &DEVICES.to_string()]);
        command.args(["--first", &(1 + index * 100).to_string(), "--seed", &(7 + index).to_string()]);
        command.args(["--duplicates", "0.1", "--disconnects", "0.01"]).arg("--report").arg(&report);
        let log = self.installation.dir.path().join(format!("hardware-{edge}.log"));
        self.hardware.push(Process::start("depin-sim", &mut command, &log).unwrap());
        self.reports.push(report);
    }

    /// Waits until the ledger has accepted this many readings.
    pub(crate) fn await_readings(&self, runtime: &Runtime, least: u64) {
        let mut observer = self.installation.observer();
        eventually("accepted readings", LIMIT, || {
            runtime.block_on(observer.readings()).is_ok_and(|readings| readings["accepted"].as_u64() >= Some(least))
        });
    }

    /// What the hardware of an edge was acknowledged until now.
    pub(crate) fn acknowledged(&self, index: usize) -> u64 {
        let text = std::fs::read(&self.reports[index]).unwrap_or_default();
        serde_json::from_slice::<Value>(&text)
            .ok()
            .and_then(|report| report["acknowledged"].as_u64())
            .unwrap_or_default()
    }

    /// Switches the hardware off; then everything that it was promised is counted, once, and every epoch's money adds up.
    pub(crate) fn end(&mut self, runtime: &Runtime) {
        for hardware in self.hardware.drain(..) {
            let log = hardware.log().to_path_buf();
            let status = hardware.stop(LIMIT).unwrap();
            assert!(status.success(), "{}", std::fs::read_to_string(log).unwrap());
        }
        let reports: Vec<Value> =
            self.reports.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect();
        for report in &reports {
            assert_eq!(report["published"], report["acknowledged"], "{report}");
            assert!(report["faults"]["duplicates"].as_u64() > Some(0), "{report}");
        }
        let (ended, promised) = (now_ms(), promised(&reports));
        let devices = known_devices(&self.installation.cluster);
        let mut observer = self.installation.observer();
        let mut counted = Sums::new();
        let mut position = 0;
        eventually("every promised reading", LIMIT, || {
            let (newest, accepted) = runtime.block_on(observer.accepted_after(position)).unwrap();
            position = newest;
            for reading in accepted {
                let (_, serial) = &devices[&reading.device.to_string()];
                let entry = counted.entry(promised_key(&promised, serial, &reading.metric)).or_default();
                entry.0 += 1;
                entry.1 += i128::from(reading.reading.value);
            }
            assert!(
                counted.iter().all(|(key, value)| value.0 <= promised[key].0),
                "counted twice: {counted:?} of {promised:?}"
            );
            counted.len() == promised.len() && counted.iter().all(|(key, value)| value.0 == promised[key].0)
        });
        assert_eq!(counted, promised);
        eventually("the epoch after the hardware's end", LIMIT, || {
            let epochs = runtime.block_on(observer.epochs(PROGRAM)).unwrap();
            epochs.iter().any(|epoch| epoch["start"].as_i64().unwrap() > ended)
        });
        for epoch in runtime.block_on(observer.epochs(PROGRAM)).unwrap() {
            money::check(&epoch);
        }
    }
}

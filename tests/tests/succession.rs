//! Who leads: real operators one after the other, over a real API server and a real gateway. One is paused around the close of an epoch and
//! wakes when another has long led; one is killed around a close. Every epoch is closed once, by whoever had the writer token then, and is
//! carried on from the one before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use depin_tests::{
    Cluster, Observer, Process, Stack, eventually, money, now_ms, start_fleets, tools::Tools, workspace,
};
use serde_json::Value;
use tokio::runtime::Runtime;
use xtask::{demo::networks, stack::NAMESPACE};

const PROGRAM: &str = "energy/kilowatts";
/// For whatever must come; a machine that also compiles takes long.
const LIMIT: Duration = Duration::from_secs(180);
/// Shorter than the example's, so that an epoch ends while somebody looks.
const LENGTH_MS: i64 = 5_000;
const GRACE_MS: i64 = 1_000;

struct Site {
    cluster: Cluster,
    stack: Stack,
    runtime: Runtime,
}

impl Site {
    /// A gateway, an operator that leads without asking for the Lease, an agent, hardware, and a program with short epochs.
    fn start(dir: &Path) -> Self {
        let (cluster, mut stack) = start_fleets(dir, None).unwrap();
        stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false).unwrap();
        networks::apply_devices(&cluster).unwrap();
        let program = fs::read_to_string(workspace().join("examples/networks/energy/program.yaml")).unwrap();
        assert!(program.contains("length: 20s") && program.contains("grace: 2s"), "{program}");
        cluster.apply(&program.replace("length: 20s", "length: 5s").replace("grace: 2s", "grace: 1s")).unwrap();
        let mqtt = stack.agents[0].mqtt.clone();
        let hardware = ["--network", "meters", "--devices", "3", "--world-hour", "14"];
        stack.start_simulator("meters", &mqtt, &hardware).unwrap();
        Self { cluster, stack, runtime: Runtime::new().unwrap() }
    }

    /// One more operator; it waits for the Lease.
    fn start_operator(&self, name: &str) -> Process {
        let kubeconfig = self.stack.dir.join(format!("{name}.kubeconfig"));
        self.cluster.service_account_kubeconfig(NAMESPACE, "depin-operator", 1, &kubeconfig).unwrap();
        let mut command = Command::new(self.stack.programs().join("depin-operator"));
        command
            .env("KUBECONFIG", &kubeconfig)
            .args(["--namespace", NAMESPACE, "--ledger", &self.stack.ledger(), "--gateway-name", "127.0.0.1"])
            .args(["--leader-elect", "--identity", name, "--admin-listen", "127.0.0.1:0"])
            .args(["--query-listen", "127.0.0.1:0"]);
        Process::start(name, &mut command, &self.stack.dir.join("logs").join(format!("{name}.log"))).unwrap()
    }

    fn epochs(&self) -> Vec<Value> {
        let _entered = self.runtime.enter();
        let mut observer = Observer::of(&self.stack).unwrap();
        self.runtime.block_on(observer.epochs(PROGRAM)).unwrap()
    }

    /// Number of the newest epoch that is computed, and the moment at which the next one can be closed.
    fn newest(&self) -> Option<(u64, i64)> {
        let epochs = self.epochs();
        let newest = epochs.last()?;
        Some((newest["number"].as_u64().unwrap(), newest["end"].as_i64().unwrap() + LENGTH_MS + GRACE_MS))
    }

    fn until_further_epochs(&mut self, count: u64) {
        let before = self.newest().map(|(number, _)| number);
        let wanted = |number: u64| before.is_none_or(|before| number >= before + count);
        eventually(&format!("{count} further epochs"), LIMIT, || {
            self.stack.check_alive().unwrap();
            self.newest().is_some_and(|(number, _)| wanted(number))
        });
    }

    /// Waits for the moment at which an epoch can be closed: from then on the leader is closing, computing or recording it.
    fn until_a_close_is_due(&self) {
        let (_, due) = self.newest().unwrap();
        eventually("the end of an epoch", LIMIT, || now_ms() >= due);
    }

    fn holder(&self) -> String {
        let holder = "-o=jsonpath={.spec.holderIdentity}";
        let lease = ["get", "lease", "depin-operator", "-n", NAMESPACE, "--ignore-not-found", holder];
        self.cluster.kubectl(&lease).unwrap()
    }

    fn until_led_by(&self, name: &str) {
        eventually(&format!("the lead of {name}"), LIMIT, || self.holder() == name);
    }

    /// Each epoch is there once, and goes on where the one before ended.
    fn check(&self, leaders: usize) {
        let _entered = self.runtime.enter();
        let mut observer = Observer::of(&self.stack).unwrap();
        let closes = self.runtime.block_on(observer.closes(PROGRAM)).unwrap();
        let numbers: Vec<u64> = closes.iter().map(|close| close.window.unwrap().number).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        let tokens: Vec<u64> = closes.iter().map(|close| close.writer_token).collect();
        assert!(tokens.is_sorted(), "who was followed closed nothing more: {tokens:?}");
        assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), leaders, "{tokens:?}");

        let epochs = self.epochs();
        for pair in epochs.windows(2) {
            assert_eq!(pair[0]["number"].as_u64().unwrap() + 1, pair[1]["number"].as_u64().unwrap());
            assert_eq!((&pair[0]["carriedOut"], &pair[0]["end"]), (&pair[1]["carriedIn"], &pair[1]["start"]));
        }
        let mut cumulative: BTreeMap<String, u128> = BTreeMap::new();
        let amount = |value: &Value| value.as_str().unwrap().parse::<u128>().unwrap();
        for epoch in &epochs {
            money::check(epoch);
            for payout in epoch["payouts"].as_array().unwrap() {
                let total = cumulative.entry(payout["account"].as_str().unwrap().to_owned()).or_default();
                *total += amount(&payout["amount"]);
                assert_eq!(amount(&payout["cumulative"]), *total, "{epoch}");
            }
        }
        assert!(cumulative.values().any(|total| *total > 0), "nothing was paid: {epochs:?}");
    }
}

#[test]
fn a_leader_that_is_paused_or_killed_around_a_close_is_followed_without_an_epoch_lost_or_doubled() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::start(dir.path());
    site.until_further_epochs(1);

    // It holds no Lease, so when it wakes nothing but the ledger's writer token tells it that it leads no more.
    let mut sleeper = site.stack.operator.take().unwrap();
    site.until_a_close_is_due();
    sleeper.pause().unwrap();
    let first = site.start_operator("first");
    site.until_led_by("first");
    site.until_further_epochs(2);
    sleeper.resume().unwrap();
    let mut ended = None;
    eventually("the end of the one that woke", LIMIT, || {
        ended = sleeper.exited().unwrap();
        ended.is_some()
    });
    assert!(!ended.unwrap().success());
    let said = fs::read_to_string(sleeper.log()).unwrap();
    assert!(said.contains("another operator took the writer token"), "{said}");

    let mut second = site.start_operator("second");
    site.until_further_epochs(1);
    assert_eq!(site.holder(), "first", "who waits takes nothing");
    site.until_a_close_is_due();
    first.kill();
    site.until_led_by("second");
    site.until_further_epochs(2);
    assert_eq!(second.exited().unwrap(), None);
    site.check(3);
    second.stop(Duration::from_secs(20)).unwrap();
    site.stack.stop().unwrap();
}

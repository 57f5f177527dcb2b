//! kill -9 of agents, gateway, operator and API server at random moments under load, round after round on one stack. Every
//! reading that hardware saw acknowledged is in the ledger exactly once with the value that was sent; at the end the sums agree,
//! what the ledger counted and froze is what a scan of its log gives, and the epochs' money adds up.
//!
//! The broker is never killed: what it would lose, hardware was promised by the broker and not by an agent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod account;

use std::{collections::BTreeMap, path::Path, process::Command, thread, time::Duration};

use account::Account;
use depin_tests::{Cluster, Observer, Stack, eventually, money, now_ms, start_networks, tools::Tools};
use depin_trials::{Rng, below};
use serde_json::Value;
use tokio::runtime::Runtime;
use xtask::{admin::is_ready, demo::networks};

const PROGRAMS: [&str; 2] = ["energy/kilowatts", "weather/observations"];
/// For whatever must come; a machine that also compiles takes long.
const LIMIT: Duration = Duration::from_secs(180);
/// However short a slice of time is.
const LEAST_ROUNDS: u64 = 8;
/// Rounds between two looks at what was promised.
const CHECK_EVERY: u64 = 10;
/// Virtual hardware by name: its network, how many devices, and which agent hears it.
const HARDWARE: [(&str, &str, usize); 3] = [("meters", "6", 0), ("pv", "3", 0), ("weather", "6", 1)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// The agent with a listener of its own.
    Home,
    /// The agent behind the broker.
    Field,
    Gateway,
    Operator,
    ApiServer,
}

const VICTIMS: [Victim; 5] = [Victim::Home, Victim::Field, Victim::Gateway, Victim::Operator, Victim::ApiServer];

/// Everything that runs, and what was promised.
struct Site {
    cluster: Cluster,
    stack: Stack,
    runtime: Runtime,
    account: Account,
    rounds: u64,
    kills: BTreeMap<Victim, u64>,
}

fn device(namespace: &str, fleet: &str, agent: &str, serial: &str) -> String {
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeDevice\nmetadata: {{name: {serial}, namespace: {namespace}}}\n\
         spec: {{fleet: {fleet}, agent: {agent}, serial: {serial}}}\n---\n"
    )
}

fn devices() -> String {
    let serials = |prefix: &'static str, count: usize| (1..=count).map(move |number| format!("{prefix}-{number:04}"));
    let meters = serials("meter", 6).map(|serial| device("energy", "meters", "home", &serial));
    let plants = serials("pv", 3).map(|serial| device("energy", "inverters", "home", &serial));
    let stations = serials("ws", 6).map(|serial| device("weather", "stations", "field", &serial));
    meters.chain(plants).chain(stations).collect()
}

impl Site {
    fn start(dir: &Path) -> Self {
        let (cluster, mut stack) = start_networks(dir).unwrap();
        cluster.apply(&devices()).unwrap();
        networks::apply_programs(&cluster, u64::try_from(now_ms()).unwrap()).unwrap();
        for (network, count, agent) in HARDWARE {
            let mqtt = stack.agents[agent].mqtt.clone();
            let journal = dir.join(format!("acknowledged-{network}.jsonl"));
            let arguments = ["--network", network, "--devices", count, "--cadence", "100", "--world-hour", "14"];
            let arguments = [&arguments[..], &["--acknowledged", journal.to_str().unwrap()]].concat();
            stack.start_simulator(network, &mqtt, &arguments).unwrap();
        }
        let account = Account::new(HARDWARE.map(|(network, ..)| dir.join(format!("acknowledged-{network}.jsonl"))));
        Self { cluster, stack, runtime: Runtime::new().unwrap(), account, rounds: 0, kills: BTreeMap::new() }
    }

    fn observe(&self) -> Observer {
        let _entered = self.runtime.enter();
        Observer::of(&self.stack).unwrap()
    }

    fn accepted(&self) -> Option<u64> {
        let mut observer = self.observe();
        let readings = self.runtime.block_on(observer.readings()).ok()?;
        readings["accepted"].as_u64()
    }

    /// Kills one part at a random moment, starts it again, and waits until readings flow.
    fn round(&mut self, rng: &mut Rng) {
        let victim = VICTIMS[usize::try_from(below(rng, VICTIMS.len() as u64)).unwrap()];
        // The moment is chance; nothing is awaited here.
        thread::sleep(Duration::from_millis(below(rng, 500)));
        let down = Duration::from_millis(below(rng, 300));
        self.kill(victim, down);
        let before = self.accepted().expect("the gateway answers");
        eventually(&format!("a reading after the kill of {victim:?}"), LIMIT, || {
            self.stack.check_alive().unwrap();
            self.accepted() > Some(before)
        });
        self.rounds += 1;
        *self.kills.entry(victim).or_default() += 1;
        if self.rounds.is_multiple_of(CHECK_EVERY) {
            self.check();
        }
    }

    fn kill(&mut self, victim: Victim, down: Duration) {
        match victim {
            Victim::Home | Victim::Field => {
                let index = usize::from(matches!(victim, Victim::Field));
                self.stack.agents[index].process.crash();
                thread::sleep(down);
                self.stack.restart_agent(index).unwrap();
            }
            Victim::Gateway => {
                self.stack.gateway.take().unwrap().kill();
                thread::sleep(down);
                self.stack.start_gateway().unwrap();
            }
            Victim::Operator => {
                self.stack.operator.take().unwrap().kill();
                thread::sleep(down);
                self.stack.start_operator(&self.cluster).unwrap();
                let admin = self.stack.operator_admin();
                eventually("the operator's readiness", LIMIT, || {
                    self.stack.check_alive().unwrap();
                    is_ready(&admin)
                });
            }
            Victim::ApiServer => {
                let plane = self.cluster.own().unwrap();
                plane.stop_api_server();
                thread::sleep(down);
                plane.restart_api_server().unwrap();
            }
        }
    }

    /// Whatever was acknowledged up to now gets into the ledger, once and unchanged.
    fn check(&mut self) {
        self.account.read_promises();
        let mut observer = self.observe();
        eventually("everything that was acknowledged", LIMIT, || {
            self.stack.check_alive().unwrap();
            match self.runtime.block_on(observer.accepted_after(self.account.position())) {
                Ok((position, accepted)) => self.account.enter(position, &accepted),
                // The gateway may just be coming back.
                Err(error) => println!("the ledger is asked again: {error:#}"),
            }
            self.account.is_settled()
        });
    }

    /// Hardware falls silent; then the ledger holds what was acknowledged and nothing else, and the epochs follow each other up to one that
    /// begins after it.
    fn finish(mut self) {
        let reports = self.stack.stop_simulators().unwrap();
        let silent = now_ms();
        self.check();
        self.account.compare(&reports);
        println!("note kill -9 under load: {} kills: {:?}; {}", self.rounds, self.kills, self.account.told());
        let mut observer = self.observe();
        for program in PROGRAMS {
            let mut epochs = Vec::new();
            eventually("the epoch after the hardware's end", LIMIT, || {
                self.stack.check_alive().unwrap();
                epochs = self.runtime.block_on(observer.epochs(program)).unwrap();
                epochs.iter().any(|epoch| epoch["start"].as_i64().unwrap() > silent)
            });
            check_epochs(&epochs);
            // Who was heard for a part of an epoch only need not be paid, but was heard.
            let heard = |epoch: &Value| epoch["devices"]["zero"]["NoData"] != epoch["devices"]["total"];
            assert!(epochs.iter().any(heard), "{program}: {epochs:?}");
        }
        self.stack.stop().unwrap();
        self.scan();
    }

    /// Statistics in memory and frozen ones, verdicts, marks and heads follow from the log alone.
    fn scan(&self) {
        let mut command = Command::new(self.stack.programs().join("depin-gateway"));
        command.args(["ledger", "verify", "--data-dir"]).arg(self.stack.dir.join("ledger"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["accepted"].as_u64(), Some(self.account.held()), "{found}");
        assert!(found["epochs"].as_u64() > Some(2) && found["equivocations"] == 0, "{found}");
    }
}

fn check_epochs(epochs: &[Value]) {
    for epoch in epochs {
        money::check(epoch);
    }
    for pair in epochs.windows(2) {
        assert_eq!(pair[0]["number"].as_u64().unwrap() + 1, pair[1]["number"].as_u64().unwrap());
        assert_eq!(pair[0]["carriedOut"], pair[1]["carriedIn"]);
        assert_eq!(pair[0]["end"], pair[1]["start"]);
    }
}

#[test]
fn kills_lose_nothing_and_count_nothing_twice() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::start(dir.path());
    eventually("the first reading", LIMIT, || site.accepted() > Some(0));
    depin_trials::run_at_least("kill -9 under load", LEAST_ROUNDS, |rng| site.round(rng));
    site.finish();
}

//! End to end: load → broker or own listener → agent → gateway and ledger → receipts, all real programs, no Kubernetes.
//!
//! A run ends when the agent holds a receipt for every reading; then as many readings as messages must have been accepted.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::{
    Bench,
    figures::Runs,
    machine::{cpu_seconds, peak_megabytes},
};
use crate::{
    admin::{http_get, is_ready, metric},
    free_port, packages,
    process::Process,
};

/// Devices of the one agent.
pub const DEVICES: u64 = 1_000;
const START_LIMIT: Duration = Duration::from_secs(60);
/// Each look costs the agent some CPU, so they are few.
const POLL: Duration = Duration::from_millis(50);
/// Nothing new for so long: something is lost or broken.
const STALLED: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);

/// Where the readings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// mosquitto, QoS 1.
    Broker,
    /// The agent's own listener.
    Listener,
}

/// When the agent gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// As they are published.
    Live,
    /// All at once: they waited in the broker while the agent was away.
    BrokerBacklog,
    /// All at once: they waited in the agent's spool while the gateway was away.
    SpoolBacklog,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    way: Way,
    when: When,
    messages: u64,
    rate: u64,
    connections: u64,
}

const CASES: [Case; 6] = [
    Case {
        name: "agent/broker-20k",
        way: Way::Broker,
        when: When::Live,
        messages: 200_000,
        rate: 20_000,
        connections: 4,
    },
    Case { name: "agent/broker-full", way: Way::Broker, when: When::Live, messages: 500_000, rate: 0, connections: 4 },
    Case {
        name: "agent/drain-broker",
        way: Way::Broker,
        when: When::BrokerBacklog,
        messages: 500_000,
        rate: 0,
        connections: 4,
    },
    Case {
        name: "agent/drain-spool",
        way: Way::Broker,
        when: When::SpoolBacklog,
        messages: 500_000,
        rate: 0,
        connections: 4,
    },
    Case {
        name: "agent/listener-20k",
        way: Way::Listener,
        when: When::Live,
        messages: 200_000,
        rate: 20_000,
        connections: DEVICES,
    },
    Case {
        name: "agent/listener-full",
        way: Way::Listener,
        when: When::Live,
        messages: 500_000,
        rate: 0,
        connections: 4,
    },
];

/// Runs every wanted case; the cases take turns, so that a disturbance does not hit one alone.
///
/// # Errors
/// When a part does not work or a reading is lost.
pub fn measure(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    let wanted: Vec<&Case> = CASES.iter().filter(|case| bench.options.wants(case.name)).collect();
    for case in &wanted {
        runs.begin(case.name);
    }
    for number in 0..bench.options.runs {
        for case in &wanted {
            bench.go_on()?;
            if case.way == Way::Broker && packages::MOSQUITTO.find().is_none() {
                println!("skipped: {}: mosquitto is missing (apt-get install mosquitto)", case.name);
                continue;
            }
            let figures = run(bench, case).with_context(|| case.name.to_owned())?;
            println!("{} #{number}: {}", case.name, Value::Object(figures.clone()));
            runs.add(case.name, figures);
        }
    }
    Ok(())
}

/// The programs of one run.
struct Parts {
    dir: PathBuf,
    programs: PathBuf,
    gateway: Option<Process>,
    agent: Option<Process>,
    broker: Option<Process>,
    ports: Ports,
}

struct Ports {
    gateway: u16,
    ledger: u16,
    gateway_admin: u16,
    agent_admin: u16,
    mqtt: u16,
}

fn run(bench: &Bench<'_>, case: &Case) -> Result<Map<String, Value>> {
    let mut parts = Parts::start(bench, case)?;
    let messages = bench.options.amount(case.messages);
    match case.when {
        When::Live => {}
        When::BrokerBacklog => {
            parts.stop_agent()?;
            parts.publish(case, messages)?;
        }
        When::SpoolBacklog => {
            parts.stop_gateway()?;
            parts.publish(case, messages)?;
        }
    }
    let before = parts.cpu()?;
    let begun = Instant::now();
    let mut load = None;
    match case.when {
        When::Live => load = Some(parts.publish(case, messages)?),
        When::BrokerBacklog => parts.start_agent(case, false)?,
        When::SpoolBacklog => parts.start_gateway()?,
    }
    parts.wait_for(messages)?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = parts.cpu()?;
    let million = messages as f64 / 1e6;
    let per_million = |name: &str| {
        let (before, after) = (before.get(name).and_then(Value::as_f64), after.get(name).and_then(Value::as_f64));
        // A program that began within the measured time began at nothing.
        after.map(|after| (after - before.unwrap_or_default()) / million)
    };
    let mut figures = json!({
        "messages": messages, "rateAsked": case.rate, "connections": case.connections, "seconds": seconds,
        "readingsPerSecond": messages as f64 / seconds,
        "agentCpuPerMillion": per_million("agent"), "gatewayCpuPerMillion": per_million("gateway"),
        "brokerCpuPerMillion": per_million("broker"),
        "agentPeakMb": parts.peak(&parts.agent)?, "gatewayPeakMb": parts.peak(&parts.gateway)?,
        "commits": parts.agent_metric("depin_agent_commits_total")?, "receipts": parts.agent_metric("depin_agent_receipts_total")?,
    });
    if let Some(figures) = figures.as_object_mut()
        && let Some(load) = load
    {
        figures.insert("publishedPerSecond".into(), load["perSecond"].clone());
        figures.insert("loadCpuPerMillion".into(), json!(load["cpuSeconds"].as_f64().map(|cpu| cpu / million)));
    }
    parts.stop()?;
    parts.check_ledger(messages)?;
    Ok(figures.as_object().cloned().unwrap_or_default())
}

impl Parts {
    fn start(bench: &Bench<'_>, case: &Case) -> Result<Self> {
        let ports = Ports {
            gateway: free_port()?,
            ledger: free_port()?,
            gateway_admin: free_port()?,
            agent_admin: free_port()?,
            mqtt: free_port()?,
        };
        let dir = bench.folder("pipeline")?;
        let programs = bench.programs.clone();
        let mut parts = Self { dir, programs, gateway: None, agent: None, broker: None, ports };
        parts.tool(&["prepare"])?;
        parts.start_gateway()?;
        let (ledger, devices) = (format!("https://127.0.0.1:{}", parts.ports.ledger), DEVICES.to_string());
        parts.tool(&["register", "--ledger", &ledger, "--devices", &devices, "--checks", "1"])?;
        if case.way == Way::Broker {
            parts.start_broker()?;
        }
        parts.start_agent(case, true)?;
        Ok(parts)
    }

    /// Runs `depin-bench` in the prepared folder.
    fn tool(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.programs.join("depin-bench"));
        command.args(arguments).arg("--dir").arg(&self.dir);
        output(&mut command)
    }

    fn publish(&self, case: &Case, messages: u64) -> Result<Value> {
        // Nobody may have more under way than the peers' harness allows: 4,000 in all.
        let window = (4_000 / case.connections).max(4);
        let mut command = Command::new(self.programs.join("depin-bench"));
        command.args(["publish", "--mqtt", &format!("127.0.0.1:{}", self.ports.mqtt)]);
        for (flag, value) in [
            ("--messages", messages),
            ("--rate", case.rate),
            ("--devices", DEVICES),
            ("--connections", case.connections),
            ("--window", window),
        ] {
            command.args([flag, &value.to_string()]);
        }
        output(&mut command)
    }

    fn start_gateway(&mut self) -> Result<()> {
        let mut command = Command::new(self.programs.join("depin-gateway"));
        command
            .args(["--listen", &format!("127.0.0.1:{}", self.ports.gateway)])
            .args(["--ledger-listen", &format!("127.0.0.1:{}", self.ports.ledger)])
            .args(["--admin-listen", &format!("127.0.0.1:{}", self.ports.gateway_admin)])
            .arg("--tls-dir")
            .arg(self.dir.join("gateway-tls"))
            .arg("--data-dir")
            .arg(self.dir.join("ledger"));
        let mut gateway = Process::start("depin-gateway", &mut command, &self.dir.join("gateway.log"))?;
        let admin = format!("127.0.0.1:{}", self.ports.gateway_admin);
        gateway.wait_until("readiness", START_LIMIT, || is_ready(&admin))?;
        self.gateway = Some(gateway);
        Ok(())
    }

    /// As the peers' harness sets it: a wide window and an unlimited queue, in memory.
    fn start_broker(&mut self) -> Result<()> {
        let port = self.ports.mqtt;
        let config = self.dir.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\nmax_queued_messages 0\n\
             persistence false\nlog_type error\n"
        );
        fs::write(&config, text)?;
        let mut command = Command::new(packages::MOSQUITTO.find().context("mosquitto is missing")?);
        let log = self.dir.join("mosquitto.log");
        let mut broker = Process::start("mosquitto", command.arg("-c").arg(config), &log)?;
        broker.wait_until("readiness", START_LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        self.broker = Some(broker);
        Ok(())
    }

    fn start_agent(&mut self, case: &Case, wait: bool) -> Result<()> {
        let mqtt = format!("127.0.0.1:{}", self.ports.mqtt);
        let admin = format!("127.0.0.1:{}", self.ports.agent_admin);
        let mut command = Command::new(self.programs.join("depin-agent"));
        command
            .args(["--gateway", &format!("https://127.0.0.1:{}", self.ports.gateway), "--name", "edge"])
            .args(["--admin-listen", &admin])
            .arg("--state-dir")
            .arg(self.dir.join("agent"));
        match case.way {
            Way::Broker => command.args(["--mqtt-broker", &format!("mqtt://{mqtt}")]),
            Way::Listener => command.args(["--mqtt-listen", &mqtt]),
        };
        let mut agent = Process::start("depin-agent", &mut command, &self.dir.join("agent.log"))?;
        if wait {
            agent.wait_until("readiness", START_LIMIT, || is_ready(&admin))?;
            // Subscribed and connected: the first look at the gateway's stream.
            agent.wait_until("connection to the gateway", START_LIMIT, || {
                http_get(&admin, "/metrics").is_ok_and(|text| metric(&text, "depin_agent_gateway_connected") > 0.0)
            })?;
        }
        self.agent = Some(agent);
        Ok(())
    }

    fn stop_agent(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), |agent| agent.stop(GRACE).map(drop))
    }

    fn stop_gateway(&mut self) -> Result<()> {
        self.gateway.take().map_or(Ok(()), |gateway| gateway.stop(GRACE).map(drop))
    }

    /// When all has ended: whether the ledger holds each reading once, by its own check of everything in it.
    fn check_ledger(&self, readings: u64) -> Result<()> {
        let mut command = Command::new(self.programs.join("depin-gateway"));
        let found = output(command.args(["ledger", "verify", "--data-dir"]).arg(self.dir.join("ledger")))?;
        let count = |name: &str| found.get(name).and_then(Value::as_u64);
        ensure!(
            count("accepted") == Some(readings) && count("rejected") == Some(0),
            "the ledger does not hold {readings} readings once each: {found}"
        );
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.stop_agent()?;
        self.stop_gateway()?;
        self.broker.take().map_or(Ok(()), |broker| broker.stop(GRACE).map(drop))
    }

    /// CPU seconds so far of the programs that run.
    fn cpu(&self) -> Result<Map<String, Value>> {
        let mut seconds = Map::new();
        for (name, part) in [("agent", &self.agent), ("gateway", &self.gateway), ("broker", &self.broker)] {
            if let Some(part) = part {
                seconds.insert(name.to_owned(), json!(cpu_seconds(part.id())?));
            }
        }
        Ok(seconds)
    }

    fn peak(&self, part: &Option<Process>) -> Result<Option<f64>> {
        part.as_ref().map(|part| peak_megabytes(part.id())).transpose()
    }

    fn agent_metric(&self, series: &str) -> Result<f64> {
        Ok(metric(&http_get(&format!("127.0.0.1:{}", self.ports.agent_admin), "/metrics")?, series))
    }

    /// Until the agent has receipts for all readings.
    fn wait_for(&mut self, readings: u64) -> Result<()> {
        let (mut seen, mut since) = (0.0, Instant::now());
        loop {
            // While it starts it does not answer yet.
            let accepted = self.agent_metric("depin_agent_accepted_readings_total").unwrap_or(seen);
            if accepted >= readings as f64 {
                let rejected = self.agent_metric("depin_agent_judged_rejections")?;
                ensure!(accepted == readings as f64 && rejected == 0.0, "{accepted} accepted, {rejected} rejected");
                return Ok(());
            }
            if accepted > seen {
                (seen, since) = (accepted, Instant::now());
            }
            if since.elapsed() > STALLED {
                let end = self.agent.as_ref().map(Process::log_end).unwrap_or_default();
                bail!("only {accepted} of {readings} readings have receipts:\n{end}");
            }
            thread::sleep(POLL);
        }
    }
}

/// The last line of what a program prints, as JSON.
///
/// # Errors
/// When it fails or prints something else.
pub fn output(command: &mut Command) -> Result<Value> {
    lines(command)?.pop().context("nothing was printed")
}

/// Every line of what a program prints, as JSON.
///
/// # Errors
/// When it fails or prints something else.
pub fn lines(command: &mut Command) -> Result<Vec<Value>> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{name} printed {line:?}"))).collect()
}

//! Parts alone: signatures, ledger, epoch close, Merkle tree, and the gateway under proofs that were sealed beforehand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    Bench,
    figures::Runs,
    pipeline::{lines, output},
};
use crate::{admin::is_ready, free_port, packages, process::Process};

const START_LIMIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);
/// Runs of what takes a minute each.
const LONG_RUNS: usize = 3;

/// Runs every wanted measurement.
///
/// # Errors
/// When one does not work.
pub fn measure(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    let options = bench.options;
    let amount = |full| options.amount(full).to_string();
    if options.wants("signatures") {
        let signatures = amount(32_768);
        let arguments = ["signatures", "--signatures", &signatures];
        repeated(bench, runs, "signatures", &[1], &arguments, |line| {
            format!("signatures/{}-{}-keys-{}", text(line, "how"), text(line, "batch"), text(line, "keys"))
        })?;
    }
    if options.wants("rewards") {
        let devices = amount(1_000_000);
        repeated(bench, runs, "rewards", &[], &["rewards", "--devices", &devices], |line| {
            format!("rewards/{}", text(line, "case"))
        })?;
    }
    if options.wants("ledger") {
        let agents = amount(100);
        let arguments = ["record", "--agents", &agents];
        record(bench, runs, "ledger", options.runs, &arguments)?;
    }
    if options.wants("epoch") {
        let agents = amount(1_000);
        let arguments =
            ["record", "--close", "--agents", &agents, "--devices", "1000", "--proofs", "2", "--readings", "2"];
        record(bench, runs, "epoch", options.runs.min(LONG_RUNS), &arguments)?;
    }
    if options.wants("postgresql") {
        let agents = amount(100);
        if packages::POSTGRESQL.find().is_some() {
            record(bench, runs, "postgresql", options.runs.min(LONG_RUNS), &["postgresql", "--agents", &agents])?;
        } else {
            println!("skipped: postgresql: {}", packages::POSTGRESQL.remedy());
        }
    }
    if options.wants("gateway/readings") || options.wants("gateway/proofs") {
        gateway(bench, runs)?;
    }
    if options.wants("gateway/reconnect") {
        reconnect(bench, runs)?;
    }
    Ok(())
}

/// Runs a subcommand several times on these cores (none named: on all); each line that it prints is a run of the measurement that `name`
/// gives it.
fn repeated(
    bench: &Bench<'_>,
    runs: &mut Runs,
    prefix: &str,
    cores: &[usize],
    arguments: &[&str],
    name: impl Fn(&Value) -> String,
) -> Result<()> {
    forget(runs, prefix);
    for number in 0..bench.options.runs {
        bench.go_on()?;
        let printed = lines(pinned(bench, cores).args(arguments)).with_context(|| prefix.to_owned())?;
        for line in printed {
            add(runs, &name(&line), number, &line);
        }
    }
    Ok(())
}

/// The ledger's measurements, each on an empty folder.
fn record(bench: &Bench<'_>, runs: &mut Runs, prefix: &str, times: usize, arguments: &[&str]) -> Result<()> {
    forget(runs, prefix);
    for number in 0..times {
        bench.go_on()?;
        let dir = bench.folder(prefix)?;
        let printed = lines(pinned(bench, &[]).args(arguments).arg("--dir").arg(&dir))?;
        for line in &printed {
            add(runs, &format!("{prefix}/{}", text(line, "case")), number, line);
        }
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// One load of the gateway.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    agents: u64,
    devices: u64,
    readings: u64,
    proofs: u64,
    batch: u64,
    /// Part of the first load's rate; 0: as fast as outcomes come.
    part: f64,
    /// While callers who mean no good come in numbers.
    flooded: bool,
}

const HALF_LOAD: Load = Load {
    name: "gateway/half-load",
    agents: 8,
    devices: 100,
    readings: 10,
    proofs: 750,
    batch: 1,
    part: 0.5,
    flooded: false,
};

const LOADS: [Load; 4] = [
    // 1,000 readings a proof, as a busy agent seals them.
    Load {
        name: "gateway/readings",
        agents: 8,
        devices: 100,
        readings: 10,
        proofs: 1_500,
        batch: 1,
        part: 0.0,
        flooded: false,
    },
    HALF_LOAD,
    Load { name: "gateway/half-load-flooded", flooded: true, ..HALF_LOAD },
    // One reading a proof: what verification and bookkeeping of a proof cost.
    Load {
        name: "gateway/proofs",
        agents: 32,
        devices: 1,
        readings: 1,
        proofs: 4_000,
        batch: 50,
        part: 0.0,
        flooded: false,
    },
];

/// A gateway with its ledger on one core.
struct Served {
    process: Process,
    dir: PathBuf,
    listen: u16,
    ledger: u16,
}

impl Served {
    fn start(bench: &Bench<'_>) -> Result<Self> {
        let dir = bench.folder("gateway")?;
        output(pinned(bench, &[]).arg("prepare").arg("--dir").arg(&dir))?;
        let (listen, ledger, admin) = (free_port()?, free_port()?, free_port()?);
        let mut process = start(bench, &dir, [listen, ledger, admin])?;
        let admin = format!("127.0.0.1:{admin}");
        process.wait_until("readiness", START_LIMIT, || is_ready(&admin))?;
        Ok(Self { process, dir, listen, ledger })
    }

    /// A load of it on the other core.
    fn load(&self, bench: &Bench<'_>, subcommand: &str) -> Command {
        let mut command = pinned(bench, &[1]);
        command.args([subcommand, "--gateway", &format!("https://127.0.0.1:{}", self.listen)]);
        command.args(["--ledger", &format!("https://127.0.0.1:{}", self.ledger)]).arg("--dir").arg(&self.dir);
        command.args(["--process", &self.process.id().to_string()]);
        command
    }

    /// Callers who mean no good, for a while.
    fn flood(&self, bench: &Bench<'_>) -> Result<Process> {
        let mut command = pinned(bench, &[1]);
        command.args(["flood", "--gateway", &format!("https://127.0.0.1:{}", self.listen)]).arg("--dir").arg(&self.dir);
        Process::start("flood", &mut command, &self.dir.join("flood.log"))
    }

    fn stop(self) -> Result<()> {
        self.process.stop(GRACE)?;
        Ok(fs::remove_dir_all(&self.dir)?)
    }
}

/// Waits for the end of a flood; fails where anybody of it was served.
fn ended(mut flood: Process) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = flood.exited()? {
            ensure!(status.success(), "the flood ended with {status}: {}", flood.log_end());
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the flood does not end");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Ten thousand agents at once.
const RUSH: u64 = 10_000;

/// All agents of a network come at once.
fn reconnect(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    let name = "gateway/reconnect";
    forget(runs, name);
    for number in 0..bench.options.runs.min(LONG_RUNS) {
        bench.go_on()?;
        let served = Served::start(bench)?;
        let mut command = served.load(bench, "reconnect");
        let line = output(command.args(["--agents", &bench.options.amount(RUSH).to_string()])).context(name)?;
        add(runs, name, number, &line);
        served.stop()?;
    }
    Ok(())
}

/// Gateway and ledger in one process on one core, the load on the other.
fn gateway(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    LOADS.iter().for_each(|load| forget(runs, load.name));
    for number in 0..bench.options.runs {
        let served = Served::start(bench)?;
        let mut full = 0.0;
        for load in LOADS {
            bench.go_on()?;
            let mut command = served.load(bench, "proofs");
            command.args(["--name", &load.name.replace('/', "-")]);
            for (flag, value) in [
                ("--agents", load.agents),
                ("--devices", load.devices),
                ("--readings", load.readings),
                ("--proofs", bench.options.amount(load.proofs)),
                ("--batch", load.batch),
            ] {
                command.args([flag, &value.to_string()]);
            }
            command.args(["--rate", &(full * load.part).to_string()]);
            let flood = load.flooded.then(|| served.flood(bench)).transpose()?;
            let line = output(&mut command).with_context(|| load.name)?;
            flood.map_or(Ok(()), ended)?;
            if load.name == "gateway/readings" {
                full = line["readingsPerSecond"].as_f64().unwrap_or_default();
            }
            add(runs, load.name, number, &line);
        }
        served.stop()?;
    }
    Ok(())
}

fn start(bench: &Bench<'_>, dir: &Path, [listen, ledger, admin]: [u16; 3]) -> Result<Process> {
    let mut command = on_cores(&bench.programs.join("depin-gateway"), &[0]);
    command
        .args(["--listen", &format!("127.0.0.1:{listen}"), "--ledger-listen", &format!("127.0.0.1:{ledger}")])
        .args(["--admin-listen", &format!("127.0.0.1:{admin}")])
        // The load comes from few agents, each for many.
        .args(["--agent-proofs-per-second", "1000000"])
        .arg("--tls-dir")
        .arg(dir.join("gateway-tls"))
        .arg("--data-dir")
        .arg(dir.join("ledger"));
    Process::start("depin-gateway", &mut command, &dir.join("gateway.log"))
}

/// `depin-bench` on these cores.
fn pinned(bench: &Bench<'_>, cores: &[usize]) -> Command {
    on_cores(&bench.programs.join("depin-bench"), cores)
}

/// A program on these cores only, where the machine has more than one and `taskset`.
fn on_cores(program: &Path, cores: &[usize]) -> Command {
    let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let known = Command::new("taskset").arg("-V").output().is_ok_and(|output| output.status.success());
    if cores.is_empty() || !several || !known {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    let list = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    command.args(["--cpu-list", &list]).arg(program);
    command
}

fn forget(runs: &mut Runs, prefix: &str) {
    let names: Vec<String> = runs.names(prefix).map(str::to_owned).collect();
    names.iter().for_each(|name| runs.begin(name));
}

fn add(runs: &mut Runs, name: &str, number: usize, line: &Value) {
    println!("{name} #{number}: {line}");
    runs.add(name, line.as_object().cloned().unwrap_or_default());
}

fn text(line: &Value, field: &str) -> String {
    let value = line.get(field).cloned().unwrap_or(json!("?"));
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

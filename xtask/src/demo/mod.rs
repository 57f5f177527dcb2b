//! `cargo xtask demo`: the whole product on one machine, from virtual hardware to reward amounts and a Merkle root.
//!
//! Everything listens on loopback and lives in one temporary directory; Ctrl-C or the end removes both.

pub mod networks;
pub mod recordings;
pub mod rehearsal;
pub mod report;
pub mod showcase;
pub mod view;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{cargo::Cargo, cluster::Cluster, stack::Stack, tools};
use networks::{Manifests, NETWORKS, Networks, PROGRAMS};
use recordings::Recordings;
use view::View;

/// Epochs of each program that the showcase waits for.
const EPOCHS: usize = 3;
/// Three epochs of 20 s, and patience for a machine that also compiles.
const EPOCHS_LIMIT: Duration = Duration::from_secs(600);
/// How long acknowledged readings may take to the ledger once hardware is silent.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// Each network's namespace, agent and fleets, in the order of [`NETWORKS`].
const AGENTS: [(&str, &str, &[&str]); 2] =
    [("energy", "home", &["meters", "inverters"]), ("weather", "field", &["stations"])];
const TICK: Duration = Duration::from_millis(500);
/// What building the programs takes without anything built before, in minutes of one core.
const BUILD_CORE_MINUTES: u64 = 24;

/// What to show.
#[derive(Args, Debug)]
pub struct Options {
    /// End after the showcase instead of staying until Ctrl-C
    #[arg(long)]
    pub exit: bool,
    /// Write what happened as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Feed recordings (CSV files and mapping.yaml) instead of the models
    #[arg(long, value_name = "DIR")]
    pub replay: Option<PathBuf>,
    /// How much faster recordings run than they were recorded
    #[arg(long, default_value_t = 3600.0, requires = "replay")]
    pub replay_speed: f64,
    /// Use the cluster that KUBECONFIG names instead of a control plane of its own
    #[arg(long)]
    pub use_cluster: bool,
    /// Keep all files (logs, ledger, spools) and say where they are
    #[arg(long)]
    pub keep: bool,
}

/// Whether somebody asked for the end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to listen for SIGINT and SIGTERM.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // A second signal ends the process at once; the guards then end what it started.
            signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())?;
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(Self(flag))
    }

    /// True once SIGINT or SIGTERM came.
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs the demo.
///
/// # Errors
/// When a part does not come up, ends by itself, or no epoch is computed.
pub fn run(options: &Options) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    tools::prepare()?;
    let cargo = Cargo::find()?;
    if !cargo.program("depin-operator").is_file() {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let minutes = BUILD_CORE_MINUTES.div_ceil(cores);
        eprintln!("Building the programs, once: about {minutes} min on this machine's {cores} cores …");
    }
    cargo.build_programs()?;
    let dir = tempfile::Builder::new().prefix("depin-demo-").tempdir()?;
    let programs = cargo.program("");
    // Before anything starts: a mapping that does not fit is told at once.
    let recordings = options.replay.as_deref().map(|folder| Recordings::read(folder, &programs)).transpose()?;
    let stack = Stack::new(dir.path(), &programs)?;
    let mut demo = Demo { options, interrupt, recordings, networks: None, stack, cluster: None };
    let outcome = demo.show();
    let cleaned = demo.clean();
    drop(demo);
    let interrupted = matches!(&outcome, Ok(Ended::Interrupted));
    if options.keep || outcome.is_err() {
        eprintln!("all files are kept in {}", dir.keep().display());
    }
    // Errors that an interrupt causes in whatever it met are not worth telling.
    outcome.and(cleaned)?;
    if interrupted {
        eprintln!("stopped; nothing is left behind");
    }
    Ok(ExitCode::SUCCESS)
}

enum Ended {
    Shown,
    Interrupted,
}

struct Demo<'a> {
    options: &'a Options,
    interrupt: Interrupt,
    recordings: Option<Recordings>,
    networks: Option<Networks>,
    stack: Stack,
    cluster: Option<Cluster>,
}

impl Demo<'_> {
    fn show(&mut self) -> Result<Ended> {
        match self.steps() {
            Err(_) if self.interrupt.came() => Ok(Ended::Interrupted),
            other => other,
        }
    }

    fn steps(&mut self) -> Result<Ended> {
        let started = Instant::now();
        let cluster = if self.options.use_cluster {
            Cluster::existing()?
        } else {
            step("etcd and kube-apiserver");
            let dir = self.stack.dir.join("control-plane");
            std::fs::create_dir_all(&dir)?;
            Cluster::start(&dir)?
        };
        self.networks = Some(Networks::before(&cluster)?);
        let interrupt = self.interrupt.clone();
        let go_on = || if interrupt.came() { bail!("interrupted") } else { Ok(()) };
        let cluster = &*self.cluster.insert(cluster);
        step("CRDs, operator, gateway (its Secret's files are copied, as a kubelet would mount them)");
        self.stack.start_center(cluster)?;
        go_on()?;
        step("networks energy and weather");
        let manifests = Manifests::with(self.options.replay.as_deref());
        manifests.apply_fleets(cluster)?;
        step("agents, each with a join token");
        let broker = self.stack.start_broker()?;
        if !broker {
            eprintln!("mosquitto is not there: the second agent gets a listener of its own too");
        }
        for ((namespace, agent, fleets), behind_broker) in AGENTS.iter().zip([false, broker]) {
            let recorded = self.recordings.as_ref().map(|recordings| recordings.fleets(namespace));
            let fleets = recorded.filter(|recorded| !recorded.is_empty()).unwrap_or_else(|| fleets.to_vec());
            self.stack.start_agent(cluster, namespace, agent, &fleets, behind_broker)?;
        }
        go_on()?;
        step("devices and programs");
        for (network, (_, agent, _)) in NETWORKS.iter().zip(AGENTS) {
            match &self.recordings {
                Some(recordings) if !manifests.has_own_devices(network) => {
                    recordings.apply_devices(cluster, network, agent)?;
                }
                _ => manifests.apply_devices(cluster, network)?,
            }
        }
        manifests.apply_programs(cluster, now_ms()?)?;
        step("virtual hardware");
        self.start_hardware()?;
        eprintln!("everything runs after {} s\n", started.elapsed().as_secs());
        self.watch_epochs()?;
        self.finish()
    }

    fn start_hardware(&mut self) -> Result<()> {
        let at = |stack: &Stack, index: usize| {
            let agent = stack.agents.get(index).map(|agent| agent.mqtt.clone());
            agent.context("an agent is missing")
        };
        let (home, field) = (at(&self.stack, 0)?, at(&self.stack, 1)?);
        if let Some(recordings) = &self.recordings {
            let speed = self.options.replay_speed;
            recordings.play(&mut self.stack, "energy", &home, speed)?;
            return recordings.play(&mut self.stack, "weather", &field, speed);
        }
        // A sunny day's afternoon, in time with the clock.
        let day = ["--world-hour", "14"];
        let start = |stack: &mut Stack, network: &str, devices: &str, mqtt: &str| {
            let arguments = [&["--network", network, "--devices", devices][..], &day].concat();
            stack.start_simulator(network, mqtt, &arguments)
        };
        start(&mut self.stack, "meters", "8", &home)?;
        start(&mut self.stack, "pv", "4", &home)?;
        // One more than the example has places for: what nobody placed is not paid, and says so.
        start(&mut self.stack, "weather", "4", &field)
    }

    /// The live view, until each program has enough epochs.
    fn watch_epochs(&mut self) -> Result<()> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        let mut view = View::new();
        let deadline = Instant::now() + EPOCHS_LIMIT;
        loop {
            self.check_interrupt()?;
            self.stack.check_alive()?;
            let done = view.update(cluster, &self.stack)?;
            if done >= EPOCHS {
                view.finish();
                return Ok(());
            }
            if Instant::now() >= deadline {
                view.finish();
                bail!("after {EPOCHS_LIMIT:?} only {done} epochs of {EPOCHS} are computed");
            }
            thread::sleep(TICK);
        }
    }

    fn finish(&mut self) -> Result<Ended> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        if self.options.exit || self.options.report.is_some() {
            let (hardware, observed) = if self.options.exit {
                step("hardware falls silent; what it was promised drains into the ledger");
                let hardware = self.stack.stop_simulators()?;
                let promised: u64 = hardware.iter().filter_map(|report| report["readings"].as_u64()).sum();
                (hardware, self.drained(promised)?)
            } else {
                // Hardware plays on, so what it was promised last is not judged yet.
                let names = self.stack.simulators.iter().map(|(name, _)| name);
                let hardware = names.map(|name| self.stack.simulator_report(name)).collect::<Result<_>>()?;
                (hardware, self.stack.observe(&PROGRAMS, true)?)
            };
            let report = report::build(&observed, &hardware, &cluster.get(&["edgedevices", "-A"])?);
            showcase::print(&observed, &cluster.get(&["edgedevices", "-A"])?, &cluster.get(&["rewardprograms", "-A"])?);
            showcase::print_readings(&report["readings"]);
            if let Some(path) = &self.options.report {
                std::fs::write(path, serde_json::to_vec_pretty(&report)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                println!("\nreport: {}", path.display());
            }
        } else {
            let observed = self.stack.observe(&PROGRAMS, true)?;
            showcase::print(&observed, &cluster.get(&["edgedevices", "-A"])?, &cluster.get(&["rewardprograms", "-A"])?);
        }
        if self.options.exit {
            return Ok(Ended::Shown);
        }
        showcase::print_commands(cluster, &self.stack, self.recordings.is_none())?;
        while !self.interrupt.came() {
            self.stack.check_alive()?;
            thread::sleep(TICK);
        }
        Ok(Ended::Interrupted)
    }

    /// Waits until the ledger holds what was acknowledged.
    fn drained(&self, promised: u64) -> Result<Value> {
        let deadline = Instant::now() + DRAIN_LIMIT;
        loop {
            let observed = self.stack.observe(&PROGRAMS, true)?;
            let rejected = observed["readings"]["rejected"].as_object().into_iter().flatten();
            let judged = observed["readings"]["accepted"].as_u64().unwrap_or(0)
                + rejected.filter_map(|(_, count)| count.as_u64()).sum::<u64>();
            if judged >= promised {
                return Ok(observed);
            }
            if Instant::now() >= deadline {
                bail!("{promised} readings were acknowledged, and after {DRAIN_LIMIT:?} only {judged} are judged");
            }
            thread::sleep(TICK);
        }
    }

    fn check_interrupt(&self) -> Result<()> {
        if self.interrupt.came() { bail!("interrupted") } else { Ok(()) }
    }

    fn clean(&mut self) -> Result<()> {
        let stopped = self.stack.stop();
        if let (Some(cluster), Some(networks), true) = (&self.cluster, &self.networks, self.options.use_cluster) {
            networks.remove(cluster)?;
        }
        self.cluster = None;
        stopped
    }
}

fn step(what: &str) {
    eprintln!("· {what}");
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

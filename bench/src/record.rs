//! The embedded ledger in this process: appending, scanning, and the close of an epoch with everything that it reads and writes.
//!
//! Proofs are sealed beforehand and their signatures are not verified here: that is the gateway's part, measured apart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use depin_domain::{
    canonical,
    ids::{AgentId, DeviceId, Digest},
    proofs::Reading,
    registry::{Change, ProgramEntry, Registry},
    rewards::{EpochInput, EpochResult, Line, ProgramState, assemble::Assembly, close_epoch},
    statistics::{GrainStatistic, Slots},
    time::Timestamp,
};
use depin_identity::SigningKey;
use depin_ledger::{Clock, EmbeddedLedger, EpochRecord, Ledger, Outcome, Settings, Submission, verify};
use depin_log::DiskStorage;
use depin_proto::{envelope::open_proof, v1};
use serde_json::json;

use crate::{
    network::{self, NAMESPACE},
    processes::{cpu_seconds, now_ms, peak_megabytes, reset_peak},
    rewards,
    seal::Chain,
};

pub(crate) const HOUR_MS: i64 = 3_600_000;
const PROGRAM: &str = "site/watt";
/// Tasks that append at the same time.
pub(crate) const LANES: usize = 32;
/// Submissions of one call.
pub(crate) const CALL: usize = 4;

/// What is recorded.
#[derive(Args)]
pub(crate) struct Options {
    /// Folder for the ledger; it must be empty
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Agents
    #[arg(long, default_value_t = 100)]
    agents: u32,
    /// Devices of each agent: sections of a proof
    #[arg(long, default_value_t = 10)]
    devices: u32,
    /// Proofs of each agent
    #[arg(long, default_value_t = 40)]
    proofs: u32,
    /// Readings of each device in a proof
    #[arg(long, default_value_t = 50)]
    readings: u32,
    /// Close an epoch over everything afterwards
    #[arg(long)]
    close: bool,
    /// CEL checks of each reading
    #[arg(long, default_value_t = 1)]
    checks: usize,
}

/// Measures one thing after the other; each begins where the last one ended.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let dir = options.dir.as_path();
    let begin = now_ms()? / HOUR_MS * HOUR_MS - 2 * HOUR_MS;
    let mut watch = Watch::new(options)?;
    let ledger = Arc::new(open(dir)?);
    let (writer, lanes) = found(options, &*ledger, begin).await?;
    watch.skip()?;
    let mut tasks = Vec::new();
    for lane in lanes {
        let ledger: Arc<dyn Ledger> = Arc::clone(&ledger) as _;
        tasks.push(tokio::spawn(append(ledger, lane)));
    }
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await??;
    }
    watch.tell("append", None)?;
    ensure!(accepted == watch.readings, "{accepted} of {} readings were accepted", watch.readings);
    Arc::into_inner(ledger).context("the ledger is still held")?.close();
    for slot in ["checkpoint.0", "checkpoint.1"] {
        let path = dir.join(slot);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    let cold = drop_caches(dir)?;
    watch.skip()?;
    let ledger = open(dir)?;
    watch.tell("scan", Some(json!({ "cold": cold })))?;
    if options.close {
        close(&ledger, writer, begin, &mut watch).await?;
        ledger.close();
    } else {
        ledger.close();
        watch.skip()?;
        let storage = Arc::new(DiskStorage::open(dir)?);
        let found = verify(storage, &Settings::default(), None)?;
        ensure!(found.findings.is_empty(), "the record is not whole: {:?}", found.findings);
        watch.tell("verify", None)?;
    }
    Ok(())
}

/// Times what is done between two calls.
pub(crate) struct Watch {
    begun: Instant,
    cpu: f64,
    pub(crate) readings: u64,
    devices: u64,
    proofs: u64,
    checks: usize,
}

impl Watch {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let (devices, proofs) = (
            u64::from(options.agents) * u64::from(options.devices),
            u64::from(options.agents) * u64::from(options.proofs),
        );
        let readings = devices * u64::from(options.proofs) * u64::from(options.readings);
        Ok(Self { begun: Instant::now(), cpu: cpu_seconds("self")?, readings, devices, proofs, checks: options.checks })
    }

    /// Begins a step: its peak of memory counts what is held from before, not what the steps before had at their worst.
    pub(crate) fn skip(&mut self) -> Result<()> {
        reset_peak()?;
        (self.begun, self.cpu) = (Instant::now(), cpu_seconds("self")?);
        Ok(())
    }

    pub(crate) fn tell(&mut self, case: &str, more: Option<serde_json::Value>) -> Result<()> {
        let (seconds, cpu) = (self.begun.elapsed().as_secs_f64(), cpu_seconds("self")? - self.cpu);
        let mut line = json!({
            "case": case, "readings": self.readings, "devices": self.devices, "proofs": self.proofs, "seconds": seconds,
            "readingsPerSecond": self.readings as f64 / seconds, "cpuSeconds": cpu,
            "cpuSecondsPerMillionReadings": cpu / self.readings as f64 * 1e6, "peakMb": peak_megabytes("self")?,
            "checks": self.checks,
        });
        if let (Some(line), Some(serde_json::Value::Object(more))) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        println!("{line}");
        self.skip()
    }
}

fn open(dir: &Path) -> Result<EmbeddedLedger> {
    Ok(EmbeddedLedger::open(Arc::new(DiskStorage::open(dir)?), Settings::default(), Clock::system())?)
}

/// Asks the kernel to forget file contents, which only root may; tells whether it did.
fn drop_caches(dir: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::File::open(path)?.sync_all()?;
        }
    }
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok())
}

/// Registers everything and seals all proofs, shared among lanes so that each chain stays in one.
pub(crate) async fn found(
    options: &Options,
    ledger: &dyn Ledger,
    begin: i64,
) -> Result<(v1::WriterToken, Vec<Vec<Submission>>)> {
    let mut changes = network::base(options.checks)?;
    changes.push(program(begin)?);
    let mut agents = Vec::new();
    for number in 0..options.agents {
        let (name, key) = (format!("agent-{number}"), SigningKey::generate()?);
        changes.push(network::agent(&name, &key));
        let names = (0..options.devices).map(|device| network::device_name(number * options.devices + device));
        let names: Vec<String> = names.collect();
        for (device, own) in names.iter().enumerate() {
            let Change::Device(mut entry) = network::device(&name, own) else { continue };
            let owner = rewards::account(number * options.devices + u32::try_from(device)?);
            entry.shares =
                vec![depin_domain::registry::OwnerShare { account: owner.to_string(), basis_points: 10_000 }];
            changes.push(Change::Device(entry));
        }
        agents.push((name, key, names));
    }
    let writer = ledger.acquire_writer("bench".into()).await?;
    let mut version = ledger.info().await?.registry_version;
    for changes in changes.chunks(10_000) {
        let changes = changes.iter().map(|change| Ok(canonical::to_vec(change)?.into())).collect::<Result<_>>()?;
        let request = v1::WriteRegistryRequest { writer: Some(writer), changes, expected_version: version };
        version = ledger.write_registry(request).await?;
    }
    drop(changes);
    let model = network::model(options.checks).digest()?;
    let step = HOUR_MS / i64::from(options.proofs * options.readings).max(1);
    let mut lanes: Vec<Vec<Submission>> = (0..LANES).map(|_| Vec::new()).collect();
    for (number, (name, key, names)) in agents.into_iter().enumerate() {
        let mut chain = Chain::new(key, (writer.incarnation, version), model, &names, begin);
        for _ in 0..options.proofs {
            let proof = chain.seal(i64::from(options.readings), step)?;
            let opened = open_proof(&proof.header, &proof.sections)?;
            let agent = AgentId::of(NAMESPACE, &name);
            lanes[number % LANES].push(Submission { proof, opened, agent, declared: None });
        }
    }
    Ok((writer, lanes))
}

pub(crate) async fn append(ledger: Arc<dyn Ledger>, lane: Vec<Submission>) -> Result<u64> {
    let mut accepted = 0;
    let mut lane = lane.into_iter().peekable();
    while lane.peek().is_some() {
        let call: Vec<Submission> = lane.by_ref().take(CALL).collect();
        for outcome in ledger.append(call).await? {
            match outcome {
                Outcome::Judged { verdict, .. } => accepted += verdict.accepted,
                other => anyhow::bail!("a proof was not judged: {other:?}"),
            }
        }
    }
    Ok(accepted)
}

fn program(begin: i64) -> Result<Change> {
    let spec = rewards::spec(Timestamp(begin), HOUR_MS);
    let text = String::from_utf8(spec.canonical()?)?;
    Ok(Change::Program(ProgramEntry {
        id: PROGRAM.into(),
        digest: Digest::of(text.as_bytes()),
        spec: text,
        from_epoch: 0,
    }))
}

/// What operator and ledger do for an epoch, without the network between them.
async fn close(ledger: &EmbeddedLedger, writer: v1::WriterToken, begin: i64, watch: &mut Watch) -> Result<()> {
    let request = v1::CloseEpochRequest {
        writer: Some(writer),
        program: PROGRAM.into(),
        number: 0,
        start: begin,
        end: begin + HOUR_MS,
        grace_ms: 0,
        matured: Vec::new(),
    };
    watch.skip()?;
    ledger.close_epoch(request).await?;
    watch.tell("freeze", None)?;
    let registry = ledger.registry().borrow().registry.clone();
    let input = gather(ledger, &registry, begin).await?;
    drop(registry);
    watch.tell("gather", None)?;
    let result = close_epoch(&input)?;
    drop(input);
    watch.tell("compute", Some(json!({ "root": result.summary.root })))?;
    let paid = result.summary.devices.total;
    ledger.record_epoch(writer, PROGRAM.into(), 0, recorded(&result)?).await?;
    watch.tell("store", Some(json!({ "lines": paid })))
}

async fn gather(ledger: &EmbeddedLedger, registry: &Registry, begin: i64) -> Result<EpochInput> {
    let spec = rewards::spec(Timestamp(begin), HOUR_MS);
    let mut assembly = Assembly::new(registry, &spec, 0)?;
    let request = v1::ReadStatisticsRequest { program: PROGRAM.into(), number: 0, of_number: 0 };
    let mut pages = ledger.read_statistics(request).await?;
    while let Some(page) = pages.recv().await {
        for raw in page?.statistics {
            let device = DeviceId::from_slice(&raw.device_id).context("a device's id")?;
            assembly.add(&device, &raw.metric, &statistic(&raw)?);
        }
    }
    let devices = assembly.finish();
    Ok(EpochInput {
        program: PROGRAM.into(),
        number: 0,
        spec,
        devices,
        matured: Vec::new(),
        state: ProgramState::default(),
    })
}

fn statistic(raw: &v1::GrainStatistic) -> Result<GrainStatistic> {
    Ok(GrainStatistic {
        start: Timestamp(raw.grain_start),
        cadence_ms: raw.cadence_ms,
        count: raw.count,
        sum: raw.sum.parse()?,
        min: raw.min,
        max: raw.max,
        first: Reading { at: Timestamp(raw.first_at), value: raw.first_value },
        last: Reading { at: Timestamp(raw.last_at), value: raw.last_value },
        increase: raw.increase.parse()?,
        reset_increase: raw.reset_increase.parse()?,
        slots: Slots::from_bytes(&raw.slots),
    })
}

fn recorded(result: &EpochResult) -> Result<EpochRecord> {
    Ok(EpochRecord {
        summary: canonical::to_vec(&result.summary)?,
        lines: result.lines.iter().map(Line::canonical).collect::<Result<_, _>>()?,
        state: result.state.canonical()?,
    })
}

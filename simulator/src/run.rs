//! One run: plans, connections, the report.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use depin_telemetry::{AdminServer, Health, TelemetryError};
use jiff::Timestamp;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    Options,
    chance::draw,
    connection::{Clock, Connection, Settings},
    hardware::Device,
    plan::{Message, Modelled, Pace},
    record::Record,
    replay::{Playback, Recordings},
    report::Report,
};

const REPORT_EVERY: Duration = Duration::from_secs(2);
const HOUR: i64 = 3_600_000;

/// The messages of one connection.
type Plan = Box<dyn Iterator<Item = Message> + Send>;

/// Publishes until the plan ends or a signal comes, then drains and writes the report.
///
/// # Errors
/// When options do not fit together, a recording cannot be read, or publishes stayed without acknowledgement.
pub async fn run(options: Options) -> Result<()> {
    if options.describe {
        println!("{}", serde_json::to_string(&recordings(&options)?.describe())?);
        return Ok(());
    }
    let telemetry = depin_telemetry::init("depin-sim", &options.telemetry)?;
    let signal = depin_telemetry::shutdown_signal()?;
    let clock = Clock { anchor: (Instant::now(), Timestamp::now().as_millisecond()) };
    let report = Report { seed: options.seed, ..Report::default() };
    let record = Arc::new(Mutex::new(Record::new(report, options.acknowledged.as_deref())?));
    let (stopper, stop) = watch::channel(false);
    let mut connections = JoinSet::new();
    for (number, plan) in plans(&options, clock.anchor.1)?.into_iter().enumerate() {
        let settings = Settings {
            address: options.mqtt.clone(),
            // Two simulators at one broker must not take over each other's connections.
            client_id: format!("depin-sim-{}-{number}", std::process::id()),
            // Packet ids are 16 bits; a window near that would look for a free one for long.
            window: options.window.clamp(1, 32_768),
            unpaced: options.unpaced,
            drain: Duration::from_secs(options.drain),
        };
        connections.spawn(Connection::new(settings, plan, record.clone(), clock).run(stop.clone()));
    }
    let shown = Shown::default();
    let admin = shown.serve(&options, stop.clone()).await?;
    tracing::info!(network = ?options.network, connections = connections.len(), mqtt = options.mqtt, "simulating");
    let outcome = follow(&options, &record, &shown, connections, stopper.clone(), signal).await;
    let last = snapshot(&record);
    stopper.send_replace(true);
    admin.await.context("the admin server")??;
    if let Some(path) = &options.report {
        last.write(path)?;
    }
    let Report { published, acknowledged, reconnects, .. } = last;
    tracing::info!(published, acknowledged, reconnects, "simulated");
    telemetry.shutdown()?;
    outcome.and_then(|()| record.lock().unwrap_or_else(PoisonError::into_inner).check())
}

async fn follow(
    options: &Options,
    record: &Mutex<Record>,
    shown: &Shown,
    mut connections: JoinSet<Result<()>>,
    stopper: watch::Sender<bool>,
    signal: impl Future<Output = ()>,
) -> Result<()> {
    let mut signal = std::pin::pin!(signal);
    let mut every = tokio::time::interval(REPORT_EVERY);
    let mut failure = None;
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                None => return failure.map_or(Ok(()), Err),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => failure = Some(error),
                Some(Err(error)) => failure = Some(error.into()),
            },
            () = &mut signal, if !*stopper.borrow() => {
                stopper.send_replace(true);
            }
            _ = every.tick() => {
                let report = snapshot(record);
                shown.show(&report);
                if let Some(path) = &options.report {
                    report.write(path)?;
                }
            }
        }
    }
}

/// What the admin server shows of the run.
#[derive(Clone, Debug, Default)]
struct Shown {
    published: Gauge,
    acknowledged: Gauge,
    reconnects: Gauge,
}

impl Shown {
    async fn serve(
        &self,
        options: &Options,
        mut stop: watch::Receiver<bool>,
    ) -> Result<JoinHandle<Result<(), TelemetryError>>> {
        let mut registry = Registry::default();
        for (name, help, gauge) in [
            ("depin_sim_published", "Messages sent for the first time, copies included", &self.published),
            ("depin_sim_acknowledged", "Messages acknowledged, copies included", &self.acknowledged),
            ("depin_sim_reconnects", "Connections made after the first of each client", &self.reconnects),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let admin = AdminServer::bind(options.telemetry.admin_listen, Arc::new(registry), Health::new()).await?;
        Ok(tokio::spawn(admin.run(async move {
            // A sender that is gone has stopped too.
            drop(stop.wait_for(|stop| *stop).await);
        })))
    }

    fn show(&self, report: &Report) {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.published.set(whole(report.published));
        self.acknowledged.set(whole(report.acknowledged));
        self.reconnects.set(whole(report.reconnects));
    }
}

fn snapshot(record: &Mutex<Record>) -> Report {
    record.lock().unwrap_or_else(PoisonError::into_inner).report().clone()
}

fn plans(options: &Options, now: i64) -> Result<Vec<Plan>> {
    if !(options.speed.is_finite() && options.speed > 0.0) {
        bail!("--speed {} must be a positive number", options.speed);
    }
    if options.unpaced && options.network.kind().is_some() && options.messages.is_none() {
        bail!("--unpaced needs --messages: without an end there is no time to begin at");
    }
    match options.network.kind() {
        Some((kind, prefix)) => {
            let cadence = options.cadence;
            let span = options.messages.filter(|_| options.unpaced).unwrap_or(0) as i64 * cadence;
            let world_start = options.world_hour.map_or(now, |hour| now - now.rem_euclid(24 * HOUR) + hour * HOUR);
            let pace =
                Pace { start: now - span, cadence, world_start, speed: options.speed, messages: options.messages };
            let prefix = options.prefix.as_deref().unwrap_or(prefix);
            let connections = options.connections.clamp(1, options.devices.max(1));
            Ok((0..connections)
                .map(|connection| {
                    let devices = (connection..options.devices)
                        .step_by(connections as usize)
                        .map(|index| {
                            let device = Device::new(kind, prefix, options.first + index, options.seed, world_start);
                            (device, index as i64 * cadence / options.devices.max(1) as i64)
                        })
                        .collect();
                    Box::new(Modelled::new(devices, pace, options.faults, options.seed)) as Plan
                })
                .collect())
        }
        None => recorded(options, now),
    }
}

/// A device's rows stay on one connection, in their order.
fn recorded(options: &Options, now: i64) -> Result<Vec<Plan>> {
    let recordings = recordings(options)?;
    // As fast as can be, the last row is of now.
    let span = if options.unpaced { (recordings.span() as f64 / options.speed) as i64 } else { 0 };
    let playback = Playback { start: now - span, speed: options.speed, recorded_time: options.recorded_time };
    let connections = options.connections.max(1);
    let mut shares: Vec<Vec<Message>> = (0..connections).map(|_| Vec::new()).collect();
    for message in recordings.messages(playback) {
        let name = message.serial.bytes().map(u64::from).collect::<Vec<u64>>();
        let share = usize::try_from(draw(0, &name) % connections)?;
        if let Some(share) = shares.get_mut(share) {
            share.push(message);
        }
    }
    Ok(shares.into_iter().filter(|share| !share.is_empty()).map(|share| Box::new(share.into_iter()) as Plan).collect())
}

fn recordings(options: &Options) -> Result<Recordings> {
    let folder = options.replay.as_deref().context("--network replay needs --replay DIR")?;
    Recordings::read(folder, options.mapping.as_deref(), &options.fleet)
}

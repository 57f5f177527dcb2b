//! The gateway under load: agents with streams of their own, whose proofs were sealed beforehand.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use depin_identity::SigningKey;
use depin_proto::{
    convert::id_bytes,
    v1::{self, SignedProof, outcome, proofs_client::ProofsClient, submit_request, submit_response},
};
use serde_json::json;
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    network::{self, Authority, Center},
    processes::{cpu_seconds, now_ms, peak_megabytes},
    seal::Chain,
};

/// Milliseconds between readings of a device.
const STEP: i64 = 1_000;
/// No answer for so long: something is broken.
const STALLED: Duration = Duration::from_secs(60);

/// What is submitted.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    center: Center,
    /// Prefix of the agents' names, so that several runs can share a gateway
    #[arg(long)]
    name: String,
    /// Agents, each with a key and a stream of its own
    #[arg(long, default_value_t = 8)]
    agents: u32,
    /// Devices of each agent: sections of a proof
    #[arg(long, default_value_t = 100)]
    devices: u32,
    /// Readings of each device in a proof
    #[arg(long, default_value_t = 10)]
    readings: u32,
    /// Proofs of each agent
    #[arg(long, default_value_t = 200)]
    proofs: u32,
    /// Proofs of a message
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Messages of a stream that wait for their outcomes
    #[arg(long, default_value_t = 8)]
    window: usize,
    /// Readings a second of all agents together; 0: as fast as outcomes allow
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// CEL checks of each reading
    #[arg(long, default_value_t = 1)]
    checks: usize,
}

/// Registers agents and devices, seals, then submits and measures.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let authority = Authority::open(&options.center.dir)?;
    let lanes = lanes(options, &authority).await?;
    let process = options.center.process.to_string();
    let per_message = f64::from(options.devices * options.readings) * options.batch as f64;
    let pace =
        (options.rate > 0.0).then(|| Duration::from_secs_f64(per_message * f64::from(options.agents) / options.rate));
    let (cpu, own) = (cpu_seconds(&process)?, cpu_seconds("self")?);
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (number, lane) in lanes.into_iter().enumerate() {
        // Streams of one pace do not all send in the same moment.
        let first = pace.unwrap_or_default().mul_f64(number as f64 / f64::from(options.agents));
        tasks.push(tokio::spawn(lane.run(options.window, pace, begun + first)));
    }
    let (mut accepted, mut latencies) = (0, Vec::new());
    for task in tasks {
        let (count, waits) = task.await??;
        accepted += count;
        latencies.extend(waits);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds(&process)? - cpu;
    let proofs = u64::from(options.agents) * u64::from(options.proofs);
    let readings = proofs * u64::from(options.devices) * u64::from(options.readings);
    ensure!(accepted == readings, "{accepted} of {readings} readings were accepted");
    latencies.sort_unstable();
    let at = |part: f64| {
        let place = ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(place).map_or(0.0, |wait: &Duration| wait.as_secs_f64() * 1e3)
    };
    println!(
        "{}",
        json!({
            "case": "gateway", "readings": readings, "proofs": proofs, "sections": options.devices, "agents": options.agents,
            "batch": options.batch, "seconds": seconds, "readingsPerSecond": readings as f64 / seconds,
            "proofsPerSecond": proofs as f64 / seconds, "gatewayCpuSeconds": cpu,
            "cpuSecondsPerMillionReadings": cpu / readings as f64 * 1e6, "gatewayPeakMb": peak_megabytes(&process)?,
            "loadCpuSeconds": cpu_seconds("self")? - own,
            "receiptP50Ms": at(0.5), "receiptP99Ms": at(0.99), "receiptMaxMs": at(1.0), "checks": options.checks,
        })
    );
    Ok(())
}

/// A connected agent with its sealed proofs.
struct Lane {
    channel: Channel,
    open: v1::OpenChain,
    messages: Vec<Vec<SignedProof>>,
}

async fn lanes(options: &Options, authority: &Authority) -> Result<Vec<Lane>> {
    let mut changes = network::base(options.checks)?;
    let mut agents = Vec::new();
    for number in 0..options.agents {
        let (name, key) = (format!("{}-{number}", options.name), SigningKey::generate()?);
        let devices: Vec<String> = (0..options.devices).map(|device| format!("{name}-{device:05}")).collect();
        changes.push(network::agent(&name, &key));
        changes.extend(devices.iter().map(|device| network::device(&name, device)));
        agents.push((name, key, devices));
    }
    let registry = network::write(&options.center.ledger, authority, &changes).await?;
    let model = network::model(options.checks).digest()?;
    let history = i64::from(options.proofs) * i64::from(options.readings) * STEP;
    let mut lanes = Vec::new();
    for (name, key, devices) in agents {
        let channel = authority.connect(&options.center.gateway, &network::peer(&name), key.clone())?;
        let open = v1::OpenChain { key_id: id_bytes(key.id()), incarnation: 1, next_sequence: 1, sealed_sequence: 0 };
        let mut chain = Chain::new(key, registry, model, &devices, now_ms()? - history - STEP);
        let proofs = (0..options.proofs).map(|_| chain.seal(i64::from(options.readings), STEP));
        let proofs: Vec<SignedProof> = proofs.collect::<Result<_>>()?;
        let messages = proofs.chunks(options.batch).map(<[SignedProof]>::to_vec).collect();
        lanes.push(Lane { channel, open, messages });
    }
    Ok(lanes)
}

impl Lane {
    /// Sends everything; answers with accepted readings and each message's wait from sending to its last outcome.
    async fn run(self, window: usize, pace: Option<Duration>, begin: Instant) -> Result<(u64, Vec<Duration>)> {
        let (requests, stream) = mpsc::channel(window.max(1));
        let open = v1::OpenChains { chains: vec![self.open], ..Default::default() };
        send(&requests, submit_request::Message::Open(open)).await?;
        let mut responses = ProofsClient::new(self.channel).submit(ReceiverStream::new(stream)).await?.into_inner();
        let mut messages = self.messages.into_iter().enumerate();
        let mut next = messages.next();
        let mut waiting: VecDeque<(usize, Instant)> = VecDeque::new();
        let (mut accepted, mut waits, mut opened) = (0, Vec::new(), false);
        while next.is_some() || !waiting.is_empty() {
            let due = match (&next, pace) {
                (Some((number, _)), Some(pace)) => begin + pace * u32::try_from(*number)?,
                _ => begin,
            };
            let may_send = opened && next.is_some() && (pace.is_some() || waiting.len() < window);
            tokio::select! {
                () = time::sleep_until(due.into()), if may_send => {
                    if let Some((_, proofs)) = next.take() {
                        // The clock runs from when it was due: a sender that is held up waits too.
                        waiting.push_back((proofs.len(), if pace.is_some() { due } else { Instant::now() }));
                        send(&requests, submit_request::Message::Proofs(v1::ProofBatch { proofs })).await?;
                        next = messages.next();
                    }
                }
                response = time::timeout(STALLED, responses.message()) => {
                    let response = response.context("no outcome for 60 s")??.context("the stream ended")?;
                    match response.message {
                        Some(submit_response::Message::Opened(_)) => opened = true,
                        Some(submit_response::Message::Outcomes(batch)) => {
                            for outcome in &batch.outcomes {
                                accepted += judged(outcome)?;
                                let front = waiting.front_mut().context("an outcome of nothing")?;
                                front.0 -= 1;
                                if front.0 == 0 {
                                    waits.push(front.1.elapsed());
                                    waiting.pop_front();
                                }
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok((accepted, waits))
    }
}

async fn send(requests: &mpsc::Sender<v1::SubmitRequest>, message: submit_request::Message) -> Result<()> {
    requests.send(v1::SubmitRequest { message: Some(message) }).await.context("the stream is closed")
}

fn judged(outcome: &v1::Outcome) -> Result<u64> {
    match &outcome.result {
        Some(outcome::Result::Judged(judged)) => Ok(judged.verdict.as_ref().context("no verdict")?.accepted),
        other => bail!("a proof was not judged: {other:?}"),
    }
}

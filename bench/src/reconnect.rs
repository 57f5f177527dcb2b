//! Thousands of agents that come at once, as after a gateway's restart: simulated clients, each with its key, certificate, connection and
//! stream, that try again as an agent does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use depin_identity::SigningKey;
use depin_proto::{
    convert::id_bytes,
    v1::{self, proofs_client::ProofsClient, submit_request, submit_response},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    network::{self, Authority, Center},
    processes::{cpu_seconds, peak_megabytes},
};

/// An agent's first wait after a failure; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Its longest.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Who comes.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    center: Center,
    /// Agents
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
}

/// Registers all, lets them go at once, and waits until each has an open chain.
pub(crate) async fn run(options: &Options) -> Result<()> {
    allow_files()?;
    let authority = Arc::new(Authority::open(&options.center.dir)?);
    let mut changes = network::base(1)?;
    let mut agents = Vec::new();
    for number in 0..options.agents {
        let (name, key) = (format!("edge-{number:05}"), SigningKey::generate()?);
        changes.push(network::agent(&name, &key));
        agents.push((authority.connect(&options.center.gateway, &network::peer(&name), key.clone())?, key));
    }
    network::write(&options.center.ledger, &authority, &changes).await?;
    let process = options.center.process.to_string();
    let cpu = cpu_seconds(&process)?;
    let refused = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let coming: Vec<_> = agents
        .into_iter()
        .enumerate()
        .map(|(number, (channel, key))| tokio::spawn(come(number, channel, key, Arc::clone(&refused), begun)))
        .collect();
    let (mut waits, mut held) = (Vec::new(), Vec::new());
    for agent in coming {
        let (wait, stream) = agent.await?;
        waits.push(wait);
        held.push(stream);
    }
    waits.sort_unstable();
    let at = |part: usize| waits.get((waits.len() * part / 100).min(waits.len() - 1)).map(Duration::as_secs_f64);
    println!(
        "{}",
        json!({
            "case": "reconnect", "agents": options.agents, "seconds": at(100), "p50Seconds": at(50), "p99Seconds": at(99),
            "agentsPerSecond": at(100).map(|seconds| f64::from(options.agents) / seconds),
            "refused": refused.load(Ordering::Relaxed), "gatewayCpuSeconds": cpu_seconds(&process)? - cpu,
            "gatewayPeakMb": peak_megabytes(&process)?,
        })
    );
    Ok(())
}

/// One file is one connection.
fn allow_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).context("cannot open more files")
}

/// A stream with an open chain, and what keeps it.
type Open = (mpsc::Sender<v1::SubmitRequest>, Streaming<v1::SubmitResponse>);

/// Tries until it is served; answers with how long that took.
async fn come(
    number: usize,
    channel: Channel,
    key: SigningKey,
    refused: Arc<AtomicU64>,
    begun: Instant,
) -> (Duration, Open) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        if let Ok(open) = open(channel.clone(), &key).await {
            return (begun.elapsed(), open);
        }
        let tries = refused.fetch_add(1, Ordering::Relaxed);
        // Half of the wait at random: any number that others do not have will do.
        let spread = (number as u64).wrapping_add(tries).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
        tokio::time::sleep(backoff + backoff.mul_f64(spread as f64 / 2_048.0)).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

async fn open(channel: Channel, key: &SigningKey) -> Result<Open> {
    let (requests, stream) = mpsc::channel(1);
    let chain = v1::OpenChain { key_id: id_bytes(key.id()), incarnation: 1, next_sequence: 1, sealed_sequence: 0 };
    let open = submit_request::Message::Open(v1::OpenChains { chains: vec![chain], ..Default::default() });
    requests.send(v1::SubmitRequest { message: Some(open) }).await?;
    let mut responses = ProofsClient::new(channel).submit(ReceiverStream::new(stream)).await?.into_inner();
    loop {
        let response = responses.message().await?.context("the stream ended")?;
        if let Some(submit_response::Message::Opened(_)) = response.message {
            return Ok((requests, responses));
        }
    }
}

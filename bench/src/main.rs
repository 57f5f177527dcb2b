//! The measuring side of `cargo xtask bench`: prepares a network without Kubernetes, loads the real programs, and times engines.
//!
//! Every subcommand prints one JSON object a measurement. Nothing in here is part of the product.

mod devices;
mod flood;
mod network;
mod postgresql;
mod processes;
mod proofs;
mod publish;
mod reconnect;
mod record;
mod rewards;
mod seal;
mod signatures;

use clap::{Parser, Subcommand};

/// Load and measure
#[derive(Parser)]
#[command(name = "depin-bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an authority, the gateway's certificate and an enrolled agent's state
    Prepare(network::Prepare),
    /// Write model, fleet, agent and devices to the ledger's registry
    Register(network::Register),
    /// Publish telemetry over MQTT QoS 1 and wait for every acknowledgement
    Publish(publish::Options),
    /// Submit proofs that were sealed beforehand over real streams
    Proofs(proofs::Options),
    /// Call as those who mean no good
    Flood(flood::Options),
    /// Connect thousands of agents at once
    Reconnect(reconnect::Options),
    /// Create EdgeDevices in a cluster and wait until they are ready
    Devices(devices::Options),
    /// Verify signatures one by one and in batches
    Signatures(signatures::Options),
    /// Append to the embedded ledger, scan it, and close an epoch of it
    Record(record::Options),
    /// Append to the ledger on PostgreSQL, beside plain COPY
    Postgresql(record::Options),
    /// Close an epoch of given statistics, and build its Merkle tree
    Rewards(rewards::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Prepare(options) => network::prepare(&options),
        Command::Register(options) => runtime(1)?.block_on(network::register(&options)),
        Command::Publish(options) => runtime(1)?.block_on(publish::run(options)),
        Command::Proofs(options) => runtime(1)?.block_on(proofs::run(&options)),
        Command::Flood(options) => runtime(1)?.block_on(flood::run(&options)),
        Command::Reconnect(options) => runtime(1)?.block_on(reconnect::run(&options)),
        Command::Devices(options) => runtime(1)?.block_on(devices::run(&options)),
        Command::Signatures(options) => signatures::run(&options),
        Command::Record(options) => runtime(1)?.block_on(record::run(&options)),
        Command::Postgresql(options) => runtime(2)?.block_on(postgresql::run(&options)),
        Command::Rewards(options) => rewards::run(&options),
    }
}

fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

//! `depin-sim`: virtual hardware that speaks real MQTT. See `depin-sim --help`.

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    depin_sim::run(depin_sim::Options::parse()).await
}

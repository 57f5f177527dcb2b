//! `depin-operator`.

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = depin_operator::Options::parse();
    let telemetry = depin_telemetry::init("depin-operator", &options.telemetry)?;
    let stop = depin_telemetry::shutdown_signal()?;
    let outcome = depin_operator::run(options, stop).await;
    telemetry.shutdown()?;
    Ok(outcome?)
}

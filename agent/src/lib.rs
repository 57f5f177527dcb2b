//! The edge agent: takes telemetry from MQTT, keeps it durably, and submits it to the gateway as signed proofs.
//!
//! The way of a message: [`source`] or [`listener`] → [`intake`] with its [`codec`] → [`spool`], made durable by the [`committer`] →
//! [`sealer`] → [`uplink`]. Nothing is acknowledged to the hardware or the broker before it is on disk, and nothing is forgotten before the
//! gateway's receipt.

pub mod agent;
pub mod clock;
pub mod codec;
pub mod committer;
pub mod configuration;
mod deliveries;
pub mod gateways;
pub mod intake;
pub mod listener;
pub mod metrics;
mod prepare;
mod receipts;
pub mod sealer;
pub mod settings;
pub mod sighting;
pub mod source;
pub mod spool;
mod stop;
mod trace;
pub mod uplink;

pub use agent::{Agent, StartError};
use clap::Parser as _;
use depin_telemetry::{AdminServer, ServiceManager, shutdown_signal};
pub use prepare::{PrepareOptions, run_prepare};
pub use receipts::{ReceiptsOptions, run_receipts};
pub use settings::{AgentOptions, Arguments};

/// The whole program: settings, telemetry, the agent, until a signal.
pub async fn run() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let telemetry = depin_telemetry::init("depin-agent", &arguments.telemetry)?;
    let signal = shutdown_signal()?;
    let options = AgentOptions::resolve(&arguments)?;
    let agent = Agent::start(options).await?;
    let admin =
        AdminServer::bind(arguments.telemetry.admin_listen, agent.registry.clone(), agent.health.clone()).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(admin.run(async {
        // Whether told or dropped: the program ends.
        let _ = stopped.await;
    }));
    let manager = ServiceManager::from_environment()?;
    manager.ready();
    tokio::select! {
        () = signal => {}
        () = manager.watch(&agent.health) => {}
    }
    manager.stopping();
    tracing::info!("stopping: what was taken is made durable and acknowledged");
    agent.stop().await;
    drop(stop);
    serving.await??;
    telemetry.shutdown()?;
    Ok(())
}

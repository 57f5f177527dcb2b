//! The operator's flags.

use clap::Parser;
use depin_telemetry::TelemetryOptions;

/// Turns custom resources into the registry, lets agents and devices in, and closes reward epochs
#[derive(Parser, Clone, Debug)]
#[command(name = "depin-operator", version)]
pub struct Options {
    /// Namespace of the operator's own Secrets and Lease
    #[arg(long, env = "DEPIN_NAMESPACE", default_value = "depin-system", value_name = "NAME")]
    pub namespace: String,
    /// The ledger's address, like https://depin-gateway:8444
    #[arg(long, env = "DEPIN_LEDGER", value_name = "URL")]
    pub ledger: String,
    /// DNS name or address of the gateway, for its certificate; repeat it, or separate several by commas
    #[arg(
        long,
        env = "DEPIN_GATEWAY_NAME",
        value_delimiter = ',',
        default_value = "depin-gateway",
        value_name = "HOST"
    )]
    pub gateway_name: Vec<String>,
    /// Wait for the Lease before working, so that several operators may run and one works
    #[arg(long, env = "DEPIN_LEADER_ELECT")]
    pub leader_elect: bool,
    /// Name by which this operator holds the Lease and the writer token; default: host name and process id
    #[arg(long, env = "DEPIN_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
    /// Seconds after which an agent without a stream is told to be lost
    #[arg(long, env = "DEPIN_AGENT_SILENCE", default_value_t = 60, value_name = "SECONDS")]
    pub agent_silence: u32,
    /// Seconds after which a silent device is told to be lost, if five of its cadences are not longer
    #[arg(long, env = "DEPIN_DEVICE_SILENCE", default_value_t = 120, value_name = "SECONDS")]
    pub device_silence: u32,
    /// Seconds after which the devices of a lost agent are told to be lost too
    #[arg(long, env = "DEPIN_LONG_ABSENCE", default_value_t = 900, value_name = "SECONDS")]
    pub long_absence: u32,
    /// Logging, tracing and the admin server
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Options::command().debug_assert();
        let options = Options::parse_from([
            "depin-operator",
            "--ledger",
            "https://l:1",
            "--gateway-name",
            "a,b",
            "--gateway-name",
            "c",
        ]);
        assert_eq!(options.gateway_name, ["a", "b", "c"]);
    }
}

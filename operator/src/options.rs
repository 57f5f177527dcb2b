//! The operator's flags.

use std::net::SocketAddr;

use clap::Parser;
use depin_telemetry::TelemetryOptions;

use crate::quantities::duration_ms;

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
    /// How long after its end an agent's certificate is still renewed, like 180d or 12h; afterwards the agent needs a new join token
    #[arg(
        long,
        env = "DEPIN_RENEWAL_GRACE",
        default_value = "180d",
        value_parser = grace_ms,
        value_name = "DURATION"
    )]
    pub renewal_grace: i64,
    /// Namespace to watch and write to, in place of all: then Roles there are enough, beside a ClusterRole for EdgeDeviceModels; repeat it, or separate several by commas
    #[arg(long, env = "DEPIN_WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAME")]
    pub watch_namespace: Vec<String>,
    /// From the introduction of a new certificate authority (kubectl depin ca rotate) to its first certificate, like 1h: so long the slowest gateway may take to hear of it
    #[arg(long, env = "DEPIN_CA_INTRODUCTION", default_value = "1h", value_parser = grace_ms, value_name = "DURATION")]
    pub ca_introduction: i64,
    /// Namespace in which ConfigMap depin-ca is kept too, for agents that mount it; repeat it, or separate several by commas
    #[arg(long, env = "DEPIN_PUBLISH_CA_NAMESPACE", value_delimiter = ',', value_name = "NAME")]
    pub publish_ca_namespace: Vec<String>,
    /// PEM file of the CAs of a gateway's certificate that somebody else keeps (cert-manager): the operator then makes none, and trusts these
    #[arg(long, env = "DEPIN_GATEWAY_CA_FILE", value_name = "FILE")]
    pub gateway_ca_file: Option<std::path::PathBuf>,
    /// Audience that the token of an agent's ServiceAccount must be for
    #[arg(long, env = "DEPIN_TOKEN_AUDIENCE", default_value = "depin-gateway", value_name = "NAME")]
    pub token_audience: String,
    /// Loopback address of the query service, which `kubectl depin` reaches by port-forward
    #[arg(long, env = "DEPIN_QUERY_LISTEN", default_value = "127.0.0.1:8445", value_name = "ADDRESS")]
    pub query_listen: SocketAddr,
    /// Hand the certificate authority to the gateway's backups, encrypted to this age public key (age1…); repeat it, or separate several by
    /// commas. Without it the authority is in no backup
    #[arg(long, env = "DEPIN_BACKUP_RECIPIENT", value_delimiter = ',', value_name = "KEY")]
    pub backup_recipient: Vec<String>,
    /// Logging, tracing and the admin server
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}

/// Milliseconds of whole days (`180d`), or of a shorter duration as in resources.
fn grace_ms(text: &str) -> Result<i64, String> {
    let Some(days) = text.strip_suffix('d') else {
        return duration_ms("--renewal-grace", text).map_err(|error| error.to_string());
    };
    let days = days.parse::<u32>().map_err(|_| "is no whole number of days; write it like 180d".to_owned())?;
    Ok(i64::from(days) * 24 * 3_600_000)
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
        assert_eq!(options.renewal_grace, 180 * 24 * 3_600_000);
        assert_eq!((grace_ms("0d"), grace_ms("1h30m")), (Ok(0), Ok(5_400_000)));
        for wrong in ["", "d", "-1d", "1.5d", "180", "1w"] {
            assert!(grace_ms(wrong).is_err(), "{wrong}");
        }
    }
}

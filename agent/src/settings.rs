//! The agent's settings: flags, environment, then a YAML file; flags win.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use depin_domain::ids::Digest;
use depin_identity::proxy::Variables;
use depin_telemetry::TelemetryOptions;
use rustls::{ClientConfig, RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize;

use crate::{
    codec::Limits,
    gateways::{self, GatewayArguments, GatewayFile, ProxyFile},
    intake::Quota,
    listener::ListenerOptions,
    sealer::{RESERVE, StoreOptions},
    source::BrokerOptions,
    spool::LimitPolicy,
    uplink::{Joining, ServiceAccount, UplinkOptions},
};

/// Takes telemetry from MQTT, keeps it durably and submits it to the gateway as signed proofs
#[derive(Clone, Debug, Parser)]
#[command(
    name = "depin-agent",
    version,
    after_long_help = concat!("While it is stopped: depin-agent receipts --help. Before its first start: depin-agent prepare --help\n\nThe file of --config, with everything it may hold:\n\n", include_str!("../agent.example.yaml"))
)]
pub struct Arguments {
    /// YAML file with settings; flags and environment win over it
    #[arg(long, env = "DEPIN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The way to the gateway.
    #[command(flatten)]
    pub gateways: GatewayArguments,
    /// Directory for key, certificate, spool and journal
    #[arg(long, env = "DEPIN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Wanted name of the EdgeAgent; by default the host's name
    #[arg(long, env = "DEPIN_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// File with the join token (kubectl depin token create), for the first start
    #[arg(long, env = "DEPIN_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// File with the token of the agent's ServiceAccount, projected for the gateway's audience: in a cluster, in place of a join token
    #[arg(long, env = "DEPIN_SERVICE_ACCOUNT_TOKEN_FILE", value_name = "FILE")]
    pub service_account_token_file: Option<PathBuf>,
    /// With --service-account-token-file: the EdgeFleets that the agent serves, all of one namespace; repeat it, or separate them by commas
    #[arg(long, env = "DEPIN_FLEET", value_delimiter = ',', value_name = "NAMESPACE/NAME")]
    pub fleet: Vec<String>,
    /// PEM file of the CAs that the gateway's certificate must come from: at first contact in place of the join token's hash, then beside what the agent was given
    #[arg(long, env = "DEPIN_GATEWAY_CA_FILE", value_name = "FILE")]
    pub gateway_ca_file: Option<PathBuf>,
    /// Address of the own MQTT listener for hardware; port 0 picks one and logs it
    #[arg(long, env = "DEPIN_MQTT_LISTEN", value_name = "ADDR")]
    pub mqtt_listen: Option<SocketAddr>,
    /// MQTT broker to subscribe at, mqtt://[USER:PASSWORD@]HOST[:PORT] or mqtts://…
    #[arg(long, env = "DEPIN_MQTT_BROKER", value_name = "URL", hide_env_values = true)]
    pub mqtt_broker: Option<String>,
    /// Most bytes of the spool
    #[arg(long, env = "DEPIN_SPOOL_LIMIT", value_name = "BYTES")]
    pub spool_limit: Option<u64>,
    /// What happens when the spool has reached its limit
    #[arg(long, env = "DEPIN_SPOOL_POLICY", value_enum, value_name = "POLICY")]
    pub spool_policy: Option<LimitPolicy>,
    /// Logs, traces, metrics and health.
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}

/// The YAML file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct File {
    gateway: Option<String>,
    gateways: Vec<String>,
    proxy: Option<ProxyFile>,
    connect_timeout_seconds: Option<u64>,
    keep_alive_seconds: Option<u64>,
    state_dir: Option<PathBuf>,
    name: Option<String>,
    join_token_file: Option<PathBuf>,
    service_account_token_file: Option<PathBuf>,
    fleets: Vec<String>,
    gateway_ca_file: Option<PathBuf>,
    listener: Option<ListenerFile>,
    broker: Option<BrokerFile>,
    spool: SpoolFile,
    unapproved: UnapprovedFile,
    codec: CodecFile,
    seal_interval_ms: Option<u64>,
    status_interval_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ListenerFile {
    address: Option<SocketAddr>,
    max_packet_bytes: Option<usize>,
    max_connections: Option<usize>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<ServerTlsFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ServerTlsFile {
    certificate: PathBuf,
    key: PathBuf,
    /// Clients must show a certificate that one of these issued.
    client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct BrokerFile {
    url: Option<String>,
    version: Option<String>,
    client_id: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    filters: Vec<String>,
    in_flight: Option<u16>,
    keep_alive_seconds: Option<u16>,
    tls: Option<ClientTlsFile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ClientTlsFile {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct SpoolFile {
    limit_bytes: Option<u64>,
    policy: Option<LimitPolicy>,
    retained_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct UnapprovedFile {
    readings: Option<u64>,
    devices: Option<usize>,
    keep_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct CodecFile {
    payload_bytes: Option<usize>,
    depth: Option<usize>,
    readings: Option<usize>,
}

/// Settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The YAML file.
    #[error("{path}: {what}")]
    Yaml {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// One setting.
    #[error("{setting}: {what}")]
    Setting {
        /// Its name in the file, and as a flag.
        setting: &'static str,
        /// What is wrong, and what to do.
        what: String,
    },
}

pub(crate) fn wrong(setting: &'static str, what: impl ToString) -> SettingsError {
    SettingsError::Setting { setting, what: what.to_string() }
}

/// Everything that an agent needs.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Directory for everything that is kept.
    pub state_dir: PathBuf,
    /// The gateway.
    pub uplink: UplinkOptions,
    /// The own listener.
    pub listener: Option<(SocketAddr, ListenerOptions)>,
    /// The broker.
    pub broker: Option<BrokerOptions>,
    /// Spool and journal.
    pub store: StoreOptions,
    /// Of messages.
    pub limits: Limits,
    /// Of unapproved devices.
    pub quota: Quota,
}

impl AgentOptions {
    /// Brings flags, environment and file together.
    pub fn resolve(arguments: &Arguments) -> Result<Self, SettingsError> {
        let file = match &arguments.config {
            Some(path) => read_yaml(path)?,
            None => File::default(),
        };
        let way = GatewayFile {
            gateway: file.gateway,
            gateways: file.gateways,
            proxy: file.proxy,
            connect_timeout_seconds: file.connect_timeout_seconds,
            keep_alive_seconds: file.keep_alive_seconds,
        };
        let gateways = gateways::routes(&arguments.gateways, way, Variables::read())?;
        let state_dir = arguments
            .state_dir
            .clone()
            .or(file.state_dir)
            .ok_or_else(|| wrong("stateDir (--state-dir)", "is missing: a directory that outlives restarts"))?;
        let given = arguments.name.clone().or(file.name);
        let joining = Joining {
            join_token_file: arguments.join_token_file.clone().or(file.join_token_file),
            service_account: ServiceAccount::wanted(
                arguments.service_account_token_file.clone().or(file.service_account_token_file),
                given.clone().unwrap_or_default(),
                if arguments.fleet.is_empty() { &file.fleets } else { &arguments.fleet },
            )?,
            gateway_ca_file: arguments.gateway_ca_file.clone().or(file.gateway_ca_file),
        };
        joining.check()?;
        let name = given.unwrap_or_else(host_name);
        if name.is_empty() || name.len() > 63 {
            return Err(wrong("name (--name)", "is not a name of 1 to 63 characters"));
        }
        let listener = listener(file.listener.unwrap_or_default(), arguments.mqtt_listen)?;
        let broker = broker(file.broker.unwrap_or_default(), arguments.mqtt_broker.clone(), &name)?;
        if listener.is_none() && broker.is_none() {
            return Err(wrong(
                "listener.address (--mqtt-listen), broker.url (--mqtt-broker)",
                "both are missing: there is nothing to take telemetry from",
            ));
        }
        let (store, limits, quota) = (StoreOptions::default(), Limits::default(), Quota::default());
        // Readings of devices that nobody approved wait as long in the spool as in the sealer.
        let keep_unapproved = file
            .unapproved
            .keep_seconds
            .map_or(Duration::from_millis(quota.keep_ms.unsigned_abs()), Duration::from_secs);
        let limit = arguments.spool_limit.or(file.spool.limit_bytes).unwrap_or(store.limit);
        if limit < 1 << 20 {
            return Err(wrong("spool.limitBytes (--spool-limit)", "is less than 1 MiB (1048576)"));
        }
        let uplink = UplinkOptions {
            gateways,
            name,
            joining,
            seal_interval: Duration::from_millis(file.seal_interval_ms.unwrap_or(500)),
            status_interval: Duration::from_secs(file.status_interval_seconds.unwrap_or(15).max(1)),
            keep_unapproved,
        };
        Ok(Self {
            state_dir,
            uplink,
            listener,
            broker,
            store: StoreOptions {
                limit,
                policy: arguments.spool_policy.or(file.spool.policy).unwrap_or(store.policy),
                retained: file.spool.retained_bytes.unwrap_or(store.retained),
                parked: store.parked,
                journal_segment: store.journal_segment,
                reserve: RESERVE,
            },
            limits: Limits {
                payload_bytes: file.codec.payload_bytes.unwrap_or(limits.payload_bytes).clamp(1, 1 << 20),
                depth: file.codec.depth.unwrap_or(limits.depth).clamp(1, 128),
                readings: file.codec.readings.unwrap_or(limits.readings).clamp(1, 65_536),
            },
            quota: Quota {
                readings: file.unapproved.readings.unwrap_or(quota.readings),
                devices: file.unapproved.devices.unwrap_or(quota.devices),
                keep_ms: i64::try_from(keep_unapproved.as_millis()).unwrap_or(i64::MAX),
            },
        })
    }
}

fn read_yaml(path: &Path) -> Result<File, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::File { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|error| SettingsError::Yaml { path: path.to_owned(), what: error.to_string() })
}

/// The host's name as a label of RFC 1123.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = name.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let label: String =
        first.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).take(63).collect();
    label.trim_matches('-').to_owned()
}

pub(crate) fn read_secret(path: &Path) -> Result<String, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::File { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn listener(
    file: ListenerFile,
    flag: Option<SocketAddr>,
) -> Result<Option<(SocketAddr, ListenerOptions)>, SettingsError> {
    let Some(address) = flag.or(file.address) else { return Ok(None) };
    let defaults = ListenerOptions::default();
    let credentials = match (file.username, file.password_file) {
        (Some(user), Some(path)) => Some((user, Digest::of(read_secret(&path)?.as_bytes()))),
        (None, None) => None,
        _ => return Err(wrong("listener.username, listener.passwordFile", "go together")),
    };
    let options = ListenerOptions {
        max_packet: file.max_packet_bytes.unwrap_or(defaults.max_packet).clamp(64, 2 << 20),
        max_connections: file.max_connections.unwrap_or(defaults.max_connections).max(1),
        credentials,
        tls: file.tls.as_ref().map(server_tls).transpose()?,
    };
    Ok(Some((address, options)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| wrong(setting, format!("{}: {error}", path.display())))?;
    if chain.is_empty() { Err(wrong(setting, format!("{} holds no certificate", path.display()))) } else { Ok(chain) }
}

fn key(setting: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, SettingsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| wrong(setting, format!("{}: {error}", path.display())))
}

fn roots(setting: &'static str, path: &Path) -> Result<RootCertStore, SettingsError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(setting, path)? {
        store.add(certificate).map_err(|error| wrong(setting, error))?;
    }
    Ok(store)
}

fn server_tls(file: &ServerTlsFile) -> Result<tokio_rustls::TlsAcceptor, SettingsError> {
    let setting = "listener.tls";
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(setting, error))?;
    let builder = match &file.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots("listener.tls.clientCa", path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("listener.tls.clientCa", error))?)
        }
    };
    let chain = chain("listener.tls.certificate", &file.certificate)?;
    let config =
        builder.with_single_cert(chain, key("listener.tls.key", &file.key)?).map_err(|error| wrong(setting, error))?;
    Ok(Arc::new(config).into())
}

fn client_tls(file: &ClientTlsFile) -> Result<Arc<ClientConfig>, SettingsError> {
    let setting = "broker.tls";
    let ca = file.ca.as_ref().ok_or_else(|| {
        wrong("broker.tls.ca", "is missing: the PEM file of the CA that issued the broker's certificate")
    })?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(setting, error))?;
    let builder = builder.with_root_certificates(roots("broker.tls.ca", ca)?);
    let config = match (&file.certificate, &file.key) {
        (Some(certificate), Some(path)) => builder
            .with_client_auth_cert(chain("broker.tls.certificate", certificate)?, key("broker.tls.key", path)?)
            .map_err(|error| wrong(setting, error))?,
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(wrong("broker.tls.certificate, broker.tls.key", "go together")),
    };
    Ok(Arc::new(config))
}

fn broker(file: BrokerFile, flag: Option<String>, name: &str) -> Result<Option<BrokerOptions>, SettingsError> {
    let Some(url) = flag.or(file.url.clone()) else { return Ok(None) };
    let address = BrokerAddress::parse(&url)
        .ok_or_else(|| wrong("broker.url (--mqtt-broker)", "is not mqtt://[USER:PASSWORD@]HOST[:PORT] or mqtts://…"))?;
    let credentials = match (file.username, file.password_file) {
        (Some(user), Some(path)) => Some((user, read_secret(&path)?)),
        (None, None) => address.credentials,
        _ => return Err(wrong("broker.username, broker.passwordFile", "go together")),
    };
    let version_5 = match file.version.as_deref() {
        None | Some("5") => true,
        Some("3.1.1") => false,
        Some(_) => return Err(wrong("broker.version", "is neither \"5\" nor \"3.1.1\"")),
    };
    for filter in &file.filters {
        if !depin_domain::model::sources::is_filter(filter) {
            return Err(wrong("broker.filters", format!("{filter:?} is not a topic filter")));
        }
    }
    Ok(Some(BrokerOptions {
        host: address.host,
        port: address.port,
        version_5,
        client_id: file.client_id.unwrap_or_else(|| format!("depin-agent-{name}")),
        credentials,
        tls: match (address.tls, &file.tls) {
            (true, Some(tls)) => Some(client_tls(tls)?),
            (true, None) => return Err(wrong("broker.tls", "is missing, and the broker's URL says mqtts")),
            (false, None) => None,
            (false, Some(_)) => return Err(wrong("broker.tls", "is there, but the broker's URL does not say mqtts")),
        },
        filters: file.filters,
        in_flight: file.in_flight.unwrap_or(2_000).max(1),
        keep_alive: file.keep_alive_seconds.unwrap_or(30),
    }))
}

struct BrokerAddress {
    tls: bool,
    credentials: Option<(String, String)>,
    host: String,
    port: u16,
}

impl BrokerAddress {
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            _ => return None,
        };
        let rest = rest.trim_end_matches('/');
        let (credentials, address) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((credentials, address)) => {
                let (user, password) = credentials.split_once(':')?;
                (Some((user.to_owned(), password.to_owned())), address)
            }
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (address, if tls { 8883 } else { 1883 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (!host.is_empty()).then_some(Self { tls, credentials, host, port })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_win_over_the_file_and_what_is_missing_is_named() {
        Arguments::command().debug_assert();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.yaml");
        fs::write(
            &path,
            "gateway: https://one:1\nstateDir: /tmp/a\nbroker:\n  url: mqtt://u:p@host\nspool:\n  policy: dropOldest\n",
        )
        .unwrap();
        let arguments = |rest: &[&str]| Arguments::parse_from(["depin-agent"].iter().chain(rest).copied());
        let path = path.to_str().unwrap();
        let options = AgentOptions::resolve(&arguments(&[
            "--config",
            path,
            "--gateway",
            "https://two:2,https://three:3",
            "--name",
            "n",
        ]))
        .unwrap();
        let gateways: Vec<_> = options.uplink.gateways.iter().map(|route| route.address.as_str()).collect();
        assert_eq!(gateways, ["https://two:2", "https://three:3"]);
        assert_eq!(options.store.policy, LimitPolicy::DropOldest);
        let broker = options.broker.unwrap();
        assert_eq!(
            (broker.host.as_str(), broker.port, broker.credentials),
            ("host", 1883, Some(("u".to_owned(), "p".to_owned())))
        );
        let error = |rest: &[&str]| AgentOptions::resolve(&arguments(rest)).unwrap_err().to_string();
        assert!(error(&["--gateway", "https://a"]).contains("--state-dir"));
        assert!(error(&["--gateway", "https://a", "--state-dir", "/tmp/x"]).contains("--mqtt-listen"));
        assert!(
            error(&["--gateway", "https://a", "--state-dir", "/tmp/x", "--mqtt-broker", "http://x"])
                .contains("mqtt://")
        );
    }

    #[test]
    fn the_example_names_every_setting_as_it_is_read() {
        let text = include_str!("../agent.example.yaml");
        // Settings that most do without stand behind one `#`.
        let all: String = text.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
        for text in [text, &all] {
            let file: File = serde_saphyr::from_str(text).unwrap();
            assert!(file.gateway.is_some() && file.listener.is_some());
        }
    }

    #[test]
    fn broker_addresses() {
        let parse = |url| BrokerAddress::parse(url).map(|address| (address.tls, address.host, address.port));
        assert_eq!(parse("mqtt://broker"), Some((false, "broker".to_owned(), 1883)));
        assert_eq!(parse("mqtts://broker/"), Some((true, "broker".to_owned(), 8883)));
        assert_eq!(parse("mqtt://[::1]:1884"), Some((false, "::1".to_owned(), 1884)));
        assert_eq!(parse("mqtt://[::1]"), Some((false, "::1".to_owned(), 1883)));
        assert_eq!(parse("mqtt://"), None);
        assert_eq!(parse("broker:1883"), None);
    }
}

//! Arguments: kubectl's own flags where there is one for it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use depin_domain::{ids::KeyId, rewards::Account};
use depin_telemetry::TelemetryOptions;

/// Looks into a network of devices, lets them in, explains and verifies what they are paid.
#[derive(Debug, Parser)]
#[command(name = "kubectl-depin", bin_name = "kubectl depin", version, max_term_width = 120)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 examined and not right.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    #[command(flatten)]
    pub(crate) ledger: LedgerFlags,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryFlags,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What it shows of itself.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct TelemetryFlags {
    /// What is logged on standard error: a level, or a list like `warn,kube=debug`
    #[arg(long, global = true, env = "DEPIN_LOG", default_value = "error", value_name = "FILTER")]
    pub(crate) log: String,
    /// OpenTelemetry collector that takes a trace of each command over gRPC, like http://127.0.0.1:4317
    #[arg(long, global = true, env = "DEPIN_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

impl From<&TelemetryFlags> for TelemetryOptions {
    fn from(flags: &TelemetryFlags) -> Self {
        // A person's command is rare: each is traced.
        Self { log: flags.log.clone(), otlp_endpoint: flags.otlp_endpoint.clone(), otlp_sample: 1.0, ..Self::default() }
    }
}

/// Where the API server is: as in kubectl.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterFlags {
    /// Namespace; default: the context's
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, global = true)]
    pub(crate) all_namespaces: bool,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Cluster of the kubeconfig, in place of the context's
    #[arg(long, global = true)]
    pub(crate) cluster: Option<String>,
    /// User of the kubeconfig, in place of the context's
    #[arg(long, global = true)]
    pub(crate) user: Option<String>,
    /// Kubeconfig file
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// User to act as
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) as_user: Option<String>,
    /// Group to act as; may be repeated
    #[arg(long, global = true, value_name = "GROUP")]
    pub(crate) as_group: Vec<String>,
    /// UID to act as
    #[arg(long, global = true, value_name = "UID")]
    pub(crate) as_uid: Option<String>,
    /// How long one request to API server or ledger may take, like 30s or 1m30s; 0: as long as it takes
    #[arg(long, global = true, value_name = "DURATION", default_value = "0", value_parser = timeout, hide_default_value = true)]
    pub(crate) request_timeout: Timeout,
    /// Namespace of the operator, where the network's CA is
    #[arg(long, global = true, env = "DEPIN_OPERATOR_NAMESPACE", default_value = "depin-system")]
    pub(crate) operator_namespace: String,
}

/// How long a request may take; none: as long as it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

/// Seconds, or a number with units, as in kubectl.
fn timeout(text: &str) -> Result<Timeout, String> {
    let seconds = text.parse::<u64>().map(Duration::from_secs).ok();
    let with_units = || text.parse::<jiff::SignedDuration>().ok().and_then(|given| Duration::try_from(given).ok());
    let given = seconds.or_else(with_units).ok_or("write seconds, or a number with its unit: 500ms, 30s, 1m30s")?;
    Ok(Timeout(Some(given).filter(|given| !given.is_zero())))
}

/// Which objects of a list are shown.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SelectorFlag {
    /// Label selector: k=v, k!=v, k in (v,w), k, !k; several with commas
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct HeadingsFlag {
    /// Leaves out the line of headings, for scripts
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// Where the ledger is, and who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct LedgerFlags {
    /// The ledger's address, https://host:port; default: the operator is asked, by port-forward
    #[arg(long, global = true, env = "DEPIN_LEDGER", value_name = "URL")]
    pub(crate) ledger: Option<String>,
    /// Where the operator's query service was forwarded to, http://127.0.0.1:PORT; default: this program forwards it itself
    #[arg(long, global = true, env = "DEPIN_QUERY", value_name = "URL", conflicts_with = "ledger")]
    pub(crate) query: Option<String>,
    /// ServiceAccount in whose name the operator is asked: of the namespace (-n), or of the operator's for all
    #[arg(long, global = true, env = "DEPIN_VIEWER", value_name = "NAME", default_value = "depin-viewer")]
    pub(crate) viewer: String,
    /// Client certificate (PEM) of a viewer, for --ledger; default: an administrator's, made with the CA in the cluster
    #[arg(long, global = true, env = "DEPIN_LEDGER_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, env = "DEPIN_LEDGER_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The network's CA certificate (PEM)
    #[arg(long, global = true, env = "DEPIN_LEDGER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns for people
    Table,
    /// One JSON value
    Json,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The network at a glance: ledger, agents, what was rejected, what waits for a decision
    Status,
    /// Looks for what would make a network fail, each finding with its remedy
    Check {
        /// Looks at a cluster before the chart is installed
        #[arg(long, conflicts_with_all = ["broker_config", "gateway"])]
        pre: bool,
        /// Looks again until nothing is wrong, for so long, like 5m; 0: once
        #[arg(long, value_name = "DURATION", default_value = "0", value_parser = timeout, hide_default_value = true)]
        wait: Timeout,
        /// A mosquitto.conf whose queue, in-flight and persistence settings are examined too
        #[arg(long, value_name = "FILE")]
        broker_config: Option<PathBuf>,
        /// Where agents connect, https://host:port: looked at too
        #[arg(long, env = "DEPIN_GATEWAY", value_name = "URL")]
        gateway: Option<String>,
    },
    /// Devices and when they were last heard
    Devices {
        #[command(flatten)]
        selector: SelectorFlag,
        #[command(flatten)]
        headings: HeadingsFlag,
    },
    /// Epochs with their totals and roots, newest first
    Epochs {
        /// namespace/name or name of a program; default: all, or those of the namespace that -n names
        #[arg(long, conflicts_with = "selector")]
        program: Option<String>,
        #[command(flatten)]
        selector: SelectorFlag,
        #[command(flatten)]
        headings: HeadingsFlag,
        /// How many of each program
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
    /// Every factor of a device's reward, from accepted readings to the last digit
    Explain {
        /// Name, namespace/name, id or DID of the device
        device: String,
        /// Epoch; default: the newest computed one
        #[arg(long)]
        epoch: Option<u64>,
        /// namespace/name or name of a program; default: every program of the device's fleet
        #[arg(long)]
        program: Option<String>,
    },
    /// What an account needs to claim what it earned: amount, root and Merkle proof
    Proof {
        /// 0x and 40 hexadecimal digits
        account: String,
        /// namespace/name or name of a program; default: all
        #[arg(long)]
        program: Option<String>,
    },
    /// Judged proofs of a device, to look at or to keep for `verify`
    Proofs {
        /// Name, namespace/name, id or DID of the device
        device: String,
        /// Writes them, with all keys that `verify` needs, to this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: u32,
        #[command(flatten)]
        headings: HeadingsFlag,
    },
    /// Lets in what asks: makes the EdgeDevice that an EdgeEnrollment asks for
    Approve {
        /// Name of the EdgeEnrollment
        name: String,
        /// Fleet, where several fit
        #[arg(long)]
        fleet: Option<String>,
        /// Account that is paid
        #[arg(long)]
        owner: Option<String>,
        /// Name of the object that is made; default: made of agent and serial
        #[arg(long = "object-name", value_name = "NAME")]
        object: Option<String>,
    },
    /// Turns away what asks
    Deny {
        /// Name of the EdgeEnrollment
        name: String,
        /// Why, for whoever asks
        #[arg(long, default_value = "denied by a person")]
        reason: String,
    },
    /// Suspends a device or a program
    Suspend {
        #[command(flatten)]
        target: Target,
        /// Why, for its owner
        #[arg(long)]
        reason: String,
    },
    /// Ends a suspension
    Resume {
        #[command(flatten)]
        target: Target,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Those in whose name tenants read the ledger
    #[command(subcommand)]
    Viewer(ViewerCommand),
    /// The network's certificate authorities: state, rotation, backup
    #[command(subcommand)]
    Ca(CaCommand),
    /// What hangs below a program, fleet or agent, with Ready and reason; what is not ready first
    Tree {
        /// KIND/NAME, like program/NAME, fleet/NAME, agent/NAME; or NAME
        target: String,
    },
    /// Events of our kinds in the namespace, oldest first
    Events {
        /// Only of this object (KIND/NAME or NAME) and all that hangs below it
        #[arg(long = "for", value_name = "KIND/NAME")]
        target: Option<String>,
        #[command(flatten)]
        headings: HeadingsFlag,
    },
    /// What operator, gateway or agents log
    Logs(LogFlags),
    /// Everything that somebody who helps needs to see, in one archive without secrets
    Report {
        /// A file that ends with .tar.gz, or a directory to be made; default: depin-report-TIME.tar.gz
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
        /// Lines of each container's log
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(i64).range(0..))]
        tail: i64,
        /// Namespace of the agents that run in the cluster
        #[arg(long, default_value = AGENTS_NAMESPACE, value_name = "NAME")]
        agents_namespace: String,
    },
    /// Feature levels of the ledger: what the version before can still read
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Fetches an epoch's export into a directory
    Export {
        /// namespace/name or name of the program
        program: String,
        /// Epoch; default: the newest computed one
        #[arg(long)]
        epoch: Option<u64>,
        /// The audit export (signed headers, sections, paths) instead of the public one
        #[arg(long)]
        audit: bool,
        /// The public export with what was signed about the devices of this account (0x…), and of no other
        #[arg(long, value_name = "ACCOUNT", conflicts_with = "audit")]
        owner: Option<Account>,
        /// Directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Repeats an epoch offline: from its public export weights, amounts, root; from its audit export everything; from an owner's also his devices
    Recompute {
        /// The export's directory or its manifest.json
        path: PathBuf,
        /// The previous epoch's public export, or a file with its summary (JSON): what was carried in and each cumulative amount are checked too
        previous: Option<PathBuf>,
    },
    /// How the ledger's backups go: where to, how old the newest is, how much is in none; exit status 4 where they fail or there are none
    Backup {
        #[command(subcommand)]
        command: Option<BackupCommand>,
    },
    /// Takes out of a backup by hand what a gateway with --restore-if-empty does not: the authorities, or a copy of the ledger
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// After a restored backup: shows which chains closing waits for, and with --yes lets epochs close without them
    Release {
        /// What is waited for will not come: release
        #[arg(long)]
        yes: bool,
    },
    /// Shows what an agent would make of a captured message
    Decode {
        /// Name of an EdgeDeviceModel in the cluster, or a YAML file that holds one
        #[arg(long)]
        model: String,
        /// The message's MQTT topic
        #[arg(long)]
        topic: String,
        /// File with the payload
        file: PathBuf,
    },
    /// Verifies proofs offline: signatures, chain, paths, receipts
    Verify {
        /// File that `kubectl depin proofs --out` or `depin-agent receipts` wrote
        file: PathBuf,
        /// Id of a key of which you know whose it is (`kubectl depin status -o json` tells agents' and the gateway's); repeatable. Any other
        /// key is then a fault; without this flag, whose keys they are is not checked
        #[arg(long, value_name = "KEY_ID")]
        trusted: Vec<KeyId>,
    },
    /// Prints the shell's completion script
    Completion {
        /// For which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// As a person writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Check { .. } => "check",
            Self::Devices { .. } => "devices",
            Self::Epochs { .. } => "epochs",
            Self::Explain { .. } => "explain",
            Self::Proof { .. } => "proof",
            Self::Proofs { .. } => "proofs",
            Self::Approve { .. } => "approve",
            Self::Deny { .. } => "deny",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
            Self::Token(_) => "token",
            Self::Viewer(_) => "viewer",
            Self::Ca(_) => "ca",
            Self::Export { .. } => "export",
            Self::Tree { .. } => "tree",
            Self::Events { .. } => "events",
            Self::Logs(_) => "logs",
            Self::Report { .. } => "report",
            Self::Upgrade(_) => "upgrade",
            Self::Recompute { .. } => "recompute",
            Self::Backup { .. } => "backup",
            Self::Restore(_) => "restore",
            Self::Release { .. } => "release",
            Self::Decode { .. } => "decode",
            Self::Verify { .. } => "verify",
            Self::Completion { .. } => "completion",
        }
    }
}

/// Default of the chart's `agent.namespace`.
const AGENTS_NAMESPACE: &str = "depin-agents";

/// Whose log, and how much of it.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogFlags {
    /// `operator`, `gateway`, `agents`, or the name of an EdgeAgent that runs in the cluster
    pub(crate) source: String,
    /// Goes on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is newer, like 10m; 0: all
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = timeout, hide_default_value = true)]
    pub(crate) since: Timeout,
    /// Only the last lines of each Pod
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) tail: Option<i64>,
    /// Begins each line with its Pod, even where there is one
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Namespace of the agents that run in the cluster
    #[arg(long, default_value = AGENTS_NAMESPACE, value_name = "NAME")]
    pub(crate) agents_namespace: String,
}

/// Upgrades.
#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Level in use and available, versions of gateway and agents
    Status,
    /// Lets the ledger use what the new version brings; afterwards the version before refuses it
    Finalize {
        /// No older version will come back: finalize
        #[arg(long)]
        yes: bool,
    },
}

/// What is suspended.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// `device/NAME` (or just NAME) or `program/NAME`
    pub(crate) target: String,
}

/// Join tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes an invitation for one agent and prints its token, once
    Create {
        /// Fleets that the agent will serve
        #[arg(long = "fleet", required = true)]
        fleets: Vec<String>,
        /// Name of the EdgeAgent; default: the one that the agent asks for
        #[arg(long)]
        agent: Option<String>,
        /// Hours for which it admits
        #[arg(long, default_value_t = 24)]
        hours: u32,
    },
}

/// Certificate authorities, for whoever may read and write Secret depin-ca.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Which authorities are trusted, and which issues
    Status,
    /// Asks for a new authority: made known first, then issuing, while the one before stays trusted
    Rotate {
        /// PEM file of an authority's certificate, or an intermediate's with those above it, in place of one that the operator makes
        #[arg(long, value_name = "FILE", requires = "private_key")]
        certificate: Option<PathBuf>,
        /// PEM file (PKCS#8) of its key
        #[arg(long, value_name = "FILE", requires = "certificate")]
        private_key: Option<PathBuf>,
    },
    /// Drops trust in those that issue no more, before time does
    Retire {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Writes the authorities into a file, keys included, readable by its owner only
    Export {
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Encrypt it to this age public key (age1…); repeatable
        #[arg(long = "recipient", value_name = "KEY", value_delimiter = ',')]
        recipients: Vec<String>,
    },
    /// Puts exported authorities back, as after the loss of a cluster
    Restore {
        /// What `kubectl depin ca export` wrote
        file: PathBuf,
        /// File with the age identity that opens it, where it is encrypted
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// Replace another authority that is there
        #[arg(long)]
        yes: bool,
    },
}

/// What of backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Asks the gateway for one now
    Now {
        /// Until it is made
        #[arg(long)]
        wait: bool,
    },
    /// Reads all of one from its place and compares digests, and opens it where --identity is given or nothing is encrypted
    Verify {
        #[command(flatten)]
        store: depin_backup::StoreOptions,
        /// File with the age identity that opens it
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// The newest that is not younger, like 2026-11-23T08:00:00Z; default: the newest
        #[arg(long, value_name = "TIME", value_parser = depin_backup::moment)]
        at: Option<depin_domain::time::Timestamp>,
    },
    /// All of them, newest first: as the gateway tells, or the store itself where its place is given
    List {
        #[command(flatten)]
        store: depin_backup::StoreOptions,
        #[command(flatten)]
        headings: HeadingsFlag,
    },
}

/// What is taken out of a backup by hand.
#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    /// Puts the certificate authorities of a backup into Secret depin-ca; others that are there are only replaced with --yes
    Authority {
        #[command(flatten)]
        store: depin_backup::StoreOptions,
        /// File with the age identity that opens it
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
        /// From the newest backup that is not younger, like 2026-11-23T08:00:00Z; default: the newest
        #[arg(long, value_name = "TIME", value_parser = depin_backup::moment)]
        at: Option<depin_domain::time::Timestamp>,
        /// Replace another authority that is there
        #[arg(long)]
        yes: bool,
    },
    /// Makes a ledger of a backup in an empty directory of this machine, as `depin-gateway ledger restore` does; epochs close in it once every
    /// known chain has reported, or after `kubectl depin release`
    Ledger {
        #[command(flatten)]
        store: depin_backup::StoreOptions,
        /// The directory
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// File with the age identity that opens an encrypted backup
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// The newest backup that is not younger, like 2026-11-23T08:00:00Z; default: the newest
        #[arg(long, value_name = "TIME", value_parser = depin_backup::moment)]
        at: Option<depin_domain::time::Timestamp>,
    },
}

/// Viewers of the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum ViewerCommand {
    /// Makes a ServiceAccount (--viewer) in whose name people with a right to its token ask about the namespace (-n), or about all (-A); with --out
    /// instead key and certificate for --cert, --key and --ca, for whoever has no cluster
    Create {
        /// User who may ask in its name; repeatable. Others need create on serviceaccounts/token of it, and in the operator's namespace list on
        /// pods, get and create on pods/portforward
        #[arg(long = "for-user", value_name = "USER", conflicts_with = "out")]
        users: Vec<String>,
        /// Group whose members may; repeatable
        #[arg(long = "for-group", value_name = "GROUP", conflicts_with = "out")]
        groups: Vec<String>,
        /// Directory for viewer.crt, viewer.key and ca.crt
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Days for which the certificate is valid; it cannot be taken back before
        #[arg(long, requires = "out", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
        days: u16,
    },
}

/// The whole command, for completion scripts.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("kubectl-depin").chain(line.split_whitespace()))
    }

    #[test]
    fn flags_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn kubectls_flags_are_taken_before_and_after_the_command() {
        for line in [
            "--cluster c --user u --as ann --as-group a --as-group b --as-uid 7 --request-timeout 1m30s devices -A -l x=y --no-headers",
            "devices -A -l x=y --no-headers --cluster c --user u --as ann --as-group a --as-group b --as-uid 7 --request-timeout=90",
        ] {
            let arguments = parse(line).unwrap();
            let flags = &arguments.cluster;
            assert_eq!((flags.cluster.as_deref(), flags.user.as_deref()), (Some("c"), Some("u")));
            assert_eq!((flags.as_user.as_deref(), flags.as_uid.as_deref()), (Some("ann"), Some("7")));
            assert_eq!(flags.as_group, ["a", "b"]);
            assert_eq!(flags.request_timeout, Timeout(Some(Duration::from_secs(90))));
            assert!(flags.all_namespaces);
            let Command::Devices { selector, headings } = &arguments.command else { unreachable!("{line}") };
            assert_eq!((selector.selector.as_deref(), headings.no_headers), (Some("x=y"), true));
        }
    }

    #[test]
    fn a_timeout_is_a_duration_and_zero_is_none() {
        let limit = |text: &str| {
            parse(&format!("status --request-timeout={text}")).map(|given| given.cluster.request_timeout.0)
        };
        assert_eq!(parse("status").unwrap().cluster.request_timeout, Timeout(None));
        assert_eq!((limit("0").unwrap(), limit("0s").unwrap()), (None, None));
        assert_eq!(limit("500ms").unwrap(), Some(Duration::from_millis(500)));
        for wrong in ["soon", "-5s", "5parsecs", "1e9"] {
            let error = limit(wrong).unwrap_err().to_string();
            assert!(error.contains("--request-timeout"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_program_is_named_or_selected_not_both() {
        assert!(parse("epochs --program p -l a=b").is_err());
        assert!(parse("epochs -l a=b").is_ok());
    }
}

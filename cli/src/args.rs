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
    /// The ledger's address, https://host:port
    #[arg(long, global = true, env = "DEPIN_LEDGER", value_name = "URL")]
    pub(crate) ledger: Option<String>,
    /// Client certificate (PEM) of a viewer; default: an administrator's, made with the CA in the cluster
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
        /// A mosquitto.conf whose queue, in-flight and persistence settings are examined too
        #[arg(long, value_name = "FILE")]
        broker_config: Option<PathBuf>,
        /// Where agents connect, https://host:port: looked at too
        #[arg(long, env = "DEPIN_GATEWAY", value_name = "URL")]
        gateway: Option<String>,
        #[command(flatten)]
        headings: HeadingsFlag,
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
    /// Certificates with which tenants read the ledger
    #[command(subcommand)]
    Viewer(ViewerCommand),
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
            Self::Export { .. } => "export",
            Self::Recompute { .. } => "recompute",
            Self::Release { .. } => "release",
            Self::Decode { .. } => "decode",
            Self::Verify { .. } => "verify",
            Self::Completion { .. } => "completion",
        }
    }
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

/// Certificates of viewers.
#[derive(Debug, Subcommand)]
pub(crate) enum ViewerCommand {
    /// Makes key and certificate of a viewer of the namespace (-n), who needs no cluster: for --cert, --key and --ca
    Create {
        /// Directory for viewer.crt, viewer.key and ca.crt
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Days for which it is valid; it cannot be taken back before
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
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

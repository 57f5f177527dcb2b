//! The flags that all programs share.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Logging, tracing and the admin server; flatten it into a program's arguments.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryOptions {
    /// How log lines look on standard error
    #[arg(long, env = "DEPIN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: a level, or a list like `info,depin_agent=debug`
    #[arg(long, env = "DEPIN_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// OpenTelemetry collector that takes traces over gRPC, like http://127.0.0.1:4317; none: no traces
    #[arg(long, env = "DEPIN_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Share of traces that begin here and are sent, 0 to 1; a trace begun elsewhere keeps its beginner's choice
    #[arg(long, env = "DEPIN_OTLP_SAMPLE", default_value_t = 0.01, value_name = "RATIO")]
    pub otlp_sample: f64,
    /// Where /metrics, /healthz and /readyz are served over plain HTTP; port 0 picks one and logs it
    #[arg(long, env = "DEPIN_ADMIN_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub admin_listen: SocketAddr,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log: "info".to_owned(),
            otlp_endpoint: None,
            otlp_sample: 0.01,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        telemetry: TelemetryOptions,
    }

    #[test]
    fn flags_are_those_that_the_architecture_names() {
        Program::command().debug_assert();
        let program = Program::parse_from([
            "program",
            "--log-format",
            "json",
            "--log",
            "debug",
            "--otlp-endpoint",
            "http://127.0.0.1:4317",
            "--otlp-sample",
            "0.5",
            "--admin-listen",
            "127.0.0.1:9090",
        ]);
        assert_eq!(program.telemetry.log_format, LogFormat::Json);
        assert_eq!(program.telemetry.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
        assert_eq!(program.telemetry.otlp_sample, 0.5);
        assert_eq!(program.telemetry.admin_listen.port(), 9090);
    }

    #[test]
    fn flag_defaults_equal_the_types_defaults() {
        let parsed = Program::parse_from(["program"]).telemetry;
        let default = TelemetryOptions::default();
        assert_eq!(parsed.log_format, default.log_format);
        assert_eq!(parsed.log, default.log);
        assert_eq!(parsed.otlp_endpoint, default.otlp_endpoint);
        assert_eq!(parsed.otlp_sample, default.otlp_sample);
        assert_eq!(parsed.admin_listen, default.admin_listen);
    }
}

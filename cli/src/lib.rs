//! `kubectl depin`: what a person asks of a network, and what a person decides.
//!
//! Reading commands ask the ledger (through the operator, or with `--ledger`) and the API server; deciding commands change custom resources, so that RBAC
//! alone says who may. Offline commands (`recompute`, `verify`) need neither.
//!
//! Exit codes: 0 done; 1 something failed (unreachable, refused, unreadable); 2 wrong usage; 3 what was asked for does not
//! exist; 4 what was examined is not right (a root that does not recompute, a bad signature, a finding of `check`).

mod args;
mod cluster;
mod commands;
mod credentials;
mod fault;
mod ledger;
mod output;
mod query;

use std::process::ExitCode;

use clap::Parser as _;
use tracing::Instrument as _;

use crate::{
    args::{Arguments, Command},
    fault::Fault,
    output::Report,
};

/// Reads the arguments, runs the command, writes what it found.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Completion { shell } = arguments.command {
        clap_complete::generate(shell, &mut args::command(), "kubectl-depin", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    // The last spans are sent by a second thread while this one waits for them.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&Fault::failed(format!("no runtime: {error}"), "free some memory or threads"), &arguments);
        }
    };
    match runtime.block_on(traced(&arguments)) {
        Ok(report) => finish(&report, &arguments),
        Err(fault) => fail(&fault, &arguments),
    }
}

/// Runs the command in a span of its own.
async fn traced(arguments: &Arguments) -> Result<Report, Fault> {
    let telemetry = depin_telemetry::init("kubectl-depin", &(&arguments.telemetry).into())
        .map_err(|error| Fault::failed(error.to_string(), "correct --log or --otlp-endpoint"))?;
    let span = tracing::info_span!("kubectl depin", command = arguments.command.name());
    let outcome = commands::execute(arguments).instrument(span).await;
    if let Err(error) = telemetry.shutdown() {
        // What was asked for matters more than its trace.
        eprintln!("warning: the trace was not delivered: {error}");
    }
    outcome
}

fn finish(report: &Report, arguments: &Arguments) -> ExitCode {
    match report.write(arguments.output) {
        Ok(()) if report.right => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(fault::NOT_RIGHT),
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&Fault::failed(format!("cannot write: {error}"), "see where the output goes"), arguments),
    }
}

fn fail(fault: &Fault, arguments: &Arguments) -> ExitCode {
    if arguments.output == args::Output::Json {
        let value = serde_json::json!({"error": fault.message, "remedy": fault.remedy, "exitCode": fault.code});
        eprintln!("{value}");
    } else {
        eprintln!("error: {}\n  {}", fault.message, fault.remedy);
    }
    ExitCode::from(fault.code)
}

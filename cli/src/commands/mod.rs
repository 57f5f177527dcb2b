//! One command a file. Each reads, decides, and returns a report; only `output` writes.

mod admit;
mod audit;
mod backup;
mod bundle;
mod ca;
mod check;
mod decode;
mod devices;
mod epochs;
mod events;
mod explain;
mod export;
mod family;
mod judging;
mod logs;
mod owner;
mod proof;
mod proofs;
mod recompute;
mod release;
mod report;
mod restore;
mod sections;
mod status;
mod suspend;
mod token;
mod tree;
mod upgrade;
mod verify;
mod viewer;

use crate::{
    args::{Arguments, Command},
    cluster::Cluster,
    fault::Fault,
    ledger::Ledger,
    output::Report,
};

/// Runs the command that was asked for.
pub(crate) async fn execute(arguments: &Arguments) -> Result<Report, Fault> {
    let cluster = || Cluster::connect(&arguments.cluster);
    let ledger = || Ledger::connect(arguments);
    match &arguments.command {
        Command::Status => status::run(arguments).await,
        Command::Check { pre, wait, broker_config, gateway } => {
            let wanted = check::Wanted {
                pre: *pre,
                wait: wait.0,
                broker: broker_config.as_deref(),
                gateway: gateway.as_deref(),
            };
            check::run(arguments, &wanted).await
        }
        Command::Devices { selector, headings } => {
            devices::run(&cluster().await?, Ledger::optional(arguments).await?.ok(), selector, *headings).await
        }
        Command::Epochs { program, selector, headings, limit } => {
            let wanted = epochs::Wanted { program: program.as_deref(), selector, limit: *limit };
            epochs::run(arguments, &ledger().await?, &wanted, *headings).await
        }
        Command::Explain { device, epoch, program } => {
            let wanted = explain::Wanted { device, epoch: *epoch, program: program.as_deref() };
            explain::run(&ledger().await?, &own_namespace(arguments).await, &wanted).await
        }
        Command::Proof { account, program } => {
            let of = named_namespace(arguments);
            proof::run(&ledger().await?, &own_namespace(arguments).await, account, program.as_deref(), of).await
        }
        Command::Proofs { device, out, limit, headings } => {
            let wanted = proofs::Wanted { device, limit: *limit };
            proofs::run(&ledger().await?, &own_namespace(arguments).await, &wanted, out.as_deref(), *headings).await
        }
        Command::Approve { name, fleet, owner, object } => {
            let choice = admit::Choice { fleet: fleet.as_deref(), owner: owner.as_deref(), object: object.as_deref() };
            admit::approve(&cluster().await?, name, &choice).await
        }
        Command::Deny { name, reason } => admit::deny(&cluster().await?, name, reason).await,
        Command::Suspend { target, reason } => {
            suspend::run(&cluster().await?, &target.target, true, Some(reason)).await
        }
        Command::Resume { target, reason } => {
            suspend::run(&cluster().await?, &target.target, false, reason.as_deref()).await
        }
        Command::Token(command) => token::run(arguments, command).await,
        Command::Viewer(command) => viewer::run(arguments, command).await,
        Command::Ca(command) => ca::run(arguments, command).await,
        Command::Export { program, epoch, audit, owner, out } => {
            let wanted = export::Wanted { program, epoch: *epoch, audit: *audit, owner: owner.as_ref() };
            export::run(&ledger().await?, &own_namespace(arguments).await, &wanted, out).await
        }
        Command::Tree { target } => tree::run(&cluster().await?, target).await,
        Command::Events { target, headings } => events::run(&cluster().await?, target.as_deref(), *headings).await,
        Command::Logs(flags) => logs::run(&cluster().await?, &arguments.cluster.operator_namespace, flags).await,
        Command::Report { out, tail, agents_namespace } => {
            let wanted = report::Wanted { out: out.as_deref(), tail: *tail, agents_namespace };
            report::run(arguments, &wanted).await
        }
        Command::Upgrade(command) => upgrade::run(arguments, command).await,
        Command::Decode { model, topic, file } => decode::run(&arguments.cluster, model, topic, file).await,
        Command::Recompute { path, previous } => recompute::run(path, previous.as_deref()),
        Command::Backup { command } => backup::run(arguments, command.as_ref()).await,
        Command::Restore(command) => restore::run(arguments, command).await,
        Command::Release { yes } => release::run(&ledger().await?, *yes).await,
        Command::Verify { file, trusted } => verify::run(file, trusted),
        // Answered before a runtime exists.
        Command::Completion { .. } => Ok(Report::new(serde_json::Value::Null, "")),
    }
}

/// The namespace that is meant: the flag, else the context's, else `default`; reading the ledger needs no API server.
async fn own_namespace(arguments: &Arguments) -> String {
    match (&arguments.cluster.namespace, Cluster::connect(&arguments.cluster).await) {
        (Some(namespace), _) => namespace.clone(),
        (None, Ok(cluster)) => cluster.namespace,
        (None, Err(_)) => "default".to_owned(),
    }
}

/// The namespace to which a list of the ledger's programs is limited: that of `-n`, unless `-A` asks for all.
fn named_namespace(arguments: &Arguments) -> Option<&str> {
    arguments.cluster.namespace.as_deref().filter(|_| !arguments.cluster.all_namespaces)
}

/// Whether `id`, `namespace/name`, is in the namespace; in any where none is named.
fn is_in(namespace: Option<&str>, id: &str) -> bool {
    namespace.is_none_or(|namespace| id.split_once('/').is_some_and(|(of, _)| of == namespace))
}

//! `backup`: how the ledger's backups go, one more of them now, and which there are.

use std::path::Path;

use depin_backup::{Generation, StoreOptions};
use depin_domain::time::Timestamp;
use depin_proto::v1::{BackupGeneration, BackupStatus};
use serde_json::{Value, json};

use super::restore::{chosen, failed, identities, place, unusable};
use crate::{
    args::{Arguments, BackupCommand, HeadingsFlag},
    fault::Fault,
    ledger::Ledger,
    output::{Report, Table, when},
};

pub(super) async fn run(arguments: &Arguments, command: Option<&BackupCommand>) -> Result<Report, Fault> {
    match command {
        None => status(arguments).await,
        Some(BackupCommand::Now { wait }) => now(arguments, *wait).await,
        Some(BackupCommand::List { store, headings }) => list(arguments, store, *headings).await,
        Some(BackupCommand::Verify { store, identity, at }) => verify(store, identity.as_deref(), *at).await,
    }
}

async fn status(arguments: &Arguments) -> Result<Report, Fault> {
    let ledger = Ledger::connect(arguments).await?;
    Ok(told(&ledger.backups(false).await?, ledger.info().await?.now))
}

async fn now(arguments: &Arguments, wait: bool) -> Result<Report, Fault> {
    let ledger = Ledger::connect(arguments).await?;
    let report = told(&ledger.back_up(wait).await?, ledger.info().await?.now);
    if wait {
        return Ok(report);
    }
    let text = format!("asked for a backup; see how it goes: kubectl depin backup\n\n{}", report.text);
    Ok(Report { text, right: true, ..report })
}

fn told(status: &BackupStatus, now: i64) -> Report {
    let right = status.of_database || (status.configured && status.failure.is_empty());
    Report { right, ..Report::new(value(status, now), describe(status, now)) }
}

/// Whether a backup would come back.
async fn verify(options: &StoreOptions, identity: Option<&Path>, at: Option<Timestamp>) -> Result<Report, Fault> {
    let identities = identity.map(identities).transpose()?;
    let store = place(options)?;
    let generation = chosen(&*store, at).await?;
    let found = depin_backup::verify(&*store, generation, identities.as_ref()).await.map_err(failed)?;
    let value = json!({
        "at": when(generation.at), "incarnation": generation.incarnation, "position": generation.position, "objects": found.objects,
        "storedBytes": found.bytes, "opened": found.opened, "authority": found.authority, "findings": found.findings,
    });
    let mut lines =
        vec![format!("the backup of {}: {} objects, {}", when(generation.at), found.objects, size(found.bytes))];
    lines.extend(found.findings.iter().map(|finding| format!("DAMAGED   {finding}")));
    if found.findings.is_empty() {
        lines.push(
            if found.opened {
                "every object is as it was written, and opens"
            } else {
                "every object is as it was written; whether it opens, --identity FILE tells"
            }
            .to_owned(),
        );
    }
    let authority = if found.authority { "the authorities are in it" } else { "the authorities are not in it" };
    lines.push(authority.to_owned());
    Ok(Report { right: found.findings.is_empty(), ..Report::new(value, lines.join("\n")) })
}

/// What the store holds: as the gateway tells, or, with a place, as the store itself tells, when no gateway runs.
async fn list(arguments: &Arguments, store: &StoreOptions, headings: HeadingsFlag) -> Result<Report, Fault> {
    let generations: Vec<Generation> = match store.open_existing().map_err(unusable)? {
        Some(store) => Generation::list(&*store).await.map_err(unusable)?,
        None => {
            let told = Ledger::connect(arguments).await?.backups(true).await?.generations;
            told.iter().map(generation_told).collect()
        }
    };
    let mut table = Table::new(["AT", "INCARNATION", "POSITION"]).headed(headings);
    for one in generations.iter().rev() {
        table.row([when(one.at), one.incarnation.to_string(), one.position.to_string()]);
    }
    let json = generations.iter().map(value_of).collect();
    Ok(Report::new(json, table.or("there is no backup")))
}

/// One that the gateway told of.
fn generation_told(told: &BackupGeneration) -> Generation {
    Generation { incarnation: told.incarnation, position: told.position, at: Timestamp(told.at) }
}

fn value_of(one: &Generation) -> Value {
    json!({"incarnation": one.incarnation, "position": one.position, "at": when(one.at)})
}

fn value(status: &BackupStatus, now: i64) -> Value {
    let newest = status.newest.as_ref().map(|newest| {
        let mut value = value_of(&generation_told(newest));
        value["files"] = newest.files.into();
        value["storedBytes"] = newest.stored_bytes.into();
        value["sentBytes"] = newest.sent_bytes.into();
        value["tookMs"] = newest.took_ms.into();
        value["ageMs"] = (now - newest.at).into();
        value["behindBytes"] = status.position.saturating_sub(newest.position).into();
        value
    });
    json!({
        "configured": status.configured, "target": status.target, "recipients": status.recipients, "everyMs": status.every_ms,
        "newest": newest, "failure": status.failure, "failures": status.failures, "running": status.running,
        "authority": !status.authority_sha256.is_empty(), "ofDatabase": status.of_database,
    })
}

/// For people.
pub(super) fn describe(status: &BackupStatus, now: i64) -> String {
    if status.of_database {
        return "the ledger is in PostgreSQL, whose own tools back it up (pg_dump, or base backups with archived WAL): tell of them with\n\
                depin-gateway ledger backup-begins and backup-completed; save the authorities with kubectl depin ca export"
            .to_owned();
    }
    if !status.configured {
        return "no backup is configured: what is durable on the gateway's one disk counts as archived, and agents forget it\n\
                give the gateway --backup-dir or --backup-s3"
            .to_owned();
    }
    let sealed = if status.recipients.is_empty() {
        "not encrypted".to_owned()
    } else {
        format!("encrypted to {}", status.recipients.join(", "))
    };
    let mut lines = vec![format!("{}, every {}, {sealed}", status.target, span(status.every_ms))];
    lines.push(match &status.newest {
        Some(newest) => format!(
            "newest    {} ({} ago), {} in {} files, {} of it sent in {}; {} behind",
            when(Timestamp(newest.at)),
            span(now - newest.at),
            size(newest.stored_bytes),
            newest.files,
            size(newest.sent_bytes),
            span(newest.took_ms),
            size(status.position.saturating_sub(newest.position)),
        ),
        None if status.running => "newest    none since the gateway started; one is under way".to_owned(),
        None => "newest    none since the gateway started".to_owned(),
    });
    let authority = if status.authority_sha256.is_empty() {
        "authority not in it: give the operator --backup-recipient, or keep what kubectl depin ca export writes"
    } else {
        "authority in it, encrypted by the operator"
    };
    lines.push(authority.to_owned());
    if !status.failure.is_empty() {
        lines.push(format!("FAILED    ({} times) {}", status.failures, status.failure));
    }
    lines.join("\n")
}

fn span(ms: i64) -> String {
    match ms {
        ..10_000 => format!("{} ms", ms.max(0)),
        10_000..600_000 => format!("{} s", ms / 1_000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_old_the_newest_is_how_much_is_in_none_and_what_failed() {
        let newest = BackupGeneration {
            incarnation: 1,
            position: 1_000,
            at: 1_800_000_000_000,
            files: 3,
            stored_bytes: 52_000_000,
            sent_bytes: 40_000,
            took_ms: 1_500,
        };
        let status = BackupStatus {
            configured: true,
            target: "https://s3.example/bucket".into(),
            every_ms: 900_000,
            newest: Some(newest),
            position: 21_000,
            failure: "no answer".into(),
            failures: 2,
            ..Default::default()
        };
        let text = describe(&status, 1_800_000_840_000);
        for part in [
            "every 15 min, not encrypted",
            "(14 min ago), 52 MB in 3 files, 40 kB",
            "20 kB behind",
            "(2 times) no answer",
            "authority not in it",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(value(&status, 1_800_000_840_000)["newest"]["behindBytes"], 20_000);
        assert!(describe(&BackupStatus::default(), 0).contains("--backup-s3"));
        assert!(describe(&BackupStatus { of_database: true, ..BackupStatus::default() }, 0).contains("pg_dump"));
    }
}

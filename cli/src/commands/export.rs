//! `export`: fetches an epoch's public, audit or owner's export into a directory.

use std::{io::Write as _, path::Path};

use depin_domain::rewards::Account;
use depin_proto::v1::{ReadExportRequest, read_export_request::Kind};
use serde_json::json;

use crate::{fault::Fault, ledger::Ledger, output::Report};

/// What is fetched.
pub(super) struct Wanted<'a> {
    pub(super) program: &'a str,
    pub(super) epoch: Option<u64>,
    pub(super) audit: bool,
    pub(super) owner: Option<&'a Account>,
}

pub(super) async fn run(ledger: &Ledger, namespace: &str, wanted: &Wanted<'_>, out: &Path) -> Result<Report, Fault> {
    let program = if wanted.program.contains('/') {
        wanted.program.to_owned()
    } else {
        format!("{namespace}/{}", wanted.program)
    };
    let number = match wanted.epoch {
        Some(number) => number,
        None => match ledger.epochs(&program).await?.pop() {
            Some(computed) => computed.summary.number,
            None => {
                return Err(Fault::not_found(
                    format!("no epoch of {program} was computed yet"),
                    "wait for the first: kubectl depin epochs",
                ));
            }
        },
    };
    std::fs::create_dir_all(out).map_err(|error| Fault::file(out, error))?;
    let kind = match wanted.owner {
        Some(_) => Kind::Owner,
        None if wanted.audit => Kind::Audit,
        None => Kind::Public,
    };
    let account = wanted.owner.map(Account::to_string).unwrap_or_default();
    let request = ReadExportRequest { program: program.clone(), number, kind: kind.into(), account };
    let mut stream = ledger.export(request).await?;
    let mut files = Vec::new();
    let mut open: Option<std::fs::File> = None;
    while let Some(chunk) = stream.message().await? {
        if !chunk.name.is_empty() {
            if Path::new(&chunk.name).file_name().is_none_or(|name| name != chunk.name.as_str()) {
                return Err(Fault::failed(
                    format!("the export names {:?}, which is no plain file name", chunk.name),
                    "report it",
                ));
            }
            let path = out.join(&chunk.name);
            open = Some(std::fs::File::create(&path).map_err(|error| Fault::file(&path, error))?);
            files.push(chunk.name);
        }
        if let Some(file) = &mut open {
            file.write_all(&chunk.data).map_err(|error| Fault::file(out, error))?;
        }
    }
    let text = format!(
        "{program}, epoch {number}: {} in {}\nrepeat it: kubectl depin recompute {}",
        files.join(", "),
        out.display(),
        out.display()
    );
    Ok(Report::new(json!({"program": program, "epoch": number, "files": files, "directory": out}), text))
}

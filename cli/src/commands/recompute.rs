//! `recompute`: repeats an epoch from its public export alone, anywhere, and says whether weights, amounts and root are right.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use depin_domain::{
    ids::Digest,
    rewards::{
        Account, Amount, EpochSummary, Line, ProgramSpec,
        public::{PublicEpoch, recompute},
    },
};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::Field,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    fault::Fault,
    output::{Report, Table},
};

/// The format that this program reads.
const FORMAT: &str = "depin.v1.PublicExport";
/// Differences that a table shows.
const SHOWN: usize = 50;

#[derive(Debug, Deserialize)]
struct Manifest {
    format: String,
    files: Vec<Named>,
    summary: EpochSummary,
    spec: ProgramSpec,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    sha256: Digest,
}

pub(super) fn run(path: &Path) -> Result<Report, Fault> {
    let manifest = if path.is_dir() { path.join("manifest.json") } else { path.to_owned() };
    let public = read(&manifest)?;
    let number = public.summary.number;
    let again = recompute(&public).map_err(|error| Fault::file(&manifest, error))?;
    let mut table = Table::new(["WHAT", "PUBLISHED", "RECOMPUTED"]);
    for difference in again.differences.iter().take(SHOWN) {
        table.row([difference.what.clone(), difference.published.clone(), difference.recomputed.clone()]);
    }
    let more = again.differences.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("… and {more} more\n") } else { String::new() };
    let root = again.root.as_deref().unwrap_or("none");
    let text = format!(
        "{}, epoch {number}: {} devices, Σw {}, shares {} of a pool of {}\nroot {root}\n{}{more}",
        public.summary.program,
        public.lines.len(),
        again.weight_sum,
        again.shares,
        public.summary.pool,
        table.or("Every weight, every amount and the root are as published.")
    );
    let value = json!({
        "program": public.summary.program, "epoch": number, "devices": public.lines.len(), "weightSum": again.weight_sum.to_string(),
        "shares": again.shares, "root": again.root, "differences": again.differences,
    });
    Ok(Report { right: again.differences.is_empty(), ..Report::new(value, text) })
}

fn read(path: &Path) -> Result<PublicEpoch, Fault> {
    let text = std::fs::read(path).map_err(|error| Fault::file(path, error))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Fault::file(path, error))?;
    if manifest.format != FORMAT {
        return Err(Fault::file(path, format!("has the format {:?}; this program reads {FORMAT}", manifest.format)));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut public =
        PublicEpoch { spec: manifest.spec, summary: manifest.summary, lines: Vec::new(), accounts: Vec::new() };
    for named in &manifest.files {
        // A name from a file that somebody sent leads nowhere else.
        let plain = Path::new(&named.name).file_name().is_some_and(|name| name == named.name.as_str());
        if !plain {
            return Err(Fault::file(path, format!("{:?} is no plain file name", named.name)));
        }
        let file = directory.join(&named.name);
        let bytes = std::fs::read(&file).map_err(|error| Fault::file(&file, error))?;
        if Digest::of(&bytes) != named.sha256 {
            return Err(Fault::file(&file, "is not the file that the manifest names: its SHA-256 differs"));
        }
        match named.name.as_str() {
            "public.parquet" => public.lines = lines(&file)?,
            "accounts.parquet" => public.accounts = accounts(&file)?,
            _ => {}
        }
    }
    Ok(public)
}

/// The named text columns of each row.
fn rows<const N: usize>(path: &PathBuf, columns: [&str; N]) -> Result<Vec<[String; N]>, Fault> {
    let file = File::open(path).map_err(|error| Fault::file(path, error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| Fault::file(path, error))?;
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).map_err(|error| Fault::file(path, error))? {
        let row = row.map_err(|error| Fault::file(path, error))?;
        let mut texts = [const { String::new() }; N];
        for (name, field) in row.get_column_iter() {
            if let (Some(at), Field::Str(text)) = (columns.iter().position(|column| column == name), field) {
                texts[at].clone_from(text);
            }
        }
        rows.push(texts);
    }
    Ok(rows)
}

fn lines(path: &PathBuf) -> Result<Vec<Line>, Fault> {
    let parse = |[line]: &[String; 1]| serde_json::from_str(line).map_err(|error| Fault::file(path, error));
    rows(path, ["line"])?.iter().map(parse).collect()
}

fn accounts(path: &PathBuf) -> Result<Vec<(Account, Amount)>, Fault> {
    let parse = |[account, cumulative]: &[String; 2]| {
        let account = account.parse().map_err(|error| Fault::file(path, error))?;
        Ok((account, cumulative.parse().map_err(|error| Fault::file(path, error))?))
    };
    rows(path, ["account", "cumulative"])?.iter().map(parse).collect()
}

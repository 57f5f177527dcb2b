//! Prints what the ledger holds as one JSON object: the demo's eyes. It is a tool of the project, not a product: users have
//! `kubectl depin`.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use depin_domain::time::Timestamp;
use depin_tests::Observer;
use serde_json::json;

/// Print what the ledger holds as JSON
#[derive(Parser)]
struct Options {
    /// The ledger's address
    #[arg(long)]
    ledger: String,
    /// Folder with the authority's tls.crt and tls.key
    #[arg(long)]
    authority: PathBuf,
    /// Programs, each NAMESPACE/NAME, whose epochs are wanted
    #[arg(long)]
    program: Vec<String>,
    /// With each epoch's lines
    #[arg(long)]
    lines: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let read = |name: &str| {
        let path = options.authority.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let now = Timestamp(i64::try_from(now.as_millis())?);
    let mut observer = Observer::connect(&options.ledger, &read("tls.crt")?, &read("tls.key")?, now)?;
    let mut epochs = Vec::new();
    for program in &options.program {
        for summary in observer.epochs(program).await? {
            let number = summary["number"].as_u64().context("an epoch without a number")?;
            let lines = if options.lines { observer.lines(program, number).await? } else { Vec::new() };
            epochs.push(json!({ "summary": summary, "lines": lines }));
        }
    }
    println!(
        "{}",
        json!({ "readings": observer.readings().await?, "epochs": epochs, "devices": observer.presence().await? })
    );
    Ok(())
}

//! What every computed epoch must satisfy, whoever computed it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{packages, workspace};

/// The conservation equation of an epoch's summary, and its root by another implementation where Python is there; false where it is not.
///
/// # Errors
/// When one does not hold.
pub fn check(epoch: &Value) -> Result<bool> {
    conserved(epoch)?;
    if packages::PYTHON.find().is_none() {
        return Ok(false);
    }
    let root = epoch["root"].as_str().unwrap_or_default();
    ensure!(second_root(&epoch["payouts"])? == root, "the root differs: {epoch}");
    Ok(true)
}

/// Σ payouts + unallocated + carriedOut = minted + carriedIn.
fn conserved(epoch: &Value) -> Result<()> {
    let amount = |value: &Value| -> Result<u128> {
        value.as_str().and_then(|text| text.parse().ok()).with_context(|| format!("{value} is no amount"))
    };
    let mut out = amount(&epoch["unallocated"])? + amount(&epoch["carriedOut"])?;
    for payout in epoch["payouts"].as_array().context("payouts are missing")? {
        out += amount(&payout["amount"])?;
    }
    ensure!(out == amount(&epoch["minted"])? + amount(&epoch["carriedIn"])?, "not conserved: {epoch}");
    Ok(())
}

/// The root by the second implementation; empty where nobody can claim anything.
fn second_root(payouts: &Value) -> Result<String> {
    let script = "import json,sys; from rewards import merkle_root; \
                  print(merkle_root([(p['account'], int(p['cumulative'])) for p in json.loads(sys.argv[1])]) or '')";
    let mut command = Command::new("python3");
    command.args(["-B", "-c", script, &payouts.to_string()]).current_dir(workspace().join("tests/second"));
    let output = command.output().context("cannot run python3")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

//! What every computed epoch must satisfy, whoever computed it.

use std::process::Command;

use serde_json::Value;

use crate::workspace;

/// The conservation equation, and the root by another implementation, of an epoch's summary.
///
/// # Panics
/// When one does not hold.
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it cannot go on")]
pub fn check(epoch: &Value) {
    let paid: u128 = epoch["payouts"].as_array().unwrap().iter().map(|payout| amount(&payout["amount"])).sum();
    assert_eq!(
        paid + amount(&epoch["unallocated"]) + amount(&epoch["carriedOut"]),
        amount(&epoch["minted"]) + amount(&epoch["carriedIn"]),
        "{epoch}"
    );
    let python = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if python {
        assert_eq!(root_by_second_implementation(&epoch["payouts"]), epoch["root"].as_str().unwrap_or_default());
    } else {
        println!("skipped: python3 is missing (install it): roots are not recomputed");
    }
}

#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
fn root_by_second_implementation(payouts: &Value) -> String {
    let script = "import json,sys; from rewards import merkle_root; \
                  print(merkle_root([(p['account'], int(p['cumulative'])) for p in json.loads(sys.argv[1])]) or '')";
    let second = workspace().join("tests/second");
    let output = Command::new("python3").args(["-B", "-c", script, &payouts.to_string()]).current_dir(second).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

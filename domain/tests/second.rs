//! Randomized programs and epochs: the second implementation (`tests/second/`, Python) agrees to the last unit, and what must
//! hold for every epoch holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod networks;

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use depin_domain::rewards::{EpochInput, EpochResult, close_epoch};
use serde_json::{Value, json};

/// Epochs that one Python process computes.
const BATCH: usize = 40;

#[test]
fn a_second_implementation_agrees() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/second");
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: python3 is not installed (remedy: apt-get install python3)");
        return;
    }
    depin_trials::run("epochs against the second implementation", |rng| {
        let mut epochs = Vec::new();
        while epochs.len() < BATCH {
            epochs.extend(networks::history(rng, 8));
        }
        let theirs = second(&directory, &epochs);
        assert_eq!(theirs.len(), epochs.len());
        for ((input, result), theirs) in epochs.iter().zip(theirs) {
            let ours = plain(result);
            for (key, value) in ours.as_object().unwrap() {
                assert_eq!(&theirs[key], value, "{key} of {}", serde_json::to_string(input).unwrap());
            }
        }
    });
}

fn second(directory: &PathBuf, epochs: &[(EpochInput, EpochResult)]) -> Vec<Value> {
    let mut python = Command::new("python3")
        .args(["-B", "rewards.py"])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = Vec::new();
    for (input, _) in epochs {
        serde_json::to_writer(&mut text, input).unwrap();
        text.push(b'\n');
    }
    let mut stdin = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&text));
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the second implementation failed");
    writer.join().unwrap().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A result in the form in which the second implementation writes it.
fn plain(result: &EpochResult) -> Value {
    let EpochResult { summary, lines, state, payouts } = result;
    let own = || lines.iter().filter(|line| !line.reasons.iter().any(|zero| zero.label() == "NotInProgram"));
    let by_device = |value: &dyn Fn(&depin_domain::rewards::Line) -> Value| -> Value {
        own().map(|line| (line.device.to_string(), value(line))).collect::<serde_json::Map<_, _>>().into()
    };
    let late = |number: u64| -> Value {
        let paid = lines.iter().flat_map(|line| line.late.iter().map(move |late| (line.device, late)));
        paid.filter(|(_, late)| late.number == number && !late.paid.is_zero())
            .map(|(device, late)| (device.to_string(), json!(late.paid)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    json!({
        "minted": summary.minted, "carriedIn": summary.carried_in, "carriedOut": summary.carried_out,
        "carry": state.carry, "unallocated": summary.unallocated, "bucket": summary.bucket, "pool": summary.pool,
        "weightSum": summary.weight_sum.to_string(), "root": summary.root,
        "features": by_device(&|line| json!(line.features.iter().map(|value| value.map(|value| value.to_string())).collect::<Vec<_>>())),
        "weights": by_device(&|line| json!(line.weight)),
        "shares": by_device(&|line| json!(line.share)),
        "reasons": by_device(&|line| json!(line.reasons.iter().map(|zero| zero.label()).collect::<Vec<_>>())),
        "late": summary.matured.iter().map(|matured| (matured.number.to_string(), late(matured.number))).collect::<serde_json::Map<_, _>>(),
        "corrections": summary.matured.iter().map(|matured| (matured.number.to_string(), json!(matured.corrections))).collect::<serde_json::Map<_, _>>(),
        "payouts": payouts.iter().map(|payout| json!([payout.account, payout.amount, payout.cumulative])).collect::<Vec<_>>(),
        "accounts": state.accounts.iter().map(|account| json!([account.account, account.cumulative, account.debt])).collect::<Vec<_>>(),
        "held": state.held.iter().map(|held| json!([held.device, held.number, held.amount])).collect::<Vec<_>>(),
        "released": state.released.iter().map(|entry| json!([entry.device, entry.number, entry.amount, entry.shares])).collect::<Vec<_>>(),
        "open": state.open.iter().map(|open| json!([open.number, open.bucket, open.pool])).collect::<Vec<_>>(),
    })
}

#[test]
fn every_epoch_conserves_and_no_cumulative_amount_falls() {
    depin_trials::run("conservation, order, monotony", |rng| {
        for (input, result) in networks::history(rng, 12) {
            let paid: u128 = result.payouts.iter().map(|payout| payout.amount.0).sum();
            let summary = &result.summary;
            assert_eq!(paid + summary.unallocated.0 + summary.carried_out.0, summary.minted.0 + summary.carried_in.0);
            for before in &input.state.accounts {
                let after = result.state.accounts.iter().find(|account| account.account == before.account);
                assert!(after.map_or(0, |account| account.cumulative.0) >= before.cumulative.0);
            }
            for line in &result.lines {
                assert_eq!(line.weight == 0, !line.admitted);
                assert!(!line.share.is_zero() || !line.reasons.is_empty(), "a zero line has a reason: {line:?}");
            }
            let mut shuffled = input.clone();
            networks::shuffle(rng, &mut shuffled.devices);
            networks::shuffle(rng, &mut shuffled.matured);
            shuffled.matured.iter_mut().for_each(|matured| networks::shuffle(rng, &mut matured.devices));
            assert_eq!(close_epoch(&shuffled).unwrap(), result);
        }
    });
}

#[test]
fn weights_count_only_by_their_proportions() {
    depin_trials::run("scaling of weights", |rng| {
        let (mut input, result) = networks::history(rng, 1).remove(0);
        // Weights stay below their limit, no intermediate result overflows more than before.
        if result.lines.iter().any(|line| {
            line.raw_weight > 1_000_000_000 || line.reasons.iter().any(|zero| zero.label() == "WeightError")
        }) {
            return;
        }
        input.spec.weight = format!("7 * ({})", input.spec.weight);
        let scaled = close_epoch(&input).unwrap();
        let shares = |result: &EpochResult| result.lines.iter().map(|line| line.share).collect::<Vec<_>>();
        assert_eq!(shares(&scaled), shares(&result));
        assert_eq!(scaled.summary.root, result.summary.root);
    });
}

#[test]
fn extreme_values_are_errors_or_zeros_never_panics() {
    depin_trials::run("extreme values", |rng| {
        let (mut input, _) = networks::history(rng, 1).remove(0);
        networks::make_extreme(rng, &mut input);
        // Either a result that conserves, or an error that says why.
        if let Err(error) = close_epoch(&input) {
            assert!(!error.to_string().is_empty());
        }
    });
}

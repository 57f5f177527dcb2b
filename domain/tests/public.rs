//! A public export alone repeats its epoch; a changed figure is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod networks;

use depin_domain::rewards::{
    Account, Amount, EpochInput, EpochResult, EpochSummary, Line, Payout,
    merkle::{StandardTree, to_text},
    public::{Previous, PublicEpoch, Recomputed, recompute},
};
use depin_trials::{Rng, below};
use serde_json::{Value, json};

fn published((input, result): &(EpochInput, EpochResult)) -> PublicEpoch {
    PublicEpoch {
        spec: input.spec.clone(),
        summary: result.summary.clone(),
        lines: result.lines.clone(),
        accounts: vec![],
    }
}

fn previous((_, result): &(EpochInput, EpochResult)) -> Previous {
    Previous { summary: result.summary.clone(), accounts: vec![] }
}

/// As if there were too many accounts for the summary.
fn in_state(summary: &mut EpochSummary) -> Vec<(Account, Amount)> {
    summary.payouts_in_state = true;
    std::mem::take(&mut summary.payouts).iter().map(|payout| (payout.account, payout.cumulative)).collect()
}

#[test]
fn an_export_repeats_its_epoch_with_and_without_the_one_before() {
    depin_trials::run("public exports", |rng| {
        let history = networks::history(rng, 8);
        for (at, epoch) in history.iter().enumerate() {
            let public = published(epoch);
            let before = at.checked_sub(1).map(|before| previous(&history[before]));
            for before in [None, before.as_ref()] {
                let again = recompute(&public, before).unwrap();
                assert_eq!(again.differences, [], "{}", serde_json::to_string(&epoch.0).unwrap());
                assert_eq!(again.root, epoch.1.summary.root);
                let told = again.not_checked.iter().any(|told| told.contains("carried in"));
                assert_eq!(told, before.is_none(), "{:?}", again.not_checked);
            }
        }
    });
}

/// Figures that no export can show: what they rest on is not published. [`Recomputed::not_checked`] says so.
const TOLD: [&str; 8] =
    ["program", "linesDigest", "stateDigest", "features", "rawWeight of late", "room", "claims", "correction"];

/// The JSON pointers of all figures.
fn figures(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                figures(field, format!("{at}/{name}"), into);
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                figures(item, format!("{at}/{place}"), into);
            }
        }
        _ => into.push(at),
    }
}

/// Whether another value there could be just as true: nothing rests on it.
fn is_told(whole: &Value, at: &str) -> bool {
    let (parent, mut name) = at.rsplit_once('/').unwrap();
    let late = at.contains("/late/");
    if late && name == "rawWeight" {
        name = "rawWeight of late";
    }
    let parent_value = whole.pointer(parent).unwrap();
    let zero = |field: &str| parent_value.get(field).is_none_or(|amount| amount == "0");
    TOLD.contains(&name)
        || at.contains("/features/")
        // A pseudonym is any name.
        || name == "device"
        // Parts of nothing, and parts that the same rounding gives.
        || name == "basisPoints"
        || (name == "account" && zero("amount") && parent.contains("/owners/") | parent.contains("/debts/"))
        // Lines and totals that move nothing.
        || (name == "number" && zero("paid") && zero("dues") && zero("due") && zero("corrected") && zero("corrections"))
}

fn change(value: &mut Value) {
    *value = match &*value {
        Value::Bool(bool) => json!(!bool),
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        Value::String(text) => match text.parse::<u128>() {
            Ok(number) => json!(number.wrapping_add(1).to_string()),
            Err(_) => {
                let last = if text.ends_with('0') { '1' } else { '0' };
                let mut text: Vec<char> = text.chars().collect();
                text.pop();
                text.push(last);
                json!(text.iter().collect::<String>())
            }
        },
        _ => json!("1"),
    };
}

fn repeated(public: &PublicEpoch, whole: &Value, before: &Previous) -> Option<Recomputed> {
    let summary: EpochSummary = serde_json::from_value(whole["summary"].clone()).ok()?;
    let lines: Vec<Line> = serde_json::from_value(whole["lines"].clone()).ok()?;
    recompute(&PublicEpoch { summary, lines, ..public.clone() }, Some(before)).ok()
}

#[test]
fn every_changed_figure_is_betrayed() {
    depin_trials::run("changed exports", |rng| {
        let history = networks::history(rng, 6);
        for pair in history.windows(2) {
            let (public, before) = (published(&pair[1]), previous(&pair[0]));
            let whole = json!({"summary": public.summary, "lines": public.lines});
            let mut all = Vec::new();
            figures(&whole, String::new(), &mut all);
            all.retain(|at| !is_told(&whole, at));
            for at in sample(rng, &all) {
                let mut changed = whole.clone();
                change(changed.pointer_mut(at).unwrap());
                // What cannot even be read is no export.
                let Some(again) = repeated(&public, &changed, &before) else { continue };
                assert!(!again.differences.is_empty(), "{at} of {changed} after {}", json!(before.summary));
            }
        }
    });
}

fn sample<'a>(rng: &mut Rng, all: &'a [String]) -> Vec<&'a String> {
    (0..30.min(all.len())).map(|_| &all[below(rng, all.len() as u64) as usize]).collect()
}

/// Epochs whose last one pays somebody and carries something on.
fn paying(rng: &mut Rng) -> Option<(PublicEpoch, Previous)> {
    let history = networks::history(rng, 4);
    let (public, before) = (published(&history[3]), previous(&history[2]));
    let pays = public.summary.payouts.iter().any(|payout| payout.amount.0 > 1) && public.summary.carried_out.0 > 1;
    pays.then_some((public, before))
}

fn set_root(summary: &mut EpochSummary) {
    let leaves: Vec<_> = summary.payouts.iter().map(|payout| (payout.account, payout.cumulative)).collect();
    summary.leaves = leaves.len() as u64;
    summary.root = StandardTree::new(&leaves).map(|tree| to_text(&tree.root()));
}

fn whats(public: &PublicEpoch, before: Option<&Previous>) -> String {
    recompute(public, before).unwrap().differences.iter().map(|found| format!("{}; ", found.what)).collect()
}

#[test]
fn consistent_lies_are_betrayed_too() {
    depin_trials::run("consistent lies", |rng| {
        let Some((public, before)) = paying(rng) else { return };
        // One unit of what is carried goes to an account that no line pays, with a right root and right sums.
        let mut phantom = public.clone();
        let account = Account([0xff; 20]);
        phantom.summary.payouts.push(Payout { account, amount: Amount(1), cumulative: Amount(1), debt: Amount(0) });
        phantom.summary.carried_out = Amount(phantom.summary.carried_out.0 - 1);
        set_root(&mut phantom.summary);
        assert!(whats(&phantom, None).contains(&format!("account {account} amount")));

        // A cumulative amount that is not what it was and what came to it, with a right root.
        let mut inflated = public.clone();
        inflated.summary.payouts[0].cumulative.0 += 5;
        set_root(&mut inflated.summary);
        assert_eq!(whats(&inflated, None), "", "nothing in one export contradicts it");
        assert!(whats(&inflated, Some(&before)).contains("cumulative"));

        // A payout kept back and called a correction: nothing was owed.
        let mut robbed = public.clone();
        let victim = robbed.summary.payouts.iter_mut().find(|payout| payout.amount.0 > 1).unwrap();
        victim.amount.0 -= 1;
        victim.cumulative.0 -= 1;
        let account = victim.account;
        for total in [&mut robbed.summary.offset, &mut robbed.summary.carry, &mut robbed.summary.carried_out] {
            total.0 += 1;
        }
        set_root(&mut robbed.summary);
        assert!(whats(&robbed, Some(&before)).contains(&format!("account {account} amount")));
        let alone = recompute(&robbed, None).unwrap();
        assert!(alone.not_checked.iter().any(|told| told.contains("owed")), "{alone:?}");

        // Held, free and late parts of what is carried, shifted between each other.
        let mut shifted = public;
        shifted.summary.held.0 += 1;
        assert!(whats(&shifted, Some(&before)).contains("held amounts"));
    });
}

#[test]
fn amounts_of_too_many_accounts_are_checked_by_what_grew() {
    depin_trials::run("accounts beside the summary", |rng| {
        let Some((mut public, mut before)) = paying(rng) else { return };
        public.accounts = in_state(&mut public.summary);
        before.accounts = in_state(&mut before.summary);
        let only_the_number = "payoutsInState; ";
        assert_eq!(whats(&public, Some(&before)), only_the_number);
        let alone = recompute(&public, None).unwrap();
        assert!(alone.not_checked.iter().any(|told| told.contains("amount of each account")), "{alone:?}");

        let mut wrong = public.clone();
        wrong.summary.carried_out.0 += 1;
        assert!(whats(&wrong, None).contains("payouts + unallocated"), "conservation is always checked");
        let mut wrong = public;
        wrong.accounts[0].1.0 += 1;
        let leaves = StandardTree::new(&wrong.accounts).map(|tree| to_text(&tree.root()));
        wrong.summary.root = leaves;
        // Of an account that a correction took from, one more looks like one less taken: then the offsets do not add up.
        let told = whats(&wrong, Some(&before));
        assert!(
            told.contains(&format!("account {} amount", wrong.accounts[0].0)) || told.contains("offset; "),
            "{told}"
        );
    });
}

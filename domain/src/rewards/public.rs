//! Repeating an epoch from its public export: the program, the totals, and every device's line under a pseudonym.
//!
//! From the features follow gates and weight, from the weights Σw and every share, from the shares every account's amount, from the
//! cumulative amounts the root; every unit that enters is followed to where it leaves. With the previous epoch's totals, what was carried in
//! and what each account had are checked too. What an export cannot show is told in [`Recomputed::not_checked`], never passed over.

mod lines;
mod totals;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    amount::{Account, Amount},
    error::EpochError,
    program::Program,
    result::{EpochSummary, Line},
    spec::ProgramSpec,
};
use lines::Tally;

/// A public export in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicEpoch {
    /// The program that ruled.
    pub spec: ProgramSpec,
    /// The published totals and root.
    pub summary: EpochSummary,
    /// Every device's line; its id is a pseudonym.
    pub lines: Vec<Line>,
    /// Cumulative amounts, where the summary leaves them out because they are too many.
    pub accounts: Vec<(Account, Amount)>,
}

/// What the epoch before published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its totals.
    pub summary: EpochSummary,
    /// Its cumulative amounts, where the summary leaves them out; empty where only the summary is at hand.
    pub accounts: Vec<(Account, Amount)>,
}

/// What repeating an epoch gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recomputed {
    /// The root over the cumulative amounts; none without any.
    pub root: Option<String>,
    /// Σw.
    pub weight_sum: u128,
    /// What all devices got for this epoch.
    pub shares: Amount,
    /// Everything in which it differs from what was published; empty: all that was checked is right.
    pub differences: Vec<Difference>,
    /// What was taken as told, and why.
    pub not_checked: Vec<String>,
}

/// Something that was published and is not what the export's own figures give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What it is: `root`, `pool`, `device 0a… weight`, `account 0x… amount`.
    pub what: String,
    /// As published.
    pub published: String,
    /// As recomputed.
    pub recomputed: String,
}

/// Repeats an epoch from its public export and, if it is at hand, what the epoch before published; and compares.
pub fn recompute(public: &PublicEpoch, previous: Option<&Previous>) -> Result<Recomputed, EpochError> {
    let (spec, summary) = (&public.spec, &public.summary);
    let number = summary.number;
    let program = Program::compile(spec).map_err(|errors| EpochError::Program { number, errors })?;
    let window = spec.epoch.window(number).ok_or(EpochError::Window { number })?;
    let mut audit = Audit::new(public, previous);
    audit.compare(|| "program digest".into(), &summary.program_digest, &spec.digest()?);
    audit.compare(|| "suspended".into(), &summary.suspended, &spec.suspend);
    audit.compare(|| "start".into(), &summary.start.0, &window.start.0);
    audit.compare(|| "end".into(), &summary.end.0, &window.end.0);
    audit.follows();
    let weight_sum = public.lines.iter().map(|line| u128::from(audit.weight(&program, line))).sum();
    audit.compare(|| "weightSum".into(), &summary.weight_sum, &weight_sum);
    audit.split();
    audit.lines(weight_sum);
    audit.matured();
    audit.bucket(weight_sum);
    audit.payouts();
    audit.carried();
    audit.conservation();
    let root = audit.root();
    audit.told();
    let Audit { tally, differences, not_checked, .. } = audit;
    Ok(Recomputed { root, weight_sum, shares: tally.shares, differences, not_checked })
}

struct Audit<'a> {
    public: &'a PublicEpoch,
    previous: Option<&'a Previous>,
    /// What each account gets before corrections.
    gross: BTreeMap<Account, Amount>,
    /// What each account owes by corrections of this close.
    debts: BTreeMap<Account, Amount>,
    tally: Tally,
    /// The devices' part of what was minted.
    devices: Amount,
    /// The part of it that nobody gets.
    unallocated: Amount,
    differences: Vec<Difference>,
    not_checked: Vec<String>,
}

/// A sum that can be compared even where it does not fit: then it is nothing that could have been published.
fn sum(a: Amount, b: Amount) -> Amount {
    a.plus(b).unwrap_or(Amount(u128::MAX))
}

fn add(to: &mut Amount, amount: Amount) {
    *to = sum(*to, amount);
}

impl<'a> Audit<'a> {
    fn new(public: &'a PublicEpoch, previous: Option<&'a Previous>) -> Self {
        Self {
            public,
            previous,
            gross: BTreeMap::new(),
            debts: BTreeMap::new(),
            tally: Tally::default(),
            devices: Amount::ZERO,
            unallocated: Amount::ZERO,
            differences: Vec::new(),
            not_checked: Vec::new(),
        }
    }

    fn compare<T: PartialEq + ToString + ?Sized>(
        &mut self,
        what: impl FnOnce() -> String,
        published: &T,
        recomputed: &T,
    ) {
        if published != recomputed {
            let (published, recomputed) = (published.to_string(), recomputed.to_string());
            self.differences.push(Difference { what: what(), published, recomputed });
        }
    }

    /// Compares two sums of amounts, so that nothing has to be subtracted.
    fn balance(&mut self, what: &str, published: &[Amount], recomputed: &[Amount]) {
        let total = |amounts: &[Amount]| amounts.iter().copied().fold(Amount::ZERO, sum);
        self.compare(|| what.to_owned(), &total(published), &total(recomputed));
    }

    /// Compares the order of two amounts.
    fn at_most(&mut self, what: &str, published: Amount, most: Amount) {
        if published > most {
            self.compare(|| format!("{what} (at most)"), &published, &most);
        }
    }

    fn pay(&mut self, account: Account, amount: Amount) {
        add(self.gross.entry(account).or_default(), amount);
    }

    /// What an export cannot show.
    fn told(&mut self) {
        let told = &mut self.not_checked;
        told.push("the program's name and the digests of lines and state: lines are published under pseudonyms".into());
        told.push("features, NoData, Suspended and admission by limits: readings and places are not published".into());
        if !self.public.summary.matured.is_empty() {
            told.push(
                "late features, weights, dues and corrections: they rest on what the matured epochs froze; recompute those epochs"
                    .into(),
            );
        }
    }
}

//! Totals: what was minted and split, what was carried, what each account got, and the root.

use std::collections::{BTreeMap, BTreeSet};

use super::{Audit, add, sum};
use crate::rewards::{
    amount::{Account, Amount},
    emission,
    merkle::{self, StandardTree},
    result::{EpochSummary, MAX_SUMMARY_PAYOUTS, SplitAmount},
    spec::Recipient,
};

/// What lies in open late buckets after an epoch.
fn buckets(summary: &EpochSummary) -> Amount {
    summary.carried_out.minus(sum(summary.carry, summary.held)).unwrap_or_default()
}

impl Audit<'_> {
    /// The previous totals are those of the epoch before.
    pub(super) fn follows(&mut self) {
        let summary = &self.public.summary;
        let Some(previous) = self.previous else {
            self.not_checked.push(
                "what was carried in and what each account had before: give the previous epoch's export as well".into(),
            );
            return;
        };
        let before = &previous.summary;
        self.compare(|| "program of the previous epoch".into(), &before.program, &summary.program);
        self.compare(
            || "number of the previous epoch".into(),
            &before.number.checked_add(1).unwrap_or(0),
            &summary.number,
        );
        self.compare(|| "carriedIn".into(), &summary.carried_in, &before.carried_out);
    }

    pub(super) fn split(&mut self) {
        let (spec, summary) = (&self.public.spec, &self.public.summary);
        let minted = if spec.suspend { Amount::ZERO } else { emission::minted(&spec.emission, summary.number) };
        self.compare(|| "minted".into(), &summary.minted, &minted);
        let part = |points: u32| minted.basis_points(points).unwrap_or_default();
        let others = spec.split.parts.iter().fold(Amount::ZERO, |total, other| sum(total, part(other.basis_points)));
        let left = minted.minus(others).unwrap_or_default();
        let mut parts = Vec::with_capacity(spec.split.parts.len());
        for wanted in &spec.split.parts {
            let mut amount = part(wanted.basis_points);
            if wanted.name == spec.split.residual {
                amount = sum(amount, left);
            }
            let mut account = None;
            match wanted.to {
                Recipient::Account(to) => {
                    account = Some(to);
                    self.pay(to, amount);
                }
                Recipient::Devices => self.devices = amount,
                Recipient::Unallocated => add(&mut self.unallocated, amount),
            }
            parts.push(SplitAmount { name: wanted.name.clone(), account, amount });
        }
        let text = |parts: &Vec<SplitAmount>| serde_json::to_string(parts).unwrap_or_default();
        self.compare(|| "split".into(), &text(&summary.split), &text(&parts));
    }

    /// Each matured epoch's dues are its lines', and the rest of its bucket returns.
    pub(super) fn matured(&mut self) {
        let late = std::mem::take(&mut self.tally.late);
        for epoch in &self.public.summary.matured {
            let number = epoch.number;
            let [dues, paid, corrected] = late.get(&number).copied().unwrap_or_default();
            self.compare(|| format!("dues of epoch {number}"), &epoch.dues, &dues);
            self.compare(|| format!("late dues paid of epoch {number}"), &epoch.paid, &paid);
            self.compare(|| format!("corrections of epoch {number}"), &epoch.corrections, &corrected);
            self.balance(&format!("bucket of epoch {number}"), &[epoch.bucket], &[epoch.paid, epoch.returned]);
        }
    }

    /// `bucket = floor((m + c) × b / 10^4)`: what was divided is what bucket and pool are together.
    pub(super) fn bucket(&mut self, weight_sum: u128) {
        let (spec, summary) = (&self.public.spec, &self.public.summary);
        let whole = sum(summary.bucket, summary.pool);
        let bucket = match weight_sum {
            0 => whole,
            _ => whole.basis_points(spec.late.basis_points).unwrap_or_default(),
        };
        self.compare(|| "bucket".into(), &summary.bucket, &bucket);
        self.compare(|| "pool".into(), &summary.pool, &whole.minus(bucket).unwrap_or_default());
        if spec.suspend {
            self.compare(|| "pool of a suspended program".into(), &whole, &Amount::ZERO);
        }
    }

    /// Carry, held amounts and buckets: what came in and did not leave.
    pub(super) fn carried(&mut self) {
        let summary = &self.public.summary;
        let tally = &self.tally;
        let (returned, settled) =
            summary.matured.iter().fold((Amount::ZERO, Amount::ZERO), |(returned, settled), epoch| {
                (sum(returned, epoch.returned), sum(settled, epoch.bucket))
            });
        let fresh = sum(sum(returned, tally.late_residual), tally.unheld);
        let (residual, shares) = (sum(tally.residual, summary.offset), tally.shares);
        let (newly_held, released, unheld) = (tally.newly_held, tally.released, tally.unheld);
        let own = self.unallocated;
        if !summary.suspended {
            self.balance("carry", &[summary.carry, shares], &[residual, summary.pool]);
        }
        self.at_most("parts of carriedOut", sum(sum(summary.carry, summary.held), summary.bucket), summary.carried_out);
        self.at_most("unallocated part of the split", own, summary.unallocated);
        let Some(before) = self.previous.map(|previous| &previous.summary) else { return };
        match summary.suspended {
            true => self.balance("carry", &[summary.carry], &[before.carry, fresh, residual]),
            false => {
                let divided = [before.carry, fresh, self.devices];
                self.balance("bucket and pool", &[summary.bucket, summary.pool], &divided);
            }
        }
        // What expired is what is unallocated beyond the split's part.
        let held = [summary.held, released, unheld, summary.unallocated];
        self.balance("held amounts", &held, &[before.held, newly_held, own]);
        self.balance("open buckets", &[buckets(summary), settled], &[buckets(before), summary.bucket]);
    }

    /// Each account gets what its devices' lines say and nothing else; only corrections may take from it, as much as it owes.
    pub(super) fn payouts(&mut self) {
        let summary = &self.public.summary;
        let too_many = self.cumulative().len() > MAX_SUMMARY_PAYOUTS;
        self.compare(|| "payoutsInState".into(), &summary.payouts_in_state, &too_many);
        let Some(amounts) = self.amounts() else {
            self.not_checked.push(
                "the amount of each account: there are too many to be published one by one; give the previous epoch's export with its accounts"
                    .into(),
            );
            return;
        };
        let mut names: BTreeSet<Account> = self.gross.keys().chain(amounts.keys()).copied().collect();
        names.extend(self.debts.keys());
        let mut offsets = Amount::ZERO;
        for account in names {
            let of = |map: &BTreeMap<Account, Amount>| map.get(&account).copied().unwrap_or_default();
            let (gross, amount) = (of(&self.gross), of(&amounts));
            match gross.minus(amount) {
                Some(taken) => add(&mut offsets, taken),
                None => self.compare(|| format!("account {account} amount"), &amount, &gross),
            }
        }
        self.compare(|| "offset".into(), &summary.offset, &offsets);
        self.owed(&amounts);
    }

    /// What corrections took from each account is what it owed.
    fn owed(&mut self, amounts: &BTreeMap<Account, Amount>) {
        let summary = &self.public.summary;
        let before = self.previous.filter(|previous| !previous.summary.payouts_in_state && !summary.payouts_in_state);
        let Some(before) = before else {
            if !summary.offset.is_zero() {
                let reason = "whether each account owed what was taken from it: debts are published with the payouts of up to 10,000 accounts; give the previous epoch's export";
                self.not_checked.push(reason.into());
            }
            return;
        };
        let old: BTreeMap<_, _> = before.summary.payouts.iter().map(|payout| (payout.account, *payout)).collect();
        let new: BTreeMap<_, _> = summary.payouts.iter().map(|payout| (payout.account, *payout)).collect();
        for account in old.keys().chain(self.gross.keys()).chain(self.debts.keys()).copied().collect::<BTreeSet<_>>() {
            let of = |map: &BTreeMap<Account, Amount>| map.get(&account).copied().unwrap_or_default();
            let (was, is) = (old.get(&account), new.get(&account));
            let debt = sum(was.map_or(Amount::ZERO, |was| was.debt), of(&self.debts));
            let gross = of(&self.gross);
            let offset = gross.min(debt);
            let (amount, left) = (gross.minus(offset).unwrap_or_default(), debt.minus(offset).unwrap_or_default());
            self.compare(|| format!("account {account} amount"), &of(amounts), &amount);
            self.compare(|| format!("account {account} debt"), &is.map_or(Amount::ZERO, |is| is.debt), &left);
        }
        for (account, is) in &new {
            let before = old.get(account).map_or(Amount::ZERO, |was| was.cumulative);
            self.compare(|| format!("account {account} cumulative"), &is.cumulative, &sum(before, is.amount));
        }
    }

    /// Each account's amount of this epoch: as published, or the growth of its cumulative amount.
    fn amounts(&mut self) -> Option<BTreeMap<Account, Amount>> {
        let summary = &self.public.summary;
        if !summary.payouts_in_state {
            return Some(summary.payouts.iter().map(|payout| (payout.account, payout.amount)).collect());
        }
        let previous = self.previous?;
        let before: BTreeMap<Account, Amount> = match previous.summary.payouts_in_state {
            true => previous.accounts.iter().copied().collect(),
            false => previous.summary.payouts.iter().map(|payout| (payout.account, payout.cumulative)).collect(),
        };
        if before.len() as u64 != previous.summary.leaves {
            return None;
        }
        let now: BTreeMap<_, _> = self.cumulative().into_iter().collect();
        let mut amounts = BTreeMap::new();
        for account in before.keys().chain(now.keys()).copied().collect::<BTreeSet<_>>() {
            let of = |map: &BTreeMap<Account, Amount>| map.get(&account).copied().unwrap_or_default();
            match of(&now).minus(of(&before)) {
                Some(amount) => {
                    amounts.insert(account, amount);
                }
                None => self.compare(|| format!("account {account} cumulative"), &of(&now), &of(&before)),
            }
        }
        Some(amounts)
    }

    /// The published cumulative amounts.
    fn cumulative(&self) -> Vec<(Account, Amount)> {
        let summary = &self.public.summary;
        match summary.payouts_in_state {
            true => self.public.accounts.iter().filter(|(_, cumulative)| !cumulative.is_zero()).copied().collect(),
            false => summary.payouts.iter().map(|payout| (payout.account, payout.cumulative)).collect(),
        }
    }

    /// Always checked: where single amounts are not published, what all accounts got is what lines and split gave, less the offsets.
    pub(super) fn conservation(&mut self) {
        let summary = &self.public.summary;
        let gross = self.gross.values().copied().fold(Amount::ZERO, sum);
        let paid = match summary.payouts_in_state {
            true => gross.minus(summary.offset).unwrap_or(Amount(u128::MAX)),
            false => summary.payouts.iter().fold(Amount::ZERO, |total, payout| sum(total, payout.amount)),
        };
        let what = "payouts + unallocated + carriedOut against minted + carriedIn";
        self.balance(what, &[paid, summary.unallocated, summary.carried_out], &[summary.minted, summary.carried_in]);
    }

    pub(super) fn root(&mut self) -> Option<String> {
        let summary = &self.public.summary;
        let leaves = self.cumulative();
        for pair in leaves.windows(2).filter(|pair| pair[0].0 >= pair[1].0) {
            let account = pair[1].0;
            self.compare(|| format!("account {account} stands once, in order"), &false, &true);
        }
        self.compare(|| "leaves".into(), &summary.leaves, &(leaves.len() as u64));
        let root = StandardTree::new(&leaves).map(|tree| merkle::to_text(&tree.root()));
        let text = |root: &Option<String>| root.clone().unwrap_or_else(|| "none".into());
        self.compare(|| "root".into(), &text(&summary.root), &text(&root));
        root
    }
}

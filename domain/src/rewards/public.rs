//! Repeating an epoch from its public export: the program, the totals, and every device's line under a pseudonym.
//!
//! From the features follow gates and weight, from the weights Σw and every share, from the shares every account's amount, from the
//! cumulative amounts the root. Places are not in the export: whether a limit admitted a device is taken as told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    amount::{Account, Amount},
    emission,
    error::EpochError,
    merkle::{self, StandardTree},
    program::Program,
    resolve::ResolvedDevice,
    result::{EpochSummary, Line, OwnerAmount, Payout, ZeroReason},
    spec::{ProgramSpec, Recipient},
    weigh::weigh,
};
use crate::ids::DeviceId;

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

/// What repeating an epoch gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recomputed {
    /// The root over the cumulative amounts; none without any.
    pub root: Option<String>,
    /// Σw.
    pub weight_sum: u128,
    /// What all devices got for this epoch.
    pub shares: Amount,
    /// Everything in which it differs from what was published; empty: weights, amounts and root are right.
    pub differences: Vec<Difference>,
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

/// Repeats an epoch from nothing but its public export, and compares.
pub fn recompute(public: &PublicEpoch) -> Result<Recomputed, EpochError> {
    let (spec, summary) = (&public.spec, &public.summary);
    let number = summary.number;
    let program = Program::compile(spec).map_err(|errors| EpochError::Program { number, errors })?;
    let window = spec.epoch.window(number).ok_or(EpochError::Window { number })?;
    let mut audit = Audit { public, gross: BTreeMap::new(), differences: Vec::new() };
    audit.compare(|| "program digest".into(), &summary.program_digest, &spec.digest()?);
    audit.compare(|| "start".into(), &summary.start.0, &window.start.0);
    audit.compare(|| "end".into(), &summary.end.0, &window.end.0);
    let weight_sum = public.lines.iter().map(|line| u128::from(audit.weight(&program, line))).sum();
    audit.compare(|| "weightSum".into(), &summary.weight_sum, &weight_sum);
    audit.split();
    audit.bucket(weight_sum);
    let mut shares = Amount::ZERO;
    for line in &public.lines {
        let share = audit.share(line, weight_sum);
        shares = shares.plus(share).ok_or(EpochError::Overflow { what: "the shares" })?;
        audit.late(line);
    }
    audit.payouts();
    audit.conservation();
    let root = audit.root();
    Ok(Recomputed { root, weight_sum, shares, differences: audit.differences })
}

struct Audit<'a> {
    public: &'a PublicEpoch,
    /// What each account gets before corrections.
    gross: BTreeMap<Account, Amount>,
    differences: Vec<Difference>,
}

/// A sum that can be compared even where it does not fit: then it is nothing that could have been published.
fn sum(a: Amount, b: Amount) -> Amount {
    a.plus(b).unwrap_or(Amount(u128::MAX))
}

impl Audit<'_> {
    fn compare<T: PartialEq + ToString>(&mut self, what: impl FnOnce() -> String, published: &T, recomputed: &T) {
        if published != recomputed {
            let (published, recomputed) = (published.to_string(), recomputed.to_string());
            self.differences.push(Difference { what: what(), published, recomputed });
        }
    }

    /// Compares a line's weight with what its features give, and answers the recomputed one.
    fn weight(&mut self, program: &Program, line: &Line) -> u64 {
        let told = |wanted: ZeroReason| line.reasons.iter().any(|zero| zero.reason == wanted);
        let idle = [ZeroReason::NotInProgram, ZeroReason::ProgramSuspended].into_iter().any(told);
        let device = ResolvedDevice {
            id: line.device,
            suspended: told(ZeroReason::Suspended),
            has_data: !told(ZeroReason::NoData) && !told(ZeroReason::Suspended),
            features: line.features.clone(),
            refused: None,
            shares: Vec::new(),
        };
        let (raw, mut reasons) = if idle { (0, Vec::new()) } else { weigh(program, &device) };
        let id = line.device;
        self.compare(|| format!("device {id} raw weight"), &line.raw_weight, &raw);
        let limits = [ZeroReason::NoLocation, ZeroReason::CellFull, ZeroReason::TooClose];
        let refused = limits.into_iter().any(told);
        self.compare(|| format!("device {id} admitted"), &line.admitted, &(raw > 0 && !refused));
        let weight = if line.admitted { raw } else { 0 };
        self.compare(|| format!("device {id} weight"), &line.weight, &weight);
        let judged = |reason: ZeroReason| {
            matches!(reason, ZeroReason::GateFailed | ZeroReason::WeightError | ZeroReason::ZeroWeight)
        };
        reasons.retain(|zero| judged(zero.reason));
        let published: Vec<_> =
            line.reasons.iter().filter(|zero| judged(zero.reason)).map(|zero| zero.label()).collect();
        let ours: Vec<_> = reasons.iter().map(|zero| zero.label()).collect();
        self.compare(|| format!("device {id} reasons"), &published.join(" "), &ours.join(" "));
        weight
    }

    fn split(&mut self) {
        let (spec, summary) = (&self.public.spec, &self.public.summary);
        let minted = if spec.suspend { Amount::ZERO } else { emission::minted(&spec.emission, summary.number) };
        self.compare(|| "minted".into(), &summary.minted, &minted);
        let part = |points: u32| minted.basis_points(points).unwrap_or_default();
        let others = spec.split.parts.iter().fold(Amount::ZERO, |total, other| sum(total, part(other.basis_points)));
        let left = minted.minus(others).unwrap_or_default();
        for wanted in &spec.split.parts {
            let mut amount = part(wanted.basis_points);
            if wanted.name == spec.split.residual {
                amount = sum(amount, left);
            }
            let published =
                summary.split.iter().find(|split| split.name == wanted.name).map_or(Amount::ZERO, |split| split.amount);
            self.compare(|| format!("split {}", wanted.name), &published, &amount);
            if let Recipient::Account(account) = wanted.to {
                self.pay(account, amount);
            }
        }
    }

    /// `bucket = floor((m + c) × b / 10^4)`: what was divided is what bucket and pool are together.
    fn bucket(&mut self, weight_sum: u128) {
        let (spec, summary) = (&self.public.spec, &self.public.summary);
        let whole = sum(summary.bucket, summary.pool);
        let bucket = match weight_sum {
            0 => whole,
            _ => whole.basis_points(spec.late.basis_points).unwrap_or_default(),
        };
        self.compare(|| "bucket".into(), &summary.bucket, &bucket);
        self.compare(|| "pool".into(), &summary.pool, &whole.minus(bucket).unwrap_or_default());
    }

    fn share(&mut self, line: &Line, weight_sum: u128) -> Amount {
        let id = line.device;
        let share = self.public.summary.pool.part(line.weight.into(), weight_sum).unwrap_or_default();
        self.compare(|| format!("device {id} share"), &line.share, &share);
        if !line.held && !share.is_zero() {
            self.owners(id, "share", share, &line.owners, line.residual);
        }
        if let Some(released) = &line.released {
            self.owners(id, "released amount", released.amount, &released.owners, released.residual);
        }
        share
    }

    fn owners(&mut self, device: DeviceId, what: &str, amount: Amount, owners: &[OwnerAmount], residual: Amount) {
        let mut left = amount;
        for owner in owners {
            let part = amount.basis_points(owner.basis_points).unwrap_or_default();
            self.compare(|| format!("device {device} {what} of {}", owner.account), &owner.amount, &part);
            left = left.minus(part).unwrap_or_default();
            self.pay(owner.account, part);
        }
        self.compare(|| format!("device {device} {what} left by rounding"), &residual, &left);
    }

    fn late(&mut self, line: &Line) {
        let id = line.device;
        for late in &line.late {
            let number = late.number;
            let Some(epoch) = self.public.summary.matured.iter().find(|epoch| epoch.number == number) else {
                self.compare(
                    || format!("device {id} late line"),
                    &format!("epoch {number}"),
                    &"no such epoch matured".into(),
                );
                continue;
            };
            let scaled =
                if epoch.dues > epoch.bucket { epoch.bucket.part(late.due.0, epoch.dues.0) } else { Some(late.due) };
            self.compare(|| format!("device {id} late due of epoch {number}"), &late.paid, &scaled.unwrap_or_default());
            if !late.owners.is_empty() {
                self.owners(id, "late due", late.paid, &late.owners, late.residual);
            }
        }
    }

    fn pay(&mut self, account: Account, amount: Amount) {
        let gross = self.gross.entry(account).or_default();
        *gross = sum(*gross, amount);
    }

    /// Each account gets what its devices' lines say; only corrections of earlier epochs may take from it, as much as published.
    fn payouts(&mut self) {
        if self.public.summary.payouts_in_state {
            return;
        }
        let published: BTreeMap<Account, Payout> =
            self.public.summary.payouts.iter().map(|payout| (payout.account, *payout)).collect();
        let mut offset = Amount::ZERO;
        for (account, gross) in std::mem::take(&mut self.gross) {
            let amount = published.get(&account).map_or(Amount::ZERO, |payout| payout.amount);
            match gross.minus(amount) {
                Some(taken) => offset = sum(offset, taken),
                None => self.compare(|| format!("account {account} amount"), &amount, &gross),
            }
        }
        self.compare(|| "offset".into(), &self.public.summary.offset, &offset);
    }

    fn conservation(&mut self) {
        let summary = &self.public.summary;
        if summary.payouts_in_state {
            return;
        }
        let paid = summary.payouts.iter().fold(Amount::ZERO, |total, payout| sum(total, payout.amount));
        let out = sum(sum(paid, summary.unallocated), summary.carried_out);
        let into = sum(summary.minted, summary.carried_in);
        self.compare(|| "payouts + unallocated + carriedOut against minted + carriedIn".into(), &out, &into);
    }

    fn root(&mut self) -> Option<String> {
        let summary = &self.public.summary;
        let leaves: Vec<(Account, Amount)> = match summary.payouts_in_state {
            true => self.public.accounts.iter().filter(|(_, cumulative)| !cumulative.is_zero()).copied().collect(),
            false => summary.payouts.iter().map(|payout| (payout.account, payout.cumulative)).collect(),
        };
        let root = StandardTree::new(&leaves).map(|tree| merkle::to_text(&tree.root()));
        let text = |root: &Option<String>| root.clone().unwrap_or_else(|| "none".into());
        self.compare(|| "root".into(), &text(&summary.root), &text(&root));
        root
    }
}

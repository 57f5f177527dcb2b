//! Devices' lines: weights, shares, owners' amounts, late dues, and what all lines together move.

use std::collections::BTreeMap;

use super::{Audit, add, sum};
use crate::{
    ids::DeviceId,
    rewards::{
        amount::Amount,
        close,
        program::Program,
        resolve::ResolvedDevice,
        result::{LateLine, Line, OwnerAmount, ZeroReason},
        weigh::weigh,
    },
};

/// What all lines together move.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) shares: Amount,
    /// Rounding of shares and releases: the next epoch's carry.
    pub(super) residual: Amount,
    /// Rounding of late dues: this epoch's carry.
    pub(super) late_residual: Amount,
    /// Set aside now.
    pub(super) newly_held: Amount,
    pub(super) released: Amount,
    /// Taken back out of held amounts.
    pub(super) unheld: Amount,
    /// By matured epoch: dues, paid, corrected.
    pub(super) late: BTreeMap<u64, [Amount; 3]>,
}

fn told(line: &Line, wanted: ZeroReason) -> bool {
    line.reasons.iter().any(|zero| zero.reason == wanted)
}

impl Audit<'_> {
    /// Compares a line's weight with what its features give, and answers the recomputed one.
    pub(super) fn weight(&mut self, program: &Program, line: &Line) -> u64 {
        let suspended = program.spec().suspend;
        let absent = told(line, ZeroReason::NotInProgram);
        let silent = told(line, ZeroReason::NoData) || told(line, ZeroReason::Suspended);
        let device = ResolvedDevice {
            id: line.device,
            suspended: told(line, ZeroReason::Suspended),
            has_data: !silent,
            features: line.features.clone(),
            refused: None,
            shares: Vec::new(),
        };
        let (raw, mut reasons) = if absent || suspended { (0, Vec::new()) } else { weigh(program, &device) };
        let id = line.device;
        self.compare(|| format!("device {id} raw weight"), &line.raw_weight, &raw);
        let features = if absent { 0 } else { program.spec().features.len() };
        self.compare(|| format!("device {id} number of features"), &line.features.len(), &features);
        let paused = told(line, ZeroReason::ProgramSuspended);
        self.compare(|| format!("device {id} ProgramSuspended"), &paused, &(suspended && !absent));
        let measured = line.features.iter().flatten().any(|value| *value != 0);
        self.compare(|| format!("device {id} has features without data"), &(silent && measured), &false);
        let refused = [ZeroReason::NoLocation, ZeroReason::CellFull, ZeroReason::TooClose]
            .into_iter()
            .any(|reason| told(line, reason));
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

    /// Shares, releases and late dues of all lines, and how many there are of each kind.
    pub(super) fn lines(&mut self, weight_sum: u128) {
        let public = self.public;
        for line in &public.lines {
            self.share(line, weight_sum);
            for late in &line.late {
                self.late(line.device, late);
            }
        }
        let counts = |counts: &_| serde_json::to_string(counts).unwrap_or_default();
        let counted = close::count(&public.lines);
        self.compare(|| "devices".into(), &counts(&public.summary.devices), &counts(&counted));
        for pair in public.lines.windows(2).filter(|pair| pair[0].device >= pair[1].device) {
            let order = |a: DeviceId, b: DeviceId| format!("{a} before {b}");
            let [first, second] = [pair[0].device, pair[1].device];
            self.compare(|| "order of devices".into(), &order(first, second), &order(second, first));
        }
    }

    fn share(&mut self, line: &Line, weight_sum: u128) {
        let id = line.device;
        let share = self.public.summary.pool.part(line.weight.into(), weight_sum).unwrap_or_default();
        self.compare(|| format!("device {id} share"), &line.share, &share);
        add(&mut self.tally.shares, share);
        let held = !share.is_zero() && line.owners.is_empty();
        self.compare(|| format!("device {id} held"), &line.held, &held);
        self.compare(|| format!("device {id} NoOwner"), &told(line, ZeroReason::NoOwner), &held);
        let too_small = line.weight > 0 && share.is_zero();
        self.compare(|| format!("device {id} ZeroShare"), &told(line, ZeroReason::ZeroShare), &too_small);
        if held {
            add(&mut self.tally.newly_held, share);
            self.compare(|| format!("device {id} share left by rounding"), &line.residual, &Amount::ZERO);
        } else {
            let left = self.owners(id, "share", share, &line.owners, line.residual);
            add(&mut self.tally.residual, left);
        }
        if let Some(released) = &line.released {
            add(&mut self.tally.released, released.amount);
            let left = self.owners(id, "released amount", released.amount, &released.owners, released.residual);
            add(&mut self.tally.residual, left);
        }
    }

    /// Compares what owners got of `amount`, pays them, and answers what rounding left.
    fn owners(
        &mut self,
        device: DeviceId,
        what: &str,
        amount: Amount,
        owners: &[OwnerAmount],
        residual: Amount,
    ) -> Amount {
        let mut left = amount;
        for owner in owners {
            let part = amount.basis_points(owner.basis_points).unwrap_or_default();
            self.compare(|| format!("device {device} {what} of {}", owner.account), &owner.amount, &part);
            left = left.minus(part).unwrap_or_default();
            self.pay(owner.account, part);
        }
        self.compare(|| format!("device {device} {what} left by rounding"), &residual, &left);
        left
    }

    fn late(&mut self, id: DeviceId, late: &LateLine) {
        let number = late.number;
        let Some(epoch) = self.public.summary.matured.iter().find(|epoch| epoch.number == number) else {
            let published = format!("epoch {number}");
            return self.compare(|| format!("device {id} late line"), &published, &"no such epoch matured".into());
        };
        let refused = late.reason.as_ref().map(|zero| zero.reason);
        let refused = matches!(refused, Some(ZeroReason::CapacityTaken | ZeroReason::NoLocation));
        let part = u128::from(late.raw_weight) * u128::from(late.room) / u128::from(late.claims.max(1));
        let weight = if refused { 0 } else { part };
        self.compare(|| format!("device {id} late weight of epoch {number}"), &u128::from(late.weight), &weight);
        let scaled = match epoch.dues > epoch.bucket {
            true => epoch.bucket.part(late.due.0, epoch.dues.0).unwrap_or_default(),
            false => late.due,
        };
        self.compare(|| format!("device {id} late due of epoch {number}"), &late.paid, &scaled);
        if !scaled.is_zero() && late.owners.is_empty() {
            add(&mut self.tally.newly_held, scaled);
            self.compare(|| format!("device {id} late due left by rounding"), &late.residual, &Amount::ZERO);
        } else {
            let left = self.owners(id, "late due", scaled, &late.owners, late.residual);
            add(&mut self.tally.late_residual, left);
        }
        self.corrected(id, late);
        let totals = self.tally.late.entry(number).or_default();
        for (total, amount) in totals.iter_mut().zip([late.due, late.paid, late.corrected]) {
            *total = sum(*total, amount);
        }
    }

    fn corrected(&mut self, id: DeviceId, late: &LateLine) {
        let mut owed = Amount::ZERO;
        for debt in &late.debts {
            add(&mut owed, debt.amount);
            add(self.debts.entry(debt.account).or_default(), debt.amount);
        }
        self.at_most(&format!("device {id} corrected"), late.corrected, late.correction);
        self.at_most(&format!("device {id} debts"), owed, late.corrected);
        add(&mut self.tally.unheld, late.corrected.minus(owed).unwrap_or_default());
    }
}

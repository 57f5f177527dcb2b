//! Settling an earlier epoch for good: what came late is paid from what was kept for it, once.
//!
//! The pool, Σw and who was admitted stand as they were frozen at that epoch's close. A device's due is what its share would
//! have been by its weight now, w′, minus what it was paid; where nobody had a weight then, the whole bucket is shared by w′.

use std::collections::BTreeMap;

use super::{
    amount::Amount,
    error::EpochError,
    input::{DeviceInput, MaturedInput},
    limits::{self, Candidate},
    payouts::{Flow, difference, sum},
    program::Program,
    result::{LateLine, Line, MaturedSummary, OpenEpoch, Zero, ZeroReason},
    weigh::{Weighed, weigh},
};
use crate::ids::DeviceId;

/// What an earlier epoch brings the devices.
pub(super) struct Settlement {
    pub(super) summary: MaturedSummary,
    pub(super) lines: Vec<(DeviceId, LateLine)>,
}

/// A device of the matured epoch beside its recorded line.
struct Member<'a> {
    device: &'a DeviceInput,
    line: Option<&'a Line>,
    weighed: Weighed,
    late: LateLine,
}

impl Member<'_> {
    fn admitted(&self) -> bool {
        self.line.is_some_and(|line| line.admitted)
    }

    fn frozen_weight(&self) -> u64 {
        self.line.map_or(0, |line| line.weight)
    }

    fn frozen_share(&self) -> Amount {
        self.line.map_or(Amount::ZERO, |line| line.share)
    }
}

/// Settles `matured`, whose bucket is `open`.
pub(super) fn settle(flow: &mut Flow, open: &OpenEpoch, matured: &MaturedInput) -> Result<Settlement, EpochError> {
    let number = matured.number;
    if matured.spec.digest()? != open.program_digest {
        return Err(EpochError::MaturedProgram { number });
    }
    let program = Program::compile(&matured.spec).map_err(|errors| EpochError::Program { number, errors })?;
    let mut members = members(&program, matured)?;
    weigh_late(&program, &mut members);
    let dues = dues(open, &mut members)?;
    let (paid, corrections) = pay(flow, open, dues, &mut members)?;
    let returned = difference("a late bucket", open.bucket, paid)?;
    flow.return_to_carry(returned)?;
    let summary = MaturedSummary { number, bucket: open.bucket, dues, paid, returned, corrections };
    let changed = |late: &LateLine| !late.due.is_zero() || !late.correction.is_zero() || late.reason.is_some();
    let lines =
        members.into_iter().filter(|member| changed(&member.late)).map(|member| (member.device.id, member.late));
    Ok(Settlement { summary, lines: lines.collect() })
}

fn members<'a>(program: &Program, matured: &'a MaturedInput) -> Result<Vec<Member<'a>>, EpochError> {
    let lines: BTreeMap<DeviceId, &Line> = matured.lines.iter().map(|line| (line.device, line)).collect();
    let mut members: Vec<_> = matured
        .devices
        .iter()
        .map(|device| {
            let weighed = weigh(program, device);
            let late =
                LateLine { number: matured.number, raw_weight: weighed.raw, room: 1, claims: 1, ..LateLine::default() };
            Member { device, line: lines.get(&device.id).copied(), weighed, late }
        })
        .collect();
    members.sort_unstable_by_key(|member| member.device.id);
    if let Some(pair) = members.windows(2).find(|pair| pair[0].device.id == pair[1].device.id) {
        return Err(EpochError::DuplicateDevice { number: matured.number, device: pair[0].device.id });
    }
    Ok(members)
}

/// w′: who was admitted counts fully; who was not claims a part of the room that is left.
fn weigh_late(program: &Program, members: &mut [Member<'_>]) {
    let candidate = |member: &Member<'_>| member.weighed.raw > 0 && !member.admitted();
    let claimants: Vec<usize> = (0..members.len()).filter(|index| candidate(&members[*index])).collect();
    let claims = {
        let standing: Vec<_> = members.iter().filter(|member| member.admitted()).map(as_candidate).collect();
        let late: Vec<_> = claimants.iter().map(|index| as_candidate(&members[*index])).collect();
        limits::claims(program, &standing, &late)
    };
    for member in members.iter_mut().filter(|member| member.admitted()) {
        member.late.weight = member.weighed.raw;
    }
    for (index, claim) in claimants.into_iter().zip(claims) {
        let late = &mut members[index].late;
        match claim {
            Ok((room, claims)) => {
                (late.room, late.claims) = (room, claims);
                // At most the raw weight, which fits.
                let weight = u128::from(late.raw_weight) * u128::from(room) / u128::from(claims.max(1));
                late.weight = u64::try_from(weight).unwrap_or(0);
            }
            Err(reason) => {
                late.room = 0;
                late.reason = Some(Zero::from(reason));
            }
        }
    }
}

fn as_candidate<'a>(member: &'a Member<'_>) -> Candidate<'a> {
    Candidate { device: member.device, features: &member.weighed.features }
}

/// Sets each member's due or correction; answers the sum of the dues.
fn dues(open: &OpenEpoch, members: &mut [Member<'_>]) -> Result<Amount, EpochError> {
    let late_sum: u128 = members.iter().map(|member| u128::from(member.late.weight)).sum();
    let mut total = Amount::ZERO;
    for member in members {
        let weight = u128::from(member.late.weight);
        if open.weight_sum == 0 {
            member.late.due = open.bucket.part(weight, late_sum).unwrap_or_default();
        } else if member.late.weight != member.frozen_weight() {
            let whole = open.pool.part(weight, open.weight_sum).ok_or(EpochError::Overflow { what: "a late share" })?;
            let before = member.frozen_share();
            member.late.due = whole.minus(before).unwrap_or_default();
            member.late.correction = before.minus(whole).unwrap_or_default();
        }
        total = sum("late dues", total, member.late.due)?;
    }
    Ok(total)
}

/// Pays the dues, scaled to the bucket where they exceed it; answers what was paid and what was corrected.
fn pay(
    flow: &mut Flow,
    open: &OpenEpoch,
    dues: Amount,
    members: &mut [Member<'_>],
) -> Result<(Amount, Amount), EpochError> {
    let (mut paid, mut corrections) = (Amount::ZERO, Amount::ZERO);
    for member in members {
        let late = &mut member.late;
        if !late.due.is_zero() {
            late.paid = late.due;
            if dues > open.bucket {
                late.paid = open.bucket.part(late.due.0, dues.0).ok_or(EpochError::Overflow { what: "a late due" })?;
            }
            if late.paid.is_zero() {
                late.reason = Some(ZeroReason::BucketEmpty.into());
            }
            paid = sum("late dues", paid, late.paid)?;
            let payment = flow.pay_device(member.device, late.paid)?;
            if payment.held {
                late.reason = Some(ZeroReason::NoOwner.into());
            }
            (late.owners, late.residual) = (payment.owners, payment.residual);
        }
        if !late.correction.is_zero() {
            corrections = sum("corrections", corrections, late.correction)?;
            flow.correct(member.device, open.number, late.correction)?;
        }
        late.features = std::mem::take(&mut member.weighed.features);
    }
    Ok((paid, corrections))
}

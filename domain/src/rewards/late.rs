//! Settling an earlier epoch for good: what came late is paid from what was kept for it, once.
//!
//! The pool, Σw and who was admitted stand as they were frozen at that epoch's close. A device's due is what its share would
//! have been by its weight now, w′, minus what it was paid; where nobody had a weight then, the whole bucket is shared by w′.

use super::{
    amount::Amount,
    error::EpochError,
    payouts::{Flow, difference, sum},
    program::Program,
    resolve::{ResolvedLate, ResolvedMatured},
    result::{LateLine, MaturedSummary, OpenEpoch, Zero, ZeroReason},
    weigh::weigh,
};
use crate::ids::DeviceId;

/// What an earlier epoch brings the devices.
pub(super) struct Settlement {
    pub(super) summary: MaturedSummary,
    pub(super) lines: Vec<(DeviceId, LateLine)>,
}

/// A device of the matured epoch beside what becomes of it.
struct Member<'a> {
    resolved: &'a ResolvedLate,
    late: LateLine,
}

/// Settles `matured`, whose bucket is `open`.
pub(super) fn settle(flow: &mut Flow, open: &OpenEpoch, matured: &ResolvedMatured) -> Result<Settlement, EpochError> {
    let number = matured.number;
    if matured.spec.digest()? != open.program_digest {
        return Err(EpochError::MaturedProgram { number });
    }
    let program = Program::compile(&matured.spec).map_err(|errors| EpochError::Program { number, errors })?;
    let mut members: Vec<_> = matured.devices.iter().map(|resolved| member(&program, number, resolved)).collect();
    let dues = dues(open, &mut members)?;
    let (paid, corrections) = pay(flow, open, dues, &mut members)?;
    let returned = difference("a late bucket", open.bucket, paid)?;
    flow.return_to_carry(returned)?;
    let summary = MaturedSummary { number, bucket: open.bucket, dues, paid, returned, corrections };
    let changed = |late: &LateLine| !late.due.is_zero() || !late.correction.is_zero() || late.reason.is_some();
    let lines = members.into_iter().filter(|member| changed(&member.late));
    Ok(Settlement { summary, lines: lines.map(|member| (member.resolved.device.id, member.late)).collect() })
}

/// w′: who was admitted counts fully; who was not and has risen has a part of the room that was left; else nothing.
fn member<'a>(program: &Program, number: u64, resolved: &'a ResolvedLate) -> Member<'a> {
    let ResolvedLate { device, room, claims, .. } = resolved;
    let (raw_weight, _) = weigh(program, device);
    let reason = device.refused.map(Zero::from);
    // At most the raw weight, which fits.
    let weight =
        if reason.is_some() { 0 } else { u128::from(raw_weight) * u128::from(*room) / u128::from((*claims).max(1)) };
    let weight = u64::try_from(weight).unwrap_or(0);
    Member {
        resolved,
        late: LateLine { number, raw_weight, room: *room, claims: *claims, weight, reason, ..LateLine::default() },
    }
}

/// Sets each member's due or correction; answers the sum of the dues.
fn dues(open: &OpenEpoch, members: &mut [Member<'_>]) -> Result<Amount, EpochError> {
    let late_sum: u128 = members.iter().map(|member| u128::from(member.late.weight)).sum();
    let mut total = Amount::ZERO;
    for member in members {
        let weight = u128::from(member.late.weight);
        if open.weight_sum == 0 {
            member.late.due = open.bucket.part(weight, late_sum).unwrap_or_default();
        } else if member.late.weight != member.resolved.weight {
            let whole = open.pool.part(weight, open.weight_sum).ok_or(EpochError::Overflow { what: "a late share" })?;
            let before = member.resolved.share;
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
            let payment = flow.pay_device(&member.resolved.device, late.paid)?;
            if payment.held {
                late.reason = Some(ZeroReason::NoOwner.into());
            }
            (late.owners, late.residual) = (payment.owners, payment.residual);
        }
        if !late.correction.is_zero() {
            let corrected = flow.correct(&member.resolved.device, open.number, late.correction)?;
            corrections = sum("corrections", corrections, corrected.amount)?;
            (late.corrected, late.debts) = (corrected.amount, corrected.debts);
        }
        late.features = member.resolved.device.features.clone();
    }
    Ok((paid, corrections))
}

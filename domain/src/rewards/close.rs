//! Closing an epoch: from its input to lines, totals, root and the state that the next one starts from.
//!
//! In this order: epochs that mature now are settled and the rest of their buckets returns to the carry; what the epoch mints
//! is split; the devices' part and the carry c make `bucket = floor((m + c) × b / 10^4)` and `pool = m + c − bucket`;
//! amounts that waited for an owner are released; the pool is shared, `floor(pool × w / Σw)` each, or joins the bucket
//! where Σw is zero; what rounding left and what debts took back is the carry of the next epoch; what was held too
//! long becomes unallocated. At the end `Σ payouts + unallocated + carriedOut = minted + carriedIn` is
//! checked to the last unit, and a result that does not satisfy it is an error, never a result.

use std::collections::BTreeMap;

use super::{
    amount::Amount,
    emission,
    error::EpochError,
    input::EpochInput,
    late,
    merkle::{self, StandardTree},
    payouts::{Flow, Settled, difference, sum},
    program::Program,
    resolve::{ResolvedDevice, ResolvedEpoch, resolve},
    result::{
        DeviceCounts, EpochResult, EpochSummary, LateLine, Line, MAX_SUMMARY_PAYOUTS, MaturedSummary, OpenEpoch,
        ProgramState, ReleasedHeld, SplitAmount, ZeroReason,
    },
    spec::Recipient,
    weigh::weigh,
};
use crate::{
    ids::{DeviceId, Digest},
    parallel,
    time::Window,
};

/// Devices that one core weighs at a time.
const CHUNK: usize = 4_096;

/// Computes an epoch. Pure and deterministic; the order of devices and of matured epochs does not matter.
pub fn close_epoch(input: &EpochInput) -> Result<EpochResult, EpochError> {
    close_resolved(&resolve(input)?)
}

/// The second half: from features and limit factors to amounts. The same for everybody who has them.
pub fn close_resolved(input: &ResolvedEpoch) -> Result<EpochResult, EpochError> {
    let number = input.number;
    let program = Program::compile(&input.spec).map_err(|errors| EpochError::Program { number, errors })?;
    let window = input.spec.epoch.window(number).ok_or(EpochError::Window { number })?;
    check_order(input, window)?;

    let carried_in = input.state.carried().ok_or(EpochError::Overflow { what: "what was carried in" })?;
    let mut flow = Flow::new(number, &input.state)?;
    let (matured, late_lines) = settle_matured(&mut flow, input)?;

    let split = split(&input.spec, number, &mut flow)?;
    let mut lines = vec![Line::default(); input.devices.len()];
    parallel::for_each(&mut lines, CHUNK, |index, place| *place = line(&program, &input.devices[index]));
    let weight_sum = lines.iter().map(|line| u128::from(line.weight)).sum();
    let (bucket, pool) = divide(&input.spec, split.devices, weight_sum, &mut flow)?;

    for (line, device) in lines.iter_mut().zip(&input.devices) {
        line.released = flow.release(device)?;
    }
    share(&mut flow, pool, weight_sum, &mut lines, &input.devices)?;
    flow.expire(input.spec.hold_epochs)?;
    let (settled, carry, unallocated) = flow.settle(&input.state)?;
    let lines = join_late(lines, late_lines);

    let state = next_state(input, window, Buckets { bucket, pool, weight_sum }, carry, &settled)?;
    let totals = Totals { window, split, carried_in, unallocated, bucket, pool, weight_sum, matured };
    finish(input, totals, settled, lines, state)
}

/// Totals on their way to the summary.
struct Totals {
    window: Window,
    split: SplitResult,
    carried_in: Amount,
    unallocated: Amount,
    bucket: Amount,
    pool: Amount,
    weight_sum: u128,
    matured: Vec<MaturedSummary>,
}

struct SplitResult {
    minted: Amount,
    devices: Amount,
    parts: Vec<SplitAmount>,
}

struct Buckets {
    bucket: Amount,
    pool: Amount,
    weight_sum: u128,
}

fn check_order(input: &ResolvedEpoch, window: Window) -> Result<(), EpochError> {
    let follows = input.state.number.is_none_or(|before| before.checked_add(1) == Some(input.number));
    if !follows {
        return Err(EpochError::Order { number: input.number, after: input.state.number });
    }
    let mut expected: Vec<u64> = input.state.maturing(window.end).map(|open| open.number).collect();
    let mut got: Vec<u64> = input.matured.iter().map(|matured| matured.number).collect();
    expected.sort_unstable();
    got.sort_unstable();
    if expected == got { Ok(()) } else { Err(EpochError::Matured { expected, got }) }
}

type LateLines = BTreeMap<DeviceId, Vec<LateLine>>;

fn settle_matured(flow: &mut Flow, input: &ResolvedEpoch) -> Result<(Vec<MaturedSummary>, LateLines), EpochError> {
    let mut order: Vec<_> = input.matured.iter().collect();
    order.sort_unstable_by_key(|matured| matured.number);
    let (mut summaries, mut lines) = (Vec::new(), LateLines::new());
    for matured in order {
        let Some(open) = input.state.open.iter().find(|open| open.number == matured.number) else { continue };
        let settlement = late::settle(flow, open, matured)?;
        summaries.push(settlement.summary);
        for (device, line) in settlement.lines {
            lines.entry(device).or_default().push(line);
        }
    }
    Ok((summaries, lines))
}

/// Splits what is minted. Each part is rounded down; the residual's part gets what that leaves.
fn split(spec: &super::ProgramSpec, number: u64, flow: &mut Flow) -> Result<SplitResult, EpochError> {
    let minted = if spec.suspend { Amount::ZERO } else { emission::minted(&spec.emission, number) };
    let overflow = || EpochError::Overflow { what: "a part of the split" };
    let mut left = minted;
    let mut amounts = Vec::with_capacity(spec.split.parts.len());
    for part in &spec.split.parts {
        let amount = minted.basis_points(part.basis_points).ok_or_else(overflow)?;
        left = left.minus(amount).ok_or_else(overflow)?;
        amounts.push(amount);
    }
    let mut result = SplitResult { minted, devices: Amount::ZERO, parts: Vec::new() };
    for (part, mut amount) in spec.split.parts.iter().zip(amounts) {
        if part.name == spec.split.residual {
            amount = sum("the split's residual", amount, left)?;
        }
        let mut account = None;
        match part.to {
            Recipient::Devices => result.devices = amount,
            Recipient::Account(to) => {
                account = Some(to);
                flow.pay_account(to, amount);
            }
            Recipient::Unallocated => flow.unallocated = sum("unallocated", flow.unallocated, amount)?,
        }
        result.parts.push(SplitAmount { name: part.name.clone(), account, amount });
    }
    Ok(result)
}

/// A device's line with its features and weight.
fn line(program: &Program, device: &ResolvedDevice) -> Line {
    let (raw_weight, reasons) = weigh(program, device);
    let mut line =
        Line { device: device.id, features: device.features.clone(), raw_weight, reasons, ..Line::default() };
    if program.spec().suspend {
        line.raw_weight = 0;
        line.reasons = vec![ZeroReason::ProgramSuspended.into()];
    } else if let Some(reason) = device.refused.filter(|_| raw_weight > 0) {
        line.reasons.push(reason.into());
    } else if raw_weight > 0 {
        (line.admitted, line.weight) = (true, raw_weight);
    }
    line
}

/// `bucket = floor((m + c) × b / 10^4)`, `pool = m + c − bucket`; without any weight the pool joins the bucket. A suspended
/// program forms neither: its carry waits.
fn divide(
    spec: &super::ProgramSpec,
    minted: Amount,
    weight_sum: u128,
    flow: &mut Flow,
) -> Result<(Amount, Amount), EpochError> {
    if spec.suspend {
        return Ok((Amount::ZERO, Amount::ZERO));
    }
    let whole = sum("the pool", minted, std::mem::take(&mut flow.carry))?;
    if weight_sum == 0 {
        return Ok((whole, Amount::ZERO));
    }
    let bucket = whole.basis_points(spec.late.basis_points).ok_or(EpochError::Overflow { what: "the late bucket" })?;
    Ok((bucket, difference("the pool", whole, bucket)?))
}

fn share(
    flow: &mut Flow,
    pool: Amount,
    weight_sum: u128,
    lines: &mut [Line],
    devices: &[ResolvedDevice],
) -> Result<(), EpochError> {
    let mut left = pool;
    for (line, device) in lines.iter_mut().zip(devices).filter(|(line, _)| line.weight > 0) {
        line.share =
            pool.part(u128::from(line.weight), weight_sum).ok_or(EpochError::Overflow { what: "a device's share" })?;
        left = difference("the pool", left, line.share)?;
        if line.share.is_zero() {
            line.reasons.push(ZeroReason::ZeroShare.into());
        }
        let paid = flow.pay_device(device, line.share)?;
        if paid.held {
            line.reasons.push(ZeroReason::NoOwner.into());
        }
        (line.owners, line.residual, line.held) = (paid.owners, paid.residual, paid.held);
    }
    flow.return_to_carry(left)
}

/// Puts late lines beside the devices' own; who is no longer in the program gets a line for them.
fn join_late(mut lines: Vec<Line>, late: LateLines) -> Vec<Line> {
    for (device, late) in late {
        match lines.binary_search_by_key(&device, |line| line.device) {
            Ok(at) => lines[at].late = late,
            Err(at) => {
                let reasons = vec![ZeroReason::NotInProgram.into()];
                lines.insert(at, Line { device, late, reasons, ..Line::default() });
            }
        }
    }
    lines
}

fn next_state(
    input: &ResolvedEpoch,
    window: Window,
    buckets: Buckets,
    carry: Amount,
    settled: &Settled,
) -> Result<ProgramState, EpochError> {
    let mut open: Vec<OpenEpoch> =
        input.state.open.iter().filter(|open| open.late_until > window.end).copied().collect();
    if !buckets.bucket.is_zero() {
        open.push(OpenEpoch {
            number: input.number,
            start: window.start,
            end: window.end,
            late_until: input.spec.late_until(window),
            program_digest: input.spec.digest()?,
            pool: buckets.pool,
            weight_sum: buckets.weight_sum,
            bucket: buckets.bucket,
        });
    }
    // No correction comes for epochs without an open bucket.
    let may_be_corrected = |released: &&ReleasedHeld| open.iter().any(|open| open.number == released.number);
    let released = settled.released.iter().filter(may_be_corrected).cloned().collect();
    Ok(ProgramState {
        number: Some(input.number),
        carry,
        released,
        open,
        held: settled.held.clone(),
        accounts: settled.accounts.clone(),
    })
}

fn finish(
    input: &ResolvedEpoch,
    totals: Totals,
    settled: Settled,
    lines: Vec<Line>,
    state: ProgramState,
) -> Result<EpochResult, EpochError> {
    let carried_out = state.carried().ok_or(EpochError::Overflow { what: "what is carried out" })?;
    conserve(&totals, &settled, carried_out)?;
    let leaves: Vec<_> = settled.payouts.iter().map(|payout| (payout.account, payout.cumulative)).collect();
    let (mut root, mut lines_digest, mut state_digest) = (None, Ok(Digest::default()), Ok(Digest::default()));
    let mut hashing: [&mut (dyn FnMut() + Send); 3] = [
        &mut || root = StandardTree::new(&leaves).map(|tree| merkle::to_text(&tree.root())),
        &mut || lines_digest = EpochResult::lines_digest(&lines),
        &mut || state_digest = state.digest(),
    ];
    parallel::for_each(&mut hashing, 1, |_, hash| hash());
    let payouts_in_state = settled.payouts.len() > MAX_SUMMARY_PAYOUTS;
    let held = settled.held.iter().try_fold(Amount::ZERO, |total, held| sum("held amounts", total, held.amount))?;
    let summary = EpochSummary {
        program: input.program.clone(),
        number: input.number,
        start: totals.window.start,
        end: totals.window.end,
        program_digest: input.spec.digest()?,
        suspended: input.spec.suspend,
        minted: totals.split.minted,
        carried_in: totals.carried_in,
        carried_out,
        unallocated: totals.unallocated,
        split: totals.split.parts,
        bucket: totals.bucket,
        pool: totals.pool,
        weight_sum: totals.weight_sum,
        carry: state.carry,
        held,
        offset: settled.offset,
        matured: totals.matured,
        devices: count(&lines),
        payouts: if payouts_in_state { Vec::new() } else { settled.payouts.clone() },
        payouts_in_state,
        root,
        leaves: leaves.len() as u64,
        lines_digest: lines_digest?,
        state_digest: state_digest?,
    };
    Ok(EpochResult { summary, lines, state, payouts: settled.payouts })
}

fn conserve(totals: &Totals, settled: &Settled, carried_out: Amount) -> Result<(), EpochError> {
    let payouts =
        settled.payouts.iter().try_fold(Amount::ZERO, |total, payout| sum("all payouts", total, payout.amount))?;
    let out = sum("all that leaves", sum("all that leaves", payouts, totals.unallocated)?, carried_out)?;
    let into = sum("all that enters", totals.split.minted, totals.carried_in)?;
    if out == into {
        return Ok(());
    }
    Err(EpochError::NotConserved {
        payouts: payouts.0,
        unallocated: totals.unallocated.0,
        carried_out: carried_out.0,
        minted: totals.split.minted.0,
        carried_in: totals.carried_in.0,
    })
}

pub(super) fn count(lines: &[Line]) -> DeviceCounts {
    let mut counts = DeviceCounts { total: lines.len() as u64, ..DeviceCounts::default() };
    for line in lines {
        let late = line.late.iter().any(|late| !late.paid.is_zero());
        if !line.share.is_zero() || line.released.is_some() || late {
            counts.paid += 1;
        } else if let Some(reason) = line.reasons.first() {
            *counts.zero.entry(reason.label().to_owned()).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests;

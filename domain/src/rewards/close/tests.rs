//! Epochs small enough to compute by hand.

use super::{
    super::{input::DeviceInput, result::Payout},
    *,
};
use crate::rewards::{
    fixtures::{account, device, epoch, producer, spec, total},
    input::{MaturedInput, Share},
    spec::{Emission, Late, Limit, Split, SplitPart},
};

fn amounts(result: &EpochResult) -> Vec<u128> {
    result.payouts.iter().map(|payout| payout.amount.0).collect()
}

fn matured(number: u64, devices: Vec<DeviceInput>, lines: Vec<Line>) -> MaturedInput {
    MaturedInput { number, spec: spec(), devices, lines }
}

#[test]
fn a_pool_is_shared_by_weight_and_the_dust_is_carried() {
    let devices = vec![producer(1, 1), producer(2, 2), producer(3, 4), producer(4, 0)];
    let result = close_epoch(&epoch(0, devices, ProgramState::default())).unwrap();
    // bucket 100, pool 900: 900/7 = 128.57, 257.14, 514.28
    assert_eq!(amounts(&result), [128, 257, 514]);
    assert_eq!(
        (result.summary.bucket, result.summary.pool, result.summary.carry),
        (Amount(100), Amount(900), Amount(1))
    );
    assert_eq!(result.summary.carried_out, Amount(101));
    assert_eq!(result.lines[3].reasons, [ZeroReason::NoData.into()]);
    assert_eq!(result.summary.devices.total, 4);
    assert_eq!(result.summary.devices.zero, [("NoData".to_owned(), 1)].into());
    assert_eq!(result.summary.leaves, 3);
}

#[test]
fn the_order_of_devices_does_not_matter() {
    let mut devices = vec![producer(1, 1), producer(2, 2), producer(3, 4)];
    let first = close_epoch(&epoch(0, devices.clone(), ProgramState::default())).unwrap();
    devices.reverse();
    assert_eq!(close_epoch(&epoch(0, devices, ProgramState::default())).unwrap(), first);
}

#[test]
fn without_any_weight_the_pool_joins_the_bucket_and_late_readings_get_it() {
    let first = close_epoch(&epoch(0, vec![producer(1, 0), producer(2, 0)], ProgramState::default())).unwrap();
    assert_eq!(
        (first.summary.bucket, first.summary.pool, first.summary.root.clone()),
        (Amount(1_000), Amount(0), None)
    );
    let second = close_epoch(&epoch(1, vec![producer(1, 5)], first.state.clone())).unwrap();
    assert_eq!(amounts(&second), [900]);
    // Epoch 0 ended at 10,000; its bucket is settled by the first close of an epoch that ends at 30,000 or later.
    let mut third = epoch(2, vec![producer(1, 5)], second.state);
    assert_eq!(
        close_epoch(&third).unwrap_err().to_string(),
        "epochs [0] mature with this close, but [] were given: read what the close froze"
    );
    third.matured = vec![matured(0, vec![producer(1, 1), producer(2, 3)], first.lines)];
    let third = close_epoch(&third).unwrap();
    assert_eq!(third.summary.matured[0].paid, Amount(1_000));
    assert_eq!(third.lines[0].late[0].paid, Amount(250));
    assert_eq!(third.lines[1].reasons, [ZeroReason::NotInProgram.into()]);
    assert_eq!(
        third.payouts[1],
        Payout { account: account(2), amount: Amount(750), cumulative: Amount(750), debt: Amount(0) }
    );
}

#[test]
fn late_dues_are_scaled_to_the_bucket() {
    let first =
        close_epoch(&epoch(0, vec![producer(1, 10), producer(2, 0), producer(3, 0)], ProgramState::default())).unwrap();
    let second = close_epoch(&epoch(1, vec![], first.state.clone())).unwrap();
    let mut third = epoch(2, vec![], second.state);
    third.matured = vec![matured(0, vec![producer(1, 10), producer(2, 10), producer(3, 1)], first.lines)];
    let third = close_epoch(&third).unwrap();
    // dues 900 and 90 of a bucket of 100: 90.9 and 9.09
    assert_eq!(third.summary.matured[0].dues, Amount(990));
    assert_eq!([third.lines[0].late[0].paid, third.lines[1].late[0].paid], [Amount(90), Amount(9)]);
    assert_eq!(third.summary.matured[0].returned, Amount(1));
}

#[test]
fn a_correction_reduces_later_payouts_and_never_a_cumulative_amount() {
    let first = close_epoch(&epoch(0, vec![producer(1, 10), producer(2, 10)], ProgramState::default())).unwrap();
    let second = close_epoch(&epoch(1, vec![], first.state.clone())).unwrap();
    let mut third = epoch(2, vec![producer(1, 1), producer(2, 3)], second.state);
    third.matured = vec![matured(0, vec![producer(1, 2), producer(2, 10)], first.lines)];
    let third = close_epoch(&third).unwrap();
    // Paid 450, due 90: 360 too much. Bucket 100 returns: m + c = 1,100, pool 990: 247 and 742.
    assert_eq!(third.summary.matured[0].corrections, Amount(360));
    assert_eq!(amounts(&third), [0, 742]);
    assert_eq!(third.payouts[0].cumulative, Amount(450));
    assert_eq!(third.state.accounts[0].debt, Amount(113));
    assert_eq!(third.summary.offset, Amount(247));
}

/// Epoch 0 held 450 for device 1, which had no owner; late readings say that 90 would have been right.
fn overpaid_while_held(second: EpochInput, first: &EpochResult) -> EpochResult {
    let second = close_epoch(&second).unwrap();
    let orphan = |energy| DeviceInput { shares: vec![], ..producer(1, energy) };
    let mut third = epoch(2, vec![producer(7, 1), producer(2, 3)], second.state);
    third.matured = vec![matured(0, vec![orphan(2), producer(2, 10)], first.lines.clone())];
    close_epoch(&third).unwrap()
}

#[test]
fn a_correction_asks_whom_the_held_share_was_released_to() {
    let orphan = DeviceInput { shares: vec![], ..producer(1, 10) };
    let first = close_epoch(&epoch(0, vec![orphan, producer(2, 10)], ProgramState::default())).unwrap();
    assert_eq!(first.summary.held, Amount(450));
    let of = |result: &EpochResult, number| {
        result.state.accounts.iter().find(|state| state.account == account(number)).copied()
    };

    // Still held: 360 of it return at once.
    let kept = overpaid_while_held(epoch(1, vec![], first.state.clone()), &first);
    assert_eq!((kept.summary.matured[0].corrections, kept.lines[0].late[0].corrected), (Amount(360), Amount(360)));
    assert_eq!(kept.lines[0].late[0].debts, []);

    // Released to account 7 in epoch 1: its debt, and what it gets now pays of it.
    let owned = DeviceInput { shares: producer(7, 1).shares, ..producer(1, 0) };
    let owed = overpaid_while_held(epoch(1, vec![owned], first.state.clone()), &first);
    assert_eq!(owed.summary.matured[0].corrections, Amount(360));
    assert_eq!(owed.lines[0].late[0].debts[0].account, account(7));
    let debtor = of(&owed, 7).unwrap();
    assert_eq!((debtor.cumulative, debtor.debt.plus(owed.summary.offset)), (Amount(450), Some(Amount(360))));
    assert!(!owed.summary.offset.is_zero());
    assert_eq!(owed.state.released, []);

    // Expired: nothing can be taken back, and nothing is said to be.
    let mut gone = epoch(1, vec![], first.state.clone());
    gone.spec.hold_epochs = 1;
    let gone = overpaid_while_held(gone, &first);
    assert_eq!(gone.summary.matured[0].corrections, Amount(0));
    assert_eq!((gone.lines[0].late[0].correction, gone.lines[0].late[0].corrected), (Amount(360), Amount(0)));
}

#[test]
fn a_late_claim_against_a_full_cell_gets_nothing() {
    let limited = |input: &mut EpochInput| {
        input.spec.limits = vec![Limit::HexCapacity { resolution: 8, capacity: 1, by: None }];
    };
    let placed = |number, energy| DeviceInput {
        place: Some(crate::rewards::Place { cell: 1, unit: [0; 3] }),
        ..producer(number, energy)
    };
    let mut first = epoch(0, vec![placed(1, 1), placed(2, 0)], ProgramState::default());
    limited(&mut first);
    let spec = first.spec.clone();
    let first = close_epoch(&first).unwrap();
    let mut second = epoch(1, vec![], first.state);
    limited(&mut second);
    let second = close_epoch(&second).unwrap();
    let mut third = epoch(2, vec![placed(1, 1), placed(2, 0)], second.state);
    limited(&mut third);
    third.matured =
        vec![MaturedInput { number: 0, spec, devices: vec![placed(1, 1), placed(2, 8)], lines: first.lines }];
    let third = close_epoch(&third).unwrap();
    assert_eq!(third.lines[1].late[0].reason, Some(ZeroReason::CapacityTaken.into()));
    assert_eq!(third.summary.matured[0].paid, Amount(0));
}

#[test]
fn a_refusal_stands_without_late_readings_even_where_room_is_left() {
    let placed = |number, energy, cell, east| DeviceInput {
        place: Some(crate::rewards::Place { cell, unit: [1 << 30, east, 0] }),
        ..producer(number, energy)
    };
    // 2 takes the cell's one place from 3 and is then too close to 1: the cell has room that nobody was admitted to.
    let devices = |third| vec![placed(1, 8, 7, 0), placed(2, 8, 9, 100), placed(3, third, 9, 1_000_000)];
    let limited = |mut input: EpochInput| {
        input.spec.limits = vec![
            Limit::HexCapacity { resolution: 8, capacity: 1, by: None },
            Limit::MinimumDistance { metres: 100, by: None },
        ];
        input
    };
    let first = limited(epoch(0, devices(4), ProgramState::default()));
    let spec = first.spec.clone();
    let first = close_epoch(&first).unwrap();
    let reasons: Vec<_> = first.lines.iter().map(|line| line.reasons.first().map_or("", |zero| zero.label())).collect();
    assert_eq!(reasons, ["", "TooClose", "CellFull"]);
    let second = close_epoch(&limited(epoch(1, vec![], first.state.clone()))).unwrap();
    let settled = |third| {
        let mut input = limited(epoch(2, vec![], second.state.clone()));
        let (spec, lines) = (spec.clone(), first.lines.clone());
        input.matured = vec![MaturedInput { number: 0, spec, devices: devices(third), lines }];
        close_epoch(&input).unwrap()
    };
    for nothing_more in [4, 3] {
        let third = settled(nothing_more);
        assert_eq!(third.summary.matured[0].dues, Amount(0), "{nothing_more}");
        assert!(third.lines.is_empty(), "{:?}", third.lines);
        assert_eq!(
            third.payouts,
            [Payout { account: account(1), amount: Amount(0), cumulative: Amount(900), debt: Amount(0) }]
        );
    }
    // What came late for 3 makes it a claim: 900 × 5 / 8, scaled to the bucket.
    let third = settled(5);
    assert_eq!((third.summary.matured[0].dues, third.summary.matured[0].paid), (Amount(562), Amount(100)));
    assert_eq!((third.lines[0].late[0].room, third.lines[0].late[0].claims), (1, 1));
}

#[test]
fn an_amount_waits_for_an_owner_and_expires() {
    let orphan = |energy| DeviceInput { shares: vec![], ..producer(1, energy) };
    let first = close_epoch(&epoch(0, vec![orphan(1)], ProgramState::default())).unwrap();
    assert_eq!((first.summary.held, first.lines[0].held), (Amount(900), true));
    assert_eq!(first.lines[0].reasons, [ZeroReason::NoOwner.into()]);
    let second = close_epoch(&epoch(1, vec![producer(1, 1)], first.state.clone())).unwrap();
    assert_eq!(second.payouts[0].amount, Amount(1_800));
    assert_eq!(second.lines[0].released.as_ref().unwrap().amount, Amount(900));

    let mut state = close_epoch(&epoch(1, vec![], first.state)).unwrap().state;
    state.open.clear();
    let third = close_epoch(&epoch(2, vec![], state)).unwrap();
    assert_eq!((third.summary.unallocated, third.summary.held), (Amount(900), Amount(0)));
}

#[test]
fn owners_share_and_what_rounding_leaves_is_carried() {
    let mut joint = producer(1, 1);
    joint.shares = [3_333, 3_333, 3_333]
        .iter()
        .enumerate()
        .map(|(i, points)| Share { account: account(i as u8 + 1), basis_points: *points })
        .collect();
    let result = close_epoch(&epoch(0, vec![joint.clone()], ProgramState::default())).unwrap();
    assert_eq!(amounts(&result), [299, 299, 299]);
    assert_eq!((result.lines[0].residual, result.summary.carry), (Amount(3), Amount(3)));

    joint.shares.push(Share { account: account(9), basis_points: 2 });
    let result = close_epoch(&epoch(0, vec![joint], ProgramState::default())).unwrap();
    assert!(result.lines[0].held, "shares beyond the whole are no owners");
}

#[test]
fn the_split_is_exact_and_its_residual_explicit() {
    let mut input = epoch(0, vec![producer(1, 1)], ProgramState::default());
    let part = |name: &str, basis_points, to| SplitPart { name: name.into(), basis_points, to };
    input.spec.emission = Emission::Fixed { amount: Amount(1_001) };
    input.spec.late = Late { basis_points: 0, late_until_ms: 0 };
    input.spec.split = Split {
        parts: vec![
            part("devices", 9_000, Recipient::Devices),
            part("operations", 700, Recipient::Account(account(9))),
            part("burn", 300, Recipient::Unallocated),
        ],
        residual: "operations".into(),
    };
    let result = close_epoch(&input).unwrap();
    // 900.9, 70.07, 30.03: one unit is left
    assert_eq!(amounts(&result), [900, 71]);
    assert_eq!(result.summary.unallocated, Amount(30));
    assert_eq!(result.summary.split[1].account, Some(account(9)));
}

#[test]
fn a_suspended_program_mints_nothing_and_keeps_its_carry() {
    let first =
        close_epoch(&epoch(0, vec![producer(1, 1), producer(2, 2), producer(3, 4)], ProgramState::default())).unwrap();
    let mut second = epoch(1, vec![producer(1, 1)], first.state.clone());
    second.spec.suspend = true;
    let second = close_epoch(&second).unwrap();
    assert_eq!(second.lines[0].reasons, [ZeroReason::ProgramSuspended.into()]);
    assert_eq!((second.summary.minted, second.summary.carry), (Amount(0), first.summary.carry));
    assert_eq!(second.summary.root, first.summary.root);
    assert_eq!(second.payouts[0].amount, Amount(0));
}

#[test]
fn each_way_to_nothing_has_its_reason() {
    let mut input = epoch(0, vec![], ProgramState::default());
    input.spec.weight = "100 / (energy - 5) - 20".into();
    input.spec.emission = Emission::Fixed { amount: Amount(5) };
    input.spec.late.basis_points = 0;
    let suspended = DeviceInput { suspended: true, ..producer(1, 0) };
    let overflow = DeviceInput {
        totals: vec![super::super::Total { increase: i128::MAX, ..total("energy", 1) }],
        ..producer(7, 1)
    };
    // 2: division by zero; 3: negative; 4: 100/5 − 20 = 0; 5: gate; 6: weight 80; 8: weight 30
    input.devices = vec![
        suspended,
        producer(2, 5),
        producer(3, 1_000),
        producer(4, 10),
        producer(5, 1_000_001),
        producer(6, 6),
        overflow,
        producer(8, 7),
    ];
    let result = close_epoch(&input).unwrap();
    let labels: Vec<_> = result.lines.iter().map(|line| line.reasons.first().map_or("", |zero| zero.label())).collect();
    assert_eq!(labels, ["Suspended", "WeightError", "WeightError", "ZeroWeight", "TooMuch", "", "TooMuch", ""]);
    assert_eq!(amounts(&result), [3, 1]);
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let mut input = epoch(2, vec![], ProgramState { number: Some(0), ..ProgramState::default() });
    assert!(matches!(close_epoch(&input), Err(EpochError::Order { .. })));
    input.state.number = Some(1);
    input.devices = vec![device(crate::ids::DeviceId([1; 16])), device(crate::ids::DeviceId([1; 16]))];
    assert!(matches!(close_epoch(&input), Err(EpochError::DuplicateDevice { .. })));
    input.devices.clear();
    input.state.carry = Amount(u128::MAX);
    assert!(matches!(close_epoch(&input), Err(EpochError::Overflow { .. })));
    input.spec.weight = "1.5".into();
    assert!(matches!(close_epoch(&input), Err(EpochError::Program { .. })));
}

#[test]
fn plain_writing_is_canonical() {
    let orphan = DeviceInput { shares: vec![], ..producer(3, 1) };
    let first = close_epoch(&epoch(0, vec![producer(1, 10), producer(2, 0), orphan], ProgramState::default())).unwrap();
    let second = close_epoch(&epoch(1, vec![producer(3, 1)], first.state.clone())).unwrap();
    let mut third = epoch(2, vec![], second.state.clone());
    third.matured = vec![matured(0, vec![producer(1, 2), producer(2, 10)], first.lines.clone())];
    let third = close_epoch(&third).unwrap();
    for result in [first, second, third] {
        for line in &result.lines {
            assert_eq!(line.canonical().unwrap(), crate::canonical::to_vec(line).unwrap());
            assert_eq!(serde_json::from_slice::<Line>(&line.canonical().unwrap()).unwrap(), *line);
        }
        let state = result.state.canonical().unwrap();
        assert_eq!(state, crate::canonical::to_vec(&result.state).unwrap());
        assert_eq!(serde_json::from_slice::<ProgramState>(&state).unwrap(), result.state);
        let summary = serde_json::to_vec(&result.summary).unwrap();
        assert_eq!(serde_json::from_slice::<EpochSummary>(&summary).unwrap(), result.summary);
    }
}

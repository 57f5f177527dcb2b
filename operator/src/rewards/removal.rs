//! When a removed program is over. Its ended epochs are closed and paid as ever; then suspended epochs go on until late buckets have matured
//! and held amounts were released or have expired: what was promised while it was there is kept. Pure.

use depin_domain::{
    registry::Program,
    rewards::{ProgramSpec, ProgramState},
    time::Timestamp,
};

/// Whether nothing is left to do for `program`, whose next epoch is `next` and whose last one left `state`.
#[must_use]
pub fn is_over(program: &Program, next: u64, state: &ProgramState) -> bool {
    if !program.is_removed() {
        return false;
    }
    // A spec that cannot be read tells no epoch at which it went: nothing can be closed of it.
    let Some(gone) = program.removed_from() else { return true };
    let first = program.entries().first().map_or(gone, |entry| entry.from_epoch);
    if gone <= first {
        return true;
    }
    if next <= gone || !state.open.is_empty() || !state.held.is_empty() {
        return false;
    }
    match (settled_at(program, gone), closed_until(program, next)) {
        (Some(settled), Some(closed)) => closed >= settled,
        _ => true,
    }
}

/// When the last late readings of the epochs before `gone` have counted, whatever bucket they had: the ledger keeps their statistics
/// until an epoch closes that ends then or later.
fn settled_at(program: &Program, gone: u64) -> Option<Timestamp> {
    let specs = program.entries().iter().filter(|entry| entry.from_epoch < gone);
    let specs = specs.filter_map(|entry| serde_json::from_str::<ProgramSpec>(&entry.spec).ok());
    specs.filter_map(|spec| Some(spec.late_until(spec.epoch.window(gone.checked_sub(1)?)?))).max()
}

fn closed_until(program: &Program, next: u64) -> Option<Timestamp> {
    let number = next.checked_sub(1)?;
    let spec: ProgramSpec = serde_json::from_str(&program.ruling(number)?.spec).ok()?;
    spec.epoch.window(number).map(|window| window.end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

    use depin_domain::{
        ids::{DeviceId, Digest},
        registry::{Change, ProgramEntry, Record, Registry},
        rewards::{Amount, OpenEpoch, result::Held},
    };
    use serde_json::json;

    use super::*;

    /// Epochs of ten seconds from epoch 1 on, late readings count for 25 s; removed at `at`.
    fn removed(at: i64) -> Registry {
        let spec: ProgramSpec = serde_json::from_value(json!({
            "fleets": ["energy/meters"], "token": {"symbol": "WATT", "decimals": 0},
            "epoch": {"lengthMs": 10_000, "genesis": 0}, "emission": {"fixed": {"amount": "1000"}},
            "features": [{"name": "energy", "metric": "energy", "aggregate": "Delta"}], "weight": "energy",
            "late": {"basisPoints": 0, "lateUntilMs": 25_000},
        }))
        .unwrap();
        let text = String::from_utf8(spec.canonical().unwrap()).unwrap();
        let entry = ProgramEntry { id: "e/w".into(), digest: Digest::of(text.as_bytes()), spec: text, from_epoch: 1 };
        let mut registry = Registry::default();
        registry.apply(Record { version: 1, at: Timestamp(10_000), change: Change::Program(entry) }).unwrap();
        let change = Change::ProgramRemoved { id: "e/w".into() };
        registry.apply(Record { version: 2, at: Timestamp(at), change }).unwrap();
        registry
    }

    #[test]
    fn a_removed_program_goes_on_until_all_that_it_promised_is_settled() {
        let registry = removed(35_000);
        let program = registry.program("e/w").unwrap();
        let nothing = ProgramState::default();
        let over = |next| is_over(program, next, &nothing);
        // Epochs 1 and 2 ended before; late readings of epoch 2, which ended at 30 s, count until 55 s: epoch 5 ends at 60 s.
        assert_eq!((1..8).map(over).collect::<Vec<_>>(), [false, false, false, false, false, true, true]);
        let bucket = OpenEpoch {
            bucket: Amount(1),
            end: Timestamp(30_000),
            late_until: Timestamp(55_000),
            number: 2,
            pool: Amount(1),
            program_digest: Digest::of(b""),
            start: Timestamp(20_000),
            weight_sum: 1,
        };
        assert!(!is_over(program, 7, &ProgramState { open: vec![bucket], ..ProgramState::default() }));
        let held = Held { amount: Amount(1), device: DeviceId([1; 16]), number: 2 };
        assert!(!is_over(program, 7, &ProgramState { held: vec![held], ..ProgramState::default() }));
    }

    #[test]
    fn one_that_saw_no_end_of_an_epoch_is_over_at_once() {
        let registry = removed(12_000);
        assert!(is_over(registry.program("e/w").unwrap(), 1, &ProgramState::default()));
    }
}

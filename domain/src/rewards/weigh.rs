//! One device's gates and weight, before places are scarce.

use super::{
    program::Program,
    resolve::ResolvedDevice,
    result::{Zero, ZeroReason},
};

/// Largest weight: 10^6 units in micro-units, so that a sum over 10^18 devices fits 128 bits.
pub(super) const MAX_WEIGHT: i64 = 1_000_000_000_000;

/// Weighs a device: its weight before limits, which is 0 if and only if there is a reason. Without a reading the expression is not
/// even asked, so a constant cannot pay what is switched off.
pub(super) fn weigh(program: &Program, device: &ResolvedDevice) -> (u64, Vec<Zero>) {
    if !device.has_data {
        let reason = if device.suspended { ZeroReason::Suspended } else { ZeroReason::NoData };
        return (0, vec![reason.into()]);
    }
    let shut = shut_gates(program, &device.features);
    if !shut.is_empty() {
        return (0, shut);
    }
    match program.weight().evaluate(&device.features) {
        Ok(0) => (0, vec![ZeroReason::ZeroWeight.into()]),
        Ok(weight @ 1..=MAX_WEIGHT) => (weight.unsigned_abs(), Vec::new()),
        Ok(_) | Err(_) => (0, vec![ZeroReason::WeightError.into()]),
    }
}

fn shut_gates(program: &Program, values: &[Option<i64>]) -> Vec<Zero> {
    let gates = program.spec().gates.iter().zip(program.gates());
    gates
        .filter(|(gate, feature)| {
            let passes = |value: i64| {
                gate.minimum.is_none_or(|minimum| value >= minimum)
                    && gate.maximum.is_none_or(|maximum| value <= maximum)
            };
            !values.get(**feature).copied().flatten().is_some_and(passes)
        })
        .map(|(gate, _)| Zero { reason: ZeroReason::GateFailed, detail: gate.reason.clone() })
        .collect()
}

//! One device's features, gates and weight, before places are scarce.

use super::{
    features,
    input::DeviceInput,
    program::Program,
    result::{Zero, ZeroReason},
};

/// Largest weight: 10^6 units in micro-units, so that a sum over 10^18 devices fits 128 bits.
pub(super) const MAX_WEIGHT: i64 = 1_000_000_000_000;

/// What a device's own readings give it.
pub(super) struct Weighed {
    pub(super) features: Vec<Option<i64>>,
    /// 0 if and only if there is a reason.
    pub(super) raw: u64,
    pub(super) reasons: Vec<Zero>,
}

/// Weighs a device. Without a reading the expression is not even asked, so a constant cannot pay what is switched off.
pub(super) fn weigh(program: &Program, device: &DeviceInput) -> Weighed {
    let values = features::features(program, device);
    if !features::has_data(program, device) {
        let reason = if device.suspended { ZeroReason::Suspended } else { ZeroReason::NoData };
        return Weighed { features: values, raw: 0, reasons: vec![reason.into()] };
    }
    let shut = shut_gates(program, &values);
    if !shut.is_empty() {
        return Weighed { features: values, raw: 0, reasons: shut };
    }
    let (raw, reasons) = match program.weight().evaluate(&values) {
        Ok(0) => (0, vec![ZeroReason::ZeroWeight.into()]),
        Ok(weight @ 1..=MAX_WEIGHT) => (weight.unsigned_abs(), Vec::new()),
        Ok(_) | Err(_) => (0, vec![ZeroReason::WeightError.into()]),
    };
    Weighed { features: values, raw, reasons }
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

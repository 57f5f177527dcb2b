//! Frozen statistics from the wire into an epoch's assembly.

use depin_domain::{
    ids::DeviceId,
    proofs::Reading,
    statistics::{GrainStatistic, Slots},
    time::Timestamp,
};
use depin_proto::v1;

/// A statistic cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "statistic of device {device}, metric {metric:?}: {field} is malformed; the ledger is newer than this operator, or damaged"
)]
pub struct Malformed {
    device: String,
    metric: String,
    field: &'static str,
}

/// The device, and the statistic in the domain's form.
///
/// # Errors
/// When a field is malformed.
pub fn from_wire(raw: &v1::GrainStatistic) -> Result<(DeviceId, GrainStatistic), Malformed> {
    let malformed =
        |field| Malformed { device: hex::encode(&raw.device_id), metric: raw.metric.chars().take(64).collect(), field };
    let number = |field: &'static str, text: &str| text.parse::<i128>().map_err(|_| malformed(field));
    let device = DeviceId::from_slice(&raw.device_id).ok_or_else(|| malformed("device_id"))?;
    let statistic = GrainStatistic {
        start: Timestamp(raw.grain_start),
        cadence_ms: raw.cadence_ms,
        count: raw.count,
        sum: number("sum", &raw.sum)?,
        min: raw.min,
        max: raw.max,
        first: Reading { at: Timestamp(raw.first_at), value: raw.first_value },
        last: Reading { at: Timestamp(raw.last_at), value: raw.last_value },
        increase: number("increase", &raw.increase)?,
        reset_increase: number("reset_increase", &raw.reset_increase)?,
        slots: Slots::from_bytes(&raw.slots),
    };
    Ok((device, statistic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> v1::GrainStatistic {
        v1::GrainStatistic {
            device_id: vec![1; 16].into(),
            metric: "energy".into(),
            grain_start: 1000,
            count: 2,
            sum: "-170141183460469231731687303715884105728".into(),
            increase: "5".into(),
            reset_increase: "0".into(),
            slots: vec![0b101].into(),
            cadence_ms: 10,
            ..Default::default()
        }
    }

    #[test]
    fn a_statistic_keeps_every_digit() {
        let (device, statistic) = from_wire(&raw()).unwrap();
        assert_eq!(device, DeviceId([1; 16]));
        assert_eq!((statistic.sum, statistic.increase, statistic.slots.count()), (i128::MIN, 5, 2));
    }

    #[test]
    fn a_malformed_one_is_named() {
        let error = from_wire(&v1::GrainStatistic { sum: "1.5".into(), ..raw() }).unwrap_err();
        assert!(error.to_string().contains("sum"), "{error}");
        assert!(from_wire(&v1::GrainStatistic { device_id: vec![1; 15].into(), ..raw() }).is_err());
    }
}

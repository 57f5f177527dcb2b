//! What was published and what was acknowledged, device by device, with exact sums: what a test compares the ledger with.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::plan::Message;

/// The whole run.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The run's seed.
    pub seed: u64,
    /// Messages sent for the first time, copies included.
    pub published: u64,
    /// Messages acknowledged, copies included.
    pub acknowledged: u64,
    /// Readings in published messages that should count, once each.
    pub readings_published: u64,
    /// Readings in acknowledged messages that should count, once each.
    pub readings: u64,
    /// Connections made after the first of each client.
    pub reconnects: u64,
    /// How many messages each fault struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// By serial.
    pub devices: BTreeMap<String, DeviceReport>,
}

/// One device.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReport {
    /// Messages sent for the first time, without copies.
    pub published: u64,
    /// Messages acknowledged, without copies.
    pub acknowledged: u64,
    /// What should count, by the metric's name in the payload.
    pub metrics: BTreeMap<String, MetricReport>,
}

/// One metric of acknowledged messages. Integers are at `scale`: the quantity times 10^scale.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricReport {
    /// Digits after the point.
    pub scale: u8,
    /// How many readings.
    pub count: u64,
    /// Their sum, as text because it may pass 2^53.
    #[serde(serialize_with = "as_text")]
    pub sum: i128,
    /// The smallest.
    pub min: i64,
    /// The largest.
    pub max: i64,
    /// Timestamp and value of the earliest.
    pub first: (i64, i64),
    /// Timestamp and value of the latest.
    pub last: (i64, i64),
}

fn as_text<S: serde::Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Report {
    /// Counts a message that is sent for the first time.
    pub fn published(&mut self, message: &Message) {
        self.published += 1;
        if message.copy {
            return;
        }
        self.readings_published += message.values.len() as u64;
        self.devices.entry(message.serial.to_string()).or_default().published += 1;
        let struck = message.struck;
        let faults = [
            ("duplicates", struck.duplicate),
            ("reordering", struck.reorder),
            ("skewed", struck.skew),
            ("stuck", struck.stuck),
            ("impossible", struck.impossible),
            ("tampering", struck.tamper),
            ("disconnects", struck.disconnect),
        ];
        for (name, _) in faults.into_iter().filter(|(_, hit)| *hit) {
            *self.faults.entry(name).or_default() += 1;
        }
    }

    /// Counts an acknowledgement.
    pub fn acknowledged(&mut self, message: &Message) {
        self.acknowledged += 1;
        if message.copy {
            return;
        }
        let device = self.devices.entry(message.serial.to_string()).or_default();
        device.acknowledged += 1;
        for (name, value) in &message.values {
            self.readings += 1;
            let (at, value, scale) = (message.timestamp, value.mantissa, value.scale);
            let metric = device.metrics.entry(name.to_string()).or_insert(MetricReport {
                scale,
                count: 0,
                sum: 0,
                min: value,
                max: value,
                first: (at, value),
                last: (at, value),
            });
            metric.count += 1;
            metric.sum += i128::from(value);
            metric.min = metric.min.min(value);
            metric.max = metric.max.max(value);
            metric.first = metric.first.min((at, value));
            metric.last = metric.last.max((at, value));
        }
    }

    /// Writes it as JSON, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("partial");
        fs::write(&temporary, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, path).with_context(|| format!("cannot rename to {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decimal::Decimal, faults::Struck};

    #[test]
    fn copies_count_as_messages_but_not_as_readings() {
        let message = |timestamp, value, copy| Message {
            due: timestamp,
            serial: "m".into(),
            topic: "t".to_owned(),
            payload: Vec::new(),
            timestamp,
            values: if copy { Vec::new() } else { vec![("power_w".into(), Decimal::new(value, 1))] },
            struck: Struck { duplicate: true, ..Struck::default() },
            copy,
        };
        let mut report = Report::default();
        for message in [message(20, -5, false), message(20, -5, true), message(10, 7, false)] {
            report.published(&message);
            report.acknowledged(&message);
        }
        assert_eq!((report.published, report.acknowledged, report.readings), (3, 3, 2));
        assert_eq!(report.faults["duplicates"], 2);
        let metric = &report.devices["m"].metrics["power_w"];
        assert_eq!((metric.count, metric.sum, metric.min, metric.max), (2, 2, -5, 7));
        assert_eq!((metric.first, metric.last, metric.scale), ((10, 7), (20, -5), 1));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["devices"]["m"]["metrics"]["power_w"]["sum"], "2");
    }
}

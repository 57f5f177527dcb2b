//! What is published when: an endless or bounded sequence of messages for one connection, made without a clock.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    decimal::Decimal,
    faults::{Faults, Struck},
    hardware::Device,
};

/// One message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When to publish, Unix milliseconds.
    pub due: i64,
    /// The device's serial.
    pub serial: Arc<str>,
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// The timestamp in the payload.
    pub timestamp: i64,
    /// The readings that should count once this is acknowledged, by the names in the payload.
    pub values: Vec<(Arc<str>, Decimal)>,
    /// The faults in it.
    pub struck: Struck,
    /// The second copy of a message already counted.
    pub copy: bool,
}

/// When messages are due and how fast the simulated world runs.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Unix milliseconds of the first message.
    pub start: i64,
    /// Milliseconds between a device's messages.
    pub cadence: i64,
    /// World time at the start.
    pub world_start: i64,
    /// World milliseconds in one of the clock's.
    pub speed: f64,
    /// Messages of each device; `None`: no end.
    pub messages: Option<u64>,
}

impl Pace {
    /// World time at the clock's time `at`.
    #[must_use]
    pub fn world(&self, at: i64) -> i64 {
        self.world_start + ((at - self.start) as f64 * self.speed) as i64
    }
}

/// The messages of some modelled devices, in the order of publishing.
#[derive(Debug)]
pub struct Modelled {
    devices: Vec<Modelling>,
    pace: Pace,
    faults: Faults,
    seed: u64,
    tick: u64,
    next: usize,
    ready: VecDeque<Message>,
}

#[derive(Debug)]
struct Modelling {
    device: Device,
    serial: Arc<str>,
    /// Spreads devices over the cadence, so that they do not all speak at once.
    phase: i64,
    held: Option<Message>,
    /// What the first value is stuck at.
    stuck: Option<(&'static str, Decimal)>,
}

impl Modelled {
    /// The messages of `devices`, each with its phase in milliseconds.
    #[must_use]
    pub fn new(devices: Vec<(Device, i64)>, pace: Pace, faults: Faults, seed: u64) -> Self {
        let devices = devices
            .into_iter()
            .map(|(device, phase)| {
                let serial = device.serial().into();
                Modelling { device, serial, phase, held: None, stuck: None }
            })
            .collect();
        Self { devices, pace, faults, seed, tick: 0, next: 0, ready: VecDeque::new() }
    }
}

impl Iterator for Modelled {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        while self.ready.is_empty() {
            if self.pace.messages.is_some_and(|limit| self.tick >= limit) {
                // What reordering still holds back comes last.
                return self.devices.iter_mut().find_map(|modelling| modelling.held.take());
            }
            let modelling = self.devices.get_mut(self.next)?;
            modelling.step(&self.pace, &self.faults, self.seed, self.tick, &mut self.ready);
            self.next += 1;
            if self.next == self.devices.len() {
                (self.next, self.tick) = (0, self.tick + 1);
            }
        }
        self.ready.pop_front()
    }
}

impl Modelling {
    fn step(&mut self, pace: &Pace, faults: &Faults, seed: u64, tick: u64, ready: &mut VecDeque<Message>) {
        let due = pace.start + self.phase + pace.cadence * tick as i64;
        let struck = faults.strike(seed, self.device.number(), tick);
        let message = self.message(due, pace.world(due), struck, faults.skew_ms);
        if struck.reorder && self.held.is_none() {
            self.held = Some(message);
            return;
        }
        let copy = struck.duplicate.then(|| Message { copy: true, values: Vec::new(), ..message.clone() });
        ready.push_back(message);
        ready.extend(copy);
        ready.extend(self.held.take());
    }

    fn message(&mut self, due: i64, world: i64, struck: Struck, skew: i64) -> Message {
        let mut sample = self.device.measure(world);
        if let Some(value) = sample.first_mut() {
            self.stuck = struck.stuck.then(|| self.stuck.unwrap_or(*value));
            *value = self.stuck.unwrap_or(*value);
            if struck.impossible {
                value.1 = Decimal::new(-1_000_000_000_000, 0);
            }
        }
        let timestamp = if struck.skew { due + skew } else { due };
        let mut payload = self.device.payload(&sample, timestamp).into_bytes();
        if struck.tamper {
            payload.truncate(payload.len() / 2);
            payload.push(0xFF);
        }
        let counted = if struck.tamper || struck.skew { sample.len() } else { usize::from(struck.impossible) };
        let values = sample.into_iter().skip(counted).map(|(name, value)| (Arc::from(name), value)).collect();
        let topic = self.device.topic();
        Message { due, serial: self.serial.clone(), topic, payload, timestamp, values, struck, copy: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Kind;

    fn messages(faults: Faults) -> Vec<Message> {
        messages_at(10.0, faults)
    }

    fn messages_at(speed: f64, faults: Faults) -> Vec<Message> {
        let devices =
            (0..3).map(|number| (Device::new(Kind::Meters, "m-", number, 1, 0), number as i64 * 10)).collect();
        let pace = Pace { start: 1_000, cadence: 100, world_start: 0, speed, messages: Some(50) };
        Modelled::new(devices, pace, faults, 1).collect()
    }

    #[test]
    fn each_device_speaks_once_a_cadence() {
        let all = messages(Faults::default());
        assert_eq!(all.len(), 150);
        assert!(all.is_sorted_by_key(|message| message.due));
        assert!(all.iter().all(|message| message.values.len() == 2 && message.timestamp == message.due));
        assert_eq!(all, messages(Faults::default()), "repeatable");
    }

    #[test]
    fn reordering_loses_nothing_and_swaps_some() {
        let all = messages(Faults { reordering: 0.2, ..Faults::default() });
        assert_eq!(all.len(), 150);
        let of_one: Vec<i64> =
            all.iter().filter(|message| &*message.serial == "m-0001").map(|message| message.due).collect();
        assert!(!of_one.is_sorted());
        let mut sorted = of_one.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] == 100));
    }

    #[test]
    fn a_value_that_is_stuck_stays_for_a_while_and_then_moves_on() {
        // Ten minutes between two messages: power changes with each.
        let all = messages_at(6_000.0, Faults { stuck: 0.05, ..Faults::default() });
        let of_one: Vec<(bool, Decimal)> = all
            .iter()
            .filter(|message| &*message.serial == "m-0001")
            .map(|message| (message.struck.stuck, message.values[0].1))
            .collect();
        let runs: Vec<_> = of_one.chunk_by(|one, next| one.0 && next.0).filter(|run| run[0].0).collect();
        assert!(!runs.is_empty() && of_one.iter().any(|(stuck, _)| !stuck));
        for run in runs {
            assert!(run.iter().all(|(_, value)| *value == run[0].1), "{run:?}");
        }
        assert!(of_one.iter().any(|(_, value)| *value != of_one[0].1));
    }

    #[test]
    fn what_cannot_count_is_not_expected_to() {
        let faults = Faults { tampering: 0.1, impossible: 0.1, duplicates: 0.1, ..Faults::default() };
        for message in messages(faults) {
            let expected = match (message.copy || message.struck.tamper, message.struck.impossible) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => 2,
            };
            assert_eq!(message.values.len(), expected, "{message:?}");
        }
    }
}

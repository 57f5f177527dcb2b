//! Which deliveries are known, so that a redelivery of what has no time of its own is not another reading.
//!
//! MQTT cannot tell a lost acknowledgement from a lost message: whatever comes with the duplicate flag, under the identifier and with the
//! payload of a delivery that is known, is taken for that delivery.

use std::collections::{HashMap, VecDeque};

use crate::spool::Delivery;

/// Remembered deliveries, over all sessions.
const MAX_DELIVERIES: usize = 65_536;

/// Messages whose readings got the time of receipt: delivered again they would be other readings. A packet identifier names the newest
/// message that had it; when there are too many, the oldest are forgotten, whose acknowledgements went out long ago.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    hashes: HashMap<(u64, u16), (u64, u64)>,
    order: VecDeque<((u64, u16), u64)>,
    count: u64,
}

impl Deliveries {
    pub(crate) fn found(deliveries: &[Delivery]) -> Self {
        let mut known = Self::default();
        deliveries.iter().for_each(|delivery| known.remember((delivery.session, delivery.packet), delivery.hash));
        known
    }

    pub(crate) fn knows(&self, key: (u64, u16), hash: u64) -> bool {
        self.hashes.get(&key).is_some_and(|(known, _)| *known == hash)
    }

    pub(crate) fn remember(&mut self, key: (u64, u16), hash: u64) {
        self.count += 1;
        self.hashes.insert(key, (hash, self.count));
        self.order.push_back((key, self.count));
        while self.order.len() > MAX_DELIVERIES {
            // An identifier that was used again since stands further back too.
            if let Some((oldest, count)) = self.order.pop_front()
                && self.hashes.get(&oldest).is_some_and(|(_, newest)| *newest == count)
            {
                self.hashes.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_names_its_newest_message() {
        let mut known = Deliveries::default();
        known.remember((1, 7), 100);
        assert!(known.knows((1, 7), 100) && !known.knows((1, 7), 101) && !known.knows((2, 7), 100));
        known.remember((1, 7), 101);
        assert!(known.knows((1, 7), 101) && !known.knows((1, 7), 100));
    }

    #[test]
    fn the_oldest_are_forgotten_and_only_they() {
        let mut known = Deliveries::default();
        let key = |index: usize| ((index / 60_000) as u64, (index % 60_000) as u16);
        for index in 0..MAX_DELIVERIES {
            known.remember(key(index), index as u64);
        }
        // The first is used again before its turn comes: it is young then.
        known.remember(key(0), 1 << 40);
        assert!(known.knows(key(0), 1 << 40) && known.knows(key(1), 1));
        known.remember((9, 9), 9);
        assert!(!known.knows(key(1), 1), "the oldest gave way");
        assert!(known.knows(key(0), 1 << 40) && known.knows(key(2), 2) && known.knows((9, 9), 9));
        assert!(known.hashes.len() <= MAX_DELIVERIES && known.order.len() <= MAX_DELIVERIES);
    }
}

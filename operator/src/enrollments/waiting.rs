//! Entries that cannot be handled now. Each is tried again after a pause of its own, for as long as the ledger keeps it: that the API server
//! is away is no answer to anybody. Pure.

use depin_domain::time::Timestamp;
use depin_proto::v1::InboxEntry;

use crate::backoff::pause;

/// How long the ledger keeps an entry.
const TTL_MS: i64 = 24 * 3_600_000;

/// Those that wait.
#[derive(Debug, Default)]
pub struct Waiting(Vec<Due>);

/// How often an entry was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// In all.
    pub count: u32,
    /// When first, by the operator's clock.
    pub since: Timestamp,
}

#[derive(Debug)]
struct Due {
    entry: InboxEntry,
    tries: Tries,
    at: Timestamp,
}

impl Waiting {
    /// Another try failed, after those before it: it waits twice as long as then, a minute at most.
    pub fn failed(&mut self, entry: InboxEntry, before: Option<Tries>, now: Timestamp) {
        let Tries { count, since } = before.unwrap_or(Tries { count: 0, since: now });
        let wait = i64::try_from(pause(&entry.id.to_string(), count).as_millis()).unwrap_or(i64::MAX);
        self.0.push(Due { entry, tries: Tries { count: count.saturating_add(1), since }, at: now.plus(wait) });
    }

    /// Takes those that are to be tried now, in the order in which they came, and how often each was tried. What the ledger has forgotten
    /// meanwhile is forgotten here too.
    pub fn due(&mut self, now: Timestamp) -> Vec<(InboxEntry, Tries)> {
        let kept = std::mem::take(&mut self.0).into_iter().filter(|due| now.since(due.tries.since) < TTL_MS);
        let (mut due, waiting): (Vec<_>, Vec<_>) = kept.partition(|due| due.at <= now);
        self.0 = waiting;
        due.sort_by_key(|due| due.entry.id);
        due.into_iter().map(|due| (due.entry, due.tries)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64) -> InboxEntry {
        InboxEntry { id, received_at: 0, entry: None }
    }

    #[test]
    fn what_fails_for_a_day_is_tried_for_a_day_ever_less_often() {
        let mut waiting = Waiting::default();
        waiting.failed(entry(2), None, Timestamp(0));
        waiting.failed(entry(1), None, Timestamp(0));
        let (mut tried, mut now, mut newest) = (0, 0, 0);
        while now < TTL_MS {
            let due = waiting.due(Timestamp(now));
            assert!(due.is_sorted_by_key(|(entry, _)| entry.id));
            for (entry, tries) in due {
                (tried, newest) = (tried + 1, now);
                waiting.failed(entry, Some(tries), Timestamp(now));
            }
            now += 500;
        }
        assert!(newest > TTL_MS - 61_000, "given up at {newest}");
        // Both about once a minute: neither a storm nor silence.
        assert!((2 * 24 * 60..2 * 24 * 90).contains(&tried), "{tried} tries");
        assert_eq!(waiting.due(Timestamp(TTL_MS + 61_000)), []);
        assert!(waiting.0.is_empty(), "the ledger forgot them");
    }

    #[test]
    fn what_is_not_seen_yet_is_tried_again_at_once() {
        let mut waiting = Waiting::default();
        waiting.failed(entry(1), None, Timestamp(1_000));
        assert_eq!(waiting.due(Timestamp(1_000)), []);
        assert_eq!(waiting.due(Timestamp(1_250)), [(entry(1), Tries { count: 1, since: Timestamp(1_000) })]);
        assert_eq!(waiting.due(Timestamp(99_000)), [], "it was taken");
    }
}

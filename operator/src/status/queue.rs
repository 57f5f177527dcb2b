//! The coalescing queue: of each object's status only the newest wish is kept, and a wish that was undone is forgotten. Pure.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};
use std::hash::Hash;

/// Waiting wishes by key, in the order in which their keys first came.
#[derive(Debug)]
pub struct Queue<K, V> {
    /// Each with its turn.
    waiting: HashMap<K, (u64, V)>,
    /// One for each that waits: what is cancelled leaves nothing behind.
    order: BTreeMap<u64, K>,
    next_turn: u64,
}

impl<K, V> Default for Queue<K, V> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: BTreeMap::new(), next_turn: 0 }
    }
}

impl<K: Clone + Eq + Hash, V> Queue<K, V> {
    /// Puts `wish` in the place of an older one of `key`, without losing its turn. True where there was none.
    pub fn put(&mut self, key: K, wish: V) -> bool {
        match self.waiting.entry(key) {
            Entry::Occupied(mut place) => {
                place.get_mut().1 = wish;
                false
            }
            Entry::Vacant(place) => {
                self.order.insert(self.next_turn, place.key().clone());
                place.insert((self.next_turn, wish));
                self.next_turn += 1;
                true
            }
        }
    }

    /// Forgets what waits for `key`: the object says already what it shall.
    pub fn cancel(&mut self, key: &K) {
        if let Some((turn, _)) = self.waiting.remove(key) {
            self.order.remove(&turn);
        }
    }

    /// Puts a wish that failed back, unless a newer one came meanwhile.
    pub fn put_back(&mut self, key: K, wish: V) {
        if !self.waiting.contains_key(&key) {
            self.put(key, wish);
        }
    }

    /// The next wish.
    pub fn take(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, wish) = self.waiting.remove(&key)?;
        Some((key, wish))
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// A budget of writes: so many a second, so many at once.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    per_second: i64,
    burst: i64,
    /// In thousandths of a write.
    tokens: i64,
    at: i64,
}

impl Budget {
    /// Full at `now` (milliseconds).
    #[must_use]
    pub fn new(per_second: i64, burst: i64, now: i64) -> Self {
        Self { per_second, burst, tokens: burst.saturating_mul(1000), at: now }
    }

    /// Takes one write; else says in how many milliseconds there is one.
    pub fn take(&mut self, now: i64) -> Result<(), i64> {
        let passed = now.saturating_sub(self.at).max(0);
        self.at = self.at.max(now);
        self.tokens =
            self.tokens.saturating_add(passed.saturating_mul(self.per_second)).min(self.burst.saturating_mul(1000));
        if self.tokens >= 1000 {
            self.tokens -= 1000;
            return Ok(());
        }
        Err((1000 - self.tokens).div_euclid(self.per_second.max(1)) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_wish_is_written_in_the_turn_of_the_first() {
        let mut queue = Queue::default();
        queue.put("a", 1);
        queue.put("b", 2);
        queue.put("a", 3);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.take(), Some(("a", 3)));
        assert_eq!(queue.take(), Some(("b", 2)));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn a_flip_that_was_undone_before_its_turn_is_never_written() {
        let mut queue = Queue::default();
        queue.put("a", "offline");
        queue.cancel(&"a");
        assert!(queue.is_empty());
        assert_eq!(queue.take(), None);
        queue.put("a", "offline");
        assert_eq!(queue.take(), Some(("a", "offline")));
        assert_eq!(queue.take(), None, "a cancelled turn is not taken twice");
    }

    #[test]
    fn what_comes_and_goes_while_nothing_is_written_takes_no_room() {
        let mut queue = Queue::default();
        queue.put("b", "stays");
        for _ in 0..1_000 {
            queue.put("a", "offline");
            queue.cancel(&"a");
        }
        assert_eq!((queue.waiting.len(), queue.order.len()), (1, 1));
        queue.put("a", "offline");
        assert_eq!(queue.take(), Some(("b", "stays")));
        assert_eq!(queue.take(), Some(("a", "offline")), "a new wish has a new turn");
    }

    #[test]
    fn a_failed_wish_never_overwrites_a_newer_one() {
        let mut queue = Queue::default();
        queue.put("a", 1);
        let (key, wish) = queue.take().unwrap();
        queue.put("a", 2);
        queue.put_back(key, wish);
        assert_eq!(queue.take(), Some(("a", 2)));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn the_budget_is_kept_over_any_second() {
        let mut budget = Budget::new(10, 5, 0);
        let mut written = 0;
        let mut now = 0;
        while now < 10_000 {
            match budget.take(now) {
                Ok(()) => written += 1,
                Err(wait) => now += wait,
            }
        }
        assert!((100..=105).contains(&written), "{written}");
    }
}

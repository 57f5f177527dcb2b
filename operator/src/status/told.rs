//! What was last told of each object. A reconcile that still sees the object from before the last write wishes the same again; the write
//! then changes nothing, and nobody shall hear of it twice.

use std::{collections::HashMap, hash::Hash};

use super::Transition;

/// Objects remembered. Beyond it all are forgotten: at worst an Event is counted twice.
const REMEMBERED: usize = 10_000;

/// The last transitions by object and purpose.
#[derive(Debug)]
pub(super) struct Told<K>(HashMap<K, Vec<Transition>>);

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Told<K> {
    /// Whether `transitions` are others than the last ones of `key`, which they are from now on.
    pub(super) fn is_new(&mut self, key: &K, transitions: &[Transition]) -> bool {
        if transitions.is_empty() || self.0.get(key).is_some_and(|last| last == transitions) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(key.clone(), transitions.to_vec());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(reason: &str) -> [Transition; 1] {
        [Transition { warning: false, reason: reason.to_owned(), note: String::new() }]
    }

    #[test]
    fn what_a_stale_view_wishes_again_is_told_once() {
        let mut told = Told::default();
        let steps = [("a", "Suspended"), ("a", "Suspended"), ("b", "Suspended"), ("a", "Resumed"), ("a", "Suspended")];
        let new: Vec<bool> = steps.iter().map(|(key, reason)| told.is_new(key, &turned(reason))).collect();
        assert_eq!(new, [true, false, true, true, true]);
        assert!(!told.is_new(&"a", &[]));
    }

    #[test]
    fn memory_is_bounded() {
        let mut told = Told::default();
        for key in 0..3 * REMEMBERED {
            assert!(told.is_new(&key, &turned("Suspended")));
            assert!(told.0.len() <= REMEMBERED);
        }
    }
}

//! Which registry entries are removed. Pure.
//!
//! Absence is not evidence: a list may lack objects because the cluster's store was lost and the specs come back a few at a time. An entry goes
//! only when its object's deletion was told, or when the very store that lacks it now is known to have held it (see [`super::roll_call`]).

use std::collections::BTreeSet;

/// Part of the known entries beyond which a list must confirm deletions seen at once, in percent.
const PERCENT: usize = 10;
/// Deletions seen at once beyond which a list must confirm them.
const MANY_DELETIONS: usize = 50;

/// What is known of the objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Names in a complete, fresh list.
    pub present: BTreeSet<String>,
    /// Names whose deletion the API server told, and which are not present again.
    pub deleted: BTreeSet<String>,
    /// Names that this very store held at its last roll call. Empty where absence is never evidence.
    pub held_once: BTreeSet<String>,
}

impl View {
    /// Those of `registered` that are there no more, and whose deletion was not told.
    #[must_use]
    pub fn unexplained(&self, registered: &BTreeSet<String>) -> BTreeSet<String> {
        registered.difference(&self.present).filter(|name| !self.deleted.contains(*name)).cloned().collect()
    }
}

/// What to do about registered entries without an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Removed.
    pub remove: BTreeSet<String>,
    /// Kept, for want of evidence.
    pub keep: BTreeSet<String>,
}

/// Decides over `registered` entries (by name).
#[must_use]
pub fn decide(registered: &BTreeSet<String>, view: &View) -> Verdict {
    let absent = registered.difference(&view.present).cloned();
    let gone = |name: &String| view.deleted.contains(name) || view.held_once.contains(name);
    let (remove, keep) = absent.partition(gone);
    Verdict { remove, keep }
}

/// Whether so many deletions at once ask for a second look: a fresh list in which they are absent still.
#[must_use]
pub fn needs_confirmation(registered: usize, deletions: usize) -> bool {
    deletions > MANY_DELETIONS && deletions * 100 > registered * PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> BTreeSet<String> {
        range.map(|number| format!("d{number:03}")).collect()
    }

    #[test]
    fn an_empty_list_removes_nothing() {
        for count in [1, 3, 100] {
            let registered = names(0..count);
            let verdict = decide(&registered, &View::default());
            assert_eq!(verdict, Verdict { remove: BTreeSet::new(), keep: registered });
        }
    }

    #[test]
    fn specs_that_come_back_one_by_one_remove_nothing_however_few_are_still_missing() {
        for count in [2, 3, 1000] {
            let registered = names(0..count);
            for back in 0..=count {
                let view = View { present: names(0..back), ..View::default() };
                let verdict = decide(&registered, &view);
                assert_eq!(verdict.remove, BTreeSet::new(), "{back} of {count}");
                assert_eq!(verdict.keep, names(back..count), "{back} of {count}");
            }
        }
    }

    #[test]
    fn a_deletion_that_was_seen_is_evidence_even_for_the_last_one() {
        let view = View { deleted: names(0..1), ..View::default() };
        assert_eq!(decide(&names(0..1), &view).remove, names(0..1));
    }

    #[test]
    fn what_this_store_held_and_lacks_now_was_deleted_unseen_and_what_came_later_is_kept() {
        let view = View { present: names(0..40), held_once: names(0..60), ..View::default() };
        let verdict = decide(&names(0..100), &view);
        assert_eq!(verdict.remove, names(40..60));
        assert_eq!(verdict.keep, names(60..100));
        assert_eq!(view.unexplained(&names(0..100)), names(40..100));
    }

    #[test]
    fn seen_deletions_go_while_others_are_kept() {
        let view = View { present: names(0..50), deleted: names(50..52), ..View::default() };
        let verdict = decide(&names(0..100), &view);
        assert_eq!(verdict.remove, names(50..52));
        assert_eq!(verdict.keep, names(52..100));
        assert_eq!(view.unexplained(&names(0..100)), names(52..100));
    }

    #[test]
    fn one_that_came_back_is_not_removed() {
        let view = View { present: names(0..10), deleted: names(0..1), held_once: names(0..10) };
        assert_eq!(decide(&names(0..10), &view), Verdict::default());
    }

    #[test]
    fn a_wave_of_deletions_needs_a_second_look() {
        assert!(!needs_confirmation(1000, 50));
        assert!(needs_confirmation(100, 51));
        assert!(!needs_confirmation(10_000, 500));
    }
}

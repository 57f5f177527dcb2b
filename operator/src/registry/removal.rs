//! Which registry entries are removed. Pure.
//!
//! Absence is not evidence: a view may be empty because etcd was lost or the definitions are not applied yet. An entry goes only
//! when its object's deletion was seen, or when a complete list lacks it while most of what is registered is there.

use std::collections::{BTreeMap, BTreeSet};

/// Absent entries that a list alone may remove, however few are known.
const FEW: usize = 3;
/// Part of the known entries that a list alone may remove, in percent.
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
    let absent: BTreeSet<_> = registered.difference(&view.present).cloned().collect();
    let (seen, unseen): (BTreeSet<_>, BTreeSet<_>) = absent.into_iter().partition(|name| view.deleted.contains(name));
    let bound = FEW.max(registered.len() * PERCENT / 100);
    // A list that lacks all that is registered proves nothing but that the list is empty.
    let credible = view.present.iter().any(|name| registered.contains(name)) && unseen.len() <= bound;
    let (remove, keep) =
        if credible { (seen.union(&unseen).cloned().collect(), BTreeSet::new()) } else { (seen, unseen) };
    Verdict { remove, keep }
}

/// Whether so many deletions at once ask for a second look: a fresh list in which they are absent still.
#[must_use]
pub fn needs_confirmation(registered: usize, deletions: usize) -> bool {
    deletions > MANY_DELETIONS && deletions * 100 > registered * PERCENT
}

/// Deletions that wait for confirmation, with the time of the first look.
pub type Pending = BTreeMap<String, depin_domain::time::Timestamp>;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> BTreeSet<String> {
        range.map(|number| format!("d{number:03}")).collect()
    }

    #[test]
    fn an_empty_list_removes_nothing() {
        let registered = names(0..100);
        let verdict = decide(&registered, &View::default());
        assert_eq!(verdict, Verdict { remove: BTreeSet::new(), keep: registered });
    }

    #[test]
    fn an_empty_list_of_a_single_entry_removes_nothing() {
        let verdict = decide(&names(0..1), &View::default());
        assert!(verdict.remove.is_empty());
    }

    #[test]
    fn a_deletion_that_was_seen_is_evidence_even_for_the_last_one() {
        let view = View { present: BTreeSet::new(), deleted: names(0..1) };
        assert_eq!(decide(&names(0..1), &view).remove, names(0..1));
    }

    #[test]
    fn few_that_a_full_list_lacks_were_deleted_unseen() {
        let view = View { present: names(0..95), deleted: BTreeSet::new() };
        assert_eq!(decide(&names(0..100), &view).remove, names(95..100));
    }

    #[test]
    fn many_that_a_list_lacks_are_kept_but_seen_deletions_go() {
        let view = View { present: names(0..50), deleted: names(50..52) };
        let verdict = decide(&names(0..100), &view);
        assert_eq!(verdict.remove, names(50..52));
        assert_eq!(verdict.keep, names(52..100));
    }

    #[test]
    fn one_that_came_back_is_not_removed() {
        let view = View { present: names(0..10), deleted: names(0..1) };
        assert_eq!(decide(&names(0..10), &view), Verdict::default());
    }

    #[test]
    fn a_wave_of_deletions_needs_a_second_look() {
        assert!(!needs_confirmation(1000, 50));
        assert!(needs_confirmation(100, 51));
        assert!(!needs_confirmation(10_000, 500));
    }
}

//! How a stream begins: what the gateway's head means for what is on this disk.

use depin_domain::{ids::Digest, proofs::ChainHead};

use super::journal::{Answer, Held, State};

/// What to do after the gateway announced the chain's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Go on in this incarnation: send these kept proofs first, ascending by sequence.
    Resume {
        /// Indexes in [`State::held`].
        send: Vec<usize>,
    },
    /// Open this incarnation and seal the readings of these kept proofs anew.
    NewIncarnation {
        /// One more than the highest known.
        incarnation: u64,
        /// Indexes in [`State::held`].
        reseal: Vec<usize>,
        /// For the log.
        why: &'static str,
    },
}

/// Decides how to go on. `refused`: the gateway refused a proof of this incarnation, so nothing more can be sent in it.
#[must_use]
pub fn opening(state: &State, head: Option<&ChainHead>, refused: bool) -> Opening {
    let none = ChainHead { incarnation: 0, sequence: 0, digest: Digest::default() };
    let head = head.copied().unwrap_or(none);
    let highest = head.incarnation.max(state.incarnation);
    // The ledger lacks what stands beyond its head: every kept proof there counts as unanswered.
    let lacks = |incarnation: u64, sequence: u64| {
        incarnation > head.incarnation || (incarnation == head.incarnation && sequence > head.sequence)
    };
    let wanted = |index: &usize| {
        state.held.get(*index).is_some_and(|held| held.answer == Answer::None || lacks(held.incarnation, held.sequence))
    };
    let reseal = |why| Opening::NewIncarnation {
        incarnation: highest + 1,
        reseal: (0..state.held.len()).filter(wanted).collect(),
        why,
    };
    if state.incarnation == 0 {
        return reseal("this disk holds no chain yet");
    }
    if refused {
        return reseal("the gateway refused a proof, or another key signed what is kept");
    }
    if head.incarnation > state.incarnation {
        return reseal("a higher incarnation was opened elsewhere: a restored disk or a copy of the key");
    }
    let sealed = state.next_sequence - 1;
    if head.incarnation == state.incarnation {
        if head.sequence > sealed {
            return reseal(
                "the ledger holds proofs of this chain that this disk never sealed: a restored disk or a copy of the key",
            );
        }
        let known = if head.sequence == sealed {
            Some(state.previous)
        } else {
            state.digest_of(head.incarnation, head.sequence)
        };
        if head.sequence > 0 && known.is_some_and(|digest| digest != head.digest) {
            return reseal("the ledger's head is not the proof that this disk sealed");
        }
    }
    let of_before = |held: &&Held| held.incarnation != state.incarnation;
    if (0..state.held.len()).filter(wanted).filter_map(|index| state.held.get(index)).any(|held| of_before(&held)) {
        return reseal("the ledger lacks proofs of an incarnation before this one, which can no longer be sent");
    }
    // Everything that the ledger lacks must be on this disk, from its next sequence on without a hole.
    let due = if head.incarnation == state.incarnation { head.sequence + 1 } else { 1 };
    let mut send: Vec<usize> = (0..state.held.len())
        .filter(wanted)
        .filter(|index| state.held.get(*index).is_some_and(|held| held.incarnation == state.incarnation))
        .collect();
    send.sort_by_key(|index| state.held.get(*index).map(|held| held.sequence));
    let beyond = send.iter().filter_map(|index| state.held.get(*index)).filter(|held| held.sequence >= due);
    let whole = beyond.map(|held| held.sequence).eq(due..state.next_sequence);
    if !whole {
        return reseal("the ledger lacks proofs that it once gave receipts for, and this disk no longer holds them");
    }
    Opening::Resume { send }
}

/// The next sequence to declare when the chain is opened: that of the first proof that will be sent.
#[must_use]
pub fn declared(state: &State) -> u64 {
    let unanswered =
        state.held.iter().filter(|held| held.incarnation == state.incarnation && held.answer == Answer::None);
    unanswered.map(|held| held.sequence).min().unwrap_or(state.next_sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(incarnation: u64, sequence: u64) -> Digest {
        Digest::of(&[incarnation.to_le_bytes(), sequence.to_le_bytes()].concat())
    }

    fn held(incarnation: u64, sequence: u64, answer: Answer) -> Held {
        Held {
            incarnation,
            sequence,
            digest: digest(incarnation, sequence),
            position: 0,
            bytes: 0,
            readings: 1,
            answer,
            receipt: None,
        }
    }

    /// A disk that sealed up to `sealed` in incarnation 2 and keeps `kept` of it; up to `receipts` answered.
    fn disk(sealed: u64, kept: std::ops::RangeInclusive<u64>, receipts: u64) -> State {
        let answer = |sequence| if sequence <= receipts { Answer::Receipt } else { Answer::None };
        State {
            incarnation: 2,
            next_sequence: sealed + 1,
            previous: if sealed == 0 { Digest::default() } else { digest(2, sealed) },
            held: kept.map(|sequence| held(2, sequence, answer(sequence))).collect(),
            ..State::default()
        }
    }

    fn head(incarnation: u64, sequence: u64) -> ChainHead {
        ChainHead { incarnation, sequence, digest: digest(incarnation, sequence) }
    }

    fn sends(state: &State, head: ChainHead) -> Vec<u64> {
        match opening(state, Some(&head), false) {
            Opening::Resume { send } => send.iter().map(|index| state.held[*index].sequence).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn reseals(state: &State, head: Option<ChainHead>, refused: bool) -> (u64, Vec<u64>) {
        match opening(state, head.as_ref(), refused) {
            Opening::NewIncarnation { incarnation, reseal, .. } => {
                (incarnation, reseal.iter().map(|index| state.held[*index].sequence).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_connection_that_broke_goes_on_where_receipts_ended() {
        assert_eq!(sends(&disk(5, 3..=5, 3), head(2, 3)), [4, 5]);
        // The ledger judged 4 but its receipt was lost: it is sent again unchanged and answered as repeated.
        assert_eq!(sends(&disk(5, 4..=5, 3), head(2, 4)), [4, 5]);
        assert_eq!(sends(&disk(5, 5..=5, 5), head(2, 5)), [0; 0]);
        assert_eq!(
            sends(&disk(2, 1..=2, 0), head(1, 9)),
            [1, 2],
            "an incarnation that was opened here but has not arrived"
        );
    }

    #[test]
    fn an_empty_disk_opens_the_next_incarnation() {
        assert_eq!(reseals(&State::default(), None, false), (1, vec![]));
        assert_eq!(reseals(&State::default(), Some(head(4, 7)), false), (5, vec![]));
    }

    #[test]
    fn a_restored_disk_opens_a_new_incarnation_and_forks_nothing() {
        // The backup was made after sealing 3 of which 2 had receipts; the ledger went on to 9.
        assert_eq!(reseals(&disk(3, 3..=3, 2), Some(head(2, 9)), false), (3, vec![3]));
        let mut other = head(2, 3);
        other.digest = digest(9, 9);
        assert_eq!(reseals(&disk(3, 3..=3, 2), Some(other), false), (3, vec![3]), "same length, another history");
        assert_eq!(reseals(&disk(5, 2..=5, 2), Some(ChainHead { digest: digest(9, 9), ..head(2, 3) }), false).0, 3);
    }

    #[test]
    fn a_clone_that_opened_a_higher_incarnation_fences_this_one() {
        assert_eq!(reseals(&disk(5, 4..=5, 3), Some(head(7, 1)), false), (8, vec![4, 5]));
    }

    #[test]
    fn what_a_restored_ledger_lacks_is_sent_again_if_it_is_kept() {
        assert_eq!(sends(&disk(9, 4..=9, 8), head(2, 5)), [6, 7, 8, 9]);
        assert_eq!(reseals(&disk(9, 8..=9, 8), Some(head(2, 5)), false), (3, vec![8, 9]), "6 and 7 are gone");
        assert_eq!(sends(&disk(3, 1..=3, 3), head(1, 5)), [1, 2, 3], "the ledger forgot the whole incarnation");
        assert_eq!(reseals(&disk(3, 2..=3, 3), Some(head(1, 5)), false), (3, vec![2, 3]));
    }

    #[test]
    fn what_a_restored_ledger_lacks_of_an_earlier_incarnation_is_sealed_anew() {
        // Incarnation 1 went up to 4, then 2 was opened and sealed 2; the ledger was set back to 1/2.
        let mut state = disk(2, 1..=2, 2);
        state.held.extend((2..=4).map(|sequence| held(1, sequence, Answer::Receipt)));
        let Opening::NewIncarnation { incarnation, reseal, .. } = opening(&state, Some(&head(1, 2)), false) else {
            panic!("the proofs 1/3 and 1/4 would be lost");
        };
        let mut again: Vec<_> =
            reseal.iter().map(|index| (state.held[*index].incarnation, state.held[*index].sequence)).collect();
        again.sort_unstable();
        assert_eq!((incarnation, again), (3, vec![(1, 3), (1, 4), (2, 1), (2, 2)]));
    }

    #[test]
    fn after_a_refusal_everything_unanswered_is_sealed_anew() {
        assert_eq!(reseals(&disk(5, 2..=5, 3), Some(head(2, 3)), true), (3, vec![4, 5]));
    }
}

//! Where a proof stands in its chain.
//!
//! A chain is one key's sequence of headers, each naming the one before, in lives that are counted by the incarnation. Opening a
//! higher incarnation fences the lower ones. A sequence beyond the next one is taken only where the sender declared
//! the gap when it opened the chain: what lies in it was receipted once and is gone from both sides.

use super::{ChainHead, Header, Reason};
use crate::ids::Digest;

/// What a sender said that it would send next on the chain, when it opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The incarnation that it holds.
    pub incarnation: u64,
    /// The next sequence that it will send.
    pub next_sequence: u64,
}

/// What is known of a chain when a proof arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its head; absent: nothing was ever judged.
    pub head: Option<ChainHead>,
    /// What its sender declared on this stream.
    pub declared: Option<Declared>,
    /// The digest of the judged proof of the header's own incarnation and sequence, where that is still known.
    pub judged: Option<Digest>,
}

/// Where a proof stands in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The next one: to be judged.
    Next,
    /// The next one after a gap that was declared: to be judged, the gap to be recorded.
    NextAfterGap {
        /// How many sequences are missing.
        missing: u64,
    },
    /// The first one that is seen of a higher incarnation: to be judged; lower incarnations are fenced from now on.
    OpensIncarnation {
        /// How many sequences before it are missing: 0, or a declared gap.
        missing: u64,
    },
    /// This very proof was judged: its first verdict is repeated.
    Repeat,
    /// Another proof has its place, or the one that it names as its predecessor is not the one that was judged.
    Equivocation {
        /// What was judged instead.
        judged: Digest,
    },
    /// Beyond the next one without a declared gap.
    Gap {
        /// The sequence that is due.
        due: u64,
    },
    /// Of an incarnation below the highest one.
    Fenced {
        /// The highest one.
        incarnation: u64,
    },
    /// Before the head, at a sequence of which nothing is known any more.
    Passed,
    /// Incarnation or sequence 0, or a first header that names a predecessor.
    Malformed,
}

impl Place {
    /// Whether a proof in this place is to be judged and advances the chain.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        matches!(self, Self::Next | Self::NextAfterGap { .. } | Self::OpensIncarnation { .. })
    }

    /// Why a proof in this place is refused or deferred (see [`Reason::stage`]); absent where it is judged or repeated.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Next | Self::NextAfterGap { .. } | Self::OpensIncarnation { .. } | Self::Repeat => None,
            Self::Equivocation { .. } => Some(Reason::Equivocation),
            Self::Gap { .. } => Some(Reason::SequenceGap),
            Self::Fenced { .. } => Some(Reason::IncarnationFenced),
            Self::Passed => Some(Reason::SequencePassed),
            Self::Malformed => Some(Reason::Malformed),
        }
    }
}

/// Where the proof with this header, whose digest is `digest`, stands.
#[must_use]
pub fn place(known: &Known, header: &Header, digest: &Digest) -> Place {
    let first = header.sequence == 1;
    if header.incarnation == 0 || header.sequence == 0 || (first && header.previous != Digest::default()) {
        return Place::Malformed;
    }
    if known.judged == Some(*digest) {
        return Place::Repeat;
    }
    let head = known.head.unwrap_or(ChainHead { incarnation: 0, sequence: 0, digest: Digest::default() });
    if header.incarnation < head.incarnation {
        return Place::Fenced { incarnation: head.incarnation };
    }
    let opens = header.incarnation > head.incarnation;
    let newest = if opens { 0 } else { head.sequence };
    if header.sequence <= newest {
        let judged = known.judged.or_else(|| (header.sequence == newest).then_some(head.digest));
        return match judged {
            Some(judged) if judged == *digest => Place::Repeat,
            Some(judged) => Place::Equivocation { judged },
            None => Place::Passed,
        };
    }
    // At least 0, since the sequence lies beyond the newest.
    let missing = header.sequence - newest - 1;
    let declared = Some(Declared { incarnation: header.incarnation, next_sequence: header.sequence });
    if missing > 0 && known.declared != declared {
        return Place::Gap { due: newest + 1 };
    }
    if opens {
        return Place::OpensIncarnation { missing };
    }
    if missing > 0 {
        return Place::NextAfterGap { missing };
    }
    // The head of a chain whose sequence 0 is its only one has no digest to be named.
    if newest > 0 && header.previous != head.digest {
        return Place::Equivocation { judged: head.digest };
    }
    Place::Next
}

/// The head after a proof in a judged place.
#[must_use]
pub fn advance(header: &Header, digest: Digest) -> ChainHead {
    ChainHead { incarnation: header.incarnation, sequence: header.sequence, digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::KeyId,
        time::{Timestamp, Window},
    };

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn header(incarnation: u64, sequence: u64, previous: Digest) -> Header {
        Header {
            key: KeyId::default(),
            incarnation,
            sequence,
            previous,
            registry_incarnation: 1,
            registry_version: 1,
            sealed_at: Timestamp(0),
            window: Window::default(),
            drops: Vec::new(),
            sections: 0,
            body: Digest::default(),
        }
    }

    fn at(incarnation: u64, sequence: u64, number: u8) -> Known {
        Known { head: Some(ChainHead { incarnation, sequence, digest: digest(number) }), ..Known::default() }
    }

    #[test]
    fn a_chain_grows_link_by_link() {
        let none = Digest::default();
        assert_eq!(place(&Known::default(), &header(1, 1, none), &digest(1)), Place::OpensIncarnation { missing: 0 });
        assert_eq!(place(&at(1, 1, 1), &header(1, 2, digest(1)), &digest(2)), Place::Next);
        assert_eq!(
            advance(&header(1, 2, digest(1)), digest(2)),
            ChainHead { incarnation: 1, sequence: 2, digest: digest(2) }
        );
    }

    #[test]
    fn the_same_proof_is_repeated_and_another_in_its_place_is_equivocation() {
        let again = header(1, 5, digest(4));
        assert_eq!(place(&at(1, 5, 5), &again, &digest(5)), Place::Repeat);
        assert_eq!(place(&at(1, 5, 5), &again, &digest(9)), Place::Equivocation { judged: digest(5) });
        assert_eq!(
            place(&at(1, 5, 5), &header(1, 6, digest(4)), &digest(6)),
            Place::Equivocation { judged: digest(5) }
        );
        let older = Known { judged: Some(digest(3)), ..at(1, 5, 5) };
        assert_eq!(place(&older, &header(1, 3, digest(2)), &digest(3)), Place::Repeat);
        assert_eq!(place(&older, &header(1, 3, digest(2)), &digest(8)), Place::Equivocation { judged: digest(3) });
    }

    #[test]
    fn a_gap_is_deferred_unless_it_was_declared() {
        let far = header(2, 21, digest(20));
        assert_eq!(place(&at(2, 10, 10), &far, &digest(21)), Place::Gap { due: 11 });
        let declared = Some(Declared { incarnation: 2, next_sequence: 21 });
        assert_eq!(place(&Known { declared, ..at(2, 10, 10) }, &far, &digest(21)), Place::NextAfterGap { missing: 10 });
        assert_eq!(
            place(&Known { declared, ..at(1, 10, 10) }, &far, &digest(21)),
            Place::OpensIncarnation { missing: 20 }
        );
        let other = Some(Declared { incarnation: 1, next_sequence: 21 });
        assert_eq!(place(&Known { declared: other, ..at(2, 10, 10) }, &far, &digest(21)), Place::Gap { due: 11 });
        assert_eq!(place(&Known { declared, ..at(2, 21, 21) }, &header(2, 15, digest(14)), &digest(15)), Place::Passed);
    }

    #[test]
    fn a_higher_incarnation_fences_the_lower_ones() {
        let none = Digest::default();
        assert_eq!(place(&at(1, 7, 7), &header(2, 1, none), &digest(1)), Place::OpensIncarnation { missing: 0 });
        assert_eq!(place(&at(2, 1, 1), &header(1, 8, digest(7)), &digest(8)), Place::Fenced { incarnation: 2 });
        let receipted = Known { judged: Some(digest(7)), ..at(2, 1, 1) };
        assert_eq!(place(&receipted, &header(1, 7, digest(6)), &digest(7)), Place::Repeat);
        assert_eq!(place(&at(1, 7, 7), &header(2, 2, digest(1)), &digest(2)), Place::Gap { due: 1 });
    }

    #[test]
    fn nothing_comes_before_the_first() {
        assert_eq!(place(&Known::default(), &header(1, 1, digest(9)), &digest(1)), Place::Malformed);
        assert_eq!(place(&Known::default(), &header(0, 1, Digest::default()), &digest(1)), Place::Malformed);
        assert_eq!(place(&Known::default(), &header(1, 0, Digest::default()), &digest(1)), Place::Malformed);
    }

    #[test]
    fn every_place_that_is_not_judged_has_a_reason_of_its_stage() {
        use crate::proofs::reason::Stage;
        for (place, stage) in [
            (Place::Equivocation { judged: digest(1) }, Stage::Refused),
            (Place::Gap { due: 1 }, Stage::Deferred),
            (Place::Fenced { incarnation: 2 }, Stage::Refused),
            (Place::Passed, Stage::Refused),
            (Place::Malformed, Stage::Refused),
        ] {
            assert!(!place.is_judged());
            assert_eq!(place.reason().map(Reason::stage), Some(stage));
        }
        assert!(Place::Next.is_judged() && Place::Next.reason().is_none() && Place::Repeat.reason().is_none());
    }
}

//! What is under way on one stream of proofs: pure.
//!
//! Proofs are sent in order within the gateway's window. Whatever the gateway answers, the next step is one of few: go on, open the chain
//! again after a while, or begin a new incarnation.

use std::collections::VecDeque;

use depin_domain::{ids::Digest, proofs::Reason};

/// How much may be unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Proofs.
    pub proofs: usize,
    /// Bytes.
    pub bytes: u64,
}

/// A proof by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the chain.
    pub incarnation: u64,
    /// Of the proof.
    pub sequence: u64,
    /// SHA-256 of its header.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// What to do after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    GoOn,
    /// A receipt for this proof is to be kept.
    Receipt(Place),
    /// Not now: open the chain again after so many milliseconds and send what is unanswered.
    OpenAgain {
        /// How long to wait.
        after_ms: u64,
        /// Why.
        reason: Option<Reason>,
    },
    /// Never: begin a new incarnation; with `smaller` in smaller proofs.
    NewIncarnation {
        /// The proof was too large.
        smaller: bool,
        /// Why.
        reason: Option<Reason>,
    },
    /// The key may not speak: nothing helps but a person.
    Barred(Option<Reason>),
}

/// What the gateway said of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Recorded.
    Judged,
    /// Not now.
    Deferred {
        /// Code.
        reason: u32,
        /// Hint in milliseconds.
        after_ms: u32,
    },
    /// Never.
    Refused {
        /// Code.
        reason: u32,
    },
}

/// What waits and what is unanswered.
#[derive(Debug, Default)]
pub struct Flow {
    window: Option<Window>,
    queue: VecDeque<Place>,
    unanswered: VecDeque<Place>,
}

impl Flow {
    /// The chain is open: these are to be sent first.
    pub fn open(&mut self, window: Option<Window>, queue: impl IntoIterator<Item = Place>) {
        self.window = window.or(self.window);
        self.queue = queue.into_iter().collect();
        self.unanswered.clear();
    }

    /// Nothing may be sent until the chain is open again.
    pub fn close(&mut self) {
        self.queue.clear();
        self.unanswered.clear();
    }

    /// The gateway changed the window.
    pub fn set_window(&mut self, window: Window) {
        self.window = Some(window);
    }

    /// A freshly sealed proof.
    pub fn push(&mut self, place: Place) {
        self.queue.push_back(place);
    }

    /// Whether more should be sealed: everything sealed is sent and there is room for more.
    #[must_use]
    pub fn hungry(&self) -> bool {
        let Some(window) = self.window else { return false };
        self.queue.is_empty() && self.unanswered.len() < window.proofs && self.bytes() < window.bytes
    }

    /// The next proof that may be sent.
    pub fn next_to_send(&mut self) -> Option<Place> {
        let window = self.window?;
        let place = *self.queue.front()?;
        let fits = self.unanswered.len() < window.proofs && self.bytes() + place.bytes <= window.bytes;
        // One proof always goes: a window smaller than a proof must not stop everything.
        if !fits && !self.unanswered.is_empty() {
            return None;
        }
        self.queue.pop_front();
        self.unanswered.push_back(place);
        Some(place)
    }

    fn bytes(&self) -> u64 {
        self.unanswered.iter().map(|place| place.bytes).sum()
    }

    /// How many are unanswered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Takes an answer.
    pub fn answer(&mut self, incarnation: u64, sequence: u64, digest: &Digest, said: Said) -> Step {
        let found = self.unanswered.iter().position(|place| {
            place.incarnation == incarnation && place.sequence == sequence && place.digest == *digest
        });
        // Of an earlier opening of the same stream; a receipt counts all the same.
        let place = found.and_then(|index| self.unanswered.remove(index));
        match said {
            Said::Judged => Step::Receipt(place.unwrap_or(Place { incarnation, sequence, digest: *digest, bytes: 0 })),
            _ if place.is_none() => Step::GoOn,
            Said::Deferred { reason, after_ms } => {
                Step::OpenAgain { after_ms: u64::from(after_ms).clamp(50, 60_000), reason: reason_of(reason) }
            }
            Said::Refused { reason } => match reason_of(reason) {
                reason @ Some(Reason::UnknownKey | Reason::KeyRevoked | Reason::NotYourKey) => Step::Barred(reason),
                reason => Step::NewIncarnation { smaller: reason == Some(Reason::Oversize), reason },
            },
        }
    }
}

fn reason_of(code: u32) -> Option<Reason> {
    Reason::from_code(u16::try_from(code).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(sequence: u64) -> Place {
        Place { incarnation: 1, sequence, digest: Digest::of(&sequence.to_le_bytes()), bytes: 100 }
    }

    fn sent(flow: &mut Flow) -> Vec<u64> {
        std::iter::from_fn(|| flow.next_to_send()).map(|place| place.sequence).collect()
    }

    fn say(flow: &mut Flow, sequence: u64, said: Said) -> Step {
        flow.answer(1, sequence, &place(sequence).digest, said)
    }

    #[test]
    fn no_more_than_the_window_is_unanswered() {
        let mut flow = Flow::default();
        assert!(!flow.hungry() && flow.next_to_send().is_none(), "nothing before the chain is open");
        flow.open(Some(Window { proofs: 2, bytes: 1_000 }), (1..=4).map(place));
        assert_eq!(sent(&mut flow), [1, 2]);
        assert_eq!(say(&mut flow, 1, Said::Judged), Step::Receipt(place(1)));
        assert_eq!(sent(&mut flow), [3]);
        flow.set_window(Window { proofs: 9, bytes: 250 });
        assert_eq!(sent(&mut flow), [0; 0], "bytes count too");
        say(&mut flow, 2, Said::Judged);
        say(&mut flow, 3, Said::Judged);
        flow.set_window(Window { proofs: 9, bytes: 50 });
        assert_eq!(sent(&mut flow), [4], "one always goes");
        assert!(!flow.hungry());
        say(&mut flow, 4, Said::Judged);
        assert!(flow.hungry());
    }

    #[test]
    fn answers_lead_to_the_next_step() {
        let mut flow = Flow::default();
        flow.open(Some(Window { proofs: 9, bytes: 9_000 }), (1..=6).map(place));
        sent(&mut flow);
        let refused = |reason: Reason| Said::Refused { reason: reason.code().into() };
        assert_eq!(
            say(&mut flow, 1, refused(Reason::Oversize)),
            Step::NewIncarnation { smaller: true, reason: Some(Reason::Oversize) }
        );
        assert_eq!(
            say(&mut flow, 2, refused(Reason::Equivocation)),
            Step::NewIncarnation { smaller: false, reason: Some(Reason::Equivocation) }
        );
        assert_eq!(say(&mut flow, 3, refused(Reason::KeyRevoked)), Step::Barred(Some(Reason::KeyRevoked)));
        let deferred = Said::Deferred { reason: Reason::Overloaded.code().into(), after_ms: 0 };
        assert_eq!(say(&mut flow, 4, deferred), Step::OpenAgain { after_ms: 50, reason: Some(Reason::Overloaded) });
        assert_eq!(say(&mut flow, 4, deferred), Step::GoOn, "answered already");
        assert!(matches!(say(&mut flow, 9, Said::Judged), Step::Receipt(Place { sequence: 9, .. })));
    }
}

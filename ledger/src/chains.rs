//! Heads of chains, and the way from a head back to any earlier proof in few steps: about half the square of
//! the sequence's bits at most, and as many as it has bits for each gap on the way.
//!
//! Each recorded proof points to the one before it and to the one whose sequence is its own without the lowest set bit (or the nearest recorded
//! one below that). A chain in memory keeps only those few that the next proof may point to.

use std::collections::HashMap;

use depin_domain::{
    ids::{Digest, KeyId},
    proofs::{ChainHead, Header},
};

/// No chain keeps more steps in memory.
const MAX_STEPS: usize = 64;

/// A recorded proof of a chain.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Step {
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) position: u64,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) head: ChainHead,
    /// Of the head's incarnation, ascending; the last one is the head.
    pub(crate) steps: Vec<Step>,
    /// The head's sequence when the newest backup began.
    pub(crate) backing_up: u64,
    /// Up to here everything of this incarnation is in a backup.
    pub(crate) archived: u64,
    /// A conflicting proof of this incarnation is kept as evidence.
    pub(crate) evidence: bool,
}

/// Where a proof to be appended points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) previous: Step,
    pub(crate) skip: Step,
}

/// All chains by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chains {
    pub(crate) by_key: HashMap<KeyId, Chain>,
}

impl Chains {
    pub(crate) fn get(&self, key: &KeyId) -> Option<&Chain> {
        self.by_key.get(key)
    }

    pub(crate) fn head(&self, key: &KeyId) -> Option<ChainHead> {
        self.by_key.get(key).map(|chain| chain.head)
    }

    /// Where a proof with this header would point.
    pub(crate) fn links(&self, header: &Header) -> Links {
        match self.by_key.get(&header.key) {
            Some(chain) if chain.head.incarnation == header.incarnation => Links {
                previous: chain.steps.last().copied().unwrap_or_default(),
                skip: newest_up_to(&chain.steps, skip_target(header.sequence)),
            },
            _ => Links::default(),
        }
    }

    /// The chain goes on with the proof at `position`.
    pub(crate) fn advance(&mut self, header: &Header, digest: Digest, position: u64) {
        let head = ChainHead { incarnation: header.incarnation, sequence: header.sequence, digest };
        let fresh = Chain { head, steps: Vec::new(), backing_up: 0, archived: 0, evidence: false };
        let chain = self.by_key.entry(header.key).or_insert_with(|| fresh.clone());
        if chain.head.incarnation != header.incarnation {
            *chain = fresh;
        }
        chain.head = head;
        let target = skip_target(header.sequence);
        while chain.steps.last().is_some_and(|last| last.sequence > target) {
            chain.steps.pop();
        }
        chain.steps.push(Step { sequence: header.sequence, position });
        if chain.steps.len() > MAX_STEPS {
            chain.steps = needed(&chain.steps, header.sequence);
        }
    }
}

/// What later proofs may point to: below each number that is `head` without some of its lowest bits, the nearest. Gaps leave more behind.
fn needed(steps: &[Step], head: u64) -> Vec<Step> {
    let mut kept: Vec<Step> = Vec::new();
    for bits in (0..u64::BITS).rev() {
        let step = newest_up_to(steps, head >> bits << bits);
        if step.position > 0 && kept.last() != Some(&step) {
            kept.push(step);
        }
    }
    kept
}

fn skip_target(sequence: u64) -> u64 {
    sequence & sequence.saturating_sub(1)
}

fn newest_up_to(steps: &[Step], target: u64) -> Step {
    steps.iter().rev().find(|step| step.sequence <= target).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn header(sequence: u64) -> Header {
        Header {
            key: KeyId([1; 32]),
            incarnation: 1,
            sequence,
            previous: Digest::default(),
            registry_incarnation: 1,
            registry_version: 1,
            sealed_at: Default::default(),
            window: Default::default(),
            drops: Vec::new(),
            sections: 0,
            body: Digest::default(),
        }
    }

    #[test]
    fn every_earlier_proof_is_a_few_steps_away_also_over_gaps() {
        depin_trials::run("chain links", |rng| {
            let (mut chains, mut stored) = (Chains::default(), BTreeMap::new());
            let mut sequence = 0;
            for position in 1..1_000u64 {
                sequence += if depin_trials::one_in(rng, 20) { 1 + depin_trials::below(rng, 50) } else { 1 };
                let header = header(sequence);
                stored.insert(position, (sequence, chains.links(&header)));
                chains.advance(&header, Digest::default(), position);
            }
            let chain = chains.get(&KeyId([1; 32])).unwrap();
            assert!(chain.steps.len() <= MAX_STEPS);
            let head = *chain.steps.last().unwrap();
            for (position, (wanted, _)) in &stored {
                let (mut at, mut hops) = (head, 0);
                while at.sequence > *wanted {
                    let links = stored[&at.position].1;
                    at = if links.skip.sequence >= *wanted && links.skip.position > 0 {
                        links.skip
                    } else {
                        links.previous
                    };
                    hops += 1;
                }
                assert_eq!(at, Step { sequence: *wanted, position: *position });
                assert!(hops <= 200, "{hops} steps of {}", stored.len());
            }
        });
    }
}

//! The Merkle tree over a proof's sections: RFC 6962's, with SHA-256.
//!
//! Leaf `H(0x00 ‖ section)`, node `H(0x01 ‖ left ‖ right)`, split at the largest power of two smaller than the count. One
//! device's section can be shown with its path without showing its neighbours.

use depin_domain::ids::Digest;
use sha2::{Digest as _, Sha256};

/// Why a section belongs to a body: its place and the sibling hashes from leaf to root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Place of the section, from 0.
    pub index: u32,
    /// How many sections there are.
    pub count: u32,
    /// Sibling hashes from leaf to root.
    pub siblings: Vec<Digest>,
}

/// The leaf that stands for a section.
#[must_use]
pub fn leaf_digest(section: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(section).finalize().into())
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The largest power of two smaller than `count`, which is at least 2.
fn split(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

fn root_of(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::default(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root_of(left), &root_of(right))
        }
    }
}

/// The root over the sections' bytes; zeros where there is none.
#[must_use]
pub fn body_root<S: AsRef<[u8]>>(sections: &[S]) -> Digest {
    let leaves: Vec<Digest> = sections.iter().map(|section| leaf_digest(section.as_ref())).collect();
    root_of(&leaves)
}

/// The path of the section at `index`; none where there is no such section.
#[must_use]
pub fn section_path<S: AsRef<[u8]>>(sections: &[S], index: u32) -> Option<Path> {
    let count = u32::try_from(sections.len()).ok()?;
    if index >= count {
        return None;
    }
    let leaves: Vec<Digest> = sections.iter().map(|section| leaf_digest(section.as_ref())).collect();
    let mut siblings = Vec::new();
    let (mut part, mut place) = (leaves.as_slice(), index as usize);
    while part.len() > 1 {
        let (left, right) = part.split_at(split(part.len()));
        if place < left.len() {
            siblings.push(root_of(right));
            part = left;
        } else {
            siblings.push(root_of(left));
            place -= left.len();
            part = right;
        }
    }
    siblings.reverse();
    Some(Path { index, count, siblings })
}

impl Path {
    /// The root that this path leads to from `section`; none where it has not the length that its place asks for.
    #[must_use]
    pub fn root(&self, section: &[u8]) -> Option<Digest> {
        if self.index >= self.count {
            return None;
        }
        // The turns from root to leaf, which the siblings follow in reverse.
        let mut turns = Vec::new();
        let (mut place, mut count) = (self.index as usize, self.count as usize);
        while count > 1 {
            let left = split(count);
            turns.push(place < left);
            (place, count) = if place < left { (place, left) } else { (place - left, count - left) };
        }
        if turns.len() != self.siblings.len() {
            return None;
        }
        let mut digest = leaf_digest(section);
        for (sibling, is_left) in self.siblings.iter().zip(turns.iter().rev()) {
            digest = if *is_left { node(&digest, sibling) } else { node(sibling, &digest) };
        }
        Some(digest)
    }

    /// Whether `section` stands at this place of the body with this root.
    #[must_use]
    pub fn verify(&self, section: &[u8], root: &Digest) -> bool {
        self.root(section).as_ref() == Some(root)
    }
}

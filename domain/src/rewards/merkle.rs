//! The Merkle tree that a chain's distributor verifies claims against: OpenZeppelin's StandardMerkleTree over
//! `(address account, uint256 cumulative)`.
//!
//! A leaf is `keccak256(keccak256(abi.encode(account, cumulative)))`: hashed twice, so that no inner node can pass for a leaf.
//! Leaves are sorted by hash and stand reversed at the end of an array of `2n − 1` nodes; node i is the hash of its children
//! 2i + 1 and 2i + 2, the smaller first. So a root does not depend on the order of accounts, and a proof needs no positions.

use keccak_asm::Keccak256;

use super::amount::{Account, Amount};
use crate::parallel;

/// Hashes that one core computes at a time: about a millisecond.
const CHUNK: usize = 4_096;

/// A keccak-256 hash.
pub type Hash = [u8; 32];

/// A complete tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardTree {
    /// Root first.
    nodes: Vec<Hash>,
    /// Place in `nodes` of each leaf, in the order in which the leaves were given.
    places: Vec<u32>,
}

impl StandardTree {
    /// The tree over `leaves`; none without a leaf (or with more than 2^31).
    #[must_use]
    pub fn new(leaves: &[(Account, Amount)]) -> Option<Self> {
        let count = u32::try_from(leaves.len()).ok()?;
        let mut sorted: Vec<(Hash, u32)> = (0..count).map(|index| ([0; 32], index)).collect();
        parallel::for_each(&mut sorted, CHUNK, |index, (hash, _)| {
            let (account, cumulative) = &leaves[index];
            *hash = leaf(account, *cumulative);
        });
        sorted.sort_unstable();
        let size = leaves.len().checked_mul(2)?.checked_sub(1)?;
        let mut nodes = vec![[0; 32]; size];
        let mut places = vec![0; leaves.len()];
        for (order, (hash, index)) in sorted.into_iter().enumerate() {
            let place = size - 1 - order;
            nodes[place] = hash;
            places[index as usize] = u32::try_from(place).ok()?;
        }
        fill(&mut nodes, size - leaves.len());
        Some(Self { nodes, places })
    }

    /// What the distributor stores.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.nodes[0]
    }

    /// The sibling hashes from leaf to root of the leaf that was given as number `index`.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<Vec<Hash>> {
        let mut place = *self.places.get(index)? as usize;
        let mut siblings = Vec::new();
        while place > 0 {
            let sibling = if place % 2 == 1 { place + 1 } else { place - 1 };
            siblings.push(*self.nodes.get(sibling)?);
            place = (place - 1) / 2;
        }
        Some(siblings)
    }

    /// The hash of the leaf that was given as number `index`.
    #[must_use]
    pub fn leaf(&self, index: usize) -> Option<Hash> {
        self.nodes.get(*self.places.get(index)? as usize).copied()
    }
}

/// Computes the first `inner` nodes, level by level from the deepest: the children of a level's nodes all stand behind it.
fn fill(nodes: &mut [Hash], inner: usize) {
    let mut end = inner;
    while end > 0 {
        // The level of node `end - 1` begins at 2^k - 1.
        let begin = (1 << end.ilog2()) - 1;
        let (above, below) = nodes.split_at_mut(end);
        parallel::for_each(&mut above[begin..], CHUNK, |index, hash| {
            let first = 2 * (begin + index) + 1 - end;
            *hash = node(&below[first], &below[first + 1]);
        });
        end = begin;
    }
}

/// The hash of an account's leaf.
#[must_use]
pub fn leaf(account: &Account, cumulative: Amount) -> Hash {
    let mut encoded = [0; 64];
    encoded[12..32].copy_from_slice(&account.0);
    encoded[48..].copy_from_slice(&cumulative.0.to_be_bytes());
    keccak256(&keccak256(&encoded))
}

/// Whether `proof` leads from `leaf` to `root`.
#[must_use]
pub fn verify(root: &Hash, leaf: &Hash, proof: &[Hash]) -> bool {
    proof.iter().fold(*leaf, |hash, sibling| node(&hash, sibling)) == *root
}

/// `0x` and 64 lower-case hexadecimal digits.
#[must_use]
pub fn to_text(hash: &Hash) -> String {
    format!("0x{}", hex::encode(hash))
}

/// The inverse of [`to_text`].
#[must_use]
pub fn from_text(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text.strip_prefix("0x")?, &mut hash).ok()?;
    Some(hash)
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut pair = [0; 64];
    let (first, second) = if left <= right { (left, right) } else { (right, left) };
    pair[..32].copy_from_slice(first);
    pair[32..].copy_from_slice(second);
    keccak256(&pair)
}

fn keccak256(bytes: &[u8]) -> Hash {
    Keccak256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u128) -> Vec<(Account, Amount)> {
        (0..count)
            .map(|index| {
                let mut account = [0; 20];
                account[..16].copy_from_slice(&(index * 7919).to_be_bytes());
                (Account(account), Amount(index * 1_000_000_007))
            })
            .collect()
    }

    #[test]
    fn every_proof_leads_to_the_root_and_no_other_amount_does() {
        assert_eq!(StandardTree::new(&[]), None);
        for count in 1..40 {
            let leaves = leaves(count);
            let tree = StandardTree::new(&leaves).unwrap();
            for (index, (account, amount)) in leaves.iter().enumerate() {
                let proof = tree.proof(index).unwrap();
                assert_eq!(tree.leaf(index), Some(leaf(account, *amount)));
                assert!(verify(&tree.root(), &leaf(account, *amount), &proof));
                assert!(!verify(&tree.root(), &leaf(account, Amount(amount.0 + 1)), &proof));
            }
            assert_eq!(tree.proof(leaves.len()), None);
        }
    }

    #[test]
    fn a_tree_that_several_cores_compute_is_the_one_that_its_definition_gives() {
        for count in [CHUNK * 4 - 1, CHUNK * 4, CHUNK * 4 + 1, CHUNK * 5 + 7] {
            let tree = StandardTree::new(&leaves(count as u128)).unwrap();
            let inner = tree.nodes.len() - count;
            assert!(tree.nodes[inner..].is_sorted_by(|left, right| left >= right), "leaves stand reversed");
            for place in 0..inner {
                assert_eq!(
                    tree.nodes[place],
                    node(&tree.nodes[2 * place + 1], &tree.nodes[2 * place + 2]),
                    "{place} of {count}"
                );
            }
        }
    }

    #[test]
    fn the_order_of_accounts_does_not_matter() {
        let mut leaves = leaves(100);
        let root = StandardTree::new(&leaves).unwrap().root();
        leaves.reverse();
        assert_eq!(StandardTree::new(&leaves).unwrap().root(), root);
    }

    #[test]
    fn roots_and_proofs_are_openzeppelins() {
        let Some(path) = depin_trials::shared_data("crypto/openzeppelin_merkle_tree_vectors.jsonl") else { return };
        let text = std::fs::read_to_string(path).unwrap();
        let mut checked = 0;
        for line in text.lines() {
            let vector: serde_json::Value = serde_json::from_str(line).unwrap();
            if vector["leaf_encoding"] != serde_json::json!(["address", "uint256"]) {
                continue;
            }
            let entries = vector["values"].as_array().unwrap();
            let Some(leaves) = entries.iter().map(entry).collect::<Option<Vec<_>>>() else { continue };
            let tree = StandardTree::new(&leaves).unwrap();
            assert_eq!(to_text(&tree.root()), vector["root"].as_str().unwrap(), "{}", vector["name"]);
            for entry in vector["entries"].as_array().unwrap() {
                let index = usize::try_from(entry["index"].as_u64().unwrap()).unwrap();
                let proof: Vec<String> = tree.proof(index).unwrap().iter().map(to_text).collect();
                assert_eq!(serde_json::json!(proof), entry["proof"], "{}", vector["name"]);
                assert_eq!(to_text(&tree.leaf(index).unwrap()), entry["leaf_hash"].as_str().unwrap());
                checked += 1;
            }
        }
        assert!(checked > 10, "only {checked} proofs compared");
        println!("{checked} proofs compared with OpenZeppelin's");
    }

    /// None where the amount is beyond 128 bits.
    fn entry(value: &serde_json::Value) -> Option<(Account, Amount)> {
        Some((value[0].as_str()?.parse().ok()?, value[1].as_str()?.parse().ok()?))
    }
}

//! From statistics to amounts: features, gates, limits, weights, emission, split, lateness, Merkle tree.

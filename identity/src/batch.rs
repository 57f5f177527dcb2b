//! Many signatures verified together: one equation instead of one each.
//!
//! `[8](−[Σ zᵢsᵢ]B + Σ [zᵢ]Rᵢ + Σ_keys [Σ zᵢkᵢ]A) = 0` with random 128-bit zᵢ holds for good signatures and, but with
//! probability 2⁻¹²⁵, for no others (ZIP-215; both sides are multiplied by the cofactor, so that the batch agrees with single
//! verification about points of small order). The coefficients of one key are summed, so many proofs of one key cost
//! one point of their own each. Where the equation fails, halves are tried: one bad signature spoils no other.

use std::collections::HashMap;

use curve25519_dalek::{
    constants::ED25519_BASEPOINT_POINT,
    edwards::EdwardsPoint,
    scalar::Scalar,
    traits::{IsIdentity as _, VartimeMultiscalarMul as _},
};
use depin_domain::ids::KeyId;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::keys::{Parts, Point, VerifyingKey, parts};

/// Below this many signatures, halving costs more than trying each alone.
const SINGLY: usize = 4;

/// Somebody claims that `signature` is `key`'s over `domain ‖ message`.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Whose signature.
    pub key: &'a VerifyingKey,
    /// Domain tag with its closing zero.
    pub domain: &'a [u8],
    /// What was signed after the tag.
    pub message: &'a [u8],
    /// 64 bytes.
    pub signature: &'a [u8],
}

/// One term of the equation.
struct Term {
    /// Place of the claim.
    claim: usize,
    /// Place of the key among the distinct keys.
    key: usize,
    parts: Parts,
    z: Scalar,
}

/// Which claims are true, in their order: the same answers as `VerifyingKey::verify` gives one by one.
///
/// `seed` must be unpredictable for whoever made the signatures.
#[must_use]
pub fn verify_batch(claims: &[Claim<'_>], seed: [u8; 32]) -> Vec<bool> {
    let mut results = vec![false; claims.len()];
    let mut rng = ChaCha12Rng::from_seed(seed);
    let mut keys = Vec::new();
    let mut places: HashMap<KeyId, usize> = HashMap::new();
    let mut terms = Vec::with_capacity(claims.len());
    for (claim, it) in claims.iter().enumerate() {
        let Point::Ed25519(bytes, point) = &it.key.point else {
            results[claim] = it.key.verify(it.domain, it.message, it.signature);
            continue;
        };
        let Some(parts) = parts(bytes, it.domain, it.message, it.signature) else { continue };
        let key = *places.entry(it.key.id()).or_insert_with(|| {
            keys.push(*point);
            keys.len() - 1
        });
        terms.push(Term { claim, key, parts, z: coefficient(&mut rng) });
    }
    settle(&terms, &keys, claims, &mut results);
    results
}

/// A random 128-bit number, not zero.
fn coefficient(rng: &mut ChaCha12Rng) -> Scalar {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes[..16]);
    bytes[0] |= 1;
    Scalar::from_bytes_mod_order(bytes)
}

/// Marks the true claims among `terms`, by halves where not all are true.
fn settle(terms: &[Term], keys: &[EdwardsPoint], claims: &[Claim<'_>], results: &mut [bool]) {
    if terms.len() <= SINGLY {
        for term in terms {
            let claim = &claims[term.claim];
            results[term.claim] = claim.key.verify(claim.domain, claim.message, claim.signature);
        }
    } else if holds(terms, keys) {
        for term in terms {
            results[term.claim] = true;
        }
    } else {
        let (left, right) = terms.split_at(terms.len() / 2);
        settle(left, keys, claims, results);
        settle(right, keys, claims, results);
    }
}

fn holds(terms: &[Term], keys: &[EdwardsPoint]) -> bool {
    let mut base = Scalar::ZERO;
    let mut by_key = vec![Scalar::ZERO; keys.len()];
    for Term { key, parts, z, .. } in terms {
        base -= z * parts.s;
        by_key[*key] += z * parts.k;
    }
    let mut scalars = Vec::with_capacity(terms.len() + keys.len() + 1);
    let mut points = Vec::with_capacity(terms.len() + keys.len() + 1);
    for term in terms {
        scalars.push(term.z);
        points.push(term.parts.r);
    }
    // Keys without a term in this half would only cost time.
    for (sum, point) in by_key.iter().zip(keys).filter(|(sum, _)| **sum != Scalar::ZERO) {
        scalars.push(*sum);
        points.push(*point);
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    let sum = EdwardsPoint::vartime_multiscalar_mul(&scalars, &points);
    sum.mul_by_cofactor().is_identity()
}

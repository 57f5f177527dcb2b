//! What an epoch mints. Exact, because the second implementation and a chain's contract must agree on every unit:
//!
//! - Fixed: `amount`.
//! - Halving: `floor(amount / 2^k)` with `k = floor(number / everyEpochs)`.
//! - Decay: `a_0 = amount`, `a_(j+1) = floor(a_j × keepBasisPoints / 10,000)`; epoch `number` mints `a_k`,
//!   `k = floor(number / everyEpochs)`. Rounding down at every step, not once at the end.
//!
//! An epoch in which the program is suspended mints nothing, and what it would have minted is not made up for.

use super::{amount::Amount, spec::Emission};

/// What epoch `number` mints.
#[must_use]
pub fn minted(emission: &Emission, number: u64) -> Amount {
    match *emission {
        Emission::Fixed { amount } => amount,
        Emission::Halving { amount, every_epochs } => {
            let halvings = steps(number, every_epochs);
            Amount(u32::try_from(halvings).ok().and_then(|k| amount.0.checked_shr(k)).unwrap_or(0))
        }
        Emission::Decay { amount, keep_basis_points, every_epochs } => {
            decayed(amount, keep_basis_points, steps(number, every_epochs))
        }
    }
}

fn steps(number: u64, every_epochs: u64) -> u64 {
    number.checked_div(every_epochs).unwrap_or(0)
}

/// Each step takes at least one unit away (`keep` is below 10,000), and after about 10,000 × ln(amount) steps nothing is
/// left, so the loop ends early however large `steps` is.
fn decayed(amount: Amount, keep: u32, steps: u64) -> Amount {
    let mut left = amount;
    for _ in 0..steps {
        let next = left.basis_points(keep).unwrap_or(left);
        if next == left || left.is_zero() {
            break;
        }
        left = next;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_rounds_down_and_ends_at_zero() {
        let emission = Emission::Halving { amount: Amount(1001), every_epochs: 10 };
        let at = |number| minted(&emission, number).0;
        assert_eq!(
            [at(0), at(9), at(10), at(19), at(20), at(99), at(1_270), at(u64::MAX)],
            [1001, 1001, 500, 500, 250, 1, 0, 0]
        );
    }

    #[test]
    fn decay_rounds_down_at_every_step() {
        let emission = Emission::Decay { amount: Amount(1000), keep_basis_points: 8_500, every_epochs: 1 };
        let at = |number| minted(&emission, number).0;
        // 1000 → 850 → 722.5 → 613.7 of 722, not 614.125
        assert_eq!([at(0), at(1), at(2), at(3), at(u64::MAX)], [1000, 850, 722, 613, 0]);
    }

    #[test]
    fn the_slowest_decay_of_the_largest_amount_ends() {
        let emission = Emission::Decay { amount: Amount(u128::MAX), keep_basis_points: 9_999, every_epochs: 1 };
        assert_eq!(minted(&emission, u64::MAX), Amount::ZERO);
    }
}

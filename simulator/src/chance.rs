//! Chance as a pure function: the same seed, device and moment always give the same number.

/// A number that looks random, from a seed and any coordinates (SplitMix64's finalizer over each).
#[must_use]
pub fn draw(seed: u64, coordinates: &[u64]) -> u64 {
    coordinates.iter().fold(mix(seed), |state, coordinate| mix(state ^ mix(*coordinate)))
}

/// The same as a fraction in `[0, 1)`.
#[must_use]
pub fn fraction(seed: u64, coordinates: &[u64]) -> f64 {
    // The upper 53 bits fill a double's mantissa exactly.
    (draw(seed, coordinates) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The same in `[-1, 1)`.
#[must_use]
pub fn swing(seed: u64, coordinates: &[u64]) -> f64 {
    fraction(seed, coordinates) * 2.0 - 1.0
}

/// A smooth curve in `[-1, 1)` through one draw every `period`, for what changes slowly: clouds, fronts.
#[must_use]
pub fn drift(seed: u64, stream: u64, time: i64, period: i64) -> f64 {
    let knot = time.div_euclid(period);
    let within = time.rem_euclid(period) as f64 / period as f64;
    let value = |knot: i64| swing(seed, &[stream, knot as u64]);
    let ease = within * within * (3.0 - 2.0 * within);
    value(knot) * (1.0 - ease) + value(knot + 1) * ease
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_and_differ() {
        assert_eq!(draw(1, &[2, 3]), draw(1, &[2, 3]));
        assert_ne!(draw(1, &[2, 3]), draw(1, &[3, 2]));
        assert_ne!(draw(1, &[2, 3]), draw(2, &[2, 3]));
    }

    #[test]
    fn fractions_fill_their_range_evenly() {
        let sum: f64 = (0..10_000).map(|index| fraction(7, &[index])).sum();
        assert!((4_800.0..5_200.0).contains(&sum), "{sum}");
    }

    #[test]
    fn drift_is_continuous_across_knots() {
        for knot in -3..3_i64 {
            let before = drift(1, 2, knot * 1000 - 1, 1000);
            let after = drift(1, 2, knot * 1000, 1000);
            assert!((before - after).abs() < 0.001, "{before} {after}");
        }
    }
}

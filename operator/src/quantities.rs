//! Text in resources to the integers of the domain: durations, decimals, degrees. No floating point, no rounding in silence.

use depin_domain::{
    ids::{Algorithm, PublicKey},
    time::Timestamp,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::invalid::Invalid;

/// Milliseconds of a duration like `1h30m`, `10s`, `250ms`.
pub fn duration_ms(field: &str, text: &str) -> Result<i64, Invalid> {
    let bad = || Invalid::new(field, format!("{text:?} is not a duration"), "write it like 1h30m, 10s or 250ms");
    let mut rest = text;
    let mut total = 0_i64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let (unit, after) = after.split_at(if after.starts_with("ms") { 2 } else { after.len().min(1) });
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        let part = number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = after;
    }
    Ok(total)
}

/// The decimal `text` × 10^`scale`, exactly.
pub fn scaled(field: &str, text: &str, scale: u8) -> Result<i64, Invalid> {
    let bad = |reason: String| {
        Invalid::new(field, reason, "write a plain decimal number with no more decimals than the scale keeps")
    };
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !plain || digits.ends_with('.') {
        return Err(bad(format!("{text:?} is not a decimal number")));
    }
    let scale = usize::from(scale);
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > scale {
        return Err(bad(format!("{text:?} has more than {scale} decimals")));
    }
    let joined = format!("{}{whole}{fraction}{}", if negative { "-" } else { "" }, "0".repeat(scale - fraction.len()));
    joined.parse().map_err(|_| bad(format!("{text:?} does not fit 64 bits at scale {scale}")))
}

/// Milliseconds of a Kubernetes time.
#[must_use]
pub fn timestamp(time: &Time) -> Timestamp {
    Timestamp(time.0.as_millisecond())
}

/// A Kubernetes time, in whole seconds as Kubernetes keeps it; none beyond what can be written.
#[must_use]
pub fn time(at: Timestamp) -> Option<Time> {
    jiff::Timestamp::from_second(at.0.div_euclid(1000)).ok().map(Time)
}

/// A key as the domain has it. `field` is where the resource has it.
pub fn public_key(field: &str, key: &depin_crds::PublicKey) -> Result<PublicKey, Invalid> {
    let algorithm = match key.algorithm {
        depin_crds::key::KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
        depin_crds::key::KeyAlgorithm::P256 => Algorithm::P256,
    };
    let field = format!("{field}.key");
    let bytes = hex::decode(&key.key)
        .map_err(|_| Invalid::new(&field, "not hexadecimal", "write the key's bytes as hexadecimal digits"))?;
    let key = PublicKey { algorithm, bytes };
    depin_identity::VerifyingKey::new(&key).map_err(|error| {
        Invalid::new(field, error.to_string(), "give the public key that the agent or device printed")
    })?;
    Ok(key)
}

/// A key as resources have it.
#[must_use]
pub fn resource_key(key: &PublicKey) -> depin_crds::PublicKey {
    let algorithm = match key.algorithm {
        Algorithm::Ed25519 => depin_crds::key::KeyAlgorithm::Ed25519,
        Algorithm::P256 => depin_crds::key::KeyAlgorithm::P256,
    };
    depin_crds::PublicKey { algorithm, key: hex::encode(&key.bytes) }
}

/// An account in the form of the registry: lower case.
#[must_use]
pub fn account(text: &str) -> String {
    text.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_parts() {
        for (text, expected) in
            [("0s", 0), ("250ms", 250), ("1h30m", 5_400_000), ("10s5ms", 10_005), ("336h", 1_209_600_000)]
        {
            assert_eq!(duration_ms("f", text), Ok(expected), "{text}");
        }
        for text in ["", "10", "s", "1d", "1.5h", "-1s", "9999999999999999999s", "1h ", "99999999999999999h"] {
            let error = duration_ms("spec.grain", text).unwrap_err();
            assert_eq!(error.field, "spec.grain", "{text}");
        }
    }

    #[test]
    fn decimals_become_integers_without_rounding() {
        for (text, scale, expected) in [
            ("0", 3, 0),
            ("-0.5", 3, -500),
            ("999999.999", 3, 999_999_999),
            ("1.50", 1, 15),
            ("9223372036854775807", 0, i64::MAX),
            ("-9223372036854775808", 0, i64::MIN),
        ] {
            assert_eq!(scaled("f", text, scale), Ok(expected), "{text}");
        }
        for (text, scale) in [
            ("0.0001", 3),
            ("9223372036854775808", 0),
            ("1e3", 0),
            ("", 0),
            (".5", 1),
            ("5.", 1),
            ("--1", 0),
            ("+1", 0),
        ] {
            assert!(scaled("f", text, scale).is_err(), "{text}");
        }
    }
}

//! Amounts of a token in its smallest unit, and the accounts that they belong to.

use std::{fmt, str::FromStr};

use ruint::aliases::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Parts of a whole in 1/10,000.
pub const BASIS_POINTS: u32 = 10_000;

/// An amount in the token's smallest unit; a decimal string where it is text, because most readers of JSON lose digits beyond 2^53.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// The sum, unless it does not fit.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, unless it would be negative.
    #[must_use]
    pub fn minus(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `floor(self × numerator / denominator)` with an exact product of 256 bits; none where the denominator is zero or the
    /// result does not fit.
    #[must_use]
    pub fn part(self, numerator: u128, denominator: u128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        if let Some(product) = self.0.checked_mul(numerator) {
            return Some(Self(product / denominator));
        }
        let product = U256::from(self.0).checked_mul(U256::from(numerator))?;
        u128::try_from(product / U256::from(denominator)).ok().map(Self)
    }

    /// `floor(self × basis_points / 10,000)`.
    #[must_use]
    pub fn basis_points(self, basis_points: u32) -> Option<Self> {
        self.part(u128::from(basis_points), u128::from(BASIS_POINTS))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Amount({})", self.0)
    }
}

/// A text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an amount: expected decimal digits without a leading zero, below 2^128")]
pub struct ParseAmountError {
    text: String,
}

impl FromStr for Amount {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let minimal = text == "0" || !text.starts_with('0');
        let parsed = if digits && minimal { text.parse().ok() } else { None };
        parsed.map(Self).ok_or_else(|| ParseAmountError { text: text.chars().take(80).collect() })
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An EVM address; as text `0x` and 40 lower-case hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(pub [u8; 20]);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({self})")
    }
}

/// A text is not an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an account: expected 0x and 40 hexadecimal digits")]
pub struct ParseAccountError {
    text: String,
}

impl FromStr for Account {
    type Err = ParseAccountError;

    /// Reads either case; a mixed-case checksum is not verified, because what is written back is lower case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 20];
        text.strip_prefix("0x")
            .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
            .ok_or_else(|| ParseAccountError { text: text.chars().take(80).collect() })?;
        Ok(Self(bytes))
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Integers as decimal strings, for values that may pass 2^53.
pub(crate) mod decimal {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }

    /// The same for a list with gaps.
    pub(crate) mod options {
        use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};

        struct Decimal(i64);

        impl Serialize for Decimal {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        pub(crate) fn serialize<S: Serializer>(values: &[Option<i64>], serializer: S) -> Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(Some(values.len()))?;
            for value in values {
                list.serialize_element(&value.map(Decimal))?;
            }
            list.end()
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Option<i64>>, D::Error> {
            Vec::<Option<String>>::deserialize(deserializer)?
                .into_iter()
                .map(|text| text.map(|text| text.parse().map_err(de::Error::custom)).transpose())
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_exact_beyond_128_bits() {
        let pool = Amount(u128::MAX);
        assert_eq!(
            pool.part(999_999_999_999, 1_000_000_000_000),
            Some(Amount(340_282_366_920_598_181_096_453_668_968_304_836_847))
        );
        assert_eq!(pool.part(2, 1), None);
        assert_eq!(pool.part(1, 0), None);
        assert_eq!(Amount(7).part(1, 2), Some(Amount(3)));
    }

    #[test]
    fn amounts_are_plain_decimal_texts() {
        for bad in ["", "01", "+1", "-1", "1.0", "1e3", "340282366920938463463374607431768211456", " 1"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
        assert_eq!("0".parse::<Amount>().unwrap(), Amount(0));
        assert_eq!(serde_json::to_string(&Amount(u128::MAX)).unwrap(), format!("\"{}\"", u128::MAX));
    }

    #[test]
    fn accounts_are_written_in_lower_case() {
        let account: Account = "0xABcdef0000000000000000000000000000000001".parse().unwrap();
        assert_eq!(account.to_string(), "0xabcdef0000000000000000000000000000000001");
        for bad in ["", "0x", "abcdef0000000000000000000000000000000001", "0xzz"] {
            assert!(bad.parse::<Account>().is_err(), "{bad}");
        }
    }
}

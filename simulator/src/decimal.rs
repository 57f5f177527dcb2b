//! Exact decimal numbers, so that what a report sums up is what was sent, digit by digit.

use std::fmt;

/// `mantissa × 10^-scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// All digits.
    pub mantissa: i64,
    /// How many of them stand after the point; at most 18.
    pub scale: u8,
}

/// A text that is not a decimal number of at most 18 digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a decimal number of at most 18 digits")]
pub struct NotDecimal(pub String);

impl Decimal {
    /// From digits and scale.
    #[must_use]
    pub fn new(mantissa: i64, scale: u8) -> Self {
        Self { mantissa, scale }
    }

    /// The nearest decimal to a computed value; not-a-number becomes zero.
    #[must_use]
    pub fn nearest(value: f64, scale: u8) -> Self {
        Self { mantissa: (value * 10_f64.powi(i32::from(scale))).round_ties_even() as i64, scale }
    }

    /// Reads `-12.5`, `1.66E-06` and the like without passing through a float.
    ///
    /// # Errors
    /// When the text is something else, or has more digits than fit.
    pub fn parse(text: &str) -> Result<Self, NotDecimal> {
        let fail = || NotDecimal(text.to_owned());
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse::<i32>().map_err(|_| fail())?),
            None => (text, 0),
        };
        let (negative, digits) = digits.strip_prefix('-').map_or((false, digits), |rest| (true, rest));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let all: String = whole.chars().chain(part.chars()).collect();
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fail());
        }
        let mut mantissa: i128 = all
            .trim_start_matches('0')
            .get(..)
            .filter(|text| !text.is_empty())
            .unwrap_or("0")
            .parse()
            .map_err(|_| fail())?;
        let mut scale = i32::try_from(part.len()).map_err(|_| fail())? - exponent;
        while scale < 0 {
            mantissa = mantissa.checked_mul(10).ok_or_else(fail)?;
            scale += 1;
        }
        while scale > 18 {
            (mantissa, scale) = (half_even(mantissa, 10), scale - 1);
        }
        let mantissa = i64::try_from(if negative { -mantissa } else { mantissa }).map_err(|_| fail())?;
        Ok(Self { mantissa, scale: u8::try_from(scale).map_err(|_| fail())? })
    }

    /// The integer at another scale, rounded half to even as a model's metrics are; `None` if it does not fit.
    #[must_use]
    pub fn at_scale(self, scale: u8) -> Option<i64> {
        let mantissa = i128::from(self.mantissa);
        let shift = 10_i128.checked_pow(u32::from(self.scale.abs_diff(scale)))?;
        let scaled = if scale >= self.scale { mantissa.checked_mul(shift)? } else { half_even(mantissa, shift) };
        i64::try_from(scaled).ok()
    }
}

fn half_even(value: i128, divisor: i128) -> i128 {
    let (quotient, remainder) = (value.div_euclid(divisor), value.rem_euclid(divisor));
    let up = match (remainder * 2).cmp(&divisor) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => quotient % 2 != 0,
    };
    quotient + i128::from(up)
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.scale);
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs(), width = scale + 1);
        let (whole, part) = digits.split_at(digits.len() - scale);
        let sign = if self.mantissa < 0 { "-" } else { "" };
        if part.is_empty() { write!(formatter, "{sign}{whole}") } else { write!(formatter, "{sign}{whole}.{part}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_recordings_hold() {
        let read = |text| Decimal::parse(text).unwrap();
        assert_eq!(read("0.8511666666666671"), Decimal::new(8_511_666_666_666_671, 16));
        assert_eq!(read("1.66E-06"), Decimal::new(166, 8));
        assert_eq!(read("-7"), Decimal::new(-7, 0));
        assert_eq!(read("1.5e3"), Decimal::new(1500, 0));
        assert_eq!(read("10.357019999999999").at_scale(3), Some(10_357));
        for text in ["", "NA", "-", ".", "1.2.3", "0x1", "1e", "99999999999999999999"] {
            assert!(Decimal::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rounds_half_to_even() {
        let rounded = |text| Decimal::parse(text).unwrap().at_scale(0).unwrap();
        assert_eq!(
            [rounded("0.5"), rounded("1.5"), rounded("2.5"), rounded("-0.5"), rounded("-1.5")],
            [0, 2, 2, 0, -2]
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(mantissa in -1_000_000_000_000_i64..1_000_000_000_000, scale in 0_u8..10) {
            let decimal = Decimal::new(mantissa, scale);
            prop_assert_eq!(Decimal::parse(&decimal.to_string()).unwrap(), decimal);
        }
    }
}

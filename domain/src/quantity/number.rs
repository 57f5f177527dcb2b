//! Exact finite numbers as they occur in payloads.

/// Most significant decimal digits that a number may have: what fits an `i128`.
const MAX_DIGITS: u32 = 38;
/// Largest magnitude of the decimal exponent after normalization; all finite `f64` lie within.
const MAX_EXPONENT: i32 = 400;

/// A text or float is not a number that is kept exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not decimal notation.
    #[error("not a decimal number")]
    NotDecimal,
    /// NaN or infinite.
    #[error("not a finite number")]
    NotFinite,
    /// More than 38 significant digits.
    #[error("more than 38 significant digits")]
    TooPrecise,
    /// Beyond 10^±400.
    #[error("exponent beyond ±400")]
    ExponentTooLarge,
}

/// `mantissa × 10^ten × 2^two`, exactly. Decimal text has `two` = 0, binary floats have `ten` = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    pub(super) mantissa: i128,
    pub(super) ten: i32,
    pub(super) two: i32,
}

impl Number {
    /// Zero.
    pub const ZERO: Self = Self { mantissa: 0, ten: 0, two: 0 };

    /// Reads decimal text: sign, digits with at most one point, exponent. No white space, no other notation.
    pub fn parse(text: &[u8]) -> Result<Self, NumberError> {
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let mut digits = Digits::default();
        let mut at = 0;
        let mut fraction = false;
        while let Some(&byte) = unsigned.get(at) {
            match byte {
                b'0'..=b'9' => digits.push(byte - b'0', fraction)?,
                b'.' if !fraction => fraction = true,
                _ => break,
            }
            at += 1;
        }
        if !digits.any {
            return Err(NumberError::NotDecimal);
        }
        let exponent = match unsigned.get(at) {
            None => 0,
            Some(b'e' | b'E') => parse_exponent(&unsigned[at + 1..])?,
            Some(_) => return Err(NumberError::NotDecimal),
        };
        digits.finish(negative, exponent)
    }

    /// The exact value of a finite float.
    pub fn from_f64(value: f64) -> Result<Self, NumberError> {
        if !value.is_finite() {
            return Err(NumberError::NotFinite);
        }
        let bits = value.to_bits();
        let biased = i32::try_from((bits >> 52) & 0x7ff).map_err(|_| NumberError::NotFinite)?;
        let fraction = i128::from(bits & ((1 << 52) - 1));
        let (magnitude, two) = if biased == 0 { (fraction, -1074) } else { (fraction | (1 << 52), biased - 1075) };
        if magnitude == 0 {
            return Ok(Self::ZERO);
        }
        let zeros = magnitude.trailing_zeros();
        let magnitude = magnitude >> zeros;
        let two = two + zeros.cast_signed();
        Ok(Self { mantissa: if value.is_sign_negative() { -magnitude } else { magnitude }, ten: 0, two })
    }

    /// The exact value of a finite float; every `f32` (and half) is an `f64`.
    pub fn from_f32(value: f32) -> Result<Self, NumberError> {
        Self::from_f64(f64::from(value))
    }

    /// `mantissa × 10^exponent`, as in CBOR's decimal fractions.
    pub fn from_decimal(mantissa: i128, exponent: i64) -> Result<Self, NumberError> {
        let exponent = i32::try_from(exponent).map_err(|_| NumberError::ExponentTooLarge)?;
        if mantissa == 0 {
            return Ok(Self::ZERO);
        }
        if exponent.unsigned_abs() > MAX_EXPONENT.unsigned_abs() {
            return Err(NumberError::ExponentTooLarge);
        }
        Ok(Self { mantissa, ten: exponent, two: 0 })
    }

    /// The exact sum, if it can be held. [`Quantizer::quantize_sum`](super::Quantizer::quantize_sum) takes what cannot, too.
    ///
    /// Both are brought to the smaller power of two and the smaller power of five, so that a float beside a whole number only has to be
    /// shifted: as a decimal, 0.1 as a double would have 55 digits.
    pub fn plus(self, other: Self) -> Result<Self, NumberError> {
        if self.mantissa == 0 {
            return Ok(other);
        }
        if other.mantissa == 0 {
            return Ok(self);
        }
        let (twos, fives) = (self.twos().min(other.twos()), self.fives().min(other.fives()));
        let aligned = |number: Self| {
            let power = |base: i128, gap: i32| base.checked_pow(gap.unsigned_abs());
            let mantissa = number.mantissa.checked_mul(power(2, number.twos() - twos)?)?;
            mantissa.checked_mul(power(5, number.fives() - fives)?)
        };
        let sum = aligned(self).zip(aligned(other)).and_then(|(a, b)| a.checked_add(b));
        let mantissa = sum.ok_or(NumberError::TooPrecise)?;
        Ok(if mantissa == 0 { Self::ZERO } else { Self { mantissa, ten: fives, two: twos - fives } })
    }

    /// Exponent of two in `mantissa × 2^twos × 5^fives`.
    pub(super) fn twos(self) -> i32 {
        self.ten + self.two
    }

    /// Exponent of five there.
    pub(super) fn fives(self) -> i32 {
        self.ten
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self { mantissa: i128::from(value), ten: 0, two: 0 }
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self { mantissa: i128::from(value), ten: 0, two: 0 }
    }
}

/// Digits as they come, with trailing zeros held back so that `1.000…0` stays small.
#[derive(Default)]
struct Digits {
    any: bool,
    /// Digits read so far without the zeros held back. Up to 18 digits stay in the cheap half.
    mantissa: u128,
    significant: u32,
    held_zeros: u32,
    /// Digits after the point, held zeros included.
    after_point: i32,
}

impl Digits {
    #[inline]
    fn push(&mut self, digit: u8, fraction: bool) -> Result<(), NumberError> {
        self.any = true;
        if fraction {
            self.after_point = self.after_point.checked_add(1).ok_or(NumberError::ExponentTooLarge)?;
        }
        if digit == 0 {
            if self.mantissa != 0 {
                self.held_zeros += 1;
            }
            return Ok(());
        }
        self.significant += self.held_zeros + 1;
        if self.significant > MAX_DIGITS {
            return Err(NumberError::TooPrecise);
        }
        let shift = 10_u128.pow(self.held_zeros + 1);
        self.held_zeros = 0;
        self.mantissa = self.mantissa * shift + u128::from(digit);
        Ok(())
    }

    fn finish(self, negative: bool, exponent: i32) -> Result<Number, NumberError> {
        if self.mantissa == 0 {
            return Ok(Number::ZERO);
        }
        let ten = i64::from(exponent) - i64::from(self.after_point) + i64::from(self.held_zeros);
        if ten.unsigned_abs() > u64::from(MAX_EXPONENT.unsigned_abs()) {
            return Err(NumberError::ExponentTooLarge);
        }
        let ten = i32::try_from(ten).map_err(|_| NumberError::ExponentTooLarge)?;
        let magnitude = i128::try_from(self.mantissa).map_err(|_| NumberError::TooPrecise)?;
        Ok(Number { mantissa: if negative { -magnitude } else { magnitude }, ten, two: 0 })
    }
}

fn parse_exponent(text: &[u8]) -> Result<i32, NumberError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NumberError::NotDecimal);
    }
    // Held at a million, which is refused unless the mantissa is zero: no exponent overflows on the way.
    let exponent = digits.iter().fold(0_i32, |sum, digit| (sum * 10 + i32::from(digit - b'0')).min(1_000_000));
    Ok(if negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(i128, i32), NumberError> {
        Number::parse(text.as_bytes()).map(|number| (number.mantissa, number.ten))
    }

    #[test]
    fn decimal_text_is_kept_exactly() {
        assert_eq!(parsed("0.1"), Ok((1, -1)));
        assert_eq!(parsed("-12.50"), Ok((-125, -1)));
        assert_eq!(parsed("1200"), Ok((12, 2)));
        assert_eq!(parsed("6.02e23"), Ok((602, 21)));
        assert_eq!(parsed("-0.0"), Ok((0, 0)));
        assert_eq!(parsed("0e999999999999"), Ok((0, 0)));
        assert_eq!(parsed("1.0000000000000000000000000000000000000000000000000000"), Ok((1, 0)));
        assert_eq!(parsed(".5"), Ok((5, -1)));
        assert_eq!(parsed("+7."), Ok((7, 0)));
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_kind() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1.2.3", "0x10", "NaN", "1 ", " 1", "1,5", "12W", "--1"] {
            assert_eq!(parsed(text), Err(NumberError::NotDecimal), "{text:?}");
        }
        assert_eq!(parsed("123456789012345678901234567890123456789"), Err(NumberError::TooPrecise));
        assert_eq!(parsed("1e401"), Err(NumberError::ExponentTooLarge));
        assert_eq!(parsed("1e-99999999999999"), Err(NumberError::ExponentTooLarge));
        assert_eq!(Number::from_f64(f64::NAN), Err(NumberError::NotFinite));
        assert_eq!(Number::from_f32(f32::NEG_INFINITY), Err(NumberError::NotFinite));
    }

    #[test]
    fn floats_are_taken_at_their_exact_binary_value() {
        assert_eq!(Number::from_f64(0.5), Ok(Number { mantissa: 1, ten: 0, two: -1 }));
        assert_eq!(Number::from_f64(-6.0), Ok(Number { mantissa: -3, ten: 0, two: 1 }));
        assert_eq!(Number::from_f64(0.1), Ok(Number { mantissa: 3_602_879_701_896_397, ten: 0, two: -55 }));
        assert_eq!(Number::from_f64(5e-324), Ok(Number { mantissa: 1, ten: 0, two: -1074 }));
        assert_eq!(Number::from_f64(-0.0), Ok(Number::ZERO));
    }

    #[test]
    fn sums_are_exact_or_refused() {
        let sum = |a: &str, b: &str| Number::parse(a.as_bytes()).unwrap().plus(Number::parse(b.as_bytes()).unwrap());
        assert_eq!(sum("1276020076.001", "-5"), Number::parse(b"1276020071.001"));
        assert_eq!(sum("0.1", "-0.1"), Ok(Number::ZERO));
        assert_eq!(sum("1e300", "1"), Err(NumberError::TooPrecise));
        let half = Number::from_f64(0.5).unwrap();
        assert_eq!(half.plus(Number::from(2_i64)), Ok(Number { mantissa: 5, ten: 0, two: -1 }));
    }

    #[test]
    fn floats_are_added_to_whole_numbers_and_decimals_exactly() {
        let tenth = Number::from_f64(0.1).unwrap();
        let mantissa = (1_276_020_076_i128 << 55) + 3_602_879_701_896_397;
        assert_eq!(tenth.plus(Number::from(1_276_020_076_i64)), Ok(Number { mantissa, ten: 0, two: -55 }));
        assert_eq!(Number::from(1_276_020_076_i64).plus(tenth), tenth.plus(Number::from(1_276_020_076_i64)));
        // 0.3 as a decimal: 3 × 2^-1 × 5^-1, brought to 2^-55 × 5^-1.
        let mantissa = (3_i128 << 54) + 5 * 3_602_879_701_896_397;
        let sum = Number::parse(b"0.3").unwrap().plus(tenth);
        assert_eq!(sum, Ok(Number { mantissa, ten: -1, two: -54 }));
        assert_eq!(Number::from_f64(-0.5).unwrap().plus(Number::parse(b"0.5").unwrap()), Ok(Number::ZERO));
        // What spans more than 127 bits is no number of this kind.
        assert_eq!(Number::from_f64(1e-30).unwrap().plus(Number::from(20_i64)), Err(NumberError::TooPrecise));
    }
}

//! From a number in one unit to an integer at a scale in another: exact, with one rounding.

use ruint::Uint;

use super::{Number, Unit, UnitError, ratio::Ratio};

/// Wide enough for a 38-digit mantissa × 10^400 or 2^±1074 times every factor of a [`Conversion`].
type Wide = Uint<2560, 40>;

/// The result does not fit 64 bits at the wanted scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the number does not fit 64 bits at this scale")]
pub struct NotRepresentable;

/// `target = source × factor + offset`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    factor: Ratio,
    offset: Ratio,
}

impl Conversion {
    /// Nothing changes.
    pub const IDENTITY: Self = Self { factor: Ratio::ONE, offset: Ratio::ZERO };

    /// From `source` to `target`; refused where they measure different things.
    pub fn between(source: &Unit, target: &Unit) -> Result<Self, UnitError> {
        if source.dimension != target.dimension {
            return Err(UnitError::Incompatible { source_unit: source.text.clone(), target_unit: target.text.clone() });
        }
        let exact = || {
            let factor = source.factor.over(target.factor)?;
            let offset = source.offset.minus(target.offset)?.over(target.factor)?;
            Some(Self { factor, offset })
        };
        exact().ok_or_else(|| UnitError::TooLarge { unit: source.text.clone() })
    }
}

/// A conversion and the decimal scale at which its result is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantizer {
    conversion: Conversion,
    scale: u8,
}

impl Quantizer {
    /// Keeps `scale` decimal digits of the converted quantity.
    #[must_use]
    pub fn new(conversion: Conversion, scale: u8) -> Self {
        Self { conversion, scale }
    }

    /// Keeps `scale` decimal digits without converting.
    #[must_use]
    pub fn plain(scale: u8) -> Self {
        Self::new(Conversion::IDENTITY, scale)
    }

    /// `number` converted, × 10^scale, rounded half to even.
    #[inline]
    pub fn quantize(&self, number: Number) -> Result<i64, NotRepresentable> {
        match self.narrow(number) {
            Some(value) => i64::try_from(value).map_err(|_| NotRepresentable),
            None => self.wide(&[number]),
        }
    }

    /// The same for the sum of two numbers: it is rounded once, however far apart they are.
    pub fn quantize_sum(&self, a: Number, b: Number) -> Result<i64, NotRepresentable> {
        match a.plus(b) {
            Ok(sum) => self.quantize(sum),
            Err(_) => self.wide(&[a, b]),
        }
    }

    /// In 128 bits; `None` where they do not suffice, which says nothing about the result.
    #[inline]
    fn narrow(&self, number: Number) -> Option<i128> {
        if number.two != 0 {
            return None;
        }
        let Conversion { factor, offset } = self.conversion;
        let mut numerator = number.mantissa.checked_mul(factor.numerator)?;
        let mut denominator = factor.denominator;
        let shift = number.ten + i32::from(self.scale);
        if offset.numerator == 0 {
            let power = 10_i128.checked_pow(shift.unsigned_abs())?;
            if shift >= 0 {
                numerator = numerator.checked_mul(power)?;
            } else {
                denominator = denominator.checked_mul(power)?;
            }
        } else {
            let power = 10_i128.checked_pow(number.ten.unsigned_abs())?;
            if number.ten >= 0 {
                numerator = numerator.checked_mul(power)?;
            } else {
                denominator = denominator.checked_mul(power)?;
            }
            let scaled = numerator.checked_mul(offset.denominator)?;
            numerator = scaled.checked_add(offset.numerator.checked_mul(denominator)?)?;
            numerator = numerator.checked_mul(10_i128.checked_pow(u32::from(self.scale))?)?;
            denominator = denominator.checked_mul(offset.denominator)?;
        }
        half_even(numerator, denominator)
    }

    /// The sum of these in 2560 bits, which hold every intermediate of a [`Number`] and a [`Conversion`], and of two of them unless one is
    /// so large that no result fits anyway.
    fn wide(&self, terms: &[Number]) -> Result<i64, NotRepresentable> {
        let Conversion { factor, offset } = self.conversion;
        let least = |exponent: fn(Number) -> i32| terms.iter().copied().map(exponent).min().unwrap_or(0).min(0);
        let (twos, fives) = (least(Number::twos), least(Number::fives));
        let mut total = (false, Wide::ZERO);
        for term in terms {
            let mantissa = Wide::from(term.mantissa.unsigned_abs());
            let shifted = times(mantissa, power(2, (term.twos() - twos).unsigned_abs())?)?;
            let aligned = times(shifted, power(5, (term.fives() - fives).unsigned_abs())?)?;
            total = add_signed(total, (term.mantissa < 0, aligned))?;
        }
        let numerator = times(total.1, Wide::from(factor.numerator.unsigned_abs()))?;
        let mut denominator = times(power(2, twos.unsigned_abs())?, power(5, fives.unsigned_abs())?)?;
        denominator = times(denominator, Wide::from(factor.denominator.unsigned_abs()))?;
        let negative = total.0 != (factor.numerator < 0);
        let scaled = times(numerator, Wide::from(offset.denominator.unsigned_abs()))?;
        let added = times(denominator, Wide::from(offset.numerator.unsigned_abs()))?;
        denominator = times(denominator, Wide::from(offset.denominator.unsigned_abs()))?;
        let (negative, sum) = add_signed((negative, scaled), (offset.numerator < 0, added))?;
        let numerator = times(sum, power(10, u32::from(self.scale))?)?;

        let (mut quotient, remainder) = numerator.div_rem(denominator);
        let twice = times(remainder, Wide::from(2_u64))?;
        if twice > denominator || (twice == denominator && quotient.bit(0)) {
            quotient = quotient.checked_add(Wide::ONE).ok_or(NotRepresentable)?;
        }
        let magnitude = i128::from(u64::try_from(quotient).map_err(|_| NotRepresentable)?);
        i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NotRepresentable)
    }
}

fn half_even(numerator: i128, denominator: i128) -> Option<i128> {
    let quotient = numerator.checked_div(denominator)?;
    let remainder = (numerator % denominator).unsigned_abs();
    let rest = denominator.unsigned_abs() - remainder;
    let up = remainder > rest || (remainder == rest && quotient % 2 != 0);
    if up { quotient.checked_add(numerator.signum()) } else { Some(quotient) }
}

fn times(a: Wide, b: Wide) -> Result<Wide, NotRepresentable> {
    // Most factors are: no multiplication of 40 words for them.
    if b == Wide::ONE {
        return Ok(a);
    }
    a.checked_mul(b).ok_or(NotRepresentable)
}

fn power(base: u64, exponent: u32) -> Result<Wide, NotRepresentable> {
    Wide::from(base).checked_pow(Wide::from(exponent)).ok_or(NotRepresentable)
}

fn add_signed(a: (bool, Wide), b: (bool, Wide)) -> Result<(bool, Wide), NotRepresentable> {
    if a.0 == b.0 {
        return Ok((a.0, a.1.checked_add(b.1).ok_or(NotRepresentable)?));
    }
    Ok(if a.1 >= b.1 { (a.0, a.1 - b.1) } else { (b.0, b.1 - a.1) })
}

#[cfg(test)]
mod tests {
    use depin_trials::{RngCore as _, below, one_in};

    use super::*;

    fn converted(text: &str, from: &str, to: &str, scale: u8) -> Result<i64, NotRepresentable> {
        let conversion = Conversion::between(&Unit::parse(from).unwrap(), &Unit::parse(to).unwrap()).unwrap();
        Quantizer::new(conversion, scale).quantize(Number::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn known_conversions() {
        assert_eq!(converted("1.5", "kW", "W", 0), Ok(1500));
        assert_eq!(converted("1", "kWh", "J", 0), Ok(3_600_000));
        assert_eq!(converted("3600", "J", "Wh", 3), Ok(1000));
        assert_eq!(converted("32", "[degF]", "Cel", 2), Ok(0));
        assert_eq!(converted("98.6", "[degF]", "Cel", 2), Ok(3700));
        assert_eq!(converted("-40", "Cel", "[degF]", 1), Ok(-400));
        assert_eq!(converted("20", "Cel", "K", 2), Ok(29315));
        assert_eq!(converted("760", "mm[Hg]", "hPa", 2), Ok(101_325));
        assert_eq!(converted("36", "km/h", "m/s", 0), Ok(10));
        assert_eq!(converted("1", "[mi_i]/h", "m/s", 5), Ok(44704));
        assert_eq!(converted("1", "[kn_i]", "m/s", 6), Ok(514_444));
        assert_eq!(converted("50", "%", "1", 2), Ok(50));
        assert_eq!(converted("1", "MiBy", "kBy", 3), Ok(1_048_576));
        assert_eq!(converted("1", "mg/m3", "ug/m3", 0), Ok(1000));
        assert_eq!(converted("10", "dB[W]", "dB[mW]", 0), Ok(40));
        assert_eq!(converted("1", "m3", "L", 0), Ok(1000));
        assert_eq!(converted("1", "L/m2", "mm", 0), Ok(1));
    }

    #[test]
    fn one_rounding_half_to_even() {
        for (text, expected) in [("0.5", 0), ("1.5", 2), ("2.5", 2), ("-0.5", 0), ("-1.5", -2), ("2.5000000001", 3)] {
            assert_eq!(Quantizer::plain(0).quantize(Number::parse(text.as_bytes()).unwrap()), Ok(expected), "{text}");
        }
        // 0.1 as a float is slightly more than 0.1, and 2.675 slightly less than 2.675.
        assert_eq!(Quantizer::plain(2).quantize(Number::from_f64(2.675).unwrap()), Ok(267));
        assert_eq!(Quantizer::plain(2).quantize(Number::parse(b"2.675").unwrap()), Ok(268));
        assert_eq!(Quantizer::plain(0).quantize(Number::from_f64(5e-324).unwrap()), Ok(0));
    }

    #[test]
    fn sums_are_rounded_once_however_far_apart_their_terms_are() {
        let float = |value| Number::from_f64(value).unwrap();
        let text = |text: &str| Number::parse(text.as_bytes()).unwrap();
        let sum = |a, b, scale| Quantizer::plain(scale).quantize_sum(a, b);
        assert_eq!(sum(text("1276020076"), float(0.1), 3), Ok(1_276_020_076_100));
        assert_eq!(sum(text("20"), float(1e-30), 1), Ok(200));
        // A tie, and what lies a trace beside it.
        assert_eq!(sum(text("2.5"), Number::ZERO, 0), Ok(2));
        assert_eq!(sum(text("2.5"), float(1e-300), 0), Ok(3));
        assert_eq!(sum(float(-1e-300), text("3.5"), 0), Ok(3));
        assert_eq!(sum(text("-2.5"), text("-1e-400"), 0), Ok(-3));
        assert_eq!(sum(float(5e-324), text("9223372036854775807.4"), 0), Ok(i64::MAX));
        assert_eq!(sum(float(5e-324), text("9223372036854775807.5"), 0), Err(NotRepresentable));
        assert_eq!(sum(text("1e300"), text("-1e-300"), 0), Err(NotRepresentable));
        let celsius = Conversion::between(&Unit::parse("[degF]").unwrap(), &Unit::parse("Cel").unwrap()).unwrap();
        assert_eq!(Quantizer::new(celsius, 2).quantize_sum(text("98.6"), float(-1e-30)), Ok(3700));
    }

    #[test]
    fn overflow_is_told() {
        let plain = |text: &str, scale| Quantizer::plain(scale).quantize(Number::parse(text.as_bytes()).unwrap());
        assert_eq!(plain("9223372036854775807", 0), Ok(i64::MAX));
        assert_eq!(plain("9223372036854775808", 0), Err(NotRepresentable));
        assert_eq!(plain("-9223372036854775808", 0), Ok(i64::MIN));
        assert_eq!(plain("-9223372036854775808.5", 0), Ok(i64::MIN));
        assert_eq!(plain("1e300", 9), Err(NotRepresentable));
        assert_eq!(plain("1e-300", 9), Ok(0));
        assert_eq!(Quantizer::plain(9).quantize(Number::from_f64(f64::MAX).unwrap()), Err(NotRepresentable));
    }

    /// The result `y` is right if and only if |v − y| < ½, or = ½ and y even, for the exact rational v.
    fn assert_nearest(number: Number, quantizer: &Quantizer) {
        type Huge = Uint<4096, 64>;
        let huge = |value: i128| Huge::from(value.unsigned_abs());
        let pow = |base: u64, exponent: i32| Huge::from(base).pow(Huge::from(exponent.unsigned_abs()));
        let Conversion { factor, offset } = quantizer.conversion;
        // v = mantissa·10^ten·2^two·f + o, times 10^scale, over a common denominator.
        let mut top = huge(number.mantissa) * huge(factor.numerator) * huge(offset.denominator);
        let mut bottom = huge(factor.denominator) * huge(offset.denominator);
        let mut extra = huge(offset.numerator) * huge(factor.denominator);
        for (base, exponent) in [(10, number.ten), (2, number.two)] {
            if exponent >= 0 {
                top *= pow(base, exponent);
            } else {
                bottom *= pow(base, exponent);
                extra *= pow(base, exponent);
            }
        }
        let negative = (number.mantissa < 0) != (factor.numerator < 0);
        let (negative, magnitude) = match (negative, offset.numerator < 0) {
            (a, b) if a == b => (a, top + extra),
            (a, _) if top >= extra => (a, top - extra),
            (_, b) => (b, extra - top),
        };
        let magnitude = magnitude * pow(10, i32::from(quantizer.scale));
        match quantizer.quantize(number) {
            Ok(value) => {
                assert!(value == 0 || magnitude.is_zero() || (value < 0) == negative);
                let product = Huge::from(value.unsigned_abs()) * bottom;
                let distance = if product > magnitude { product - magnitude } else { magnitude - product };
                let twice = distance * Huge::from(2);
                assert!(twice < bottom || (twice == bottom && value % 2 == 0), "{number:?} {quantizer:?} {value}");
            }
            Err(NotRepresentable) => {
                let limit = Huge::from(i64::MAX.unsigned_abs()) * bottom;
                assert!(magnitude > limit, "{number:?} {quantizer:?} fits");
            }
        }
    }

    #[test]
    fn every_result_is_the_nearest_integer_of_the_exact_rational() {
        let pairs = [
            ("W", "W"),
            ("kWh", "J"),
            ("J", "kWh"),
            ("[degF]", "Cel"),
            ("Cel", "[degF]"),
            ("[degF]", "K"),
            ("mm[Hg]", "hPa"),
            ("[kn_i]", "km/h"),
            ("[psi]", "kPa"),
            ("ug/m3", "g/L"),
            ("d", "ms"),
            ("By", "bit"),
        ];
        depin_trials::run("quantize", |rng| {
            let (from, to) = pairs[usize::try_from(below(rng, pairs.len() as u64)).unwrap()];
            let conversion = Conversion::between(&Unit::parse(from).unwrap(), &Unit::parse(to).unwrap()).unwrap();
            let quantizer = Quantizer::new(conversion, u8::try_from(below(rng, 10)).unwrap());
            let number = if one_in(rng, 2) {
                let float = f64::from_bits(rng.next_u64());
                if !float.is_finite() {
                    return;
                }
                Number::from_f64(float).unwrap()
            } else {
                let digits = rng.next_u64() >> below(rng, 64);
                let sign = if one_in(rng, 2) { "-" } else { "" };
                let exponent = i64::try_from(below(rng, 60)).unwrap() - 40;
                let tail = if one_in(rng, 3) { "5" } else { "" };
                Number::parse(format!("{sign}{digits}{tail}e{exponent}").as_bytes()).unwrap()
            };
            assert_nearest(number, &quantizer);
        });
    }
}

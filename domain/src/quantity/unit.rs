//! UCUM units: the part of the grammar that telemetry uses, each unit an exact rational multiple of its base.
//!
//! `kWh`, `m/s`, `ug/m3`, `mm[Hg]`, `[mi_i]/h`, `10*3`, `km.h-1`. Units with an offset (`Cel`, `[degF]`, `dB[W]`) stand alone.
//! Angles are kept in degrees and levels in decibels, because radians and nepers are no rational multiples of them.
//! Source of the definitions: ucum.org, version 2.1; `Wh`, `Ah`, `VA`, `var`, `ppm` and `ppb` are taken as the trades write them.

use super::ratio::Ratio;

/// A unit cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No unit of this name.
    #[error("unit {unit:?} is not known; use a UCUM code such as kWh, Cel, m/s or %")]
    Unknown {
        /// As given.
        unit: String,
    },
    /// The two measure different things.
    #[error("unit {source_unit:?} cannot be converted to {target_unit:?}: they measure different things")]
    Incompatible {
        /// Of the payload.
        source_unit: String,
        /// Of the metric.
        target_unit: String,
    },
    /// The factor needs more than 128 bits.
    #[error("unit {unit:?} is too large or too small to be converted exactly")]
    TooLarge {
        /// As given.
        unit: String,
    },
}

/// Exponents of m, g, s, K, A, cd, mol, degree, byte, and of the kinds that only look alike: dB, dB[mW], var, VA.
pub(super) type Dimension = [i8; 13];

/// A parsed unit: `base = quantity × factor + offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub(super) text: String,
    pub(super) dimension: Dimension,
    pub(super) factor: Ratio,
    pub(super) offset: Ratio,
}

const NONE: Dimension = [0; 13];
const METRE: Dimension = base(0);
const GRAM: Dimension = base(1);
const SECOND: Dimension = base(2);
const KELVIN: Dimension = base(3);
const AMPERE: Dimension = base(4);
const CANDELA: Dimension = base(5);
const MOLE: Dimension = base(6);
const DEGREE: Dimension = base(7);
const BYTE: Dimension = base(8);
const DECIBEL: Dimension = base(9);
const DECIBEL_MILLIWATT: Dimension = base(10);
const FORCE: Dimension = [1, 1, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const PRESSURE: Dimension = [-1, 1, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ENERGY: Dimension = [2, 1, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const POWER: Dimension = [2, 1, -3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const REACTIVE: Dimension = [2, 1, -3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const REACTIVE_ENERGY: Dimension = [2, 1, -2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const APPARENT: Dimension = [2, 1, -3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const APPARENT_ENERGY: Dimension = [2, 1, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const VOLT: Dimension = [2, 1, -3, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0];
const OHM: Dimension = [2, 1, -3, 0, -2, 0, 0, 0, 0, 0, 0, 0, 0];
const SIEMENS: Dimension = [-2, -1, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
const FARAD: Dimension = [-2, -1, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
const COULOMB: Dimension = [0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
const HERTZ: Dimension = [0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LUX: Dimension = [-2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const VOLUME: Dimension = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const AREA: Dimension = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const SPEED: Dimension = [1, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const DOSE: Dimension = [2, 0, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const fn base(index: usize) -> Dimension {
    let mut dimension = NONE;
    dimension[index] = 1;
    dimension
}

/// Units that take a prefix: name, dimension, factor to the base units.
const METRIC: &[(&str, Dimension, i128, i128)] = &[
    ("m[Hg]", PRESSURE, 133_322_387_415, 1_000),
    ("mol", MOLE, 1, 1),
    ("bar", PRESSURE, 100_000_000, 1),
    ("bit", BYTE, 1, 8),
    ("Ohm", OHM, 1_000, 1),
    ("varh", REACTIVE_ENERGY, 3_600_000, 1),
    ("VAh", APPARENT_ENERGY, 3_600_000, 1),
    ("var", REACTIVE, 1_000, 1),
    ("VA", APPARENT, 1_000, 1),
    ("Wh", ENERGY, 3_600_000, 1),
    ("Ah", COULOMB, 3_600, 1),
    ("Hz", HERTZ, 1, 1),
    ("Pa", PRESSURE, 1_000, 1),
    ("By", BYTE, 1, 1),
    ("Bq", HERTZ, 1, 1),
    ("Sv", DOSE, 1, 1),
    ("Gy", DOSE, 1, 1),
    ("lx", LUX, 1, 1),
    ("lm", CANDELA, 1, 1),
    ("cd", CANDELA, 1, 1),
    ("m", METRE, 1, 1),
    ("g", GRAM, 1, 1),
    ("t", GRAM, 1_000_000, 1),
    ("s", SECOND, 1, 1),
    ("K", KELVIN, 1, 1),
    ("A", AMPERE, 1, 1),
    ("C", COULOMB, 1, 1),
    ("V", VOLT, 1_000, 1),
    ("W", POWER, 1_000, 1),
    ("J", ENERGY, 1_000, 1),
    ("N", FORCE, 1_000, 1),
    ("S", SIEMENS, 1, 1_000),
    ("F", FARAD, 1, 1_000),
    ("L", VOLUME, 1, 1_000),
    ("l", VOLUME, 1, 1_000),
];

/// Units without prefixes.
const PLAIN: &[(&str, Dimension, i128, i128)] = &[
    ("%", NONE, 1, 100),
    ("[ppth]", NONE, 1, 1_000),
    ("[ppm]", NONE, 1, 1_000_000),
    ("[ppb]", NONE, 1, 1_000_000_000),
    ("ppm", NONE, 1, 1_000_000),
    ("ppb", NONE, 1, 1_000_000_000),
    ("min", SECOND, 60, 1),
    ("h", SECOND, 3_600, 1),
    ("d", SECOND, 86_400, 1),
    ("wk", SECOND, 604_800, 1),
    ("deg", DEGREE, 1, 1),
    ("[in_i]", METRE, 254, 10_000),
    ("[ft_i]", METRE, 3_048, 10_000),
    ("[mi_i]", METRE, 1_609_344, 1_000),
    ("[nmi_i]", METRE, 1_852, 1),
    ("[kn_i]", SPEED, 1_852, 3_600),
    ("[lb_av]", GRAM, 45_359_237, 100_000),
    // 0.45359237 kg × 9.80665 m/s² / (0.0254 m)²
    ("[psi]", PRESSURE, 45_359_237 * 980_665, 10_000 * 64_516),
    ("atm", PRESSURE, 101_325_000, 1),
    ("[gal_us]", VOLUME, 3_785_411_784, 1_000_000_000_000),
    ("har", AREA, 10_000, 1),
    ("ar", AREA, 100, 1),
];

/// Numerator and denominator.
type Fraction = (i128, i128);

/// Units that stand alone, with an offset: name, dimension, factor, offset.
const SPECIAL: &[(&str, Dimension, Fraction, Fraction)] = &[
    ("Cel", KELVIN, (1, 1), (27_315, 100)),
    ("[degF]", KELVIN, (5, 9), (45_967 * 5, 900)),
    ("dB", DECIBEL, (1, 1), (0, 1)),
    ("dB[mW]", DECIBEL_MILLIWATT, (1, 1), (0, 1)),
    ("dB[W]", DECIBEL_MILLIWATT, (1, 1), (30, 1)),
];

/// Longest first where one begins another.
const PREFIXES: &[(&str, i128, i128)] = &[
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("da", 10, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("M", 1_000_000, 1),
    ("k", 1_000, 1),
    ("h", 100, 1),
    ("d", 1, 10),
    ("c", 1, 100),
    ("m", 1, 1_000),
    ("u", 1, 1_000_000),
    ("n", 1, 1_000_000_000),
    ("p", 1, 1_000_000_000_000),
];

/// Largest exponent of one component, and longest unit text.
const MAX_POWER: i32 = 9;
const MAX_TEXT: usize = 64;

impl Unit {
    /// Reads a UCUM code.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let unknown = || UnitError::Unknown { unit: text.chars().take(MAX_TEXT).collect() };
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(unknown());
        }
        if let Some((_, dimension, factor, offset)) = SPECIAL.iter().find(|(name, ..)| *name == text) {
            let ratio = |(numerator, denominator)| Ratio::new(numerator, denominator).ok_or_else(unknown);
            return Ok(Self {
                text: text.to_owned(),
                dimension: *dimension,
                factor: ratio(*factor)?,
                offset: ratio(*offset)?,
            });
        }
        let mut unit = Self { text: text.to_owned(), dimension: NONE, factor: Ratio::ONE, offset: Ratio::ZERO };
        let (mut divide, mut rest) = match text.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        loop {
            let end = component_end(rest);
            let (dimension, factor) = component(&rest[..end]).ok_or_else(unknown)?;
            unit.multiply(dimension, factor, divide).ok_or_else(|| UnitError::TooLarge { unit: text.to_owned() })?;
            match rest.as_bytes().get(end) {
                None => return Ok(unit),
                Some(separator) => divide = *separator == b'/',
            }
            rest = &rest[end + 1..];
        }
    }

    /// The code as it was given.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.text
    }

    fn multiply(&mut self, dimension: Dimension, factor: Ratio, divide: bool) -> Option<()> {
        self.factor = if divide { self.factor.over(factor)? } else { self.factor.times(factor)? };
        for (sum, exponent) in self.dimension.iter_mut().zip(dimension) {
            *sum = if divide { sum.checked_sub(exponent)? } else { sum.checked_add(exponent)? };
        }
        Some(())
    }
}

/// Where the component at the start of `text` ends: at `.` or `/` outside brackets.
fn component_end(text: &str) -> usize {
    let mut inside = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => inside = true,
            b']' => inside = false,
            b'.' | b'/' if !inside => return at,
            _ => {}
        }
    }
    text.len()
}

fn component(text: &str) -> Option<(Dimension, Ratio)> {
    if let Some(exponent) = text.strip_prefix("10*").or_else(|| text.strip_prefix("10^")) {
        let exponent: i32 = exponent.parse().ok()?;
        return (exponent.abs() <= 18).then(|| Ratio::new(10, 1)?.power(exponent)).flatten().map(|ratio| (NONE, ratio));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let factor: u32 = text.parse().ok()?;
        return Some((NONE, Ratio::new(i128::from(factor), 1).filter(|ratio| ratio.numerator > 0)?));
    }
    let (symbol, exponent) = split_exponent(text)?;
    let (dimension, factor) = atom(symbol)?;
    let mut powered = NONE;
    for (slot, single) in powered.iter_mut().zip(dimension) {
        *slot = i8::try_from(i32::from(single) * exponent).ok()?;
    }
    Some((powered, factor.power(exponent)?))
}

/// `m3` → (`m`, 3), `h-1` → (`h`, −1); digits inside brackets belong to the symbol.
fn split_exponent(text: &str) -> Option<(&str, i32)> {
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Some((text, 1));
    }
    let mut at = text.len() - digits;
    if matches!(text.as_bytes().get(at.wrapping_sub(1)), Some(b'-' | b'+')) {
        at -= 1;
    }
    let exponent: i32 = text[at..].parse().ok()?;
    (at > 0 && exponent != 0 && exponent.abs() <= MAX_POWER).then_some((&text[..at], exponent))
}

fn atom(symbol: &str) -> Option<(Dimension, Ratio)> {
    let found = |table: &[(&str, Dimension, i128, i128)], name: &str| {
        table.iter().find(|entry| entry.0 == name).map(|entry| (entry.1, entry.2, entry.3))
    };
    if let Some((dimension, numerator, denominator)) = found(PLAIN, symbol).or_else(|| found(METRIC, symbol)) {
        return Some((dimension, Ratio::new(numerator, denominator)?));
    }
    PREFIXES.iter().find_map(|(prefix, up, down)| {
        let (dimension, numerator, denominator) = found(METRIC, symbol.strip_prefix(prefix)?)?;
        Some((dimension, Ratio::new(numerator, denominator)?.times(Ratio::new(*up, *down)?)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Conversion;

    #[test]
    fn the_trades_units_are_known() {
        for text in [
            "W", "kW", "MW", "mW", "Wh", "kWh", "MWh", "J", "V", "mV", "kV", "A", "mA", "Hz", "kHz", "Cel", "K",
            "[degF]", "Pa", "hPa", "kPa", "bar", "mbar", "mm[Hg]", "m/s", "km/h", "[mi_i]/h", "[kn_i]", "m", "km",
            "cm", "mm", "mm/h", "%", "1", "ppm", "[ppm]", "W/m2", "W.m-2", "lx", "dB", "dB[mW]", "deg", "s", "ms",
            "min", "h", "By", "kBy", "KiBy", "GBy", "bit/s", "Mbit/s", "ug/m3", "L", "m3", "L/min", "/min", "10*-6",
            "var", "kVA", "mol/L", "[in_i]/h",
        ] {
            assert!(Unit::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in [
            "", "kCel", "foo", "W/", "/", "m//s", "°C", "m0", "m99", "k", "W.", "0", "Cel/s", "[", "kmin", "10*99",
            "m-",
        ] {
            assert!(matches!(Unit::parse(text), Err(UnitError::Unknown { .. })), "{text:?}");
        }
        assert!(matches!(Unit::parse("PW.PW.PW.PW"), Err(UnitError::TooLarge { .. })));
        assert!(Unit::parse(&"W.".repeat(100)).is_err());
    }

    #[test]
    fn what_only_looks_alike_is_not_converted() {
        for (from, to) in [
            ("W", "Wh"),
            ("Cel", "%"),
            ("var", "W"),
            ("VA", "W"),
            ("dB", "1"),
            ("dB", "dB[mW]"),
            ("deg", "1"),
            ("By", "1"),
            ("m", "m2"),
        ] {
            let result = Conversion::between(&Unit::parse(from).unwrap(), &Unit::parse(to).unwrap());
            assert!(matches!(result, Err(UnitError::Incompatible { .. })), "{from} {to}");
        }
    }

    #[test]
    fn converting_there_and_back_is_exact() {
        for (a, b) in [
            ("kWh", "J"),
            ("Cel", "[degF]"),
            ("[kn_i]", "m/s"),
            ("[psi]", "hPa"),
            ("mm[Hg]", "Pa"),
            ("bit/s", "MiBy/h"),
        ] {
            let (a, b) = (Unit::parse(a).unwrap(), Unit::parse(b).unwrap());
            let there = Conversion::between(&a, &b).unwrap();
            let back = Conversion::between(&b, &a).unwrap();
            assert_ne!(there, back);
            assert_eq!(Conversion::between(&a, &a).unwrap(), Conversion::IDENTITY);
        }
    }
}

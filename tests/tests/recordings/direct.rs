//! What the sums must be, straight from the CSV files: integers and fractions only, none of the product's code.

use std::{collections::BTreeMap, fs, path::Path};

/// One metric of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) sum: i128,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// In the order of time.
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Of a counter: its last value less its first.
    pub(crate) increase: i128,
}

/// By device (serial) and metric.
pub(crate) type Sums = BTreeMap<(String, String), Sum>;

/// One column of a recording and the metric that it becomes: `(value × factor + offset) × 10^scale`, rounded half to even.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) metric: &'static str,
    /// Numerator and denominator.
    pub(crate) factor: (i128, i128),
    /// Added to the value before the factor is applied.
    pub(crate) offset: i128,
    pub(crate) scale: u32,
    /// A consumption that the recording's mapping sums up at six digits, in the column's unit.
    pub(crate) accumulate: bool,
    /// What the model takes as possible, at `scale`.
    pub(crate) range: (i64, i64),
}

/// One file.
pub(crate) struct File {
    pub(crate) name: &'static str,
    /// A column whose text follows the prefix in the serial.
    pub(crate) device: Option<&'static str>,
    pub(crate) prefix: &'static str,
    pub(crate) columns: Vec<Column>,
}

/// A column in the metric's unit.
pub(crate) fn plain(name: &'static str, metric: &'static str, scale: u32, range: (i64, i64)) -> Column {
    Column { name, metric, factor: (1, 1), offset: 0, scale, accumulate: false, range }
}

/// What the file's rows sum up to, and how many values are outside their range.
pub(crate) fn sums(folder: &Path, file: &File, sums: &mut Sums) -> u64 {
    let text = fs::read_to_string(folder.join(file.name)).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let place = |name: &str| header.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name}"));
    let device = file.device.map(place);
    let columns: Vec<usize> = file.columns.iter().map(|column| place(column.name)).collect();
    let mut running: BTreeMap<(String, usize), i128> = BTreeMap::new();
    let mut outside = 0;
    for line in lines.filter(|line| !line.is_empty()) {
        let cells: Vec<&str> = line.split(',').collect();
        let serial = format!("{}{}", file.prefix, device.map_or("", |index| cells[index]));
        for (index, column) in file.columns.iter().enumerate() {
            let Some(mut fraction) = fraction(cells[columns[index]]) else { continue };
            if column.accumulate {
                let total = running.entry((serial.clone(), index)).or_default();
                *total += rounded((fraction.0 * 1_000_000, fraction.1));
                fraction = (*total, 1_000_000);
            }
            let shifted = (fraction.0 + column.offset * fraction.1, fraction.1);
            let (numerator, denominator) = column.factor;
            let scaled = (shifted.0 * numerator * 10_i128.pow(column.scale), shifted.1 * denominator);
            let value = i64::try_from(rounded(scaled)).unwrap();
            if value < column.range.0 || value > column.range.1 {
                outside += 1;
                continue;
            }
            let entry = sums.entry((serial.clone(), column.metric.to_owned())).or_default();
            if entry.count == 0 {
                (entry.min, entry.max, entry.first) = (value, value, value);
            }
            entry.count += 1;
            entry.sum += i128::from(value);
            entry.min = entry.min.min(value);
            entry.max = entry.max.max(value);
            entry.last = value;
            if column.accumulate {
                entry.increase = i128::from(value - entry.first);
            }
        }
    }
    outside
}

/// A decimal number as a fraction; none for an empty cell or a word.
fn fraction(text: &str) -> Option<(i128, i128)> {
    let (digits, exponent) = match text.split_once('e').or_else(|| text.split_once('E')) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let mantissa: i128 = format!("{whole}{part}").parse().ok()?;
    let ten = exponent - i32::try_from(part.len()).ok()?;
    let power = 10_i128.pow(ten.unsigned_abs());
    Some(if ten >= 0 { (mantissa * power, 1) } else { (mantissa, power) })
}

/// Half to even.
fn rounded((numerator, denominator): (i128, i128)) -> i128 {
    let (quotient, rest) = (numerator.div_euclid(denominator), numerator.rem_euclid(denominator));
    quotient
        + match (2 * rest).cmp(&denominator) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => quotient.rem_euclid(2),
            std::cmp::Ordering::Greater => 1,
        }
}

#[test]
fn fractions_are_exact_and_round_half_to_even() {
    assert_eq!(fraction("-0.25"), Some((-25, 100)));
    assert_eq!(fraction("1.66E-06"), Some((166, 100_000_000)));
    assert_eq!(fraction("NA"), None);
    assert_eq!([(5, 10), (15, 10), (-5, 10), (-15, 10), (26, 10)].map(rounded), [0, 2, 0, -2, 3]);
}

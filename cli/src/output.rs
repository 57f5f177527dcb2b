//! Reports: a JSON value for programs, aligned columns for people, from the same facts.

use std::io::{self, Write as _};

use depin_domain::{rewards::Amount, time::Timestamp};
use serde_json::Value;

use crate::args::{HeadingsFlag, Output};

/// What a command found.
pub(crate) struct Report {
    pub(crate) json: Value,
    pub(crate) text: String,
    /// False: what was examined is not right.
    pub(crate) right: bool,
    /// True: everything was written already, as it came.
    pub(crate) silent: bool,
}

impl Report {
    pub(crate) fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), right: true, silent: false }
    }

    /// What it tells was written with [`line`].
    pub(crate) fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    pub(crate) fn write(&self, output: Output) -> io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match output {
            Output::Json => {
                serde_json::to_writer_pretty(&mut out, &self.json)?;
                writeln!(out)
            }
            Output::Table => writeln!(out, "{}", self.text.trim_end()),
        }
    }
}

/// Writes a line now, for what comes without end.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Rows under headings, as kubectl prints them: three blanks between columns.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    headed: bool,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()], headed: true }
    }

    /// Leaves the line of headings out, if that is wished.
    pub(crate) fn headed(mut self, wish: HeadingsFlag) -> Self {
        self.headed = !wish.no_headers;
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// The table, or `nothing` where there is no row.
    pub(crate) fn or(&self, nothing: &str) -> String {
        if self.is_empty() { nothing.to_owned() } else { self.text() }
    }

    pub(crate) fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let shown = self.rows.get(usize::from(!self.headed)..).unwrap_or_default();
        let width = |column: usize| {
            shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in shown {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}   "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// An amount in whole tokens, all its digits kept: `12.5`.
pub(crate) fn tokens(amount: Amount, decimals: u8) -> String {
    let places = usize::from(decimals);
    let digits = format!("{:0>width$}", amount.0, width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    let part = part.trim_end_matches('0');
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

/// An integer at a decimal scale: 12345 at 3 is `12.345`.
pub(crate) fn scaled(value: i64, scale: u8) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", tokens(Amount(u128::from(value.unsigned_abs())), scale))
}

/// RFC 3339 without fractions where there are none.
pub(crate) fn when(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |time| time.to_string())
}

/// How long ago, in one unit, as kubectl says it.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(at) / 1_000;
    match seconds {
        ..0 => "now".into(),
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The first and last digits of a hash.
pub(crate) fn short(hash: &str) -> String {
    match (hash.get(..10), hash.get(hash.len().saturating_sub(6)..)) {
        (Some(first), Some(last)) if hash.len() > 20 => format!("{first}…{last}"),
        _ => hash.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_every_digit() {
        let text = |amount, decimals| tokens(Amount(amount), decimals);
        assert_eq!(text(1, 18), "0.000000000000000001");
        assert_eq!(text(12_500_000_000_000_000_000, 18), "12.5");
        assert_eq!((text(0, 0), text(7, 0), text(0, 6)), ("0".into(), "7".into(), "0".into()));
        assert_eq!((scaled(-12_345, 3), scaled(i64::MIN, 0)), ("-12.345".into(), "-9223372036854775808".into()));
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["A", "LONG"]);
        assert_eq!(table.or("none"), "none");
        table.row(["äöü".into(), "x".into()]);
        assert_eq!(table.text(), "A     LONG\näöü   x\n");
    }

    #[test]
    fn without_headings_there_are_only_rows_as_wide_as_they_need() {
        let mut table = Table::new(["NAMESPACE", "B"]).headed(HeadingsFlag { no_headers: true });
        assert_eq!(table.or("none"), "none");
        table.row(["x".into(), "y".into()]);
        assert_eq!(table.or("none"), "x   y\n");
    }

    #[test]
    fn times_are_short() {
        let ago = |ms| ago(Timestamp(0), Timestamp(ms));
        assert_eq!(
            [ago(-5_000), ago(90_000), ago(600_000), ago(10_800_000), ago(864_000_000)],
            ["now", "90s", "10m", "3h", "10d"]
        );
        assert_eq!(when(Timestamp(0)), "1970-01-01T00:00:00Z");
    }
}

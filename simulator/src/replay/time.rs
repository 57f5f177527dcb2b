//! How recordings write the time of a row.

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, civil::DateTime, fmt::strtime, tz::TimeZone};

use super::mapping::TimeColumn;

/// Reads the time out of a row's cells.
#[derive(Clone, Debug)]
pub struct TimeReader {
    columns: Vec<usize>,
    format: Format,
    offset_ms: i64,
}

#[derive(Clone, Debug)]
enum Format {
    /// Steps since an origin, in milliseconds both.
    Count {
        unit: i64,
        origin: i64,
    },
    Pattern(String),
    Text,
}

impl TimeReader {
    /// By the mapping; `column` finds a column's place.
    ///
    /// # Errors
    /// When a column is missing or the mapping contradicts itself.
    pub fn new(mapping: &TimeColumn, column: impl Fn(&str) -> Result<usize>) -> Result<Self> {
        let names = match (&mapping.column, mapping.columns.as_slice()) {
            (Some(name), []) => std::slice::from_ref(name),
            (None, names @ [_, ..]) => names,
            _ => bail!("time needs either column or columns"),
        };
        let columns = names.iter().map(|name| column(name)).collect::<Result<_>>()?;
        let format = match (&mapping.pattern, mapping.unit_ms) {
            (Some(pattern), None) => Format::Pattern(pattern.clone()),
            (None, Some(unit)) => {
                Format::Count { unit, origin: mapping.origin.as_deref().map_or(Ok(0), |origin| moment(origin, 0))? }
            }
            (None, None) if names.len() == 1 => Format::Text,
            (None, None) => bail!("time.columns needs time.pattern"),
            (Some(_), Some(_)) => bail!("time has pattern and unitMs; leave one out"),
        };
        Ok(Self { columns, format, offset_ms: mapping.offset_minutes * 60_000 })
    }

    /// Unix milliseconds of a row.
    ///
    /// # Errors
    /// When the cells hold no such time.
    pub fn read<'c>(&self, cell: impl Fn(usize) -> &'c str) -> Result<i64> {
        let cells: Vec<&str> = self.columns.iter().map(|index| cell(*index)).collect();
        let text = cells.join(" ");
        match &self.format {
            Format::Text => moment(&text, self.offset_ms),
            Format::Count { unit, origin } => {
                let count: i64 = text.parse().with_context(|| format!("{text:?} is no count"))?;
                let at = count.checked_mul(*unit).and_then(|ms| ms.checked_add(*origin));
                at.with_context(|| format!("{text:?} is too large a count"))
            }
            Format::Pattern(pattern) => {
                let civil = strtime::parse(pattern, &text).and_then(|parsed| parsed.to_datetime());
                civil
                    .map_err(anyhow::Error::from)
                    .and_then(|civil| local(civil, self.offset_ms))
                    .with_context(|| format!("{text:?} is no time of the pattern {pattern:?}"))
            }
        }
    }
}

fn local(civil: DateTime, offset_ms: i64) -> Result<i64> {
    Ok(civil.to_zoned(TimeZone::UTC)?.timestamp().as_millisecond() - offset_ms)
}

fn moment(text: &str, offset_ms: i64) -> Result<i64> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.as_millisecond());
    }
    local(text.parse().with_context(|| format!("{text:?} is no time"))?, offset_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mapping: &TimeColumn, cells: &[&str]) -> Result<i64> {
        let names: Vec<String> = mapping.column.iter().chain(&mapping.columns).cloned().collect();
        let reader = TimeReader::new(mapping, |name| Ok(names.iter().position(|known| known == name).unwrap()))?;
        reader.read(|index| cells[index])
    }

    #[test]
    fn times_are_read_as_recordings_write_them() {
        assert_eq!(moment("2013-01-01T06:00:00Z", 0).unwrap(), 1_357_020_000_000);
        assert_eq!(moment("2012-01-01 00:15:00-07:00", 0).unwrap(), 1_325_402_100_000);
        assert_eq!(moment("2013-01-01 06:00:00", 0).unwrap(), 1_357_020_000_000);
        assert_eq!(moment("2013-01-01 14:00:00", 8 * 3_600_000).unwrap(), 1_357_020_000_000);
        assert!(moment("yesterday", 0).is_err());
    }

    #[test]
    fn times_in_several_columns_are_read_by_a_pattern() {
        let columns = ["y", "m", "d", "h"].map(str::to_owned).to_vec();
        let pattern = Some("%Y %m %d %H".to_owned());
        let beijing = TimeColumn { columns, pattern, offset_minutes: 480, ..TimeColumn::default() };
        assert_eq!(read(&beijing, &["2016", "6", "1", "0"]).unwrap(), 1_464_710_400_000);
        assert!(read(&beijing, &["2016", "13", "1", "0"]).is_err());
        let american = TimeColumn {
            column: Some("at".to_owned()),
            pattern: Some("%m/%d/%Y %H:%M".to_owned()),
            ..TimeColumn::default()
        };
        assert_eq!(read(&american, &["1/2/2022 0:15"]).unwrap(), 1_641_082_500_000);
    }

    #[test]
    fn counts_begin_at_their_origin() {
        let hours = TimeColumn {
            column: Some("hour".to_owned()),
            unit_ms: Some(3_600_000),
            origin: Some("2016-08-01T00:00:00Z".to_owned()),
            ..TimeColumn::default()
        };
        assert_eq!(read(&hours, &["2"]).unwrap(), 1_470_016_800_000);
        assert!(read(&hours, &["two"]).is_err());
        assert!(read(&TimeColumn { origin: Some("then".to_owned()), ..hours }, &["2"]).is_err());
    }

    #[test]
    fn a_mapping_that_contradicts_itself_is_told() {
        for (mapping, what) in [
            (TimeColumn::default(), "column or columns"),
            (TimeColumn { columns: vec!["a".into(), "b".into()], ..TimeColumn::default() }, "pattern"),
        ] {
            let error = TimeReader::new(&mapping, |_| Ok(0)).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

//! Recordings as messages: CSV files and a small mapping file that says which column is what.
//!
//! ```yaml
//! streams:
//! - file: homes.csv                     # beside the mapping; a header line, then rows
//!   topic: energy/meters/{device}/telemetry
//!   shape: flat                         # flat, observation or senml
//!   device: {column: home, prefix: home-}
//!   time: {column: hour_index, unitMs: 3600000}
//!   fields:
//!   - {column: consumption_kwh, name: energy_kwh, scale: 3, accumulate: true}
//! ```
//!
//! Recorded time is moved so that the first row falls on the run's start, and divided by the speed.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;

use crate::{
    decimal::Decimal,
    faults::Struck,
    hardware::{Field, Shape},
    plan::Message,
};

/// The mapping file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mapping {
    /// One for each file, or for each use of a file.
    pub streams: Vec<Stream>,
}

/// How one file becomes messages.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stream {
    /// CSV file, relative to the recordings' folder.
    pub file: String,
    /// Topic, with `{device}` for the serial.
    pub topic: String,
    /// The payload's layout.
    #[serde(default)]
    pub shape: Shape,
    /// Which device a row is of.
    pub device: DeviceColumn,
    /// When a row was recorded.
    pub time: TimeColumn,
    /// What a row holds.
    pub fields: Vec<FieldColumn>,
}

/// Which device a row is of: a column's text, or one device for the whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceColumn {
    /// The column.
    #[serde(default)]
    pub column: Option<String>,
    /// Stands before the column's text, or alone.
    #[serde(default)]
    pub prefix: String,
}

/// When a row was recorded.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeColumn {
    /// A column with an RFC 3339 time, a local time `YYYY-MM-DD HH:MM:SS`, or, with `unitMs`, a count.
    #[serde(default)]
    pub column: Option<String>,
    /// Milliseconds of one step of a counting column.
    #[serde(default)]
    pub unit_ms: Option<i64>,
    /// Instead of `column`: columns with year, month, day and hour.
    #[serde(default)]
    pub year_month_day_hour: Option<[String; 4]>,
}

/// One value of a row. An empty cell or one that is no number is left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldColumn {
    /// The column.
    pub column: String,
    /// Its name in the payload.
    pub name: String,
    /// Its unit in SenML.
    #[serde(default)]
    pub unit: String,
    /// Digits kept after the point, rounded half to even.
    pub scale: u8,
    /// Sum up the column from the start: a counter from what was used in each interval.
    #[serde(default)]
    pub accumulate: bool,
}

/// Reads a folder of recordings into messages in the order of time, the first due at `start`.
///
/// # Errors
/// When a file is missing or a mapping does not fit its file; the message names file and column.
pub fn read(folder: &Path, mapping: Option<&Path>, start: i64, speed: f64) -> Result<Vec<Message>> {
    let path = mapping.map_or_else(|| folder.join("mapping.yaml"), Path::to_path_buf);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read the mapping {}", path.display()))?;
    let mapping: Mapping =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is no mapping", path.display()))?;
    let mut messages = Vec::new();
    for stream in &mapping.streams {
        let file = folder.join(&stream.file);
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read the recording {}", file.display()))?;
        stream
            .messages(&text, &mut messages)
            .with_context(|| format!("{} does not fit its mapping", file.display()))?;
    }
    let first = messages.iter().map(|row: &Row<'_>| row.at).min().unwrap_or(0);
    let mut messages: Vec<Message> = messages.into_iter().map(|row| row.message(first, start, speed)).collect();
    messages.sort_by_key(|message| message.due);
    Ok(messages)
}

#[derive(Debug)]
struct Row<'a> {
    stream: &'a Stream,
    serial: Arc<str>,
    at: i64,
    values: Vec<(&'a FieldColumn, Decimal)>,
}

impl Row<'_> {
    fn message(self, first: i64, start: i64, speed: f64) -> Message {
        let due = start + ((self.at - first) as f64 / speed).round() as i64;
        let fields: Vec<Field<'_>> = self
            .values
            .iter()
            .map(|(column, value)| Field { name: &column.name, unit: &column.unit, value: *value })
            .collect();
        let payload = self.stream.shape.encode(&self.serial, &fields, due).into_bytes();
        let topic = self.stream.topic.replace("{device}", &self.serial);
        let values = self.values.iter().map(|(column, value)| (Arc::from(column.name.as_str()), *value)).collect();
        Message {
            due,
            serial: self.serial,
            topic,
            payload,
            timestamp: due,
            values,
            struck: Struck::default(),
            copy: false,
        }
    }
}

impl Stream {
    fn messages<'a>(&'a self, text: &str, rows: &mut Vec<Row<'a>>) -> Result<()> {
        let mut lines = text.lines();
        let header = cells(lines.next().unwrap_or_default());
        let column = |name: &str| {
            let found = header.iter().position(|known| known == name);
            found.with_context(|| format!("there is no column {name:?}; there are {}", header.join(", ")))
        };
        let device = self.device.column.as_deref().map(column).transpose()?;
        let time = self.time.reader(&column)?;
        let fields: Vec<(usize, &FieldColumn)> =
            self.fields.iter().map(|field| Ok((column(&field.column)?, field))).collect::<Result<_>>()?;
        let mut sums: BTreeMap<(String, usize), i64> = BTreeMap::new();
        for (number, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let cells = cells(line);
            let cell = |index: usize| cells.get(index).map_or("", String::as_str);
            let at = time(&cell).with_context(|| format!("line {}", number + 2))?;
            let serial = format!("{}{}", self.device.prefix, device.map_or("", cell));
            let mut values = Vec::new();
            for (index, field) in &fields {
                let Some(value) = Decimal::parse(cell(*index)).ok().and_then(|value| value.at_scale(field.scale))
                else {
                    continue;
                };
                let sum = sums.entry((serial.clone(), *index)).or_default();
                *sum = sum.checked_add(value).context("the sum of a column does not fit 64 bits")?;
                values.push((*field, Decimal::new(if field.accumulate { *sum } else { value }, field.scale)));
            }
            if !values.is_empty() {
                rows.push(Row { stream: self, serial: serial.into(), at, values });
            }
        }
        Ok(())
    }
}

/// Reads a row's time out of its cells.
type TimeReader<'a> = Box<dyn for<'c> Fn(&dyn Fn(usize) -> &'c str) -> Result<i64> + 'a>;

impl TimeColumn {
    fn reader<'a>(&self, column: &dyn Fn(&str) -> Result<usize>) -> Result<TimeReader<'a>> {
        if let Some(names) = &self.year_month_day_hour {
            let columns = names.iter().map(|name| column(name)).collect::<Result<Vec<usize>>>()?;
            return Ok(Box::new(move |cell| {
                let parts = columns.iter().map(|index| Ok(cell(*index).parse()?)).collect::<Result<Vec<i16>>>()?;
                let [year, month, day, hour] = parts.as_slice() else { bail!("four columns are needed") };
                let civil =
                    DateTime::new(*year, (*month).try_into()?, (*day).try_into()?, (*hour).try_into()?, 0, 0, 0)?;
                Ok(civil.to_zoned(TimeZone::UTC)?.timestamp().as_millisecond())
            }));
        }
        let index = column(self.column.as_deref().context("time needs column or yearMonthDayHour")?)?;
        let unit = self.unit_ms;
        Ok(Box::new(move |cell| {
            let text = cell(index);
            match unit {
                Some(unit) => Ok(text.parse::<i64>().with_context(|| format!("{text:?} is no count"))? * unit),
                None => moment(text),
            }
        }))
    }
}

fn moment(text: &str) -> Result<i64> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.as_millisecond());
    }
    let civil: DateTime = text.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(civil.to_zoned(TimeZone::UTC)?.timestamp().as_millisecond())
}

/// One CSV line (RFC 4180, without line breaks inside quotes).
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.trim_end_matches('\r').chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cells.last_mut().into_iter().for_each(|cell| cell.push('"'));
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => cells.last_mut().into_iter().for_each(|cell| cell.push(other)),
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_messages_at_the_runs_time() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("homes.csv"), "home,hour,used\n1,0,0.5\n2,0,1.25\n1,1,NA\n1,2,0.7005\n\"2\",2,\n")
            .unwrap();
        let mapping = "streams:\n- file: homes.csv\n  topic: meters/{device}\n  device: {column: home, prefix: h-}\n  \
            time: {column: hour, unitMs: 3600000}\n  fields:\n  - {column: used, name: kwh, scale: 3, accumulate: true}\n";
        fs::write(folder.path().join("mapping.yaml"), mapping).unwrap();
        let messages = read(folder.path(), None, 1_000, 3_600.0).unwrap();
        let shown: Vec<(i64, &str, &str)> = messages
            .iter()
            .map(|message| (message.due, &*message.topic, std::str::from_utf8(&message.payload).unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                (1_000, "meters/h-1", r#"{"ts":1000,"kwh":0.500}"#),
                (1_000, "meters/h-2", r#"{"ts":1000,"kwh":1.250}"#),
                (3_000, "meters/h-1", r#"{"ts":3000,"kwh":1.200}"#),
            ]
        );
    }

    #[test]
    fn a_mapping_that_does_not_fit_names_the_column() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.csv"), "time,value\n2020-01-01T00:00:00Z,1\n").unwrap();
        let mapping = "streams:\n- file: a.csv\n  topic: t\n  device: {prefix: one}\n  time: {column: when}\n  \
            fields: [{column: value, name: v, scale: 0}]\n";
        fs::write(folder.path().join("mapping.yaml"), mapping).unwrap();
        let error = format!("{:#}", read(folder.path(), None, 0, 1.0).unwrap_err());
        assert!(error.contains("a.csv") && error.contains("\"when\"") && error.contains("time, value"), "{error}");
    }

    #[test]
    fn times_are_read_as_recordings_write_them() {
        assert_eq!(moment("2013-01-01T06:00:00Z").unwrap(), 1_357_020_000_000);
        assert_eq!(moment("2012-01-01 00:15:00-07:00").unwrap(), 1_325_402_100_000);
        assert_eq!(moment("2013-01-01 06:00:00").unwrap(), 1_357_020_000_000);
        assert!(moment("yesterday").is_err());
    }
}

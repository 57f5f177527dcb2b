//! Recordings as messages: CSV files and a small mapping file that says which column is what.
//!
//! ```yaml
//! streams:
//! - file: homes.csv                     # beside the mapping; a header line, then rows
//!   fleet: energy/meters                # whose devices these are
//!   topic: energy/meters/{device}/telemetry
//!   shape: flat                         # flat, observation or senml
//!   device: {column: home, prefix: home-}
//!   time: {column: hour_index, unitMs: 3600000}
//!   fields:
//!   - {column: consumption_kwh, name: energy_kwh, scale: 3, accumulate: true}
//! ```
//!
//! Played back, recorded time is moved so that the first row falls on the run's start, and divided by the speed; or payloads
//! keep the recorded time.

pub mod mapping;
pub mod time;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{decimal::Decimal, faults::Struck, hardware::Field, plan::Message};
use mapping::{Mapping, Stream};
use time::TimeReader;

/// A folder of recordings, read.
#[derive(Clone, Debug)]
pub struct Recordings {
    /// In the order of time.
    rows: Vec<Row>,
}

/// How a recording is played back.
#[derive(Clone, Copy, Debug)]
pub struct Playback {
    /// When the first row is published, Unix milliseconds.
    pub start: i64,
    /// Recorded milliseconds in one of the clock's.
    pub speed: f64,
    /// Payloads carry the recorded time instead of the time of publishing.
    pub recorded_time: bool,
}

/// What a folder of recordings holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Serials by fleet; recordings without a fleet are under "".
    pub fleets: BTreeMap<String, BTreeSet<String>>,
    /// Messages.
    pub messages: u64,
    /// Readings in them.
    pub readings: u64,
    /// Unix milliseconds of the first row.
    pub first: i64,
    /// Unix milliseconds of the last row.
    pub last: i64,
}

#[derive(Clone, Debug)]
struct Row {
    stream: Arc<Stream>,
    serial: Arc<str>,
    at: i64,
    /// Index of the stream's field, and its value.
    values: Vec<(usize, Decimal)>,
}

impl Recordings {
    /// Reads a folder by `mapping`, or by its own `mapping.yaml`; only streams of `fleets`, where any is named.
    ///
    /// # Errors
    /// When a file is missing or a mapping does not fit its file; the message names file and column.
    pub fn read(folder: &Path, mapping: Option<&Path>, fleets: &[String]) -> Result<Self> {
        let path = mapping.map_or_else(|| folder.join("mapping.yaml"), Path::to_path_buf);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read the mapping {}", path.display()))?;
        let mapping: Mapping =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is no mapping", path.display()))?;
        let mut rows = Vec::new();
        let wanted = |stream: &Stream| fleets.is_empty() || stream.fleet.as_ref().is_some_and(|of| fleets.contains(of));
        for stream in mapping.streams.into_iter().filter(wanted).map(Arc::new) {
            let file = folder.join(&stream.file);
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read the recording {}", file.display()))?;
            rows_of(&stream, &text, &mut rows)
                .with_context(|| format!("{} does not fit its mapping", file.display()))?;
        }
        rows.sort_by_key(|row| row.at);
        Ok(Self { rows })
    }

    /// Recorded milliseconds from the first row to the last.
    #[must_use]
    pub fn span(&self) -> i64 {
        let [first, last] = self.ends();
        last - first
    }

    fn ends(&self) -> [i64; 2] {
        [self.rows.first(), self.rows.last()].map(|row| row.map_or(0, |row| row.at))
    }

    /// What is in it.
    #[must_use]
    pub fn describe(&self) -> Description {
        let [first, last] = self.ends();
        let mut description = Description { first, last, ..Description::default() };
        for row in &self.rows {
            description.messages += 1;
            description.readings += row.values.len() as u64;
            let fleet = row.stream.fleet.as_deref().unwrap_or_default();
            description.fleets.entry(fleet.to_owned()).or_default().insert(row.serial.to_string());
        }
        description
    }

    /// As messages, in the order of time.
    #[must_use]
    pub fn messages(&self, playback: Playback) -> Vec<Message> {
        let [first, _] = self.ends();
        self.rows.iter().map(|row| row.message(first, playback)).collect()
    }
}

impl Row {
    fn message(&self, first: i64, playback: Playback) -> Message {
        let due = playback.start + ((self.at - first) as f64 / playback.speed).round() as i64;
        let timestamp = if playback.recorded_time { self.at } else { due };
        let columns =
            || self.values.iter().filter_map(|(index, value)| Some((self.stream.fields.get(*index)?, *value)));
        let fields: Vec<Field<'_>> =
            columns().map(|(column, value)| Field { name: &column.name, unit: &column.unit, value }).collect();
        let payload = self.stream.shape.encode(&self.serial, &fields, timestamp).into_bytes();
        let topic = self.stream.topic.replace("{device}", &self.serial);
        let values = columns().map(|(column, value)| (Arc::from(column.name.as_str()), value)).collect();
        let (serial, struck) = (self.serial.clone(), Struck::default());
        Message { due, serial, topic, payload, timestamp, values, struck, copy: false }
    }
}

fn rows_of(stream: &Arc<Stream>, text: &str, rows: &mut Vec<Row>) -> Result<()> {
    let mut lines = text.lines();
    let header = cells(lines.next().unwrap_or_default());
    let column = |name: &str| {
        let found = header.iter().position(|known| known == name);
        found.with_context(|| format!("there is no column {name:?}; there are {}", header.join(", ")))
    };
    let device = stream.device.column.as_deref().map(column).transpose()?;
    let time = TimeReader::new(&stream.time, column)?;
    let columns: Vec<usize> = stream.fields.iter().map(|field| column(&field.column)).collect::<Result<_>>()?;
    for field in &stream.fields {
        if field.accumulate && field.scale.is_none() {
            anyhow::bail!("the field {:?} accumulates and needs a scale", field.name);
        }
    }
    let mut sums: BTreeMap<(String, usize), i64> = BTreeMap::new();
    for (number, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let cells = cells(line);
        let cell = |index: usize| cells.get(index).map_or("", String::as_str);
        let at = time.read(cell).with_context(|| format!("line {}", number + 2))?;
        let serial = format!("{}{}", stream.device.prefix, device.map_or("", cell));
        let mut values = Vec::new();
        for (index, (field, column)) in stream.fields.iter().zip(&columns).enumerate() {
            let Ok(recorded) = Decimal::parse(cell(*column)) else { continue };
            let scale = field.scale.unwrap_or(recorded.scale);
            let Some(mut value) = recorded.at_scale(scale) else { continue };
            if field.accumulate {
                let sum = sums.entry((serial.clone(), index)).or_default();
                *sum = sum.checked_add(value).context("the sum of a column does not fit 64 bits")?;
                value = *sum;
            }
            values.push((index, Decimal::new(value, scale)));
        }
        if !values.is_empty() {
            rows.push(Row { stream: stream.clone(), serial: serial.into(), at, values });
        }
    }
    Ok(())
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
        let mapping = "streams:\n- file: homes.csv\n  fleet: grid/meters\n  topic: meters/{device}\n  device: {column: home, prefix: h-}\n  \
            time: {column: hour, unitMs: 3600000}\n  fields:\n  - {column: used, name: kwh, scale: 3, accumulate: true}\n";
        fs::write(folder.path().join("mapping.yaml"), mapping).unwrap();
        let recordings = Recordings::read(folder.path(), None, &[]).unwrap();
        let playback = Playback { start: 1_000, speed: 3_600.0, recorded_time: false };
        let messages = recordings.messages(playback);
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
        let kept = recordings.messages(Playback { recorded_time: true, ..playback });
        assert_eq!((kept[2].due, kept[2].payload.as_slice()), (3_000, r#"{"ts":7200000,"kwh":1.200}"#.as_bytes()));
        let description = recordings.describe();
        assert_eq!((description.messages, description.readings, description.last), (3, 3, 7_200_000));
        assert_eq!(description.fleets["grid/meters"].iter().collect::<Vec<_>>(), ["h-1", "h-2"]);
        let other = Recordings::read(folder.path(), None, &["grid/others".to_owned()]).unwrap();
        assert_eq!(other.describe(), Description::default());
    }

    #[test]
    fn a_mapping_that_does_not_fit_names_the_column() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.csv"), "time,value\n2020-01-01T00:00:00Z,1\n").unwrap();
        let mapping = "streams:\n- file: a.csv\n  topic: t\n  device: {prefix: one}\n  time: {column: when}\n  \
            fields: [{column: value, name: v, scale: 0}]\n";
        fs::write(folder.path().join("mapping.yaml"), mapping).unwrap();
        let error = format!("{:#}", Recordings::read(folder.path(), None, &[]).unwrap_err());
        assert!(error.contains("a.csv") && error.contains("\"when\"") && error.contains("time, value"), "{error}");
    }
}

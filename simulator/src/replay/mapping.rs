//! The mapping file: which column of which recording is what. `docs/recordings.md` describes it for people.

use serde::Deserialize;

use crate::hardware::Shape;

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
    /// NAMESPACE/NAME of the EdgeFleet whose devices these are: what the demo makes devices by, and what `--fleet` chooses by.
    #[serde(default)]
    pub fleet: Option<String>,
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

/// When a row was recorded. Exactly one of `column` and `columns` is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeColumn {
    /// A column with an RFC 3339 time, a local time `YYYY-MM-DD HH:MM:SS`, or, with `unitMs`, a count.
    #[serde(default)]
    pub column: Option<String>,
    /// Several columns, joined by one space before `pattern` reads them.
    #[serde(default)]
    pub columns: Vec<String>,
    /// A strptime pattern of local time, like `%m/%d/%Y %H:%M`.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Minutes east of UTC of local times.
    #[serde(default)]
    pub offset_minutes: i64,
    /// Milliseconds of one step of a counting column.
    #[serde(default)]
    pub unit_ms: Option<i64>,
    /// RFC 3339 time of a counting column's zero; absent: 1970.
    #[serde(default)]
    pub origin: Option<String>,
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
    /// Digits kept after the point, rounded half to even; absent: those that the cell has, up to 18.
    #[serde(default)]
    pub scale: Option<u8>,
    /// Sum up the column from the start, row by row at `scale`: a counter from what was used in each interval.
    #[serde(default)]
    pub accumulate: bool,
}

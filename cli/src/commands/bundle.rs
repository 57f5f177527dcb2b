//! An export in a directory: its manifest, and its files with the digests that the manifest names.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use depin_domain::ids::Digest;
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::fault::Fault;

/// An export whose files are those that its manifest names.
#[derive(Debug)]
pub(super) struct Bundle {
    manifest: PathBuf,
    text: Vec<u8>,
    /// What kind of export it is.
    pub(super) format: String,
    files: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Head {
    format: String,
    files: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    sha256: Digest,
}

impl Bundle {
    /// Opens a directory or its manifest, and checks every file's digest.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let manifest = if path.is_dir() { path.join("manifest.json") } else { path.to_owned() };
        let text = std::fs::read(&manifest).map_err(|error| Fault::file(&manifest, error))?;
        let head: Head = serde_json::from_slice(&text).map_err(|error| Fault::file(&manifest, error))?;
        let directory = manifest.parent().unwrap_or(Path::new("."));
        let mut files = BTreeMap::new();
        for named in head.files {
            // A name from a file that somebody sent leads nowhere else.
            let plain = Path::new(&named.name).file_name().is_some_and(|name| name == named.name.as_str());
            if !plain {
                return Err(Fault::file(&manifest, format!("{:?} is no plain file name", named.name)));
            }
            let file = directory.join(&named.name);
            let bytes = std::fs::read(&file).map_err(|error| Fault::file(&file, error))?;
            if Digest::of(&bytes) != named.sha256 {
                return Err(Fault {
                    message: format!(
                        "{}: is not the file that the manifest names: its SHA-256 differs",
                        file.display()
                    ),
                    remedy: "fetch the export again: kubectl depin export".into(),
                    code: crate::fault::NOT_RIGHT,
                });
            }
            files.insert(named.name, file);
        }
        Ok(Self { manifest, text, format: head.format, files })
    }

    /// The manifest as a type that knows its further fields.
    pub(super) fn manifest<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(&self.text).map_err(|error| self.fault(error))
    }

    /// A fault of the export as a whole.
    pub(super) fn fault(&self, error: impl std::fmt::Display) -> Fault {
        Fault::file(&self.manifest, error)
    }

    /// Names of the files that begin with `prefix`, in order.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.files.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Shows each row of a Parquet file to `take`, whose error names what is wrong with it.
    pub(super) fn rows(&self, name: &str, mut take: impl FnMut(&Cells) -> Result<(), String>) -> Result<(), Fault> {
        let path = self.files.get(name).ok_or_else(|| self.fault(format!("names no file {name}")))?;
        let file = File::open(path).map_err(|error| Fault::file(path, error))?;
        let reader = SerializedFileReader::new(file).map_err(|error| Fault::file(path, error))?;
        for row in reader.get_row_iter(None).map_err(|error| Fault::file(path, error))? {
            let row = row.map_err(|error| Fault::file(path, error))?;
            take(&Cells(row)).map_err(|error| Fault::file(path, error))?;
        }
        Ok(())
    }
}

/// One row of a file.
pub(super) struct Cells(Row);

impl Cells {
    fn cell(&self, column: &str) -> Result<&Field, String> {
        let mut columns = self.0.get_column_iter();
        columns
            .find(|(name, _)| *name == column)
            .map(|(_, field)| field)
            .ok_or_else(|| format!("has no column {column}"))
    }

    /// Text.
    pub(super) fn text(&self, column: &str) -> Result<&str, String> {
        match self.cell(column)? {
            Field::Str(text) => Ok(text),
            _ => Err(format!("{column} is no text")),
        }
    }

    /// Bytes.
    pub(super) fn bytes(&self, column: &str) -> Result<&[u8], String> {
        match self.cell(column)? {
            Field::Bytes(bytes) => Ok(bytes.data()),
            _ => Err(format!("{column} are no bytes")),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, column: &str) -> Result<i64, String> {
        match self.cell(column)? {
            Field::Int(number) => Ok((*number).into()),
            Field::Long(number) => Ok(*number),
            _ => Err(format!("{column} is no number")),
        }
    }

    /// Text that says a value.
    pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<T, String> {
        self.text(column)?.parse().map_err(|error| format!("{column}: {error}"))
    }

    /// JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, String> {
        serde_json::from_str(self.text(column)?).map_err(|error| format!("{column}: {error}"))
    }
}

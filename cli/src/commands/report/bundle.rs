//! The files of a report: kept in memory until all are there, each without secrets, then written as one archive or as a directory.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::Value;

use super::redact::Redactor;

/// Files by their path in the report.
#[derive(Debug)]
pub(super) struct Bundle {
    redactor: Redactor,
    files: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    pub(super) fn new() -> Result<Self, regex::Error> {
        Ok(Self { redactor: Redactor::new()?, files: BTreeMap::new() })
    }

    /// Adds a text.
    pub(super) fn text(&mut self, path: &str, text: &str) {
        self.files.insert(path.to_owned(), self.redactor.text(text).into_bytes());
    }

    /// Adds a value as JSON.
    pub(super) fn json(&mut self, path: &str, value: Value) {
        // Each text in it by itself: what is no text (braces, numbers) must stay JSON.
        let text = format!("{:#}\n", self.redactor.value(value));
        self.files.insert(path.to_owned(), text.into_bytes());
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    /// Writes it: an archive where the name ends with .tar.gz or .tgz, else a directory that must not be there yet.
    pub(super) fn write(&self, out: &Path, now: i64) -> io::Result<()> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        match name.strip_suffix(".tar.gz").or_else(|| name.strip_suffix(".tgz")) {
            Some(folder) => self.archive(out, folder, now),
            None => self.directory(out),
        }
    }

    fn archive(&self, out: &Path, folder: &str, now: i64) -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(out)?;
        let packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        let mut archive = tar::Builder::new(packed);
        for (path, bytes) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(now / 1_000).unwrap_or(0));
            archive.append_data(&mut header, format!("{folder}/{path}"), bytes.as_slice())?;
        }
        archive.into_inner()?.finish()?.sync_all()
    }

    fn directory(&self, out: &Path) -> io::Result<()> {
        fs::create_dir(out)?;
        for (path, bytes) in &self.files {
            let path = out.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn archive_and_directory_hold_the_same_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = Bundle::new().unwrap();
        bundle.text("logs/a.log", "password=planted\nfine\n");
        bundle.json("b.json", serde_json::json!({"token": "planted", "n": 1}));
        let (archive, folder) = (dir.path().join("r.tar.gz"), dir.path().join("r"));
        bundle.write(&archive, 1_000).unwrap();
        bundle.write(&folder, 1_000).unwrap();
        let mut read = BTreeMap::new();
        let unpacked = flate2::read::GzDecoder::new(fs::File::open(&archive).unwrap());
        for entry in tar::Archive::new(unpacked).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(&path)).unwrap(), text);
            read.insert(path, text);
        }
        assert_eq!(read["r/logs/a.log"], "password=[redacted]\nfine\n");
        assert_eq!(read["r/b.json"], "{\n  \"n\": 1,\n  \"token\": \"[redacted]\"\n}\n");
        assert!(bundle.write(&archive, 0).is_err() && bundle.write(&folder, 0).is_err(), "nothing is overwritten");
    }
}

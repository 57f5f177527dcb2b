//! Where backups are, as flags: the same for the gateway, its commands and the kubectl plugin.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use depin_domain::time::Timestamp;
use url::Url;

use crate::store::{
    Store, StoreError,
    directory::DirectoryStore,
    s3::{Addressing, S3Store, Settings},
};

/// How long a store may be silent before a request is given up and tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where backups are: a directory or a bucket.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Backup")]
pub struct StoreOptions {
    /// Directory of the backup, on another disk. With a backup only what it holds counts as archived; without one, what is durable does
    #[arg(long, env = "DEPIN_BACKUP_DIR", value_name = "DIR", conflicts_with = "backup_s3")]
    pub backup_dir: Option<PathBuf>,
    /// Bucket of the backup in an S3-compatible store: https://ENDPOINT/BUCKET[/PREFIX]
    #[arg(long, env = "DEPIN_BACKUP_S3", value_name = "URL", requires = "backup_s3_credentials_dir")]
    pub backup_s3: Option<Url>,
    /// Region of the bucket, for signatures
    #[arg(long, env = "DEPIN_BACKUP_S3_REGION", value_name = "NAME", default_value = "us-east-1")]
    pub backup_s3_region: String,
    /// How the bucket is addressed: https://endpoint/bucket or https://bucket.endpoint
    #[arg(long, env = "DEPIN_BACKUP_S3_ADDRESSING", value_enum, default_value_t = Addressing::Path)]
    pub backup_s3_addressing: Addressing,
    /// Directory with the files access-key-id and secret-access-key (and session-token), read for each request: a mounted Secret
    #[arg(long, env = "DEPIN_BACKUP_S3_CREDENTIALS_DIR", value_name = "DIR")]
    pub backup_s3_credentials_dir: Option<PathBuf>,
    /// Certificates (PEM) that are trusted for the store instead of the system's
    #[arg(long, env = "DEPIN_BACKUP_S3_CA", value_name = "FILE")]
    pub backup_s3_ca: Option<PathBuf>,
}

impl StoreOptions {
    /// A directory alone.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { backup_dir: Some(path.into()), backup_s3_region: "us-east-1".into(), ..Self::default() }
    }

    /// Whether there is any.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.backup_dir.is_some() || self.backup_s3.is_some()
    }

    /// As a person calls the place.
    #[must_use]
    pub fn describe(&self) -> String {
        let directory = self.backup_dir.as_ref().map(|path| path.display().to_string());
        directory.or_else(|| self.backup_s3.as_ref().map(Url::to_string)).unwrap_or_else(|| "nowhere".to_owned())
    }

    /// The store as [`StoreOptions::open`] tells it, to read from: a directory that is not there is not made.
    ///
    /// # Errors
    /// Also where the directory is not there.
    pub fn open_existing(&self) -> Result<Option<Arc<dyn Store>>, StoreError> {
        match &self.backup_dir {
            Some(directory) if !directory.is_dir() => {
                Err(StoreError::Refused(format!("--backup-dir {} is no directory here", directory.display())))
            }
            _ => self.open(),
        }
    }

    /// The store; none: none is configured. A bucket is not asked yet; a directory is made where it is not there.
    ///
    /// # Errors
    /// Where the directory cannot be made, or the address is none.
    pub fn open(&self) -> Result<Option<Arc<dyn Store>>, StoreError> {
        if let Some(directory) = &self.backup_dir {
            return Ok(Some(Arc::new(DirectoryStore::open(directory)?)));
        }
        let Some(url) = &self.backup_s3 else { return Ok(None) };
        let Some(credentials) = &self.backup_s3_credentials_dir else {
            return Err(StoreError::Refused("--backup-s3 needs --backup-s3-credentials-dir".to_owned()));
        };
        let settings = Settings {
            url: url.clone(),
            region: self.backup_s3_region.clone(),
            addressing: self.backup_s3_addressing,
            credentials: credentials.clone(),
            ca: self.backup_s3_ca.clone(),
            patience: PATIENCE,
        };
        Ok(Some(Arc::new(S3Store::new(&settings)?)))
    }
}

/// A number with its unit of time: `15m`, `30d`.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    match total {
        Some(total @ 1..=315_360_000) => Ok(Duration::from_secs(total)),
        _ => Err("is no duration from 1s to 3650d: write a number with s, m, h or d, as in 15m".to_owned()),
    }
}

/// A moment, as in `2026-11-23T08:00:00Z`.
///
/// # Errors
/// What is wrong with it.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed
        .map(|at| Timestamp(at.as_millisecond()))
        .map_err(|_| "is no time: write it as 2026-11-23T08:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        store: StoreOptions,
    }

    #[test]
    fn durations_are_numbers_with_units_and_moments_have_a_zone() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("1h", 3_600), ("1d", 86_400), ("400d", 34_560_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0s", "5", "m", "1w", "-1s", "1.5h", "3651d", "99999999999999999999d"] {
            assert!(duration(text).unwrap_err().contains("as in 15m"), "{text}");
        }
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(Timestamp(1_000)));
        assert!(moment("yesterday").is_err() && moment("2026-11-23").is_err());
    }

    #[test]
    fn a_place_is_a_directory_or_a_bucket_and_credentials_are_files() {
        let parse = |line: &str| Flags::try_parse_from(std::iter::once("x").chain(line.split_whitespace()));
        assert!(parse("--backup-dir a --backup-s3 https://s/b --backup-s3-credentials-dir c").is_err());
        assert!(parse("--backup-s3 https://s/b").is_err(), "credentials are missing");
        assert!(!parse("").unwrap().store.is_some());
        let store = parse("--backup-s3 http://127.0.0.1:1/bucket/a/b --backup-s3-credentials-dir c").unwrap().store;
        assert_eq!(store.open().unwrap().unwrap().describe(), "http://127.0.0.1:1/bucket/a/b");
        for wrong in ["http://127.0.0.1:1", "ftp://s/b", "http://user:secret@s/b"] {
            let line = format!("--backup-s3 {wrong} --backup-s3-credentials-dir c");
            let error = parse(&line).unwrap().store.open().unwrap_err().to_string();
            assert!(error.contains("--backup-s3") && !error.contains("secret"), "{error}");
        }
    }
}

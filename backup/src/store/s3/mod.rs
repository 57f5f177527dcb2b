//! An S3-compatible object store.
//!
//! Requests are signed in their query for a quarter of an hour (Signature Version 4); the body is covered by a signed checksum header, which
//! the server compares. Credentials are read from files for each request, so that a rotated Secret is used at once; they and the signed
//! addresses appear in no message.

mod answer;
mod wire;

use std::{fmt, fs, path::PathBuf, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle, actions::ListObjectsV2};
use sha2::{Digest as _, Sha256};
use url::Url;
use zeroize::Zeroizing;

use self::wire::{Client, Response};
use super::{Answer, Listed, Store, StoreError, split};

/// For how long a signed address is good.
const VALID: Duration = Duration::from_secs(900);
/// Tries of a request, with pauses that double from the first.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);

/// How the bucket is addressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Addressing {
    /// `https://endpoint/bucket/key`
    #[default]
    Path,
    /// `https://bucket.endpoint/key`
    VirtualHost,
}

/// Where the bucket is and who asks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://ENDPOINT/BUCKET[/PREFIX]`.
    pub url: Url,
    /// Region, for the signature.
    pub region: String,
    /// How the bucket is addressed.
    pub addressing: Addressing,
    /// Holds `access-key-id`, `secret-access-key`, and `session-token` where there is one.
    pub credentials: PathBuf,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long the server may be silent.
    pub patience: Duration,
}

/// A bucket.
pub struct S3Store {
    bucket: Bucket,
    /// With its slash; empty: none.
    prefix: String,
    credentials: PathBuf,
    client: Client,
    /// As a person writes it.
    name: String,
    /// Added to the system's clock.
    skew: jiff::SignedDuration,
    pause: Duration,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Store").field(&self.name).finish()
    }
}

impl S3Store {
    /// A bucket that is reached so. Nothing is asked yet.
    ///
    /// # Errors
    /// Where the address names no bucket, or certificates cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, StoreError> {
        let refused = |why: &str| StoreError::Refused(format!("--backup-s3 {}: {why}", settings.url));
        if !settings.url.username().is_empty() || settings.url.password().is_some() || settings.url.query().is_some() {
            return Err(StoreError::Refused(
                "--backup-s3: credentials belong into files (--backup-s3-credentials-dir), not into the address".into(),
            ));
        }
        let mut segments = settings.url.path_segments().into_iter().flatten().filter(|segment| !segment.is_empty());
        let bucket =
            segments.next().ok_or_else(|| refused("names no bucket; write https://ENDPOINT/BUCKET[/PREFIX]"))?;
        let prefix: String = segments.map(|segment| format!("{segment}/")).collect();
        let mut endpoint = settings.url.clone();
        endpoint.set_path("");
        let style = match settings.addressing {
            Addressing::Path => UrlStyle::Path,
            Addressing::VirtualHost => UrlStyle::VirtualHost,
        };
        let bucket = Bucket::new(endpoint, style, bucket.to_owned(), settings.region.clone())
            .map_err(|error| refused(&format!("{error}; write https://ENDPOINT/BUCKET[/PREFIX]")))?;
        let client = Client::new(settings.url.scheme() == "https", settings.ca.as_deref(), settings.patience)?;
        Ok(Self {
            bucket,
            prefix,
            credentials: settings.credentials.clone(),
            client,
            name: settings.url.to_string(),
            skew: jiff::SignedDuration::ZERO,
            pause: PAUSE,
        })
    }

    /// With a clock that is wrong by so many seconds, for tests.
    #[must_use]
    pub fn with_skew(mut self, seconds: i64) -> Self {
        self.skew = jiff::SignedDuration::from_secs(seconds);
        self
    }

    fn credentials(&self) -> Result<Credentials, StoreError> {
        let read = |name: &str| {
            let path = self.credentials.join(name);
            let text = fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| {
                let path = path.display();
                StoreError::Refused(format!("{path}: {error}; put the store's credentials there (a mounted Secret)"))
            })?;
            Ok::<_, StoreError>(text.trim().to_owned())
        };
        let (key, secret) = (read("access-key-id")?, read("secret-access-key")?);
        Ok(if self.credentials.join("session-token").is_file() {
            Credentials::new_with_token(key, secret, read("session-token")?)
        } else {
            Credentials::new(key, secret)
        })
    }

    fn full(&self, key: &str) -> Result<String, StoreError> {
        split(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    /// Signs and sends, again where that may help. `make` is asked anew for each try, since signatures age.
    async fn send(
        &self,
        what: &str,
        method: Method,
        body: Bytes,
        make: impl Fn(&Credentials, &Timestamp) -> (Url, HeaderMap) + Send,
    ) -> Result<Response, StoreError> {
        let mut pause = self.pause;
        for left in (0..TRIES).rev() {
            let credentials = self.credentials()?;
            let now =
                Timestamp::now().saturating_add(self.skew).map_err(|error| StoreError::Refused(error.to_string()))?;
            let (url, headers) = make(&credentials, &now);
            let failure = match self.client.send(method.clone(), &url, headers, body.clone()).await {
                Ok(response) if response.status.is_success() => return Ok(response),
                Ok(response) => answer::failure(&response, now.as_second()),
                Err(error) => answer::Failure { error: StoreError::Unavailable(error), again: true },
            };
            let told = failure.error.map(|why| format!("{what} in {}: {why}", self.name));
            if !failure.again || left == 0 {
                return Err(told);
            }
            tracing::debug!(error = %told, "the backup's store is asked again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(StoreError::Unavailable(format!("{what} in {}: not tried", self.name)))
    }

    async fn page(&self, prefix: &str, next: Option<&str>) -> Result<(Vec<Listed>, Option<String>), StoreError> {
        let make = |credentials: &Credentials, now: &Timestamp| {
            let mut action = self.bucket.list_objects_v2(Some(credentials));
            action.with_prefix(prefix.to_owned());
            if let Some(next) = next {
                action.with_continuation_token(next.to_owned());
            }
            (action.sign_with_time(VALID, now), HeaderMap::new())
        };
        let response = self.send("list objects", Method::GET, Bytes::new(), make).await?;
        let unreadable = |error: String| {
            StoreError::Unavailable(format!("list objects in {}: it answers no listing ({error})", self.name))
        };
        let text = std::str::from_utf8(&response.body).map_err(|error| unreadable(error.to_string()))?;
        let parsed = ListObjectsV2::parse_response(text).map_err(|error| unreadable(error.to_string()))?;
        let listed = parsed.contents.into_iter().filter_map(|object| {
            let key = object.key.strip_prefix(&self.prefix)?.to_owned();
            Some(Listed { key, bytes: object.size.unwrap_or(0) })
        });
        Ok((listed.collect(), parsed.next_continuation_token))
    }
}

/// Headers that go into the signature, and the same for the request.
fn signed<'a>(action: &mut impl S3Action<'a>, headers: &[(&'static str, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let Ok(header) = HeaderValue::from_str(value) {
            action.headers_mut().insert(*name, value.clone());
            map.insert(HeaderName::from_static(name), header);
        }
    }
    map
}

impl Store for S3Store {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn put<'a>(&'a self, key: &'a str, body: Bytes, anew: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let full = self.full(key)?;
            let checksum = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&body));
            let make = |credentials: &Credentials, now: &Timestamp| {
                let mut action = self.bucket.put_object(Some(credentials), &full);
                let mut headers = vec![("x-amz-checksum-sha256", checksum.clone())];
                if anew {
                    headers.push(("if-none-match", "*".to_owned()));
                }
                let map = signed(&mut action, &headers);
                (action.sign_with_time(VALID, now), map)
            };
            match self.send(&format!("write {key}"), Method::PUT, body, make).await {
                Err(StoreError::Exists(_)) => Err(StoreError::Exists(key.to_owned())),
                sent => sent.map(drop),
            }
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let full = self.full(key)?;
            let make = |credentials: &Credentials, now: &Timestamp| {
                (self.bucket.get_object(Some(credentials), &full).sign_with_time(VALID, now), HeaderMap::new())
            };
            match self.send(&format!("read {key}"), Method::GET, Bytes::new(), make).await {
                Err(StoreError::NotFound(_)) => Err(StoreError::NotFound(key.to_owned())),
                sent => sent.map(|response| response.body),
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Listed>> {
        Box::pin(async move {
            let full = format!("{}{prefix}", self.prefix);
            let (mut found, mut next) = (Vec::new(), None);
            loop {
                let (page, more) = self.page(&full, next.as_deref()).await?;
                found.extend(page);
                match more {
                    Some(token) => next = Some(token),
                    None => break,
                }
            }
            found.sort();
            Ok(found)
        })
    }

    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let full = self.full(key)?;
            let make = |credentials: &Credentials, now: &Timestamp| {
                (self.bucket.delete_object(Some(credentials), &full).sign_with_time(VALID, now), HeaderMap::new())
            };
            match self.send(&format!("remove {key}"), Method::DELETE, Bytes::new(), make).await {
                Err(StoreError::NotFound(_)) => Ok(()),
                sent => sent.map(drop),
            }
        })
    }
}

//! What a server's refusal means and what to do about it.

use http::StatusCode;

use super::wire::Response;
use crate::store::StoreError;

/// Servers take no signature that is this far off.
const SKEW_S: i64 = 900;
/// A smaller difference is not worth a word.
const NOTABLE_S: i64 = 60;

/// A request that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Another try may help.
    pub(super) again: bool,
}

impl StoreError {
    /// The same with another message.
    pub(super) fn map(self, message: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Refused(why) => Self::Refused(message(why)),
            Self::Unavailable(why) => Self::Unavailable(message(why)),
            other => other,
        }
    }
}

/// What an answer without success means; `now` is the own clock in seconds.
pub(super) fn failure(response: &Response, now: i64) -> Failure {
    let code = element(&response.body, "Code");
    let said = match (code.as_deref(), element(&response.body, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => response.status.to_string(),
    };
    let refused = |remedy: &str| Failure { error: StoreError::Refused(format!("{said}; {remedy}")), again: false };
    let off = response.date.map_or(0, |date| now - date);
    match (response.status, code.as_deref()) {
        (StatusCode::PRECONDITION_FAILED, _) => Failure { error: StoreError::Exists(String::new()), again: false },
        (_, Some("NoSuchBucket")) => refused("make the bucket, or correct --backup-s3"),
        (StatusCode::NOT_FOUND, _) => Failure { error: StoreError::NotFound(String::new()), again: false },
        (StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST, _) if off.abs() > SKEW_S => {
            refused(&format!("this machine's clock is {off} s ahead of the store's: set it (NTP)"))
        }
        (_, Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken")) => {
            refused("correct the files in --backup-s3-credentials-dir")
        }
        (_, Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "AuthorizationQueryParametersError"))
        | (StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT, _) => {
            refused("correct --backup-s3-region or the endpoint")
        }
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) => {
            let clock = if off.abs() > NOTABLE_S { format!(" (clocks differ by {off} s)") } else { String::new() };
            refused(&format!("the credentials must allow to list, read, write and remove objects there{clock}"))
        }
        (status, _) if status.is_server_error() || [408, 409, 425, 429].contains(&status.as_u16()) => {
            Failure { error: StoreError::Unavailable(said), again: true }
        }
        _ => refused("is it an S3-compatible store? See --backup-s3"),
    }
}

/// Text of the first such element of an XML error.
fn element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body.get(..body.len().min(4_096))?).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inner.chars().filter(|character| !character.is_control()).take(200).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn told(status: u16, code: &str, date: i64) -> Failure {
        let body =
            Bytes::from(format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>why</Message></Error>"));
        failure(&Response { status: StatusCode::from_u16(status).unwrap(), date: Some(date), body }, 100_000)
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        for (status, code, date, remedy) in [
            (403, "SignatureDoesNotMatch", 100_000, "--backup-s3-credentials-dir"),
            (403, "AccessDenied", 90_000, "clock is 10000 s ahead"),
            (403, "AccessDenied", 99_900, "differ by 100 s"),
            (403, "AccessDenied", 100_000, "must allow"),
            (404, "NoSuchBucket", 100_000, "make the bucket"),
            (301, "PermanentRedirect", 100_000, "--backup-s3-region"),
            (405, "MethodNotAllowed", 100_000, "S3-compatible"),
        ] {
            let Failure { error, again } = told(status, code, date);
            assert!(
                matches!(&error, StoreError::Refused(why) if why.contains(remedy) && why.contains(code)),
                "{error}"
            );
            assert!(!again, "{code}");
        }
        assert!(told(503, "SlowDown", 100_000).again && told(500, "InternalError", 100_000).again);
        assert_eq!(told(404, "NoSuchKey", 100_000).error, StoreError::NotFound(String::new()));
        assert_eq!(told(412, "PreconditionFailed", 100_000).error, StoreError::Exists(String::new()));
    }
}

//! Takes secrets out of what leaves the cluster in a report. Pure; everything in a report goes through here.
//!
//! What looks like a secret is taken for one: a report may lose a harmless word, but no password. What has no look of its own (a key's hexadecimal
//! digits) is known by the name that it stands under.

use regex::Regex;
use serde_json::Value;

/// What stands in a secret's place.
pub(super) const MARK: &str = "[redacted]";
/// A part of a name that tells that its value is a secret.
const NAMES: &str =
    "password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|credential";
/// Names that only tell where a secret is, or for how long.
const HARMLESS: [&str; 10] = [
    "secretname",
    "existingsecret",
    "secret",
    "imagepullsecret",
    "secretref",
    "automountserviceaccounttoken",
    "tokenexpirationseconds",
    "jointoken",
    "imagepullsecrets",
    "secrets",
];
/// Flags of programs whose next word is a secret.
const SHORT_FLAGS: [&str; 4] = ["-P", "-p", "--pw", "--pass"];
/// Holds the object as somebody applied it, whole.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The rules.
#[derive(Debug)]
pub(super) struct Redactor {
    rules: Vec<(Regex, &'static str)>,
    name: Regex,
}

impl Redactor {
    pub(super) fn new() -> Result<Self, regex::Error> {
        let named = format!(
            r#"(?i)((?:[A-Za-z0-9_.-]*(?:{NAMES})[A-Za-z0-9_.-]*)\\?["']?\s*[:=]\s*)(\\?"(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"'{{\[\\]\S*)"#
        );
        let rules = [
            // To its end, or to the end of what there is.
            (
                r"(?s)-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
                "[redacted $1]",
            ),
            // Its beginning was cut off.
            (r"(?:[A-Za-z0-9+/=]{16,}(?:\s|\\n|\\r)+)+-----END [A-Z0-9 ]*PRIVATE KEY-----", "[redacted]"),
            (r"depin1\.[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?", "depin1.[redacted]"),
            (r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", "[redacted]"),
            (r#"://[^\s"'/:@]*:[^\s"']*@"#, "://[redacted]@"),
            (r#"://[^\s"'/@]+@"#, "://[redacted]@"),
            (r#"(?i)(authorization\\?["']?\s*[:=]\s*\\?["']?)(?:[a-z]+\s+)?[^\s"',\\]+"#, "$1[redacted]"),
            (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}", "$1 [redacted]"),
            (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "[redacted]"),
            (named.as_str(), "$1[redacted]"),
        ];
        let rules =
            rules.into_iter().map(|(rule, mark)| Ok((Regex::new(rule)?, mark))).collect::<Result<_, regex::Error>>()?;
        Ok(Self { rules, name: Regex::new(&format!("(?i)(?:{NAMES})"))? })
    }

    /// A text without what looks like a secret.
    pub(super) fn text(&self, text: &str) -> String {
        self.rules.iter().fold(text.to_owned(), |text, (rule, mark)| rule.replace_all(&text, *mark).into_owned())
    }

    /// A value without secrets: by the names that things stand under, and each text by itself.
    pub(super) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => Value::Array(self.items(items)),
            Value::Object(fields) => {
                // An environment variable tells its name beside its value.
                let named = fields.get("name").and_then(Value::as_str).is_some_and(|name| self.is_secret(name));
                let field = |(name, value): (String, Value)| match value {
                    Value::String(_) if name == APPLIED => (name, MARK.into()),
                    Value::String(text)
                        if !text.is_empty() && (self.is_secret(&name) || (named && name == "value")) =>
                    {
                        (name, MARK.into())
                    }
                    Value::Number(_) if self.is_secret(&name) => (name, MARK.into()),
                    value => (name, self.value(value)),
                };
                Value::Object(fields.into_iter().filter(|(name, _)| name != "managedFields").map(field).collect())
            }
            other => other,
        }
    }

    /// Words of a command line: what follows a flag that asks for a secret is one.
    fn items(&self, items: Vec<Value>) -> Vec<Value> {
        let mut secret = false;
        let mut redacted = Vec::with_capacity(items.len());
        for item in items {
            let asks = item.as_str().is_some_and(|word| {
                let flag = word.starts_with('-') && !word.contains('=');
                flag && (SHORT_FLAGS.contains(&word) || self.name.is_match(word)) && !word.ends_with("-file")
            });
            redacted.push(if secret && item.is_string() { MARK.into() } else { self.value(item) });
            secret = asks;
        }
        redacted
    }

    fn is_secret(&self, name: &str) -> bool {
        let plain = name.to_ascii_lowercase();
        self.name.is_match(name) && !HARMLESS.contains(&plain.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Secrets that nothing else looks like, in the places in which they are found.
    const PLANTED: [&str; 12] = [
        "depin1.00112233445566778899aabbccddeeff.aa00bb11cc22dd33ee44ff55aa00bb11cc22dd33ee44ff55aa00bb11cc22dd33",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjb3VudGVycGFydCJ9.c2lnbmF0dXJlLXBsYW50ZWQ",
        "hunter2-planted",
        "corr3ct-h0rse",
        "MIGHAgEAMBMGByqGSM49AgEGplanted",
        "QmFzZTY0TGluZVBsYW50ZWQwMDAwMDAw",
        "AKIAPLANTED123456789",
        "wJalrXUtnFEMIplanted",
        "0xfeedfacefeedfaceplanted",
        "dXNlcjpwbGFudGVk",
        "s3cr3t,with;odd&chars",
        "p@ss/w:rd-planted",
    ];

    fn clean(shown: &str) {
        for secret in PLANTED {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        for part in ["00112233445566778899", "planted", "odd&chars", "PLANTED", "h0rse", "QmFzZTY0", "dXNlcj"] {
            assert!(!shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn no_planted_secret_is_left_in_a_text() {
        let [token, jwt, password, word, key, tail, id, access, hex, basic, odd, harsh] = PLANTED;
        let log = format!(
            "{key}\n{tail}\n-----END EC PRIVATE KEY-----\n\
             time level=INFO joined with {token} and went on\n\
             Authorization: Bearer {jwt}\n\
             got \"authorization\":\"Basic {basic}\" from a peer\n\
             connect mqtts://meter:{password}@broker:8883 failed\n\
             postgres://depin:{harsh}@db:5432/ledger?sslmode=require\n\
             https://{word}@git.example/repo\n\
             password={password} passwd: '{word}' DB_PASSWORD=\"{odd}\" api-key={access}\n\
             {{\"clientSecret\":\"{word}\",\"inner\":\"{{\\\"password\\\":\\\"{password}\\\"}}\"}}\n\
             aws_access_key_id = {id} signing_key={hex}\n\
             -----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n\
             again: -----BEGIN EC PRIVATE KEY-----\\n{key}\\n{tail}\\n-----END EC PRIVATE KEY-----\\n\n\
             cut off: -----BEGIN PRIVATE KEY-----\n{key}\n{tail}"
        );
        let shown = Redactor::new().unwrap().text(&log);
        clean(&shown);
        for kept in [
            "joined with depin1.",
            "and went on",
            "@broker:8883 failed",
            "@db:5432/ledger?sslmode=require",
            "@git.example/repo",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn no_planted_secret_is_left_in_an_object() {
        let [token, jwt, password, word, key, _, id, access, hex, basic, odd, harsh] = PLANTED;
        let object = json!({
            "metadata": {
                "name": "depin-gateway",
                "annotations": {
                    APPLIED: format!("{{\"data\":\"{word}\"}}"), "example/token": word, "note": format!("use {token}"),
                    "config": format!("broker:\n  password: {odd}\n  url: mqtt://a:{password}@b\n"),
                },
                "managedFields": [{"manager": word}],
            },
            "spec": {"containers": [{
                "args": ["--listen=:1", "--password", password, "-P", word, "--api-key", access, format!("--token={word}"), "--join-token-file", "/run/token", format!("--url=postgres://x:{harsh}@h/d")],
                "env": [
                    {"name": "DB_PASSWORD", "value": odd}, {"name": "AWS_SECRET_ACCESS_KEY", "value": access}, {"name": "ID", "value": id},
                    {"name": "SIGNING_KEY", "value": hex}, {"name": "HEADER", "value": format!("Basic {basic}")},
                    {"name": "PEM", "value": format!("-----BEGIN RSA PRIVATE KEY-----\n{key}\n-----END RSA PRIVATE KEY-----")},
                    {"name": "PLAIN", "value": "stays"},
                    {"name": "FROM", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
                ],
                "secretName": "depin-gateway-tls",
            }]},
            "status": {"message": format!("refused: {jwt}"), "pin": {"apiKey": 424_242}},
        });
        let shown = Redactor::new().unwrap().value(object);
        clean(&shown.to_string());
        assert_eq!(shown["status"]["pin"]["apiKey"], MARK);
        let container = &shown["spec"]["containers"][0];
        assert_eq!((&container["args"][0], &container["args"][9]), (&"--listen=:1".into(), &"/run/token".into()));
        assert_eq!(
            (&container["env"][6]["value"], &container["secretName"]),
            (&"stays".into(), &"depin-gateway-tls".into())
        );
        assert_eq!(container["env"][7]["valueFrom"]["secretKeyRef"]["name"], "db", "where it is may be told");
        assert_eq!(shown["metadata"]["managedFields"], Value::Null);
    }

    #[test]
    fn what_is_no_secret_stays() {
        let redactor = Redactor::new().unwrap();
        for text in [
            "agent energy/home lost; last heard 2026-11-23T14:00:00Z",
            "root 0x1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef",
            "listening on https://0.0.0.0:8443 and http://[::1]:9100/metrics",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(redactor.text(text), text);
        }
    }
}

//! Canonical JSON: one text for one value, so that a digest of it names the value.
//!
//! Keys sorted by code point, no white space, integers only, minimal escapes. A value that holds a floating-point
//! number has no canonical form: that is an error of the caller's type, told as such.

use serde::Serialize;
use serde_json::Value;

use crate::ids::Digest;

/// The value cannot be written canonically.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// The type does not serialize to JSON (map keys that are not strings, …).
    #[error("not representable as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A floating-point number stands at this path.
    #[error("{path}: {number} is not an integer")]
    Float {
        /// Where it stands, `/`-separated.
        path: String,
        /// The number.
        number: String,
    },
}

/// The canonical bytes of `value`.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::new();
    write(&serde_json::to_value(value)?, &mut String::new(), &mut out)?;
    Ok(out)
}

/// SHA-256 of the canonical bytes of `value`.
pub fn digest<T: Serialize>(value: &T) -> Result<Digest, CanonicalError> {
    Ok(Digest::of(&to_vec(value)?))
}

fn write(value: &Value, path: &mut String, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(flag) => out.extend(if *flag { &b"true"[..] } else { b"false" }),
        Value::Number(number) if number.is_f64() => {
            return Err(CanonicalError::Float { path: path.clone(), number: number.to_string() });
        }
        Value::Number(number) => out.extend(number.to_string().bytes()),
        Value::String(text) => serde_json::to_writer(&mut *out, text)?,
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                descend(&index.to_string(), item, path, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            // Sorted here: whether serde_json's map is sorted depends on features that any dependency may turn on.
            let mut keys: Vec<_> = members.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            out.push(b'{');
            for (index, (key, item)) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                descend(key, item, path, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn descend(step: &str, value: &Value, path: &mut String, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    write(value, path, out)?;
    path.truncate(length);
    Ok(())
}

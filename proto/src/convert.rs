//! Protobuf messages to and from the domain's types. From the wire everything is checked; errors name the field.

use depin_domain::{
    ids::{AgentId, DeviceId, Digest, KeyId},
    proofs::{ChainHead, Reason, Rejection, Verdict},
};

use crate::{
    envelope::{MAX_DETAIL, Path},
    v1,
};

/// A message's field does not have the form that the `.proto` file says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl FieldError {
    /// `problem` in `field`.
    #[must_use]
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

macro_rules! id_from_bytes {
    ($(#[$doc:meta])* $name:ident, $type:ty, $size:literal) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// Where the field has not exactly as many bytes as the identifier.
        pub fn $name(field: &'static str, bytes: &[u8]) -> Result<$type, FieldError> {
            <$type>::from_slice(bytes)
                .ok_or_else(|| FieldError::new(field, format!("has {} bytes instead of {}", bytes.len(), $size)))
        }
    };
}

id_from_bytes!(
    /// A device's id from the bytes of `field`.
    device_id, DeviceId, 16
);
id_from_bytes!(
    /// An agent's id from the bytes of `field`.
    agent_id, AgentId, 16
);
id_from_bytes!(
    /// A key's id from the bytes of `field`.
    key_id, KeyId, 32
);
id_from_bytes!(
    /// A digest from the bytes of `field`.
    digest, Digest, 32
);

/// The bytes of an identifier for a message.
#[must_use]
pub fn id_bytes(id: impl AsRef<[u8]>) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_ref())
}

/// A verdict as the message has it.
#[must_use]
pub fn verdict_to_proto(verdict: &Verdict) -> v1::Verdict {
    v1::Verdict { accepted: verdict.accepted, rejections: verdict.rejections.iter().map(rejection_to_proto).collect() }
}

fn rejection_to_proto(rejection: &Rejection) -> v1::Rejection {
    v1::Rejection {
        section: rejection.section,
        series: rejection.series,
        readings: rejection.readings.clone(),
        reason: rejection.reason.code().into(),
        detail: rejection.detail.clone(),
    }
}

/// The verdict that a message has.
///
/// # Errors
/// Where a reason is unknown (an older reader), a detail too long, or the indexes do not ascend.
pub fn verdict_from_proto(verdict: &v1::Verdict) -> Result<Verdict, FieldError> {
    let rejections = verdict.rejections.iter().map(rejection_from_proto).collect::<Result<_, _>>()?;
    Ok(Verdict { accepted: verdict.accepted, rejections })
}

fn rejection_from_proto(rejection: &v1::Rejection) -> Result<Rejection, FieldError> {
    if rejection.detail.len() > MAX_DETAIL {
        return Err(FieldError::new("rejection.detail", format!("is longer than {MAX_DETAIL} bytes")));
    }
    if !rejection.readings.is_sorted_by(|left, right| left < right) {
        return Err(FieldError::new("rejection.readings", "must be strictly ascending"));
    }
    Ok(Rejection {
        section: rejection.section,
        series: rejection.series,
        readings: rejection.readings.clone(),
        reason: reason("rejection.reason", rejection.reason)?,
        detail: rejection.detail.clone(),
    })
}

/// The reason with the code of `field`.
///
/// # Errors
/// Where no reason has this code: the sender is newer.
pub fn reason(field: &'static str, code: u32) -> Result<Reason, FieldError> {
    u16::try_from(code)
        .ok()
        .and_then(Reason::from_code)
        .ok_or_else(|| FieldError::new(field, format!("code {code} is unknown; update this program")))
}

/// A chain's head as the message has it; `archived_sequence` tells up to where a backup holds the chain.
#[must_use]
pub fn head_to_proto(key: KeyId, head: &ChainHead, archived_sequence: u64) -> v1::ChainHead {
    v1::ChainHead {
        key_id: id_bytes(key),
        incarnation: head.incarnation,
        sequence: head.sequence,
        digest: if head.sequence == 0 { bytes::Bytes::new() } else { id_bytes(head.digest) },
        archived_sequence,
    }
}

/// The chain and head that a message has.
///
/// # Errors
/// Where key id or digest have not their length.
pub fn head_from_proto(head: &v1::ChainHead) -> Result<(KeyId, ChainHead), FieldError> {
    let known = if head.sequence == 0 { Digest::default() } else { digest("head.digest", &head.digest)? };
    let key = key_id("head.key_id", &head.key_id)?;
    Ok((key, ChainHead { incarnation: head.incarnation, sequence: head.sequence, digest: known }))
}

/// A section's path as the message has it.
#[must_use]
pub fn path_to_proto(path: &Path) -> v1::SectionPath {
    v1::SectionPath {
        section: path.index,
        sections: path.count,
        siblings: path.siblings.iter().map(id_bytes).collect(),
    }
}

/// The section's path that a message has.
///
/// # Errors
/// Where a sibling is no digest.
pub fn path_from_proto(path: &v1::SectionPath) -> Result<Path, FieldError> {
    let siblings = path.siblings.iter().map(|bytes| digest("path.siblings", bytes)).collect::<Result<_, _>>()?;
    Ok(Path { index: path.section, count: path.sections, siblings })
}

//! What can be wrong with envelope bytes.

/// A field of the envelope is not as docs/envelope.md says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct EnvelopeError {
    /// Which field, `part.field`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes end within it.
    #[error("the bytes end here")]
    Truncated,
    /// Bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    /// Not the magic number of this part and format version.
    #[error("not the magic number of this format version; update the sender or the receiver")]
    WrongMagic,
    /// A code without a meaning.
    #[error("code {0} has no meaning")]
    UnknownCode(u64),
    /// More than the format allows.
    #[error("{value} is more than {limit}")]
    OverLimit {
        /// What was found.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Less than the format asks for.
    #[error("must be at least {0}")]
    BelowMinimum(u64),
    /// A varint with needless bytes.
    #[error("the varint is longer than needed")]
    NotMinimal,
    /// A varint or time beyond 64 bits.
    #[error("does not fit 64 bits")]
    Overflow,
    /// Not `[a-zA-Z][a-zA-Z0-9_]{0,63}`.
    #[error("is not a name of the form [a-zA-Z][a-zA-Z0-9_]{{0,63}}")]
    InvalidName,
    /// Entries are not strictly ascending.
    #[error("must be strictly ascending")]
    NotAscending,
    /// Not text in UTF-8.
    #[error("is not text in UTF-8")]
    NotText,
    /// Contradicts another field.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Problem {
    /// This problem in `field`.
    pub(super) fn at(self, field: &'static str) -> EnvelopeError {
        EnvelopeError { field, problem: self }
    }
}

/// Takes `value` if it is at most `limit`.
pub(super) fn at_most(value: usize, limit: usize, field: &'static str) -> Result<usize, EnvelopeError> {
    if value > limit {
        return Err(Problem::OverLimit { value: value as u64, limit: limit as u64 }.at(field));
    }
    Ok(value)
}

/// Takes `value` if it is at least `minimum`.
pub(super) fn at_least(value: u64, minimum: u64, field: &'static str) -> Result<u64, EnvelopeError> {
    if value < minimum {
        return Err(Problem::BelowMinimum(minimum).at(field));
    }
    Ok(value)
}

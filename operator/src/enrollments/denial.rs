//! Why somebody is not let in, or not any longer.

/// An answer of no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// CamelCase.
    pub reason: &'static str,
    /// For the agent's log: what to do.
    pub message: String,
}

pub(super) fn deny(reason: &'static str, message: impl Into<String>) -> Denial {
    Denial { reason, message: message.into() }
}

//! What is wrong with a resource, told so that its author can mend it.

use depin_domain::registry::ChangeError;

/// A field of a resource cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}; {remedy}")]
pub struct Invalid {
    /// Path of the field in the resource.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Invalid {
    /// A field, what is wrong with it, and what to do.
    pub fn new(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), remedy: remedy.into() }
    }
}

/// Why a resource is not (or not yet) in the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Only its author can mend it.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The registry refuses it.
    #[error("{0}")]
    Refused(ChangeError),
    /// It refers to something that is not there, or not ready, yet.
    #[error("waits for {target}; apply it or correct {field}")]
    Waiting {
        /// The field that refers to it.
        field: String,
        /// What is waited for.
        target: String,
    },
}

impl NotReady {
    /// CamelCase reason for the condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Refused(ChangeError::DuplicateKey { .. }) => "DuplicateKey",
            Self::Refused(ChangeError::DuplicateSerial { .. }) => "DuplicateSerial",
            Self::Refused(ChangeError::Immutable { .. }) => "Immutable",
            Self::Refused(_) => "Refused",
            Self::Waiting { .. } => "Waiting",
        }
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }
}

impl From<ChangeError> for NotReady {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Missing { field, target } => Self::Waiting { field: format!("spec.{field}"), target },
            other => Self::Refused(other),
        }
    }
}

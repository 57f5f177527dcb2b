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
    /// The ledger refuses it.
    #[error("the ledger refuses it: {0}; correct the object, or run operator and gateway in the same version")]
    RefusedByLedger(String),
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
            Self::Refused(ChangeError::KeyRevoked { .. }) => "KeyRevoked",
            Self::Refused(ChangeError::DuplicateSerial { .. }) => "DuplicateSerial",
            Self::Refused(ChangeError::Immutable { .. }) => "Immutable",
            Self::Refused(_) | Self::RefusedByLedger(_) => "Refused",
            Self::Waiting { .. } => "Waiting",
        }
    }

    /// The field that it speaks of, where it speaks of one.
    pub fn field_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Invalid(invalid) => Some(&mut invalid.field),
            Self::Waiting { field, .. } => Some(field),
            Self::Refused(
                ChangeError::Invalid { field, .. }
                | ChangeError::DuplicateKey { field, .. }
                | ChangeError::KeyRevoked { field, .. }
                | ChangeError::DuplicateSerial { field, .. }
                | ChangeError::Immutable { field, .. }
                | ChangeError::Missing { field, .. },
            ) => Some(field),
            Self::RefusedByLedger(_) => None,
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
        let mut told = match error {
            ChangeError::Missing { field, target } => Self::Waiting { field, target },
            refused => Self::Refused(refused),
        };
        if let Some(field) = told.field_mut() {
            *field = in_resource(field);
        }
        told
    }
}

/// The registry's name of a field, as the resource's author knows it.
fn in_resource(field: &str) -> String {
    let mut parts = field.split('/');
    let first = match parts.next().unwrap_or_default() {
        "cadenceMs" => "cadence",
        "reorderHorizonMs" => "reorderHorizon",
        "grainMs" => "grain",
        "model" => "modelRef.name",
        "key" => "publicKey",
        other => other,
    };
    parts.fold(format!("spec.{first}"), |path, part| {
        let place = part.bytes().all(|byte| byte.is_ascii_digit());
        if place { format!("{path}[{part}]") } else { format!("{path}.{part}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_in_the_resource() {
        for (registry, resource) in [
            ("cadenceMs", "spec.cadence"),
            ("metrics/power/min", "spec.metrics.power.min"),
            ("sources/0/fields/12/unit", "spec.sources[0].fields[12].unit"),
            ("key", "spec.publicKey"),
        ] {
            assert_eq!(in_resource(registry), resource);
        }
    }

    #[test]
    fn a_serial_that_another_device_has_is_named_as_in_the_resource() {
        let (field, serial, holder) = ("serial".into(), "m1".into(), "device town/other".into());
        let error = NotReady::from(ChangeError::DuplicateSerial { field, serial, holder });
        assert_eq!(error.reason(), "DuplicateSerial");
        assert!(error.to_string().starts_with("spec.serial: \"m1\" is device town/other"), "{error}");
    }

    #[test]
    fn what_is_missing_is_waited_for() {
        let error = ChangeError::Missing { field: "fleet".into(), target: "EdgeFleet town/homes".into() };
        let error = NotReady::from(error);
        assert!(error.is_waiting());
        assert_eq!(error.to_string(), "waits for EdgeFleet town/homes; apply it or correct spec.fleet");
    }
}

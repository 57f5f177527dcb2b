//! All CustomResourceDefinitions as YAML text, in the order in which they are applied.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

use crate::{EdgeAgent, EdgeDevice, EdgeDeviceModel, EdgeEnrollment, EdgeFleet, RewardEpoch, RewardProgram};

/// The largest definition that is let through, in bytes of YAML: far below what etcd and last-applied annotations hold.
pub const MAX_BYTES: usize = 200 * 1024;

/// A definition cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The definition has no YAML form.
    #[error("{name}: {source}")]
    Write {
        /// The definition.
        name: String,
        /// Why.
        source: serde_saphyr::ser_error::Error,
    },
    /// The definition is too large.
    #[error("{name}: {bytes} bytes are more than {MAX_BYTES}; shorten descriptions or split the kind")]
    TooLarge {
        /// The definition.
        name: String,
        /// Its size.
        bytes: usize,
    },
}

/// All definitions.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let definitions = [
        EdgeDeviceModel::crd(),
        EdgeFleet::crd(),
        EdgeAgent::crd(),
        EdgeDevice::crd(),
        EdgeEnrollment::crd(),
        RewardProgram::crd(),
        RewardEpoch::crd(),
    ];
    definitions.into_iter().map(pending).collect()
}

/// Gives an object its first status: until the operator has looked at it, it is not ready, and tools that wait for objects (kstatus) see
/// that from its first moment on. The time is a placeholder that the operator replaces.
fn pending(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    let status = json!({"conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "Pending", "message": "no operator has looked at it yet",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]});
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(property) = properties.and_then(|properties| properties.get_mut("status")) {
            property.default = Some(JSON(status.clone()));
        }
    }
    definition
}

/// File name and text of each definition, as they are committed in `crds/yaml/`.
pub fn all() -> Result<Vec<(String, String)>, YamlError> {
    definitions().into_iter().map(|definition| text(&definition)).collect()
}

fn text(definition: &CustomResourceDefinition) -> Result<(String, String), YamlError> {
    let name = format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural);
    let text = serde_saphyr::to_string(definition).map_err(|source| YamlError::Write { name: name.clone(), source })?;
    if text.len() > MAX_BYTES {
        return Err(YamlError::TooLarge { name, bytes: text.len() });
    }
    Ok((name, text))
}

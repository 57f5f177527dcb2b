//! Custom resources of `depin.dev/v1alpha1`: types, schemas and rules. No client code, no conversions.
//!
//! One kind a file. What the API server can refuse, it refuses here: bounds in the schema, cross-field and transition rules in
//! CEL. What only a look at other objects can tell is left to the operator, which says it in the condition `Ready`.
//! No schema holds a floating-point number; amounts, limits and coordinates are decimal text.

#![allow(clippy::duplicated_attributes, reason = "each printer column names its fields anew")]
#![allow(
    unreachable_pub,
    reason = "the KubeSchema derive repeats each type inside a function, where `pub` reaches nobody"
)]

pub mod device;
pub mod enrollment;
pub mod epoch;
pub mod fleet;
pub mod key;
pub mod model;
pub mod ownership;
pub mod place;
pub mod program;
pub mod yaml;

mod agent;

pub use agent::{EdgeAgent, EdgeAgentSpec, EdgeAgentStatus};
pub use device::{EdgeDevice, EdgeDeviceSpec, EdgeDeviceStatus};
pub use enrollment::{EdgeEnrollment, EdgeEnrollmentSpec, EdgeEnrollmentStatus};
pub use epoch::{RewardEpoch, RewardEpochSpec, RewardEpochStatus};
pub use fleet::{EdgeFleet, EdgeFleetSpec, EdgeFleetStatus};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
pub use key::PublicKey;
pub use model::{EdgeDeviceModel, EdgeDeviceModelSpec, EdgeDeviceModelStatus};
pub use ownership::Share;
pub use place::{Geofence, Location};
pub use program::{RewardProgram, RewardProgramSpec, RewardProgramStatus};

/// API group of all kinds.
pub const GROUP: &str = "depin.dev";
/// API version of all kinds.
pub const VERSION: &str = "v1alpha1";

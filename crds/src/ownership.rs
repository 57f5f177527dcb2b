//! Who is paid for a device.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A part of a device's reward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// EVM address: 0x and 40 hexadecimal digits.
    #[schemars(length(max = 42), regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub account: String,
    /// Part in 1/10,000; all shares of a device sum to 10,000.
    #[schemars(range(min = 1, max = 10000))]
    pub basis_points: i32,
}

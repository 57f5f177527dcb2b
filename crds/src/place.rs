//! Places: decimal text here, integers from registration on.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where a device stands (WGS 84).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Degrees north, decimal text with at most 7 decimals: "52.5200066".
    #[schemars(length(max = 12), regex(pattern = r"^-?([0-8]?[0-9](\.[0-9]{1,7})?|90(\.0{1,7})?)$"))]
    pub latitude: String,
    /// Degrees east, decimal text with at most 7 decimals: "13.4049540".
    #[schemars(length(max = 12), regex(pattern = r"^-?((1[0-7][0-9]|[0-9]?[0-9])(\.[0-9]{1,7})?|180(\.0{1,7})?)$"))]
    pub longitude: String,
}

/// Where devices of a fleet may stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Geofence {
    /// H3 cells of any resolution, in hexadecimal; a device's place must lie in one of them.
    #[schemars(length(min = 1, max = 256), inner(length(min = 15, max = 15), regex(pattern = r"^8[0-9a-f]{14}$")))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub cells: Vec<String>,
}

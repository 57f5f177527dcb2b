//! Objects as users write them, and statistics as the ledger tells them.

use depin_domain::ids::DeviceId;
use depin_identity::{JoinToken, SigningKey};
use depin_proto::v1::GrainStatistic;

pub(crate) const MODEL: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeDeviceModel
metadata: {name: meter}
spec:
  sources:
  - topic: meters/+/up
    codec: Json
    device: {topicSegment: 1}
    fields: [{path: kwh, metric: energy}]
  metrics: [{name: energy, unit: kWh, kind: Counter, scale: 3}]
  cadence: 1s
";

pub(crate) const FLEET: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeFleet
metadata: {name: homes, namespace: town}
spec:
  modelRef: {name: meter}
  grain: 1s
  enrollment: {policy: Token}
  owner: '0x00000000000000000000000000000000000000a1'
";

pub(crate) fn enrollment(token: &JoinToken) -> String {
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeEnrollment\nmetadata: {{name: invitation, namespace: town}}\nspec:\n  token:\n    \
         sha256: {}\n    expiresAt: 2099-01-01T00:00:00Z\n    fleets: [homes]\n",
        token.hash()
    )
}

pub(crate) fn agent(name: &str, seed: u8) -> String {
    let key = hex::encode(&SigningKey::from_seed(&[seed; 32]).public().bytes);
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeAgent\nmetadata: {{name: {name}, namespace: town}}\nspec: {{fleets: [homes], \
         publicKey: {{algorithm: Ed25519, key: {key}}}}}\n"
    )
}

pub(crate) const PROGRAM: &str = "
apiVersion: depin.dev/v1alpha1
kind: RewardProgram
metadata: {name: watts, namespace: town}
spec:
  fleets: [homes]
  token: {symbol: WATT, decimals: 6}
  epoch: {length: 2s, genesis: '2026-01-01T00:00:00Z'}
  grace: 0s
  emission: {fixed: {amount: '1000'}}
  features: [{name: energy, metric: energy, aggregate: Delta}]
  weight: energy
  late: {basisPoints: 0, until: 0s}
";

pub(crate) fn device(name: &str, agent: &str, more: &str) -> String {
    format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeDevice\nmetadata: {{name: {name}, namespace: town}}\nspec: {{fleet: homes, agent: \
         {agent}, serial: {name}{more}}}\n"
    )
}

/// A statistic of one grain.
pub(crate) fn grain(device: &str, start: i64, increase: i64) -> GrainStatistic {
    GrainStatistic {
        device_id: DeviceId::of("town", device).0.to_vec().into(),
        metric: "energy".into(),
        grain_start: start,
        grain_ms: 1000,
        count: 1,
        sum: increase.to_string(),
        first_at: start,
        last_at: start,
        increase: increase.to_string(),
        reset_increase: "0".into(),
        slots: vec![1].into(),
        cadence_ms: 1000,
        ..GrainStatistic::default()
    }
}

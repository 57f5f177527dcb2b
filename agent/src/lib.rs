//! The edge agent: takes telemetry from MQTT, keeps it durably, and submits it to the gateway as signed proofs.
//!
//! The way of a message: `source` or `listener` → [`codec`] → `spool` → `sealer` → `uplink`. Nothing is acknowledged to the hardware or
//! the broker before it is on disk, and nothing is forgotten before the gateway's receipt.

pub mod codec;

//! Virtual hardware that speaks real MQTT: meters, PV inverters, weather stations, and recordings played back.
//!
//! What a device measures is a pure function of (seed, device, time), so that a run can be repeated and checked. The report
//! counts what was acknowledged, because only that is promised not to be lost.

pub mod chance;
pub mod connection;
pub mod decimal;
pub mod faults;
pub mod hardware;
pub mod mqtt;
pub mod options;
pub mod plan;
pub mod record;
pub mod replay;
pub mod report;
pub mod run;

pub use options::Options;
pub use run::run;

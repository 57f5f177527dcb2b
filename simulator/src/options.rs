//! The simulator's flags.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use depin_telemetry::TelemetryOptions;

use crate::{faults::Faults, hardware::Kind};

/// Virtual hardware that speaks real MQTT
#[derive(Clone, Debug, Parser)]
#[command(name = "depin-sim", version)]
pub struct Options {
    /// What to simulate
    #[arg(long, env = "DEPIN_NETWORK", value_enum)]
    pub network: Network,
    /// HOST:PORT of a broker or of an agent's own listener
    #[arg(long, env = "DEPIN_MQTT", default_value = "127.0.0.1:1883", value_name = "ADDR")]
    pub mqtt: String,
    /// How many devices
    #[arg(long, env = "DEPIN_DEVICES", default_value_t = 10)]
    pub devices: u64,
    /// Number of the first device
    #[arg(long, default_value_t = 1)]
    pub first: u64,
    /// What serial numbers begin with; default: meter-, pv- or ws-
    #[arg(long)]
    pub prefix: Option<String>,
    /// Where all chance comes from
    #[arg(long, env = "DEPIN_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds between a device's messages
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(i64).range(1..))]
    pub cadence: i64,
    /// How much faster the simulated world, or a recording, runs than the clock
    #[arg(long, env = "DEPIN_SPEED", default_value_t = 1.0)]
    pub speed: f64,
    /// Hour of the simulated day at the start, 0 to 23; default: the clock's, in UTC
    #[arg(long, value_name = "HOUR", value_parser = clap::value_parser!(i64).range(0..24))]
    pub world_hour: Option<i64>,
    /// Messages of each device, then end; default: until stopped
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Publish as fast as acknowledgements allow; timestamps then end now
    #[arg(long)]
    pub unpaced: bool,
    /// Connections that the devices share
    #[arg(long, default_value_t = 4)]
    pub connections: u64,
    /// Publishes on one connection that may wait for their acknowledgement
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub window: usize,
    /// Folder of recordings, for --network replay
    #[arg(long, value_name = "DIR")]
    pub replay: Option<PathBuf>,
    /// Mapping of the recordings; default: DIR/mapping.yaml
    #[arg(long, value_name = "FILE")]
    pub mapping: Option<PathBuf>,
    /// Only recordings of this fleet (NAMESPACE/NAME, as the mapping names it); repeat it for several
    #[arg(long, value_name = "FLEET")]
    pub fleet: Vec<String>,
    /// Let payloads of recordings carry the recorded time instead of the time of publishing
    #[arg(long)]
    pub recorded_time: bool,
    /// Print what the recordings hold as JSON (devices by fleet, messages, readings, time) and end
    #[arg(long)]
    pub describe: bool,
    /// Append each acknowledged message that should count, one JSON line each
    #[arg(long, value_name = "FILE")]
    pub acknowledged: Option<PathBuf>,
    /// Write what was published and acknowledged as JSON, every two seconds and at the end
    #[arg(long, env = "DEPIN_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Seconds to wait at the end for outstanding acknowledgements
    #[arg(long, default_value_t = 30, value_name = "S")]
    pub drain: u64,
    /// Faults
    #[command(flatten)]
    pub faults: Faults,
    /// Telemetry
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Smart meters
    Meters,
    /// PV inverters
    Pv,
    /// Weather stations
    Weather,
    /// Recordings
    Replay,
}

impl Network {
    /// The modelled kind and its usual serial prefix; none for recordings.
    #[must_use]
    pub fn kind(self) -> Option<(Kind, &'static str)> {
        match self {
            Self::Meters => Some((Kind::Meters, "meter-")),
            Self::Pv => Some((Kind::Pv, "pv-")),
            Self::Weather => Some((Kind::Weather, "ws-")),
            Self::Replay => None,
        }
    }
}

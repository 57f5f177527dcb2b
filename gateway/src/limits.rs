//! How much of everything the gateway takes.

use std::time::Duration;

use clap::Args;
use depin_proto::v1;

use depin_backup::duration;

/// Limits on what comes from outside. Beyond each the sender is told; nothing is queued without bound.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Bytes of one proof: header, signature and sections together
    #[arg(long, env = "DEPIN_MAX_PROOF_BYTES", default_value_t = 1 << 20, value_name = "BYTES")]
    pub max_proof_bytes: usize,
    /// Sections (devices) of one proof
    #[arg(long, env = "DEPIN_MAX_SECTIONS", default_value_t = 4_096, value_name = "N")]
    pub max_sections: u32,
    /// Readings of one proof
    #[arg(long, env = "DEPIN_MAX_READINGS", default_value_t = 65_536, value_name = "N")]
    pub max_readings: u32,
    /// Bytes of one gRPC message; at least the bytes of one proof
    #[arg(long, env = "DEPIN_MAX_MESSAGE_BYTES", default_value_t = 4 << 20, value_name = "BYTES")]
    pub max_message_bytes: usize,
    /// Proofs of one message
    #[arg(long, env = "DEPIN_MAX_BATCH_PROOFS", default_value_t = 1_024, value_name = "N")]
    pub max_batch_proofs: usize,
    /// Proofs of one stream that may be unanswered
    #[arg(long, env = "DEPIN_WINDOW_PROOFS", default_value_t = 1_024, value_name = "N")]
    pub window_proofs: u32,
    /// Bytes of one stream that may be unanswered
    #[arg(long, env = "DEPIN_WINDOW_BYTES", default_value_t = 8 << 20, value_name = "BYTES")]
    pub window_bytes: u64,
    /// Bytes of all streams that may be unanswered: more is deferred as overload
    #[arg(long, env = "DEPIN_MAX_UNANSWERED_BYTES", default_value_t = 256 << 20, value_name = "BYTES")]
    pub max_unanswered_bytes: usize,
    /// Proofs a second of one agent, with a burst of four seconds
    #[arg(long, env = "DEPIN_AGENT_PROOFS_PER_SECOND", default_value_t = 5_000, value_name = "N")]
    pub agent_proofs_per_second: u64,
    /// Streams of proofs of one agent
    #[arg(long, env = "DEPIN_AGENT_STREAMS", default_value_t = 4, value_name = "N")]
    pub agent_streams: usize,
    /// Streams of proofs of all agents
    #[arg(long, env = "DEPIN_STREAMS", default_value_t = 10_000, value_name = "N")]
    pub streams: usize,
    /// Connections with a certificate, to each of the two ports
    #[arg(long, env = "DEPIN_CONNECTIONS", default_value_t = 20_000, value_name = "N")]
    pub connections: usize,
    /// Connections of one agent; a newer one displaces the oldest
    #[arg(long, env = "DEPIN_AGENT_CONNECTIONS", default_value_t = 16, value_name = "N")]
    pub agent_connections: usize,
    /// Connections without a certificate (to enroll), to each of the two ports; a newer one displaces the oldest
    #[arg(long, env = "DEPIN_STRANGER_CONNECTIONS", default_value_t = 1_000, value_name = "N")]
    pub stranger_connections: usize,
    /// TLS handshakes at a time at each of the two ports, ten times as many in the queue, and connections that have said nothing yet: of
    /// those a newer one displaces the oldest
    #[arg(long, env = "DEPIN_HANDSHAKES", default_value_t = 1_000, value_name = "N")]
    pub handshakes: usize,
    /// How old an agent's connection becomes, a tenth more or less: its streams then end in order, and the agent begins another, perhaps
    /// with another gateway. A number with s, m, h or d; 0: any age
    #[arg(long, env = "DEPIN_MAX_CONNECTION_AGE", default_value = "1h", value_name = "DURATION", value_parser = zero_or_duration)]
    pub max_connection_age: Duration,
    /// Between two pings on each connection, which find it dead and keep the tables of NATs warm; a dead one is noticed ten seconds later
    #[arg(long, env = "DEPIN_KEEP_ALIVE", default_value = "20s", value_name = "DURATION", value_parser = duration)]
    pub keep_alive: Duration,
    /// Enrollment requests a second of all strangers together, with a burst of ten seconds; as many renewals of all agents beside them
    #[arg(long, env = "DEPIN_ENROLLMENTS_PER_SECOND", default_value_t = 50, value_name = "N")]
    pub enrollments_per_second: u64,
    /// Sightings that one agent may report in a minute
    #[arg(long, env = "DEPIN_AGENT_SIGHTINGS_PER_MINUTE", default_value_t = 600, value_name = "N")]
    pub agent_sightings_per_minute: u64,
    /// How far an agent's clock may be from the gateway's before it must stop sealing, in milliseconds
    #[arg(long, env = "DEPIN_MAX_CLOCK_SKEW_MS", default_value_t = 60_000, value_name = "MS")]
    pub max_clock_skew_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_proof_bytes: 1 << 20,
            max_sections: 4_096,
            max_readings: 65_536,
            max_message_bytes: 4 << 20,
            max_batch_proofs: 1_024,
            window_proofs: 1_024,
            window_bytes: 8 << 20,
            max_unanswered_bytes: 256 << 20,
            agent_proofs_per_second: 5_000,
            agent_streams: 4,
            streams: 10_000,
            connections: 20_000,
            agent_connections: 16,
            stranger_connections: 1_000,
            handshakes: 1_000,
            max_connection_age: Duration::from_secs(3_600),
            keep_alive: Duration::from_secs(20),
            enrollments_per_second: 50,
            agent_sightings_per_minute: 600,
            max_clock_skew_ms: 60_000,
        }
    }
}

fn zero_or_duration(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text).map_err(|error| format!("{error}; 0: any age")) }
}

impl Limits {
    /// What an agent is told.
    #[must_use]
    pub fn for_agents(&self) -> v1::AgentLimits {
        v1::AgentLimits {
            max_proof_bytes: u32::try_from(self.max_proof_bytes).unwrap_or(u32::MAX),
            max_sections: self.max_sections,
            max_readings: self.max_readings,
            max_clock_skew_ms: self.max_clock_skew_ms,
        }
    }

    /// How much may be unanswered on one stream while so many bytes of all streams' room are free: less as soon as half of it is taken, so that
    /// agents slow down before they are deferred, but always one proof.
    #[must_use]
    pub fn window(&self, free: usize) -> v1::Window {
        let half = self.max_unanswered_bytes / 2;
        let halvings = (0..3).find(|halvings| free >= half >> halvings).unwrap_or(3);
        let least = (self.max_proof_bytes as u64).min(self.window_bytes);
        v1::Window {
            proofs: (self.window_proofs >> halvings).max(1),
            bytes: (self.window_bytes >> halvings).max(least),
        }
    }

    /// Whether an agent that was told this window is to be told another one: a smaller one at once, a larger one when there is room for good.
    #[must_use]
    pub fn window_after(&self, told: &v1::Window, free: usize) -> Option<v1::Window> {
        let now = self.window(free);
        let ample = free >= self.max_unanswered_bytes / 4 * 3;
        (now.proofs < told.proofs || now.bytes < told.bytes || (ample && now != *told)).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn windows_shrink_as_the_room_fills_and_grow_back_when_it_is_ample() {
        let limits = Limits {
            max_unanswered_bytes: 1_000,
            window_bytes: 800,
            window_proofs: 4,
            max_proof_bytes: 300,
            ..Limits::default()
        };
        let window = |free| (limits.window(free).proofs, limits.window(free).bytes);
        assert_eq!([1_000, 500].map(window), [(4, 800); 2]);
        assert_eq!((window(499), window(250)), ((2, 400), (2, 400)));
        assert_eq!((window(249), window(124), window(0)), ((1, 300), (1, 300), (1, 300)), "one proof always fits");
        let (full, less) = (limits.window(1_000), limits.window(300));
        assert_eq!(limits.window_after(&full, 600), None);
        assert_eq!(limits.window_after(&full, 300), Some(less));
        assert_eq!(limits.window_after(&less, 300), None);
        assert_eq!(limits.window_after(&less, 600), None, "it may fill again at once");
        assert_eq!(limits.window_after(&less, 750), Some(full));
    }

    #[test]
    fn flag_defaults_equal_the_type_s_defaults() {
        let parsed = Program::parse_from(["program"]).limits;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Limits::default()));
        let any = Program::parse_from(["program", "--max-connection-age", "0"]).limits;
        assert_eq!(any.max_connection_age, Duration::ZERO);
    }
}

//! How long certificates are good. Pure.

use depin_domain::time::{Timestamp, Window};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Clocks at the edge run ahead or behind: certificates are good from an hour before they were made.
const SKEW: i64 = HOUR;

fn window(now: Timestamp, length: i64) -> Window {
    Window { start: now.plus(-SKEW), end: now.plus(length) }
}

/// The authority: ten years.
#[must_use]
pub fn authority(now: Timestamp) -> Window {
    window(now, 3653 * DAY)
}

/// The gateway: thirty days, renewed at two thirds.
#[must_use]
pub fn gateway(now: Timestamp) -> Window {
    window(now, 30 * DAY)
}

/// The operator's own: seven days, renewed at two thirds.
#[must_use]
pub fn operator(now: Timestamp) -> Window {
    window(now, 7 * DAY)
}

/// How long an agent's certificate is good.
pub const AGENT_MS: i64 = 30 * DAY;

/// For a question to the ledger: an hour.
#[must_use]
pub fn query(now: Timestamp) -> Window {
    window(now, HOUR)
}

/// When a connection for questions is made anew, counted from its start.
pub const QUERY_RENEWAL_MS: i64 = HOUR / 2;

/// An agent: thirty days, renewed at two thirds.
#[must_use]
pub fn agent(now: Timestamp) -> Window {
    window(now, AGENT_MS)
}

/// How often the operator looks after authorities, the gateway's certificate and its own. A look that finds nothing to do only reads.
pub const LOOK: std::time::Duration = std::time::Duration::from_secs(10);
/// When the operator renews its own, counted from the start.
pub const OWN_RENEWAL_MS: i64 = 4 * DAY;
